/* loop: see loop.h. */
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define IDLE_GRACE_MS 300    /* for a request that is on its way to an idle connection when a drain begins */
#define DUMP_MS 500          /* for the handler of dump_signal to write the stacks */
#define FAILED_RUNS_MAX 100  /* in a row, before the loop takes a breath */
#define POOL_CHUNKS 16       /* as many as libh2o keeps */
#define SPARE_DESCRIPTORS 12 /* what libh2o and we open below, which libh2o would abort over */

static void tell(struct fpred__loop *loop, bool *flag, enum fpred_status status, int error)
{
    pthread_mutex_lock(&loop->mutex);
    *flag = true;
    if (flag == &loop->started) {
        loop->start_status = status;
        loop->start_errno = error;
    }
    pthread_cond_broadcast(&loop->changed);
    pthread_mutex_unlock(&loop->mutex);
}

/* ---- ending ---- */

/* dump_signal's handler runs on another thread: all signals are blocked in this one. */
static void end_process_overdue(int dump_signal)
{
    kill(getpid(), dump_signal);
    usleep(DUMP_MS * 1000);
    _exit(1);
}

static void on_overdue(struct fpred__deadline *deadline)
{
    struct fpred__loop *loop = H2O_STRUCT_FROM_MEMBER(struct fpred__loop, overdue, deadline);
    if (loop->signal_fd != -1)
        end_process_overdue(loop->dump_signal);
    loop->finished = true;
}

/* All that was accepted is answered: no more will come. A loop that watches signals goes on until it is stopped, for
 * shut-down functions may run now, which a second signal or the drain's deadline must be able to end. */
static void finish_if_drained(struct fpred__loop *loop)
{
    if (!loop->http1.draining || loop->listeners.first != NULL || loop->http1.all.count != 0)
        return;
    if (loop->signal_fd == -1) {
        loop->finished = true;
        return;
    }
    fpred__lane_close(loop->http1.lane);
    fpred__lane_close(loop->http1.control_lane);
    tell(loop, &loop->drained, FPRED_OK, 0);
}

static void begin_drain(struct fpred__loop *loop)
{
    if (loop->http1.draining)
        return;
    atomic_store(&loop->wants_drain, true); /* a signal's, too, is to be seen by fpred_server_is_draining */
    fpred__http1_drain(&loop->http1, IDLE_GRACE_MS);
    fpred__listeners_accept_rest(&loop->listeners);
    fpred__listeners_close(&loop->listeners);
    int64_t bound_ms = loop->http1.config->graceful_timeout_ms;
    if (bound_ms > 0)
        fpred__clock_set(loop->http1.clock, &loop->overdue, fpred__clock_now_ms() + bound_ms);
    finish_if_drained(loop);
}

/* ---- events ---- */

static void on_mail(h2o_socket_t *socket, const char *error)
{
    (void)error;
    struct fpred__loop *loop = socket->data;
    struct fpred_exchange *exchange = fpred__mailbox_drain(loop->http1.mailbox);
    while (exchange != NULL) {
        struct fpred_exchange *next = exchange->next;
        fpred__http1_reply(&loop->http1, exchange);
        exchange = next;
    }
    if (atomic_load(&loop->wants_stop))
        loop->finished = true;
    else if (atomic_load(&loop->wants_drain))
        begin_drain(loop);
}

static void on_clock(h2o_socket_t *socket, const char *error)
{
    (void)error;
    struct fpred__loop *loop = socket->data;
    fpred__clock_fire(loop->http1.clock, fpred__clock_now_ms());
}

static void on_signal(h2o_socket_t *socket, const char *error)
{
    (void)error;
    struct fpred__loop *loop = socket->data;
    unsigned char signals[16];
    ssize_t count = read(h2o_socket_get_fd(socket), signals, sizeof signals);
    if (count == 0)
        h2o_socket_read_stop(socket);
    for (ssize_t i = 0; i < count; i++) {
        if (signals[i] != SIGTERM && signals[i] != SIGINT)
            continue; /* Python writes every signal that has a handler */
        if (++loop->signals > 1)
            _exit(128 + signals[i]);
        begin_drain(loop);
    }
}

static void on_room(struct fpred__http1 *http1)
{
    struct fpred__loop *loop = H2O_STRUCT_FROM_MEMBER(struct fpred__loop, http1, http1);
    fpred__listeners_resume(&loop->listeners);
    finish_if_drained(loop);
}

/* ---- the thread ---- */

/* libh2o aborts where it can't have a descriptor; this asks first. */
static bool has_descriptors(void)
{
    int fds[SPARE_DESCRIPTORS], count = 0;
    while (count < SPARE_DESCRIPTORS && (fds[count] = eventfd(0, EFD_CLOEXEC)) != -1)
        count++;
    int error = errno;
    bool enough = count == SPARE_DESCRIPTORS;
    while (count > 0)
        close(fds[--count]);
    errno = error;
    return enough;
}

/* The epoll descriptor that h2o_evloop_destroy forgets to close: the int behind the public part of the loop. -1 where
 * the layout is another. */
static int epoll_of(h2o_evloop_t *evloop)
{
    int fd = *(int *)(evloop + 1);
    struct epoll_event event;
    return epoll_wait(fd, &event, 1, 0) >= 0 ? fd : -1;
}

/* The two ends of the pipe of libh2o's message queue, which we don't use but the child of a fork must close. The queue
 * is opaque and begins with them; where its first int is no pipe, the layout is another. */
static void note_queue(struct fpred__loop *loop)
{
    const struct {
        int write;
        h2o_socket_t *read;
    } *queue = (const void *)loop->ctx.queue;
    struct stat found;
    if (fstat(queue->write, &found) == -1 || !S_ISFIFO(found.st_mode))
        return;
    loop->queue_places[0] = fpred__fdset_add(loop->http1.fds, queue->write);
    loop->queue_places[1] = fpred__fdset_add(loop->http1.fds, h2o_socket_get_fd(queue->read));
}

/* Watches a duplicate of fd, since libh2o closes what it is given. */
static bool watch(struct fpred__loop *loop, struct fpred__watch *watch, int fd, h2o_socket_cb on_readable)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy == -1)
        return false;
    watch->fd_place = fpred__fdset_add(loop->http1.fds, copy);
    watch->socket = h2o_evloop_socket_create(loop->ctx.loop, copy, H2O_SOCKET_FLAG_DONT_READ);
    watch->socket->data = loop;
    h2o_socket_read_start(watch->socket, on_readable);
    return true;
}

static void unwatch(struct fpred__loop *loop, struct fpred__watch *watch)
{
    if (watch->socket == NULL)
        return;
    fpred__fdset_remove(loop->http1.fds, watch->fd_place);
    h2o_socket_close(watch->socket);
}

static void init_h2o(struct fpred__loop *loop)
{
    h2o_config_init(&loop->globalconf);
    h2o_hostconf_t *host = h2o_config_register_host(&loop->globalconf, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h2o_pathconf_t *path = h2o_config_register_path(host, "/", 0);
    h2o_create_handler(path, sizeof(h2o_handler_t))->on_req = fpred__http1_on_req;
    h2o_context_init(&loop->ctx, h2o_evloop_create(), &loop->globalconf);
    loop->http1.ctx = &loop->ctx;
}

static void dispose_h2o(struct fpred__loop *loop)
{
    h2o_evloop_t *evloop = loop->ctx.loop;
    int epoll_fd = epoll_of(evloop);
    fpred__fdset_remove(loop->http1.fds, loop->queue_places[0]);
    fpred__fdset_remove(loop->http1.fds, loop->queue_places[1]);
    h2o_context_dispose(&loop->ctx);
    h2o_evloop_destroy(evloop);
    fpred__fdset_remove(loop->http1.fds, loop->epoll_place);
    if (epoll_fd != -1)
        close(epoll_fd);
    free(loop->ctx.queue); /* h2o_context_dispose empties it only */
    h2o_config_dispose(&loop->globalconf);
}

static enum fpred_status open_all(struct fpred__loop *loop)
{
    struct fpred__http1 *http1 = &loop->http1;
    http1->on_room = on_room;
    loop->epoll_place = fpred__fdset_add(http1->fds, epoll_of(loop->ctx.loop));
    note_queue(loop);
    if (!watch(loop, &loop->mail, fpred__mailbox_fd(http1->mailbox), on_mail) ||
        !watch(loop, &loop->timer, fpred__clock_fd(http1->clock), on_clock) ||
        (loop->signal_fd != -1 && !watch(loop, &loop->signal, loop->signal_fd, on_signal)))
        return FPRED_SYSTEM;
    loop->overdue = (struct fpred__deadline){.due_ms = FPRED__NEVER};
    if (fpred__clock_add(http1->clock, &loop->overdue) != FPRED_OK)
        return FPRED_NOMEM;
    loop->overdue.on_due = on_overdue;
    enum fpred_status status = fpred__listeners_open(&loop->listeners);
    /* One run registers everything: what can't be watched must not pass for serving. */
    if (status == FPRED_OK && h2o_evloop_run(loop->ctx.loop, 0) != 0 && errno != EINTR)
        status = FPRED_SYSTEM;
    return status;
}

static void close_all(struct fpred__loop *loop)
{
    fpred__listeners_close(&loop->listeners);
    fpred__http1_close_all(&loop->http1);
    fpred__lane_close(loop->http1.lane);
    fpred__lane_close(loop->http1.control_lane);
    fpred__mailbox_close(loop->http1.mailbox);
    if (loop->overdue.on_due != NULL)
        fpred__clock_remove(loop->http1.clock, &loop->overdue);
    unwatch(loop, &loop->mail);
    unwatch(loop, &loop->timer);
    unwatch(loop, &loop->signal);
}

/* epoll refused a descriptor, it may be: libh2o takes that for watched, and may only close it. So what was to be
 * watched from then on, by the callbacks of the last run that didn't fail, is closed or made anew. */
static void recover(struct fpred__loop *loop)
{
    fpred__http1_close_unwatched(&loop->http1, loop->http1.runs - 2);
    if (loop->listeners.first != NULL)
        fpred__listeners_reopen(&loop->listeners);
}

/* A run that failed was interrupted, or epoll refused something: the next one puts libh2o's lists right, and only then
 * may a socket be touched. */
static void serve(struct fpred__loop *loop)
{
    bool refused = false;
    int failed = 0;
    while (!loop->finished) {
        if (h2o_evloop_run(loop->ctx.loop, refused ? 0 : INT32_MAX) == 0) {
            loop->http1.runs++;
            failed = 0;
            if (refused && !loop->finished)
                recover(loop);
            refused = false;
            continue;
        }
        refused = refused || errno != EINTR;
        if (++failed > FAILED_RUNS_MAX) {
            usleep(10000);
            failed = 0;
        }
    }
}

/* libh2o keeps up to POOL_CHUNKS chunks of finished pools for their thread, and forgets them with it. */
static void free_pool_chunks(void)
{
    for (int i = 0; i < POOL_CHUNKS; i++) {
        h2o_mem_pool_t pool;
        h2o_mem_init_pool(&pool);
        h2o_mem_alloc_pool(&pool, 1);
        free(pool.chunks);
    }
}

static void *loop_main(void *argument)
{
    struct fpred__loop *loop = argument;
    init_h2o(loop);
    enum fpred_status status = open_all(loop);
    tell(loop, &loop->started, status, errno);
    if (status == FPRED_OK)
        serve(loop);
    close_all(loop);
    dispose_h2o(loop);
    free_pool_chunks();
    tell(loop, &loop->ended, FPRED_OK, 0);
    return NULL;
}

/* ---- from other threads ---- */

void fpred__loop_init(struct fpred__loop *loop)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&loop->mutex, NULL);
    pthread_cond_init(&loop->changed, &attr);
    pthread_condattr_destroy(&attr);
    atomic_init(&loop->wants_drain, false);
    atomic_init(&loop->wants_stop, false);
    loop->signal_fd = -1;
    loop->queue_places[0] = loop->queue_places[1] = SIZE_MAX;
    loop->listeners.http1 = &loop->http1;
}

enum fpred_status fpred__loop_start(struct fpred__loop *loop)
{
    if (!has_descriptors())
        return FPRED_SYSTEM;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&loop->thread, NULL, loop_main, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        errno = error;
        return FPRED_SYSTEM;
    }
    pthread_mutex_lock(&loop->mutex);
    while (!loop->started)
        pthread_cond_wait(&loop->changed, &loop->mutex);
    enum fpred_status status = loop->start_status;
    errno = loop->start_errno;
    pthread_mutex_unlock(&loop->mutex);
    if (status != FPRED_OK) {
        error = errno;
        pthread_join(loop->thread, NULL);
        errno = error;
    }
    return status;
}

void fpred__loop_drain(struct fpred__loop *loop)
{
    atomic_store(&loop->wants_drain, true);
    fpred__mailbox_wake(loop->http1.mailbox);
}

void fpred__loop_stop(struct fpred__loop *loop)
{
    atomic_store(&loop->wants_stop, true);
    fpred__mailbox_wake(loop->http1.mailbox);
}

enum fpred_status fpred__loop_wait(struct fpred__loop *loop, int64_t timeout_ms)
{
    struct timespec until = fpred__clock_in_ms(timeout_ms < 0 ? 0 : timeout_ms);
    int error = 0;
    pthread_mutex_lock(&loop->mutex);
    while (!loop->ended && !loop->drained && error == 0)
        error = timeout_ms < 0 ? pthread_cond_wait(&loop->changed, &loop->mutex)
                               : pthread_cond_timedwait(&loop->changed, &loop->mutex, &until);
    bool ended = loop->ended || loop->drained;
    pthread_mutex_unlock(&loop->mutex);
    return ended ? FPRED_OK : FPRED_TIMEOUT;
}

void fpred__loop_join(struct fpred__loop *loop)
{
    fpred__loop_stop(loop);
    pthread_join(loop->thread, NULL);
    pthread_cond_destroy(&loop->changed);
    pthread_mutex_destroy(&loop->mutex);
}

const char *fpred_libh2o_version(void)
{
    return H2O_VERSION;
}
