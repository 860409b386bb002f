/* exchange: one request and its reply, and who may touch them.
 *
 *   state       owner             left by
 *   RECEIVING   loop              fpred__lane_push
 *   QUEUED      lane              fpred__lane_take, or fpred__lane_remove (back to the loop, which frees it)
 *   RUNNING     predict thread    fpred_exchange_reply
 *   REPLIED     mailbox           fpred__mailbox_drain
 *   WRITING     loop              fpred__mailbox_finish
 *   FINISHED    mailbox           fpred__mailbox_reap frees it and returns the owner of the reply's memory
 *
 * Only the owner moves an exchange on; a step out of order is an assertion. While it is QUEUED, RUNNING or REPLIED the
 * loop may still read and clear `conn` and set `gone`: these two are the loop's throughout. */
#ifndef FPRED_EXCHANGE_H
#define FPRED_EXCHANGE_H

#include <assert.h>
#include <stdatomic.h>

#include "fastpredict.h"

struct fpred__conn;
struct fpred__mailbox;

enum fpred__exchange_state {
    FPRED__RECEIVING,
    FPRED__QUEUED,
    FPRED__RUNNING,
    FPRED__REPLIED,
    FPRED__WRITING,
    FPRED__FINISHED,
};

struct fpred_exchange {
    /* links: of the lane (guarded by lane->mutex) while QUEUED, of the mailbox's stacks afterwards */
    struct fpred_exchange *next, *prev;
    enum fpred__exchange_state state; /* the owner's */

    struct fpred__conn *conn; /* loop thread only; NULL once the client is gone */
    atomic_bool gone;         /* written by the loop */
    size_t charged_bytes;     /* the owner's: what it holds of the budget, until it is written or freed */

    struct fpred__mailbox *mailbox; /* shared, held until the exchange is freed */
    struct fpred_slot *slot;        /* the owner's; NULL once taken */
    size_t body_bytes;
    const char *body; /* where it was received; only ever compared with */

    /* set once before it is queued */
    size_t route;
    enum fpred_body_kind kind;
    struct fpred_slice method, path, query;
    const struct fpred_field *fields; /* in this allocation, as the bytes of the head are */
    size_t field_count;
    char client[64];

    /* set by fpred_exchange_reply */
    int reply_status;
    struct fpred_field *reply_fields; /* with their bytes and a copied body in one allocation, owned */
    size_t reply_field_count;
    struct fpred_slice reply_body;
    struct fpred_slot *reply_slot; /* owned; NULL unless the body lies in it */
    void *reply_owner;             /* comes back from reap */
};

/* A new exchange in RECEIVING, owned by the loop: copies what the head says (head_buf is the buffer that it was parsed
 * from), shares the mailbox. NULL when out of memory. */
struct fpred_exchange *fpred__exchange_new(struct fpred__mailbox *mailbox, const struct fpred__head *head,
                                           const char *head_buf, const char *client);

/* Frees an exchange that has no owner left to give back: slots go back to the slab, charges to the budget. Any thread.
 */
void fpred__exchange_free(struct fpred_exchange *exchange);

/* One step on; asserts that it is the next one. */
static inline void fpred__exchange_step(struct fpred_exchange *exchange, enum fpred__exchange_state from,
                                        enum fpred__exchange_state to)
{
    assert(exchange->state == from);
    (void)from;
    exchange->state = to;
}

#endif
