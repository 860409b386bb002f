/* mailbox: the way back. Replies go from predict threads to the loop; owners of written replies go from the loop to
 * whoever reaps them (pyext, under the GIL).
 *
 * Replies: a lock-free stack and an eventfd, written only when the stack was empty: one wake for a batch. The loop must
 * drain it inside the eventfd's callback (what it starts outside of a callback would wait for the next event).
 * When the loop has ended the mailbox is closed, and a post then disposes of the exchange itself.
 *
 * Shared: the server and every exchange hold it; it goes with the last of them, and the slab's share with it. */
#ifndef FPRED_MAILBOX_H
#define FPRED_MAILBOX_H

#include "exchange.h"

struct fpred__mailbox;

/* Takes over the caller's share of the slab. NULL with errno set. */
struct fpred__mailbox *fpred__mailbox_new(struct fpred__slab *slab);
void fpred__mailbox_share(struct fpred__mailbox *mailbox);
void fpred__mailbox_release(struct fpred__mailbox *mailbox);

struct fpred__slab *fpred__mailbox_slab(struct fpred__mailbox *mailbox);

/* The eventfd, non-blocking: readable when there is something to drain. The mailbox's. */
int fpred__mailbox_fd(const struct fpred__mailbox *mailbox);

/* Any thread: gives an exchange that is REPLIED to the loop. With a part that isn't the last it comes back, by
 * fpred__exchange_return. */
void fpred__mailbox_post(struct fpred__mailbox *mailbox, struct fpred_exchange *exchange);
/* Any thread: makes the loop's callback run once more. */
void fpred__mailbox_wake(struct fpred__mailbox *mailbox);

/* Loop thread: reads the eventfd and takes all that was posted, oldest first, linked by next; each is WRITING now. */
struct fpred_exchange *fpred__mailbox_drain(struct fpred__mailbox *mailbox);

/* Loop thread: the reply of a WRITING exchange is written, or will never be. Its slots go back at once; its owner, if
 * it has one, waits for reap. One with a part that isn't the last is returned as closed. */
void fpred__mailbox_finish(struct fpred__mailbox *mailbox, struct fpred_exchange *exchange);

/* Loop thread, at its end: posts are disposed of by their callers from now on; wakes the control thread. What was
 * posted before is disposed of here. */
void fpred__mailbox_close(struct fpred__mailbox *mailbox);

/* Any thread: one owner, once; NULL when none waits. */
void *fpred__mailbox_reap(struct fpred__mailbox *mailbox);

/* Loop thread: something waits for the control thread elsewhere; ends its wait, or makes the next one short. */
void fpred__mailbox_call_control(struct fpred__mailbox *mailbox);

/* Blocks until control was called, owners wait (and nobody else has reaped them for a moment) or timeout_ms have
 * passed: FPRED_OK. When the mailbox is closed, no owner waits and no exchange is outside: FPRED_CLOSED. One thread at
 * a time. */
enum fpred_status fpred__mailbox_wait(struct fpred__mailbox *mailbox, int64_t timeout_ms);

/* Exchanges that a thread has taken and not replied to. Any thread. */
size_t fpred__mailbox_running(const struct fpred__mailbox *mailbox);
/* Called by whoever takes from the lane. */
void fpred__mailbox_took(struct fpred__mailbox *mailbox);

#endif
