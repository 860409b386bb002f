/* clock: a binary heap of deadlines over one timerfd. All of it on the thread that owns the clock.
 *
 * heap[1..count], ordered by key. What holds between calls:
 *   - key_ms <= due_ms, but for a deadline set to the past inside a fire, whose key is after that fire
 *   - capacity > members, so a push never allocates
 *   - the timer rings no later than heap[1]->key_ms. It may ring earlier, for a deadline that has moved later or gone:
 *     ringing once for nothing is cheaper than a system call for each of those. */
#include "clock.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct fpred__clock {
    int fd;                        /* set once */
    struct fpred__deadline **heap; /* from 1, so that index 0 can mean "not in it" */
    size_t capacity;               /* of heap, its unused first place included */
    size_t count;                  /* in the heap */
    size_t members;                /* added and not removed */
    int64_t armed_ms;              /* when the timer rings; FPRED__NEVER: it doesn't */
    int64_t floor_ms;              /* no key before this: one past the time of the fire under way, else INT64_MIN */
    bool firing;
};

int64_t fpred__clock_now_ms(void)
{
    struct timespec now;
    int rc = clock_gettime(CLOCK_MONOTONIC, &now);
    assert(rc == 0);
    (void)rc;
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t fpred__clock_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

struct timespec fpred__clock_in_ms(int64_t ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

struct fpred__clock *fpred__clock_new(void)
{
    struct fpred__clock *clock = calloc(1, sizeof *clock);
    if (clock == NULL)
        return NULL;
    clock->armed_ms = FPRED__NEVER;
    clock->floor_ms = INT64_MIN;
    clock->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (clock->fd < 0) {
        free(clock);
        return NULL;
    }
    return clock;
}

void fpred__clock_free(struct fpred__clock *clock)
{
    assert(clock->members == 0 && clock->count == 0 && !clock->firing);
    close(clock->fd);
    free(clock->heap);
    free(clock);
}

int fpred__clock_fd(const struct fpred__clock *clock)
{
    return clock->fd;
}

static void place(struct fpred__clock *clock, size_t index, struct fpred__deadline *deadline)
{
    clock->heap[index] = deadline;
    deadline->index = index;
}

static void sift_up(struct fpred__clock *clock, struct fpred__deadline *deadline)
{
    size_t at = deadline->index;
    for (; at > 1 && clock->heap[at / 2]->key_ms > deadline->key_ms; at /= 2)
        place(clock, at, clock->heap[at / 2]);
    place(clock, at, deadline);
}

static void sift_down(struct fpred__clock *clock, struct fpred__deadline *deadline)
{
    size_t at = deadline->index;
    for (size_t child; (child = 2 * at) <= clock->count; at = child) {
        if (child < clock->count && clock->heap[child + 1]->key_ms < clock->heap[child]->key_ms)
            child++;
        if (clock->heap[child]->key_ms >= deadline->key_ms)
            break;
        place(clock, at, clock->heap[child]);
    }
    place(clock, at, deadline);
}

static void push(struct fpred__clock *clock, struct fpred__deadline *deadline)
{
    assert(clock->count < clock->members); /* it was added, so there is room */
    place(clock, ++clock->count, deadline);
    sift_up(clock, deadline);
}

static void take_out(struct fpred__clock *clock, struct fpred__deadline *deadline)
{
    assert(clock->heap[deadline->index] == deadline);
    struct fpred__deadline *last = clock->heap[clock->count--];
    if (last != deadline) {
        place(clock, deadline->index, last);
        sift_up(clock, last);
        sift_down(clock, last);
    }
    deadline->index = 0;
}

static void arm(struct fpred__clock *clock, int64_t at_ms)
{
    struct itimerspec timer = {{0, 0}, {0, 0}}; /* zero disarms */
    if (at_ms != FPRED__NEVER) {
        if (at_ms < 1) /* the past, and it must not read as zero */
            at_ms = 1;
        timer.it_value.tv_sec = (time_t)(at_ms / 1000);
        timer.it_value.tv_nsec = (long)(at_ms % 1000) * 1000000;
    }
    int rc = timerfd_settime(clock->fd, TFD_TIMER_ABSTIME, &timer, NULL);
    assert(rc == 0);
    (void)rc;
    clock->armed_ms = at_ms;
}

enum fpred_status fpred__clock_add(struct fpred__clock *clock, struct fpred__deadline *deadline)
{
    assert(deadline->index == 0);
    if (clock->members + 1 >= clock->capacity) {
        size_t capacity = clock->capacity < 32 ? 64 : clock->capacity * 2;
        if (capacity > SIZE_MAX / sizeof *clock->heap)
            return FPRED_NOMEM;
        struct fpred__deadline **heap = realloc(clock->heap, capacity * sizeof *heap);
        if (heap == NULL)
            return FPRED_NOMEM;
        clock->heap = heap;
        clock->capacity = capacity;
    }
    clock->members++;
    deadline->due_ms = FPRED__NEVER;
    return FPRED_OK;
}

void fpred__clock_remove(struct fpred__clock *clock, struct fpred__deadline *deadline)
{
    assert(clock->members > 0);
    if (deadline->index != 0)
        take_out(clock, deadline);
    deadline->due_ms = FPRED__NEVER;
    clock->members--;
}

void fpred__clock_set(struct fpred__clock *clock, struct fpred__deadline *deadline, int64_t due_ms)
{
    assert(deadline->on_due != NULL);
    deadline->due_ms = due_ms;
    int64_t key_ms = due_ms > clock->floor_ms ? due_ms : clock->floor_ms;
    if (deadline->index != 0) {
        if (key_ms >= deadline->key_ms)
            return; /* later: put right when the old key comes due */
        deadline->key_ms = key_ms;
        sift_up(clock, deadline);
    } else if (due_ms != FPRED__NEVER) {
        deadline->key_ms = key_ms;
        push(clock, deadline);
    } else {
        return;
    }
    if (!clock->firing && key_ms < clock->armed_ms)
        arm(clock, key_ms);
}

/* The first of the heap by due time, if it is due at now_ms; NULL otherwise. Puts right what has moved later. */
static struct fpred__deadline *first_due(struct fpred__clock *clock, int64_t now_ms)
{
    while (clock->count > 0 && clock->heap[1]->key_ms <= now_ms) {
        struct fpred__deadline *first = clock->heap[1];
        if (first->due_ms <= first->key_ms)
            return first;
        if (first->due_ms == FPRED__NEVER) {
            take_out(clock, first);
        } else {
            first->key_ms = first->due_ms;
            sift_down(clock, first);
        }
    }
    return NULL;
}

void fpred__clock_fire(struct fpred__clock *clock, int64_t now_ms)
{
    assert(!clock->firing && now_ms < FPRED__NEVER);
    uint64_t rings;
    if (read(clock->fd, &rings, sizeof rings) == (ssize_t)sizeof rings)
        clock->armed_ms = FPRED__NEVER;

    /* What a callback sets to the past gets a key after now_ms: it waits for the next fire, so this one ends. No
     * pointer is kept over a callback: it may free any deadline. */
    clock->firing = true;
    clock->floor_ms = now_ms + 1;
    struct fpred__deadline *due;
    while ((due = first_due(clock, now_ms)) != NULL) {
        take_out(clock, due);
        due->due_ms = FPRED__NEVER;
        due->on_due(due);
    }
    clock->floor_ms = INT64_MIN;
    clock->firing = false;

    int64_t next_ms = clock->count > 0 ? clock->heap[1]->key_ms : FPRED__NEVER;
    if (next_ms != clock->armed_ms)
        arm(clock, next_ms);
}
