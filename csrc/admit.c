/* admit: the head decides. Route, type, length, queue and memory are checked before a byte of the body is read, so a
 * refusal costs nothing. Loop thread. */
#include "conn.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "health.h"

#define DETAIL_MAX 1024
#define TEXT(literal) ((struct fpred_slice){(literal), sizeof(literal) - 1})

static const struct fpred_field field_json = {TEXT("Content-Type"), TEXT("application/json")};
static const struct fpred_field field_retry = {TEXT("Retry-After"), TEXT("1")};

/* printf into the request's pool; cut where it is longer than anybody wants to read. */
static const char *format(struct fpred__conn *conn, const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *format(struct fpred__conn *conn, const char *format, ...)
{
    va_list args;
    char *text = h2o_mem_alloc_pool(&conn->req.pool, DETAIL_MAX);
    va_start(args, format);
    vsnprintf(text, DETAIL_MAX, format, args);
    va_end(args);
    return text;
}

/* {"error": "detail"}, in the request's pool. */
static struct fpred_slice json_error(struct fpred__conn *conn, const char *detail)
{
    char *base = h2o_mem_alloc_pool(&conn->req.pool, strlen(detail) * 6 + sizeof "{\"error\": \"\"}\n"), *at = base;
    at += sprintf(at, "{\"error\": \"");
    for (const unsigned char *c = (const unsigned char *)detail; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\')
            at += sprintf(at, "\\%c", *c);
        else if (*c < 0x20 || *c == 0x7f)
            at += sprintf(at, "\\u%04x", *c);
        else
            *at++ = (char)*c;
    }
    at += sprintf(at, "\"}\n");
    return (struct fpred_slice){base, (size_t)(at - base)};
}

/* Refusals after which nothing may be read as a request: the framing is unknown, or the client is too slow for it. */
static bool ends_connection(enum fpred_status status)
{
    return (status >= FPRED_BAD_REQUEST_LINE && status <= FPRED_HEAD_TOO_LARGE) || status == FPRED_HEAD_TIMEOUT ||
           status == FPRED_BODY_TIMEOUT || status == FPRED_BODY_TOO_SLOW;
}

/* Decides whether the answer that comes now is the last on its connection, and what becomes of a body that has not been
 * read to its end: thrown away as it comes, then the next request; or, where that can't be waited for, the connection
 * ends. */
static void settle_input(struct fpred__conn *conn, bool ends)
{
    const struct fpred__head *head = &conn->head;
    bool close = ends || !head->keep_alive || conn->http1->draining;
    if (conn->exchange != NULL && fpred__body_is_complete(&conn->body))
        conn->body_pending = false; /* refused with its last byte */
    if (conn->body_pending) {
        /* a client that waits for 100 may send its body or not: nothing tells which */
        if (head->expect_continue && conn->state == FPRED__CONN_HEAD && conn->filled == conn->consumed)
            close = true;
        if (head->framing == FPRED__FRAMING_LENGTH &&
            head->content_length - conn->body.received > FPRED__CONN_DISCARD_MAX)
            close = true;
        fpred__body_discard(&conn->body, head->framing, (size_t)head->content_length);
    }
    conn->close_after = close;
    conn->lingers = close && (ends || conn->body_pending || conn->http1->draining);
}

/* An exchange that no thread has seen goes with its request. */
static void drop_exchange(struct fpred__conn *conn)
{
    if (conn->exchange == NULL)
        return;
    assert(conn->exchange->state == FPRED__RECEIVING);
    fpred__exchange_free(conn->exchange);
    conn->exchange = NULL;
}

void fpred__refuse(struct fpred__conn *conn, enum fpred_status status, const char *detail)
{
    settle_input(conn, ends_connection(status));
    drop_exchange(conn);
    struct fpred_field fields[2] = {field_json, field_retry};
    int http = fpred_status_http(status);
    struct fpred_slice body = json_error(conn, detail != NULL ? detail : fpred_status_text(status));
    fpred__respond(conn, http, fields, http == 503 ? 2 : 1, body);
}

/* ---- answers that need no predict thread ---- */

static void answer(struct fpred__conn *conn, int status, const struct fpred_field *fields, size_t count,
                   struct fpred_slice body)
{
    settle_input(conn, false);
    fpred__respond(conn, status, fields, count, body);
}

static bool method_is(const struct fpred__conn *conn, const char *name)
{
    return conn->head.method.len == strlen(name) && memcmp(conn->head.method.base, name, strlen(name)) == 0;
}

static void answer_options(struct fpred__conn *conn, enum fpred__route_kind kind)
{
    const char *allow = kind == FPRED__ROUTE_NONE ? "GET, HEAD, POST, OPTIONS" : fpred__routes_allow(kind);
    struct fpred_field field = {TEXT("Allow"), {allow, strlen(allow)}};
    answer(conn, 204, &field, 1, (struct fpred_slice){NULL, 0});
}

static void refuse_method(struct fpred__conn *conn, enum fpred__route_kind kind)
{
    const char *allow = fpred__routes_allow(kind);
    struct fpred_field fields[2] = {field_json, {TEXT("Allow"), {allow, strlen(allow)}}};
    const char *detail = format(conn, "%.*s is not allowed here; this path takes %s", (int)conn->head.method.len,
                                conn->head.method.base, allow);
    answer(conn, 405, fields, 2, json_error(conn, detail));
}

static void answer_health(struct fpred__conn *conn, enum fpred__route_kind kind)
{
    static const struct fpred_field text = {TEXT("Content-Type"), TEXT("text/plain; charset=utf-8")};
    if (!method_is(conn, "GET") && !method_is(conn, "HEAD")) {
        refuse_method(conn, kind);
        return;
    }
    bool ready = kind == FPRED__ROUTE_READYZ || kind == FPRED__ROUTE_V2_READY;
    enum fpred_status status = ready ? fpred__health_ready(conn->http1) : FPRED_OK;
    if (status != FPRED_OK)
        fpred__refuse(conn, status, NULL);
    else if (kind == FPRED__ROUTE_V2_LIVE)
        answer(conn, 200, &field_json, 1, TEXT("{\"live\": true}\n"));
    else if (kind == FPRED__ROUTE_V2_READY)
        answer(conn, 200, &field_json, 1, TEXT("{\"ready\": true}\n"));
    else
        answer(conn, 200, &text, 1, TEXT("ok\n"));
}

/* ---- predict routes ---- */

/* The media type without parameters. */
static struct fpred_slice media_type(struct fpred_slice value)
{
    size_t len = 0;
    while (len < value.len && value.base[len] != ';')
        len++;
    while (len > 0 && (value.base[len - 1] == ' ' || value.base[len - 1] == '\t'))
        len--;
    return (struct fpred_slice){value.base, len};
}

static enum fpred_status body_kind(const struct fpred__head *head, enum fpred_body_kind *kind)
{
    if (head->content_encoding.base != NULL && !fpred__slice_is(head->content_encoding, "identity"))
        return FPRED_UNSUPPORTED_ENCODING;
    struct fpred_slice type = media_type(head->content_type);
    if (type.len == 0 || fpred__slice_is(type, "application/octet-stream") ||
        fpred__slice_is(type, "application/x-www-form-urlencoded"))
        *kind = FPRED_BODY_RAW;
    else if (fpred__slice_is(type, "application/x-npy"))
        *kind = FPRED_BODY_NPY;
    else if (fpred__slice_is(type, "application/json"))
        *kind = FPRED_BODY_JSON;
    else
        return FPRED_UNSUPPORTED_TYPE;
    return FPRED_OK;
}

static bool takes_any_body(const struct fpred_route *route)
{
    return route->mount || route->any_body;
}

static bool raw_fits(const struct fpred_route *route, uint64_t bytes)
{
    if (route->raw_unit_bytes == 0)
        return bytes == 0;
    return route->raw_exact ? bytes == route->raw_unit_bytes : bytes % route->raw_unit_bytes == 0;
}

/* Checks a length, announced or received, against the route; *detail says what is wrong. */
static enum fpred_status check_length(struct fpred__conn *conn, const struct fpred_route *route,
                                      enum fpred_body_kind kind, uint64_t bytes, const char **detail)
{
    if (takes_any_body(route))
        return FPRED_OK;
    if (kind == FPRED_BODY_RAW && !raw_fits(route, bytes)) {
        *detail = format(conn, "the body has %llu bytes; expected %s", (unsigned long long)bytes, route->expected);
        return FPRED_BODY_MISMATCH;
    }
    if (kind == FPRED_BODY_NPY && route->npy_max_bytes != 0 && bytes > route->npy_max_bytes) {
        *detail = format(conn, "the body has %llu bytes; expected a .npy file of %s", (unsigned long long)bytes,
                         route->expected);
        return FPRED_BODY_MISMATCH;
    }
    if (kind == FPRED_BODY_JSON && bytes > FPRED__JSON_MAX) {
        *detail = format(conn,
                         "the body has %llu bytes; JSON may have %zu, send application/octet-stream or "
                         "application/x-npy",
                         (unsigned long long)bytes, FPRED__JSON_MAX);
        return FPRED_BODY_TOO_LARGE;
    }
    return FPRED_OK;
}

/* The most bytes that a route takes, whatever it is. */
static size_t body_limit(const struct fpred__conn *conn, const struct fpred_route *route)
{
    size_t limit = conn->http1->config->max_request_body_bytes;
    return route->control && limit > FPRED_CONTROL_BODY_MAX ? FPRED_CONTROL_BODY_MAX : limit;
}

/* The most that a chunked body may have. */
static size_t chunked_limit(const struct fpred__conn *conn, const struct fpred_route *route, enum fpred_body_kind kind)
{
    size_t limit = body_limit(conn, route), fits = SIZE_MAX;
    if (takes_any_body(route))
        return limit;
    if (kind == FPRED_BODY_RAW && (route->raw_exact || route->raw_unit_bytes == 0))
        fits = route->raw_unit_bytes;
    else if (kind == FPRED_BODY_NPY && route->npy_max_bytes != 0)
        fits = route->npy_max_bytes;
    else if (kind == FPRED_BODY_JSON)
        fits = FPRED__JSON_MAX;
    return fits < limit ? fits : limit;
}

/* The length of a body, where it is known before it has come: announced, or in the client's memory. */
static bool known_length(const struct fpred__conn *conn, uint64_t *bytes)
{
    const struct fpred__head *head = &conn->head;
    *bytes = head->framing == FPRED__FRAMING_LENGTH ? head->content_length : 0;
    if (conn->memory.body.is_named)
        *bytes = conn->memory.body.bytes;
    return head->framing != FPRED__FRAMING_CHUNKED;
}

/* What a predict route wants of a body's type. */
static enum fpred_status check_type(struct fpred__conn *conn, const struct fpred_route *route,
                                    enum fpred_body_kind *kind, const char **detail)
{
    enum fpred_status status = body_kind(&conn->head, kind);
    if (status == FPRED_OK && *kind == FPRED_BODY_RAW && !route->raw_allowed) {
        *detail = format(conn, "raw bytes can't tell the shape; expected %s, send application/x-npy", route->expected);
        status = FPRED_BODY_MISMATCH;
    }
    return status;
}

static enum fpred_status check_limit(struct fpred__conn *conn, const struct fpred_route *route, const char **detail)
{
    size_t limit = body_limit(conn, route);
    uint64_t bytes;
    if (!known_length(conn, &bytes) || bytes <= limit)
        return FPRED_OK;
    *detail = format(conn, "the body has %llu bytes; the limit is %zu", (unsigned long long)bytes, limit);
    return FPRED_BODY_TOO_LARGE;
}

/* Whether there is anybody to take it now. A control route waits for no predict function. */
static enum fpred_status check_queue(const struct fpred__http1 *http1, const struct fpred_route *route)
{
    const struct fpred__lane *lane = route->control ? http1->control_lane : http1->lane;
    if (!route->control && !atomic_load_explicit(&http1->ready, memory_order_acquire))
        return FPRED_NOT_READY;
    return fpred__lane_depth(lane) >= http1->config->max_queued_requests ? FPRED_QUEUE_FULL : FPRED_OK;
}

/* An inference request that matched no model: its tensors need not come before it learns of it. */
static bool is_infer(const struct fpred__conn *conn)
{
    static const char end[] = "/infer";
    struct fpred_slice path = conn->head.path;
    size_t len = sizeof end - 1;
    return method_is(conn, "POST") && path.len > len && memcmp(path.base + path.len - len, end, len) == 0;
}

/* Everything about a request for a predict thread that its head tells. */
static enum fpred_status check_head(struct fpred__conn *conn, const struct fpred_route *route,
                                    enum fpred_body_kind *kind, const char **detail)
{
    if (conn->head.bad_expect)
        return FPRED_BAD_EXPECT;
    uint64_t bytes;
    enum fpred_status status = fpred__memory_read(&conn->head, conn->is_tcp, &conn->memory, detail);
    if (route->control && is_infer(conn)) {
        *detail = "there is no such model, or no such version of it";
        return FPRED_NOT_FOUND;
    }
    if (status == FPRED_OK && !takes_any_body(route))
        status = check_type(conn, route, kind, detail);
    if (status == FPRED_OK)
        status = check_limit(conn, route, detail);
    if (status == FPRED_OK && known_length(conn, &bytes))
        status = check_length(conn, route, *kind, bytes, detail);
    return status == FPRED_OK ? check_queue(conn->http1, route) : status;
}

/* Bytes of JSON in front of the tensors (the Open Inference Protocol's binary data): a hint about alignment, and no
 * more, so what can't be read is 0. */
static size_t json_ahead(const struct fpred__head *head)
{
    size_t bytes = 0;
    for (size_t i = 0; i < head->field_count; i++) {
        if (!fpred__slice_is(head->fields[i].name, "inference-header-content-length"))
            continue;
        struct fpred_slice value = head->fields[i].value;
        bytes = 0;
        for (size_t j = 0; j < value.len && value.len < 16; j++) {
            if (value.base[j] < '0' || value.base[j] > '9')
                return 0;
            bytes = bytes * 10 + (size_t)(value.base[j] - '0');
        }
    }
    return bytes;
}

/* A place for the body: where the client's memory has it, or a slot. */
static enum fpred_status begin_body(struct fpred__conn *conn, size_t index, enum fpred_body_kind kind,
                                    struct fpred_slot *lent)
{
    const struct fpred__head *head = &conn->head;
    const struct fpred_route *route = fpred__routes_at(conn->http1->routes, index);
    size_t ahead = takes_any_body(route) ? json_ahead(head) : 0;
    if (lent == NULL)
        return fpred__body_begin(&conn->body, conn->http1->slab, head->framing, head->content_length,
                                 chunked_limit(conn, route, kind), ahead, conn->is_tcp);
    fpred__body_lend(&conn->body, conn->http1->slab, lent);
    return FPRED_OK;
}

/* The client's memory, where the head names any. */
static enum fpred_status lend(struct fpred__conn *conn, struct fpred__lent *lent, const char **detail)
{
    const struct fpred__memory *memory = &conn->memory;
    size_t most = conn->http1->config->max_request_body_bytes;
    if (!memory->body.is_named && !memory->answer.is_named)
        return FPRED_OK;
    enum fpred_status status =
        fpred__memfds_lend(&conn->memfds, conn->consumed, memory, most < SIZE_MAX / 4 ? most * 4 : SIZE_MAX,
                           &conn->http1->bin, lent, detail);
    fpred__conn_empty_bin(conn);
    return status;
}

static enum fpred_status new_exchange(struct fpred__conn *conn, const struct fpred__lent *lent)
{
    struct fpred_exchange *exchange =
        fpred__exchange_new(conn->http1->mailbox, &conn->head, conn->buffer, conn->client);
    if (exchange == NULL)
        return FPRED_NOMEM;
    exchange->answer_region = lent->answer;
    exchange->answer_base = lent->answer_base;
    exchange->answer_bytes = conn->memory.answer.bytes;
    exchange->answer_offset = conn->memory.answer.offset;
    if (lent->body != NULL)
        exchange->body_region = fpred__region_share(fpred_slot_region(lent->body));
    exchange->conn = conn;
    conn->exchange = exchange;
    return FPRED_OK;
}

/* Exchange and slot, so that the body can come. */
static enum fpred_status begin(struct fpred__conn *conn, size_t index, enum fpred_body_kind kind, const char **detail)
{
    const struct fpred__head *head = &conn->head;
    const struct fpred_route *route = fpred__routes_at(conn->http1->routes, index);
    struct fpred__lent lent = {0};
    enum fpred_status status = lend(conn, &lent, detail);
    if (status != FPRED_OK)
        return status;
    status = begin_body(conn, index, kind, lent.body);
    if (status == FPRED_OK)
        status = new_exchange(conn, &lent);
    if (status != FPRED_OK) {
        fpred__body_drop(&conn->body);
        if (lent.answer != NULL)
            fpred__region_bin_put(&conn->http1->bin, lent.answer);
        return status;
    }
    conn->exchange->route = index;
    conn->exchange->kind = kind;
    conn->exchange->control = route->control;
    conn->body_start_ms = conn->body_progress_ms = fpred__clock_now_ms();
    bool ask = head->expect_continue && conn->filled == conn->consumed && !fpred__body_is_complete(&conn->body);
    conn->state = ask ? FPRED__CONN_CONTINUE : FPRED__CONN_BODY;
    return FPRED_OK;
}

static void admit_predict(struct fpred__conn *conn, size_t index)
{
    const char *detail = NULL;
    enum fpred_body_kind kind = FPRED_BODY_RAW;
    enum fpred_status status = check_head(conn, fpred__routes_at(conn->http1->routes, index), &kind, &detail);
    if (status == FPRED_OK)
        status = begin(conn, index, kind, &detail);
    if (status == FPRED_NOMEM)
        status = FPRED_OVER_BUDGET; /* to the client the two are the same: later */
    if (status != FPRED_OK)
        fpred__refuse(conn, status, detail);
}

static void admit(struct fpred__conn *conn)
{
    size_t index = 0;
    enum fpred__route_kind kind = fpred__routes_find(conn->http1->routes, conn->head.path, &index);
    bool asterisk = conn->head.raw_path.len == 1 && conn->head.raw_path.base[0] == '*';
    if (method_is(conn, "OPTIONS") && (asterisk || (kind != FPRED__ROUTE_NONE && kind != FPRED__ROUTE_MOUNT)))
        answer_options(conn, asterisk ? FPRED__ROUTE_NONE : kind);
    else if (kind == FPRED__ROUTE_NONE)
        fpred__refuse(conn, FPRED_NOT_FOUND,
                      format(conn, "nothing is served at %.*s",
                             (int)(conn->head.raw_path.len < 200 ? conn->head.raw_path.len : 200),
                             conn->head.raw_path.base));
    else if (kind == FPRED__ROUTE_MOUNT || (kind == FPRED__ROUTE_PREDICT && method_is(conn, "POST")))
        admit_predict(conn, index);
    else if (kind == FPRED__ROUTE_PREDICT)
        refuse_method(conn, kind);
    else
        answer_health(conn, kind);
}

void fpred__admit(struct fpred__conn *conn)
{
    admit(conn);
    fpred__memfds_drop(&conn->memfds, conn->consumed); /* whatever was decided: they were not for this head */
}

void fpred__admit_complete(struct fpred__conn *conn)
{
    struct fpred_exchange *exchange = conn->exchange;
    const struct fpred_route *route = fpred__routes_at(conn->http1->routes, exchange->route);
    const char *detail = NULL;
    conn->body_pending = false;
    fpred__memfds_drop(&conn->memfds, conn->consumed); /* came with the body */
    exchange->body_bytes = conn->body.received;
    exchange->slot = fpred__body_take(&conn->body, &exchange->charged_bytes);
    exchange->body = fpred_slot_payload(exchange->slot);
    enum fpred_status status = check_length(conn, route, exchange->kind, exchange->body_bytes, &detail);
    if (status != FPRED_OK) { /* a chunked body tells its length only now */
        fpred__refuse(conn, status, detail);
        return;
    }
    conn->state = FPRED__CONN_WAIT;
    conn->state_ms = fpred__clock_now_ms();
    fpred__lane_push(fpred__conn_lane(conn), exchange);
    if (route->control)
        fpred__mailbox_call_control(conn->http1->mailbox);
}
