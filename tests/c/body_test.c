/* Tests of body: where the bytes land, however they come; bounds, budget, SO_RCVLOWAT. Under ASan nothing may be
 * written beyond a slot's NUL, since the slab poisons what lies there. Chunked bodies: body_chunked_test.c. */
#include "body_helpers.h"

/* ---- known length ---- */

static void known_arrives(bool tcp, size_t len, size_t along, size_t piece)
{
    struct bench *bench = bench_new(tcp, 64 * MIB);
    char *bytes = pattern(len + 100);
    size_t used = 99;
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, len, 0, tcp), FPRED_OK);
    CHECK_EQ(charged(bench), len);
    enum fpred_status status = fpred__body_feed(&bench->body, bytes, along, &used);
    CHECK_EQ(used, along < len ? along : len);
    if (along < len) {
        CHECK_EQ(status, FPRED_MORE);
        CHECK(!fpred__body_is_complete(&bench->body));
        status = pour(bench, bytes + along, len + 100 - along, piece);
    }
    CHECK_EQ(status, FPRED_OK);
    CHECK_EQ(bench->spill.len, 0); /* what follows stays in the socket */
    CHECK_EQ(bench->body.raw, len);
    check_taken(bench, bytes, len);
    free(bytes);
    bench_free(bench);
}

TEST(a_known_body_lands_whole_however_it_comes)
{
    static const size_t lens[] = {1, 2, 63, 64, 65, 1000, 100000, 5 * MIB + 1};
    for (int tcp = 0; tcp < 2; tcp++)
        for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
            known_arrives(tcp, lens[i], 0, SIZE_MAX);
            known_arrives(tcp, lens[i], lens[i] / 2, 70000);
            known_arrives(tcp, lens[i], lens[i] + 50, 1);
        }
    for (size_t piece = 1; piece <= 130; piece++)
        known_arrives(false, 129, 0, piece);
}

TEST(a_body_of_no_bytes_is_complete_at_once_and_has_a_slot)
{
    struct bench *bench = bench_new(false, MIB);
    CHECK_EQ(begin(bench, FPRED__FRAMING_NONE, 77, 0, false), FPRED_OK);
    check_taken(bench, "", 0);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, 0, 0, false), FPRED_OK);
    check_taken(bench, "", 0);
    bench_free(bench);
}

TEST(a_call_takes_no_more_than_its_turn)
{
    struct bench *bench = bench_new(false, 64 * MIB);
    size_t len = 12 * MIB, most = 0, before = 0;
    char *bytes = pattern(len);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, len, 0, false), FPRED_OK);
    enum fpred_status status = FPRED_MORE;
    for (size_t sent = 0; status == FPRED_MORE;) {
        ssize_t now;
        while (sent < len && (now = send(bench->theirs, bytes + sent, len - sent, MSG_NOSIGNAL)) > 0)
            sent += (size_t)now;
        status = receive(bench);
        most = bench->body.received - before > most ? bench->body.received - before : most;
        before = bench->body.received;
    }
    CHECK_EQ(status, FPRED_OK);
    CHECK(most <= FPRED__BODY_TURN);
    check_taken(bench, bytes, len);
    free(bytes);
    bench_free(bench);
}

/* ---- thrown away ---- */

TEST(discard_reads_to_the_end_of_either_framing_and_holds_nothing)
{
    size_t coded;
    char *bytes = pattern(300000), *wire = in_chunks(bytes, 300000, 1000, &coded);
    for (int chunked = 0; chunked < 2; chunked++)
        for (int begun = 0; begun < 2; begun++) {
            struct bench *bench = bench_new(false, MIB);
            enum fpred__framing framing = chunked ? FPRED__FRAMING_CHUNKED : FPRED__FRAMING_LENGTH;
            size_t len = chunked ? coded : 300000, at = 0;
            const char *from = chunked ? wire : bytes;
            if (begun) {
                CHECK_EQ(begin(bench, framing, 300000, MIB, false), FPRED_OK);
                CHECK_EQ(send(bench->theirs, from, 50000, 0), 50000);
                CHECK_EQ(receive(bench), FPRED_MORE);
                at = 50000;
            }
            fpred__body_discard(&bench->body, framing, 300000);
            CHECK_EQ(charged(bench), 0);
            CHECK_EQ(slots_out(bench), 0);
            CHECK_EQ(pour(bench, from + at, len - at, 60000), FPRED_OK);
            CHECK_EQ(bench->body.raw, len - at); /* from 0, since it is thrown away */
            CHECK_EQ(bench->body.received, 300000);
            bench_free(bench);
        }
    free(wire);
    free(bytes);
}

TEST(a_peer_that_closes_is_closed_after_what_it_sent)
{
    struct bench *bench = bench_new(false, MIB);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, 10, 0, false), FPRED_OK);
    CHECK_EQ(send(bench->theirs, "abc", 3, 0), 3);
    close(bench->theirs);
    bench->theirs = -1;
    CHECK_EQ(receive(bench), FPRED_CLOSED);
    CHECK_EQ(bench->body.received, 3);
    bench_free(bench);
}

/* ---- the budget ---- */

TEST(a_known_body_is_charged_whole_and_refused_at_its_head)
{
    struct bench *bench = bench_new(false, 3 * MIB);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, 3 * MIB + 1, 0, false), FPRED_BODY_TOO_LARGE);
    fpred__slab_charge_always(bench->slab, 2 * MIB);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, 2 * MIB, 0, false), FPRED_OVER_BUDGET);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, MIB, 0, false), FPRED_OK);
    CHECK_EQ(charged(bench), 3 * MIB);
    fpred__body_drop(&bench->body);
    fpred__slab_fail(bench->slab, 0, 1);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, 900000, 0, false), FPRED_NOMEM);
    CHECK_EQ(charged(bench), 2 * MIB);
    fpred__slab_uncharge(bench->slab, 2 * MIB);
    bench_free(bench);
}

/* ---- SO_RCVLOWAT ---- */

static int lowat_of(struct bench *bench)
{
    int value = -1;
    socklen_t len = sizeof value;
    getsockopt(bench->ours, SOL_SOCKET, SO_RCVLOWAT, &value, &len);
    return value;
}

/* Sends and receives until `upto` bytes have come; returns what the last call brought. */
static size_t bring(struct bench *bench, const char *bytes, size_t *sent, size_t upto)
{
    size_t last = 0;
    while (bench->body.received < upto) {
        ssize_t now = send(bench->theirs, bytes + *sent, upto - *sent, MSG_NOSIGNAL);
        *sent += now > 0 ? (size_t)now : 0;
        if (*sent == upto)
            usleep(2000); /* so that it is all there */
        size_t before = bench->body.received;
        receive(bench);
        last = bench->body.received - before;
        int lowat = lowat_of(bench);
        CHECK(lowat == 1 || (size_t)lowat <= bench->body.length - bench->body.received);
        CHECK(lowat == 1 || last >= FPRED__BODY_FAST);
    }
    return last;
}

TEST(lowat_rises_after_a_fast_call_and_falls_after_a_slow_one)
{
    struct bench *bench = bench_new(true, 64 * MIB);
    size_t len = 8 * MIB, sent = 0;
    char *bytes = pattern(len);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, len, 0, true), FPRED_OK);
    CHECK(bring(bench, bytes, &sent, MIB) > 0);
    bring(bench, bytes, &sent, MIB + 1000); /* a slow call */
    CHECK_EQ(lowat_of(bench), 1);
    while (lowat_of(bench) == 1 && sent < len - 2 * MIB)
        bring(bench, bytes, &sent, sent + 512 * KIB); /* in the end, one that brings 256 KiB at once */
    CHECK(lowat_of(bench) > 1);
    fpred__body_slow(&bench->body, bench->ours);
    CHECK_EQ(lowat_of(bench), 1);
    bring(bench, bytes, &sent, len);
    CHECK_EQ(lowat_of(bench), 1);
    check_taken(bench, bytes, len);
    free(bytes);
    bench_free(bench);
}

TEST(a_slow_sender_is_seen_though_lowat_was_raised)
{
    struct bench *bench = bench_new(true, 64 * MIB);
    size_t len = 8 * MIB, sent = 0;
    char *bytes = pattern(len);
    CHECK_EQ(begin(bench, FPRED__FRAMING_LENGTH, len, 0, true), FPRED_OK);
    while (lowat_of(bench) == 1 && sent < len - 2 * MIB)
        bring(bench, bytes, &sent, sent + 512 * KIB);
    CHECK(lowat_of(bench) > 1);
    CHECK_EQ(send(bench->theirs, bytes + sent, 10, 0), 10);
    size_t before = bench->body.received;
    for (int i = 0; i < 2000 && bench->body.received == before; i++) {
        fpred__body_slow(&bench->body, bench->ours); /* what the connection does at its deadline */
        CHECK_EQ(receive(bench), FPRED_MORE);
        usleep(100);
    }
    CHECK_EQ(bench->body.received, before + 10);
    CHECK_EQ(lowat_of(bench), 1);
    free(bytes);
    bench_free(bench);
}

TESTS(&check__a_known_body_lands_whole_however_it_comes, &check__a_body_of_no_bytes_is_complete_at_once_and_has_a_slot,
      &check__a_call_takes_no_more_than_its_turn, &check__discard_reads_to_the_end_of_either_framing_and_holds_nothing,
      &check__a_peer_that_closes_is_closed_after_what_it_sent,
      &check__a_known_body_is_charged_whole_and_refused_at_its_head,
      &check__lowat_rises_after_a_fast_call_and_falls_after_a_slow_one,
      &check__a_slow_sender_is_seen_though_lowat_was_raised)
