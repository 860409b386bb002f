/* body: see body.h. Loop thread. */
#include "body.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define CHARGE_STEP ((size_t)2 << 20)
#define LOWAT_MAX ((size_t)1 << 20) /* measured at 30 MB: 2M is 5 % slower, 512K and 4M no better than that */
#define LOWAT_MIN ((size_t)64 << 10)
#define LOOK_AHEAD FPRED__SPILL_MIN /* bytes read beyond the current chunk; what follows the body is fewer */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static enum fpred_status begin_known(struct fpred__body *body, size_t ahead)
{
    if (body->length > fpred__slab_budget(body->slab))
        return FPRED_BODY_TOO_LARGE;
    enum fpred_status status = fpred__slab_charge(body->slab, body->length);
    if (status != FPRED_OK)
        return status;
    body->charged = body->length;
    status = fpred__slab_take_ahead(body->slab, body->length, ahead, &body->slot);
    if (status != FPRED_OK)
        fpred__body_drop(body);
    return status;
}

enum fpred_status fpred__body_begin(struct fpred__body *body, struct fpred__slab *slab, enum fpred__framing framing,
                                    size_t content_length, size_t limit, size_t ahead, bool is_tcp)
{
    *body = (struct fpred__body){.slab = slab, .framing = framing, .limit = limit, .lowat = 1, .has_lowat = is_tcp};
    if (framing == FPRED__FRAMING_CHUNKED)
        return fpred__slab_take_growing(slab, limit, &body->slot);
    body->length = framing == FPRED__FRAMING_LENGTH ? content_length : 0;
    return begin_known(body, ahead);
}

void fpred__body_lend(struct fpred__body *body, struct fpred__slab *slab, struct fpred_slot *slot)
{
    size_t bytes = fpred_slot_capacity(slot);
    *body = (struct fpred__body){.slab = slab, .slot = slot, .length = bytes, .received = bytes, .lowat = 1};
}

void fpred__body_discard(struct fpred__body *body, enum fpred__framing framing, size_t content_length)
{
    fpred__body_drop(body);
    body->framing = framing;
    body->length = framing == FPRED__FRAMING_LENGTH ? content_length : 0;
    body->limit = SIZE_MAX;
    body->raw = 0;
}

bool fpred__body_is_complete(const struct fpred__body *body)
{
    return body->framing != FPRED__FRAMING_CHUNKED && body->received == body->length;
}

/* Charges for the first `bytes` of the payload: a whole step, or where the budget has no room for it, just these. */
static enum fpred_status charge(struct fpred__body *body, size_t bytes)
{
    size_t step = bytes > SIZE_MAX - CHARGE_STEP ? bytes : (bytes + CHARGE_STEP - 1) / CHARGE_STEP * CHARGE_STEP;
    size_t wanted = least(step, body->limit > bytes ? body->limit : bytes);
    if (fpred__slab_charge(body->slab, wanted - body->charged) == FPRED_OK) {
        body->charged = wanted;
        return FPRED_OK;
    }
    enum fpred_status status = fpred__slab_charge(body->slab, bytes - body->charged);
    if (status == FPRED_OK)
        body->charged = bytes;
    else if (bytes > fpred__slab_budget(body->slab))
        status = FPRED_BODY_TOO_LARGE;
    return status;
}

/* Makes sure that the first `bytes` of the payload may be written: budget, then pages. */
static enum fpred_status reach(struct fpred__body *body, size_t bytes)
{
    enum fpred_status status = bytes > body->charged ? charge(body, bytes) : FPRED_OK;
    if (status == FPRED_OK)
        fpred__slot_grown(body->slot, bytes);
    return status;
}

/* A chunked body has ended: from here on it is one of known length. */
static void end_chunked(struct fpred__body *body)
{
    body->framing = FPRED__FRAMING_LENGTH;
    body->length = body->received;
}

/* Puts payload that lies elsewhere into the slot, if there is one. */
static enum fpred_status place(struct fpred__body *body, const char *bytes, size_t len)
{
    if (len > body->limit - body->received)
        return FPRED_BODY_TOO_LARGE;
    if (body->slot == NULL || len == 0)
        return FPRED_OK;
    enum fpred_status status = reach(body, body->received + len);
    if (status == FPRED_OK)
        memcpy(fpred_slot_payload(body->slot) + body->received, bytes, len);
    return status;
}

/* Decodes bytes that don't lie in the slot. A body that is refused for its size is counted and ended all the same. */
static enum fpred_status decode_outside(struct fpred__body *body, char *bytes, size_t len, size_t *used)
{
    size_t payload;
    enum fpred_status status = fpred__chunked_decode(&body->chunked, bytes, len, &payload, used);
    enum fpred_status placed = place(body, bytes, payload);
    body->raw += *used;
    body->received += payload;
    if (status == FPRED_OK)
        end_chunked(body);
    return placed != FPRED_OK ? placed : status;
}

enum fpred_status fpred__body_feed(struct fpred__body *body, char *bytes, size_t len, size_t *used)
{
    if (body->framing == FPRED__FRAMING_CHUNKED)
        return decode_outside(body, bytes, len, used);
    *used = least(len, body->length - body->received);
    if (body->slot != NULL && *used != 0)
        memcpy(fpred_slot_payload(body->slot) + body->received, bytes, *used);
    body->received += *used;
    body->raw += *used;
    return body->received == body->length ? FPRED_OK : FPRED_MORE;
}

/* > 0 bytes, 0: nothing there now (FPRED_MORE) or the end (FPRED_CLOSED) in *status. */
static size_t receive_some(int fd, char *into, size_t want, enum fpred_status *status)
{
    for (;;) {
        ssize_t got = recv(fd, into, want, MSG_DONTWAIT);
        if (got > 0)
            return (size_t)got;
        if (got == -1 && errno == EINTR)
            continue;
        *status = got == -1 && (errno == EAGAIN || errno == EWOULDBLOCK) ? FPRED_MORE : FPRED_CLOSED;
        return 0;
    }
}

static void keep_spill(struct fpred__spill *spill, const char *bytes, size_t len)
{
    assert(len <= spill->capacity - spill->len);
    memcpy(spill->base + spill->len, bytes, len);
    spill->len += len;
}

/* One recv of a body of known length. Returns the bytes it brought; 0 leaves *status. */
static size_t receive_known(struct fpred__body *body, int fd, char *scratch, size_t turn, enum fpred_status *status)
{
    size_t want = least(body->length - body->received, turn);
    char *into = scratch;
    if (body->slot != NULL)
        into = fpred_slot_payload(body->slot) + body->received;
    else
        want = least(want, FPRED__BODY_SCRATCH);
    size_t got = receive_some(fd, into, want, status);
    body->received += got;
    body->raw += got;
    if (got != 0)
        *status = body->received == body->length ? FPRED_OK : FPRED_MORE;
    return got;
}

/* One recv of chunked bytes to scratch: while they are thrown away, and where the slot has no room left to look ahead.
 */
static size_t receive_outside(struct fpred__body *body, int fd, struct fpred__spill *spill, char *scratch,
                              enum fpred_status *status)
{
    size_t got = receive_some(fd, scratch, LOOK_AHEAD, status), used;
    if (got == 0)
        return 0;
    *status = decode_outside(body, scratch, got, &used);
    if (used < got && *status != FPRED_BAD_CHUNK)
        keep_spill(spill, scratch + used, got - used);
    return got;
}

/* One recv of chunked bytes straight behind the payload, where they are decoded; reach has made room for them. */
static size_t receive_inside(struct fpred__body *body, int fd, struct fpred__spill *spill, size_t want,
                             enum fpred_status *status)
{
    char *into = fpred_slot_payload(body->slot) + body->received;
    size_t got = receive_some(fd, into, want, status), payload, used;
    if (got == 0)
        return 0;
    *status = fpred__chunked_decode(&body->chunked, into, got, &payload, &used);
    body->raw += used;
    body->received += payload;
    if (*status == FPRED_OK) {
        keep_spill(spill, into + used, got - used);
        end_chunked(body);
    }
    return got;
}

static size_t receive_chunked(struct fpred__body *body, int fd, struct fpred__spill *spill, char *scratch, size_t turn,
                              enum fpred_status *status)
{
    size_t room = body->limit - body->received;
    uint64_t rest = fpred__chunked_contiguous(&body->chunked);
    if (rest > room) {
        *status = FPRED_BODY_TOO_LARGE;
        return 0;
    }
    if (body->slot == NULL || (room - rest < LOOK_AHEAD && rest < LOOK_AHEAD))
        return receive_outside(body, fd, spill, scratch, status);
    size_t want = least(room - rest >= LOOK_AHEAD ? rest + LOOK_AHEAD : rest, turn);
    *status = reach(body, body->received + want);
    if (*status != FPRED_OK && want > rest) { /* no budget to look ahead with */
        if (rest == 0)
            return receive_outside(body, fd, spill, scratch, status);
        want = rest;
        *status = reach(body, body->received + want);
    }
    return *status == FPRED_OK ? receive_inside(body, fd, spill, want, status) : 0;
}

/* False where it is stuck above what it should be: the poll would sleep through what comes. */
static bool set_lowat(struct fpred__body *body, int fd, size_t value)
{
    int lowat = value < LOWAT_MIN ? 1 : (int)least(value, LOWAT_MAX);
    if (!body->has_lowat || lowat == body->lowat)
        return true;
    for (int tries = 0; tries < 2; tries++) {
        if (setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof lowat) == 0) {
            body->lowat = lowat;
            return true;
        }
    }
    return body->lowat < lowat;
}

/* Bytes that are sure to come before anything else can: the most that SO_RCVLOWAT may wait for. */
static size_t sure_to_come(const struct fpred__body *body)
{
    if (body->framing == FPRED__FRAMING_CHUNKED)
        return least(fpred__chunked_contiguous(&body->chunked), SIZE_MAX);
    return body->length - body->received;
}

enum fpred_status fpred__body_receive(struct fpred__body *body, int fd, struct fpred__spill *spill, char *scratch)
{
    enum fpred_status status = FPRED_MORE;
    size_t turn = FPRED__BODY_TURN, got;
    if (fpred__body_is_complete(body))
        return FPRED_OK;
    do {
        if (body->framing == FPRED__FRAMING_CHUNKED)
            got = receive_chunked(body, fd, spill, scratch, turn, &status);
        else
            got = receive_known(body, fd, scratch, turn, &status);
        turn -= least(got, turn);
    } while (got != 0 && status == FPRED_MORE && turn != 0);
    bool fast = FPRED__BODY_TURN - turn >= FPRED__BODY_FAST;
    bool wakes = set_lowat(body, fd, status == FPRED_MORE && fast ? sure_to_come(body) : 1);
    return wakes ? status : FPRED_CLOSED;
}

void fpred__body_slow(struct fpred__body *body, int fd)
{
    set_lowat(body, fd, 1);
}

struct fpred_slot *fpred__body_take(struct fpred__body *body, size_t *charged)
{
    assert(fpred__body_is_complete(body) && body->slot != NULL);
    struct fpred_slot *slot = body->slot;
    fpred__slot_seal(slot, body->received);
    *charged = body->charged;
    body->slot = NULL;
    body->charged = 0;
    return slot;
}

void fpred__body_drop(struct fpred__body *body)
{
    if (body->slot != NULL)
        fpred_slot_release(body->slot);
    if (body->charged != 0)
        fpred__slab_uncharge(body->slab, body->charged);
    body->slot = NULL;
    body->charged = 0;
}
