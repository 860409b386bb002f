/* server: wires the modules together behind fastpredict.h. Any thread, as said there. */
#include "fastpredict.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "body.h"
#include "loop.h"

#define LOG_RING_BYTES ((size_t)1 << 20)
#define LOG_CLOSE_MS 1000
#define CONTROL_MS 1000
#define IDLE_SLOT_MS 30000
#define OTHER_DESCRIPTORS 64 /* listeners and the loop's own */

struct fpred_server {
    struct fpred_config config;     /* set once */
    struct fpred__routes *routes;   /* owned */
    struct fpred__lane *lane;       /* owned; to the predict threads */
    struct fpred__lane *control;    /* owned; to the control thread */
    struct fpred__mailbox *mailbox; /* shared with the exchanges */
    struct fpred__fdset *fds;       /* owned */
    struct fpred__clock *clock;     /* owned; the loop's while it runs */
    struct fpred__accesslog *log;   /* owned; the loop's while it runs */
    char *scratch;                  /* owned; the loop's */
    struct fpred__loop loop;
    atomic_bool started;
    size_t clock_place, mail_place;
};

static void free_parts(struct fpred_server *server)
{
    if (server->clock != NULL)
        fpred__clock_free(server->clock);
    if (server->routes != NULL)
        fpred__routes_free(server->routes);
    if (server->lane != NULL)
        fpred__lane_free(server->lane);
    if (server->control != NULL)
        fpred__lane_free(server->control);
    if (server->fds != NULL)
        fpred__fdset_free(server->fds);
    if (server->mailbox != NULL)
        fpred__mailbox_release(server->mailbox);
    free(server->scratch);
    free(server);
}

static enum fpred_status make_mailbox(struct fpred_server *server)
{
    struct fpred__slab *slab = fpred__slab_new(server->config.max_inflight_bytes);
    if (slab == NULL)
        return FPRED_NOMEM;
    server->mailbox = fpred__mailbox_new(slab);
    if (server->mailbox == NULL) {
        fpred__slab_release(slab);
        return FPRED_SYSTEM;
    }
    return FPRED_OK;
}

static void wire(struct fpred_server *server)
{
    struct fpred__http1 *http1 = &server->loop.http1;
    fpred__loop_init(&server->loop);
    http1->config = &server->config;
    http1->routes = server->routes;
    http1->slab = fpred__mailbox_slab(server->mailbox);
    http1->lane = server->lane;
    http1->control_lane = server->control;
    http1->mailbox = server->mailbox;
    http1->clock = server->clock;
    http1->fds = server->fds;
    http1->scratch = server->scratch;
    server->mail_place = fpred__fdset_add(server->fds, fpred__mailbox_fd(server->mailbox));
    server->clock_place = fpred__fdset_add(server->fds, fpred__clock_fd(server->clock));
}

enum fpred_status fpred_server_new(const struct fpred_config *config, const struct fpred_route *routes, size_t count,
                                   struct fpred_server **server)
{
    struct fpred_server *made = calloc(1, sizeof *made);
    if (made == NULL)
        return FPRED_NOMEM;
    made->config = *config;
    enum fpred_status status = make_mailbox(made);
    made->routes = fpred__routes_new(routes, count);
    made->lane = fpred__lane_new();
    made->control = fpred__lane_new();
    made->fds = fpred__fdset_new(config->limit_concurrency + OTHER_DESCRIPTORS);
    made->clock = fpred__clock_new();
    int error = errno;
    made->scratch = malloc(FPRED__BODY_SCRATCH);
    if (status == FPRED_OK && made->clock == NULL)
        status = FPRED_SYSTEM;
    if (status == FPRED_OK && (made->routes == NULL || made->lane == NULL || made->control == NULL ||
                               made->fds == NULL || made->scratch == NULL))
        status = FPRED_NOMEM;
    if (status != FPRED_OK) {
        free_parts(made);
        errno = error;
        return status;
    }
    wire(made);
    *server = made;
    return FPRED_OK;
}

enum fpred_status fpred_server_listen_tcp(struct fpred_server *server, const char *host, int port, int *bound_port,
                                          const char **detail)
{
    *detail = NULL;
    return fpred__listen_tcp(&server->loop.listeners, host, port, bound_port, detail);
}

enum fpred_status fpred_server_listen_unix(struct fpred_server *server, const char *path, unsigned mode,
                                           const char **detail)
{
    *detail = NULL;
    return fpred__listen_unix(&server->loop.listeners, path, mode, detail);
}

enum fpred_status fpred_server_listen_fd(struct fpred_server *server, int fd, char *name, size_t name_bytes,
                                         const char **detail)
{
    *detail = NULL;
    return fpred__listen_fd(&server->loop.listeners, fd, name, name_bytes, detail);
}

void fpred_server_watch_signals(struct fpred_server *server, int fd, int dump_signal)
{
    server->loop.signal_fd = fd;
    server->loop.dump_signal = dump_signal;
}

/* Nobody waits for what will not come. */
static void close_queues(struct fpred_server *server)
{
    fpred__lane_close(server->lane);
    fpred__lane_close(server->control);
    fpred__mailbox_close(server->mailbox);
}

enum fpred_status fpred_server_start(struct fpred_server *server)
{
    if (server->config.access_log) {
        server->log = fpred__accesslog_new(STDERR_FILENO, LOG_RING_BYTES);
        if (server->log == NULL)
            return FPRED_SYSTEM;
        server->loop.http1.accesslog = server->log;
    }
    enum fpred_status status = fpred__loop_start(&server->loop);
    atomic_store(&server->started, status == FPRED_OK);
    if (status != FPRED_OK)
        close_queues(server);
    return status;
}

void fpred_server_give_up(struct fpred_server *server)
{
    fpred__listeners_close(&server->loop.listeners);
    close_queues(server);
}

void fpred_server_set_ready(struct fpred_server *server)
{
    atomic_store_explicit(&server->loop.http1.ready, true, memory_order_release);
}

void fpred_server_drain(struct fpred_server *server)
{
    fpred__loop_drain(&server->loop);
}

bool fpred_server_is_draining(const struct fpred_server *server)
{
    return atomic_load(&server->loop.wants_drain) || atomic_load(&server->loop.wants_stop);
}

void fpred_server_stop(struct fpred_server *server)
{
    fpred__loop_stop(&server->loop);
}

enum fpred_status fpred_server_join(struct fpred_server *server, int64_t timeout_ms)
{
    return atomic_load(&server->started) ? fpred__loop_wait(&server->loop, timeout_ms) : FPRED_OK;
}

void fpred_server_free(struct fpred_server *server)
{
    if (atomic_load(&server->started))
        fpred__loop_join(&server->loop);
    else
        fpred__listeners_close(&server->loop.listeners);
    fpred__fdset_remove(server->fds, server->mail_place); /* the loop thread's until it has ended */
    fpred__fdset_remove(server->fds, server->clock_place);
    fpred__region_bin_empty(&server->loop.http1.bin);
    if (server->log != NULL)
        fpred__accesslog_free(server->log, LOG_CLOSE_MS);
    free_parts(server);
}

void fpred_server_forked(struct fpred_server *server)
{
    fpred__fdset_close_all(server->fds);
}

enum fpred_status fpred_server_take(struct fpred_server *server, struct fpred_exchange **exchange)
{
    return fpred__lane_take(server->lane, exchange);
}

enum fpred_status fpred_server_take_control(struct fpred_server *server, struct fpred_exchange **exchange)
{
    return fpred__lane_try_take(server->control, exchange);
}

void *fpred_server_reap(struct fpred_server *server)
{
    return fpred__mailbox_reap(server->mailbox);
}

enum fpred_status fpred_server_control(struct fpred_server *server)
{
    enum fpred_status status = fpred__mailbox_wait(server->mailbox, CONTROL_MS);
    fpred__slab_trim(fpred__mailbox_slab(server->mailbox), fpred__clock_now_ms(), IDLE_SLOT_MS);
    fpred__region_bin_empty(&server->loop.http1.bin);
    return status;
}

void fpred_server_stats(struct fpred_server *server, struct fpred_stats *stats)
{
    const struct fpred__http1 *http1 = &server->loop.http1;
    *stats = (struct fpred_stats){
        .connections = atomic_load_explicit(&http1->connections, memory_order_relaxed),
        .requests = atomic_load_explicit(&http1->requests, memory_order_relaxed),
        .queued = fpred__lane_depth(server->lane),
        .running = fpred__mailbox_running(server->mailbox),
        .accesslog_dropped = server->log != NULL ? fpred__accesslog_dropped(server->log) : 0,
    };
    fpred__slab_stats(fpred__mailbox_slab(server->mailbox), &stats->slab);
}
