/* fastpredict: an HTTP/1.1 server on libh2o that receives each request body into memory of its final alignment and
 * hands it to whoever takes it. This is all that pyext may call; nothing here knows Python.
 *
 *        loop thread                                  predict threads               control thread
 *   socket -> head -> slot -> body  --- lane --->  fpred_server_take
 *                                                   handler runs
 *   socket <- reply's own buffers  <-- mailbox --  fpred_exchange_reply
 *   finished owners  ------------------------------------------------------->  fpred_server_reap
 *
 * Ownership words: owns, borrows (until ...), takes, gives, shares. Unless said otherwise a function may be called from
 * any thread, doesn't block, and must not be called by a thread that holds a lock of this library. */
#ifndef FASTPREDICT_H
#define FASTPREDICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "head.h"
#include "slab.h"
#include "status.h"

struct fpred_server;
struct fpred_exchange;

/* How the body of a predict route is written; decided from Content-Type at the head. */
enum fpred_body_kind { FPRED_BODY_RAW, FPRED_BODY_NPY, FPRED_BODY_JSON };

/* What is served at a path: a predict route, which takes POST and whose bodies must suit; or, with any_body, POST of
 * any type and length; or a mount. Strings are copied by fpred_server_new. */
struct fpred_route {
    const char *path; /* matched exactly against the decoded path, but for a mount */
    bool mount;       /* path is a prefix of whole segments ("/": of every path), for any method and any body; looked
                         for after all exact paths, the longest first */
    bool any_body;    /* what follows doesn't bind */
    bool control;     /* waits for the control thread; its bodies have at most FPRED_CONTROL_BODY_MAX bytes */
    size_t raw_unit_bytes; /* a raw body is a whole multiple of this; 0: only an empty body */
    bool raw_exact;        /* ... exactly one of it */
    bool raw_allowed;      /* false: the shape can't be told from raw bytes, 400 */
    size_t npy_max_bytes;  /* the largest .npy body that can suit; 0: no bound but the server's */
    const char *expected;  /* for the error: "float32 of shape (3000, 2500), 30000000 bytes" */
};

/* ---- life cycle ---------------------------------------------------------------------------------------------------
 * new -> listen_* (once or more) -> start -> set_ready -> drain or stop -> join -> free. */

/* *server: owned by the caller. The config is copied; it must have passed fpred_config_check. Starts no thread. */
enum fpred_status fpred_server_new(const struct fpred_config *config, const struct fpred_route *routes, size_t count,
                                   struct fpred_server **server);

/* Each binds at once, so that an address in use is known before anything runs. FPRED_SYSTEM: errno says why; or, with
 * errno 0, *detail does (a static sentence, else NULL). Before start only. */
enum fpred_status fpred_server_listen_tcp(struct fpred_server *server, const char *host, int port, int *bound_port,
                                          const char **detail);
enum fpred_status fpred_server_listen_unix(struct fpred_server *server, const char *path, unsigned mode,
                                           const char **detail);
/* Duplicates fd, which stays the caller's. name receives "host:port" or "unix:PATH". */
enum fpred_status fpred_server_listen_fd(struct fpred_server *server, int fd, char *name, size_t name_bytes,
                                         const char **detail);

/* Before start: the loop reads fd (borrowed until the loop has ended). Bytes that are SIGTERM or SIGINT count: the
 * first drains, the second ends the process at once with 128 + its value. When a drain is overdue, the loop raises
 * dump_signal for the process, waits a moment for its handler to write, and ends the process with status 1. Without
 * this call an overdue drain stops. */
void fpred_server_watch_signals(struct fpred_server *server, int fd, int dump_signal);

/* Starts the loop and log threads. Once: a server that could not be started can only be freed. */
enum fpred_status fpred_server_start(struct fpred_server *server);

/* Predict routes answer from now on; until then they are 503. */
void fpred_server_set_ready(struct fpred_server *server);

/* Stop accepting, finish what was accepted, then close the lane and end the loop. Returns at once. */
void fpred_server_drain(struct fpred_server *server);
bool fpred_server_is_draining(const struct fpred_server *server);

/* Instead of start: closes what it listens on. It can only be freed then. */
void fpred_server_give_up(struct fpred_server *server);

/* End now: connections are closed, queued exchanges dropped, replies that come later too. Returns at once. */
void fpred_server_stop(struct fpred_server *server);

/* Waits until the loop has ended, at most timeout_ms (< 0: for ever). FPRED_OK, or FPRED_TIMEOUT. Blocks. A loop that
 * watches signals counts as ended once it has drained; it goes on watching until stop. */
enum fpred_status fpred_server_join(struct fpred_server *server, int64_t timeout_ms);

/* Frees a server that was never started or whose loop has ended. Exchanges that are still with a thread, and slots,
 * stay valid: what they need is shared and goes with the last of them. Joins the log thread, which takes at most 1 s.
 */
void fpred_server_free(struct fpred_server *server);

/* In the child of fork(): closes every descriptor of the server, sends nothing, takes no lock, frees nothing. The
 * server is dead from then on: only this function may be called on it again. */
void fpred_server_forked(struct fpred_server *server);

/* ---- predict threads ----------------------------------------------------------------------------------------------
 */

/* A request for a control route has at most so many bytes. */
#define FPRED_CONTROL_BODY_MAX ((size_t)1 << 20)

/* Waits for the next complete exchange and gives it to the caller, who owes it a reply. FPRED_CLOSED when no more will
 * come. Blocks; first spins for up to 50 us where there is more than one core. */
enum fpred_status fpred_server_take(struct fpred_server *server, struct fpred_exchange **exchange);

/* What was asked; borrowed until the reply. path, query and field values are bytes as they came (path decoded). */
size_t fpred_exchange_route(const struct fpred_exchange *exchange);
enum fpred_body_kind fpred_exchange_kind(const struct fpred_exchange *exchange);
struct fpred_slice fpred_exchange_method(const struct fpred_exchange *exchange);
struct fpred_slice fpred_exchange_target(const struct fpred_exchange *exchange); /* as sent */
int fpred_exchange_minor_version(const struct fpred_exchange *exchange);         /* of HTTP/1: 0 or 1 */
struct fpred_slice fpred_exchange_path(const struct fpred_exchange *exchange);
struct fpred_slice fpred_exchange_query(const struct fpred_exchange *exchange); /* base NULL: none */
const struct fpred_field *fpred_exchange_fields(const struct fpred_exchange *exchange, size_t *count);
const char *fpred_exchange_client(const struct fpred_exchange *exchange);
/* When it was whole and began to wait for a thread that takes it, by CLOCK_MONOTONIC. */
int64_t fpred_exchange_queued_us(const struct fpred_exchange *exchange);

/* Whether the client has left; its reply will be dropped. */
bool fpred_exchange_is_gone(const struct fpred_exchange *exchange);

/* The body. Where fpred_slot_region says that it is a client's memory, it must not be written, and what is read there
 * is what the client leaves there: it may write again once it has the reply (memfd.h). When it is lost on the way the
 * reply becomes a 500. The slot is the exchange's until it is taken; then the caller's, to be given back by
 * fpred_slot_release. NULL when it was taken before. body_bytes stays true either way. */
size_t fpred_exchange_body_bytes(const struct fpred_exchange *exchange);
struct fpred_slot *fpred_exchange_take_slot(struct fpred_exchange *exchange);

/* A warm slot for a reply that must be copied. The caller's until fpred_slot_release or given with a reply. */
enum fpred_status fpred_exchange_reply_slot(struct fpred_exchange *exchange, size_t bytes, struct fpred_slot **slot);

/* Whether a reply with this status and so many bytes of parts will be written to memory that the client has lent for
 * it, by fpred_exchange_reply, which then blocks for the copy: the parts are borrowed for that call only. */
bool fpred_exchange_fills_memory(const struct fpred_exchange *exchange, int status, size_t bytes);

/* Status, reason and fields are copied. The body's parts are sent one after another; whoever keeps them alive until
 * they are written is named by copy, slot and owner, of which the latter two may come together. */
struct fpred_reply {
    int status;                       /* 200..599; 204 and 304 have no body */
    struct fpred_slice reason;        /* base NULL: the status' own */
    const struct fpred_field *fields; /* checked by the caller: names are tokens, values without CR, LF, NUL; not
                                         Content-Length, Connection or Transfer-Encoding. Date is added where missing */
    size_t field_count;
    const struct fpred_slice *parts;
    size_t part_count;
    bool copy;               /* small: the parts are copied too, and borrowed for the call only */
    struct fpred_slot *slot; /* taken: parts lie in it; or NULL */
    void *owner;             /* keeps parts alive and comes back once, from fpred_server_reap; or NULL */
};

/* Gives the exchange back with its reply: it must not be touched afterwards, whatever is returned. FPRED_OK, also when
 * the client is gone or the server has stopped (an owner then comes back through reap all the same). FPRED_NOMEM: a
 * bare 500 was sent instead, and an owner or slot is handed over as if it had been used. */
enum fpred_status fpred_exchange_reply(struct fpred_exchange *exchange, const struct fpred_reply *reply);

/* Parts that have no more than this together are better copied than kept. */
#define FPRED_REPLY_COPY_MAX ((size_t)4096)

/* ---- an answer in parts --------------------------------------------------------------------------------------------
 * begin, then write as often as need be, then end. Each part goes to the loop and the caller waits until the kernel has
 * taken it: a slow reader slows down whoever makes the parts, and nothing is copied or kept. */

#define FPRED_LENGTH_UNKNOWN UINT64_MAX

/* The reply's parts, slot and owner are not looked at. length: of all parts together; unknown: they are sent chunked,
 * or in HTTP/1.0 until the connection closes. FPRED_NOMEM: nothing has happened. */
enum fpred_status fpred_exchange_begin(struct fpred_exchange *exchange, const struct fpred_reply *head,
                                       uint64_t length);

/* Sends the head, if that hasn't gone out yet, and the bytes, borrowed for the call. FPRED_OK, or FPRED_CLOSED when the
 * client is gone or the server has stopped: only end makes sense then. An answer that has no body (to HEAD, 204, 304)
 * sends none. Must not pass the length. Blocks. */
enum fpred_status fpred_exchange_write(struct fpred_exchange *exchange, const void *bytes, size_t len);

/* Bytes that may still be written; FPRED_LENGTH_UNKNOWN when begin didn't say. */
uint64_t fpred_exchange_rest(const struct fpred_exchange *exchange);

/* Gives the exchange back: it must not be touched afterwards. An answer that is not whole, by the caller's word or by
 * its length, cuts the connection, so that its client sees it. */
void fpred_exchange_end(struct fpred_exchange *exchange, bool whole);

/* ---- finished owners -----------------------------------------------------------------------------------------------
 */

/* One owner that the loop is done with, or NULL. Each comes back exactly once. */
void *fpred_server_reap(struct fpred_server *server);

/* The control thread: the next complete exchange of a control route, to the caller, who owes it a reply. FPRED_MORE:
 * none waits. Doesn't block. */
enum fpred_status fpred_server_take_control(struct fpred_server *server, struct fpred_exchange **exchange);

/* The control thread's turn: waits until a control route was asked for, owners are waiting that no predict thread
 * reaps, or about a second has passed; trims idle memory. FPRED_OK: reap and take_control now. FPRED_CLOSED: the loop
 * has ended and there is nothing left to reap and no exchange outside. Blocks. */
enum fpred_status fpred_server_control(struct fpred_server *server);

/* ---- figures -------------------------------------------------------------------------------------------------------
 */

struct fpred_stats {
    size_t connections;
    uint64_t requests; /* heads that were complete */
    size_t queued;     /* complete requests waiting for a predict thread */
    size_t running;    /* taken, not yet replied */
    uint64_t accesslog_dropped;
    struct fpred__slab_stats slab;
};
void fpred_server_stats(struct fpred_server *server, struct fpred_stats *stats);

/* Version of the libh2o whose headers this was built with, e.g. "2.2.5". Static. */
const char *fpred_libh2o_version(void);

#endif
