/* chunked: a row per rule. Every row is decoded whole, at every two-way cut and byte by byte, each piece in a buffer of
 * exactly its size, so that ASan sees any look beyond it; payload, bytes used and status must be the same each time. */
#include "chunked.h"

#include <stdint.h>
#include <stdlib.h>

#include "check.h"

struct outcome {
    enum fpred_status status;
    size_t used;
    size_t payload_len;
    char *payload; /* room for the whole input */
};

/* Feeds one piece; what follows the body in it must still lie where it lay. */
static void feed(struct fpred__chunked *decoder, struct outcome *got, const char *bytes, size_t len)
{
    size_t payload = 99, used = 99;
    char *piece = malloc(len + (len == 0));
    memcpy(piece, bytes, len);
    got->status = fpred__chunked_decode(decoder, piece, len, &payload, &used);
    CHECK(payload <= used && used <= len);
    CHECK(used == len || got->status == FPRED_OK || got->status == FPRED_BAD_CHUNK);
    CHECK(memcmp(piece + used, bytes + used, len - used) == 0);
    memcpy(got->payload + got->payload_len, piece, payload);
    got->payload_len += payload;
    got->used += used;
    free(piece);
}

/* Pieces end at first, first + step, ..., len. */
static struct outcome decode(const char *bytes, size_t len, size_t first, size_t step)
{
    struct fpred__chunked decoder = {0};
    struct outcome got = {.status = FPRED_MORE, .payload = malloc(len + 1)};
    for (size_t from = 0, to = first < len ? first : len;; from = to, to = step < len - to ? to + step : len) {
        if (got.status == FPRED_MORE)
            feed(&decoder, &got, bytes + from, to - from);
        if (to == len)
            return got;
    }
}

static int same(const struct outcome *a, const struct outcome *b)
{
    return a->status == b->status && a->used == b->used && a->payload_len == b->payload_len &&
           memcmp(a->payload, b->payload, a->payload_len) == 0;
}

static void check_cuts(const char *rule, const char *bytes, size_t len, size_t stride)
{
    struct outcome whole = decode(bytes, len, len, len);
    for (size_t cut = 0; cut <= len; cut += stride) {
        struct outcome two = decode(bytes, len, cut, len);
        if (!same(&two, &whole)) {
            fprintf(stderr, "%s: cut at %zu: status %d after %zu, whole %d after %zu\n", rule, cut, two.status,
                    two.used, whole.status, whole.used);
            CHECK(same(&two, &whole));
        }
        free(two.payload);
    }
    struct outcome bytewise = decode(bytes, len, 1, 1);
    CHECK(same(&bytewise, &whole));
    free(bytewise.payload);
    free(whole.payload);
}

struct row {
    const char *rule;
    const char *bytes;
    size_t len;
    enum fpred_status status;
    const char *payload;
    size_t used;
};

/* An accepted body, with what follows it on the connection; a refused one; one that goes on. */
#define OK(rule, body, rest, payload)                                               \
    {                                                                               \
        rule, body rest, sizeof(body rest) - 1, FPRED_OK, payload, sizeof(body) - 1 \
    }
#define NO(rule, good, bad, payload)                                                 \
    {                                                                                \
        rule, good bad, sizeof(good bad) - 1, FPRED_BAD_CHUNK, payload, sizeof(good) \
    }
#define MORE(rule, body, payload)                                           \
    {                                                                       \
        rule, body, sizeof(body) - 1, FPRED_MORE, payload, sizeof(body) - 1 \
    }

static void check_rows(const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        struct outcome got = decode(row->bytes, row->len, row->len, row->len);
        if (got.status != row->status || got.used != row->used || got.payload_len != strlen(row->payload) ||
            memcmp(got.payload, row->payload, got.payload_len) != 0) {
            fprintf(stderr, "%s: status %d after %zu, wanted %d after %zu; payload \"%.*s\"\n", row->rule, got.status,
                    got.used, row->status, row->used, (int)got.payload_len, got.payload);
            CHECK(!"as the row has it");
        }
        free(got.payload);
        check_cuts(row->rule, row->bytes, row->len, 1);
    }
}

#define CHECK_ROWS(rows) check_rows(rows, sizeof(rows) / sizeof *(rows))

TEST(lawful_bodies_are_decoded)
{
    static const struct row rows[] = {
        OK("9112 7.1: one chunk", "5\r\nhello\r\n0\r\n\r\n", "", "hello"),
        OK("9112 7.1: several", "5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n0\r\n\r\n", "", "hello, world"),
        OK("9112 7.1: none", "0\r\n\r\n", "", ""),
        OK("9112 6.3: what follows stays", "2\r\nab\r\n0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "ab"),
        OK("9112 2.2: an empty line that follows isn't ours", "0\r\n\r\n", "\r\n", ""),
        OK("9112 7.1: hex of either case", "a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", "x",
           "01234567890123456789a"),
        OK("9112 7.1: payload that looks like framing", "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "", "\r\n0\r\n\r\n"),
        OK("9112 7.1: 16 digits", "0000000000000002\r\nab\r\n0\r\n\r\n", "", "ab"),
        OK("9112 7.1: a last chunk of 16 zeros", "0000000000000000\r\n\r\n", "", ""),
        OK("9112 7.1.1: extensions", "2;a=b;c=\"d e\"\r\nab\r\n0;x\r\n\r\n", "", "ab"),
        OK("9112 7.1.1: bad white space around", "2 \t;\ta = b \r\nab\r\n0\t;\r\n\r\n", "", "ab"),
        OK("9112 7.1.1: high bytes", "2;\x80\xff\r\nab\r\n0\r\n\r\n", "", "ab"),
        OK("9112 7.1.2: trailers are dropped", "2\r\nab\r\n0\r\nA: b\r\nContent-Length: 5\r\n\r\n", "5", "ab"),
        OK("9112 7.1.2: tab and high bytes in them", "0\r\nA:\tb\xff\r\n\r\n", "", ""),
        MORE("nothing yet", "", ""),
        MORE("in a size", "5", ""),
        MORE("before the data", "5\r\n", ""),
        MORE("in the data", "5\r\nhel", "hel"),
        MORE("behind the data", "5\r\nhello", "hello"),
        MORE("before the trailer", "0\r\n", ""),
        MORE("in the trailer", "0\r\nA: b\r\n", ""),
        MORE("before the last byte", "0\r\n\r", ""),
        MORE("as large as can be", "7fffffffffffffff\r\nab", "ab"),
    };
    CHECK_ROWS(rows);
}

/* What makes a row of these bad is the first byte of its second string. */
TEST(malformed_bodies_are_refused_at_the_byte)
{
    static const struct row rows[] = {
        NO("9112 7.1: no size", "", "\r\n\r\n", ""),
        NO("9112 7.1: no hex digit", "", "g\r\n", ""),
        NO("9112 7.1: bytes behind the digits", "5", "xyz\r\nhello\r\n", ""),
        NO("9112 7.1: 0x", "0", "x5\r\nhello\r\n", ""),
        NO("9112 7.1: a plus", "", "+5\r\nhello\r\n", ""),
        NO("9112 7.1: a minus", "", "-5\r\nhello\r\n", ""),
        NO("9112 7.1: blank in front", "", " 5\r\nhello\r\n", ""),
        NO("9112 7.1: underscore", "1", "_0\r\n", ""),
        NO("9112 7.1: 17 digits, all but one zero", "0000000000000000", "2\r\nab\r\n", ""),
        NO("9112 7.1: a size over SIZE_MAX / 2", "800000000000000", "0\r\n", ""),
        NO("9112 7.1: the largest of 16 digits", "fffffffffffffff", "f\r\n", ""),
        NO("9112 7.1.1: blank, then no extension", "5 ", "\r\nhello\r\n", ""),
        NO("9112 7.1.1: blank, then a digit", "5 ", "5\r\n", ""),
        NO("9112 7.1: LF ends the size", "5", "\nhello\r\n", ""),
        NO("9112 7.1: CR without LF behind the size", "5\r", "hello\r\n", ""),
        NO("9112 7.1: two CR behind it", "5\r", "\r\nhello", ""),
        NO("9112 7.1: LF in an extension", "5;a", "\nhello\r\n", ""),
        NO("9112 7.1: bare CR in an extension", "5;a\r", "b\r\nhello\r\n", ""),
        NO("9112 7.1.1: NUL in an extension", "5;a", "\0\r\nhello\r\n", ""),
        NO("9112 7.1.1: a control byte in one", "5;a", "\x1f\r\nhello\r\n", ""),
        NO("9112 7.1.1: DEL in one", "5;a", "\x7f\r\nhello\r\n", ""),
        NO("9112 7.1: data longer than its size", "5\r\nhello", "!\r\n", "hello"),
        NO("9112 7.1: LF ends the data", "5\r\nhello", "\n0\r\n\r\n", "hello"),
        NO("9112 7.1: CR, then no LF, ends it", "5\r\nhello\r", "0\r\n\r\n", "hello"),
        NO("9112 7.1: an empty line between chunks", "1\r\na\r\n", "\r\n0\r\n\r\n", "a"),
        NO("9112 7.1.2: LF in the trailer", "0\r\nA: b", "\n\r\n", ""),
        NO("9112 7.1.2: bare CR in it", "0\r\nA: b\r", "c\r\n\r\n", ""),
        NO("9112 7.1.2: LF for the empty line", "0\r\n", "\n", ""),
        NO("9112 7.1.2: CR without LF there", "0\r\n\r", "x", ""),
        NO("9112 7.1.2: NUL in the trailer", "0\r\nA: ", "\0\r\n\r\n", ""),
        NO("9112 7.1.2: a control byte at a line's start", "0\r\n", "\x01\r\n\r\n", ""),
        NO("9112 5.2: a folded trailer", "0\r\nA: b\r\n", " c\r\n\r\n", ""),
        NO("9112 5.2: folded by a tab", "0\r\n", "\tc\r\n\r\n", ""),
    };
    CHECK_ROWS(rows);
}

/* before, `fill` times 'x', after; the bytes given back are the caller's. */
static char *filled(const char *before, size_t fill, const char *after, size_t *len)
{
    size_t front = strlen(before), back = strlen(after);
    char *bytes = malloc(front + fill + back);
    memcpy(bytes, before, front);
    memset(bytes + front, 'x', fill);
    memcpy(bytes + front + fill, after, back);
    *len = front + fill + back;
    return bytes;
}

static void check_filled(const char *before, size_t fill, const char *after, enum fpred_status wanted)
{
    size_t len;
    char *bytes = filled(before, fill, after, &len);
    struct outcome got = decode(bytes, len, len, len);
    CHECK_EQ(got.status, wanted);
    check_cuts(before, bytes, len, len > 2000 ? 211 : 1);
    free(got.payload);
    free(bytes);
}

TEST(size_lines_and_trailers_are_bounded)
{
    check_filled("0;", FPRED__CHUNK_LINE_MAX - 4, "\r\n\r\n", FPRED_OK);
    check_filled("0;", FPRED__CHUNK_LINE_MAX - 3, "\r\n\r\n", FPRED_BAD_CHUNK);
    check_filled("0;", FPRED__CHUNK_LINE_MAX * 2, "", FPRED_BAD_CHUNK);
    check_filled("0\r\nA:", FPRED__CHUNK_TRAILERS_MAX - 6, "\r\n\r\n", FPRED_OK);
    check_filled("0\r\nA:", FPRED__CHUNK_TRAILERS_MAX - 5, "\r\n\r\n", FPRED_BAD_CHUNK);
    check_filled("0\r\nA:", FPRED__CHUNK_TRAILERS_MAX * 2, "", FPRED_BAD_CHUNK);
}

TEST(extensions_of_a_whole_body_are_bounded)
{
    struct fpred__chunked decoder = {0};
    size_t len, payload, used, total = 0;
    char *chunk = filled("1;", 511, "\r\nx\r\n", &len), copy[600];
    enum fpred_status status;
    do {
        memcpy(copy, chunk, len);
        status = fpred__chunked_decode(&decoder, copy, len, &payload, &used);
        total += 512;
    } while (status == FPRED_MORE && total < 2 * FPRED__CHUNK_EXTENSIONS_MAX);
    CHECK_EQ(status, FPRED_BAD_CHUNK);
    CHECK_EQ(total, FPRED__CHUNK_EXTENSIONS_MAX + 512);
    free(chunk);
}

TEST(many_plain_chunks_are_not_bounded)
{
    struct fpred__chunked decoder = {0};
    size_t payload, used;
    for (int i = 0; i < 100000; i++) {
        char chunk[] = "1\r\nx\r\n";
        if (fpred__chunked_decode(&decoder, chunk, 6, &payload, &used) != FPRED_MORE || payload != 1)
            CHECK(!"goes on");
    }
}

TEST(end_and_refusal_are_for_good)
{
    struct fpred__chunked decoder = {0};
    char body[] = "0\r\n\r\n", bad[] = "x";
    size_t payload, used;
    CHECK_EQ(fpred__chunked_decode(&decoder, body, 5, &payload, &used), FPRED_OK);
    CHECK_EQ(fpred__chunked_decode(&decoder, body, 5, &payload, &used), FPRED_OK);
    CHECK(payload == 0 && used == 0);
    memset(&decoder, 0, sizeof decoder);
    CHECK_EQ(fpred__chunked_decode(&decoder, bad, 1, &payload, &used), FPRED_BAD_CHUNK);
    CHECK_EQ(fpred__chunked_decode(&decoder, body, 5, &payload, &used), FPRED_BAD_CHUNK);
    CHECK(payload == 0 && used == 0);
}

TEST(contiguous_is_what_the_chunk_still_lacks)
{
    struct fpred__chunked decoder = {0};
    char size[] = "1000", line_end[] = "\r\n", data[4096] = {0};
    size_t payload, used;
    CHECK_EQ(fpred__chunked_contiguous(&decoder), 0);
    fpred__chunked_decode(&decoder, size, 4, &payload, &used);
    CHECK_EQ(fpred__chunked_contiguous(&decoder), 0);
    fpred__chunked_decode(&decoder, line_end, 2, &payload, &used);
    CHECK_EQ(fpred__chunked_contiguous(&decoder), 4096);
    fpred__chunked_decode(&decoder, data, 4000, &payload, &used);
    CHECK(payload == 4000 && used == 4000);
    CHECK_EQ(fpred__chunked_contiguous(&decoder), 96);
    fpred__chunked_decode(&decoder, data, 96, &payload, &used);
    CHECK_EQ(fpred__chunked_contiguous(&decoder), 0);
}

/* xorshift: the same mutations on every machine */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

TEST(mutated_bodies_answer_alike_however_cut)
{
    static const char seed[] = "3;a=b\r\nabc\r\n0a\r\n0123456789\r\n1 ;\r\nx\r\n0\r\nA: b\r\n\r\nGET";
    static const char spice[] = "\r\n\t ;0123aFx\0\x7f\xff";
    uint32_t random = 2463534242u;
    unsigned differ = 0, ended = 0, refused = 0;
    for (int i = 0; i < 200000; i++) {
        char bytes[sizeof seed];
        size_t len = sizeof seed - 1 - next_random(&random) % 8;
        memcpy(bytes, seed, sizeof seed);
        for (uint32_t n = next_random(&random) % 4; n > 0; n--)
            bytes[next_random(&random) % len] = spice[next_random(&random) % (sizeof spice - 1)];
        struct outcome whole = decode(bytes, len, len, len);
        struct outcome two = decode(bytes, len, next_random(&random) % len, len);
        struct outcome bytewise = decode(bytes, len, 1, 1);
        differ += !same(&whole, &two) || !same(&whole, &bytewise);
        ended += whole.status == FPRED_OK;
        refused += whole.status == FPRED_BAD_CHUNK;
        free(whole.payload);
        free(two.payload);
        free(bytewise.payload);
    }
    CHECK_EQ(differ, 0);
    CHECK(ended > 10000 && refused > 10000); /* else the mutations reach nothing */
}

TESTS(&check__lawful_bodies_are_decoded, &check__malformed_bodies_are_refused_at_the_byte,
      &check__size_lines_and_trailers_are_bounded, &check__extensions_of_a_whole_body_are_bounded,
      &check__many_plain_chunks_are_not_bounded, &check__end_and_refusal_are_for_good,
      &check__contiguous_is_what_the_chunk_still_lacks, &check__mutated_bodies_answer_alike_however_cut)
