/* exchange: see exchange.h for the states and their owners. */
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

#include "mailbox.h"

/* The slice at the same place in the copy; both buffers hold the same bytes from the start of the head. */
static struct fpred_slice moved(struct fpred_slice slice, const char *from, char *to)
{
    if (slice.base == NULL)
        return slice;
    return (struct fpred_slice){to + (slice.base - from), slice.len};
}

struct fpred_exchange *fpred__exchange_new(struct fpred__mailbox *mailbox, const struct fpred__head *head,
                                           const char *head_buf, const char *client)
{
    size_t fields_bytes = head->field_count * sizeof(struct fpred_field);
    struct fpred_exchange *exchange = malloc(sizeof *exchange + fields_bytes + head->bytes + head->path.len);
    if (exchange == NULL)
        return NULL;
    memset(exchange, 0, sizeof *exchange);
    struct fpred_field *fields = (struct fpred_field *)(exchange + 1);
    char *bytes = (char *)fields + fields_bytes, *path = bytes + head->bytes;
    memcpy(bytes, head_buf, head->bytes);
    memcpy(path, head->path.base, head->path.len);
    for (size_t i = 0; i < head->field_count; i++) {
        fields[i].name = moved(head->fields[i].name, head_buf, bytes);
        fields[i].value = moved(head->fields[i].value, head_buf, bytes);
    }
    exchange->state = FPRED__RECEIVING;
    atomic_init(&exchange->gone, false);
    exchange->method = moved(head->method, head_buf, bytes);
    exchange->query = moved(head->query, head_buf, bytes);
    exchange->path = (struct fpred_slice){path, head->path.len};
    exchange->fields = fields;
    exchange->field_count = head->field_count;
    strncpy(exchange->client, client, sizeof exchange->client - 1);
    exchange->mailbox = mailbox;
    fpred__mailbox_share(mailbox);
    return exchange;
}

void fpred__exchange_free(struct fpred_exchange *exchange)
{
    assert(exchange->reply_owner == NULL);
    if (exchange->slot != NULL)
        fpred_slot_release(exchange->slot);
    if (exchange->reply_slot != NULL)
        fpred_slot_release(exchange->reply_slot);
    free(exchange->reply_fields);
    struct fpred__mailbox *mailbox = exchange->mailbox;
    fpred__slab_uncharge(fpred__mailbox_slab(mailbox), exchange->charged_bytes);
    free(exchange);
    fpred__mailbox_release(mailbox);
}

size_t fpred_exchange_route(const struct fpred_exchange *exchange)
{
    return exchange->route;
}

enum fpred_body_kind fpred_exchange_kind(const struct fpred_exchange *exchange)
{
    return exchange->kind;
}

struct fpred_slice fpred_exchange_method(const struct fpred_exchange *exchange)
{
    return exchange->method;
}

struct fpred_slice fpred_exchange_path(const struct fpred_exchange *exchange)
{
    return exchange->path;
}

struct fpred_slice fpred_exchange_query(const struct fpred_exchange *exchange)
{
    return exchange->query;
}

const struct fpred_field *fpred_exchange_fields(const struct fpred_exchange *exchange, size_t *count)
{
    *count = exchange->field_count;
    return exchange->fields;
}

const char *fpred_exchange_client(const struct fpred_exchange *exchange)
{
    return exchange->client;
}

bool fpred_exchange_is_gone(const struct fpred_exchange *exchange)
{
    return atomic_load_explicit(&exchange->gone, memory_order_relaxed);
}

size_t fpred_exchange_body_bytes(const struct fpred_exchange *exchange)
{
    return exchange->body_bytes;
}

struct fpred_slot *fpred_exchange_take_slot(struct fpred_exchange *exchange)
{
    struct fpred_slot *slot = exchange->slot;
    exchange->slot = NULL;
    return slot;
}

enum fpred_status fpred_exchange_reply_slot(struct fpred_exchange *exchange, size_t bytes, struct fpred_slot **slot)
{
    return fpred__slab_take(fpred__mailbox_slab(exchange->mailbox), bytes, slot);
}

/* ---- the reply ---- */

static size_t text_bytes(const struct fpred_reply *reply)
{
    size_t bytes = reply->memory == FPRED_REPLY_COPY ? reply->body_bytes : 0;
    for (size_t i = 0; i < reply->field_count; i++)
        bytes += reply->fields[i].name.len + reply->fields[i].value.len;
    return bytes;
}

static struct fpred_slice copied(char **at, const void *bytes, size_t len)
{
    struct fpred_slice slice = {*at, len};
    if (len != 0)
        memcpy(*at, bytes, len);
    *at += len;
    return slice;
}

/* Copies the fields, and the body where it is to be copied, into one allocation of the exchange's. */
static enum fpred_status copy_reply(struct fpred_exchange *exchange, const struct fpred_reply *reply)
{
    size_t fields_bytes = reply->field_count * sizeof(struct fpred_field), text = text_bytes(reply);
    exchange->reply_fields = malloc(fields_bytes + text + 1);
    if (exchange->reply_fields == NULL)
        return FPRED_NOMEM;
    char *at = (char *)exchange->reply_fields + fields_bytes;
    for (size_t i = 0; i < reply->field_count; i++) {
        const struct fpred_field *field = &reply->fields[i];
        exchange->reply_fields[i].name = copied(&at, field->name.base, field->name.len);
        exchange->reply_fields[i].value = copied(&at, field->value.base, field->value.len);
    }
    exchange->reply_field_count = reply->field_count;
    exchange->reply_status = reply->status;
    if (reply->memory == FPRED_REPLY_COPY)
        exchange->reply_body = copied(&at, reply->body, reply->body_bytes);
    else
        exchange->reply_body = (struct fpred_slice){reply->body, reply->body_bytes};
    return FPRED_OK;
}

enum fpred_status fpred_exchange_reply(struct fpred_exchange *exchange, const struct fpred_reply *reply)
{
    enum fpred_status status = copy_reply(exchange, reply);
    if (status != FPRED_OK)
        exchange->reply_status = 500;
    if (reply->memory == FPRED_REPLY_SLOT)
        exchange->reply_slot = reply->owner;
    else if (reply->memory == FPRED_REPLY_OWNER)
        exchange->reply_owner = reply->owner;
    fpred__exchange_step(exchange, FPRED__RUNNING, FPRED__REPLIED);
    fpred__mailbox_post(exchange->mailbox, exchange);
    return status;
}
