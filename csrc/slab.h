/* slab: memory for bodies.
 *
 * A slot is one piece of memory that receives one body and then is the array's memory. Its payload is aligned to 64
 * bytes, with FPRED__SLOT_LEAD bytes in front of it (a bytes header fits there) and room for one NUL behind it.
 *
 *   map                payload (64-aligned)                         payload + capacity
 *   |  lead, 64 bytes  |  body ...                                  | NUL |
 *
 * Size classes are four to the doubling, so no slot is more than a quarter larger than its payload; slots of
 * FPRED__SLOT_MAP_MIN and more are mapped, with huge pages over the whole 2 MiB in them, smaller ones come from malloc.
 * A released slot stays warm in its class, last in, first out, until fpred__slab_trim gives it back. Touching fresh
 * pages costs more than receiving into warm ones: reuse is the point of this module.
 *
 * The budget (--max-inflight-bytes) is kept apart from the slots: the loop charges it from a head until its reply is
 * written, so an array that a handler keeps stops counting then.
 *
 * Threads: fpred_slot_release and fpred__slab_trim from any thread; the budget is charged by the loop thread, given
 * back and read by any. mmap, munmap and madvise are never called under the lock. The slab lives as long as its last
 * slot: it is shared by its creator and every slot that is out. */
#ifndef FPRED_SLAB_H
#define FPRED_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "region.h"
#include "status.h"

#define FPRED__SLOT_LEAD 64
#define FPRED__SLOT_MAP_MIN ((size_t)128 << 10)
#define FPRED__HUGE_PAGE ((size_t)2 << 20)

struct fpred__slab;
struct fpred_slot;

/* New slab, owned by the caller. budget_bytes: see fpred__slab_charge. NULL when out of memory. */
struct fpred__slab *fpred__slab_new(size_t budget_bytes);

/* Gives the creator's share back: idle slots go now, the slab itself with its last slot. Any thread. */
void fpred__slab_release(struct fpred__slab *slab);

/* Takes a slot with room for exactly body_bytes (0 is fine). *slot: owned by the caller until fpred_slot_release.
 * FPRED_NOMEM when memory can't be had. Any thread; may map memory, never touches it. */
enum fpred_status fpred__slab_take(struct fpred__slab *slab, size_t body_bytes, struct fpred_slot **slot);

/* The same for a body whose data starts `ahead` bytes into it: they are aligned to 64, instead of the body itself. */
enum fpred_status fpred__slab_take_ahead(struct fpred__slab *slab, size_t body_bytes, size_t ahead,
                                         struct fpred_slot **slot);

/* The same for a body of unknown length up to max_bytes: address space is reserved, pages come as they are written.
 * Call fpred__slot_grown before writing beyond what it has allowed so far, so that the slab knows what may be resident,
 * and fpred__slot_seal when the body is complete. Huge pages come only once 8 MiB are filled. */
enum fpred_status fpred__slab_take_growing(struct fpred__slab *slab, size_t max_bytes, struct fpred_slot **slot);

/* A slot over a client's memory: bytes of the region, from offset on, of which it takes a share. It belongs to no slab
 * and may be released at any time; nothing in front of its payload or behind its capacity is anybody's, and none of it
 * may be written where the region is for reading. */
enum fpred_status fpred__slot_lend(struct fpred_region *region, size_t offset, size_t bytes, struct fpred_slot **slot);

/* body_bytes of this growing slot are about to be used. No system call. Loop thread. */
void fpred__slot_grown(struct fpred_slot *slot, size_t body_bytes);

/* The body is complete at body_bytes, the slot's capacity from now on: what it holds resident beyond 1.25 x that +
 * 128 KiB is given back. May madvise. Loop thread. */
void fpred__slot_seal(struct fpred_slot *slot, size_t body_bytes);

/* The client's memory that the slot lies in, borrowed until release; NULL for one of the slab's own. */
struct fpred_region *fpred_slot_region(const struct fpred_slot *slot);

/* First byte of the body, aligned to 64 but after take_ahead and in a client's memory. Borrowed until release. The
 * FPRED__SLOT_LEAD bytes in front belong to the holder of the slot too, and so does payload[capacity]. */
char *fpred_slot_payload(const struct fpred_slot *slot);
size_t fpred_slot_capacity(const struct fpred_slot *slot);

/* Takes the slot back. Any thread, also after fpred__slab_release. */
void fpred_slot_release(struct fpred_slot *slot);

/* Gives back idle slots that were not used for idle_ms (0: all). Any thread; unmaps outside the lock. */
void fpred__slab_trim(struct fpred__slab *slab, int64_t now_ms, int64_t idle_ms);

/* Budget. Charge fails with FPRED_OVER_BUDGET (nothing charged) when bytes don't fit in what is left. Loop thread. */
enum fpred_status fpred__slab_charge(struct fpred__slab *slab, size_t bytes);
/* Charges whatever the budget says: a reply that exists already. Loop thread. */
void fpred__slab_charge_always(struct fpred__slab *slab, size_t bytes);
/* Gives back what was charged. Any thread. */
void fpred__slab_uncharge(struct fpred__slab *slab, size_t bytes);
size_t fpred__slab_budget(const struct fpred__slab *slab);

struct fpred__slab_stats {
    size_t charged_bytes; /* of the budget */
    size_t out_slots;     /* taken and not released */
    size_t idle_slots;
    size_t idle_bytes; /* resident at most, in idle slots */
};
/* A consistent copy. Any thread. */
void fpred__slab_stats(struct fpred__slab *slab, struct fpred__slab_stats *stats);

/* Tests only: the next `after` takes that need fresh memory succeed, then `count` fail with FPRED_NOMEM. */
void fpred__slab_fail(struct fpred__slab *slab, unsigned after, unsigned count);

#endif
