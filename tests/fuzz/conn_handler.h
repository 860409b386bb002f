/* The handlers of conn_fuzz: what they answer depends on the request alone, so that an answer shows every byte that the
 * handler saw. */
#ifndef FPRED_FUZZ_HANDLER_H
#define FPRED_FUZZ_HANDLER_H

#include "conn_world.h"

enum policy { AT_ONCE, LATER, NEVER }; /* when a request is answered; LATER: by handler_release */

struct handler {
    enum policy policy;
    struct fpred_exchange *held; /* there is only one connection */
    struct fpred_slot *kept[64]; /* of bodies that outlive their request */
    size_t kept_count;
    size_t owners; /* given with replies and not yet back */
    bool may_lack_memory;
    bool has_cut; /* an answer in parts was not whole */
    char text[FPRED__HEAD_MAX * 2 + 4096];
};

static struct handler handler;

static char *put_slice(char *at, const char *name, struct fpred_slice slice)
{
    at += sprintf(at, "%s=", name);
    if (slice.len != 0)
        memcpy(at, slice.base, slice.len);
    at[slice.len] = '\n';
    return at + slice.len + 1;
}

static unsigned sum_of(const char *bytes, size_t len)
{
    unsigned sum = 1;
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + (unsigned char)bytes[i];
    return sum;
}

/* Everything that the exchange says of the request. */
static struct fpred_slice describe(const struct fpred_exchange *exchange)
{
    size_t count;
    const struct fpred_field *fields = fpred_exchange_fields(exchange, &count);
    char *at = handler.text;
    at = put_slice(at, "method", fpred_exchange_method(exchange));
    at = put_slice(at, "target", fpred_exchange_target(exchange));
    at = put_slice(at, "path", fpred_exchange_path(exchange));
    at = put_slice(at, "query", fpred_exchange_query(exchange));
    for (size_t i = 0; i < count; i++) {
        at = put_slice(at, "name", fields[i].name);
        at = put_slice(at, "value", fields[i].value);
    }
    size_t bytes = fpred_exchange_body_bytes(exchange);
    at += sprintf(at, "kind=%d minor=%d body=%zu", (int)fpred_exchange_kind(exchange),
                  fpred_exchange_minor_version(exchange), bytes);
    at += sprintf(at, " sum=%u\n", sum_of(fpred_slot_payload(exchange->slot), bytes));
    require((size_t)(at - handler.text) < sizeof handler.text);
    return (struct fpred_slice){handler.text, (size_t)(at - handler.text)};
}

/* The body decides, so that the fuzzer may. */
static int status_by(const char *body, size_t bytes)
{
    static const int choices[] = {204, 304, 404, 500, 599};
    return bytes != 0 && body[0] >= '0' && body[0] < '5' ? choices[body[0] - '0'] : 200;
}

static const struct fpred_field a_field = {{"X-Field", 7}, {"a value", 7}};

static void give(struct fpred_exchange *exchange, struct fpred_reply *reply)
{
    handler.owners += reply->owner != NULL;
    enum fpred_status status = fpred_exchange_reply(exchange, reply);
    require(status == FPRED_OK || (status == FPRED_NOMEM && handler.may_lack_memory));
}

static void reply_text(struct fpred_exchange *exchange)
{
    struct fpred_slice text = describe(exchange);
    const char *body = fpred_slot_payload(exchange->slot);
    struct fpred_slice reason = {"Well", 4};
    give(exchange, &(struct fpred_reply){.status = status_by(body, fpred_exchange_body_bytes(exchange)),
                                         .reason = reason,
                                         .fields = &a_field,
                                         .field_count = 1,
                                         .parts = &text,
                                         .part_count = 1,
                                         .copy = true});
}

/* The body's own memory goes back, in as many pieces as it has bytes up to ten. */
static void reply_echo(struct fpred_exchange *exchange)
{
    size_t bytes = fpred_exchange_body_bytes(exchange);
    struct fpred_slot *slot = fpred_exchange_take_slot(exchange);
    const char *body = fpred_slot_payload(slot);
    struct fpred_slice parts[10];
    size_t count = bytes < 10 ? bytes : 10;
    for (size_t i = 0; i < count; i++)
        parts[i] = (struct fpred_slice){body + i, i + 1 < count ? 1 : bytes - i};
    give(exchange,
         &(struct fpred_reply){.status = status_by(body, bytes), .parts = parts, .part_count = count, .slot = slot});
}

/* The body outlives its request; the answer lies in memory that has an owner. */
static void reply_keep(struct fpred_exchange *exchange)
{
    static const char text[] = "kept", *owner = text;
    struct fpred_slice parts[] = {{text, 4}, {NULL, 0}, {text, 2}};
    if (handler.kept_count < sizeof handler.kept / sizeof *handler.kept)
        handler.kept[handler.kept_count++] = fpred_exchange_take_slot(exchange);
    give(exchange, &(struct fpred_reply){.status = 200, .parts = parts, .part_count = 3, .owner = &owner});
}

static void reply_slot(struct fpred_exchange *exchange)
{
    struct fpred_slice text = describe(exchange);
    struct fpred_slot *slot;
    if (fpred_exchange_reply_slot(exchange, text.len, &slot) != FPRED_OK) {
        give(exchange, &(struct fpred_reply){.status = 500});
        return;
    }
    memcpy(fpred_slot_payload(slot), text.base, text.len);
    text.base = fpred_slot_payload(slot);
    give(exchange, &(struct fpred_reply){.status = 200, .parts = &text, .part_count = 1, .slot = slot});
}

static void reply_parts(struct fpred_exchange *exchange, bool sized, bool whole)
{
    struct fpred_slice text = describe(exchange);
    struct fpred_reply head = {.status = status_by(fpred_slot_payload(exchange->slot), exchange->body_bytes)};
    size_t step = text.len / 3 + 1, end = whole ? text.len : text.len / 2;
    enum fpred_status status = FPRED_OK;
    if (fpred_exchange_begin(exchange, &head, sized ? text.len : FPRED_LENGTH_UNKNOWN) != FPRED_OK) {
        give(exchange, &(struct fpred_reply){.status = 500});
        return;
    }
    for (size_t at = 0; at < end && status == FPRED_OK; at += step) {
        size_t len = step < end - at ? step : end - at;
        char *part = memcpy(malloc(len), text.base + at, len); /* ASan sees a use that comes too late */
        status = fpred_exchange_write(exchange, part, len);
        free(part);
    }
    require(status == FPRED_OK || (status == FPRED_CLOSED && fpred_exchange_is_gone(exchange)));
    handler.has_cut = handler.has_cut || !whole;
    fpred_exchange_end(exchange, whole && status == FPRED_OK);
}

static void answer(struct fpred_exchange *exchange)
{
    switch (fpred_exchange_route(exchange)) {
    case ECHO:
        reply_echo(exchange);
        break;
    case KEEP:
        reply_keep(exchange);
        break;
    case PARTS:
        reply_parts(exchange, false, true);
        break;
    case SIZED:
        reply_parts(exchange, true, true);
        break;
    case SHORT:
        reply_parts(exchange, exchange->minor_version == 1, false);
        break;
    case BARE:
        reply_slot(exchange);
        break;
    default:
        reply_text(exchange);
    }
}

static bool take(struct fpred_exchange **exchange)
{
    struct fpred__http1 *http1 = &world.loop.http1;
    return fpred__lane_try_take(http1->lane, exchange) == FPRED_OK ||
           fpred__lane_try_take(http1->control_lane, exchange) == FPRED_OK;
}

static void reap(void)
{
    while (fpred__mailbox_reap(world.loop.http1.mailbox) != NULL)
        handler.owners--;
}

/* world.handle */
static bool handler_turn(void)
{
    struct fpred_exchange *exchange;
    reap();
    if (handler.policy == NEVER || handler.held != NULL || !take(&exchange))
        return false;
    if (handler.policy == AT_ONCE)
        answer(exchange);
    else
        handler.held = exchange;
    return true;
}

/* Answers what was held. Whether there was anything. */
static bool handler_release(void)
{
    struct fpred_exchange *exchange = handler.held;
    if (exchange == NULL)
        return false;
    handler.held = NULL;
    require(world_is_connected() || fpred_exchange_is_gone(exchange));
    answer(exchange);
    return true;
}

static void handler_begin(enum policy policy, bool may_lack_memory)
{
    handler.policy = policy;
    handler.may_lack_memory = may_lack_memory;
    handler.has_cut = false;
}

/* After the connection: everything that was given has come back. */
static void handler_end(void)
{
    while (handler.kept_count > 0)
        fpred_slot_release(handler.kept[--handler.kept_count]);
    reap();
    require(handler.owners == 0 && handler.held == NULL);
}

#endif
