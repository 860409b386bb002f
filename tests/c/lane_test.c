/* Tests of lane: order, removal, closing, many threads. */
#include <pthread.h>
#include <unistd.h>

#include "exchange_helpers.h"

#define THREADS 4
#define PUSHED 4000

static struct fpred_exchange *take(struct fpred__lane *lane)
{
    struct fpred_exchange *exchange = NULL;
    CHECK_EQ(fpred__lane_take(lane, &exchange), FPRED_OK);
    CHECK_EQ(exchange->state, FPRED__RUNNING);
    return exchange;
}

static void close_and_free(struct fpred__lane *lane)
{
    struct fpred_exchange *exchange;
    fpred__lane_close(lane);
    CHECK_EQ(fpred__lane_take(lane, &exchange), FPRED_CLOSED);
    CHECK_EQ(fpred__lane_take(lane, &exchange), FPRED_CLOSED);
    CHECK_EQ(fpred__lane_depth(lane), 0);
    fpred__lane_free(lane);
}

TEST(the_oldest_is_taken_first)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred__lane *lane = fpred__lane_new();
    struct fpred_exchange *exchanges[5];
    for (size_t i = 0; i < 5; i++) {
        exchanges[i] = exchange_new(mailbox);
        fpred__lane_push(lane, exchanges[i]);
        CHECK_EQ(exchanges[i]->state, FPRED__QUEUED);
        CHECK_EQ(fpred__lane_depth(lane), i + 1);
    }
    for (size_t i = 0; i < 5; i++) {
        CHECK(take(lane) == exchanges[i]);
        CHECK_EQ(fpred__lane_depth(lane), 4 - i);
        fpred__exchange_free(exchanges[i]);
    }
    close_and_free(lane);
    fpred__mailbox_release(mailbox);
}

/* Every subset of four is removed, from either end; the rest keeps its order. */
TEST(what_is_removed_is_the_loops_again_and_the_rest_keeps_its_order)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    for (unsigned subset = 0; subset < 32; subset++) {
        struct fpred__lane *lane = fpred__lane_new();
        struct fpred_exchange *exchanges[4];
        for (size_t i = 0; i < 4; i++)
            fpred__lane_push(lane, exchanges[i] = exchange_new(mailbox));
        for (size_t step = 0; step < 4; step++) {
            size_t i = subset & 16 ? step : 3 - step;
            if ((subset >> i & 1) == 0)
                continue;
            CHECK(fpred__lane_remove(lane, exchanges[i]));
            CHECK_EQ(exchanges[i]->state, FPRED__RECEIVING);
        }
        for (size_t i = 0; i < 4; i++) {
            if ((subset >> i & 1) == 0)
                CHECK(take(lane) == exchanges[i]);
            fpred__exchange_free(exchanges[i]);
        }
        close_and_free(lane);
    }
    fpred__mailbox_release(mailbox);
}

TEST(what_was_taken_cannot_be_removed)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred__lane *lane = fpred__lane_new();
    struct fpred_exchange *first = exchange_new(mailbox), *second = exchange_new(mailbox);
    fpred__lane_push(lane, first);
    fpred__lane_push(lane, second);
    CHECK(take(lane) == first);
    CHECK(!fpred__lane_remove(lane, first));
    CHECK_EQ(first->state, FPRED__RUNNING);
    CHECK(fpred__lane_remove(lane, second));
    fpred__lane_push(lane, second); /* and may be queued again */
    CHECK(take(lane) == second);
    CHECK(!fpred__lane_remove(lane, second));
    fpred__exchange_free(first);
    fpred__exchange_free(second);
    close_and_free(lane);
    fpred__mailbox_release(mailbox);
}

TEST(a_closed_lane_hands_out_what_is_queued_first)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred__lane *lane = fpred__lane_new();
    struct fpred_exchange *exchange = exchange_new(mailbox);
    fpred__lane_push(lane, exchange);
    fpred__lane_close(lane);
    CHECK(take(lane) == exchange);
    fpred__exchange_free(exchange);
    close_and_free(lane);
    fpred__mailbox_release(mailbox);
}

TEST(try_take_never_waits)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred__lane *lane = fpred__lane_new();
    struct fpred_exchange *first = exchange_new(mailbox), *second = exchange_new(mailbox), *taken;
    CHECK_EQ(fpred__lane_try_take(lane, &taken), FPRED_MORE);
    fpred__lane_push(lane, first);
    fpred__lane_push(lane, second);
    CHECK_EQ(fpred__lane_try_take(lane, &taken), FPRED_OK);
    CHECK(taken == first);
    CHECK_EQ(first->state, FPRED__RUNNING);
    CHECK_EQ(fpred__mailbox_running(mailbox), 1);
    fpred__lane_close(lane);
    CHECK_EQ(fpred__lane_try_take(lane, &taken), FPRED_OK); /* what is queued first */
    CHECK(taken == second);
    CHECK_EQ(fpred__lane_try_take(lane, &taken), FPRED_CLOSED);
    CHECK_EQ(fpred__mailbox_running(mailbox), 2);
    fpred__exchange_free(first);
    fpred__exchange_free(second);
    close_and_free(lane);
    fpred__mailbox_release(mailbox);
}

/* ---- threads ---- */

struct crowd {
    struct fpred__lane *lane;
    atomic_size_t taken, ended;
};

/* What was taken stays as it is: the other thread may still ask the lane to remove it, as the loop does. */
static void *take_all(void *argument)
{
    struct crowd *crowd = argument;
    struct fpred_exchange *exchange;
    while (fpred__lane_take(crowd->lane, &exchange) == FPRED_OK)
        atomic_fetch_add(&crowd->taken, 1);
    atomic_fetch_add(&crowd->ended, 1);
    return NULL;
}

static void join_all(pthread_t *threads)
{
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

TEST(closing_wakes_every_taker)
{
    struct crowd crowd = {.lane = fpred__lane_new()};
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, take_all, &crowd);
    usleep(20000); /* most of them sleep by now; it must work either way */
    CHECK_EQ(atomic_load(&crowd.ended), 0);
    fpred__lane_close(crowd.lane);
    join_all(threads);
    CHECK_EQ(atomic_load(&crowd.ended), THREADS);
    fpred__lane_free(crowd.lane);
}

/* An exchange is either taken or removed, never both. */
TEST(each_exchange_has_one_owner_under_many_takers)
{
    static struct fpred_exchange *exchanges[PUSHED];
    struct fpred__mailbox *mailbox = mailbox_new();
    struct crowd crowd = {.lane = fpred__lane_new()};
    pthread_t threads[THREADS];
    size_t removed = 0, running = 0;
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, take_all, &crowd);
    for (size_t i = 0; i < PUSHED; i++) {
        fpred__lane_push(crowd.lane, exchanges[i] = exchange_new(mailbox));
        if (i % 3 == 2)
            removed += fpred__lane_remove(crowd.lane, exchanges[i - i % 2]);
        if (i % 100 == 0)
            usleep(200); /* so that takers fall asleep */
    }
    fpred__lane_close(crowd.lane);
    join_all(threads);
    for (size_t i = 0; i < PUSHED; i++) {
        running += exchanges[i]->state == FPRED__RUNNING;
        fpred__exchange_free(exchanges[i]);
    }
    CHECK_EQ(atomic_load(&crowd.taken), running);
    CHECK_EQ(running + removed, PUSHED);
    fpred__lane_free(crowd.lane);
    fpred__mailbox_release(mailbox);
}

TESTS(&check__the_oldest_is_taken_first, &check__what_is_removed_is_the_loops_again_and_the_rest_keeps_its_order,
      &check__what_was_taken_cannot_be_removed, &check__a_closed_lane_hands_out_what_is_queued_first,
      &check__try_take_never_waits, &check__closing_wakes_every_taker,
      &check__each_exchange_has_one_owner_under_many_takers)
