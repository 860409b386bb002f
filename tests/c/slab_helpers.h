/* What the tests of slab share: sizes at the edges, and slab's rules worked out a second time. */
#ifndef FPRED_TESTS_SLAB_HELPERS_H
#define FPRED_TESTS_SLAB_HELPERS_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "slab.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

/* Bodies on both sides of every edge that slab knows. */
/* clang-format off */
static const size_t sizes[] = {
    0, 1, 63, 64, 65, 191, 192, 4 * KIB - 1, 4 * KIB, 4 * KIB + 1, 128 * KIB - 66, 128 * KIB - 65, 128 * KIB - 64,
    128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 2 * MIB - 65, 2 * MIB - 64, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 30000000,
    60000000};
/* clang-format on */
#define SIZE_COUNT (sizeof sizes / sizeof *sizes)

/* ---- what the tests know by themselves ---- */

/* The smallest of 2^n x {1, 1.25, 1.5, 1.75} with room for lead, body and NUL, found by walking. */
static inline size_t expected_class(size_t body_bytes)
{
    for (size_t power = 256;; power *= 2)
        for (size_t quarter = 4; quarter < 8; quarter++)
            if (power / 4 * quarter >= FPRED__SLOT_LEAD + body_bytes + 1)
                return power / 4 * quarter;
}

static inline char *map_of(const struct fpred_slot *slot)
{
    return fpred_slot_payload(slot) - FPRED__SLOT_LEAD;
}

/* -1 when a part of it isn't mapped */
static inline long long resident_bytes(char *start, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (bytes + page - 1) / page, count = 0;
    unsigned char *there = malloc(pages);
    int rc = mincore(start, bytes, there);
    for (size_t i = 0; rc == 0 && i < pages; i++)
        count += there[i] & 1;
    free(there);
    return rc == 0 ? (long long)(count * page) : -1;
}

static inline bool is_unmapped(char *start, size_t bytes)
{
    unsigned char there;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < bytes; at += page)
        if (mincore(start + at, 1, &there) == 0 || errno != ENOMEM)
            return false;
    return true;
}

static inline long long resident_limit(size_t body_bytes)
{
    return (long long)(body_bytes + body_bytes / 4 + 128 * KIB);
}

static inline struct fpred_slot *take(struct fpred__slab *slab, size_t body_bytes)
{
    struct fpred_slot *slot = NULL;
    CHECK_EQ(fpred__slab_take(slab, body_bytes, &slot), FPRED_OK);
    return slot;
}

static inline struct fpred_slot *take_growing(struct fpred__slab *slab, size_t max_bytes)
{
    struct fpred_slot *slot = NULL;
    CHECK_EQ(fpred__slab_take_growing(slab, max_bytes, &slot), FPRED_OK);
    return slot;
}

static inline void write_all(struct fpred_slot *slot, size_t body_bytes, int byte)
{
    memset(fpred_slot_payload(slot), byte, body_bytes);
}

/* As body does it: asks for `step`, then writes what has come. */
static inline void grow_to(struct fpred_slot *slot, size_t body_bytes, size_t step)
{
    for (size_t done = 0; done < body_bytes;) {
        size_t now = body_bytes - done < step ? body_bytes - done : step;
        size_t room = fpred_slot_capacity(slot) - done;
        fpred__slot_grown(slot, done + (room < step ? room : step));
        memset(fpred_slot_payload(slot) + done, 'g', now);
        done += now;
    }
}

static inline struct fpred__slab_stats stats_of(struct fpred__slab *slab)
{
    struct fpred__slab_stats stats;
    fpred__slab_stats(slab, &stats);
    return stats;
}

#endif
