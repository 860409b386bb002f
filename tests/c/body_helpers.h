/* What the tests of body share: a body between the two ends of a connection, and bytes to pour into it. */
#ifndef FPRED_TESTS_BODY_HELPERS_H
#define FPRED_TESTS_BODY_HELPERS_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "body.h"
#include "check.h"
#include "slab.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* ---- a body and the two ends of its connection ---- */

struct bench {
    struct fpred__slab *slab;
    struct fpred__body body;
    struct fpred__spill spill;
    int ours, theirs;
    char spilled[FPRED__SPILL_MIN], scratch[FPRED__BODY_SCRATCH];
};

static inline void make_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static inline void connect_tcp(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), bytes = 4 << 20;
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    bind(listener, (struct sockaddr *)&address, sizeof address);
    listen(listener, 1);
    getsockname(listener, (struct sockaddr *)&address, &len);
    fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    CHECK_EQ(connect(fds[1], (struct sockaddr *)&address, sizeof address), 0);
    fds[0] = accept(listener, NULL, NULL);
    close(listener);
}

static inline struct bench *bench_new(bool tcp, size_t budget)
{
    struct bench *bench = calloc(1, sizeof *bench);
    int fds[2], bytes = 4 << 20;
    if (tcp) {
        connect_tcp(fds);
    } else {
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    bench->ours = fds[0];
    bench->theirs = fds[1];
    make_nonblocking(bench->ours);
    make_nonblocking(bench->theirs);
    bench->slab = fpred__slab_new(budget);
    bench->spill = (struct fpred__spill){bench->spilled, 0, sizeof bench->spilled};
    return bench;
}

static inline size_t charged(struct bench *bench)
{
    struct fpred__slab_stats stats;
    fpred__slab_stats(bench->slab, &stats);
    return stats.charged_bytes;
}

static inline size_t slots_out(struct bench *bench)
{
    struct fpred__slab_stats stats;
    fpred__slab_stats(bench->slab, &stats);
    return stats.out_slots;
}

/* Drops the body; nothing may be held then. */
static inline void bench_free(struct bench *bench)
{
    fpred__body_drop(&bench->body);
    fpred__body_drop(&bench->body);
    CHECK_EQ(charged(bench), 0);
    CHECK_EQ(slots_out(bench), 0);
    fpred__slab_release(bench->slab);
    close(bench->ours);
    if (bench->theirs != -1)
        close(bench->theirs);
    free(bench);
}

static inline enum fpred_status begin(struct bench *bench, enum fpred__framing framing, size_t length, size_t limit,
                                      bool tcp)
{
    return fpred__body_begin(&bench->body, bench->slab, framing, length, limit, 0, tcp);
}

static inline enum fpred_status receive(struct bench *bench)
{
    return fpred__body_receive(&bench->body, bench->ours, &bench->spill, bench->scratch);
}

/* Sends all, receiving whenever the socket is full and at the end of each piece, until the body is complete or refused.
 */
static inline enum fpred_status pour(struct bench *bench, const char *bytes, size_t len, size_t piece)
{
    enum fpred_status status = FPRED_MORE;
    for (size_t sent = 0; sent < len && status == FPRED_MORE;) {
        size_t want = len - sent < piece ? len - sent : piece;
        ssize_t now = send(bench->theirs, bytes + sent, want, MSG_NOSIGNAL);
        CHECK(now > 0 || errno == EAGAIN);
        sent += now > 0 ? (size_t)now : 0;
        status = receive(bench);
    }
    for (int turns = 0; status == FPRED_MORE && turns < 2000; turns++) { /* TCP delivers when it pleases */
        usleep(100);
        status = receive(bench);
    }
    return status;
}

static inline char *pattern(size_t len)
{
    char *bytes = malloc(len + 1);
    unsigned seed = (unsigned)len + 1;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)((seed = seed * 1103515245 + 12345) >> 16);
    return bytes;
}

/* bytes as one chunked body of pieces of `chunk` bytes; owned by the caller. */
static inline char *in_chunks(const char *bytes, size_t len, size_t chunk, size_t *coded)
{
    size_t count = len / chunk + 2;
    char *out = malloc(len + count * 24 + 64), *at = out;
    for (size_t done = 0; done < len;) {
        size_t now = len - done < chunk ? len - done : chunk;
        at += sprintf(at, "%zx%s\r\n", now, done < 300 && done % 3 == 0 ? ";a=b" : "");
        memcpy(at, bytes + done, now);
        at += now;
        at += sprintf(at, "\r\n");
        done += now;
    }
    at += sprintf(at, "0\r\nA: b\r\n\r\n");
    *coded = (size_t)(at - out);
    return out;
}

/* The complete body is these bytes, and room for the NUL lies behind it. */
static inline void check_taken(struct bench *bench, const char *bytes, size_t len)
{
    size_t held = 0;
    CHECK(fpred__body_is_complete(&bench->body));
    CHECK_EQ(bench->body.received, len);
    struct fpred_slot *slot = fpred__body_take(&bench->body, &held);
    char *payload = fpred_slot_payload(slot);
    CHECK_EQ(fpred_slot_capacity(slot), len);
    CHECK((uintptr_t)payload % 64 == 0);
    CHECK(memcmp(payload, bytes, len) == 0);
    payload[len] = '\0';
    CHECK(held >= len);
    CHECK_EQ(charged(bench), held);
    fpred_slot_release(slot);
    fpred__slab_uncharge(bench->slab, held);
}

#endif
