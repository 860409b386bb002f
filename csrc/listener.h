/* listener: TCP, Unix and inherited sockets: binding, accepting, pausing, limiting.
 *
 * Binding is the owner's business, before the loop runs, so that an address in use is an error at once. Accepting is
 * the loop's: at the limit of connections the longest idle one makes room, and when none is idle accepting pauses until
 * one ends; when descriptors or memory run out it pauses for 100 ms instead of spinning. */
#ifndef FPRED_LISTENER_H
#define FPRED_LISTENER_H

#include "http1.h"

struct fpred__listener;

/* The listeners of a server; embedded in the loop. */
struct fpred__listeners {
    struct fpred__http1 *http1;    /* set once before open */
    struct fpred__listener *first; /* owned; added before the loop runs, then the loop's */
    struct fpred__deadline retry;
    bool paused;
};

/* Each binds, listens and adds. FPRED_SYSTEM with errno, or with *detail where no errno says it. Owner's thread. */
enum fpred_status fpred__listen_tcp(struct fpred__listeners *listeners, const char *host, int port, int *bound_port,
                                    const char **detail);
/* The socket's file has `mode` from the start. A socket file that refuses connections is replaced. */
enum fpred_status fpred__listen_unix(struct fpred__listeners *listeners, const char *path, unsigned mode,
                                     const char **detail);
/* Duplicates fd. name: "host:port" or "unix:PATH". */
enum fpred_status fpred__listen_fd(struct fpred__listeners *listeners, int fd, char *name, size_t name_bytes,
                                   const char **detail);

/* Starts accepting: listeners->http1 is complete. FPRED_NOMEM. Loop thread. */
enum fpred_status fpred__listeners_open(struct fpred__listeners *listeners);

/* Watches every listener anew, on a fresh descriptor: after epoll refused one, which libh2o then takes for watched.
 * FPRED_SYSTEM: not now; it is tried again in 100 ms. Loop thread. */
enum fpred_status fpred__listeners_reopen(struct fpred__listeners *listeners);

/* A connection has gone or become idle: accept again if that was what accepting waited for. Loop thread. */
void fpred__listeners_resume(struct fpred__listeners *listeners);

/* Accepts what has already connected, beyond the limit too, so that nobody who got through is cut off. Loop thread. */
void fpred__listeners_accept_rest(struct fpred__listeners *listeners);

/* Closes and frees them all; a Unix socket's file is removed if it is still the one that was bound. Loop thread, or the
 * owner's where the loop never ran. */
void fpred__listeners_close(struct fpred__listeners *listeners);

#endif
