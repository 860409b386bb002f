/* mailbox: see mailbox.h. */
#include "mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

/* How long the control thread leaves finished owners to a predict thread, which reaps them when it takes. */
#define REAP_GRACE_MS 20

struct fpred__mailbox {
    atomic_size_t shares;
    struct fpred__slab *slab; /* set once; this mailbox's share */
    int event_fd;             /* set once */
    atomic_bool closed;       /* written by the loop at its end */
    atomic_bool control_called;
    atomic_size_t running;
    _Atomic(struct fpred_exchange *) posted; /* a stack, newest first */
    atomic_size_t finished_count;            /* written under mutex, read by any thread */
    pthread_mutex_t mutex;
    struct fpred_exchange *finished; /* guarded by mutex: a stack of exchanges with owners to give back */
    pthread_cond_t changed;          /* finished isn't empty, closed, or running fell to 0 */
};

struct fpred__mailbox *fpred__mailbox_new(struct fpred__slab *slab)
{
    struct fpred__mailbox *mailbox = calloc(1, sizeof *mailbox);
    if (mailbox == NULL)
        return NULL;
    mailbox->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mailbox->event_fd == -1) {
        free(mailbox);
        return NULL;
    }
    atomic_init(&mailbox->shares, 1);
    atomic_init(&mailbox->closed, false);
    atomic_init(&mailbox->control_called, false);
    atomic_init(&mailbox->running, 0);
    atomic_init(&mailbox->posted, NULL);
    atomic_init(&mailbox->finished_count, 0);
    mailbox->slab = slab;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&mailbox->mutex, NULL);
    pthread_cond_init(&mailbox->changed, &attr);
    pthread_condattr_destroy(&attr);
    return mailbox;
}

void fpred__mailbox_share(struct fpred__mailbox *mailbox)
{
    atomic_fetch_add_explicit(&mailbox->shares, 1, memory_order_relaxed);
}

void fpred__mailbox_release(struct fpred__mailbox *mailbox)
{
    if (atomic_fetch_sub_explicit(&mailbox->shares, 1, memory_order_acq_rel) != 1)
        return;
    /* Every exchange holds a share, so both stacks are empty. */
    assert(atomic_load(&mailbox->posted) == NULL && mailbox->finished == NULL);
    close(mailbox->event_fd);
    pthread_cond_destroy(&mailbox->changed);
    pthread_mutex_destroy(&mailbox->mutex);
    fpred__slab_release(mailbox->slab);
    free(mailbox);
}

struct fpred__slab *fpred__mailbox_slab(struct fpred__mailbox *mailbox)
{
    return mailbox->slab;
}

int fpred__mailbox_fd(const struct fpred__mailbox *mailbox)
{
    return mailbox->event_fd;
}

void fpred__mailbox_wake(struct fpred__mailbox *mailbox)
{
    uint64_t one = 1;
    while (write(mailbox->event_fd, &one, sizeof one) == -1 && errno == EINTR)
        ;
}

/* Returns whether the stack was empty. Links are only followed after the whole stack was taken. */
static bool push_posted(struct fpred__mailbox *mailbox, struct fpred_exchange *exchange)
{
    struct fpred_exchange *top = atomic_load_explicit(&mailbox->posted, memory_order_relaxed);
    do
        exchange->next = top;
    while (!atomic_compare_exchange_weak(&mailbox->posted, &top, exchange));
    return top == NULL;
}

static void signal_changed(struct fpred__mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->mutex);
    pthread_mutex_unlock(&mailbox->mutex);
    pthread_cond_broadcast(&mailbox->changed);
}

/* Takes all that was posted, oldest first. */
static struct fpred_exchange *take_posted(struct fpred__mailbox *mailbox)
{
    struct fpred_exchange *newest = atomic_exchange(&mailbox->posted, NULL), *oldest = NULL;
    while (newest != NULL) {
        struct fpred_exchange *next = newest->next;
        fpred__exchange_step(newest, FPRED__REPLIED, FPRED__WRITING);
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

/* Nobody will write these. The mailbox is kept alive by the caller. */
static void dispose_posted(struct fpred__mailbox *mailbox)
{
    struct fpred_exchange *exchange = take_posted(mailbox);
    while (exchange != NULL) {
        struct fpred_exchange *next = exchange->next;
        fpred__mailbox_finish(mailbox, exchange);
        exchange = next;
    }
}

void fpred__mailbox_post(struct fpred__mailbox *mailbox, struct fpred_exchange *exchange)
{
    bool last = exchange->last;
    fpred__mailbox_share(mailbox); /* the exchange may be gone the moment it is posted */
    bool first = push_posted(mailbox, exchange);
    /* The loop closes first and empties the stack after that, so one of the two sees this exchange. */
    if (atomic_load(&mailbox->closed))
        dispose_posted(mailbox);
    else if (first)
        fpred__mailbox_wake(mailbox);
    if (last && atomic_fetch_sub(&mailbox->running, 1) == 1 && atomic_load(&mailbox->closed))
        signal_changed(mailbox);
    fpred__mailbox_release(mailbox);
}

struct fpred_exchange *fpred__mailbox_drain(struct fpred__mailbox *mailbox)
{
    uint64_t count;
    while (read(mailbox->event_fd, &count, sizeof count) == -1 && errno == EINTR)
        ;
    return take_posted(mailbox);
}

void fpred__mailbox_finish(struct fpred__mailbox *mailbox, struct fpred_exchange *exchange)
{
    if (!exchange->last) {
        fpred__exchange_return(exchange, FPRED_CLOSED);
        return;
    }
    fpred__exchange_step(exchange, FPRED__WRITING, FPRED__FINISHED);
    if (exchange->reply_owner == NULL) {
        fpred__exchange_free(exchange);
        return;
    }
    fpred__slab_uncharge(mailbox->slab, exchange->charged_bytes);
    exchange->charged_bytes = 0;
    if (exchange->slot != NULL) {
        fpred_slot_release(exchange->slot);
        exchange->slot = NULL;
    }
    pthread_mutex_lock(&mailbox->mutex);
    exchange->next = mailbox->finished;
    mailbox->finished = exchange;
    bool first = atomic_fetch_add(&mailbox->finished_count, 1) == 0;
    pthread_mutex_unlock(&mailbox->mutex);
    if (first)
        pthread_cond_broadcast(&mailbox->changed);
}

void fpred__mailbox_close(struct fpred__mailbox *mailbox)
{
    atomic_fetch_add(&mailbox->running, 1); /* it isn't over before these are given back */
    atomic_store(&mailbox->closed, true);
    dispose_posted(mailbox);
    atomic_fetch_sub(&mailbox->running, 1);
    signal_changed(mailbox);
}

static bool has_finished(struct fpred__mailbox *mailbox)
{
    return atomic_load(&mailbox->finished_count) != 0;
}

void *fpred__mailbox_reap(struct fpred__mailbox *mailbox)
{
    if (!has_finished(mailbox))
        return NULL;
    pthread_mutex_lock(&mailbox->mutex);
    struct fpred_exchange *exchange = mailbox->finished;
    if (exchange != NULL) {
        mailbox->finished = exchange->next;
        atomic_fetch_sub(&mailbox->finished_count, 1);
    }
    pthread_mutex_unlock(&mailbox->mutex);
    if (exchange == NULL)
        return NULL;
    void *owner = exchange->reply_owner;
    exchange->reply_owner = NULL;
    fpred__exchange_free(exchange);
    return owner;
}

static bool is_over(struct fpred__mailbox *mailbox)
{
    return atomic_load(&mailbox->closed) && atomic_load(&mailbox->running) == 0;
}

void fpred__mailbox_call_control(struct fpred__mailbox *mailbox)
{
    atomic_store(&mailbox->control_called, true);
    signal_changed(mailbox);
}

/* Waits for a change, at most ms, unless there is something to do already; whether that may be a finished owner is for
 * the caller to say. */
static void wait_for_change(struct fpred__mailbox *mailbox, int64_t ms, bool finished_counts)
{
    struct timespec until = fpred__clock_in_ms(ms);
    pthread_mutex_lock(&mailbox->mutex);
    int result = 0;
    while (result == 0 && !atomic_load(&mailbox->control_called) && !is_over(mailbox) &&
           !(finished_counts && has_finished(mailbox)))
        result = pthread_cond_timedwait(&mailbox->changed, &mailbox->mutex, &until);
    pthread_mutex_unlock(&mailbox->mutex);
}

enum fpred_status fpred__mailbox_wait(struct fpred__mailbox *mailbox, int64_t timeout_ms)
{
    wait_for_change(mailbox, timeout_ms, true);
    if (has_finished(mailbox) && !atomic_load(&mailbox->closed))
        wait_for_change(mailbox, REAP_GRACE_MS, false);
    atomic_store(&mailbox->control_called, false);
    /* In this order: once it is over nothing is added any more. */
    if (is_over(mailbox) && !has_finished(mailbox))
        return FPRED_CLOSED;
    return FPRED_OK;
}

size_t fpred__mailbox_running(const struct fpred__mailbox *mailbox)
{
    return atomic_load(&mailbox->running);
}

void fpred__mailbox_took(struct fpred__mailbox *mailbox)
{
    atomic_fetch_add(&mailbox->running, 1);
}
