/* input: what is read ahead of a body: heads, and pipelined bytes behind them. Loop thread. */
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

size_t fpred__input_room(const struct fpred__conn *conn)
{
    size_t limit = conn->buffer_bytes - FPRED__SPILL_MIN;
    return conn->filled < limit ? limit - conn->filled : 0;
}

bool fpred__input_grow(struct fpred__conn *conn)
{
    assert(conn->buffer_bytes < FPRED__CONN_BUFFER_MAX); /* a longer head is refused before */
    char *buffer = realloc(conn->buffer, FPRED__CONN_BUFFER_MAX);
    if (buffer == NULL)
        return false;
    conn->buffer = buffer;
    conn->buffer_bytes = FPRED__CONN_BUFFER_MAX;
    return true;
}

/* On a Unix socket descriptors may come along; only there is it worth looking. */
static ssize_t receive(struct fpred__conn *conn, size_t room)
{
    char *into = conn->buffer + conn->filled;
    if (conn->is_tcp)
        return recv(conn->fd, into, room, MSG_DONTWAIT);
    return fpred__memfds_recv(&conn->memfds, conn->fd, into, room, conn->filled);
}

bool fpred__input_read(struct fpred__conn *conn)
{
    size_t room = fpred__input_room(conn);
    if (!conn->may_read || room == 0)
        return false;
    ssize_t got;
    do
        got = receive(conn, room);
    while (got == -1 && errno == EINTR);
    conn->may_read = got == (ssize_t)room;
    if (got > 0)
        conn->filled += (size_t)got;
    else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
        fpred__conn_kill(conn);
    return got > 0;
}

void fpred__input_used(struct fpred__conn *conn, size_t at, size_t bytes)
{
    char *start = conn->buffer + at;
    size_t rest = conn->filled - at - bytes;
    if (rest != 0 && bytes != 0)
        memmove(start, start + bytes, rest);
    conn->filled -= bytes;
    fpred__memfds_shift(&conn->memfds, at, bytes);
}
