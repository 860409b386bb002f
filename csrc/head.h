/* head: RFC 9112 checks of a request head; the framing of a request is decided here and nowhere else.
 *
 * Two steps. The scanner looks at every byte once, as it comes, finds the end of the head and refuses what is wrong at
 * the level of bytes (bare CR or LF, controls, folded lines, too much), so the same bytes are refused at the same byte
 * however they were cut into packets. Then libh2o's picohttpparser splits the complete head, and the rules of RFC 9112
 * and 9110 are applied to its parts.
 *
 * No h2o header, no allocation, no I/O. Any one thread. */
#ifndef FPRED_HEAD_H
#define FPRED_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

#define FPRED__HEAD_MAX ((size_t)64 << 10)
#define FPRED__HEAD_FIELDS 100

/* Bytes borrowed from the head (until its buffer moves or is reused). base is NULL where the head has no such part. */
struct fpred_slice {
    const char *base;
    size_t len;
};

struct fpred_field {
    struct fpred_slice name;  /* as sent */
    struct fpred_slice value; /* without the spaces around it */
};

/* Zero it before each head. */
struct fpred__head_scan {
    size_t at;     /* bytes looked at so far */
    size_t start;  /* where the request line starts: 0, or 2 after one empty line (RFC 9112 2.2) */
    size_t lines;  /* complete lines, from the request line on */
    uint8_t state; /* private to head.c */
};

enum fpred__framing { FPRED__FRAMING_NONE, FPRED__FRAMING_LENGTH, FPRED__FRAMING_CHUNKED };

struct fpred__head {
    size_t bytes; /* from the first byte given to the scanner to the end of the head */
    struct fpred_slice method;
    struct fpred_slice target;    /* as sent */
    struct fpred_slice raw_path;  /* origin form without the query, still encoded; "*" for OPTIONS * */
    struct fpred_slice path;      /* percent-decoded, in the caller's buffer; no dot segments, no NUL */
    struct fpred_slice query;     /* without the '?'; base NULL when there is none */
    struct fpred_slice authority; /* from the absolute-form target, else Host; base NULL for 1.0 without one */
    int minor_version;            /* 0 or 1 */
    enum fpred__framing framing;
    uint64_t content_length;         /* with FRAMING_LENGTH */
    bool keep_alive;                 /* what the client wants, by version and Connection */
    bool expect_continue;            /* Expect: 100-continue in 1.1, and a body is announced */
    bool bad_expect;                 /* another expectation: 417 */
    struct fpred_slice content_type; /* first of its name; base NULL when absent */
    struct fpred_slice content_encoding;
    struct fpred_field fields[FPRED__HEAD_FIELDS]; /* all, in order */
    size_t field_count;
};

/* Looks at buf[scan->at, len). FPRED_MORE: all is well so far. FPRED_OK: scan->at is the end of the head, which is the
 * first byte of the body. Otherwise the refusal, for good. */
enum fpred_status fpred__head_scan(struct fpred__head_scan *scan, const char *buf, size_t len);

/* Splits and checks the complete head that the scanner found in buf. path_buf: at least scan->at bytes, where
 * head->path is decoded into. FPRED_OK or a refusal; on a refusal the fields of *head that were understood before it
 * are set (method, target and minor_version for the log) and the rest is zero. */
enum fpred_status fpred__head_parse(const struct fpred__head_scan *scan, const char *buf, char *path_buf,
                                    struct fpred__head *head);

/* Case-insensitive equality with a C string (lower case). */
bool fpred__slice_is(struct fpred_slice slice, const char *lower);

/* Whether a comma-separated list (RFC 9110 5.6.1) holds this token, case-insensitively. */
bool fpred__list_has(struct fpred_slice list, const char *lower);

#endif
