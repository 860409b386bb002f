/* What conn_fuzz demands of the bytes that a client was sent: that they are exactly the answers that the log tells of,
 * each framed as it says. Dates are masked and interim answers left out, so that two connections can be compared. */
#ifndef FPRED_FUZZ_ANSWERS_H
#define FPRED_FUZZ_ANSWERS_H

#include "conn_world.h"

struct cursor {
    char *at, *end;
};

static bool starts_with(struct cursor cursor, const char *text)
{
    size_t len = strlen(text);
    return (size_t)(cursor.end - cursor.at) >= len && memcmp(cursor.at, text, len) == 0;
}

static struct cursor until(struct cursor cursor, const char *text)
{
    char *end = memmem(cursor.at, (size_t)(cursor.end - cursor.at), text, strlen(text));
    require(end != NULL);
    return (struct cursor){cursor.at, end + strlen(text)};
}

/* The value of a field that we write, in a head; at NULL: it isn't there. */
static struct cursor value_of(struct cursor head, const char *name)
{
    char *at = memmem(head.at, (size_t)(head.end - head.at), name, strlen(name));
    return (struct cursor){at == NULL ? NULL : at + strlen(name), head.end};
}

static void mask_date(struct cursor head)
{
    struct cursor date = value_of(head, "\r\nDate: ");
    require(date.at != NULL && date.at + 29 < date.end);
    memset(date.at, '*', 29);
}

/* Goes over the chunks of a body. */
static char *skip_chunks(struct cursor rest)
{
    for (;;) {
        struct cursor line = until(rest, "\r\n");
        char *digits_end;
        size_t bytes = strtoul(line.at, &digits_end, 16);
        require(digits_end + 2 == line.end);
        rest.at = line.end;
        require((size_t)(rest.end - rest.at) >= bytes + 2 && memcmp(rest.at + bytes, "\r\n", 2) == 0);
        rest.at += bytes + 2;
        if (bytes == 0)
            return rest.at;
    }
}

/* The end of a body, as its head tells it. */
static char *skip_body(struct cursor head, struct cursor rest, const struct answered *answered)
{
    struct cursor length = value_of(head, "\r\nContent-Length: ");
    bool is_chunked = value_of(head, "\r\nTransfer-Encoding: chunked\r\n").at != NULL;
    bool bare = answered->status == 204 || answered->status == 304;
    require(length.at == NULL || !is_chunked);
    require(!bare || (length.at == NULL && !is_chunked));
    if (bare || answered->to_head)
        return rest.at;
    if (is_chunked)
        return skip_chunks(rest);
    if (length.at == NULL)
        return rest.end;
    size_t bytes = strtoul(length.at, NULL, 10);
    require((size_t)(rest.end - rest.at) >= bytes);
    return rest.at + bytes;
}

/* One answer. Whether it says that the connection ends. */
static bool check_answer(struct cursor *rest, const struct answered *answered)
{
    char start[32];
    sprintf(start, "HTTP/1.1 %d ", answered->status);
    require(starts_with(*rest, start));
    struct cursor head = until(*rest, "\r\n\r\n");
    mask_date(head);
    rest->at = head.end;
    char *body_end = skip_body(head, *rest, answered);
    require((size_t)(body_end - rest->at) == answered->reply_bytes);
    rest->at = body_end;
    return value_of(head, "\r\nConnection: close\r\n").at != NULL;
}

/* Every answer was whole and there is no other byte. Interim answers are taken out. */
static void check_answers(void)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct client *client = &world.client;
    struct cursor rest = {client->got, client->got + client->got_bytes};
    bool last = false;
    for (size_t i = 0; i < world.answered_count; i++) {
        require(!last);
        while (starts_with(rest, interim)) {
            size_t len = sizeof interim - 1;
            memmove(rest.at, rest.at + len, (size_t)(rest.end - rest.at) - len);
            rest.end -= len;
            client->got_bytes -= len;
        }
        last = world.answered[i].status == 0 || check_answer(&rest, &world.answered[i]);
    }
    require(rest.at == rest.end);
}

/* Whoever stays and reads gets one answer for each request that was understood, and one for what was not; none only
 * where the handler gave up before the head of an answer was out. */
static void check_count(bool may_cut)
{
    size_t requests = atomic_load(&world.loop.http1.requests), count = world.answered_count;
    require(count == requests || count == requests + 1);
    for (size_t i = 0; i < count; i++)
        require(world.answered[i].status != 0 || (may_cut && i == count - 1));
}

#endif
