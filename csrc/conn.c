/* conn: connections and the requests on them: made, listed, begun, ended, closed. Loop thread. */
#include "conn.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- lists ---- */

static void list_all(struct fpred__conn *conn)
{
    struct fpred__conn_list *list = &conn->http1->all;
    conn->prev = list->last;
    *(list->last != NULL ? &list->last->next : &list->first) = conn;
    list->last = conn;
    list->count++;
    atomic_fetch_add_explicit(&conn->http1->connections, 1, memory_order_relaxed);
}

static void unlist_all(struct fpred__conn *conn)
{
    struct fpred__conn_list *list = &conn->http1->all;
    *(conn->prev != NULL ? &conn->prev->next : &list->first) = conn->next;
    *(conn->next != NULL ? &conn->next->prev : &list->last) = conn->prev;
    list->count--;
    atomic_fetch_sub_explicit(&conn->http1->connections, 1, memory_order_relaxed);
}

void fpred__conn_enter_idle(struct fpred__conn *conn)
{
    struct fpred__conn_list *list = &conn->http1->idle;
    conn->state = FPRED__CONN_IDLE;
    conn->state_ms = fpred__clock_now_ms();
    conn->idle_prev = list->last;
    conn->idle_next = NULL;
    *(list->last != NULL ? &list->last->idle_next : &list->first) = conn;
    list->last = conn;
    list->count++;
}

void fpred__conn_leave_idle(struct fpred__conn *conn)
{
    struct fpred__conn_list *list = &conn->http1->idle;
    *(conn->idle_prev != NULL ? &conn->idle_prev->idle_next : &list->first) = conn->idle_next;
    *(conn->idle_next != NULL ? &conn->idle_next->idle_prev : &list->last) = conn->idle_prev;
    list->count--;
}

void fpred__conn_kill(struct fpred__conn *conn)
{
    if (conn->state == FPRED__CONN_DEAD)
        return;
    if (conn->state == FPRED__CONN_IDLE)
        fpred__conn_leave_idle(conn);
    conn->died_in = conn->state;
    conn->state = FPRED__CONN_DEAD;
}

/* ---- requests ---- */

static void log_request(const struct fpred__conn *conn)
{
    if (conn->http1->accesslog == NULL || conn->head_start_us == 0)
        return;
    size_t sent = conn->status != 0 ? conn->output.taken_bytes : 0;
    struct fpred__accesslog_entry entry = {
        .client = conn->client,
        .method = conn->head.method,
        .target = conn->head.target,
        .minor_version = conn->head.minor_version,
        .status = conn->status,
        .body_bytes = conn->body.received,
        .reply_bytes = sent > conn->output.head_bytes ? sent - conn->output.head_bytes : 0,
        .duration_us = (conn->done_us != 0 ? conn->done_us : fpred__clock_now_us()) - conn->head_start_us,
    };
    fpred__accesslog_add(conn->http1->accesslog, &entry);
}

void fpred__conn_begin_request(struct fpred__conn *conn)
{
    h2o_init_request(&conn->req, &conn->super, NULL);
    fpred__response_attach(conn);
    memset(&conn->scan, 0, sizeof conn->scan);
    memset(&conn->body, 0, sizeof conn->body);
    memset(&conn->output, 0, sizeof conn->output);
    conn->memory = (struct fpred__memory){0};
    conn->head.method = conn->head.target = (struct fpred_slice){NULL, 0};
    conn->head.framing = FPRED__FRAMING_NONE;
    conn->head.keep_alive = conn->head.expect_continue = false;
    conn->close_after = conn->lingers = conn->body_pending = false;
    conn->consumed = 0;
    conn->head_start_us = 0;
    conn->status = 0;
    conn->done_us = 0;
    conn->linger_bytes = 0;
}

void fpred__conn_end_request(struct fpred__conn *conn)
{
    struct fpred__http1 *http1 = conn->http1;
    struct fpred_exchange *exchange = conn->exchange;
    struct fpred__lane *lane = exchange != NULL ? fpred__conn_lane(conn) : NULL;
    log_request(conn);
    fpred__body_drop(&conn->body);
    h2o_dispose_request(&conn->req);
    conn->exchange = NULL;
    if (exchange == NULL)
        return;
    exchange->conn = NULL;
    atomic_store_explicit(&exchange->gone, true, memory_order_relaxed); /* for one that still runs, or is returned */
    if (conn->state != FPRED__CONN_WAIT)
        assert(exchange->state == FPRED__RECEIVING || exchange->state == FPRED__WRITING);
    else if (!fpred__lane_remove(lane, exchange))
        return; /* a predict thread has it: fpred__http1_reply ends it */
    if (exchange->state == FPRED__WRITING)
        fpred__mailbox_finish(http1->mailbox, exchange);
    else
        fpred__exchange_free(exchange);
}

void fpred__conn_empty_bin(struct fpred__conn *conn)
{
    if (atomic_load_explicit(&conn->http1->bin.first, memory_order_relaxed) != NULL)
        fpred__mailbox_call_control(conn->http1->mailbox);
}

void fpred__conn_close(struct fpred__conn *conn)
{
    struct fpred__http1 *http1 = conn->http1;
    fpred__conn_kill(conn);
    conn->state = conn->died_in; /* what becomes of the exchange depends on it */
    fpred__conn_end_request(conn);
    fpred__clock_remove(http1->clock, &conn->deadline);
    fpred__fdset_remove(http1->fds, conn->fd_place);
    fpred__memfds_close(&conn->memfds, &http1->bin);
    fpred__conn_empty_bin(conn);
    h2o_socket_close(conn->socket);
    unlist_all(conn); /* nothing of it is left for whoever reads the gauge */
    free(conn->buffer);
    free(conn);
    http1->on_room(http1);
}

/* ---- the module's face ---- */

static socklen_t get_sockname(h2o_conn_t *conn, struct sockaddr *sa)
{
    return h2o_socket_getsockname(((struct fpred__conn *)conn)->socket, sa);
}

static socklen_t get_peername(h2o_conn_t *conn, struct sockaddr *sa)
{
    return h2o_socket_getpeername(((struct fpred__conn *)conn)->socket, sa);
}

static h2o_socket_t *get_socket(h2o_conn_t *conn)
{
    return ((struct fpred__conn *)conn)->socket;
}

/* False for a client that was gone before it was accepted: nobody can say who it was. */
static bool name_client(struct fpred__conn *conn)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    char host[NI_MAXHOST];
    size_t host_len = SIZE_MAX;
    if (conn->is_tcp && getpeername(conn->fd, (struct sockaddr *)&address, &len) == 0)
        host_len = h2o_socket_getnumerichost((struct sockaddr *)&address, len, host);
    if (host_len == SIZE_MAX)
        snprintf(conn->client, sizeof conn->client, "%s", conn->is_tcp ? "-" : "unix");
    else
        snprintf(conn->client, sizeof conn->client, address.ss_family == AF_INET6 ? "[%.*s]:%d" : "%.*s:%d",
                 (int)(host_len < 48 ? host_len : 48), host, (int)h2o_socket_getport((struct sockaddr *)&address));
    return host_len != SIZE_MAX || !conn->is_tcp;
}

static struct fpred__conn *new_conn(struct fpred__http1 *http1)
{
    static const h2o_conn_callbacks_t callbacks = {
        .get_sockname = get_sockname, .get_peername = get_peername, .get_socket = get_socket};
    char *buffer = malloc(FPRED__CONN_BUFFER_FIRST);
    if (buffer == NULL)
        return NULL;
    struct timeval connected_at = *h2o_get_timestamp(http1->ctx, NULL, NULL);
    struct fpred__conn *conn = (struct fpred__conn *)h2o_create_connection(
        sizeof *conn, http1->ctx, http1->ctx->globalconf->hosts, connected_at, &callbacks);
    memset((char *)conn + sizeof conn->super, 0, offsetof(struct fpred__conn, req) - sizeof conn->super);
    conn->http1 = http1;
    conn->buffer = buffer;
    conn->buffer_bytes = FPRED__CONN_BUFFER_FIRST;
    conn->deadline.on_due = fpred__conn_on_due;
    if (fpred__clock_add(http1->clock, &conn->deadline) != FPRED_OK) {
        free(buffer);
        free(conn);
        return NULL;
    }
    return conn;
}

enum fpred_status fpred__http1_accept(struct fpred__http1 *http1, h2o_socket_t *socket, bool is_tcp)
{
    struct fpred__conn *conn = new_conn(http1);
    if (conn == NULL) {
        h2o_socket_close(socket);
        return FPRED_NOMEM;
    }
    socket->data = conn;
    conn->socket = socket;
    conn->fd = h2o_socket_get_fd(socket);
    conn->fd_place = fpred__fdset_add(http1->fds, conn->fd);
    conn->is_tcp = is_tcp;
    bool is_there = name_client(conn);
    list_all(conn);
    fpred__conn_begin_request(conn);
    fpred__conn_enter_idle(conn);
    conn->may_read = true;
    if (is_there)
        fpred__conn_run(conn);
    else
        fpred__conn_close(conn);
    return FPRED_OK;
}

bool fpred__http1_close_idle(struct fpred__http1 *http1)
{
    struct fpred__conn *conn = http1->idle.first;
    if (conn == NULL)
        return false;
    fpred__conn_close(conn);
    return true;
}

void fpred__http1_drain(struct fpred__http1 *http1, int64_t grace_ms)
{
    http1->draining = true;
    http1->drain_idle_until_ms = fpred__clock_now_ms() + grace_ms;
    for (struct fpred__conn *conn = http1->idle.first; conn != NULL; conn = conn->idle_next)
        fpred__clock_set(http1->clock, &conn->deadline, fpred__conn_due(conn));
}

void fpred__http1_close_unwatched(struct fpred__http1 *http1, uint64_t runs)
{
    for (struct fpred__conn *conn = http1->all.first, *next; conn != NULL; conn = next) {
        next = conn->next;
        if (conn->poll_runs == runs)
            fpred__conn_close(conn);
    }
}

void fpred__http1_close_all(struct fpred__http1 *http1)
{
    while (http1->all.first != NULL)
        fpred__conn_close(http1->all.first);
}
