/* head_rows: what head_test's tables are written in: a row's shape, the cuts it is fed in, and a parsed head as one
 * line of text. */
#ifndef FPRED_TESTS_HEAD_ROWS_H
#define FPRED_TESTS_HEAD_ROWS_H

#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "head.h"

struct outcome {
    enum fpred_status status;
    struct fpred__head_scan scan;
};

static enum fpred_status scan_copy(struct fpred__head_scan *scan, const char *bytes, size_t len)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, bytes, len);
    enum fpred_status status = fpred__head_scan(scan, copy, len);
    free(copy);
    return status;
}

/* Fed up to each multiple of step, then up to len. */
static struct outcome scan_in_steps(const char *bytes, size_t len, size_t first, size_t step)
{
    struct outcome got = {.status = FPRED_MORE};
    for (size_t at = first; at < len; at += step)
        got.status = scan_copy(&got.scan, bytes, at);
    got.status = scan_copy(&got.scan, bytes, len);
    return got;
}

static int same(const struct outcome *a, const struct outcome *b)
{
    return a->status == b->status && a->scan.at == b->scan.at && a->scan.start == b->scan.start &&
           a->scan.lines == b->scan.lines;
}

static void check_cuts(const char *rule, const char *bytes, size_t len, size_t stride)
{
    struct outcome whole = scan_in_steps(bytes, len, len, 1);
    for (size_t cut = 0; cut < len; cut += stride) {
        struct outcome got = scan_in_steps(bytes, len, cut, len);
        if (!same(&got, &whole)) {
            fprintf(stderr, "%s: cut at %zu: status %d at %zu, whole %d at %zu\n", rule, cut, got.status, got.scan.at,
                    whole.status, whole.scan.at);
            CHECK(same(&got, &whole));
        }
    }
    struct outcome bytewise = scan_in_steps(bytes, len, 0, stride);
    CHECK(same(&bytewise, &whole));
}

static void add(char *out, size_t size, const char *name, struct fpred_slice slice)
{
    size_t at = strlen(out);
    if (slice.base != NULL)
        snprintf(out + at, size - at, " %s=%.*s", name, (int)slice.len, slice.base);
}

/* The parsed head in one line: "1.1 POST /p path=/p host=h length=5 close ..."; what is absent is left out. */
static void describe(const struct fpred__head *head, char *out, size_t size)
{
    snprintf(out, size, "1.%d %.*s", head->minor_version, (int)head->method.len, head->method.base);
    add(out, size, "raw", head->raw_path);
    add(out, size, "path", head->path);
    add(out, size, "query", head->query);
    add(out, size, "host", head->authority);
    add(out, size, "type", head->content_type);
    add(out, size, "encoding", head->content_encoding);
    size_t at = strlen(out);
    if (head->framing == FPRED__FRAMING_LENGTH)
        at += (size_t)snprintf(out + at, size - at, " length=%llu", (unsigned long long)head->content_length);
    snprintf(out + at, size - at, "%s%s%s%s", head->framing == FPRED__FRAMING_CHUNKED ? " chunked" : "",
             head->keep_alive ? "" : " close", head->expect_continue ? " continue" : "",
             head->bad_expect ? " bad-expect" : "");
}

/* Scans and parses; what follows the head must not have been looked at. The copy is freed after describe. */
static enum fpred_status parse(const char *bytes, size_t len, char *out, size_t size)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, bytes, len);
    struct fpred__head_scan scan = {0};
    enum fpred_status status = fpred__head_scan(&scan, copy, len);
    out[0] = '\0';
    if (status == FPRED_OK) {
        struct fpred__head *head = malloc(sizeof *head);
        char *path_buf = malloc(scan.at), *exact = malloc(scan.at);
        memcpy(exact, copy, scan.at);
        status = fpred__head_parse(&scan, exact, path_buf, head);
        if (status == FPRED_OK)
            describe(head, out, size);
        free(exact);
        free(path_buf);
        free(head);
    }
    free(copy);
    return status;
}

struct row {
    const char *rule;
    const char *bytes;
    size_t len;
    enum fpred_status status;
    const char *parts;
};

/* Bytes as a literal, so that NUL can stand in it. */
#define BYTES(text) text, sizeof(text) - 1
#define OK(rule, text, parts)              \
    {                                      \
        rule, BYTES(text), FPRED_OK, parts \
    }
#define NO(rule, text, status)                \
    {                                         \
        rule, BYTES(text), FPRED_##status, "" \
    }
/* A request line, or field lines, in an otherwise good head. */
#define LINE(text) text "\r\nHost: h\r\n\r\n"
#define WITH(fields) "POST / HTTP/1.1\r\nHost: h\r\n" fields "\r\n"
#define WITH0(fields) "POST / HTTP/1.0\r\n" fields "\r\n"
#define HOST(value) "GET / HTTP/1.1\r\nHost:" value "\r\n\r\n"
#define GOOD "1.1 POST raw=/ path=/ host=h"

#endif
