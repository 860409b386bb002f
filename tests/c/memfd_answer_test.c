/* An exchange with a client's memory: answers written there, and what becomes of one whose memory was lost. */
#include "exchange_helpers.h"
#include "memory_helpers.h"
#include "region.h"

#define ROOM ((size_t)100)

/* One that a thread has taken, with a page for the body and the second half of another for the answer. */
struct lent {
    struct fpred__mailbox *mailbox;
    struct fpred_exchange *exchange;
    int body, answer;
};

static struct lent lent_of(void)
{
    struct lent lent = {.mailbox = mailbox_new(), .body = memory_of(2 * PAGE, 0), .answer = memory_of(2 * PAGE, 0)};
    struct fpred_exchange *exchange = lent.exchange = exchange_running(lent.mailbox);
    CHECK_EQ(fpred_region_map(lent.body, 0, 2 * PAGE, false, &exchange->body_region), FPRED_OK);
    CHECK_EQ(fpred_region_map(lent.answer, 0, 2 * PAGE, true, &exchange->answer_region), FPRED_OK);
    exchange->answer_base = fpred_region_base(exchange->answer_region) + 2 * PAGE - ROOM;
    exchange->answer_bytes = ROOM;
    exchange->answer_offset = 2 * PAGE - ROOM;
    return lent;
}

/* Takes the reply, looks at it by way of `seen`, and finishes. */
static void lent_end(struct lent *lent, void (*seen)(const struct fpred_exchange *))
{
    struct fpred_exchange *posted = fpred__mailbox_drain(lent->mailbox);
    CHECK(posted == lent->exchange);
    CHECK_EQ(fpred__region_count(), 0); /* not needed for the rest */
    seen(posted);
    fpred__mailbox_finish(lent->mailbox, posted);
    fpred__mailbox_close(lent->mailbox);
    fpred__mailbox_release(lent->mailbox);
    close(lent->body);
    close(lent->answer);
}

static void reply_with(struct lent *lent, int status, const char *first, const char *second)
{
    struct fpred_slice parts[] = {{first, strlen(first)}, {second, strlen(second)}};
    struct fpred_field field = {{"A", 1}, {"b", 1}};
    struct fpred_reply reply = {
        .status = status, .fields = &field, .field_count = 1, .parts = parts, .part_count = 2, .copy = true};
    CHECK_EQ(fpred_exchange_reply(lent->exchange, &reply), FPRED_OK);
}

static bool is(struct fpred_slice slice, const char *text)
{
    return slice.len == strlen(text) && memcmp(slice.base, text, slice.len) == 0;
}

static void sees_where(const struct fpred_exchange *exchange)
{
    CHECK_EQ(exchange->reply_status, 200);
    CHECK_EQ(exchange->reply_bytes, 0);
    CHECK_EQ(exchange->reply_part_count, 0);
    CHECK_EQ(exchange->reply_field_count, 2);
    CHECK(is(exchange->reply_fields[0].name, "A"));
    CHECK(is(exchange->reply_fields[1].name, "Fastpredict-Memfd"));
    CHECK(is(exchange->reply_fields[1].value, "offset=8092; length=8"));
}

TEST(an_answer_that_fits_is_written_and_told_of)
{
    struct lent lent = lent_of();
    char got[10] = "";
    CHECK(fpred_exchange_fills_memory(lent.exchange, 200, ROOM));
    CHECK(!fpred_exchange_fills_memory(lent.exchange, 200, ROOM + 1));
    CHECK(!fpred_exchange_fills_memory(lent.exchange, 200, 0));
    CHECK(!fpred_exchange_fills_memory(lent.exchange, 204, 1));
    CHECK(!fpred_exchange_fills_memory(lent.exchange, 404, 1));
    reply_with(&lent, 200, "one", "three");
    CHECK_EQ(pread(lent.answer, got, 9, 2 * PAGE - ROOM), 9);
    CHECK(strcmp(got, "onethreex") == 0);
    lent_end(&lent, sees_where);
}

static void sees_text(const struct fpred_exchange *exchange)
{
    CHECK_EQ(exchange->reply_status, 404);
    CHECK_EQ(exchange->reply_bytes, 8);
    CHECK_EQ(exchange->reply_field_count, 1);
}

TEST(an_error_is_not)
{
    struct lent lent = lent_of();
    char got;
    reply_with(&lent, 404, "one", "three");
    CHECK_EQ(pread(lent.answer, &got, 1, 2 * PAGE - ROOM), 1);
    CHECK_EQ(got, 'x');
    lent_end(&lent, sees_text);
}

static void sees_failure(const struct fpred_exchange *exchange)
{
    CHECK_EQ(exchange->reply_status, 500);
    CHECK_EQ(exchange->reply_field_count, 1);
    CHECK(is(exchange->reply_fields[0].value, "application/json"));
    static const char sentence[] = "memory of the client went away";
    struct fpred_slice body = exchange->reply_parts[0];
    CHECK(memmem(body.base, body.len, sentence, sizeof sentence - 1) != NULL);
}

TEST(a_body_that_was_lost_fails_the_request)
{
    struct lent lent = lent_of();
    cut_to(lent.body, PAGE);
    CHECK_EQ(read_at(fpred_region_base(lent.exchange->body_region) + PAGE), 0);
    reply_with(&lent, 200, "one", "three");
    lent_end(&lent, sees_failure);
}

TEST(a_room_that_was_lost_fails_the_request)
{
    struct lent lent = lent_of();
    cut_to(lent.answer, PAGE);
    reply_with(&lent, 200, "one", "three");
    lent_end(&lent, sees_failure);
}

static void sees_cut(const struct fpred_exchange *exchange)
{
    CHECK(exchange->last && !exchange->whole);
}

TEST(an_answer_in_parts_over_lost_memory_is_cut)
{
    struct lent lent = lent_of();
    struct fpred_reply head = {.status = 200};
    cut_to(lent.body, 0);
    CHECK_EQ(fpred_exchange_begin(lent.exchange, &head, 0), FPRED_OK);
    CHECK_EQ(read_at(fpred_region_base(lent.exchange->body_region)), 0);
    fpred_exchange_end(lent.exchange, true);
    lent_end(&lent, sees_cut);
}

TESTS(&check__an_answer_that_fits_is_written_and_told_of, &check__an_error_is_not,
      &check__a_body_that_was_lost_fails_the_request, &check__a_room_that_was_lost_fails_the_request,
      &check__an_answer_in_parts_over_lost_memory_is_cut)
