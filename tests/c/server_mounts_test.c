/* Tests of mounts, routes of any body and control routes in a whole server: who is asked, with what, and when. */
#include "stage.h"

/* ---- mounts ---- */

static const struct asking {
    const char *method, *target;
    size_t route;
} askings[] = {
    {"GET", "/", AT_ROOT},
    {"GET", "/deep", AT_DEEP},
    {"PUT", "/deep/", AT_DEEP},
    {"DELETE", "/deep/x?y=z", AT_DEEP},
    {"GET", "/deepx", AT_ROOT},
    {"GET", "/deep/deepe", AT_DEEP},
    {"BREW", "/deep/deeper", AT_DEEPER},
    {"PATCH", "/deep/deeper/x/y", AT_DEEPER},
    {"GET", "/deep/deeperx", AT_DEEP},
    {"OPTIONS", "/deep", AT_DEEP},
    {"OPTIONS", "/anything", AT_ROOT},
    {"GET", "/exact/", AT_ROOT},
    {"POST", "/exact", AT_EXACT},
};

TEST(a_mount_is_asked_for_its_paths_by_any_method)
{
    struct stage stage;
    char text[32];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (size_t i = 0; i < sizeof askings / sizeof *askings; i++) {
        client_asks(&client, askings[i].method, askings[i].target, 1);
        struct fpred_exchange *exchange = stage_take(&stage);
        CHECK_EQ(fpred_exchange_route(exchange), askings[i].route);
        CHECK(slice_is(fpred_exchange_method(exchange), askings[i].method));
        CHECK(slice_is(fpred_exchange_target(exchange), askings[i].target));
        CHECK_EQ(fpred_exchange_minor_version(exchange), 1);
        CHECK_EQ(fpred_exchange_body_bytes(exchange), 0);
        snprintf(text, sizeof text, "answer %zu", i);
        reply_text(exchange, 200, text);
        CHECK(client_hears_status(&client, 200));
        CHECK(client_hears(&client, text));
    }
    client_close(&client);
    stage_stop(&stage);
}

TEST(what_the_loop_answers_by_itself_is_not_given_to_a_mount)
{
    struct stage stage;
    stage_open(&stage, NULL);
    CHECK_EQ(status_of(stage.port, "GET /livez HTTP/1.1\r\nHost: t\r\n\r\n"), 200);
    CHECK_EQ(status_of(stage.port, "GET /readyz HTTP/1.1\r\nHost: t\r\n\r\n"), 200);
    CHECK_EQ(status_of(stage.port, "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n"), 204);
    CHECK_EQ(status_of(stage.port, "OPTIONS /exact HTTP/1.1\r\nHost: t\r\n\r\n"), 204);
    CHECK_EQ(status_of(stage.port, "GET /exact HTTP/1.1\r\nHost: t\r\n\r\n"), 405);
    CHECK_EQ(stage_stats(&stage).queued, 0);
    stage_stop(&stage);
}

/* Where nothing is mounted at the root, what no mount covers is 404, also for `OPTIONS *`'s sake. */
TEST(what_no_mount_covers_is_not_found)
{
    const struct fpred_route route = {.path = "/deep", .mount = true, .expected = ""};
    struct fpred_config config = config_for_tests();
    struct stage stage = {.descriptors = open_descriptors()};
    const char *detail;
    CHECK_EQ(fpred_server_new(&config, &route, 1, &stage.server), FPRED_OK);
    CHECK_EQ(fpred_server_listen_tcp(stage.server, "127.0.0.1", 0, &stage.port, &detail), FPRED_OK);
    CHECK_EQ(fpred_server_start(stage.server), FPRED_OK);
    CHECK_EQ(status_of(stage.port, "GET /deepx HTTP/1.1\r\nHost: t\r\n\r\n"), 404);
    CHECK_EQ(status_of(stage.port, "GET / HTTP/1.1\r\nHost: t\r\n\r\n"), 404);
    CHECK_EQ(status_of(stage.port, "GET /v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n"), 404);
    CHECK_EQ(status_of(stage.port, "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n"), 204);
    CHECK_EQ(status_of(stage.port, "GET /deep HTTP/1.1\r\nHost: t\r\n\r\n"), 503); /* it isn't ready */
    stage_stop(&stage);
}

static const char *const any_bodies[] = {
    "Content-Type: text/weird\r\nContent-Length: 5\r\n\r\nabcde",
    "Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
    "Content-Type: application/x-npy\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
};

TEST(mounts_and_routes_of_any_body_take_any_body)
{
    struct stage stage;
    char request[512];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (size_t i = 0; i < 2 * sizeof any_bodies / sizeof *any_bodies; i++) {
        snprintf(request, sizeof request, "POST %s HTTP/1.1\r\nHost: t\r\n%s", i % 2 == 0 ? "/exact" : "/deep/x",
                 any_bodies[i / 2]);
        CHECK(client_say(&client, request));
        struct fpred_exchange *exchange = stage_take(&stage);
        CHECK_EQ(fpred_exchange_body_bytes(exchange), 5);
        struct fpred_slot *slot = fpred_exchange_take_slot(exchange);
        CHECK(memcmp(fpred_slot_payload(slot), "abcde", 5) == 0);
        fpred_slot_release(slot);
        reply_text(exchange, 200, "fine");
        CHECK(client_hears_status(&client, 200));
        CHECK(client_hears(&client, "fine"));
    }
    client_close(&client);
    stage_stop(&stage);
}

/* The tensors behind the JSON are what must be aligned. A hint that can't be one does no harm. */
TEST(binary_tensors_behind_json_are_aligned)
{
    static const char *const hints[] = {"0", "1", "63", "64", "65", "117", "9999999999999999999999", "x", "-5", ""};
    struct stage stage;
    char request[512];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        snprintf(request, sizeof request,
                 "POST /deep HTTP/1.1\r\nHost: t\r\nInference-Header-Content-Length: %s\r\nContent-Length: "
                 "200\r\n\r\n%0200d",
                 hints[i], 7);
        CHECK(client_say(&client, request));
        struct fpred_exchange *exchange = stage_take(&stage);
        struct fpred_slot *slot = fpred_exchange_take_slot(exchange);
        char *payload = fpred_slot_payload(slot);
        CHECK(i > 5 || ((uintptr_t)payload + strtoul(hints[i], NULL, 10)) % 64 == 0);
        CHECK_EQ(payload[199], '7');
        payload[200] = '\0';
        CHECK_EQ(strlen(payload), 200);
        fpred_slot_release(slot);
        reply_text(exchange, 200, "");
        CHECK(client_hears_status(&client, 200));
    }
    client_close(&client);
    stage_stop(&stage);
}

/* ---- control routes ---- */

TEST(a_control_route_is_for_the_control_thread_alone_ready_or_not)
{
    struct stage stage;
    struct fpred_exchange *exchange;
    stage_open_unready(&stage, NULL);
    struct client client = client_of(&stage), other = client_of(&stage);
    CHECK_EQ(fpred_server_take_control(stage.server, &exchange), FPRED_MORE);
    for (int ready = 0; ready < 2; ready++) {
        client_asks(&client, "GET", "/v2/models?x=y", 1);
        exchange = stage_take_control(&stage);
        CHECK_EQ(fpred_exchange_route(exchange), AT_V2);
        CHECK(slice_is(fpred_exchange_path(exchange), "/v2/models"));
        CHECK(slice_is(fpred_exchange_query(exchange), "x=y"));
        CHECK_EQ(stage_stats(&stage).running, 1);
        reply_text(exchange, 200, "models");
        CHECK(client_hears_status(&client, 200));
        CHECK(client_hears(&client, "models"));
        client_asks(&other, "GET", "/deep", 1);
        if (ready)
            reply_text(stage_take(&stage), 200, "");
        CHECK_EQ(client_status(&other), ready ? 200 : 503);
        CHECK_EQ(fpred_server_take_control(stage.server, &exchange), FPRED_MORE);
        CHECK_EQ(stage_stats(&stage).queued, 0);
        fpred_server_set_ready(stage.server);
    }
    client_close(&client);
    client_close(&other);
    stage_stop(&stage);
}

static void *control_main_of_stage(void *argument)
{
    struct stage *stage = argument;
    struct fpred_exchange *exchange;
    while (fpred_server_control(stage->server) == FPRED_OK)
        while (fpred_server_take_control(stage->server, &exchange) == FPRED_OK)
            reply_text(exchange, 200, "control");
    return NULL;
}

/* Its thread sleeps for up to a second where nobody wakes it: eight sleeps would take that many. The predict threads
 * are busy, their queue is full. */
TEST(the_control_thread_is_woken_while_every_predict_thread_is_busy)
{
    struct fpred_config config = config_for_tests();
    config.max_queued_requests = 1;
    struct stage stage;
    pthread_t control;
    stage_open(&stage, &config);
    struct client busy = client_of(&stage), queued = client_of(&stage), client = client_of(&stage);
    client_asks(&busy, "GET", "/x", 1);
    struct fpred_exchange *running = stage_take(&stage);
    client_asks(&queued, "GET", "/x", 1);
    CHECK(COMES_TRUE(stage_stats(&stage).queued == 1));
    CHECK_EQ(status_of(stage.port, "GET /x HTTP/1.1\r\nHost: t\r\n\r\n"), 503);
    pthread_create(&control, NULL, control_main_of_stage, &stage);
    int64_t start_ms = now_ms();
    for (int i = 0; i < 8; i++) {
        client_asks(&client, "GET", "/v2", 1);
        CHECK(client_hears_status(&client, 200));
        CHECK(client_hears(&client, "control"));
        pause_ms(5); /* it is likely to sleep again */
    }
    CHECK(now_ms() - start_ms < 3000);
    reply_text(running, 200, "");
    reply_text(stage_take(&stage), 200, "");
    CHECK_EQ(client_status(&busy), 200);
    CHECK_EQ(client_status(&queued), 200);
    client_close(&busy);
    client_close(&queued);
    client_close(&client);
    fpred_server_stop(stage.server);
    pthread_join(control, NULL);
    stage_end(&stage);
}

static void send_body(struct client *client, const char *path, const char *body, size_t bytes, bool chunked)
{
    char head[256];
    snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\n", path,
             bytes);
    CHECK(chunked ? client_say(client, head) : client_post_head(client, path, bytes));
    CHECK(client_send(client, body, bytes));
    CHECK(!chunked || client_say(client, "\r\n0\r\n\r\n"));
}

TEST(a_body_for_control_has_a_mib_at_most)
{
    struct stage stage;
    char *body = random_bytes(FPRED_CONTROL_BODY_MAX + 1, 1);
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (int chunked = 0; chunked < 2; chunked++) {
        send_body(&client, "/v2/x", body, FPRED_CONTROL_BODY_MAX, chunked);
        struct fpred_exchange *exchange = stage_take_control(&stage);
        CHECK_EQ(fpred_exchange_body_bytes(exchange), FPRED_CONTROL_BODY_MAX);
        reply_text(exchange, 200, "");
        CHECK_EQ(client_status(&client), 200);
        send_body(&client, "/v2/x", body, FPRED_CONTROL_BODY_MAX + 1, chunked);
        CHECK_EQ(client_status(&client), 413);
        send_body(&client, "/deep", body, FPRED_CONTROL_BODY_MAX + 1, chunked); /* others may have more */
        reply_text(stage_take(&stage), 200, "");
        CHECK_EQ(client_status(&client), 200);
    }
    client_close(&client);
    stage_stop(&stage);
    free(body);
}

TEST(the_servers_own_limit_holds_for_control_where_it_is_smaller)
{
    struct fpred_config config = config_for_tests();
    config.max_request_body_bytes = 10;
    struct stage stage;
    stage_open(&stage, &config);
    CHECK_EQ(status_of(stage.port, "POST /v2 HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\n0123456789a"), 413);
    CHECK_EQ(
        status_of(stage.port,
                  "POST /v2 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n"),
        413);
    stage_stop(&stage);
}

TEST(a_client_of_control_that_leaves_takes_its_request_along)
{
    struct stage stage;
    struct fpred_exchange *exchange, *none;
    stage_open(&stage, NULL);
    struct client first = client_of(&stage), second = client_of(&stage);
    CHECK(client_post(&first, "/v2/a", "abc", 3));
    CHECK(COMES_TRUE(stage_stats(&stage).slab.charged_bytes == 3));
    CHECK(client_post(&second, "/v2/b", "abcd", 4));
    CHECK(COMES_TRUE(stage_stats(&stage).slab.charged_bytes == 7));
    client_abort(&first);
    CHECK(COMES_TRUE(stage_stats(&stage).slab.charged_bytes == 4));
    exchange = stage_take_control(&stage);
    CHECK(slice_is(fpred_exchange_path(exchange), "/v2/b"));
    CHECK_EQ(fpred_server_take_control(stage.server, &none), FPRED_MORE);
    CHECK_EQ(stage_stats(&stage).slab.out_slots, 1);
    reply_text(exchange, 200, "");
    CHECK_EQ(client_status(&second), 200);
    client_close(&second);
    stage_stop(&stage);
}

TEST(the_queue_of_control_is_bounded_by_number_and_time)
{
    struct fpred_config config = config_for_tests();
    config.max_queued_requests = 2;
    config.queue_timeout_ms = 300;
    struct stage stage;
    struct client clients[2];
    struct fpred_exchange *exchange;
    stage_open(&stage, &config);
    for (size_t i = 0; i < 2; i++) {
        clients[i] = client_of(&stage);
        CHECK(client_post(&clients[i], "/v2", "x", 1));
        CHECK(COMES_TRUE(stage_stats(&stage).slab.charged_bytes == i + 1));
    }
    CHECK_EQ(status_of(stage.port, "GET /v2 HTTP/1.1\r\nHost: t\r\n\r\n"), 503);
    CHECK_EQ(status_of(stage.port, "GET /readyz HTTP/1.1\r\nHost: t\r\n\r\n"), 200);
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(client_status(&clients[i]), 504);
        client_close(&clients[i]);
    }
    CHECK_EQ(fpred_server_take_control(stage.server, &exchange), FPRED_MORE);
    stage_stop(&stage);
}

/* Control may answer in parts too; and after the end it is told that no more will come. */
TEST(control_answers_in_parts_and_sees_the_end)
{
    struct stage stage;
    struct fpred_exchange *exchange;
    stage_open(&stage, NULL);
    struct client client = client_of(&stage), late = client_of(&stage);
    client_asks(&client, "GET", "/v2", 1);
    exchange = stage_take_control(&stage);
    begin_parts(exchange, 200, FPRED_LENGTH_UNKNOWN);
    CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
    fpred_exchange_end(exchange, true);
    CHECK(client_hears_status(&client, 200));
    CHECK(client_hears(&client, "3\r\nabc\r\n0\r\n\r\n"));
    CHECK(client_post(&late, "/v2", "x", 1)); /* nobody takes it */
    CHECK(COMES_TRUE(stage_stats(&stage).slab.charged_bytes == 1));
    fpred_server_stop(stage.server);
    CHECK_EQ(fpred_server_join(stage.server, WAIT_MS), FPRED_OK);
    CHECK_EQ(fpred_server_take_control(stage.server, &exchange), FPRED_CLOSED);
    CHECK_EQ(client_end(&late), 0);
    client_close(&client);
    client_close(&late);
    stage_end(&stage);
}

TEST(a_drain_waits_for_control)
{
    struct stage stage;
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    client_asks(&client, "GET", "/v2", 1);
    CHECK(COMES_TRUE(stage_stats(&stage).requests == 1));
    fpred_server_drain(stage.server);
    CHECK_EQ(fpred_server_join(stage.server, 100), FPRED_TIMEOUT);
    reply_text(stage_take_control(&stage), 200, "last");
    CHECK(client_hears_status(&client, 200));
    CHECK(client_hears(&client, "last"));
    CHECK_EQ(client_end(&client), 0);
    client_close(&client);
    stage_end(&stage);
}

/* ---- health of the Open Inference Protocol ---- */

static bool says(struct stage *stage, const char *method, const char *path, int status, const char *body)
{
    struct client client = client_of(stage);
    client_asks(&client, method, path, 1);
    bool same = client_hears_status(&client, status) && (body == NULL || client_hears(&client, body));
    client_close(&client);
    return same;
}

/* Nobody takes anything here: the loop answers. */
TEST(v2_health_is_answered_by_the_loop)
{
    struct stage stage;
    stage_open_unready(&stage, NULL);
    CHECK(says(&stage, "GET", "/v2/health/live", 200, "{\"live\": true}\n"));
    CHECK(says(&stage, "GET", "/v2/health/ready", 503, NULL));
    fpred_server_set_ready(stage.server);
    CHECK(says(&stage, "GET", "/v2/health/live", 200, "{\"live\": true}\n"));
    CHECK(says(&stage, "GET", "/v2/health/ready", 200, "{\"ready\": true}\n"));
    CHECK(says(&stage, "HEAD", "/v2/health/ready", 200, ""));
    CHECK(says(&stage, "POST", "/v2/health/live", 405, NULL));
    CHECK(says(&stage, "OPTIONS", "/v2/health/live", 204, NULL));
    struct client client = client_of(&stage); /* what only looks like it goes to the mount */
    client_asks(&client, "GET", "/v2/health/livelong", 1);
    reply_text(stage_take_control(&stage), 200, "mount");
    CHECK_EQ(client_status(&client), 200);
    client_close(&client);
    stage_stop(&stage);
}

TESTS(&check__a_mount_is_asked_for_its_paths_by_any_method,
      &check__what_the_loop_answers_by_itself_is_not_given_to_a_mount, &check__what_no_mount_covers_is_not_found,
      &check__mounts_and_routes_of_any_body_take_any_body, &check__binary_tensors_behind_json_are_aligned,
      &check__a_control_route_is_for_the_control_thread_alone_ready_or_not,
      &check__the_control_thread_is_woken_while_every_predict_thread_is_busy,
      &check__a_body_for_control_has_a_mib_at_most, &check__the_servers_own_limit_holds_for_control_where_it_is_smaller,
      &check__a_client_of_control_that_leaves_takes_its_request_along,
      &check__the_queue_of_control_is_bounded_by_number_and_time, &check__control_answers_in_parts_and_sees_the_end,
      &check__a_drain_waits_for_control, &check__v2_health_is_answered_by_the_loop)
