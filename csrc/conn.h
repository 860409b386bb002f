/* conn: the connection that conn.c, http1.c, admit.c and response.c work on. Private to these five; loop thread only.
 *
 *   conn.c      connections and the requests on them: made, listed, begun, ended, closed
 *   input.c     what is read ahead of a body
 *   http1.c     states, events, deadlines
 *   admit.c     the head decides: route, limits, queue, memory
 *   response.c  the final output stream: heads and bodies to the socket */
#ifndef FPRED_CONN_H
#define FPRED_CONN_H

#include <sys/uio.h>

#include "body.h"
#include "http1.h"
#include "memfd.h"

/* The input buffer: for heads and pipelined bytes up to its last FPRED__SPILL_MIN, which are kept for what comes behind
 * a chunked body. It grows once, and only before a head is parsed: the parsed parts point into it. */
#define FPRED__CONN_BUFFER_FIRST (((size_t)16 << 10) + FPRED__SPILL_MIN)
#define FPRED__CONN_BUFFER_MAX (FPRED__HEAD_MAX + 2 * FPRED__SPILL_MIN)
#define FPRED__CONN_DISCARD_MAX ((size_t)64 << 20)
#define FPRED__CONN_DISCARD_MS 5000
#define FPRED__CONN_RATE_GRACE_MS 5000
#define FPRED__JSON_MAX ((size_t)64 << 20)

enum fpred__conn_state {
    FPRED__CONN_IDLE,     /* no byte of the next head yet */
    FPRED__CONN_HEAD,     /* part of a head */
    FPRED__CONN_CONTINUE, /* 100 Continue is going out */
    FPRED__CONN_BODY,
    FPRED__CONN_WAIT,    /* the exchange is with the lane or a predict thread */
    FPRED__CONN_REPLY,   /* the answer is going out */
    FPRED__CONN_DISCARD, /* answered; the rest of the body is thrown away, then the next request */
    FPRED__CONN_LINGER,  /* answered with close; our side is shut down, the client's is read and thrown away */
    FPRED__CONN_DEAD     /* to be closed when its event has been dealt with */
};

/* How the end of an answer is told. */
enum fpred__reply_framing { FPRED__REPLY_LENGTH, FPRED__REPLY_CHUNKED, FPRED__REPLY_CLOSE };

/* Bytes on their way to the socket: what response.c has been given and the kernel hasn't taken. */
struct fpred__output {
    struct iovec *vectors; /* the part not yet written; in few, or in the request's pool */
    size_t count;
    struct iovec few[5]; /* head, chunk size, part, its end, and the last chunk */
    char chunk_size[20];
    bool head_made;
    enum fpred__reply_framing framing;
    uint64_t length;    /* with FPRED__REPLY_LENGTH */
    size_t taken_bytes; /* by the kernel, of this answer */
    size_t head_bytes;
    int64_t progress_ms; /* when that last grew, or the client was seen to have read */
    int64_t start_ms;    /* moved on by the time in which there was nothing to send */
    int64_t paused_ms;   /* when the last part was written */
    size_t seen_bytes;   /* by the client when last looked at, as far as the kernel tells; for the least rate */
    int64_t gone;        /* taken less what the kernel holds, when last looked at; grows as the client reads */
    int64_t looked_ms;   /* when that was */
    bool failed;
};

struct fpred__conn {
    h2o_conn_t super; /* first: libh2o gives it back as h2o_conn_t * */
    struct fpred__http1 *http1;
    h2o_socket_t *socket;
    int fd;
    size_t fd_place;
    bool is_tcp;
    char client[64];

    struct fpred__conn *prev, *next;           /* all */
    struct fpred__conn *idle_prev, *idle_next; /* idle, while in state IDLE */

    enum fpred__conn_state state;
    enum fpred__conn_state died_in; /* the state that it was killed in */
    bool may_read;                  /* the socket is readable, as far as is known */
    bool poll_read;                 /* reading is on in libh2o */
    bool poll_write;                /* a write notification is pending in libh2o */
    uint64_t poll_runs;             /* http1->runs when these last changed */
    bool close_after;               /* this answer ends the connection */
    bool lingers;      /* ... and input may still be under way: LINGER, or the answer could be lost to a reset */
    bool body_pending; /* the request announced a body that has not been read to its end */
    struct fpred__deadline deadline;

    /* input: buffer[0, filled) was read; the request at hand starts at 0 and its body at consumed */
    char *buffer;
    size_t buffer_bytes, filled, consumed;
    struct fpred__head_scan scan;
    struct fpred__head head;
    struct fpred__memory memory; /* that the head names */
    struct fpred__memfds memfds; /* unused where is_tcp */
    struct fpred__body body;
    int64_t body_start_ms, body_progress_ms;
    int64_t state_ms; /* when IDLE, WAIT, DISCARD or LINGER began */

    struct fpred_exchange *exchange; /* borrowed from QUEUED to REPLIED, owned while RECEIVING and WRITING */
    struct fpred__output output;
    int64_t head_start_us; /* 0 until the first byte of a head */
    int status;            /* answered with; 0: nothing yet */
    int64_t done_us;       /* when the answer's last byte was written; 0 before */
    size_t linger_bytes;   /* thrown away in LINGER */

    h2o_ostream_t final_ostream;
    h2o_req_t req; /* last: large */
};

/* Where its exchanges wait. */
static inline struct fpred__lane *fpred__conn_lane(const struct fpred__conn *conn)
{
    return conn->exchange->control ? conn->http1->control_lane : conn->http1->lane;
}

/* conn.c: between requests now; listed as idle. */
void fpred__conn_enter_idle(struct fpred__conn *conn);
void fpred__conn_leave_idle(struct fpred__conn *conn);

/* conn.c: marks it DEAD, for whoever runs it to close. */
void fpred__conn_kill(struct fpred__conn *conn);

/* conn.c: a fresh request on the connection; its input may be buffered already. */
void fpred__conn_begin_request(struct fpred__conn *conn);

/* conn.c: everything about the request is done, or the client is gone: its exchange is let go, the log written. */
void fpred__conn_end_request(struct fpred__conn *conn);

/* conn.c: calls for the control thread where mappings wait to be undone. */
void fpred__conn_empty_bin(struct fpred__conn *conn);

/* conn.c: ends its request and frees it. */
void fpred__conn_close(struct fpred__conn *conn);

/* input.c: bytes that may be read ahead now. */
size_t fpred__input_room(const struct fpred__conn *conn);

/* input.c: makes room for the longest head. False when out of memory. */
bool fpred__input_grow(struct fpred__conn *conn);

/* input.c: reads once behind what is buffered. False: nothing came; the connection is dead when its input has ended. */
bool fpred__input_read(struct fpred__conn *conn);

/* input.c: so many bytes at `at` have been used; what lies behind them moves up. */
void fpred__input_used(struct fpred__conn *conn, size_t at, size_t bytes);

/* http1.c: goes on until the connection waits; then polls for what it waits for, by its deadline. May free it. */
void fpred__conn_run(struct fpred__conn *conn);

/* http1.c: when its wait must be looked at, and what happens then. */
int64_t fpred__conn_due(const struct fpred__conn *conn);
void fpred__conn_on_due(struct fpred__deadline *deadline);

/* admit.c: the head of conn->req is complete and lawful. Moves the connection to CONTINUE, BODY, WAIT or REPLY. */
void fpred__admit(struct fpred__conn *conn);

/* admit.c: the body is complete: gives the exchange to the lane. */
void fpred__admit_complete(struct fpred__conn *conn);

/* admit.c: answers with the JSON error of a status; detail (or NULL: the status' own text) is what the client reads.
 * Moves the connection to REPLY. A body that is still coming is thrown away where the connection can be kept. */
void fpred__refuse(struct fpred__conn *conn, enum fpred_status status, const char *detail);

/* response.c: starts the whole answer, through libh2o's filters. Fields and body are borrowed until the request ends.
 * conn->close_after is decided by the caller. Moves the connection to REPLY. */
void fpred__respond(struct fpred__conn *conn, int status, const struct fpred_field *fields, size_t field_count,
                    struct fpred_slice body);

/* response.c: the same for the reply of an exchange. */
void fpred__respond_reply(struct fpred__conn *conn, const struct fpred_exchange *exchange);

/* response.c: begins an answer in parts by what the exchange says, or goes on with it: hands the exchange's part on.
 * Moves the connection to REPLY. */
void fpred__respond_part(struct fpred__conn *conn, struct fpred_exchange *exchange);

/* response.c: the last byte has been written: the connection may end without seeming to be cut. */
void fpred__response_is_whole(struct fpred__conn *conn);

/* response.c: cuts an answer in parts that will not be whole, so that its client sees it. Kills the connection. */
void fpred__respond_cut(struct fpred__conn *conn);

/* response.c: makes conn->final_ostream the end of the request's output. */
void fpred__response_attach(struct fpred__conn *conn);

/* response.c: writes what it can. True when all is written or the connection is broken (conn->output.failed). */
bool fpred__response_flush(struct fpred__conn *conn);

/* response.c: sends the interim answer. True when it is out, as above. */
bool fpred__response_continue(struct fpred__conn *conn);

/* response.c: notes how much of this answer the client has read, and that it goes on if it is more than last time. */
void fpred__response_look(struct fpred__conn *conn, int64_t now_ms);

#endif
