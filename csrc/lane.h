/* lane: the queue of complete requests, from the loop to the threads that take them.
 *
 * A doubly linked list under one mutex, so that a client that leaves frees its place at once. The bound on its length
 * is the loop's to keep, at the head of a request (fpred__lane_depth); a push never fails. Closing it wakes every
 * taker; what is still queued then is handed out first.
 *
 * A taker spins for up to 50 us, yielding, before it sleeps: a small request then costs a microsecond instead of a
 * wake. Not after a large body: the client and the loop need the processors for the next one, whose time a wake doesn't
 * show in. */
#ifndef FPRED_LANE_H
#define FPRED_LANE_H

#include <stdbool.h>
#include <stddef.h>

#include "exchange.h"

struct fpred__lane;

/* Owned by the caller. NULL when out of memory. */
struct fpred__lane *fpred__lane_new(void);
/* Must be closed and empty, with no taker inside. */
void fpred__lane_free(struct fpred__lane *lane);

/* Loop thread: gives a RECEIVING exchange to the lane. */
void fpred__lane_push(struct fpred__lane *lane, struct fpred_exchange *exchange);

/* Loop thread: takes a QUEUED exchange back. False when a thread has taken it already (or is about to run it). */
bool fpred__lane_remove(struct fpred__lane *lane, struct fpred_exchange *exchange);

/* Any thread, blocks: the oldest exchange, now RUNNING and the caller's. FPRED_CLOSED when closed and empty. */
enum fpred_status fpred__lane_take(struct fpred__lane *lane, struct fpred_exchange **exchange);

/* Any thread: as take, but FPRED_MORE where it would wait. */
enum fpred_status fpred__lane_try_take(struct fpred__lane *lane, struct fpred_exchange **exchange);

/* Any thread: no more will come. */
void fpred__lane_close(struct fpred__lane *lane);

/* Exchanges waiting. Any thread; may be old by the time it returns, but for the loop it can only be too high. */
size_t fpred__lane_depth(const struct fpred__lane *lane);

#endif
