/* Tests of body with the chunked coding: every cut, chunks of every size, limits, what follows, budget. */
#include "body_helpers.h"

static void chunked_arrives(bool tcp, size_t len, size_t chunk, size_t limit, size_t along, size_t piece)
{
    static const char behind[] = "POST /next HTTP/1.1\r\n";
    struct bench *bench = bench_new(tcp, 64 * MIB);
    char *bytes = pattern(len);
    size_t coded, used = 0;
    char *wire = in_chunks(bytes, len, chunk, &coded);
    wire = realloc(wire, coded + sizeof behind);
    memcpy(wire + coded, behind, sizeof behind);
    size_t total = coded + sizeof behind - 1;
    CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, limit, tcp), FPRED_OK);
    char *head = malloc(along + 1);
    memcpy(head, wire, along);
    enum fpred_status status = fpred__body_feed(&bench->body, head, along, &used);
    free(head);
    if (status == FPRED_MORE) {
        CHECK_EQ(used, along);
        status = pour(bench, wire + along, total - along, piece);
        CHECK(bench->spill.len < sizeof behind);
        CHECK(memcmp(bench->spilled, behind, bench->spill.len) == 0);
        if (!tcp && piece >= total && total < 10000)
            CHECK_EQ(bench->spill.len, sizeof behind - 1);
    }
    CHECK_EQ(status, FPRED_OK);
    CHECK_EQ(bench->body.raw, coded);
    check_taken(bench, bytes, len);
    free(wire);
    free(bytes);
    bench_free(bench);
}

TEST(a_chunked_body_lands_whole_in_pieces_of_every_size)
{
    for (size_t piece = 1; piece <= 200; piece++)
        chunked_arrives(false, 150, 7, MIB, 0, piece);
    for (size_t along = 0; along <= 200; along++)
        chunked_arrives(false, 150, 40, MIB, along, SIZE_MAX);
}

TEST(chunks_of_every_size_land_whole)
{
    static const size_t chunks[] = {1, 8 * KIB, MIB};
    for (int tcp = 0; tcp < 2; tcp++)
        for (size_t i = 0; i < 3; i++) {
            size_t len = chunks[i] == 1 ? 50000 : 5 * MIB + 321;
            chunked_arrives(tcp, len, chunks[i], 64 * MIB, 0, SIZE_MAX);
            chunked_arrives(tcp, len, chunks[i], 64 * MIB, 1000, 100001);
        }
}

/* The room behind the payload is then less than what is read ahead, at the end or all the time. */
TEST(a_limit_that_is_exactly_reached_is_no_refusal)
{
    static const size_t lens[] = {1, 100, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 40000, 3 * MIB};
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
        chunked_arrives(false, lens[i], 1 + lens[i] / 3, lens[i], 0, SIZE_MAX);
        chunked_arrives(true, lens[i], lens[i], lens[i], 0, 5000);
        chunked_arrives(false, lens[i], 1 + lens[i] / 2, lens[i] + 1, lens[i] / 2, 333);
    }
}

TEST(a_chunk_beyond_the_limit_is_refused_before_it_comes)
{
    static const size_t limits[] = {0, 9, 20000};
    for (size_t i = 0; i < 3; i++) {
        struct bench *bench = bench_new(false, 64 * MIB);
        char line[32];
        size_t used, len = (size_t)sprintf(line, "%zx\r\n", limits[i] + 1);
        CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, limits[i], false), FPRED_OK);
        enum fpred_status status = fpred__body_feed(&bench->body, line, len, &used);
        CHECK_EQ(status == FPRED_MORE ? receive(bench) : status, FPRED_BODY_TOO_LARGE);
        bench_free(bench);
    }
}

TEST(many_small_chunks_beyond_the_limit_are_refused)
{
    for (size_t limit = 0; limit < 60; limit++) {
        struct bench *bench = bench_new(false, 64 * MIB);
        char *bytes = pattern(60);
        size_t coded;
        char *wire = in_chunks(bytes, 60, 1 + limit % 9, &coded);
        CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, limit, false), FPRED_OK);
        CHECK_EQ(pour(bench, wire, coded, 1 + limit % 50), FPRED_BODY_TOO_LARGE);
        free(wire);
        free(bytes);
        bench_free(bench);
    }
}

TEST(what_follows_a_refused_chunked_body_is_kept)
{
    static const char wire[] = "6\r\nabcdef\r\n0\r\n\r\nnext";
    struct bench *bench = bench_new(false, MIB);
    CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, 5, false), FPRED_OK);
    CHECK_EQ(send(bench->theirs, wire, sizeof wire - 1, 0), sizeof wire - 1);
    CHECK_EQ(receive(bench), FPRED_BODY_TOO_LARGE);
    size_t used = 99;
    fpred__body_discard(&bench->body, FPRED__FRAMING_CHUNKED, 0);
    CHECK_EQ(fpred__body_feed(&bench->body, bench->spilled, bench->spill.len, &used), FPRED_OK);
    CHECK_EQ(used, 0);
    CHECK_EQ(bench->spill.len, 4);
    CHECK(memcmp(bench->spilled, "next", bench->spill.len) == 0);
    bench_free(bench);
}

TEST(bad_framing_is_refused_wherever_it_is_seen)
{
    struct bench *bench = bench_new(false, MIB);
    size_t used;
    char bad[] = "zz\r\n";
    CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, MIB, false), FPRED_OK);
    CHECK_EQ(fpred__body_feed(&bench->body, bad, 4, &used), FPRED_BAD_CHUNK);
    fpred__body_drop(&bench->body);
    CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, MIB, false), FPRED_OK);
    CHECK_EQ(pour(bench, "3\r\nabcX\r\n", 9, SIZE_MAX), FPRED_BAD_CHUNK);
    bench_free(bench);
}

/* ---- the budget ---- */

TEST(a_chunked_body_is_charged_in_steps_of_2_mib)
{
    struct bench *bench = bench_new(false, 64 * MIB);
    size_t coded;
    char *bytes = pattern(5 * MIB), *wire = in_chunks(bytes, 5 * MIB, 4096, &coded);
    CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, 64 * MIB, false), FPRED_OK);
    CHECK_EQ(charged(bench), 0);
    for (size_t sent = 0; sent < coded;) {
        size_t now = coded - sent < 50000 ? coded - sent : 50000;
        CHECK_EQ(send(bench->theirs, wire + sent, now, 0), now);
        sent += now;
        while (receive(bench) == FPRED_MORE && bench->body.raw < sent)
            ;
        size_t held = charged(bench), filled = bench->body.received;
        CHECK_EQ(held % (2 * MIB), 0);
        CHECK(held >= filled && held <= filled + FPRED__SPILL_MIN + 2 * MIB);
    }
    check_taken(bench, bytes, 5 * MIB);
    free(wire);
    free(bytes);
    bench_free(bench);
}

TEST(a_chunked_body_over_the_budget_is_refused_and_gives_all_back)
{
    struct bench *bench = bench_new(false, 8 * MIB);
    size_t coded;
    char *bytes = pattern(5 * MIB), *wire = in_chunks(bytes, 5 * MIB, 4096, &coded);
    fpred__slab_charge_always(bench->slab, 4 * MIB);
    CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, 64 * MIB, false), FPRED_OK);
    CHECK_EQ(pour(bench, wire, coded, 50000), FPRED_OVER_BUDGET);
    CHECK_EQ(charged(bench), 8 * MIB);
    fpred__body_drop(&bench->body);
    CHECK_EQ(charged(bench), 4 * MIB);
    fpred__slab_uncharge(bench->slab, 4 * MIB);
    free(wire);
    free(bytes);
    bench_free(bench);
}

TEST(a_chunked_body_that_fits_a_small_budget_is_not_refused)
{
    struct bench *bench = bench_new(false, 3 * MIB);
    size_t coded;
    char *bytes = pattern(2 * MIB + MIB / 2), *wire = in_chunks(bytes, 2 * MIB + MIB / 2, 4096, &coded);
    CHECK_EQ(begin(bench, FPRED__FRAMING_CHUNKED, 0, 64 * MIB, false), FPRED_OK);
    CHECK_EQ(pour(bench, wire, coded, 50000), FPRED_OK);
    free(wire);
    free(bytes);
    bench_free(bench);
}

TESTS(&check__a_chunked_body_lands_whole_in_pieces_of_every_size, &check__chunks_of_every_size_land_whole,
      &check__a_limit_that_is_exactly_reached_is_no_refusal,
      &check__a_chunk_beyond_the_limit_is_refused_before_it_comes,
      &check__many_small_chunks_beyond_the_limit_are_refused, &check__what_follows_a_refused_chunked_body_is_kept,
      &check__bad_framing_is_refused_wherever_it_is_seen, &check__a_chunked_body_is_charged_in_steps_of_2_mib,
      &check__a_chunked_body_over_the_budget_is_refused_and_gives_all_back,
      &check__a_chunked_body_that_fits_a_small_budget_is_not_refused)
