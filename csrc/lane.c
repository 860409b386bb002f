/* lane: see lane.h. */
#include "lane.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "mailbox.h"

#define SPIN_US 50
#define SPIN_BODY_MAX ((size_t)4 << 20) /* receiving more takes so long that a wake is lost in it; at 1 MB it isn't */

struct fpred__lane {
    pthread_mutex_t mutex;
    pthread_cond_t not_empty;
    struct fpred_exchange *oldest, *newest; /* guarded by mutex */
    size_t sleepers;                        /* guarded by mutex */
    bool closed;                            /* guarded by mutex */
    atomic_size_t depth;                    /* written under mutex, read by any thread */
    bool may_spin;                          /* set once before use */
    atomic_bool large;                      /* the last exchange had a large body */
};

/* Whether whoever is waited for can run meanwhile: on another core that this process may use. */
static bool has_cores(void)
{
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) /* more cores than a cpu_set_t has */
        return sysconf(_SC_NPROCESSORS_ONLN) > 1;
    return CPU_COUNT(&cores) > 1;
}

struct fpred__lane *fpred__lane_new(void)
{
    struct fpred__lane *lane = calloc(1, sizeof *lane);
    if (lane == NULL)
        return NULL;
    pthread_mutex_init(&lane->mutex, NULL);
    pthread_cond_init(&lane->not_empty, NULL);
    atomic_init(&lane->depth, 0);
    atomic_init(&lane->large, false);
    lane->may_spin = has_cores();
    return lane;
}

void fpred__lane_free(struct fpred__lane *lane)
{
    assert(lane->oldest == NULL && lane->sleepers == 0);
    pthread_cond_destroy(&lane->not_empty);
    pthread_mutex_destroy(&lane->mutex);
    free(lane);
}

void fpred__lane_push(struct fpred__lane *lane, struct fpred_exchange *exchange)
{
    exchange->queued_us = fpred__clock_now_us();
    pthread_mutex_lock(&lane->mutex);
    fpred__exchange_step(exchange, FPRED__RECEIVING, FPRED__QUEUED);
    exchange->next = NULL;
    exchange->prev = lane->newest;
    if (lane->newest != NULL)
        lane->newest->next = exchange;
    else
        lane->oldest = exchange;
    lane->newest = exchange;
    atomic_store_explicit(&lane->large, exchange->body_bytes > SPIN_BODY_MAX, memory_order_relaxed);
    atomic_fetch_add_explicit(&lane->depth, 1, memory_order_relaxed);
    bool wake = lane->sleepers != 0;
    pthread_mutex_unlock(&lane->mutex);
    if (wake)
        pthread_cond_signal(&lane->not_empty);
}

static void unlink_locked(struct fpred__lane *lane, struct fpred_exchange *exchange)
{
    if (exchange->prev != NULL)
        exchange->prev->next = exchange->next;
    else
        lane->oldest = exchange->next;
    if (exchange->next != NULL)
        exchange->next->prev = exchange->prev;
    else
        lane->newest = exchange->prev;
    exchange->next = exchange->prev = NULL;
    atomic_fetch_sub_explicit(&lane->depth, 1, memory_order_relaxed);
}

static struct fpred_exchange *pop_locked(struct fpred__lane *lane)
{
    struct fpred_exchange *exchange = lane->oldest;
    if (exchange != NULL) {
        unlink_locked(lane, exchange);
        fpred__exchange_step(exchange, FPRED__QUEUED, FPRED__RUNNING);
        fpred__mailbox_took(exchange->mailbox); /* before the lane looks empty to anybody */
    }
    return exchange;
}

bool fpred__lane_remove(struct fpred__lane *lane, struct fpred_exchange *exchange)
{
    pthread_mutex_lock(&lane->mutex);
    /* The mutex orders this read after a taker's step; later states are only reached by that taker. */
    bool queued = exchange->prev != NULL || lane->oldest == exchange;
    if (queued) {
        unlink_locked(lane, exchange);
        fpred__exchange_step(exchange, FPRED__QUEUED, FPRED__RECEIVING);
    }
    pthread_mutex_unlock(&lane->mutex);
    return queued;
}

/* Looks at the depth without the mutex, yielding in between, until it isn't 0 or the time is over. */
static void spin(struct fpred__lane *lane)
{
    int64_t until = fpred__clock_now_us() + SPIN_US;
    while (fpred__lane_depth(lane) == 0 && fpred__clock_now_us() < until)
        sched_yield();
}

enum fpred_status fpred__lane_take(struct fpred__lane *lane, struct fpred_exchange **exchange)
{
    bool large = atomic_load_explicit(&lane->large, memory_order_relaxed);
    if (lane->may_spin && !large && fpred__lane_depth(lane) == 0)
        spin(lane);
    pthread_mutex_lock(&lane->mutex);
    while ((*exchange = pop_locked(lane)) == NULL && !lane->closed) {
        lane->sleepers++;
        pthread_cond_wait(&lane->not_empty, &lane->mutex);
        lane->sleepers--;
    }
    pthread_mutex_unlock(&lane->mutex);
    return *exchange != NULL ? FPRED_OK : FPRED_CLOSED;
}

enum fpred_status fpred__lane_try_take(struct fpred__lane *lane, struct fpred_exchange **exchange)
{
    pthread_mutex_lock(&lane->mutex);
    *exchange = pop_locked(lane);
    enum fpred_status none = lane->closed ? FPRED_CLOSED : FPRED_MORE;
    pthread_mutex_unlock(&lane->mutex);
    return *exchange != NULL ? FPRED_OK : none;
}

void fpred__lane_close(struct fpred__lane *lane)
{
    pthread_mutex_lock(&lane->mutex);
    lane->closed = true;
    pthread_mutex_unlock(&lane->mutex);
    pthread_cond_broadcast(&lane->not_empty);
}

size_t fpred__lane_depth(const struct fpred__lane *lane)
{
    return atomic_load_explicit(&lane->depth, memory_order_relaxed);
}
