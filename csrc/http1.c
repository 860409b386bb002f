/* http1: the connection's states, events and deadlines; see http1.h. Loop thread. */
#include "conn.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* ---- states: each returns whether there is more to do now ---- */

static void give_to_h2o(struct fpred__conn *conn)
{
    const struct fpred__head *head = &conn->head;
    h2o_req_t *req = &conn->req;
    atomic_fetch_add_explicit(&conn->http1->requests, 1, memory_order_relaxed);
    req->version = 0x100 | head->minor_version;
    req->http1_is_persistent = head->keep_alive;
    req->input.scheme = &H2O_URL_SCHEME_HTTP;
    req->input.method = h2o_iovec_init(head->method.base, head->method.len);
    req->input.authority = h2o_iovec_init(head->authority.base, head->authority.len);
    /* Matching is ours (admit.c); libh2o gets a path that it can normalise. */
    req->input.path = h2o_iovec_init(H2O_STRLIT("/"));
    h2o_process_request(req);
}

int fpred__http1_on_req(h2o_handler_t *self, h2o_req_t *req)
{
    (void)self;
    fpred__admit((struct fpred__conn *)req->conn);
    return 0;
}

static bool head_is_complete(struct fpred__conn *conn)
{
    char *path = h2o_mem_alloc_pool(&conn->req.pool, conn->scan.at);
    enum fpred_status status = fpred__head_parse(&conn->scan, conn->buffer, path, &conn->head);
    conn->consumed = conn->scan.at;
    if (status != FPRED_OK) {
        conn->head.framing = FPRED__FRAMING_NONE;
        fpred__refuse(conn, status, NULL);
        return true;
    }
    conn->body_pending = conn->head.framing == FPRED__FRAMING_CHUNKED ||
                         (conn->head.framing == FPRED__FRAMING_LENGTH && conn->head.content_length != 0);
    give_to_h2o(conn);
    return true;
}

static bool step_head(struct fpred__conn *conn)
{
    if (conn->filled == 0)
        return fpred__input_read(conn);
    if (conn->state == FPRED__CONN_IDLE) {
        fpred__conn_leave_idle(conn);
        conn->state = FPRED__CONN_HEAD;
        conn->head_start_us = fpred__clock_now_us();
    }
    enum fpred_status status = fpred__head_scan(&conn->scan, conn->buffer, conn->filled);
    if (status == FPRED_OK)
        return head_is_complete(conn);
    if (status != FPRED_MORE) {
        fpred__refuse(conn, status, NULL);
        return true;
    }
    if (fpred__input_room(conn) == 0 && !fpred__input_grow(conn)) {
        fpred__conn_kill(conn);
        return true;
    }
    return fpred__input_read(conn);
}

static bool step_continue(struct fpred__conn *conn)
{
    if (!fpred__response_continue(conn))
        return false;
    if (conn->output.failed)
        fpred__conn_kill(conn);
    else
        conn->state = FPRED__CONN_BODY;
    return true;
}

/* What a step of the body came to. True: there is more to do now. */
static bool body_went(struct fpred__conn *conn, enum fpred_status status)
{
    if (status == FPRED_MORE)
        return false;
    if (status == FPRED_OK)
        fpred__admit_complete(conn);
    else if (status == FPRED_CLOSED)
        fpred__conn_kill(conn);
    else
        fpred__refuse(conn, status, NULL);
    return true;
}

/* What belongs to the body leaves the buffer, which must have room to see the client leave. */
static enum fpred_status feed_body(struct fpred__conn *conn)
{
    char *bytes = conn->buffer + conn->consumed;
    size_t used = 0, len = conn->filled - conn->consumed;
    enum fpred_status status = fpred__body_feed(&conn->body, bytes, len, &used);
    fpred__input_used(conn, conn->consumed, used);
    return status;
}

/* Receives a turn; polling, which is level-triggered, brings the next one. */
static enum fpred_status receive_body(struct fpred__conn *conn)
{
    if (!conn->may_read)
        return FPRED_MORE;
    struct fpred__spill spill = {conn->buffer + conn->filled, 0, conn->buffer_bytes - conn->filled};
    size_t before = conn->body.raw;
    enum fpred_status status = fpred__body_receive(&conn->body, conn->fd, &spill, conn->http1->scratch);
    conn->filled += spill.len;
    conn->may_read = false;
    if (conn->body.raw != before)
        conn->body_progress_ms = fpred__clock_now_ms();
    return status;
}

static enum fpred_status body_goes_on(struct fpred__conn *conn)
{
    enum fpred_status status = feed_body(conn);
    return status == FPRED_MORE ? receive_body(conn) : status;
}

static bool step_body(struct fpred__conn *conn)
{
    return body_went(conn, body_goes_on(conn));
}

/* Nothing to do but to keep what is pipelined, and to see the client leave. */
static bool step_wait(struct fpred__conn *conn)
{
    return fpred__input_read(conn) || conn->state == FPRED__CONN_DEAD;
}

static void enter(struct fpred__conn *conn, enum fpred__conn_state state)
{
    conn->state = state;
    conn->state_ms = fpred__clock_now_ms();
}

static void next_request(struct fpred__conn *conn)
{
    size_t consumed = conn->consumed;
    fpred__conn_end_request(conn);
    fpred__input_used(conn, 0, consumed);
    fpred__memfds_drop(&conn->memfds, 0);
    fpred__conn_begin_request(conn);
    fpred__conn_enter_idle(conn);
    conn->may_read = false; /* others' turn; polling tells again */
    if (conn->filled == 0)
        conn->http1->on_room(conn->http1);
}

/* A part is written, and more will come: its maker may go on. There is no deadline for that. */
static void part_is_done(struct fpred__conn *conn)
{
    conn->output.paused_ms = fpred__clock_now_ms();
    conn->state = FPRED__CONN_WAIT;
    conn->state_ms = FPRED__NEVER / 2;
    fpred__exchange_return(conn->exchange, FPRED_OK);
}

static bool step_reply(struct fpred__conn *conn)
{
    if (!fpred__response_flush(conn))
        return step_wait(conn);
    conn->done_us = fpred__clock_now_us();
    if (conn->output.failed) {
        fpred__conn_kill(conn);
    } else if (conn->exchange != NULL && !conn->exchange->last) {
        part_is_done(conn);
    } else if (conn->close_after) {
        fpred__response_is_whole(conn);
        bool linger = conn->lingers || conn->filled > conn->consumed || conn->may_read;
        if (linger && shutdown(conn->fd, SHUT_WR) == 0)
            enter(conn, FPRED__CONN_LINGER);
        else
            fpred__conn_kill(conn);
    } else if (conn->body_pending) {
        enter(conn, FPRED__CONN_DISCARD);
    } else {
        next_request(conn);
    }
    return true;
}

static bool step_discard(struct fpred__conn *conn)
{
    enum fpred_status status = body_goes_on(conn);
    if (status == FPRED_OK) {
        conn->body_pending = false;
        next_request(conn);
    } else if (status != FPRED_MORE || conn->body.raw > FPRED__CONN_DISCARD_MAX) {
        fpred__conn_kill(conn);
    }
    return status != FPRED_MORE || conn->state == FPRED__CONN_DEAD;
}

static bool step_linger(struct fpred__conn *conn)
{
    if (!conn->may_read)
        return false;
    ssize_t got = recv(conn->fd, conn->http1->scratch, FPRED__BODY_SCRATCH, MSG_DONTWAIT);
    if (got > 0)
        conn->linger_bytes += (size_t)got;
    conn->may_read = false;
    if (got == 0 || (got == -1 && errno != EAGAIN && errno != EINTR) || conn->linger_bytes > FPRED__CONN_DISCARD_MAX)
        fpred__conn_kill(conn);
    return conn->state == FPRED__CONN_DEAD;
}

/* ---- deadlines ---- */

/* When something that has moved `bytes` since start_ms falls below the least rate if nothing more comes. */
static int64_t rate_due(const struct fpred__http1 *http1, int64_t start_ms, size_t bytes)
{
    size_t rate = http1->config->min_data_rate_bytes;
    if (rate == 0)
        return FPRED__NEVER;
    int64_t earned_ms = bytes / rate < INT64_MAX / 4000 ? (int64_t)(bytes / rate * 1000) : INT64_MAX / 4;
    return start_ms + (earned_ms > FPRED__CONN_RATE_GRACE_MS ? earned_ms : FPRED__CONN_RATE_GRACE_MS);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* When the connection has waited long enough in its state. */
static int64_t wait_limit(const struct fpred__conn *conn)
{
    const struct fpred__http1 *http1 = conn->http1;
    const struct fpred_config *config = http1->config;
    switch (conn->state) {
    case FPRED__CONN_IDLE:
        return earlier(conn->state_ms + config->keep_alive_timeout_ms,
                       http1->draining ? http1->drain_idle_until_ms : FPRED__NEVER);
    case FPRED__CONN_HEAD:
        return conn->head_start_us / 1000 + config->head_timeout_ms;
    case FPRED__CONN_BODY:
        return earlier(conn->body_progress_ms + config->read_timeout_ms,
                       rate_due(http1, conn->body_start_ms, conn->body.raw));
    case FPRED__CONN_WAIT:
        return config->queue_timeout_ms != 0 ? conn->state_ms + config->queue_timeout_ms : FPRED__NEVER;
    case FPRED__CONN_CONTINUE:
    case FPRED__CONN_REPLY:
        return earlier(conn->output.progress_ms + config->write_timeout_ms,
                       rate_due(http1, conn->output.start_ms, conn->output.seen_bytes));
    case FPRED__CONN_DISCARD:
    case FPRED__CONN_LINGER:
        return conn->state_ms + FPRED__CONN_DISCARD_MS;
    case FPRED__CONN_DEAD:
        break;
    }
    return FPRED__NEVER;
}

/* A slow reader is looked at more often than it is judged: only the looks tell when it last read. */
int64_t fpred__conn_due(const struct fpred__conn *conn)
{
    int64_t limit = wait_limit(conn);
    if (conn->state != FPRED__CONN_REPLY)
        return limit;
    return earlier(limit, conn->output.looked_ms + conn->http1->config->write_timeout_ms / 4 + 1);
}

/* The request's time in the queue is over, unless a predict thread was faster. */
static void queue_is_due(struct fpred__conn *conn)
{
    if (!fpred__lane_remove(fpred__conn_lane(conn), conn->exchange)) {
        conn->state_ms = FPRED__NEVER / 2; /* it runs: no deadline any more */
        return;
    }
    fpred__refuse(conn, FPRED_QUEUE_TIMEOUT, NULL);
}

/* Nothing came or went for too long, as far as polling told. */
static void is_overdue(struct fpred__conn *conn, int64_t now_ms)
{
    switch (conn->state) {
    case FPRED__CONN_HEAD:
        fpred__refuse(conn, FPRED_HEAD_TIMEOUT, NULL);
        break;
    case FPRED__CONN_BODY:
        fpred__refuse(conn,
                      now_ms >= conn->body_progress_ms + conn->http1->config->read_timeout_ms ? FPRED_BODY_TIMEOUT
                                                                                              : FPRED_BODY_TOO_SLOW,
                      NULL);
        break;
    case FPRED__CONN_WAIT:
        queue_is_due(conn);
        break;
    default:
        fpred__conn_kill(conn);
    }
}

/* ---- events ---- */

static void on_readable(h2o_socket_t *socket, const char *error);
static void on_writable(h2o_socket_t *socket, const char *error);

static bool step(struct fpred__conn *conn)
{
    switch (conn->state) {
    case FPRED__CONN_IDLE:
    case FPRED__CONN_HEAD:
        return step_head(conn);
    case FPRED__CONN_CONTINUE:
        return step_continue(conn);
    case FPRED__CONN_BODY:
        return step_body(conn);
    case FPRED__CONN_WAIT:
        return step_wait(conn);
    case FPRED__CONN_REPLY:
        return step_reply(conn);
    case FPRED__CONN_DISCARD:
        return step_discard(conn);
    case FPRED__CONN_LINGER:
        return step_linger(conn);
    case FPRED__CONN_DEAD:
        break;
    }
    return false;
}

static void poll_for(struct fpred__conn *conn)
{
    bool read = (fpred__input_room(conn) != 0 && conn->state != FPRED__CONN_CONTINUE) ||
                conn->state == FPRED__CONN_BODY || conn->state == FPRED__CONN_DISCARD ||
                conn->state == FPRED__CONN_LINGER;
    if (read != conn->poll_read) {
        conn->poll_read = read;
        conn->poll_runs = conn->http1->runs;
        if (read)
            h2o_socket_read_start(conn->socket, on_readable);
        else
            h2o_socket_read_stop(conn->socket);
    }
    bool write = conn->state == FPRED__CONN_REPLY || conn->state == FPRED__CONN_CONTINUE;
    if (write && !conn->poll_write) {
        conn->poll_write = true;
        conn->poll_runs = conn->http1->runs;
        h2o_socket_notify_write(conn->socket, on_writable);
    }
}

void fpred__conn_run(struct fpred__conn *conn)
{
    while (step(conn))
        ;
    if (conn->state == FPRED__CONN_DEAD) {
        fpred__conn_close(conn);
        return;
    }
    poll_for(conn);
    fpred__clock_set(conn->http1->clock, &conn->deadline, fpred__conn_due(conn));
}

static void on_readable(h2o_socket_t *socket, const char *error)
{
    (void)error; /* recv tells */
    struct fpred__conn *conn = socket->data;
    conn->may_read = true;
    fpred__conn_run(conn);
}

static void on_writable(h2o_socket_t *socket, const char *error)
{
    (void)error; /* sendmsg tells */
    struct fpred__conn *conn = socket->data;
    conn->poll_write = false;
    fpred__conn_run(conn);
}

/* Whatever polling has not told yet counts first: after a stopped process, or held back by SO_RCVLOWAT. */
void fpred__conn_on_due(struct fpred__deadline *deadline)
{
    struct fpred__conn *conn = H2O_STRUCT_FROM_MEMBER(struct fpred__conn, deadline, deadline);
    int64_t now_ms = fpred__clock_now_ms();
    if (conn->state == FPRED__CONN_BODY)
        fpred__body_slow(&conn->body, conn->fd);
    conn->may_read = true;
    while (step(conn))
        ;
    if (conn->state == FPRED__CONN_REPLY)
        fpred__response_look(conn, now_ms);
    if (now_ms >= wait_limit(conn)) /* never for a dead one */
        is_overdue(conn, now_ms);
    fpred__conn_run(conn);
}

/* The reply's memory counts until it is written; where it is the request's own, it does already. */
static void charge_reply(struct fpred__slab *slab, struct fpred_exchange *exchange)
{
    uintptr_t body = (uintptr_t)exchange->body;
    for (size_t i = 0; i < exchange->reply_part_count; i++) {
        uintptr_t part = (uintptr_t)exchange->reply_parts[i].base;
        if (part >= body && part - body < exchange->body_bytes)
            continue;
        fpred__slab_charge_always(slab, exchange->reply_parts[i].len);
        exchange->charged_bytes += exchange->reply_parts[i].len;
    }
}

static void reply_whole(struct fpred__conn *conn, struct fpred_exchange *exchange)
{
    charge_reply(conn->http1->slab, exchange);
    conn->close_after = !conn->head.keep_alive || conn->http1->draining;
    conn->lingers = conn->http1->draining;
    fpred__respond_reply(conn, exchange);
}

/* One more part, or the end, of an answer in parts. */
static void reply_part(struct fpred__conn *conn, struct fpred_exchange *exchange)
{
    if (!exchange->whole && exchange->last) {
        fpred__respond_cut(conn);
        return;
    }
    exchange->part_charged = exchange->part.len;
    fpred__slab_charge_always(conn->http1->slab, exchange->part_charged);
    if (!exchange->head_sent)
        conn->close_after = !conn->head.keep_alive;
    if (conn->http1->draining)
        conn->close_after = conn->lingers = true;
    fpred__respond_part(conn, exchange);
}

void fpred__http1_reply(struct fpred__http1 *http1, struct fpred_exchange *exchange)
{
    assert(exchange->state == FPRED__WRITING);
    struct fpred__conn *conn = exchange->conn;
    if (conn == NULL) {
        fpred__mailbox_finish(http1->mailbox, exchange);
        return;
    }
    assert(conn->state == FPRED__CONN_WAIT && conn->exchange == exchange);
    if (exchange->in_parts)
        reply_part(conn, exchange);
    else
        reply_whole(conn, exchange);
    fpred__conn_run(conn);
}
