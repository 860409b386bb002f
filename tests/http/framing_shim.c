/* framing_shim: csrc's head and chunk parsers as one plain call, for tests that compare them with other parsers. Built
 * by parsers.py into a library of its own. Any thread. */
#include <stdlib.h>
#include <string.h>

#include "chunked.h"
#include "head.h"

/* parsers.py has the same two as ctypes structures. */
struct framing_span {
    uint64_t at, len; /* in the request */
};

struct framing_read {
    int32_t head, body; /* enum fpred_status of each; body is FPRED_MORE until the head is accepted */
    int32_t minor_version, keep_alive;
    uint64_t used;    /* bytes that belong to the request, as far as it has come */
    uint64_t payload; /* bytes of the decoded body */
    uint64_t field_count;
    struct framing_span method, target;
    struct framing_span fields[2 * FPRED__HEAD_FIELDS]; /* name, value, name, value, ... */
};

void framing_read(const char *bytes, size_t len, char *payload, struct framing_read *read);
const char *framing_text(int32_t status);

static struct framing_span span(const char *bytes, struct fpred_slice slice)
{
    return (struct framing_span){slice.base != NULL ? (uint64_t)(slice.base - bytes) : 0, slice.len};
}

static void tell_head(const char *bytes, const struct fpred__head *head, struct framing_read *read)
{
    read->minor_version = head->minor_version;
    read->keep_alive = head->keep_alive;
    read->method = span(bytes, head->method);
    read->target = span(bytes, head->target);
    read->field_count = head->field_count;
    for (size_t i = 0; i < head->field_count; i++) {
        read->fields[2 * i] = span(bytes, head->fields[i].name);
        read->fields[2 * i + 1] = span(bytes, head->fields[i].value);
    }
}

/* Reads the body behind the head into payload, which has room for all of it. */
static void read_body(const char *bytes, size_t len, const struct fpred__head *head, char *payload,
                      struct framing_read *read)
{
    struct fpred__chunked decoder = {0};
    size_t rest = len - head->bytes, used = 0, decoded = 0;
    memcpy(payload, bytes + head->bytes, rest);
    read->body = FPRED_OK;
    if (head->framing == FPRED__FRAMING_CHUNKED) {
        read->body = (int32_t)fpred__chunked_decode(&decoder, payload, rest, &decoded, &used);
    } else if (head->framing == FPRED__FRAMING_LENGTH) {
        used = decoded = rest < head->content_length ? rest : (size_t)head->content_length;
        read->body = decoded == head->content_length ? FPRED_OK : FPRED_MORE;
    }
    read->used = head->bytes + used;
    read->payload = decoded;
}

/* The first request in bytes[0, len). payload has room for len bytes. */
void framing_read(const char *bytes, size_t len, char *payload, struct framing_read *read)
{
    struct fpred__head_scan scan = {0};
    struct fpred__head head;
    memset(read, 0, sizeof *read);
    read->body = FPRED_MORE;
    read->head = (int32_t)fpred__head_scan(&scan, bytes, len);
    if (read->head != FPRED_OK)
        return;
    char *path = malloc(scan.at);
    read->head = path != NULL ? (int32_t)fpred__head_parse(&scan, bytes, path, &head) : FPRED_NOMEM;
    if (read->head == FPRED_OK) {
        tell_head(bytes, &head, read);
        read_body(bytes, len, &head, payload, read);
    }
    free(path);
}

const char *framing_text(int32_t status)
{
    return fpred_status_text((enum fpred_status)status);
}
