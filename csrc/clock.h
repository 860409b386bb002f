/* clock: deadlines on CLOCK_MONOTONIC, for the loop thread.
 *
 * A binary heap of deadlines and one timerfd, armed for the earliest. libh2o's own timers follow the wall clock
 * (gettimeofday), so a step of an hour would end every connection; these don't move.
 *
 * Moving a deadline later is a store: the heap keeps its old, earlier key and puts it right when that key comes due.
 * A busy connection that goes from head to body to idle thus costs no heap work and no system call.
 *
 * Threads: all of it on the loop thread (or on whichever single thread owns the clock), but fpred__clock_now_* and
 * fpred__clock_in_ms: any.
 */
#ifndef FPRED_CLOCK_H
#define FPRED_CLOCK_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "status.h"

#define FPRED__NEVER INT64_MAX

struct fpred__clock;

/* Embedded in whatever waits; zeroed by its owner before fpred__clock_add. */
struct fpred__deadline {
    void (*on_due)(struct fpred__deadline *self); /* set by the owner before the first fpred__clock_set */
    int64_t due_ms;                               /* read freely; written by fpred__clock_set only */
    int64_t key_ms;                               /* clock only */
    size_t index;                                 /* clock only: 1-based place in the heap, 0 when not in it */
};

int64_t fpred__clock_now_ms(void);
int64_t fpred__clock_now_us(void);

/* CLOCK_MONOTONIC in ms milliseconds from now, as a timed wait wants it. */
struct timespec fpred__clock_in_ms(int64_t ms);

/* NULL when out of memory or descriptors (errno says). Owned by the caller. */
struct fpred__clock *fpred__clock_new(void);
/* No deadline may be added any more. */
void fpred__clock_free(struct fpred__clock *clock);

/* The timerfd, non-blocking and close-on-exec: call fpred__clock_fire when it is readable. Owned by the clock. */
int fpred__clock_fd(const struct fpred__clock *clock);

/* Makes room for one more deadline, so that fpred__clock_set can't fail. FPRED_NOMEM otherwise. */
enum fpred_status fpred__clock_add(struct fpred__clock *clock, struct fpred__deadline *deadline);
/* Takes it out for good; required before its memory goes. Safe inside any on_due, for any deadline. */
void fpred__clock_remove(struct fpred__clock *clock, struct fpred__deadline *deadline);

/* Due at due_ms (monotonic), or FPRED__NEVER to disarm. */
void fpred__clock_set(struct fpred__clock *clock, struct fpred__deadline *deadline, int64_t due_ms);

/* Reads the timerfd, calls on_due of everything due at `now_ms` (each is disarmed first, and may set itself again),
 * arms the timer for the next. */
void fpred__clock_fire(struct fpred__clock *clock, int64_t now_ms);

#endif
