/* Tests of the whole server, without Python: requests and answers, also cut, pipelined, abandoned and refused. */
#include "service.h"

#include <sched.h>

/* ---- requests and their answers ---- */

TEST(each_kind_of_reply_arrives_whole_and_its_memory_comes_back)
{
    static const size_t sizes[] = {0, 1, 4, 4096, 100000, 3 * MIB + 1};
    struct service service;
    struct client client;
    service_start(&service, NULL);
    CHECK(client_connect(&client, service.port));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *body = random_bytes(sizes[i], (unsigned)i + 1);
        CHECK(client_post(&client, "/sum", body, sizes[i]));
        CHECK(client_gets_sum(&client, body, sizes[i]));
        CHECK(client_post(&client, "/echo", body, sizes[i]));
        CHECK(client_gets(&client, body, sizes[i]));
        CHECK(client_post(&client, "/own", body, sizes[i]));
        CHECK(client_gets(&client, body, sizes[i]));
        free(body);
    }
    CHECK(COMES_TRUE(atomic_load(&service.back) == 6));
    CHECK(COMES_TRUE(service_stats(&service).slab.charged_bytes == 0));
    client_close(&client);
    service_stop(&service);
}

/* Requests, the statuses of their answers, and whether the connection is closed after the last. */
static const struct script {
    const char *request;
    int statuses[3];
    bool ends;
} scripts[] = {
    {"POST /sum HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhelloGET /livez HTTP/1.1\r\nHost: t\r\n\r\n",
     {200, 200},
     false},
    {"POST /sum HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n"
     "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n",
     {200, 200},
     false},
    {"POST /sum HTTP/1.1\r\nHost: t\r\nContent-Type: text/x\r\nContent-Length: 3\r\n\r\nabc"
     "GET /nowhere HTTP/1.1\r\nHost: t\r\n\r\nPUT /sum HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: "
     "chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
     {415, 404, 405},
     false},
    {"\r\nHEAD /readyz HTTP/1.0\r\n\r\n", {200}, true},
    {"POST /sum HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}, true},
    {"POST /sum HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1x\r\nab", {400}, true},
};
#define SCRIPT_COUNT (sizeof scripts / sizeof *scripts)

static bool is_head(const struct script *script)
{
    return strstr(script->request, "HEAD ") != NULL;
}

/* Whether the answers are the script's. The piece after a cut is only sent once the server had a chance to see what
 * comes before it; where it saw both at once, the cut was not tested and nothing is lost. */
static bool runs(int port, const struct script *script, size_t cut)
{
    struct client client;
    size_t len = strlen(script->request);
    int on = 1;
    bool well = client_connect(&client, port);
    setsockopt(client.fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on);
    client_send(&client, script->request, cut);
    sched_yield();
    client_send(&client, script->request + cut, len - cut);
    for (size_t i = 0; well && i < 3 && script->statuses[i] != 0; i++)
        if (is_head(script))
            well = client_fill(&client) && strncmp(client.buffer, "HTTP/1.1 200 ", 13) == 0;
        else
            well = client_status(&client) == script->statuses[i];
    if (script->ends && well) {
        client.filled = is_head(script) ? 0 : client.filled;
        shutdown(client.fd, SHUT_WR);
        well = client_is_at_end(&client);
    }
    client_close(&client);
    return well;
}

TEST(every_two_way_cut_gives_the_same_answers)
{
    struct service service;
    service_start(&service, NULL);
    for (size_t i = 0; i < SCRIPT_COUNT; i++) {
        size_t bad = 0, len = strlen(scripts[i].request);
        for (size_t cut = 0; cut <= len; cut++)
            bad += !runs(service.port, &scripts[i], cut);
        CHECK_EQ(bad, 0);
    }
    service_stop(&service);
}

TEST(single_bytes_give_the_same_answers)
{
    struct service service;
    service_start(&service, NULL);
    for (size_t i = 0; i < SCRIPT_COUNT; i++) {
        struct client client;
        CHECK(client_connect(&client, service.port));
        for (const char *byte = scripts[i].request; *byte != '\0'; byte++)
            client_send(&client, byte, 1);
        for (size_t j = 0; j < 3 && scripts[i].statuses[j] != 0 && !is_head(&scripts[i]); j++)
            CHECK_EQ(client_status(&client), scripts[i].statuses[j]);
        client_close(&client);
    }
    service_stop(&service);
}

TEST(continue_is_sent_once_and_only_when_it_was_asked_for)
{
    struct service service;
    struct client client;
    service_start(&service, NULL);
    CHECK(client_connect(&client, service.port));
    CHECK(client_say(&client, "POST /sum HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"));
    CHECK_EQ(client_status(&client), 100);
    CHECK(client_say(&client, "abc"));
    CHECK(client_gets_sum(&client, "abc", 3));
    CHECK(client_post(&client, "/sum", "abc", 3));
    CHECK(client_gets_sum(&client, "abc", 3));
    client_close(&client);
    service_stop(&service);
}

/* ---- pipelined bytes behind a chunked body ---- */

/* While a first request waits, a second one with a chunked body fills the connection's buffer; the body's end comes
 * later, with more behind it than the first request has made room for. */
TEST(a_full_buffer_leaves_room_for_what_is_pipelined_behind_a_chunked_body)
{
    struct service service;
    struct client client;
    service_start(&service, NULL);
    CHECK(client_connect(&client, service.port));
    CHECK(client_say(&client, "POST /hold HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"));
    CHECK(COMES_TRUE(atomic_load(&service.holding) == 1));
    size_t body_bytes = 100000, first = 85000;
    char *body = random_bytes(body_bytes, 1), behind[600];
    CHECK(client_say(&client, "POST /sum HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n"));
    CHECK(client_send(&client, body, first));
    pause_ms(100); /* for the server to fill its buffer, which nothing tells */
    service_open(&service);
    CHECK(client_gets_sum(&client, "", 0));
    CHECK(client_send(&client, body + first, body_bytes - first));
    snprintf(behind, sizeof behind, "\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: t\r\nX: %0400d\r\n\r\n", 0);
    CHECK(client_say(&client, behind));
    CHECK(client_gets_sum(&client, body, body_bytes));
    CHECK_EQ(client_status(&client), 200);
    client_close(&client);
    free(body);
    service_stop(&service);
}

/* A refusal and the body's end in one packet: what follows is the next request all the same. */
TEST(a_request_behind_a_chunked_body_that_was_too_large_is_answered)
{
    struct fpred_config config = config_for_tests();
    config.max_request_body_bytes = 10;
    struct service service;
    struct client client;
    service_start(&service, &config);
    CHECK(client_connect(&client, service.port));
    CHECK(client_say(&client, "POST /sum HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"));
    CHECK(COMES_TRUE(service_stats(&service).requests == 1));
    CHECK(client_say(&client, "6\r\nabcdef\r\n6\r\nghijkl\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: t\r\n\r\n"));
    CHECK_EQ(client_status(&client), 413);
    CHECK_EQ(client_status(&client), 200);
    client_close(&client);
    service_stop(&service);
}

/* ---- clients that leave ---- */

TEST(a_client_that_leaves_while_queued_never_reaches_a_handler)
{
    struct service service;
    struct client first, queued[8];
    service_start(&service, NULL);
    CHECK(client_connect(&first, service.port) && client_post(&first, "/hold", "x", 1));
    CHECK(COMES_TRUE(atomic_load(&service.holding) == 1));
    for (size_t i = 0; i < 8; i++)
        CHECK(client_connect(&queued[i], service.port) && client_post(&queued[i], "/sum", "abc", 3));
    CHECK(COMES_TRUE(service_stats(&service).queued == 8));
    for (size_t i = 0; i < 8; i += 2) {
        client_abort(&queued[i]);
        client_close(&queued[i + 1]);
    }
    CHECK(COMES_TRUE(service_stats(&service).queued == 0));
    CHECK_EQ(service_stats(&service).slab.charged_bytes, 1);
    service_open(&service);
    CHECK(client_gets_sum(&first, "x", 1));
    CHECK_EQ(atomic_load(&service.handled), 1);
    client_close(&first);
    service_stop(&service);
}

TEST(a_client_that_leaves_while_running_is_seen_and_its_reply_dropped)
{
    struct service service;
    struct client client;
    service_start(&service, NULL);
    CHECK(client_connect(&client, service.port) && client_post(&client, "/hold", "x", 1));
    CHECK(COMES_TRUE(atomic_load(&service.holding) == 1));
    client_abort(&client);
    CHECK(COMES_TRUE(service_stats(&service).connections == 0));
    service_open(&service);
    CHECK(COMES_TRUE(atomic_load(&service.saw_gone) == 1));
    CHECK(COMES_TRUE(service_stats(&service).slab.charged_bytes == 0));
    CHECK_EQ(status_of(service.port, "POST /sum HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"), 200);
    service_stop(&service);
}

TEST(an_owner_comes_back_when_its_client_takes_nothing_and_leaves)
{
    struct service service;
    struct client client;
    char *body = random_bytes(20 * MIB, 7);
    service_start(&service, NULL);
    CHECK(client_connect(&client, service.port) && client_post(&client, "/own", body, 20 * MIB));
    CHECK(COMES_TRUE(atomic_load(&service.given) == 1));
    CHECK(client_fill(&client));
    client_abort(&client);
    CHECK(COMES_TRUE(atomic_load(&service.back) == 1));
    CHECK(COMES_TRUE(service_stats(&service).slab.charged_bytes == 0));
    free(body);
    service_stop(&service);
}

TEST(uploads_cut_at_any_place_leave_nothing)
{
    struct service service;
    char *body = random_bytes(MIB, 3);
    service_start(&service, NULL);
    for (size_t i = 0; i < 100; i++) {
        struct client client;
        CHECK(client_connect(&client, service.port) && client_post_head(&client, "/sum", MIB));
        client_send(&client, body, i * 10007 % MIB);
        i % 2 == 0 ? client_abort(&client) : client_close(&client);
    }
    CHECK(COMES_TRUE(service_stats(&service).connections == 0));
    struct fpred_stats stats = service_stats(&service);
    CHECK_EQ(stats.slab.out_slots, 0);
    CHECK_EQ(stats.slab.charged_bytes, 0);
    CHECK_EQ(atomic_load(&service.handled), 0);
    free(body);
    service_stop(&service);
}

/* SO_RCVLOWAT is high by then, and hides each of the small pieces from polling. */
TEST(an_upload_that_turns_slow_is_no_timeout)
{
    struct fpred_config config = config_for_tests();
    config.read_timeout_ms = 500;
    struct service service;
    struct client client;
    char *body = random_bytes(8 * MIB, 9);
    size_t sent = 7 * MIB;
    service_start(&service, &config);
    CHECK(client_connect(&client, service.port) && client_post_head(&client, "/sum", 8 * MIB));
    CHECK(client_send(&client, body, sent));
    for (int i = 0; i < 12; i++, sent += 1000) {
        pause_ms(100);
        CHECK(client_send(&client, body + sent, 1000));
    }
    CHECK(client_send(&client, body + sent, 8 * MIB - sent));
    CHECK(client_gets_sum(&client, body, 8 * MIB));
    CHECK(client_post_head(&client, "/sum", 10) && client_say(&client, "abc"));
    CHECK_EQ(client_status(&client), 408); /* and one that stops is */
    client_close(&client);
    free(body);
    service_stop(&service);
}

/* ---- what is refused for want of room ---- */

TEST(a_full_queue_is_503_and_the_next_request_works)
{
    struct fpred_config config = config_for_tests();
    config.max_queued_requests = 2;
    struct service service;
    struct client clients[3];
    service_start(&service, &config);
    for (size_t i = 0; i < 3; i++) {
        CHECK(client_connect(&clients[i], service.port) && client_post(&clients[i], "/hold", "x", 1));
        CHECK(COMES_TRUE(i == 0 ? atomic_load(&service.holding) == 1 : service_stats(&service).queued == i));
    }
    CHECK_EQ(status_of(service.port, "POST /sum HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx"), 503);
    CHECK_EQ(status_of(service.port, "GET /readyz HTTP/1.1\r\nHost: t\r\n\r\n"), 503);
    CHECK_EQ(status_of(service.port, "GET /livez HTTP/1.1\r\nHost: t\r\n\r\n"), 200);
    service_open(&service);
    for (size_t i = 0; i < 3; i++) {
        CHECK(client_gets_sum(&clients[i], "x", 1));
        client_close(&clients[i]);
    }
    CHECK_EQ(status_of(service.port, "POST /sum HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx"), 200);
    service_stop(&service);
}

TEST(a_budget_that_is_spent_is_503_and_a_body_beyond_it_413)
{
    struct fpred_config config = config_for_tests();
    config.max_inflight_bytes = 3 * MIB;
    struct service service;
    struct client holder, client;
    service_start(&service, &config);
    CHECK(client_connect(&holder, service.port) && client_post_head(&holder, "/sum", 2 * MIB));
    CHECK(COMES_TRUE(service_stats(&service).slab.charged_bytes == 2 * MIB));
    char *body = random_bytes(4 * MIB, 5);
    CHECK(client_connect(&client, service.port));
    CHECK(client_post(&client, "/sum", body, 2 * MIB));
    CHECK_EQ(client_status(&client), 503);
    CHECK(client_post(&client, "/sum", body, 4 * MIB));
    CHECK_EQ(client_status(&client), 413);
    CHECK(client_post(&client, "/sum", body, MIB));
    CHECK(client_gets_sum(&client, body, MIB));
    client_close(&client);
    client_close(&holder);
    free(body);
    service_stop(&service);
}

TESTS(&check__each_kind_of_reply_arrives_whole_and_its_memory_comes_back,
      &check__every_two_way_cut_gives_the_same_answers, &check__single_bytes_give_the_same_answers,
      &check__continue_is_sent_once_and_only_when_it_was_asked_for,
      &check__a_full_buffer_leaves_room_for_what_is_pipelined_behind_a_chunked_body,
      &check__a_request_behind_a_chunked_body_that_was_too_large_is_answered,
      &check__a_client_that_leaves_while_queued_never_reaches_a_handler,
      &check__a_client_that_leaves_while_running_is_seen_and_its_reply_dropped,
      &check__an_owner_comes_back_when_its_client_takes_nothing_and_leaves,
      &check__uploads_cut_at_any_place_leave_nothing, &check__an_upload_that_turns_slow_is_no_timeout,
      &check__a_full_queue_is_503_and_the_next_request_works,
      &check__a_budget_that_is_spent_is_503_and_a_body_beyond_it_413)
