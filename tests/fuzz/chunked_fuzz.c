/* chunked under libFuzzer. Two bytes choose where to cut, the rest is the body: whole, cut there and byte by byte must
 * give the same payload and the same answer, and leave what follows the body alone. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chunked.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    struct fpred__chunked decoder;
    enum fpred_status status;
    size_t used, payload_len;
    uint8_t *payload; /* room for the whole input */
};

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* Decodes a copy of exactly len bytes, which ASan guards. */
static void feed(struct outcome *got, const uint8_t *bytes, size_t len)
{
    size_t payload, used;
    uint64_t contiguous = fpred__chunked_contiguous(&got->decoder);
    char *piece = malloc(len + (len == 0));
    memcpy(piece, bytes, len);
    got->status = fpred__chunked_decode(&got->decoder, piece, len, &payload, &used);
    require(payload <= used && used <= len);
    require(used == len || got->status == FPRED_OK || got->status == FPRED_BAD_CHUNK);
    require(memcmp(piece + used, bytes + used, len - used) == 0);
    /* Nothing that was promised to be contiguous has moved. */
    if (contiguous > 0) {
        size_t run = len < contiguous ? len : (size_t)contiguous;
        require(payload >= run && memcmp(piece, bytes, run) == 0);
    }
    memcpy(got->payload + got->payload_len, piece, payload);
    got->payload_len += payload;
    got->used += used;
    free(piece);
}

static struct outcome decode(const uint8_t *bytes, size_t len, size_t first, size_t step)
{
    struct outcome got = {.status = FPRED_MORE, .payload = malloc(len + 1)};
    feed(&got, bytes, first);
    for (size_t from = first; from < len && got.status == FPRED_MORE; from += step)
        feed(&got, bytes + from, step < len - from ? step : len - from);
    return got;
}

static void require_same(const struct outcome *a, const struct outcome *b)
{
    require(a->status == b->status && a->used == b->used && a->payload_len == b->payload_len);
    require(memcmp(a->payload, b->payload, a->payload_len) == 0);
    require(fpred__chunked_contiguous(&a->decoder) == fpred__chunked_contiguous(&b->decoder));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const uint8_t *bytes = data + 2;
    size_t len = size - 2, cut = (size_t)(data[0] << 8 | data[1]) % (len + 1);
    struct outcome whole = decode(bytes, len, len, len + 1);
    struct outcome two = decode(bytes, len, cut, len + 1);
    struct outcome bytewise = decode(bytes, len, 0, 1);
    require_same(&two, &whole);
    require_same(&bytewise, &whole);
    free(whole.payload);
    free(two.payload);
    free(bytewise.payload);
    return 0;
}
