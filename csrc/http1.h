/* http1: our own HTTP/1.1 protocol on libh2o's sockets and requests: connections, heads, bodies, responses.
 *
 *             +--------------------------------- next request --------------------------------+
 *             v                                                                               |
 *   IDLE -> HEAD -> CONTINUE -> BODY -> WAIT -> REPLY -----------------------------------------+
 *             |                   |       (lane, predict)  |                                  |
 *             +-- refused --------+----------------------->+-> DISCARD (the rest of a body) --+
 *                                                          +-> LINGER -> closed
 *
 * One function a state, each of which moves the connection on or says that it waits; one
 * loop goes from one to the next without recursion, so a thousand pipelined requests cost no stack. Every wait has a
 * deadline. Reading stays on while a request waits or runs, to see its client leave.
 *
 * Threads: the loop's, all of it, but `ready`, the counters and what may be done to the bin. */
#ifndef FPRED_HTTP1_H
#define FPRED_HTTP1_H

#include <h2o.h>

#include "accesslog.h"
#include "clock.h"
#include "fdset.h"
#include "lane.h"
#include "mailbox.h"
#include "region.h"
#include "routes.h"

struct fpred__conn;

/* A doubly linked list of connections. */
struct fpred__conn_list {
    struct fpred__conn *first, *last;
    size_t count;
};

/* What all connections of a server share; embedded in the loop, which fills it in before the first accept. */
struct fpred__http1 {
    const struct fpred_config *config;
    const struct fpred__routes *routes;
    struct fpred__slab *slab;
    struct fpred__lane *lane;         /* to the predict threads */
    struct fpred__lane *control_lane; /* to the control thread */
    struct fpred__mailbox *mailbox;
    struct fpred__clock *clock;
    struct fpred__accesslog *accesslog; /* NULL: off */
    struct fpred__fdset *fds;
    h2o_context_t *ctx;
    char *scratch;                /* FPRED__BODY_SCRATCH bytes */
    struct fpred__region_bin bin; /* emptied by the control thread */

    /* Called when a connection has gone or become idle: the listener may accept again, a drain may be over. */
    void (*on_room)(struct fpred__http1 *http1);
    uint64_t runs; /* of the event loop, that didn't fail */

    struct fpred__conn_list all;
    struct fpred__conn_list idle; /* between requests, longest idle first */
    bool draining;                /* every answer closes its connection */
    int64_t drain_idle_until_ms;  /* idle connections are closed then */
    atomic_bool ready;            /* start-up functions are done */
    atomic_size_t connections;
    atomic_uint_fast64_t requests;
};

/* A new connection on an accepted, non-blocking socket, which it owns. Starts at once with what has come already. On
 * FPRED_NOMEM the socket is closed. */
enum fpred_status fpred__http1_accept(struct fpred__http1 *http1, h2o_socket_t *socket, bool is_tcp);

/* A reply has come from a predict thread. Takes the exchange, which is WRITING. */
void fpred__http1_reply(struct fpred__http1 *http1, struct fpred_exchange *exchange);

/* The one h2o handler: decides on a request whose head is complete. Always 0. */
int fpred__http1_on_req(h2o_handler_t *self, h2o_req_t *req);

/* Closes the connection that has been idle longest. False when none is idle. */
bool fpred__http1_close_idle(struct fpred__http1 *http1);

/* From now on answers close their connection; idle connections get grace_ms more for a request that is on its way. */
void fpred__http1_drain(struct fpred__http1 *http1, int64_t grace_ms);

/* Closes the connections whose watch was last begun or changed when so many runs were over. */
void fpred__http1_close_unwatched(struct fpred__http1 *http1, uint64_t runs);

/* Closes every connection now. */
void fpred__http1_close_all(struct fpred__http1 *http1);

#endif
