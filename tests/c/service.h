/* What the tests of a whole server share: a server with its predict and control threads, and a client that speaks raw
 * HTTP over a blocking socket. Everything a test waits for is bounded.
 *
 * Routes: /sum answers with the body's length and checksum, copied; /echo with the body's own slot; /own with a copy
 * that comes back through reap; /hold as /sum, but only once service_open was called. */
#ifndef FPRED_TESTS_SERVICE_H
#define FPRED_TESTS_SERVICE_H

#include <arpa/inet.h>
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "fastpredict.h"

#define MIB ((size_t)1 << 20)
#define WAIT_MS 20000
#define PREDICT_MAX 4

enum { ROUTE_SUM, ROUTE_ECHO, ROUTE_OWN, ROUTE_HOLD, ROUTE_COUNT };

/* ---- waiting ---- */

static inline void pause_ms(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static inline int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whether the condition comes true in time. */
#define COMES_TRUE(condition)                                       \
    ({                                                              \
        int64_t until_ms_ = now_ms() + WAIT_MS;                     \
        bool came_ = (condition);                                   \
        for (; !came_ && now_ms() < until_ms_; came_ = (condition)) \
            pause_ms(1);                                            \
        came_;                                                      \
    })

static inline size_t entries_of(const char *path)
{
    size_t count = 0;
    DIR *dir = opendir(path);
    while (dir != NULL && readdir(dir) != NULL)
        count++;
    if (dir != NULL)
        closedir(dir);
    return count;
}

static inline size_t open_descriptors(void)
{
    return entries_of("/proc/self/fd");
}

static inline size_t live_threads(void)
{
    return entries_of("/proc/self/task");
}

/* Lines of /proc/self/maps: a thread that nobody joined leaves its stack. */
static inline size_t mappings(void)
{
    size_t count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    for (int c; maps != NULL && (c = getc(maps)) != EOF;)
        count += c == '\n';
    if (maps != NULL)
        fclose(maps);
    return count;
}

static inline uint32_t checksum(const void *bytes, size_t len)
{
    uint32_t sum = 1;
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + ((const unsigned char *)bytes)[i];
    return sum;
}

/* ---- the server and its threads ---- */

struct service {
    struct fpred_server *server;
    int port;
    size_t predict_count;
    pthread_t predict[PREDICT_MAX], control;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool open;                 /* guarded by mutex: /hold goes on */
    atomic_size_t holding;     /* handlers that wait in /hold */
    atomic_size_t handled;     /* handler calls */
    atomic_size_t saw_gone;    /* ... that saw their client leave */
    atomic_size_t given, back; /* owners */
    atomic_bool control_over;  /* fpred_server_control has said that nothing is outside */
    atomic_size_t late;        /* exchanges that were, all the same */
};

static inline struct fpred_config config_for_tests(void)
{
    return (struct fpred_config){
        .max_request_body_bytes = 64 * MIB,
        .max_inflight_bytes = 256 * MIB,
        .max_queued_requests = 64,
        .limit_concurrency = 256,
        .head_timeout_ms = 20000,
        .read_timeout_ms = 20000,
        .write_timeout_ms = 20000,
        .keep_alive_timeout_ms = 20000,
        .graceful_timeout_ms = 20000,
    };
}

static const struct fpred_route service_routes[ROUTE_COUNT] = {
    [ROUTE_SUM] = {.path = "/sum", .raw_unit_bytes = 1, .raw_allowed = true, .expected = "bytes"},
    [ROUTE_ECHO] = {.path = "/echo", .raw_unit_bytes = 1, .raw_allowed = true, .expected = "bytes"},
    [ROUTE_OWN] = {.path = "/own", .raw_unit_bytes = 1, .raw_allowed = true, .expected = "bytes"},
    [ROUTE_HOLD] = {.path = "/hold", .raw_unit_bytes = 1, .raw_allowed = true, .expected = "bytes"},
};

static inline void service_open(struct service *service)
{
    pthread_mutex_lock(&service->mutex);
    service->open = true;
    pthread_cond_broadcast(&service->changed);
    pthread_mutex_unlock(&service->mutex);
}

static inline void hold(struct service *service)
{
    atomic_fetch_add(&service->holding, 1);
    pthread_mutex_lock(&service->mutex);
    while (!service->open)
        pthread_cond_wait(&service->changed, &service->mutex);
    pthread_mutex_unlock(&service->mutex);
    atomic_fetch_sub(&service->holding, 1);
}

static inline void reap_all(struct service *service)
{
    void *owner;
    while ((owner = fpred_server_reap(service->server)) != NULL) {
        free(owner);
        atomic_fetch_add(&service->back, 1);
    }
}

static inline void handle(struct service *service, struct fpred_exchange *exchange)
{
    size_t bytes = fpred_exchange_body_bytes(exchange), route = fpred_exchange_route(exchange);
    struct fpred_slot *slot = fpred_exchange_take_slot(exchange);
    const char *body = fpred_slot_payload(slot);
    char text[64];
    struct fpred_slice part = {body, bytes};
    struct fpred_reply reply = {.status = 200, .parts = &part, .part_count = 1};
    atomic_fetch_add(&service->handled, 1);
    if (route == ROUTE_HOLD)
        hold(service);
    if (fpred_exchange_is_gone(exchange))
        atomic_fetch_add(&service->saw_gone, 1);
    if (route == ROUTE_ECHO) {
        reply.slot = slot;
        slot = NULL;
    } else if (route == ROUTE_OWN) {
        part.base = reply.owner = malloc(bytes + 1);
        memcpy(reply.owner, body, bytes);
        atomic_fetch_add(&service->given, 1);
    } else {
        part = (struct fpred_slice){text, (size_t)snprintf(text, sizeof text, "%zu %u", bytes, checksum(body, bytes))};
        reply.copy = true;
    }
    if (atomic_load(&service->control_over))
        atomic_fetch_add(&service->late, 1);
    fpred_exchange_reply(exchange, &reply);
    if (slot != NULL)
        fpred_slot_release(slot);
}

static inline void *predict_main(void *argument)
{
    struct service *service = argument;
    struct fpred_exchange *exchange;
    while (fpred_server_take(service->server, &exchange) == FPRED_OK) {
        reap_all(service);
        handle(service, exchange);
    }
    return NULL;
}

static inline void *control_main(void *argument)
{
    struct service *service = argument;
    while (fpred_server_control(service->server) == FPRED_OK)
        reap_all(service);
    atomic_store(&service->control_over, true);
    return NULL;
}

/* A server that listens nowhere yet. */
static inline void service_new(struct service *service, const struct fpred_config *config)
{
    struct fpred_config usual = config_for_tests();
    *service = (struct service){.predict_count = 1};
    pthread_mutex_init(&service->mutex, NULL);
    pthread_cond_init(&service->changed, NULL);
    enum fpred_status status =
        fpred_server_new(config != NULL ? config : &usual, service_routes, ROUTE_COUNT, &service->server);
    CHECK_EQ(status, FPRED_OK);
}

static inline void service_listen(struct service *service)
{
    const char *detail;
    CHECK_EQ(fpred_server_listen_tcp(service->server, "127.0.0.1", 0, &service->port, &detail), FPRED_OK);
}

static inline void service_run(struct service *service)
{
    CHECK_EQ(fpred_server_start(service->server), FPRED_OK);
    for (size_t i = 0; i < service->predict_count; i++)
        pthread_create(&service->predict[i], NULL, predict_main, service);
    pthread_create(&service->control, NULL, control_main, service);
    fpred_server_set_ready(service->server);
}

/* All three, on a TCP port of 127.0.0.1. */
static inline void service_start(struct service *service, const struct fpred_config *config)
{
    service_new(service, config);
    service_listen(service);
    service_run(service);
}

static inline struct fpred_stats service_stats(struct service *service)
{
    struct fpred_stats stats;
    fpred_server_stats(service->server, &stats);
    return stats;
}

/* Waits for the end that drain or stop began; nothing may be left over. */
static inline void service_end(struct service *service)
{
    CHECK_EQ(fpred_server_join(service->server, WAIT_MS), FPRED_OK);
    service_open(service);
    for (size_t i = 0; i < service->predict_count; i++)
        pthread_join(service->predict[i], NULL);
    pthread_join(service->control, NULL);
    reap_all(service);
    struct fpred_stats stats = service_stats(service);
    CHECK_EQ(stats.connections, 0);
    CHECK_EQ(stats.queued, 0);
    CHECK_EQ(stats.running, 0);
    CHECK_EQ(stats.slab.out_slots, 0);
    CHECK_EQ(atomic_load(&service->given), atomic_load(&service->back));
    CHECK_EQ(atomic_load(&service->late), 0);
    fpred_server_free(service->server);
    pthread_cond_destroy(&service->changed);
    pthread_mutex_destroy(&service->mutex);
}

static inline void service_stop(struct service *service)
{
    fpred_server_stop(service->server);
    service_end(service);
}

/* ---- the client ---- */

struct client {
    int fd;
    size_t filled; /* bytes in buffer that no answer has taken */
    char buffer[16384];
};

struct answer {
    int status;
    bool closes;
    size_t body_bytes;
    char *body; /* owned; NUL behind it */
};

/* Whatever goes wrong shows as an answer of status 0. */
static inline void client_wrap(struct client *client, int fd)
{
    struct timeval bound = {WAIT_MS / 1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
    client->fd = fd;
    client->filled = 0;
}

static inline bool client_connect(struct client *client, int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    client_wrap(client, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return connect(client->fd, (struct sockaddr *)&address, sizeof address) == 0;
}

static inline void client_close(struct client *client)
{
    close(client->fd);
}

/* With a reset instead of an end. */
static inline void client_abort(struct client *client)
{
    struct linger linger = {1, 0};
    setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(client->fd);
}

/* recv that goes on after a stop of the process, which interrupts one with a time limit. */
static inline ssize_t client_recv(struct client *client, void *into, size_t bytes)
{
    ssize_t got;
    do
        got = recv(client->fd, into, bytes, 0);
    while (got == -1 && errno == EINTR);
    return got;
}

static inline bool client_send(struct client *client, const void *bytes, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        ssize_t now = send(client->fd, (const char *)bytes + sent, len - sent, MSG_NOSIGNAL);
        if (now <= 0 && errno != EINTR)
            return false;
        sent += now > 0 ? (size_t)now : 0;
    }
    return true;
}

static inline bool client_say(struct client *client, const char *text)
{
    return client_send(client, text, strlen(text));
}

static inline bool client_post_head(struct client *client, const char *path, size_t body_bytes)
{
    char head[256];
    snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %zu\r\n\r\n", path, body_bytes);
    return client_say(client, head);
}

static inline bool client_post(struct client *client, const char *path, const void *body, size_t body_bytes)
{
    return client_post_head(client, path, body_bytes) && client_send(client, body, body_bytes);
}

static inline bool client_fill(struct client *client)
{
    ssize_t got = client_recv(client, client->buffer + client->filled, sizeof client->buffer - 1 - client->filled);
    if (got > 0)
        client->filled += (size_t)got;
    client->buffer[client->filled] = '\0';
    return got > 0;
}

/* Nothing more comes: the server has closed its side. */
static inline bool client_is_at_end(struct client *client)
{
    char byte;
    return client->filled == 0 && client_recv(client, &byte, 1) == 0;
}

static inline bool client_read_body(struct client *client, size_t head_bytes, struct answer *answer)
{
    size_t there = client->filled - head_bytes, take = there < answer->body_bytes ? there : answer->body_bytes;
    answer->body = malloc(answer->body_bytes + 1);
    memcpy(answer->body, client->buffer + head_bytes, take);
    client->filled -= head_bytes + take;
    memmove(client->buffer, client->buffer + head_bytes + take, client->filled);
    while (take < answer->body_bytes) {
        ssize_t got = client_recv(client, answer->body + take, answer->body_bytes - take);
        if (got <= 0)
            return false;
        take += (size_t)got;
    }
    answer->body[take] = '\0';
    return true;
}

/* The next answer, interim ones too; its body is the caller's to free. */
static inline struct answer client_read(struct client *client)
{
    struct answer answer = {0}, failed = {0};
    char *end = NULL;
    client->buffer[client->filled] = '\0';
    while ((end = strstr(client->buffer, "\r\n\r\n")) == NULL)
        if (!client_fill(client))
            return failed;
    size_t head_bytes = (size_t)(end + 4 - client->buffer);
    end[2] = '\0';
    if (sscanf(client->buffer, "HTTP/1.1 %d", &answer.status) != 1)
        return failed;
    answer.closes = strcasestr(client->buffer, "\r\nConnection: close\r\n") != NULL;
    const char *length = strcasestr(client->buffer, "\r\nContent-Length: ");
    if (length != NULL)
        answer.body_bytes = strtoul(length + 18, NULL, 10);
    if (client_read_body(client, head_bytes, &answer))
        return answer;
    free(answer.body);
    return failed;
}

/* The status of the next answer, its body thrown away. */
static inline int client_status(struct client *client)
{
    struct answer answer = client_read(client);
    free(answer.body);
    return answer.status;
}

/* Whether the next answer is /sum's to these bytes. */
static inline bool client_gets_sum(struct client *client, const void *body, size_t body_bytes)
{
    char expected[64];
    snprintf(expected, sizeof expected, "%zu %u", body_bytes, checksum(body, body_bytes));
    struct answer answer = client_read(client);
    bool same = answer.status == 200 && strcmp(answer.body, expected) == 0;
    free(answer.body);
    return same;
}

/* Whether the next answer has exactly this body. */
static inline bool client_gets(struct client *client, const void *body, size_t body_bytes)
{
    struct answer answer = client_read(client);
    bool same = answer.status == 200 && answer.body_bytes == body_bytes && memcmp(answer.body, body, body_bytes) == 0;
    free(answer.body);
    return same;
}

/* A request of a connection of its own; its status. */
static inline int status_of(int port, const char *request)
{
    struct client client;
    int status = client_connect(&client, port) && client_say(&client, request) ? client_status(&client) : 0;
    client_close(&client);
    return status;
}

/* Bytes that look like nothing HTTP knows; owned by the caller. */
static inline char *random_bytes(size_t len, unsigned seed)
{
    char *bytes = malloc(len + 1);
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1103515245 + 12345;
        bytes[i] = (char)(seed >> 16);
    }
    return bytes;
}

#endif
