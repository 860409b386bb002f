/* exchange: see exchange.h for the states and their owners. */
#include "exchange.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
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
    exchange->minor_version = head->minor_version;
    exchange->method = moved(head->method, head_buf, bytes);
    exchange->target = moved(head->target, head_buf, bytes);
    exchange->query = moved(head->query, head_buf, bytes);
    exchange->path = (struct fpred_slice){path, head->path.len};
    exchange->fields = fields;
    exchange->field_count = head->field_count;
    strncpy(exchange->client, client, sizeof exchange->client - 1);
    exchange->mailbox = mailbox;
    fpred__mailbox_share(mailbox);
    return exchange;
}

/* Nothing is read from the client's memory or written to it any more. */
static void let_go_of_memory(struct fpred_exchange *exchange)
{
    if (exchange->body_region != NULL)
        fpred_region_release(exchange->body_region);
    if (exchange->answer_region != NULL)
        fpred_region_release(exchange->answer_region);
    exchange->body_region = exchange->answer_region = NULL;
}

void fpred__exchange_free(struct fpred_exchange *exchange)
{
    assert(exchange->reply_owner == NULL);
    let_go_of_memory(exchange);
    if (exchange->slot != NULL)
        fpred_slot_release(exchange->slot);
    if (exchange->reply_slot != NULL)
        fpred_slot_release(exchange->reply_slot);
    free(exchange->reply_fields);
    if (exchange->in_parts)
        sem_destroy(&exchange->returned);
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

struct fpred_slice fpred_exchange_target(const struct fpred_exchange *exchange)
{
    return exchange->target;
}

int fpred_exchange_minor_version(const struct fpred_exchange *exchange)
{
    return exchange->minor_version;
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

int64_t fpred_exchange_queued_us(const struct fpred_exchange *exchange)
{
    return exchange->queued_us;
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

static bool is_head(const struct fpred_exchange *exchange)
{
    return exchange->method.len == 4 && memcmp(exchange->method.base, "HEAD", 4) == 0;
}

/* A bump pointer over the one allocation that a reply's copies share. */
static struct fpred_slice copied(char **at, const void *bytes, size_t len)
{
    struct fpred_slice slice = {*at, len};
    if (len != 0)
        memcpy(*at, bytes, len);
    *at += len;
    return slice;
}

static size_t parts_bytes(const struct fpred_reply *reply)
{
    size_t bytes = 0;
    for (size_t i = 0; i < reply->part_count; i++)
        bytes += reply->parts[i].len;
    return bytes;
}

static size_t text_bytes(const struct fpred_reply *reply)
{
    size_t bytes = reply->reason.len + 1;
    for (size_t i = 0; i < reply->field_count; i++)
        bytes += reply->fields[i].name.len + reply->fields[i].value.len;
    return bytes;
}

static void copy_fields(struct fpred_exchange *exchange, const struct fpred_reply *reply, char **at)
{
    for (size_t i = 0; i < reply->field_count; i++) {
        const struct fpred_field *field = &reply->fields[i];
        exchange->reply_fields[i].name = copied(at, field->name.base, field->name.len);
        exchange->reply_fields[i].value = copied(at, field->value.base, field->value.len);
    }
    exchange->reply_field_count = reply->field_count;
    if (reply->reason.base != NULL) {
        exchange->reply_reason = (char *)copied(at, reply->reason.base, reply->reason.len).base;
        *(*at)++ = '\0';
    }
}

static void copy_parts(struct fpred_exchange *exchange, const struct fpred_reply *reply, char **at)
{
    struct fpred_slice *parts = exchange->reply_parts;
    exchange->reply_part_count = reply->part_count;
    for (size_t i = 0; i < reply->part_count; i++)
        parts[i] = reply->copy ? copied(at, reply->parts[i].base, reply->parts[i].len) : reply->parts[i];
}

static enum fpred_status copy_reply(struct fpred_exchange *exchange, const struct fpred_reply *reply)
{
    size_t fields_bytes = reply->field_count * sizeof(struct fpred_field);
    size_t list_bytes = reply->part_count * sizeof(struct fpred_slice), bytes = parts_bytes(reply);
    exchange->reply_fields = malloc(fields_bytes + list_bytes + text_bytes(reply) + (reply->copy ? bytes : 0));
    if (exchange->reply_fields == NULL)
        return FPRED_NOMEM;
    exchange->reply_parts = (struct fpred_slice *)((char *)exchange->reply_fields + fields_bytes);
    char *at = (char *)exchange->reply_parts + list_bytes;
    exchange->reply_status = reply->status;
    exchange->reply_bytes = bytes;
    copy_fields(exchange, reply, &at);
    copy_parts(exchange, reply, &at);
    return FPRED_OK;
}

/* As it was before copy_reply. */
static void drop_copy(struct fpred_exchange *exchange)
{
    free(exchange->reply_fields);
    exchange->reply_fields = NULL;
    exchange->reply_reason = NULL;
    exchange->reply_field_count = exchange->reply_part_count = exchange->reply_bytes = 0;
}

/* ---- the client's memory ---- */

bool fpred_exchange_fills_memory(const struct fpred_exchange *exchange, int status, size_t bytes)
{
    return exchange->answer_region != NULL && bytes != 0 && bytes <= exchange->answer_bytes && status < 300 &&
           status != 204 && !is_head(exchange);
}

/* Some of what was read was zeros, or some of what was written is nowhere. */
static bool has_lost_memory(const struct fpred_exchange *exchange)
{
    return (exchange->body_region != NULL && fpred_region_is_faulted(exchange->body_region)) ||
           (exchange->answer_region != NULL && fpred_region_is_faulted(exchange->answer_region));
}

static void fill_memory(struct fpred_exchange *exchange, const struct fpred_reply *reply)
{
    char *at = exchange->answer_base;
    for (size_t i = 0; i < reply->part_count; i++) {
        if (reply->parts[i].len != 0)
            memcpy(at, reply->parts[i].base, reply->parts[i].len);
        at += reply->parts[i].len;
    }
}

/* The reply without its parts, and a field that says where they are. */
static enum fpred_status copy_filled(struct fpred_exchange *exchange, const struct fpred_reply *reply)
{
    static const char name[] = "Fastpredict-Memfd";
    char value[80];
    struct fpred_field *fields = malloc((reply->field_count + 1) * sizeof *fields);
    if (fields == NULL)
        return FPRED_NOMEM;
    for (size_t i = 0; i < reply->field_count; i++)
        fields[i] = reply->fields[i];
    int len =
        snprintf(value, sizeof value, "offset=%" PRIu64 "; length=%zu", exchange->answer_offset, parts_bytes(reply));
    fields[reply->field_count] = (struct fpred_field){{name, sizeof name - 1}, {value, (size_t)len}};
    struct fpred_reply told = *reply;
    told.fields = fields;
    told.field_count++;
    told.part_count = 0;
    enum fpred_status status = copy_reply(exchange, &told);
    free(fields);
    return status;
}

static enum fpred_status copy_lost(struct fpred_exchange *exchange)
{
    static const struct fpred_field type = {{"Content-Type", 12}, {"application/json", 16}};
    char text[200];
    int len = snprintf(text, sizeof text, "{\"error\": \"%s\"}\n", fpred_status_text(FPRED_MEMORY_LOST));
    struct fpred_slice part = {text, (size_t)len};
    struct fpred_reply lost = {.status = fpred_status_http(FPRED_MEMORY_LOST),
                               .fields = &type,
                               .field_count = 1,
                               .parts = &part,
                               .part_count = 1,
                               .copy = true};
    return copy_reply(exchange, &lost);
}

static enum fpred_status make_reply(struct fpred_exchange *exchange, const struct fpred_reply *reply)
{
    bool fills = fpred_exchange_fills_memory(exchange, reply->status, parts_bytes(reply));
    if (fills)
        fill_memory(exchange, reply);
    enum fpred_status status = fills ? copy_filled(exchange, reply) : copy_reply(exchange, reply);
    if (!has_lost_memory(exchange)) /* asked after the last read: copying a short answer is one */
        return status;
    drop_copy(exchange);
    return copy_lost(exchange);
}

enum fpred_status fpred_exchange_reply(struct fpred_exchange *exchange, const struct fpred_reply *reply)
{
    enum fpred_status status = make_reply(exchange, reply);
    if (status != FPRED_OK)
        exchange->reply_status = 500;
    let_go_of_memory(exchange);
    exchange->reply_slot = reply->slot;
    exchange->reply_owner = reply->owner;
    exchange->last = exchange->whole = true;
    fpred__exchange_step(exchange, FPRED__RUNNING, FPRED__REPLIED);
    fpred__mailbox_post(exchange->mailbox, exchange);
    return status;
}

/* ---- an answer in parts ---- */

bool fpred__exchange_has_no_body(const struct fpred_exchange *exchange)
{
    return exchange->reply_status == 204 || exchange->reply_status == 304 || is_head(exchange);
}

enum fpred_status fpred_exchange_begin(struct fpred_exchange *exchange, const struct fpred_reply *head, uint64_t length)
{
    assert(exchange->state == FPRED__RUNNING && !exchange->in_parts);
    struct fpred_reply bare = *head;
    bare.parts = NULL;
    bare.part_count = 0;
    enum fpred_status status = copy_reply(exchange, &bare);
    if (status != FPRED_OK)
        return status;
    sem_init(&exchange->returned, 0, 0);
    exchange->in_parts = true;
    exchange->reply_length = length;
    return FPRED_OK;
}

uint64_t fpred_exchange_rest(const struct fpred_exchange *exchange)
{
    assert(exchange->in_parts);
    return exchange->reply_length == FPRED_LENGTH_UNKNOWN ? FPRED_LENGTH_UNKNOWN
                                                          : exchange->reply_length - exchange->written;
}

enum fpred_status fpred_exchange_write(struct fpred_exchange *exchange, const void *bytes, size_t len)
{
    assert(exchange->in_parts && len <= fpred_exchange_rest(exchange));
    if (fpred__exchange_has_no_body(exchange))
        return fpred_exchange_is_gone(exchange) ? FPRED_CLOSED : FPRED_OK;
    exchange->written += len;
    exchange->part = (struct fpred_slice){bytes, len};
    fpred__exchange_step(exchange, FPRED__RUNNING, FPRED__REPLIED);
    fpred__mailbox_post(exchange->mailbox, exchange);
    while (sem_wait(&exchange->returned) == -1)
        assert(errno == EINTR);
    return exchange->part_status;
}

void fpred__exchange_return(struct fpred_exchange *exchange, enum fpred_status status)
{
    assert(exchange->in_parts && !exchange->last);
    fpred__slab_uncharge(fpred__mailbox_slab(exchange->mailbox), exchange->part_charged);
    exchange->part_charged = 0;
    exchange->part = (struct fpred_slice){NULL, 0};
    exchange->part_status = status;
    fpred__exchange_step(exchange, FPRED__WRITING, FPRED__RUNNING);
    sem_post(&exchange->returned);
}

void fpred_exchange_end(struct fpred_exchange *exchange, bool whole)
{
    assert(exchange->in_parts);
    uint64_t rest = fpred_exchange_rest(exchange);
    bool complete = rest == 0 || rest == FPRED_LENGTH_UNKNOWN || fpred__exchange_has_no_body(exchange);
    exchange->last = true;
    exchange->whole = whole && complete && !has_lost_memory(exchange);
    let_go_of_memory(exchange);
    fpred__exchange_step(exchange, FPRED__RUNNING, FPRED__REPLIED);
    fpred__mailbox_post(exchange->mailbox, exchange);
}
