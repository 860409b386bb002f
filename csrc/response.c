/* response: the final output stream of a request, and the bytes on their way to the socket. Loop thread.
 *
 * libh2o's own socket writer reports a failed write as done, and tells nobody how far a slow one has come; so bytes are
 * written here, and libh2o only says when the socket takes more. */
#include "conn.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define FLUSH_TURN ((size_t)4 << 20)

static bool has_no_body(int status)
{
    return status == 204 || status == 304;
}

static char *put(char *at, const void *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

static char *put_text(char *at, const char *text)
{
    return put(at, text, strlen(text));
}

static size_t head_bytes(const h2o_req_t *req)
{
    size_t bytes = 512 + strlen(req->res.reason);
    for (size_t i = 0; i != req->res.headers.size; i++)
        bytes += req->res.headers.entries[i].name->len + req->res.headers.entries[i].value.len + 4;
    return bytes;
}

static char *put_fields(char *at, const h2o_headers_t *headers)
{
    for (size_t i = 0; i != headers->size; i++) {
        const h2o_header_t *header = &headers->entries[i];
        at = put(at, header->orig_name != NULL ? header->orig_name : header->name->base, header->name->len);
        at = put(at, ": ", 2);
        at = put(at, header->value.base, header->value.len);
        at = put(at, "\r\n", 2);
    }
    return at;
}

/* The head of the answer, in the request's pool. */
static struct iovec make_head(struct fpred__conn *conn, h2o_req_t *req)
{
    h2o_timestamp_t now;
    h2o_get_timestamp(req->conn->ctx, &req->pool, &now);
    char *base = h2o_mem_alloc_pool(&req->pool, head_bytes(req)), *at = base;
    at += sprintf(at, "HTTP/1.1 %d %s\r\n", req->res.status, req->res.reason);
    if (h2o_find_header(&req->res.headers, H2O_TOKEN_DATE, -1) == -1)
        at += sprintf(at, "Date: %s\r\n", now.str->rfc1123);
    if (conn->output.framing == FPRED__REPLY_LENGTH && !has_no_body(req->res.status))
        at += sprintf(at, "Content-Length: %" PRIu64 "\r\n", conn->output.length);
    else if (conn->output.framing == FPRED__REPLY_CHUNKED && !has_no_body(req->res.status))
        at = put_text(at, "Transfer-Encoding: chunked\r\n");
    if (conn->close_after)
        at = put_text(at, "Connection: close\r\n");
    else if (conn->head.minor_version == 0)
        at = put_text(at, "Connection: keep-alive\r\n");
    at = put_fields(at, &req->res.headers);
    at = put(at, "\r\n", 2);
    return (struct iovec){base, (size_t)(at - base)};
}

static bool to_head(const struct fpred__conn *conn)
{
    return conn->head.method.len == 4 && memcmp(conn->head.method.base, "HEAD", 4) == 0;
}

/* Whatever is given, the answer at hand has none. */
static bool sends_no_body(const struct fpred__conn *conn)
{
    return has_no_body(conn->status) || to_head(conn);
}

static void add_vector(struct fpred__output *output, const void *bytes, size_t len)
{
    if (len != 0)
        output->vectors[output->count++] = (struct iovec){(void *)bytes, len};
}

static void add_parts(struct fpred__output *output, const h2o_iovec_t *parts, size_t count)
{
    for (size_t i = 0; i != count; i++)
        add_vector(output, parts[i].base, parts[i].len);
}

/* A chunk of all the parts, where there is a byte in them, and the last chunk at the end. */
static void add_chunk(struct fpred__output *output, const h2o_iovec_t *parts, size_t count, bool last)
{
    size_t bytes = 0;
    for (size_t i = 0; i != count; i++)
        bytes += parts[i].len;
    if (bytes != 0) {
        add_vector(output, output->chunk_size, (size_t)sprintf(output->chunk_size, "%zx\r\n", bytes));
        add_parts(output, parts, count);
        add_vector(output, "\r\n", 2);
    }
    if (last)
        add_vector(output, "0\r\n\r\n", 5);
}

/* libh2o's filters end here: once for a whole answer, once for each part of another. */
static void do_send(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *parts, size_t count, h2o_send_state_t state)
{
    (void)self;
    struct fpred__conn *conn = (struct fpred__conn *)req->conn;
    struct fpred__output *output = &conn->output;
    const size_t few = sizeof output->few / sizeof *output->few, others = few - 1;
    output->vectors = output->few;
    output->count = 0;
    if (count + others > few)
        output->vectors = h2o_mem_alloc_pool(&req->pool, (count + others) * sizeof(struct iovec));
    if (!output->head_made) {
        output->vectors[output->count++] = make_head(conn, req);
        output->head_bytes = output->vectors[0].iov_len;
        output->head_made = true;
    }
    if (output->framing == FPRED__REPLY_CHUNKED && !sends_no_body(conn))
        add_chunk(output, parts, count, state == H2O_SEND_STATE_FINAL);
    else
        add_parts(output, parts, count);
}

void fpred__response_attach(struct fpred__conn *conn)
{
    conn->final_ostream = (h2o_ostream_t){.do_send = do_send};
    conn->req._ostr_top = &conn->final_ostream;
}

static void add_field(h2o_req_t *req, const struct fpred_field *field)
{
    char *lower = h2o_mem_alloc_pool(&req->pool, field->name.len);
    memcpy(lower, field->name.base, field->name.len);
    h2o_strtolower(lower, field->name.len);
    h2o_add_header_by_str(&req->pool, &req->res.headers, lower, field->name.len, 1, field->name.base, field->value.base,
                          field->value.len);
}

static void start_output(struct fpred__conn *conn)
{
    int64_t now_ms = fpred__clock_now_ms();
    conn->output = (struct fpred__output){.start_ms = now_ms, .progress_ms = now_ms, .looked_ms = now_ms};
}

/* Status, fields and framing are settled; parts may be sent. libh2o is told a length even where there is none: its own
 * chunked encoding is for status 200 only. */
static void start_response(struct fpred__conn *conn, int status, const char *reason, const struct fpred_field *fields,
                           size_t field_count)
{
    static h2o_generator_t generator = {NULL, NULL};
    h2o_req_t *req = &conn->req;
    if (req->pathconf == NULL) /* refused before libh2o has seen it */
        h2o_req_bind_conf(req, conn->super.hosts[0], &conn->super.hosts[0]->fallback_path);
    req->res.status = conn->status = status;
    req->res.reason = reason != NULL ? reason : fpred_status_reason(status);
    req->res.content_length = 0;
    for (size_t i = 0; i < field_count; i++)
        add_field(req, &fields[i]);
    h2o_start_response(req, &generator);
}

/* All there is to send, or a part of it. */
static void send_parts(struct fpred__conn *conn, h2o_iovec_t *parts, size_t count, bool last)
{
    if (sends_no_body(conn))
        count = 0;
    h2o_send(&conn->req, parts, count, last ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
    conn->state = FPRED__CONN_REPLY;
}

void fpred__respond(struct fpred__conn *conn, int status, const struct fpred_field *fields, size_t field_count,
                    struct fpred_slice body)
{
    h2o_iovec_t part = h2o_iovec_init(body.base, body.len);
    start_output(conn);
    conn->output.length = body.len;
    start_response(conn, status, NULL, fields, field_count);
    send_parts(conn, &part, 1, true);
}

void fpred__respond_reply(struct fpred__conn *conn, const struct fpred_exchange *exchange)
{
    start_output(conn);
    conn->output.length = exchange->reply_bytes;
    start_response(conn, exchange->reply_status, exchange->reply_reason, exchange->reply_fields,
                   exchange->reply_field_count);
    size_t count = exchange->reply_part_count;
    h2o_iovec_t *parts = h2o_mem_alloc_pool(&conn->req.pool, count * sizeof *parts + 1);
    for (size_t i = 0; i < count; i++)
        parts[i] = h2o_iovec_init(exchange->reply_parts[i].base, exchange->reply_parts[i].len);
    send_parts(conn, parts, count, true);
}

/* Where the end of the connection is the end of the answer, only a reset tells that this one is cut. Whatever ends the
 * connection until then, the process among it, makes one. (A Unix socket has none.) */
static void end_by_reset(const struct fpred__conn *conn, bool reset)
{
    const struct linger linger = {.l_onoff = reset, .l_linger = 0};
    setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static void begin_parts(struct fpred__conn *conn, struct fpred_exchange *exchange)
{
    start_output(conn);
    conn->output.length = exchange->reply_length;
    if (exchange->reply_length == FPRED_LENGTH_UNKNOWN) {
        bool old = conn->head.minor_version == 0;
        conn->output.framing = old ? FPRED__REPLY_CLOSE : FPRED__REPLY_CHUNKED;
        if (old && !fpred__exchange_has_no_body(exchange)) {
            conn->close_after = true;
            end_by_reset(conn, true);
        }
    }
    start_response(conn, exchange->reply_status, exchange->reply_reason, exchange->reply_fields,
                   exchange->reply_field_count);
    exchange->head_sent = true;
}

void fpred__respond_part(struct fpred__conn *conn, struct fpred_exchange *exchange)
{
    int64_t now_ms = fpred__clock_now_ms();
    if (!exchange->head_sent)
        begin_parts(conn, exchange);
    else
        conn->output.start_ms += now_ms - conn->output.paused_ms;
    conn->output.progress_ms = conn->output.looked_ms = now_ms;
    h2o_iovec_t part = h2o_iovec_init(exchange->part.base, exchange->part.len);
    send_parts(conn, &part, 1, exchange->last);
}

void fpred__respond_cut(struct fpred__conn *conn)
{
    conn->state = FPRED__CONN_REPLY;
    fpred__conn_kill(conn);
}

/* Drops the first `bytes` of what is to be written. */
static void advance(struct fpred__output *output, size_t bytes)
{
    output->taken_bytes += bytes;
    while (output->count != 0 && bytes >= output->vectors->iov_len) {
        bytes -= output->vectors->iov_len;
        output->vectors++;
        output->count--;
    }
    if (bytes != 0) {
        output->vectors->iov_base = (char *)output->vectors->iov_base + bytes;
        output->vectors->iov_len -= bytes;
    }
}

void fpred__response_is_whole(struct fpred__conn *conn)
{
    if (conn->output.framing == FPRED__REPLY_CLOSE)
        end_by_reset(conn, false);
}

/* What waits in the kernel: with TCP, bytes that have not been acknowledged. A Unix socket counts the memory that they
 * take, several times as much where they come in small parts, so there it only tells whether anything was read. */
void fpred__response_look(struct fpred__conn *conn, int64_t now_ms)
{
    struct fpred__output *output = &conn->output;
    int waiting = 0;
    if (ioctl(conn->fd, SIOCOUTQ, &waiting) == -1)
        waiting = 0;
    int64_t gone = (int64_t)output->taken_bytes - waiting;
    if (gone > output->gone)
        output->progress_ms = now_ms;
    output->gone = gone;
    output->seen_bytes = !conn->is_tcp ? output->taken_bytes : gone > 0 ? (size_t)gone : 0;
    output->looked_ms = now_ms;
}

bool fpred__response_flush(struct fpred__conn *conn)
{
    struct fpred__output *output = &conn->output;
    size_t written = 0;
    while (output->count != 0 && !output->failed && written < FLUSH_TURN) {
        struct msghdr message = {.msg_iov = output->vectors,
                                 .msg_iovlen = output->count < IOV_MAX ? output->count : IOV_MAX};
        ssize_t sent = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            written += (size_t)sent;
            advance(output, (size_t)sent);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            fpred__response_look(conn, fpred__clock_now_ms());
            break;
        } else if (errno != EINTR) {
            output->failed = true;
        }
    }
    if (written != 0)
        output->progress_ms = fpred__clock_now_ms();
    return output->count == 0 || output->failed;
}

bool fpred__response_continue(struct fpred__conn *conn)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (conn->output.count == 0) {
        start_output(conn);
        conn->output.vectors = h2o_mem_alloc_pool(&conn->req.pool, sizeof(struct iovec));
        *conn->output.vectors = (struct iovec){(char *)interim, sizeof interim - 1};
        conn->output.count = 1;
    }
    return fpred__response_flush(conn);
}
