/* body: the only code that places body bytes.
 *
 * A body is begun at its head, fed with what had come along with the head, and then received from the socket, straight
 * into its slot, until it is complete. The same code throws a body away after an early refusal (no slot).
 *
 * Reading is non-blocking and bounded: FPRED__BODY_TURN bytes a call, then others have their turn (the poll is level-
 * triggered). SO_RCVLOWAT is raised while a large body pours in, which saves a fifth of its time and half the CPU: only
 * after a call that brought FPRED__BODY_FAST bytes, never above what is still to come, and back to 1 on every other way
 * out, for it would hide slow progress from the poll.
 *
 * Threads: the loop's. No h2o in here: a body needs a descriptor and a slab. */
#ifndef FPRED_BODY_H
#define FPRED_BODY_H

#include "chunked.h"
#include "fastpredict.h"

#define FPRED__BODY_TURN ((size_t)4 << 20)
#define FPRED__BODY_FAST ((size_t)256 << 10)

/* Embedded in the connection; all of it is body.c's but what is marked. */
struct fpred__body {
    struct fpred__slab *slab;    /* borrowed */
    struct fpred_slot *slot;     /* owned until fpred__body_take; NULL while the body is thrown away */
    enum fpred__framing framing; /* read freely */
    size_t length;               /* LENGTH: announced */
    size_t limit;                /* CHUNKED: more payload than this is FPRED_BODY_TOO_LARGE */
    size_t received;             /* payload bytes so far; read freely */
    size_t raw;                  /* bytes off the wire so far, framing included; read freely */
    size_t charged;              /* of the budget */
    struct fpred__chunked chunked;
    int lowat;      /* what SO_RCVLOWAT is now */
    bool has_lowat; /* TCP */
};

/* A body as the head announced it. Charges the budget, takes the slot. content_length counts with FRAMING_LENGTH, limit
 * with FRAMING_CHUNKED; FRAMING_NONE is a body of no bytes. ahead: bytes of it before the data that is to be aligned,
 * where its length is known. FPRED_OK, or FPRED_OVER_BUDGET, FPRED_BODY_TOO_LARGE (it alone exceeds the budget),
 * FPRED_NOMEM: nothing is held then. */
enum fpred_status fpred__body_begin(struct fpred__body *body, struct fpred__slab *slab, enum fpred__framing framing,
                                    size_t content_length, size_t limit, size_t ahead, bool is_tcp);

/* A body that lies in a client's memory: complete at once. Takes the slot, charges nothing. */
void fpred__body_lend(struct fpred__body *body, struct fpred__slab *slab, struct fpred_slot *slot);

/* From now on what comes is counted, in raw from 0, and thrown away; a slot and its charge are given back. Also on a
 * body that was never begun: give it the framing. */
void fpred__body_discard(struct fpred__body *body, enum fpred__framing framing, size_t content_length);

/* Whether all of it has come. A FRAMING_NONE body is complete at once. */
bool fpred__body_is_complete(const struct fpred__body *body);

/* Bytes that were read along with the head. *used of them belong to the body. FPRED_OK when it is complete, FPRED_MORE,
 * or a refusal: FPRED_BAD_CHUNK, FPRED_BODY_TOO_LARGE, FPRED_OVER_BUDGET. */
enum fpred_status fpred__body_feed(struct fpred__body *body, char *bytes, size_t len, size_t *used);

/* Where bytes go that came behind the body: a following request. */
struct fpred__spill {
    char *base;
    size_t len, capacity; /* capacity >= FPRED__SPILL_MIN when receive is called and len is 0 */
};
#define FPRED__SPILL_MIN ((size_t)16 << 10)
#define FPRED__BODY_SCRATCH ((size_t)64 << 10)

/* Receives what is there. FPRED_OK: complete, what came behind it is in spill. FPRED_MORE: call again when fd is
 * readable. FPRED_CLOSED: end of input, or a connection that is broken or can no longer be waited for. Refusals as in
 * feed. scratch: FPRED__BODY_SCRATCH bytes of the loop's, used to throw away and for what has no place yet. */
enum fpred_status fpred__body_receive(struct fpred__body *body, int fd, struct fpred__spill *spill, char *scratch);

/* Before a look at the deadline: lets every byte wake the poll again. */
void fpred__body_slow(struct fpred__body *body, int fd);

/* The complete body's slot and its charge, now the caller's; sealed. */
struct fpred_slot *fpred__body_take(struct fpred__body *body, size_t *charged);

/* Gives back whatever is held. Safe on a zeroed body, and twice. */
void fpred__body_drop(struct fpred__body *body);

#endif
