#include "clock.h"

#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/timerfd.h>

/* A deadline that writes down that it fired, and does one thing more. */
struct waiter {
    struct fpred__deadline deadline; /* first, so that a deadline is its waiter */
    void (*then)(struct waiter *self);
    struct waiter *other;
    int64_t again_ms;
    int fired;
    int id;
};

static struct fpred__clock *the_clock;
static int order[64];
static size_t order_count;

static void on_due(struct fpred__deadline *self)
{
    struct waiter *waiter = (struct waiter *)self;
    CHECK_EQ(self->index, 0);
    CHECK_EQ(self->due_ms, FPRED__NEVER);
    waiter->fired++;
    if (order_count < sizeof order / sizeof *order)
        order[order_count++] = waiter->id;
    if (waiter->then != NULL)
        waiter->then(waiter);
}

static void start(struct waiter *waiters, size_t count)
{
    the_clock = fpred__clock_new();
    order_count = 0;
    if (count > 0)
        memset(waiters, 0, count * sizeof *waiters);
    for (size_t i = 0; i < count; i++) {
        waiters[i].deadline.on_due = on_due;
        waiters[i].id = (int)i;
        CHECK_EQ(fpred__clock_add(the_clock, &waiters[i].deadline), FPRED_OK);
    }
}

static void finish(struct waiter *waiters, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fpred__clock_remove(the_clock, &waiters[i].deadline);
    fpred__clock_free(the_clock);
}

static void set(struct waiter *waiter, int64_t due_ms)
{
    fpred__clock_set(the_clock, &waiter->deadline, due_ms);
}

static void fire(int64_t now_ms)
{
    fpred__clock_fire(the_clock, now_ms);
}

static bool timer_armed(void)
{
    struct itimerspec left;
    CHECK_EQ(timerfd_gettime(fpred__clock_fd(the_clock), &left), 0);
    return left.it_value.tv_sec != 0 || left.it_value.tv_nsec != 0;
}

static bool readable_within(int timeout_ms)
{
    struct pollfd fd = {fpred__clock_fd(the_clock), POLLIN, 0};
    return poll(&fd, 1, timeout_ms) == 1;
}

TEST(deadlines_fire_in_the_order_of_their_times)
{
    static const int64_t due[] = {50, 10, 40, 20, 30};
    static const int wanted[] = {1, 3, 4, 2, 0};
    struct waiter waiters[5];
    start(waiters, 5);
    for (size_t i = 0; i < 5; i++)
        set(&waiters[i], due[i]);
    fire(9);
    CHECK_EQ(order_count, 0);
    fire(30);
    CHECK_EQ(order_count, 3);
    fire(50);
    CHECK_EQ(order_count, 5);
    CHECK(memcmp(order, wanted, sizeof wanted) == 0);
    finish(waiters, 5);
}

TEST(a_deadline_moved_later_waits_and_keeps_its_place_in_the_order)
{
    struct waiter waiters[2];
    start(waiters, 2);
    set(&waiters[0], 10);
    set(&waiters[1], 20);
    set(&waiters[0], 30);
    CHECK_EQ(waiters[0].deadline.due_ms, 30);
    fire(15);
    CHECK_EQ(order_count, 0);
    fire(40);
    CHECK_EQ(order_count, 2);
    CHECK_EQ(order[0], 1);
    CHECK_EQ(order[1], 0);
    finish(waiters, 2);
}

TEST(moving_later_and_back_fires_at_the_last_time_set)
{
    struct waiter waiters[1];
    start(waiters, 1);
    set(&waiters[0], 10);
    set(&waiters[0], 100);
    set(&waiters[0], 50);
    fire(49);
    CHECK_EQ(waiters[0].fired, 0);
    fire(50);
    CHECK_EQ(waiters[0].fired, 1);
    fire(1000);
    CHECK_EQ(waiters[0].fired, 1);
    finish(waiters, 1);
}

TEST(a_deadline_moved_earlier_fires_earlier)
{
    struct waiter waiters[3];
    start(waiters, 3);
    for (int i = 0; i < 3; i++)
        set(&waiters[i], 100 + i);
    set(&waiters[2], 5);
    fire(5);
    CHECK_EQ(order_count, 1);
    CHECK_EQ(order[0], 2);
    finish(waiters, 3);
}

TEST(never_disarms_and_can_be_undone)
{
    struct waiter waiters[2];
    start(waiters, 2);
    set(&waiters[0], FPRED__NEVER);
    set(&waiters[1], 10);
    set(&waiters[1], FPRED__NEVER);
    fire(1000);
    CHECK_EQ(order_count, 0);
    set(&waiters[1], 2000);
    fire(1999);
    CHECK_EQ(order_count, 0);
    fire(2000);
    CHECK_EQ(waiters[1].fired, 1);
    finish(waiters, 2);
}

static void set_again(struct waiter *self)
{
    set(self, self->again_ms);
}

TEST(a_deadline_that_sets_itself_to_the_past_fires_once_a_fire)
{
    struct waiter waiters[2];
    start(waiters, 2);
    waiters[0].then = waiters[1].then = set_again;
    waiters[0].again_ms = INT64_MIN;
    waiters[1].again_ms = 100;
    set(&waiters[0], 1);
    set(&waiters[1], 1);
    fire(100);
    CHECK_EQ(waiters[0].fired, 1);
    CHECK_EQ(waiters[1].fired, 1);
    CHECK(readable_within(1000)); /* they are late: the timer rings at once */
    fire(101);
    CHECK_EQ(waiters[0].fired, 2);
    CHECK_EQ(waiters[1].fired, 2);
    finish(waiters, 2);
}

TEST(a_deadline_can_set_itself_to_a_later_time)
{
    struct waiter waiters[1];
    start(waiters, 1);
    waiters[0].then = set_again;
    waiters[0].again_ms = 200;
    set(&waiters[0], 100);
    fire(150);
    fire(199);
    CHECK_EQ(waiters[0].fired, 1);
    fire(200);
    CHECK_EQ(waiters[0].fired, 2);
    finish(waiters, 1);
}

static void remove_and_free_both(struct waiter *self)
{
    struct waiter *other = self->other;
    fpred__clock_remove(the_clock, &other->deadline);
    fpred__clock_remove(the_clock, &self->deadline);
    free(other);
    free(self);
}

/* Both are due in the same round; whichever comes first frees both. ASan sees a pointer kept too long. */
TEST(a_callback_may_free_itself_and_another_that_is_due)
{
    struct waiter rest[8];
    start(rest, 8);
    for (int i = 0; i < 8; i++)
        set(&rest[i], 10 + i);
    struct waiter *pair[2];
    for (int i = 0; i < 2; i++) {
        pair[i] = calloc(1, sizeof **pair);
        pair[i]->deadline.on_due = on_due;
        pair[i]->then = remove_and_free_both;
        pair[i]->id = 100 + i;
        CHECK_EQ(fpred__clock_add(the_clock, &pair[i]->deadline), FPRED_OK);
    }
    pair[0]->other = pair[1];
    pair[1]->other = pair[0];
    set(pair[0], 14);
    set(pair[1], 12);
    fire(20);
    CHECK_EQ(order_count, 9);
    int first_of_pair = 0;
    for (size_t i = 0; i < order_count; i++)
        first_of_pair += order[i] == 101;
    CHECK_EQ(first_of_pair, 1);
    finish(rest, 8);
}

static void disarm_other(struct waiter *self)
{
    set(self->other, FPRED__NEVER);
}

static void pull_other(struct waiter *self)
{
    set(self->other, 1);
}

TEST(a_callback_may_disarm_or_pull_forward_another)
{
    struct waiter waiters[4];
    start(waiters, 4);
    waiters[0].then = disarm_other;
    waiters[0].other = &waiters[1];
    waiters[2].then = pull_other;
    waiters[2].other = &waiters[3];
    set(&waiters[0], 10);
    set(&waiters[1], 11);
    set(&waiters[2], 12);
    set(&waiters[3], 500);
    fire(20);
    CHECK_EQ(waiters[1].fired, 0);
    CHECK_EQ(waiters[3].fired, 0); /* set while firing: the next fire's */
    fire(21);
    CHECK_EQ(waiters[1].fired, 0);
    CHECK_EQ(waiters[3].fired, 1);
    finish(waiters, 4);
}

TEST(the_timer_rings_in_time_and_not_before)
{
    struct waiter waiters[1];
    start(waiters, 1);
    int64_t due_ms = fpred__clock_now_ms() + 30;
    set(&waiters[0], due_ms);
    CHECK(readable_within(5000));
    int64_t now_ms = fpred__clock_now_ms();
    CHECK(now_ms >= due_ms);
    fire(now_ms);
    CHECK_EQ(waiters[0].fired, 1);
    CHECK(!readable_within(0));
    finish(waiters, 1);
}

TEST(the_timer_follows_a_deadline_that_moves_earlier_or_lies_in_the_past)
{
    struct waiter waiters[2];
    start(waiters, 2);
    set(&waiters[0], fpred__clock_now_ms() + 3600000);
    CHECK(!readable_within(0));
    set(&waiters[0], fpred__clock_now_ms() + 1);
    CHECK(readable_within(5000));
    fire(fpred__clock_now_ms());
    CHECK_EQ(waiters[0].fired, 1);
    set(&waiters[1], 0);
    CHECK(readable_within(5000));
    fire(fpred__clock_now_ms());
    CHECK_EQ(waiters[1].fired, 1);
    set(&waiters[1], INT64_MIN);
    CHECK(readable_within(5000));
    finish(waiters, 2);
}

TEST(the_timer_is_not_armed_when_nothing_waits)
{
    struct waiter waiters[2];
    start(waiters, 2);
    CHECK(!timer_armed());
    int64_t now_ms = fpred__clock_now_ms();
    set(&waiters[0], now_ms + 3600000);
    set(&waiters[1], FPRED__NEVER);
    CHECK(timer_armed());
    fire(now_ms + 3600000);
    CHECK_EQ(waiters[0].fired, 1);
    CHECK(!timer_armed());

    /* Moved to never: it may ring once for nothing, and then no more. */
    set(&waiters[0], fpred__clock_now_ms() + 1);
    set(&waiters[0], FPRED__NEVER);
    CHECK(readable_within(5000));
    fire(fpred__clock_now_ms());
    CHECK_EQ(waiters[0].fired, 1);
    CHECK(!timer_armed());
    finish(waiters, 2);
}

/* A loop fires with the time it read before it polled; the ring is spent all the same. */
TEST(a_ring_answered_with_an_older_time_rings_again)
{
    struct waiter waiters[1];
    start(waiters, 1);
    int64_t before_ms = fpred__clock_now_ms();
    set(&waiters[0], before_ms + 2);
    CHECK(readable_within(5000));
    fire(before_ms);
    CHECK_EQ(waiters[0].fired, 0);
    CHECK(readable_within(5000));
    fire(fpred__clock_now_ms());
    CHECK_EQ(waiters[0].fired, 1);
    finish(waiters, 1);
}

TEST(a_deadline_in_the_farthest_future_can_be_armed)
{
    struct waiter waiters[1];
    start(waiters, 1);
    set(&waiters[0], FPRED__NEVER - 1);
    CHECK(timer_armed());
    fire(fpred__clock_now_ms());
    CHECK(timer_armed());
    CHECK(!readable_within(0));
    finish(waiters, 1);
}

TEST(the_descriptor_is_non_blocking_and_close_on_exec)
{
    start(NULL, 0);
    int fd = fpred__clock_fd(the_clock);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    fire(fpred__clock_now_ms()); /* nothing to read: must not block */
    finish(NULL, 0);
}

/* ASan sees a heap that is too small. */
TEST(all_that_were_added_have_room_also_after_others_went)
{
    enum { COUNT = 5000 };
    struct waiter *waiters = malloc(COUNT * sizeof *waiters);
    start(waiters, COUNT);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++)
            set(&waiters[i], 1000000 - i);
        for (int i = 0; i < COUNT; i += 2)
            fpred__clock_remove(the_clock, &waiters[i].deadline);
        for (int i = 0; i < COUNT; i += 2)
            CHECK_EQ(fpred__clock_add(the_clock, &waiters[i].deadline), FPRED_OK);
    }
    for (int i = 0; i < COUNT; i++)
        set(&waiters[i], i);
    fire(COUNT);
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(waiters[i].fired, 1);
    finish(waiters, COUNT);
    free(waiters);
}

/* -- against a model -- */

enum { MODEL_COUNT = 48, MODEL_STEPS = 10000 };

static struct {
    struct waiter waiters[MODEL_COUNT];
    int64_t wanted_ms[MODEL_COUNT]; /* when each must fire */
    bool added[MODEL_COUNT];
    int64_t now_ms;
    uint64_t random;
} model;

static unsigned random_below(unsigned bound)
{
    model.random = model.random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(model.random >> 33) % bound;
}

static void model_remove(int id)
{
    if (!model.added[id])
        return;
    fpred__clock_remove(the_clock, &model.waiters[id].deadline);
    model.added[id] = false;
    model.wanted_ms[id] = FPRED__NEVER;
}

/* It must be the earliest of all; then it removes itself or another, or sets itself, also to the past. */
static void model_fired(struct waiter *self)
{
    CHECK(model.added[self->id] && model.wanted_ms[self->id] <= model.now_ms);
    for (int i = 0; i < MODEL_COUNT; i++)
        CHECK(model.wanted_ms[self->id] <= model.wanted_ms[i]);
    model.wanted_ms[self->id] = FPRED__NEVER;
    unsigned what = random_below(8);
    if (what == 0) {
        model_remove(self->id);
    } else if (what == 1) {
        model_remove((int)random_below(MODEL_COUNT));
    } else if (what < 5) {
        int64_t due_ms = model.now_ms + random_below(60) - 15;
        set(self, due_ms);
        model.wanted_ms[self->id] = due_ms > model.now_ms ? due_ms : model.now_ms + 1;
    }
}

static void model_step(void)
{
    int id = (int)random_below(MODEL_COUNT);
    unsigned what = random_below(16);
    if (!model.added[id]) {
        model.waiters[id] = (struct waiter){.deadline = {.on_due = on_due}, .then = model_fired, .id = id};
        CHECK_EQ(fpred__clock_add(the_clock, &model.waiters[id].deadline), FPRED_OK);
        model.added[id] = true;
    } else if (what == 0) {
        model_remove(id);
    } else if (what < 12) {
        model.wanted_ms[id] = what == 1 ? FPRED__NEVER : model.now_ms + random_below(100) - 10;
        set(&model.waiters[id], model.wanted_ms[id]);
    } else {
        model.now_ms += random_below(30);
        fire(model.now_ms);
        for (int i = 0; i < MODEL_COUNT; i++)
            CHECK(model.wanted_ms[i] > model.now_ms);
    }
}

TEST(random_operations_do_what_a_naive_model_does)
{
    memset(&model, 0, sizeof model);
    model.random = 20240229;
    for (int i = 0; i < MODEL_COUNT; i++)
        model.wanted_ms[i] = FPRED__NEVER;
    start(NULL, 0);
    for (int step = 0; step < MODEL_STEPS; step++)
        model_step();
    for (int i = 0; i < MODEL_COUNT; i++)
        model_remove(i);
    finish(NULL, 0);
}

TESTS(&check__deadlines_fire_in_the_order_of_their_times,
      &check__a_deadline_moved_later_waits_and_keeps_its_place_in_the_order,
      &check__moving_later_and_back_fires_at_the_last_time_set, &check__a_deadline_moved_earlier_fires_earlier,
      &check__never_disarms_and_can_be_undone, &check__a_deadline_that_sets_itself_to_the_past_fires_once_a_fire,
      &check__a_deadline_can_set_itself_to_a_later_time, &check__a_callback_may_free_itself_and_another_that_is_due,
      &check__a_callback_may_disarm_or_pull_forward_another, &check__the_timer_rings_in_time_and_not_before,
      &check__the_timer_follows_a_deadline_that_moves_earlier_or_lies_in_the_past,
      &check__the_timer_is_not_armed_when_nothing_waits, &check__a_ring_answered_with_an_older_time_rings_again,
      &check__a_deadline_in_the_farthest_future_can_be_armed, &check__the_descriptor_is_non_blocking_and_close_on_exec,
      &check__all_that_were_added_have_room_also_after_others_went,
      &check__random_operations_do_what_a_naive_model_does)
