/* accesslog: a bounded ring from the loop to a thread that writes to a descriptor.
 *
 * The loop formats a line into the ring and goes on; when the ring is full the line is dropped and counted, and a line
 * says how many were lost once there is room again. The log thread never takes the GIL; a reader that has stopped
 * reading (a full pipe) stalls this thread only, and can't hold up fpred__accesslog_free beyond its bound.
 *
 * A line:  127.0.0.1:53412 "POST /predict HTTP/1.1" 200 30000000 12000 6.1ms
 *          client, request line, status, body bytes received, reply bytes sent, time from head to the reply's last
 * byte. Every byte of the request line that is not printable ASCII, and '"' and '\', is written as \xHH. A request line
 * that was never understood is "-". */
#ifndef FPRED_ACCESSLOG_H
#define FPRED_ACCESSLOG_H

#include <stddef.h>
#include <stdint.h>

#include "head.h"
#include "status.h"

struct fpred__accesslog;

struct fpred__accesslog_entry {
    const char *client;        /* "127.0.0.1:53412", "[::1]:53412" or "unix" */
    struct fpred_slice method; /* base NULL: not understood */
    struct fpred_slice target;
    int minor_version;
    int status; /* 0: the client left before an answer; written as "-" */
    size_t body_bytes;
    size_t reply_bytes;
    int64_t duration_us;
};

/* fd: borrowed until free. ring_bytes: a power of two. Starts the thread with all signals blocked. NULL with errno set.
 */
struct fpred__accesslog *fpred__accesslog_new(int fd, size_t ring_bytes);

/* Loop thread only; never blocks. Lines longer than 2 KiB have their target cut, marked with "...". */
void fpred__accesslog_add(struct fpred__accesslog *log, const struct fpred__accesslog_entry *entry);

/* Lines dropped so far. Any thread. */
uint64_t fpred__accesslog_dropped(const struct fpred__accesslog *log);

/* Writes what is left, for at most timeout_ms, joins the thread, frees. From the thread that owns it, after the loop
 * has ended. */
void fpred__accesslog_free(struct fpred__accesslog *log, int64_t timeout_ms);

#endif
