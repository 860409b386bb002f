/* Tests of exchange: what it copies, each kind of a reply's memory, and parts that come back. */
#include <pthread.h>

#include "exchange_helpers.h"

static bool is(struct fpred_slice slice, const char *text)
{
    return slice.base != NULL && slice.len == strlen(text) && memcmp(slice.base, text, slice.len) == 0;
}

/* The one exchange that was posted, WRITING now. */
static struct fpred_exchange *posted(struct fpred__mailbox *mailbox)
{
    struct fpred_exchange *exchange = fpred__mailbox_drain(mailbox);
    CHECK(exchange != NULL && exchange->next == NULL);
    CHECK_EQ(exchange->state, FPRED__WRITING);
    return exchange;
}

TEST(everything_is_copied_from_the_head)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct parsed *parsed = malloc(sizeof *parsed);
    parse(parsed, "\r\nPOST /a%20b?x=%20y HTTP/1.1\r\nHost: h\r\nX-Empty:\r\nX-Two:  two words \r\n\r\n");
    struct fpred_exchange *exchange = fpred__exchange_new(mailbox, &parsed->head, parsed->bytes, "[::1]:80");
    memset(parsed, 'x', sizeof *parsed);
    free(parsed);
    size_t count;
    const struct fpred_field *fields = fpred_exchange_fields(exchange, &count);
    CHECK(is(fpred_exchange_method(exchange), "POST"));
    CHECK(is(fpred_exchange_path(exchange), "/a b"));
    CHECK(is(fpred_exchange_query(exchange), "x=%20y"));
    CHECK(strcmp(fpred_exchange_client(exchange), "[::1]:80") == 0);
    CHECK_EQ(count, 3);
    CHECK(is(fields[0].name, "Host") && is(fields[0].value, "h"));
    CHECK(is(fields[1].name, "X-Empty") && fields[1].value.len == 0);
    CHECK(is(fields[2].name, "X-Two") && is(fields[2].value, "two words"));
    CHECK_EQ(exchange->state, FPRED__RECEIVING);
    CHECK(!fpred_exchange_is_gone(exchange));
    fpred__exchange_free(exchange);
    fpred__mailbox_release(mailbox);
}

TEST(no_query_is_no_slice_and_a_long_client_is_cut)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct parsed parsed;
    char client[200];
    memset(client, 'c', sizeof client);
    client[199] = '\0';
    parse(&parsed, "POST / HTTP/1.0\r\n\r\n");
    struct fpred_exchange *exchange = fpred__exchange_new(mailbox, &parsed.head, parsed.bytes, client);
    CHECK(fpred_exchange_query(exchange).base == NULL);
    CHECK_EQ(strlen(fpred_exchange_client(exchange)), sizeof exchange->client - 1);
    fpred__exchange_free(exchange);
    fpred__mailbox_release(mailbox);
}

TEST(the_slot_is_taken_once_and_otherwise_goes_with_the_exchange)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    for (int taken = 0; taken < 2; taken++) {
        struct fpred_exchange *exchange = exchange_new(mailbox);
        CHECK_EQ(fpred__slab_take(fpred__mailbox_slab(mailbox), 10, &exchange->slot), FPRED_OK);
        exchange->body_bytes = 10;
        struct fpred_slot *slot = taken ? fpred_exchange_take_slot(exchange) : NULL;
        CHECK(!taken || fpred_exchange_take_slot(exchange) == NULL);
        CHECK_EQ(fpred_exchange_body_bytes(exchange), 10);
        fpred__exchange_free(exchange);
        CHECK_EQ(slots_out(mailbox), taken);
        if (taken)
            fpred_slot_release(slot);
    }
    fpred__mailbox_release(mailbox);
}

TEST(a_copied_reply_needs_nothing_of_the_callers)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_running(mailbox);
    char name[] = "X-Name", value[] = "value", body[] = "body";
    struct fpred_field fields[2] = {{{name, 6}, {value, 5}}, {{name, 6}, {value, 0}}};
    char reason[] = "Made it";
    struct fpred_slice parts[2] = {{body, 3}, {body + 3, 1}};
    struct fpred_reply reply = {.status = 201,
                                .reason = {reason, 7},
                                .fields = fields,
                                .field_count = 2,
                                .parts = parts,
                                .part_count = 2,
                                .copy = true};
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
    memset(name, 'n', 6);
    memset(value, 'v', 5);
    memset(body, 'b', 4);
    memset(reason, 'r', 7);
    memset(parts, 0, sizeof parts);
    exchange = posted(mailbox);
    CHECK_EQ(exchange->reply_status, 201);
    CHECK_EQ(exchange->reply_field_count, 2);
    CHECK(is(exchange->reply_fields[0].name, "X-Name") && is(exchange->reply_fields[0].value, "value"));
    CHECK(is(exchange->reply_fields[1].name, "X-Name") && exchange->reply_fields[1].value.len == 0);
    CHECK(strcmp(exchange->reply_reason, "Made it") == 0);
    CHECK_EQ(exchange->reply_part_count, 2);
    CHECK_EQ(exchange->reply_bytes, 4);
    CHECK(is(exchange->reply_parts[0], "bod") && is(exchange->reply_parts[1], "y"));
    fpred__mailbox_finish(mailbox, exchange);
    CHECK(fpred__mailbox_reap(mailbox) == NULL);
    fpred__mailbox_release(mailbox);
}

TEST(an_empty_reply_is_fine)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_reply reply = {.status = 204};
    CHECK_EQ(fpred_exchange_reply(exchange_running(mailbox), &reply), FPRED_OK);
    struct fpred_exchange *exchange = posted(mailbox);
    CHECK_EQ(exchange->reply_bytes, 0);
    CHECK(exchange->reply_reason == NULL);
    fpred__mailbox_finish(mailbox, exchange);
    fpred__mailbox_release(mailbox);
}

TEST(a_reply_in_a_slot_gives_it_back_when_it_is_written)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_running(mailbox);
    struct fpred_slot *slot;
    CHECK_EQ(fpred_exchange_reply_slot(exchange, 100000, &slot), FPRED_OK);
    memset(fpred_slot_payload(slot), 'r', 100000);
    struct fpred_slice part = {fpred_slot_payload(slot) + 5, 99000};
    struct fpred_reply reply = {.status = 200, .parts = &part, .part_count = 1, .slot = slot};
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
    exchange = posted(mailbox);
    CHECK(exchange->reply_parts[0].base == fpred_slot_payload(slot) + 5);
    CHECK_EQ(slots_out(mailbox), 1);
    fpred__mailbox_finish(mailbox, exchange);
    CHECK_EQ(slots_out(mailbox), 0);
    CHECK(fpred__mailbox_reap(mailbox) == NULL);
    fpred__mailbox_release(mailbox);
}

TEST(a_reply_slot_that_cannot_be_had_is_said)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_running(mailbox);
    struct fpred_slot *slot;
    struct fpred_reply reply = {.status = 500};
    fpred__slab_fail(fpred__mailbox_slab(mailbox), 0, 1);
    CHECK_EQ(fpred_exchange_reply_slot(exchange, 100000, &slot), FPRED_NOMEM);
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
    fpred__mailbox_finish(mailbox, posted(mailbox));
    fpred__mailbox_release(mailbox);
}

TEST(an_owner_comes_back_once_and_the_bodys_slot_at_once)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_running(mailbox);
    int owner;
    CHECK_EQ(fpred__slab_take(fpred__mailbox_slab(mailbox), 10, &exchange->slot), FPRED_OK);
    reply_with_owner(exchange, &owner);
    exchange = posted(mailbox);
    CHECK(exchange->reply_parts[0].base == (const char *)&owner);
    CHECK(fpred__mailbox_reap(mailbox) == NULL);
    fpred__mailbox_finish(mailbox, exchange);
    CHECK_EQ(slots_out(mailbox), 0);
    CHECK(fpred__mailbox_reap(mailbox) == &owner);
    CHECK(fpred__mailbox_reap(mailbox) == NULL);
    fpred__mailbox_release(mailbox);
}

/* ---- an answer in parts; the loop's side is this thread's ---- */

struct writer {
    struct fpred_exchange *exchange;
    const char *bytes;
    size_t len;
    enum fpred_status status;
};

static void *write_part(void *argument)
{
    struct writer *writer = argument;
    writer->status = fpred_exchange_write(writer->exchange, writer->bytes, writer->len);
    return NULL;
}

/* Writes on another thread; the part as the loop sees it, then what the loop says comes back to the writer. */
static void pass_part(struct fpred__mailbox *mailbox, struct writer *writer, enum fpred_status status)
{
    struct fpred_exchange *exchange;
    pthread_t thread;
    pthread_create(&thread, NULL, write_part, writer);
    while ((exchange = fpred__mailbox_drain(mailbox)) == NULL)
        ;
    CHECK(exchange == writer->exchange);
    CHECK_EQ(exchange->state, FPRED__WRITING);
    CHECK(!exchange->last);
    CHECK(exchange->part.base == writer->bytes); /* lent, not copied */
    CHECK_EQ(exchange->part.len, writer->len);
    CHECK_EQ(fpred__mailbox_running(mailbox), 1);
    exchange->part_charged = writer->len;
    fpred__slab_charge_always(fpred__mailbox_slab(mailbox), writer->len);
    if (status == FPRED_OK)
        fpred__exchange_return(exchange, FPRED_OK);
    else
        fpred__mailbox_finish(mailbox, exchange);
    pthread_join(thread, NULL);
    CHECK_EQ(writer->status, status);
    CHECK_EQ(exchange->state, FPRED__RUNNING);
    struct fpred__slab_stats stats;
    fpred__slab_stats(fpred__mailbox_slab(mailbox), &stats);
    CHECK_EQ(stats.charged_bytes, 0);
}

TEST(each_part_is_lent_to_the_loop_and_comes_back)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_running(mailbox);
    struct writer writer = {.exchange = exchange, .bytes = "abcdef", .len = 6};
    struct fpred_slice part = {"not looked at", 13};
    int owner;
    struct fpred_reply head = {.status = 200, .parts = &part, .part_count = 1, .owner = &owner};
    CHECK_EQ(fpred_exchange_begin(exchange, &head, 10), FPRED_OK);
    CHECK_EQ(fpred_exchange_rest(exchange), 10);
    pass_part(mailbox, &writer, FPRED_OK);
    CHECK_EQ(fpred_exchange_rest(exchange), 4);
    writer.len = 0;
    pass_part(mailbox, &writer, FPRED_OK);
    CHECK_EQ(fpred_exchange_rest(exchange), 4);
    writer.len = 4;
    pass_part(mailbox, &writer, FPRED_CLOSED); /* the loop finishes what isn't the last */
    fpred_exchange_end(exchange, true);
    CHECK(posted(mailbox) == exchange);
    CHECK(exchange->last && exchange->whole);
    CHECK_EQ(exchange->part.len, 0);
    CHECK_EQ(fpred__mailbox_running(mailbox), 0);
    fpred__mailbox_finish(mailbox, exchange);
    CHECK(fpred__mailbox_reap(mailbox) == NULL); /* no owner was taken */
    fpred__mailbox_release(mailbox);
}

TEST(an_answer_is_whole_by_its_makers_word_and_its_length)
{
    static const struct {
        uint64_t length;
        bool word, whole;
    } rows[] = {{FPRED_LENGTH_UNKNOWN, true, true},
                {FPRED_LENGTH_UNKNOWN, false, false},
                {0, true, true},
                {0, false, false},
                {1, true, false},
                {1, false, false}};
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_reply head = {.status = 200};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct fpred_exchange *exchange = exchange_running(mailbox);
        CHECK_EQ(fpred_exchange_begin(exchange, &head, rows[i].length), FPRED_OK);
        fpred_exchange_end(exchange, rows[i].word);
        exchange = posted(mailbox);
        CHECK(exchange->last);
        CHECK_EQ(exchange->whole, rows[i].whole);
        fpred__mailbox_finish(mailbox, exchange);
    }
    fpred__mailbox_release(mailbox);
}

TEST(a_part_for_a_closed_mailbox_comes_back_at_once)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_running(mailbox);
    struct fpred_reply head = {.status = 200};
    CHECK_EQ(fpred_exchange_begin(exchange, &head, FPRED_LENGTH_UNKNOWN), FPRED_OK);
    fpred__mailbox_close(mailbox);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(fpred_exchange_write(exchange, "abc", 3), FPRED_CLOSED);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 1), FPRED_OK); /* one is outside */
    fpred__mailbox_release(mailbox);
    fpred_exchange_end(exchange, true); /* and the last that goes takes the mailbox along */
}

TEST(an_exchange_keeps_mailbox_and_slab_alive)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_new(mailbox);
    CHECK_EQ(fpred__slab_take(fpred__mailbox_slab(mailbox), 10, &exchange->slot), FPRED_OK);
    struct fpred_slot *slot = fpred_exchange_take_slot(exchange);
    fpred__mailbox_release(mailbox);
    CHECK_EQ(slots_out(exchange->mailbox), 1);
    fpred__exchange_free(exchange);
    memset(fpred_slot_payload(slot), 's', 10);
    fpred_slot_release(slot);
}

TESTS(&check__everything_is_copied_from_the_head, &check__no_query_is_no_slice_and_a_long_client_is_cut,
      &check__the_slot_is_taken_once_and_otherwise_goes_with_the_exchange,
      &check__a_copied_reply_needs_nothing_of_the_callers, &check__an_empty_reply_is_fine,
      &check__a_reply_in_a_slot_gives_it_back_when_it_is_written, &check__a_reply_slot_that_cannot_be_had_is_said,
      &check__an_owner_comes_back_once_and_the_bodys_slot_at_once, &check__each_part_is_lent_to_the_loop_and_comes_back,
      &check__an_answer_is_whole_by_its_makers_word_and_its_length,
      &check__a_part_for_a_closed_mailbox_comes_back_at_once, &check__an_exchange_keeps_mailbox_and_slab_alive)
