/* A server without threads of its own, for tests that play the predict and the control thread themselves: the test
 * takes an exchange, and what it then does with it happens in the order in which it is written down. And a client that
 * looks at an answer byte for byte.
 *
 * Routes: /exact is a predict route of any body; everything else is a mount, see stage_routes. */
#ifndef FPRED_TESTS_STAGE_H
#define FPRED_TESTS_STAGE_H

#include "service.h"

#define HEAD_MAX 4096

enum { AT_EXACT, AT_ROOT, AT_DEEP, AT_DEEPER, AT_V2, AT_COUNT };

static const struct fpred_route stage_routes[AT_COUNT] = {
    [AT_EXACT] = {.path = "/exact", .any_body = true, .expected = ""},
    [AT_ROOT] = {.path = "/", .mount = true, .expected = ""},
    [AT_DEEP] = {.path = "/deep", .mount = true, .expected = ""},
    [AT_DEEPER] = {.path = "/deep/deeper", .mount = true, .expected = ""},
    [AT_V2] = {.path = "/v2", .mount = true, .control = true, .expected = ""},
};

struct stage {
    struct fpred_server *server;
    int port;
    size_t descriptors; /* before it was opened */
};

static inline struct fpred_stats stage_stats(struct stage *stage)
{
    struct fpred_stats stats;
    fpred_server_stats(stage->server, &stats);
    return stats;
}

/* Serves, but isn't ready yet. */
static inline void stage_open_unready(struct stage *stage, const struct fpred_config *config)
{
    struct fpred_config usual = config_for_tests();
    const char *detail;
    stage->descriptors = open_descriptors();
    CHECK_EQ(fpred_server_new(config != NULL ? config : &usual, stage_routes, AT_COUNT, &stage->server), FPRED_OK);
    CHECK_EQ(fpred_server_listen_tcp(stage->server, "127.0.0.1", 0, &stage->port, &detail), FPRED_OK);
    CHECK_EQ(fpred_server_start(stage->server), FPRED_OK);
}

static inline void stage_open(struct stage *stage, const struct fpred_config *config)
{
    stage_open_unready(stage, config);
    fpred_server_set_ready(stage->server);
}

/* Whether nothing is held any more for a request or a connection. */
static inline bool stage_is_empty(struct stage *stage)
{
    struct fpred_stats stats = stage_stats(stage);
    return stats.connections == 0 && stats.queued == 0 && stats.running == 0 && stats.slab.out_slots == 0 &&
           stats.slab.charged_bytes == 0;
}

/* Waits for the end that drain or stop began; nothing may be left over, clients closed or not. */
static inline void stage_end(struct stage *stage)
{
    CHECK_EQ(fpred_server_join(stage->server, WAIT_MS), FPRED_OK);
    CHECK(stage_is_empty(stage));
    fpred_server_free(stage->server);
}

static inline void stage_stop(struct stage *stage)
{
    fpred_server_stop(stage->server);
    stage_end(stage);
}

/* The next exchange of a predict thread. A test can't go on without one. */
static inline struct fpred_exchange *stage_take(struct stage *stage)
{
    struct fpred_exchange *exchange = NULL;
    if (!COMES_TRUE(stage_stats(stage).queued != 0) || fpred_server_take(stage->server, &exchange) != FPRED_OK) {
        fprintf(stderr, "no request came\n");
        abort();
    }
    return exchange;
}

static inline struct fpred_exchange *stage_take_control(struct stage *stage)
{
    struct fpred_exchange *exchange = NULL;
    if (!COMES_TRUE(fpred_server_take_control(stage->server, &exchange) == FPRED_OK)) {
        fprintf(stderr, "no control request came\n");
        abort();
    }
    return exchange;
}

/* ---- what a handler does ---- */

static inline void reply_text(struct fpred_exchange *exchange, int status, const char *text)
{
    struct fpred_slice part = {text, strlen(text)};
    struct fpred_reply reply = {.status = status, .parts = &part, .part_count = 1, .copy = true};
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
}

static inline void begin_parts(struct fpred_exchange *exchange, int status, uint64_t length)
{
    struct fpred_reply head = {.status = status};
    CHECK_EQ(fpred_exchange_begin(exchange, &head, length), FPRED_OK);
    CHECK(fpred_exchange_rest(exchange) == length);
}

static inline enum fpred_status write_text(struct fpred_exchange *exchange, const char *text)
{
    return fpred_exchange_write(exchange, text, strlen(text));
}

static inline bool slice_is(struct fpred_slice slice, const char *text)
{
    return slice.len == strlen(text) && memcmp(slice.base, text, slice.len) == 0;
}

/* ---- what a client sees ---- */

static inline struct client client_of(struct stage *stage)
{
    struct client client;
    CHECK(client_connect(&client, stage->port));
    return client;
}

/* A request without a body. False where the server has gone. */
static inline bool client_may_ask(struct client *client, const char *method, const char *target, int minor_version)
{
    char request[512];
    snprintf(request, sizeof request, "%s %s HTTP/1.%d\r\nHost: t\r\n\r\n", method, target, minor_version);
    return client_say(client, request);
}

static inline void client_asks(struct client *client, const char *method, const char *target, int minor_version)
{
    CHECK(client_may_ask(client, method, target, minor_version));
}

/* The next `len` bytes, whatever they are. */
static inline bool client_takes(struct client *client, char *into, size_t len)
{
    size_t done = client->filled < len ? client->filled : len;
    memcpy(into, client->buffer, done);
    client->filled -= done;
    memmove(client->buffer, client->buffer + done, client->filled);
    while (done < len) {
        ssize_t got = client_recv(client, into + done, len - done);
        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return true;
}

/* Whether the next bytes are these, and nothing else is there yet. */
static inline bool client_hears(struct client *client, const char *text)
{
    char got[256];
    size_t len = strlen(text);
    assert(len < sizeof got);
    bool same = client_takes(client, got, len) && memcmp(got, text, len) == 0 && client->filled == 0;
    return same && recv(client->fd, got, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

/* The head of the next answer up to and with its empty line, of the status given; false for anything else. */
static inline bool client_hears_head(struct client *client, int status, char head[HEAD_MAX])
{
    char expected[32];
    size_t len = 0;
    for (head[0] = '\0'; strstr(head, "\r\n\r\n") == NULL; head[++len] = '\0')
        if (len == HEAD_MAX - 1 || !client_takes(client, head + len, 1))
            return false;
    snprintf(expected, sizeof expected, "HTTP/1.1 %d ", status);
    return strncmp(head, expected, strlen(expected)) == 0;
}

static inline bool client_hears_status(struct client *client, int status)
{
    char head[HEAD_MAX];
    return client_hears_head(client, status, head);
}

/* How often a line is in a head; field names as we write them. */
static inline size_t lines_of(const char *head, const char *start)
{
    char wanted[128];
    size_t count = 0;
    snprintf(wanted, sizeof wanted, "\r\n%s", start);
    for (const char *at = head; (at = strstr(at, wanted)) != NULL; at++)
        count++;
    return count;
}

/* How the connection ends, where nothing else comes before: 0, or the errno. -1: something came, or nothing in time. */
static inline int client_end(struct client *client)
{
    char byte;
    if (client->filled != 0)
        return -1;
    ssize_t got = client_recv(client, &byte, 1);
    if (got == 0)
        return 0;
    return got == -1 && errno != EAGAIN ? errno : -1;
}

/* After an answer that must have ended: a request on the same connection is answered, and nothing lies in between. */
static inline bool client_goes_on(struct client *client, struct stage *stage)
{
    char head[HEAD_MAX];
    client_asks(client, "GET", "/next", 1);
    reply_text(stage_take(stage), 200, "next");
    return client_hears_head(client, 200, head) && client_hears(client, "next");
}

#endif
