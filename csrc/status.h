/* status: every way in which a request, a call or the world can fail, as one enum.
 *
 * The core returns these; it never prints and never exits. A status that a client can cause has an HTTP status and a
 * sentence for the JSON error; pyext turns the others into Python exceptions (pyext/errors.c).
 * Pure functions, any thread. */
#ifndef FPRED_STATUS_H
#define FPRED_STATUS_H

enum fpred_status {
    FPRED_OK = 0,

    /* calls */
    FPRED_MORE,    /* not finished: more input is needed; never an error */
    FPRED_CLOSED,  /* the lane, server or peer is closed */
    FPRED_TIMEOUT, /* a bounded wait ran out */
    FPRED_NOMEM,   /* memory could not be had */
    FPRED_INVALID, /* an argument or option is out of range */
    FPRED_SYSTEM,  /* a system call failed; errno is kept beside it */

    /* framing: RFC 9112; the connection closes after the answer */
    FPRED_BAD_REQUEST_LINE,
    FPRED_BAD_METHOD,
    FPRED_BAD_TARGET,
    FPRED_BAD_VERSION,
    FPRED_BAD_FIELD_NAME,
    FPRED_BAD_FIELD_VALUE,
    FPRED_BAD_LINE_ENDING,       /* bare CR or LF */
    FPRED_BAD_CONTROL_BYTE,      /* NUL or another control byte in the head */
    FPRED_FOLDED_FIELD,          /* obs-fold */
    FPRED_BAD_HOST,              /* missing, repeated or malformed */
    FPRED_BAD_CONTENT_LENGTH,    /* not only digits, repeated, or too large for size_t */
    FPRED_LENGTH_WITH_CODING,    /* Content-Length and Transfer-Encoding together */
    FPRED_BAD_TRANSFER_ENCODING, /* repeated, in HTTP/1.0, or chunked not alone */
    FPRED_UNKNOWN_CODING,        /* 501: a transfer coding other than chunked */
    FPRED_BAD_CHUNK,             /* size line, line ending, extension or trailer malformed or too long */
    FPRED_HEAD_TOO_LARGE,        /* 431: over 64 KiB, or over 100 fields */

    /* answers decided at the head or while the body comes */
    FPRED_NOT_FOUND,            /* 404 */
    FPRED_METHOD_NOT_ALLOWED,   /* 405 */
    FPRED_HEAD_TIMEOUT,         /* 408 */
    FPRED_BODY_TIMEOUT,         /* 408 */
    FPRED_BODY_TOO_SLOW,        /* 408: under the least data rate */
    FPRED_BODY_TOO_LARGE,       /* 413 */
    FPRED_UNSUPPORTED_TYPE,     /* 415 */
    FPRED_UNSUPPORTED_ENCODING, /* 415: a Content-Encoding */
    FPRED_BODY_MISMATCH,        /* 400: the length does not fit dtype and shape */
    FPRED_BAD_MEMORY,           /* 400: a client's memory that can't be used as it says */
    FPRED_BAD_EXPECT,           /* 417 */
    FPRED_HANDLER_FAILED,       /* 500 */
    FPRED_MEMORY_LOST,          /* 500: a client's memory went away while it was worked on */
    FPRED_QUEUE_FULL,           /* 503 */
    FPRED_OVER_BUDGET,          /* 503: --max-inflight-bytes */
    FPRED_NOT_READY,            /* 503: start-up functions still run */
    FPRED_DRAINING,             /* 503 */
    FPRED_QUEUE_TIMEOUT,        /* 504 */
    FPRED_STATUS_COUNT
};

/* One sentence for people, never NULL, static. */
const char *fpred_status_text(enum fpred_status status);

/* The HTTP status that answers it; 500 for one that no client can cause. */
int fpred_status_http(enum fpred_status status);

/* The reason phrase of an HTTP status ("Not Found"), never NULL; "Unknown" where IANA has none registered. */
const char *fpred_status_reason(int http_status);

#endif
