/* The world of conn_fuzz: the real loop with everything below it, driven a turn at a time by the only thread there is.
 *
 * Time moves when world_pass says so, and the loop's timerfd never rings: deadlines are fired by hand. The access log
 * is kept, for it tells what was asked and what was answered. A wait for the loop (fpred_exchange_write) runs the loop.
 */
#ifndef FPRED_FUZZ_WORLD_H
#define FPRED_FUZZ_WORLD_H

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "body.h"
#include "loop.c" /* its statics wire libh2o just as a server does */

#define BODY_MAX ((size_t)200000)
#define BUDGET ((size_t)180000) /* below the largest body, so that both refusals come */
#define PASS_MS 31000           /* beyond every timeout below */
#define TURNS_MAX 100000        /* more of them without rest is a loop that spins */
#define ANSWERS_MAX 8192

#define require(condition)                                                          \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

struct answered {
    bool to_head;
    int status; /* 0: none */
    size_t reply_bytes;
};

/* The other end of the one connection. */
struct client {
    int fd;     /* -1: it has left */
    bool reads; /* what it is sent */
    bool ended; /* it has read the end */
    size_t gulp;
    char *got; /* all that it was sent */
    size_t got_bytes, got_room;
};

struct world {
    struct fpred__loop loop;
    struct fpred_config config;
    struct timespec now;
    int epoll_fd;
    int free_descriptor; /* the lowest, before the connection */
    struct client client;
    struct answered answered[ANSWERS_MAX]; /* since the connection began, in order */
    size_t answered_count;
    unsigned spare_allocations; /* 0: none fails */
    bool (*handle)(void);       /* the predict threads' turn: whether there was anything to do */
};

static struct world world;

/* ---- what the core calls instead of the system ---- */

int fuzz_clock_gettime(clockid_t id, struct timespec *now);
int fuzz_clock_gettime(clockid_t id, struct timespec *now)
{
    require(id == CLOCK_MONOTONIC);
    *now = world.now;
    return 0;
}

void fpred__accesslog_add(struct fpred__accesslog *log, const struct fpred__accesslog_entry *entry)
{
    (void)log;
    require(world.answered_count < ANSWERS_MAX && entry->duration_us >= 0);
    world.answered[world.answered_count++] = (struct answered){
        .to_head = entry->method.len == 4 && memcmp(entry->method.base, "HEAD", 4) == 0,
        .status = entry->status,
        .reply_bytes = entry->reply_bytes,
    };
}

/* The core's own allocations, of which one fails when world.spare_allocations are over. */
#undef malloc
#undef calloc
#undef realloc
void *malloc(size_t bytes);
void *calloc(size_t count, size_t bytes);
void *realloc(void *memory, size_t bytes);

static inline bool allocation_fails(void)
{
    return world.spare_allocations != 0 && --world.spare_allocations == 0;
}

void *fuzz_malloc(size_t bytes)
{
    return allocation_fails() ? NULL : malloc(bytes);
}

void *fuzz_calloc(size_t count, size_t bytes)
{
    return allocation_fails() ? NULL : calloc(count, bytes);
}

void *fuzz_realloc(void *memory, size_t bytes)
{
    return allocation_fails() ? NULL : realloc(memory, bytes);
}

/* ---- turns ---- */

static void client_read(struct client *client)
{
    if (client->got_room - client->got_bytes < client->gulp) {
        client->got_room = client->got_room * 2 + client->gulp;
        client->got = realloc(client->got, client->got_room);
    }
    ssize_t got = recv(client->fd, client->got + client->got_bytes, client->gulp, MSG_DONTWAIT);
    if (got > 0)
        client->got_bytes += (size_t)got;
    else
        client->ended = true;
}

/* The loop's turn, then the client's. Whether anything moved or is about to. */
static bool world_turn(void)
{
    struct client *client = &world.client;
    require(h2o_evloop_run(world.loop.ctx.loop, 0) == 0);
    struct pollfd fds[] = {{.fd = world.epoll_fd, .events = POLLIN},
                           {.fd = client->reads && !client->ended ? client->fd : -1, .events = POLLIN}};
    if (poll(fds, 2, 0) <= 0)
        return false;
    if (fds[1].revents != 0)
        client_read(client);
    return true;
}

static void world_pass(int64_t ms)
{
    world.now.tv_sec += ms / 1000;
    fpred__clock_fire(world.loop.http1.clock, fpred__clock_now_ms());
}

/* Until nothing moves any more. libh2o registers what a turn has asked for in the next one, so that takes two. */
static void world_settle(void)
{
    for (int quiet = 0, turns = 0; quiet < 2; turns++) {
        require(turns < TURNS_MAX);
        bool moved = world_turn();
        quiet = world.handle() || moved ? 0 : quiet + 1;
    }
}

/* A part is written by the loop, at the speed of the client; one that doesn't read at all runs out of time. */
int fuzz_sem_wait(sem_t *sem);
int fuzz_sem_wait(sem_t *sem)
{
    for (int quiet = 0, turns = 0; sem_trywait(sem) == -1; turns++) {
        require(turns < TURNS_MAX);
        quiet = world_turn() ? 0 : quiet + 1;
        if (quiet > 2)
            world_pass(PASS_MS);
    }
    return 0;
}

/* ---- beginning and end ---- */

static int lowest_free_descriptor(void)
{
    int fd = fcntl(world.epoll_fd, F_DUPFD_CLOEXEC, 0);
    require(fd != -1);
    close(fd);
    return fd;
}

static const struct fpred_route world_routes[] = {
    {.path = "/echo", .any_body = true, .expected = ""},
    {.path = "/keep", .any_body = true, .expected = ""},
    {.path = "/any", .any_body = true, .expected = ""},
    {.path = "/twelve", .raw_unit_bytes = 12, .raw_exact = true, .raw_allowed = true, .expected = "12 bytes"},
    {.path = "/fours", .raw_unit_bytes = 4, .raw_allowed = true, .expected = "a multiple of 4 bytes"},
    {.path = "/empty", .raw_allowed = true, .expected = "nothing"},
    {.path = "/npy", .npy_max_bytes = 1000, .expected = "at most 1000 bytes"},
    {.path = "/parts", .mount = true, .expected = ""},
    {.path = "/sized", .mount = true, .expected = ""},
    {.path = "/short", .mount = true, .expected = ""},
    {.path = "/bare", .mount = true, .expected = ""},
    {.path = "/v2", .mount = true, .control = true, .expected = ""},
};

enum { ECHO, KEEP, ANY, TWELVE, FOURS, EMPTY, NPY, PARTS, SIZED, SHORT, BARE, CONTROL };

static void world_configure(void)
{
    world.config = (struct fpred_config){
        .max_request_body_bytes = BODY_MAX,
        .max_inflight_bytes = BUDGET,
        .max_queued_requests = 4,
        .limit_concurrency = 4,
        .head_timeout_ms = 30000,
        .read_timeout_ms = 20000,
        .write_timeout_ms = 10000,
        .keep_alive_timeout_ms = 5000,
        .queue_timeout_ms = 15000,
        .graceful_timeout_ms = 30000,
        .min_data_rate_bytes = 100,
    };
    const char *option;
    require(fpred_config_check(&world.config, &option) == FPRED_OK);
}

static void world_open(void)
{
    struct fpred__http1 *http1 = &world.loop.http1;
    world.now.tv_sec = (time_t)1 << 31; /* long after the machine's: no timer rings by itself */
    world_configure();
    fpred__loop_init(&world.loop);
    http1->config = &world.config;
    http1->routes = fpred__routes_new(world_routes, sizeof world_routes / sizeof *world_routes);
    http1->slab = fpred__slab_new(BUDGET);
    http1->mailbox = fpred__mailbox_new(http1->slab);
    http1->lane = fpred__lane_new();
    http1->control_lane = fpred__lane_new();
    http1->clock = fpred__clock_new();
    http1->fds = fpred__fdset_new(64);
    http1->accesslog = (struct fpred__accesslog *)&world; /* never looked into */
    http1->scratch = malloc(FPRED__BODY_SCRATCH);
    atomic_store(&http1->ready, true);
    init_h2o(&world.loop);
    require(open_all(&world.loop) == FPRED_OK);
    world.epoll_fd = epoll_of(world.loop.ctx.loop);
    require(world.epoll_fd != -1);
}

/* A fresh connection. small: the kernel holds little of what the client doesn't read. */
static void world_connect(bool is_tcp, bool small)
{
    int fds[2], least = 1;
    world.free_descriptor = lowest_free_descriptor();
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    if (small)
        setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &least, sizeof least);
    world.client = (struct client){.fd = fds[1], .reads = true, .gulp = small ? 512 : 4096};
    world.answered_count = 0;
    atomic_store(&world.loop.http1.requests, 0);
    h2o_socket_t *socket = h2o_evloop_socket_create(world.loop.ctx.loop, fds[0], H2O_SOCKET_FLAG_DONT_READ);
    require(fpred__http1_accept(&world.loop.http1, socket, is_tcp) == FPRED_OK);
}

static void world_leave(void)
{
    if (world.client.fd != -1)
        close(world.client.fd);
    world.client.fd = -1;
}

static bool world_is_connected(void)
{
    return world.loop.http1.all.count != 0;
}

/* Nothing is left of the connection. */
static void world_require_clean(void)
{
    struct fpred__http1 *http1 = &world.loop.http1;
    struct fpred__slab_stats stats;
    fpred__slab_stats(http1->slab, &stats);
    fpred__region_bin_empty(&http1->bin);
    require(http1->all.count == 0 && http1->idle.count == 0 && atomic_load(&http1->connections) == 0);
    require(fpred__lane_depth(http1->lane) == 0 && fpred__lane_depth(http1->control_lane) == 0);
    require(fpred__mailbox_running(http1->mailbox) == 0 && fpred__mailbox_reap(http1->mailbox) == NULL);
    require(fpred__region_count() == 0 && lowest_free_descriptor() == world.free_descriptor);
    require(stats.out_slots == 0 && stats.charged_bytes == 0);
}

#endif
