/* exchange: one request and its reply, and who may touch them.
 *
 *   state       owner             left by
 *   RECEIVING   loop              fpred__lane_push
 *   QUEUED      lane              fpred__lane_take, or fpred__lane_remove (back to the loop, which frees it)
 *   RUNNING     predict thread    fpred_exchange_reply, or _write and _end for an answer in parts
 *   REPLIED     mailbox           fpred__mailbox_drain
 *   WRITING     loop              fpred__mailbox_finish; a part that isn't the last: fpred__exchange_return (RUNNING)
 *   FINISHED    mailbox           fpred__mailbox_reap frees it and returns the owner of the reply's memory
 *
 * Only the owner moves an exchange on; a step out of order is an assertion. While it is QUEUED, RUNNING or REPLIED the
 * loop may still read and clear `conn` and set `gone`: these two are the loop's throughout. */
#ifndef FPRED_EXCHANGE_H
#define FPRED_EXCHANGE_H

#include <assert.h>
#include <semaphore.h>
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

    /* the client's memory, until the reply: the owner's, shares */
    struct fpred_region *body_region;   /* that the body lies in; NULL for one that was received */
    struct fpred_region *answer_region; /* that the answer may be written to; or NULL */
    char *answer_base;                  /* in it */
    size_t answer_bytes;                /* room there */
    uint64_t answer_offset;             /* of answer_base in the client's file */

    /* set once before it is queued */
    size_t route;
    enum fpred_body_kind kind;
    bool control;      /* waits in the control lane */
    int64_t queued_us; /* by the lane */
    int minor_version;
    struct fpred_slice method, target, path, query;
    const struct fpred_field *fields; /* in this allocation, as the bytes of the head are */
    size_t field_count;
    char client[64];

    /* set by fpred_exchange_reply and fpred_exchange_begin */
    int reply_status;
    char *reply_reason;               /* NULL: the status' own */
    struct fpred_field *reply_fields; /* with reason, parts and all copied bytes in one allocation, owned */
    size_t reply_field_count;
    struct fpred_slice *reply_parts;
    size_t reply_part_count;
    size_t reply_bytes;            /* of the parts */
    struct fpred_slot *reply_slot; /* owned; NULL unless parts lie in it */
    void *reply_owner;             /* comes back from reap */

    /* an answer in parts; the owner's, unless marked */
    bool in_parts;         /* set once, by begin */
    bool last;             /* nothing comes after this post; true for fpred_exchange_reply */
    bool whole;            /* with the last: nothing is missing */
    bool head_sent;        /* loop thread only */
    uint64_t reply_length; /* set once, by begin: FPRED_LENGTH_UNKNOWN, or what all parts have */
    uint64_t written;      /* given to write so far */
    struct fpred_slice part;
    size_t part_charged;
    enum fpred_status part_status;
    sem_t returned; /* posted by whoever returns the exchange; only where in_parts */
};

/* A new exchange in RECEIVING, owned by the loop: copies what the head says (head_buf is the buffer that it was parsed
 * from), shares the mailbox. NULL when out of memory. */
struct fpred_exchange *fpred__exchange_new(struct fpred__mailbox *mailbox, const struct fpred__head *head,
                                           const char *head_buf, const char *client);

/* Frees an exchange that has no owner left to give back: slots go back to the slab, charges to the budget. Any thread.
 */
void fpred__exchange_free(struct fpred_exchange *exchange);

/* Gives a WRITING exchange, whose part is written (FPRED_OK) or never will be (FPRED_CLOSED), back to the thread that
 * waits in fpred_exchange_write. It must not be touched afterwards. */
void fpred__exchange_return(struct fpred_exchange *exchange, enum fpred_status status);

/* Whether its answer can't have a body, whatever is given. */
bool fpred__exchange_has_no_body(const struct fpred_exchange *exchange);

/* One step on; asserts that it is the next one. */
static inline void fpred__exchange_step(struct fpred_exchange *exchange, enum fpred__exchange_state from,
                                        enum fpred__exchange_state to)
{
    assert(exchange->state == from);
    (void)from;
    exchange->state = to;
}

#endif
