/* Tests of answers in parts, byte for byte: how each kind is framed, what follows it, how one that isn't whole is cut;
 * and of what else an answer may consist of. How parts flow is server_flow_test.c's. */
#include "stage.h"

#define CHUNKED "Transfer-Encoding: chunked\r\n"
#define NO_SUCH_LENGTH FPRED_LENGTH_UNKNOWN

/* ---- how the end is told ---- */

TEST(parts_of_unknown_length_are_chunks_and_an_empty_one_sends_only_the_head)
{
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    client_asks(&client, "GET", "/x", 1);
    struct fpred_exchange *exchange = stage_take(&stage);
    begin_parts(exchange, 200, NO_SUCH_LENGTH);
    CHECK_EQ(write_text(exchange, ""), FPRED_OK);
    CHECK(client_hears_head(&client, 200, head));
    CHECK_EQ(lines_of(head, CHUNKED), 1);
    CHECK_EQ(lines_of(head, "Content-Length:") + lines_of(head, "Connection:"), 0);
    CHECK_EQ(lines_of(head, "Date: "), 1);
    CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
    CHECK(client_hears(&client, "3\r\nabc\r\n"));
    CHECK_EQ(write_text(exchange, ""), FPRED_OK); /* a chunk of no bytes would be the last one */
    CHECK_EQ(write_text(exchange, "0123456789abcdefX"), FPRED_OK);
    CHECK(client_hears(&client, "11\r\n0123456789abcdefX\r\n"));
    CHECK(fpred_exchange_rest(exchange) == FPRED_LENGTH_UNKNOWN);
    CHECK_EQ(stage_stats(&stage).running, 1);
    fpred_exchange_end(exchange, true);
    CHECK(client_hears(&client, "0\r\n\r\n"));
    CHECK(client_goes_on(&client, &stage));
    client_close(&client);
    stage_stop(&stage);
}

TEST(the_first_write_sends_head_and_bytes)
{
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    client_asks(&client, "GET", "/x", 1);
    struct fpred_exchange *exchange = stage_take(&stage);
    begin_parts(exchange, 201, NO_SUCH_LENGTH);
    CHECK_EQ(write_text(exchange, "ab"), FPRED_OK);
    CHECK(client_hears_head(&client, 201, head));
    CHECK(client_hears(&client, "2\r\nab\r\n"));
    fpred_exchange_end(exchange, true);
    CHECK(client_hears(&client, "0\r\n\r\n"));
    client_close(&client);
    stage_stop(&stage);
}

/* HTTP/1.0 has no chunks: also one that would keep the connection is told that it ends. */
TEST(an_old_client_gets_the_parts_until_the_connection_closes)
{
    static const char *const requests[] = {"GET /x HTTP/1.0\r\n\r\n",
                                           "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"};
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    for (size_t i = 0; i < 2; i++) {
        struct client client = client_of(&stage);
        CHECK(client_say(&client, requests[i]));
        struct fpred_exchange *exchange = stage_take(&stage);
        CHECK_EQ(fpred_exchange_minor_version(exchange), 0);
        begin_parts(exchange, 200, NO_SUCH_LENGTH);
        CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
        CHECK(client_hears_head(&client, 200, head));
        CHECK_EQ(lines_of(head, "Transfer-Encoding:") + lines_of(head, "Content-Length:"), 0);
        CHECK_EQ(lines_of(head, "Connection: close\r\n"), 1);
        CHECK(client_hears(&client, "abc"));
        CHECK_EQ(write_text(exchange, "de"), FPRED_OK);
        CHECK(client_hears(&client, "de"));
        fpred_exchange_end(exchange, true);
        CHECK_EQ(client_end(&client), 0);
        client_close(&client);
    }
    stage_stop(&stage);
}

TEST(a_known_length_is_told_kept_and_counted_down)
{
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (int minor_version = 0; minor_version < 2; minor_version++) {
        CHECK(client_say(&client, minor_version == 0 ? "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
                                                     : "GET /x HTTP/1.1\r\nHost: t\r\n\r\n"));
        struct fpred_exchange *exchange = stage_take(&stage);
        begin_parts(exchange, 200, 5);
        CHECK_EQ(write_text(exchange, "ab"), FPRED_OK);
        CHECK_EQ(fpred_exchange_rest(exchange), 3);
        CHECK(client_hears_head(&client, 200, head));
        CHECK_EQ(lines_of(head, "Content-Length: 5\r\n"), 1);
        CHECK_EQ(lines_of(head, "Transfer-Encoding:") + lines_of(head, "Connection: close"), 0);
        CHECK(client_hears(&client, "ab"));
        CHECK_EQ(write_text(exchange, "cde"), FPRED_OK);
        CHECK_EQ(fpred_exchange_rest(exchange), 0);
        CHECK_EQ(write_text(exchange, ""), FPRED_OK);
        fpred_exchange_end(exchange, true);
        CHECK(client_hears(&client, "cde"));
    }
    CHECK(client_goes_on(&client, &stage));
    client_close(&client);
    stage_stop(&stage);
}

TEST(a_client_that_asked_for_it_is_told_that_the_connection_ends)
{
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    CHECK(client_say(&client, "GET /x HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"));
    struct fpred_exchange *exchange = stage_take(&stage);
    begin_parts(exchange, 200, NO_SUCH_LENGTH);
    CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
    CHECK(client_hears_head(&client, 200, head));
    CHECK_EQ(lines_of(head, "Connection: close\r\n"), 1);
    CHECK(client_hears(&client, "3\r\nabc\r\n"));
    fpred_exchange_end(exchange, true);
    CHECK(client_hears(&client, "0\r\n\r\n"));
    CHECK_EQ(client_end(&client), 0);
    client_close(&client);
    stage_stop(&stage);
}

TEST(an_end_without_a_write_is_an_empty_answer)
{
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    client_asks(&client, "GET", "/x", 1);
    struct fpred_exchange *exchange = stage_take(&stage);
    begin_parts(exchange, 200, NO_SUCH_LENGTH);
    fpred_exchange_end(exchange, true);
    CHECK(client_hears_head(&client, 200, head));
    CHECK_EQ(lines_of(head, CHUNKED), 1);
    CHECK(client_hears(&client, "0\r\n\r\n"));
    client_asks(&client, "GET", "/x", 1);
    exchange = stage_take(&stage);
    begin_parts(exchange, 200, 0);
    fpred_exchange_end(exchange, true);
    CHECK(client_hears_head(&client, 200, head));
    CHECK_EQ(lines_of(head, "Content-Length: 0\r\n"), 1);
    CHECK(client_goes_on(&client, &stage));
    client_close(&client);
    stage_stop(&stage);
}

/* All sent before the first is answered; each answer is looked for where the one before it must have ended. */
TEST(pipelined_requests_are_answered_in_turn)
{
    struct stage stage;
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (int i = 0; i < 4; i++)
        CHECK(client_say(&client, "POST /exact HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc"));
    for (int i = 0; i < 4; i++) {
        struct fpred_exchange *exchange = stage_take(&stage);
        CHECK_EQ(fpred_exchange_body_bytes(exchange), 3);
        CHECK_EQ(stage_stats(&stage).queued, 0);
        if (i == 3) {
            reply_text(exchange, 200, "three");
            break;
        }
        begin_parts(exchange, 200 + i, i == 1 ? 6 : NO_SUCH_LENGTH);
        CHECK_EQ(write_text(exchange, "one"), FPRED_OK);
        CHECK_EQ(write_text(exchange, "two"), FPRED_OK);
        fpred_exchange_end(exchange, true);
    }
    CHECK(client_hears_status(&client, 200));
    char got[64];
    CHECK(client_takes(&client, got, 21) && memcmp(got, "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n", 21) == 0);
    CHECK(client_hears_status(&client, 201));
    CHECK(client_takes(&client, got, 6) && memcmp(got, "onetwo", 6) == 0);
    CHECK(client_hears_status(&client, 202));
    CHECK(client_takes(&client, got, 21) && memcmp(got, "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n", 21) == 0);
    CHECK(client_hears_status(&client, 200));
    CHECK(client_hears(&client, "three"));
    client_close(&client);
    stage_stop(&stage);
}

/* ---- answers that have no body ---- */

static const struct bodiless {
    const char *method;
    int status;
    uint64_t length;
    const char *length_field; /* NULL: there may be none */
} bodiless[] = {
    {"HEAD", 200, 6, "Content-Length: 6\r\n"},
    {"HEAD", 200, NO_SUCH_LENGTH, NULL},
    {"HEAD", 404, 0, "Content-Length: 0\r\n"},
    {"GET", 204, NO_SUCH_LENGTH, NULL},
    {"GET", 304, NO_SUCH_LENGTH, NULL},
    {"HEAD", 204, 6, NULL},
    {"GET", 204, 0, NULL},
};

static void answer_without_body(struct stage *stage, const struct bodiless *row, size_t writes)
{
    struct client client = client_of(stage);
    char head[HEAD_MAX];
    client_asks(&client, row->method, "/x", 1);
    struct fpred_exchange *exchange = stage_take(stage);
    begin_parts(exchange, row->status, row->length);
    for (size_t i = 0; i < writes && row->length != 0; i++)
        CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
    fpred_exchange_end(exchange, true);
    CHECK(client_hears_head(&client, row->status, head));
    CHECK_EQ(lines_of(head, "Content-Length:"), row->length_field != NULL);
    CHECK(row->length_field == NULL || lines_of(head, row->length_field) == 1);
    CHECK(row->status == 200 || row->status == 404 || lines_of(head, "Transfer-Encoding:") == 0);
    CHECK_EQ(lines_of(head, "Connection:"), 0);
    CHECK(client_goes_on(&client, stage));
    client_close(&client);
}

TEST(head_204_and_304_send_no_byte_of_a_body_and_keep_the_connection)
{
    struct stage stage;
    stage_open(&stage, NULL);
    for (size_t i = 0; i < sizeof bodiless / sizeof *bodiless; i++)
        for (size_t writes = 0; writes < 3; writes++)
            answer_without_body(&stage, &bodiless[i], writes);
    stage_stop(&stage);
}

/* Nothing is missing from a body that isn't sent; but a maker's own word counts. */
TEST(an_answer_without_body_is_cut_only_by_its_makers_word)
{
    struct stage stage;
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    client_asks(&client, "HEAD", "/x", 1);
    struct fpred_exchange *exchange = stage_take(&stage);
    begin_parts(exchange, 200, 6);
    fpred_exchange_end(exchange, false);
    CHECK_EQ(client_end(&client), 0);
    client_close(&client);
    stage_stop(&stage);
}

TEST(an_old_client_that_keeps_its_connection_may_ask_for_heads_alone)
{
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (int i = 0; i < 2; i++) {
        CHECK(client_say(&client, "HEAD /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        struct fpred_exchange *exchange = stage_take(&stage);
        begin_parts(exchange, 200, NO_SUCH_LENGTH);
        fpred_exchange_end(exchange, true);
        CHECK(client_hears_head(&client, 200, head));
        CHECK_EQ(lines_of(head, "Connection: keep-alive\r\n"), 1);
        CHECK_EQ(lines_of(head, "Transfer-Encoding:"), 0);
    }
    client_close(&client);
    stage_stop(&stage);
}

/* ---- answers that aren't whole ---- */

static const struct cut {
    int minor_version;
    uint64_t length;
    const char *text, *heard; /* NULL: no write at all, and not even a head */
    bool whole;               /* the maker's word */
    int end;                  /* of the connection */
} cuts[] = {
    {1, 5, "ab", "ab", true, 0},
    {1, 5, "ab", "ab", false, 0},
    {1, 5, "abcde", "abcde", false, 0},
    {1, 5, NULL, NULL, true, 0},
    {1, 0, NULL, NULL, false, 0},
    {1, NO_SUCH_LENGTH, "ab", "2\r\nab\r\n", false, 0},
    {1, NO_SUCH_LENGTH, "", "", false, 0},
    {1, NO_SUCH_LENGTH, NULL, NULL, false, 0},
    {0, 5, "ab", "ab", true, 0},
    {0, NO_SUCH_LENGTH, "ab", "ab", false, ECONNRESET},
    {0, NO_SUCH_LENGTH, "", "", false, ECONNRESET},
};

TEST(an_answer_that_is_not_whole_cuts_the_connection)
{
    struct stage stage;
    stage_open(&stage, NULL);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        const struct cut *cut = &cuts[i];
        struct client client = client_of(&stage);
        client_asks(&client, "GET", "/x", cut->minor_version);
        struct fpred_exchange *exchange = stage_take(&stage);
        begin_parts(exchange, 200, cut->length);
        if (cut->text != NULL) {
            CHECK_EQ(write_text(exchange, cut->text), FPRED_OK);
            CHECK(client_hears_status(&client, 200));
            CHECK(client_hears(&client, cut->heard));
        }
        fpred_exchange_end(exchange, cut->whole);
        CHECK_EQ(client_end(&client), cut->end);
        CHECK(COMES_TRUE(stage_is_empty(&stage)));
        client_close(&client);
    }
    stage_stop(&stage);
}

/* ---- what else an answer may consist of ---- */

TEST(many_parts_of_one_reply_are_sent_in_order_with_its_reason)
{
    enum { PARTS = 2500 }; /* more than one writev takes */
    struct stage stage;
    static struct fpred_slice parts[PARTS];
    char head[HEAD_MAX], *bytes = random_bytes(PARTS * 7, 1), *got = malloc(PARTS * 7);
    size_t len = 0;
    for (size_t i = 0; i < PARTS; len += parts[i++].len)
        parts[i] = (struct fpred_slice){bytes + len, i % 8}; /* also empty ones */
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (int copy = 0; copy < 2; copy++) {
        struct fpred_reply reply = {
            .status = 200, .reason = {"As you like", 11}, .parts = parts, .part_count = PARTS, .copy = copy};
        client_asks(&client, "GET", "/x", 1);
        CHECK_EQ(fpred_exchange_reply(stage_take(&stage), &reply), FPRED_OK);
        CHECK(client_hears_head(&client, 200, head));
        CHECK(strncmp(head, "HTTP/1.1 200 As you like\r\n", 26) == 0);
        CHECK(client_takes(&client, got, len) && memcmp(got, bytes, len) == 0);
    }
    CHECK(client_goes_on(&client, &stage));
    client_close(&client);
    stage_stop(&stage);
    free(bytes);
    free(got);
}

TEST(a_date_that_the_handler_gives_is_the_only_one)
{
    const struct fpred_field fields[] = {{{"X-First", 7}, {"1", 1}}, {{"dAtE", 4}, {"yesterday", 9}}};
    struct fpred_reply reply = {.status = 200, .fields = fields, .field_count = 2};
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    for (size_t count = 1; count <= 2; count++) {
        client_asks(&client, "GET", "/x", 1);
        reply.field_count = count;
        CHECK_EQ(fpred_exchange_reply(stage_take(&stage), &reply), FPRED_OK);
        CHECK(client_hears_head(&client, 200, head));
        CHECK_EQ(lines_of(head, "Date: "), count == 1);
        CHECK_EQ(lines_of(head, "dAtE: yesterday\r\n"), count == 2);
        CHECK_EQ(lines_of(head, "X-First: 1\r\n"), 1);
        CHECK_EQ(lines_of(head, "Content-Length: 0\r\n"), 1);
    }
    client_close(&client);
    stage_stop(&stage);
}

/* Head and body of several parts: some in the request's own slot, one with an owner. Both come back, the owner once. */
TEST(slot_and_owner_of_one_reply_both_come_back)
{
    struct stage stage;
    char owner[] = "owned";
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    CHECK(client_post(&client, "/exact", "request", 7));
    struct fpred_exchange *exchange = stage_take(&stage);
    struct fpred_slot *slot = fpred_exchange_take_slot(exchange);
    const struct fpred_slice parts[] = {{fpred_slot_payload(slot), 7}, {" ", 1}, {owner, 5}};
    struct fpred_reply reply = {.status = 200, .parts = parts, .part_count = 3, .slot = slot, .owner = owner};
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
    CHECK(client_hears_status(&client, 200));
    CHECK(client_hears(&client, "request owned"));
    void *back = NULL;
    CHECK(COMES_TRUE((back = fpred_server_reap(stage.server)) != NULL));
    CHECK(back == owner);
    CHECK(fpred_server_reap(stage.server) == NULL);
    client_close(&client);
    stage_stop(&stage);
}

/* An answer in parts takes reason and fields from its head, and nothing else of it. */
TEST(the_head_of_an_answer_in_parts_is_copied)
{
    char name[] = "X-Name", value[] = "value", reason[] = "Made up";
    const struct fpred_field field = {{name, 6}, {value, 5}};
    struct fpred_reply reply = {.status = 299, .reason = {reason, 7}, .fields = &field, .field_count = 1};
    struct stage stage;
    char head[HEAD_MAX];
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    client_asks(&client, "GET", "/x", 1);
    struct fpred_exchange *exchange = stage_take(&stage);
    CHECK_EQ(fpred_exchange_begin(exchange, &reply, NO_SUCH_LENGTH), FPRED_OK);
    memset(name, 'n', 6);
    memset(value, 'v', 5);
    memset(reason, 'r', 7);
    CHECK_EQ(write_text(exchange, "a"), FPRED_OK);
    CHECK(client_hears_head(&client, 299, head));
    CHECK(strncmp(head, "HTTP/1.1 299 Made up\r\n", 22) == 0);
    CHECK_EQ(lines_of(head, "X-Name: value\r\n"), 1);
    fpred_exchange_end(exchange, true);
    CHECK(client_hears(&client, "1\r\na\r\n0\r\n\r\n"));
    client_close(&client);
    stage_stop(&stage);
}

TESTS(&check__parts_of_unknown_length_are_chunks_and_an_empty_one_sends_only_the_head,
      &check__the_first_write_sends_head_and_bytes, &check__an_old_client_gets_the_parts_until_the_connection_closes,
      &check__a_known_length_is_told_kept_and_counted_down,
      &check__a_client_that_asked_for_it_is_told_that_the_connection_ends,
      &check__an_end_without_a_write_is_an_empty_answer, &check__pipelined_requests_are_answered_in_turn,
      &check__head_204_and_304_send_no_byte_of_a_body_and_keep_the_connection,
      &check__an_answer_without_body_is_cut_only_by_its_makers_word,
      &check__an_old_client_that_keeps_its_connection_may_ask_for_heads_alone,
      &check__an_answer_that_is_not_whole_cuts_the_connection,
      &check__many_parts_of_one_reply_are_sent_in_order_with_its_reason,
      &check__a_date_that_the_handler_gives_is_the_only_one, &check__slot_and_owner_of_one_reply_both_come_back,
      &check__the_head_of_an_answer_in_parts_is_copied)
