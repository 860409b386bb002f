/* loop: the network thread, with libh2o's global configuration, context and one handler; start, drain, stop.
 *
 *   descriptor          callback           does
 *   listeners           listener.c         accepts
 *   connections         http1.c            heads, bodies, answers
 *   mailbox's eventfd   on_mail            replies of predict threads; drain and stop requests
 *   clock's timerfd     on_clock           deadlines
 *   signal socket       on_signal          first byte drains, second ends the process
 *
 * Nothing here takes the GIL or waits for anybody. Signals are blocked in it, SIGPIPE too. */
#ifndef FPRED_LOOP_H
#define FPRED_LOOP_H

#include "listener.h"

/* A descriptor that isn't a connection. */
struct fpred__watch {
    h2o_socket_t *socket; /* over a duplicate; NULL: not watched */
    size_t fd_place;
};

/* Embedded in the server. All of it is the loop thread's from fpred__loop_start to the end of the thread, but what is
 * marked. */
struct fpred__loop {
    struct fpred__http1 http1; /* config to fds: set once by the server before start */
    struct fpred__listeners listeners;
    h2o_globalconf_t globalconf;
    h2o_context_t ctx;
    struct fpred__watch mail, timer, signal;
    size_t epoll_place, queue_places[2];
    struct fpred__deadline overdue;
    int signal_fd;   /* set once before start, read by a duplicate; -1: none */
    int dump_signal; /* set once before start */
    int signals;     /* seen so far */
    bool finished;
    atomic_bool wants_drain, wants_stop; /* set by any thread, then the mailbox is woken */

    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum fpred_status start_status; /* guarded by mutex */
    int start_errno;                /* guarded by mutex */
    bool started;                   /* guarded by mutex: start_status is set */
    bool drained;                   /* guarded by mutex: it only watches signals until it is stopped */
    bool ended;                     /* guarded by mutex: the thread has done everything but return */
};

/* Zeroed loop to one that may be started. */
void fpred__loop_init(struct fpred__loop *loop);

/* Starts the thread and waits until it serves. FPRED_SYSTEM with errno, FPRED_NOMEM: there is no thread then. */
enum fpred_status fpred__loop_start(struct fpred__loop *loop);

/* Any thread. */
void fpred__loop_drain(struct fpred__loop *loop);
void fpred__loop_stop(struct fpred__loop *loop);

/* Waits until a started loop has drained or ended, at most timeout_ms (< 0: for ever). FPRED_OK or FPRED_TIMEOUT. Any
 * thread. */
enum fpred_status fpred__loop_wait(struct fpred__loop *loop, int64_t timeout_ms);

/* Stops the loop and joins its thread; required once before the memory goes. */
void fpred__loop_join(struct fpred__loop *loop);

#endif
