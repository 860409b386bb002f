/* accesslog: a single-producer, single-consumer ring of bytes, and the thread that empties it.
 *
 * The loop thread formats a line, copies it in and moves `head`, so a line becomes visible whole. The log thread takes
 * pieces of whole lines, moves `tail` and writes them. A piece is at most PIPE_BUF, so lines never tear where several
 * write to one pipe, and poll can promise that a pipe takes it without blocking.
 *
 * Waking costs a system call, so the loop does it only when the log thread says that it sleeps. While lines keep
 * coming it doesn't: it lingers LINGER_MS between drains, and is woken early only by a ring that is half full. */
#include "accesslog.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

#define LINE_MAX_BYTES 2048
#define CLIENT_MAX_BYTES 128
#define METHOD_MAX_BYTES 64
#define TAIL_MAX_BYTES 128 /* of a line: all behind the target */
#define PIECE_MAX_BYTES 4096
#define LINGER_MS 8
#define GRACE_MS 100 /* for the log thread to be scheduled and end, beyond the time it may still write */

static_assert(PIECE_MAX_BYTES <= PIPE_BUF, "a piece is written to a pipe in one go");
static_assert(PIECE_MAX_BYTES >= LINE_MAX_BYTES, "a piece holds a whole line");
static_assert(CLIENT_MAX_BYTES + METHOD_MAX_BYTES + TAIL_MAX_BYTES + 64 < LINE_MAX_BYTES, "the target has room");

enum sleep { AWAKE, LINGERING, ASLEEP };

struct fpred__accesslog {
    /* set once before start */
    int fd;
    int wake_fd; /* an eventfd: wakes the log thread */
    size_t mask;
    pthread_t thread;

    /* loop thread only */
    _Alignas(64) size_t tail_seen;
    char line[LINE_MAX_BYTES];

    /* atomic */
    _Alignas(64) atomic_size_t head; /* moved by the loop thread */
    atomic_uint_fast64_t dropped;
    _Alignas(64) atomic_size_t tail; /* moved by the log thread */
    atomic_int sleep;                /* enum sleep: put down by the log thread, AWAKE by whoever wakes it */
    atomic_int_fast64_t stop_by_ms;  /* FPRED__NEVER until free */

    pthread_mutex_t mutex;
    pthread_cond_t end;
    bool ended;     /* guarded by mutex: the log thread is done with the descriptor and the log */
    bool abandoned; /* guarded by mutex: free waits no longer, so the log thread frees */

    /* log thread only */
    _Alignas(64) uint64_t reported; /* of dropped */
    char piece[PIECE_MAX_BYTES];

    _Alignas(64) char ring[]; /* [tail, head) is the log thread's, the rest the loop's */
};

/* -- formatting: loop thread -- */

static char *put_text(char *out, const char *text, size_t len)
{
    memcpy(out, text, len);
    return out + len;
}

static char *put_number(char *out, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    return put_text(out, digits + at, sizeof digits - at);
}

/* The text up to end, escaped; what doesn't fit is cut at a whole escape and marked. end - out >= 3. */
static char *put_escaped(char *out, const char *end, struct fpred_slice text)
{
    static const char hex[] = "0123456789ABCDEF";
    char *cut = out; /* the last place where the mark fits */
    for (size_t i = 0; i < text.len; i++) {
        unsigned char byte = (unsigned char)text.base[i];
        bool plain = byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
        if (end - out < (plain ? 1 : 4))
            return put_text(cut, "...", 3);
        if (plain) {
            *out++ = (char)byte;
        } else {
            *out++ = '\\';
            *out++ = 'x';
            *out++ = hex[byte >> 4];
            *out++ = hex[byte & 15];
        }
        if (end - out >= 3)
            cut = out;
    }
    return out;
}

/* Two digits that count, or more: 0.04ms, 6.1ms, 120ms, 1.2s. Each step is taken on the rounded figure, so that 0.996
 * ms is 1.0ms. */
static char *put_duration(char *out, int64_t duration_us)
{
    uint64_t us = duration_us > 0 ? (uint64_t)duration_us : 0;
    uint64_t hundredths = (us + 5) / 10, tenths = (us + 50) / 100, ms = (us + 500) / 1000;
    if (hundredths < 100) {
        out = put_text(out, "0.", 2);
        *out++ = (char)('0' + hundredths / 10);
        *out++ = (char)('0' + hundredths % 10);
        return put_text(out, "ms", 2);
    }
    if (ms >= 1000)
        tenths = (us + 50000) / 100000;
    else if (tenths >= 1000)
        return put_text(put_number(out, ms), "ms", 2);
    out = put_number(out, tenths / 10);
    *out++ = '.';
    *out++ = (char)('0' + tenths % 10);
    return ms >= 1000 ? put_text(out, "s", 1) : put_text(out, "ms", 2);
}

/* All behind the target of an understood request line, or behind the line that was not. */
static size_t format_tail(char tail[TAIL_MAX_BYTES], const struct fpred__accesslog_entry *entry, bool understood)
{
    char *out = tail;
    if (understood) {
        out = put_text(out, " HTTP/1.", 8);
        out = put_number(out, (uint64_t)entry->minor_version);
    }
    out = put_text(out, "\" ", 2);
    if (entry->status > 0)
        out = put_number(out, (uint64_t)entry->status);
    else
        *out++ = '-';
    *out++ = ' ';
    out = put_number(out, entry->body_bytes);
    *out++ = ' ';
    out = put_number(out, entry->reply_bytes);
    *out++ = ' ';
    out = put_duration(out, entry->duration_us);
    *out++ = '\n';
    return (size_t)(out - tail);
}

/* The tail comes first: its length says how much of the target fits. */
static size_t format_line(char line[LINE_MAX_BYTES], const struct fpred__accesslog_entry *entry)
{
    bool understood = entry->method.base != NULL && entry->target.base != NULL;
    assert(!understood || entry->minor_version >= 0);
    char tail[TAIL_MAX_BYTES];
    size_t tail_bytes = format_tail(tail, entry, understood);

    char *out = put_text(line, entry->client, strnlen(entry->client, CLIENT_MAX_BYTES));
    out = put_text(out, " \"", 2);
    if (understood) {
        out = put_escaped(out, out + METHOD_MAX_BYTES, entry->method);
        *out++ = ' ';
        out = put_escaped(out, line + LINE_MAX_BYTES - tail_bytes, entry->target);
    } else {
        *out++ = '-';
    }
    out = put_text(out, tail, tail_bytes);
    return (size_t)(out - line);
}

/* -- the ring's near end: loop thread -- */

static void wake(struct fpred__accesslog *log)
{
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(log->wake_fd, &one, sizeof one);
    while (written < 0 && errno == EINTR);
    /* EAGAIN would mean 2^64 - 2 unread wakes: it is awake. */
}

/* The head was moved before `sleep` is read here, and the log thread reads the head after it has put `sleep` down, all
 * four sequentially consistent: one of the two always sees the other. */
static void wake_if_needed(struct fpred__accesslog *log, size_t waiting)
{
    int sleep = atomic_load(&log->sleep);
    if (sleep == AWAKE || (sleep == LINGERING && waiting <= log->mask / 2))
        return;
    if (atomic_exchange(&log->sleep, AWAKE) != AWAKE)
        wake(log);
}

void fpred__accesslog_add(struct fpred__accesslog *log, const struct fpred__accesslog_entry *entry)
{
    size_t len = format_line(log->line, entry);
    size_t size = log->mask + 1, head = atomic_load_explicit(&log->head, memory_order_relaxed);

    /* An old tail only makes the ring look fuller than it is, so the log thread's cache line is left alone until that
     * matters. */
    if (head + len - log->tail_seen > size / 2)
        log->tail_seen = atomic_load_explicit(&log->tail, memory_order_acquire);
    if (len > size - (head - log->tail_seen)) {
        atomic_fetch_add_explicit(&log->dropped, 1, memory_order_relaxed);
        return;
    }
    size_t at = head & log->mask, first = len < size - at ? len : size - at;
    memcpy(log->ring + at, log->line, first);
    memcpy(log->ring, log->line + first, len - first);
    atomic_store(&log->head, head + len);
    wake_if_needed(log, head + len - log->tail_seen);
}

uint64_t fpred__accesslog_dropped(const struct fpred__accesslog *log)
{
    return atomic_load_explicit(&log->dropped, memory_order_relaxed);
}

/* -- the ring's far end: log thread -- */

/* Waits until fd takes bytes (-1: for nothing), a wake, or the timeout (-1: none). True when fd is ready, or broken. */
static bool nap(struct fpred__accesslog *log, int fd, int timeout_ms)
{
    struct pollfd fds[] = {{log->wake_fd, POLLIN, 0}, {fd, POLLOUT, 0}};
    if (poll(fds, 2, timeout_ms) <= 0)
        return false;
    uint64_t wakes;
    if (fds[0].revents != 0)
        while (read(log->wake_fd, &wakes, sizeof wakes) < 0 && errno == EINTR)
            ;
    return fds[1].revents != 0;
}

/* How long the thread may still wait, for poll: -1 for ever, 0 not at all. Who naps asks this first: a wake that came
 * with stop_by_ms may have been read already. */
static int time_left_ms(struct fpred__accesslog *log)
{
    int64_t stop_by_ms = atomic_load(&log->stop_by_ms);
    if (stop_by_ms == FPRED__NEVER)
        return -1;
    int64_t left_ms = stop_by_ms - fpred__clock_now_ms();
    return left_ms <= 0 ? 0 : left_ms > INT_MAX ? INT_MAX : (int)left_ms;
}

static bool wait_writable(struct fpred__accesslog *log)
{
    for (int left_ms; (left_ms = time_left_ms(log)) != 0;) {
        if (nap(log, log->fd, left_ms))
            return true;
    }
    return false;
}

/* False when it could not be written to the end. A reader that stopped holds this up until free says otherwise. */
static bool write_all(struct fpred__accesslog *log, const char *buf, size_t len)
{
    while (len > 0) {
        if (!wait_writable(log))
            return false;
        ssize_t written = write(log->fd, buf, len);
        if (written > 0) {
            buf += written;
            len -= (size_t)written;
        } else if (written < 0 && errno == EAGAIN) {
            nap(log, -1, 1); /* poll and write disagree: don't spin on it */
        } else if (written == 0 || errno != EINTR) {
            return false; /* EPIPE, EBADF, ENOSPC, EIO: these lines are lost, the next may pass */
        }
    }
    return true;
}

/* Takes whole lines out of the ring, at most until `head`. Returns their bytes. */
static size_t take_piece(struct fpred__accesslog *log, size_t head)
{
    size_t size = log->mask + 1, tail = atomic_load_explicit(&log->tail, memory_order_relaxed);
    size_t len = head - tail < PIECE_MAX_BYTES ? head - tail : PIECE_MAX_BYTES;
    size_t at = tail & log->mask, first = len < size - at ? len : size - at;
    memcpy(log->piece, log->ring + at, first);
    memcpy(log->piece + first, log->ring, len - first);

    const char *end = memrchr(log->piece, '\n', len);
    assert(end != NULL); /* [tail, head) is whole lines, and a piece holds the longest */
    len = (size_t)(end + 1 - log->piece);
    atomic_store_explicit(&log->tail, tail + len, memory_order_release);
    return len;
}

static uint64_t count_lines(const char *buf, size_t len)
{
    uint64_t lines = 0;
    for (size_t i = 0; i < len; i++)
        lines += buf[i] == '\n';
    return lines;
}

/* Whether the report itself gets through is not asked: else a broken descriptor would be reported to itself for ever.
 */
static void report_dropped(struct fpred__accesslog *log)
{
    uint64_t dropped = atomic_load_explicit(&log->dropped, memory_order_relaxed);
    if (dropped == log->reported)
        return;
    char line[64];
    int len =
        snprintf(line, sizeof line, "access log: lines dropped: %llu\n", (unsigned long long)(dropped - log->reported));
    log->reported = dropped;
    (void)write_all(log, line, (size_t)len);
}

/* Writes what is in the ring now. Returns whether there was anything. */
static bool drain(struct fpred__accesslog *log)
{
    size_t head = atomic_load(&log->head);
    bool any = head != atomic_load_explicit(&log->tail, memory_order_relaxed);
    while (head != atomic_load_explicit(&log->tail, memory_order_relaxed)) {
        size_t len = take_piece(log, head);
        if (!write_all(log, log->piece, len))
            atomic_fetch_add_explicit(&log->dropped, count_lines(log->piece, len), memory_order_relaxed);
    }
    report_dropped(log);
    return any;
}

static void destroy(struct fpred__accesslog *log)
{
    close(log->wake_fd);
    pthread_cond_destroy(&log->end);
    pthread_mutex_destroy(&log->mutex);
    free(log);
}

static void end(struct fpred__accesslog *log)
{
    pthread_mutex_lock(&log->mutex);
    log->ended = true;
    bool abandoned = log->abandoned;
    pthread_cond_signal(&log->end);
    pthread_mutex_unlock(&log->mutex);
    if (abandoned)
        destroy(log);
}

static void *log_main(void *arg)
{
    struct fpred__accesslog *log = arg;
    pthread_setname_np(pthread_self(), "fastpredict-log");
    for (;;) {
        bool stopping = time_left_ms(log) >= 0; /* before the drain: then nothing comes after what it sees */
        bool any = drain(log);
        if (stopping)
            break;
        atomic_store(&log->sleep, any ? LINGERING : ASLEEP);
        if (any)
            nap(log, -1, LINGER_MS);
        else if (atomic_load(&log->head) == atomic_load(&log->tail) && time_left_ms(log) < 0)
            nap(log, -1, -1);
        atomic_store(&log->sleep, AWAKE);
    }
    end(log);
    return NULL;
}

/* -- life -- */

static int start_thread(struct fpred__accesslog *log)
{
    sigset_t all, before;
    sigfillset(&all); /* SIGPIPE too: a reader that went is an EPIPE here, and the process's disposition stays */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&log->thread, NULL, log_main, log);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static void init_end(struct fpred__accesslog *log)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&log->end, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&log->mutex, NULL);
}

struct fpred__accesslog *fpred__accesslog_new(int fd, size_t ring_bytes)
{
    assert(fd >= 0);
    assert(ring_bytes >= 64 && ring_bytes <= SIZE_MAX / 2 && (ring_bytes & (ring_bytes - 1)) == 0);
    struct fpred__accesslog *log = aligned_alloc(64, sizeof *log + ring_bytes);
    if (log == NULL)
        return NULL;
    memset(log, 0, sizeof *log); /* not the ring: its pages come as they are used */
    log->fd = fd;
    log->mask = ring_bytes - 1;
    atomic_init(&log->stop_by_ms, FPRED__NEVER);
    log->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (log->wake_fd < 0) {
        free(log);
        return NULL;
    }
    init_end(log);
    int error = start_thread(log);
    if (error != 0) {
        destroy(log);
        errno = error;
        return NULL;
    }
    return log;
}

/* Whether the log thread has ended by then; if not, it has been told to free the log. */
static bool wait_for_end(struct fpred__accesslog *log, int64_t until_ms)
{
    struct timespec until = {(time_t)(until_ms / 1000), (long)(until_ms % 1000) * 1000000};
    pthread_mutex_lock(&log->mutex);
    while (!log->ended && pthread_cond_timedwait(&log->end, &log->mutex, &until) == 0)
        ;
    bool ended = log->ended;
    log->abandoned = !ended;
    pthread_mutex_unlock(&log->mutex);
    return ended;
}

/* A write that blocks although poll promised otherwise (a stopped terminal, another writer that filled the pipe in
 * between) can't be called back. The thread is then left behind: when that write returns it ends by itself and frees
 * the log; it uses the descriptor for nothing more. */
void fpred__accesslog_free(struct fpred__accesslog *log, int64_t timeout_ms)
{
    int64_t bound_ms = timeout_ms < 0 ? 0 : timeout_ms > INT_MAX ? INT_MAX : timeout_ms;
    int64_t stop_by_ms = fpred__clock_now_ms() + bound_ms;
    pthread_t thread = log->thread; /* the log may be gone once it is abandoned */
    atomic_store(&log->stop_by_ms, stop_by_ms);
    wake(log);
    if (wait_for_end(log, stop_by_ms + GRACE_MS)) {
        pthread_join(thread, NULL);
        destroy(log);
    } else {
        pthread_detach(thread);
    }
}
