/* Tests of mailbox: order, wakes, owners that come back exactly once, its end, many threads. */
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "clock.h"
#include "exchange_helpers.h"

#define THREADS 4
#define REPLIES 1000 /* of each thread */

static bool is_readable(struct fpred__mailbox *mailbox)
{
    struct pollfd poll_fd = {fpred__mailbox_fd(mailbox), POLLIN, 0};
    return poll(&poll_fd, 1, 0) == 1;
}

/* Drains and finishes as the loop does; how many there were. */
static size_t finish_all(struct fpred__mailbox *mailbox)
{
    size_t count = 0;
    struct fpred_exchange *exchange = fpred__mailbox_drain(mailbox);
    while (exchange != NULL) {
        struct fpred_exchange *next = exchange->next;
        fpred__mailbox_finish(mailbox, exchange);
        exchange = next;
        count++;
    }
    return count;
}

TEST(replies_come_oldest_first_with_one_wake_for_all)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    char owners[5];
    CHECK(!is_readable(mailbox));
    for (size_t i = 0; i < 5; i++) {
        struct fpred_exchange *exchange = exchange_running(mailbox);
        CHECK_EQ(fpred__mailbox_running(mailbox), 1);
        reply_with_owner(exchange, &owners[i]);
        CHECK_EQ(fpred__mailbox_running(mailbox), 0);
    }
    uint64_t wakes = 0;
    CHECK_EQ(read(fpred__mailbox_fd(mailbox), &wakes, sizeof wakes), sizeof wakes);
    CHECK_EQ(wakes, 1);
    struct fpred_exchange *exchange = fpred__mailbox_drain(mailbox);
    for (size_t i = 0; i < 5; i++) {
        struct fpred_exchange *next = exchange->next;
        CHECK(exchange->reply_owner == &owners[i]);
        fpred__mailbox_finish(mailbox, exchange);
        exchange = next;
    }
    CHECK(exchange == NULL);
    CHECK(fpred__mailbox_drain(mailbox) == NULL);
    reply_with_owner(exchange_running(mailbox), &owners[0]); /* and wakes again */
    CHECK(is_readable(mailbox));
    CHECK_EQ(finish_all(mailbox), 1);
    CHECK(!is_readable(mailbox));
    for (size_t i = 0; i < 6; i++)
        CHECK(fpred__mailbox_reap(mailbox) != NULL);
    CHECK(fpred__mailbox_reap(mailbox) == NULL);
    fpred__mailbox_release(mailbox);
}

TEST(a_wake_makes_it_readable_with_nothing_in_it)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    fpred__mailbox_wake(mailbox);
    fpred__mailbox_wake(mailbox);
    CHECK(is_readable(mailbox));
    CHECK(fpred__mailbox_drain(mailbox) == NULL);
    CHECK(!is_readable(mailbox));
    fpred__mailbox_release(mailbox);
}

TEST(wait_returns_at_once_for_owners_and_in_time_for_none)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    char owner;
    CHECK_EQ(fpred__mailbox_wait(mailbox, 1), FPRED_OK);
    reply_with_owner(exchange_running(mailbox), &owner);
    finish_all(mailbox);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 100000), FPRED_OK);
    CHECK(fpred__mailbox_reap(mailbox) == &owner);
    fpred__mailbox_release(mailbox);
}

static void *wait_long(void *mailbox)
{
    fpred__mailbox_wait(mailbox, 100000);
    return NULL;
}

/* Before the wait or in the middle of it; and each call ends one wait only. */
TEST(a_call_for_control_ends_one_wait)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    pthread_t waiter;
    for (int i = 0; i < 20; i++) {
        if (i % 2 == 0)
            fpred__mailbox_call_control(mailbox);
        pthread_create(&waiter, NULL, wait_long, mailbox);
        if (i % 2 == 1) {
            usleep(2000); /* it waits by now; it must work either way */
            fpred__mailbox_call_control(mailbox);
        }
        pthread_join(waiter, NULL);
        int64_t start_ms = fpred__clock_now_ms();
        CHECK_EQ(fpred__mailbox_wait(mailbox, 10), FPRED_OK);
        CHECK(fpred__clock_now_ms() - start_ms >= 9);
    }
    fpred__mailbox_release(mailbox);
}

/* A control request isn't held up by an owner that is left to others for a moment. */
TEST(a_call_for_control_is_not_lost_behind_an_owner)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    char owner;
    reply_with_owner(exchange_running(mailbox), &owner);
    finish_all(mailbox);
    fpred__mailbox_call_control(mailbox);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 100000), FPRED_OK);
    CHECK(fpred__mailbox_reap(mailbox) == &owner);
    int64_t start_ms = fpred__clock_now_ms();
    CHECK_EQ(fpred__mailbox_wait(mailbox, 10), FPRED_OK);
    CHECK(fpred__clock_now_ms() - start_ms >= 9);
    fpred__mailbox_release(mailbox);
}

/* ---- its end ---- */

TEST(closing_disposes_of_what_was_posted_before)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_slice part = {"x", 1};
    struct fpred_reply copy = {.status = 200, .parts = &part, .part_count = 1, .copy = true};
    char owner;
    reply_with_owner(exchange_running(mailbox), &owner);
    CHECK_EQ(fpred_exchange_reply(exchange_running(mailbox), &copy), FPRED_OK);
    fpred__mailbox_close(mailbox);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 100000), FPRED_OK); /* an owner waits */
    CHECK(fpred__mailbox_reap(mailbox) == &owner);
    CHECK(fpred__mailbox_reap(mailbox) == NULL);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 100000), FPRED_CLOSED);
    fpred__mailbox_release(mailbox);
}

TEST(a_post_to_a_closed_mailbox_gives_everything_back)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *with_owner = exchange_running(mailbox), *with_slot = exchange_running(mailbox);
    struct fpred_slot *slot;
    char owner;
    CHECK_EQ(fpred_exchange_reply_slot(with_slot, 10, &slot), FPRED_OK);
    CHECK_EQ(fpred__slab_take(fpred__mailbox_slab(mailbox), 10, &with_owner->slot), FPRED_OK);
    fpred__mailbox_close(mailbox);
    struct fpred_reply reply = {.status = 200, .slot = slot};
    CHECK_EQ(fpred_exchange_reply(with_slot, &reply), FPRED_OK);
    reply_with_owner(with_owner, &owner);
    CHECK_EQ(slots_out(mailbox), 0);
    CHECK(fpred__mailbox_reap(mailbox) == &owner);
    CHECK(fpred__mailbox_reap(mailbox) == NULL);
    fpred__mailbox_release(mailbox);
}

TEST(closed_is_only_said_when_nothing_is_outside_and_nothing_to_reap)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_running(mailbox);
    char owner;
    fpred__mailbox_close(mailbox);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 1), FPRED_OK); /* one is outside */
    reply_with_owner(exchange, &owner);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 100000), FPRED_OK); /* its owner waits */
    CHECK(fpred__mailbox_reap(mailbox) == &owner);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 100000), FPRED_CLOSED);
    CHECK_EQ(fpred__mailbox_wait(mailbox, 100000), FPRED_CLOSED);
    fpred__mailbox_release(mailbox);
}

TEST(the_last_exchange_outlives_the_servers_share)
{
    struct fpred__mailbox *mailbox = mailbox_new();
    struct fpred_exchange *exchange = exchange_running(mailbox);
    struct fpred_reply reply = {.status = 204};
    fpred__mailbox_close(mailbox);
    fpred__mailbox_release(mailbox);
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
}

/* ---- threads ---- */

struct crowd {
    struct fpred__mailbox *mailbox;
    struct fpred_exchange *exchanges[THREADS][REPLIES];
    atomic_int back[THREADS][REPLIES];
    atomic_size_t reaped;
};

struct replier {
    struct crowd *crowd;
    size_t row;
    pthread_t thread;
};

static void *reply_all(void *argument)
{
    struct replier *replier = argument;
    for (size_t i = 0; i < REPLIES; i++) {
        atomic_int *owner = &replier->crowd->back[replier->row][i];
        struct fpred_slice part = {"x", 1};
        struct fpred_reply reply = {.status = 200, .parts = &part, .part_count = 1, .owner = owner};
        fpred_exchange_reply(replier->crowd->exchanges[replier->row][i], &reply);
    }
    return NULL;
}

static void reap_all(struct crowd *crowd)
{
    atomic_int *owner;
    while ((owner = fpred__mailbox_reap(crowd->mailbox)) != NULL) {
        atomic_fetch_add(owner, 1);
        atomic_fetch_add(&crowd->reaped, 1);
    }
}

static void *control(void *argument)
{
    struct crowd *crowd = argument;
    while (fpred__mailbox_wait(crowd->mailbox, 1000) == FPRED_OK)
        reap_all(crowd);
    return NULL;
}

/* The loop's part is this thread's: it drains `loops` replies, then closes while others are still to come. */
static void run_crowd(size_t loops)
{
    struct crowd *crowd = calloc(1, sizeof *crowd);
    struct replier repliers[THREADS];
    pthread_t controls;
    crowd->mailbox = mailbox_new();
    for (size_t i = 0; i < THREADS * REPLIES; i++)
        crowd->exchanges[i / REPLIES][i % REPLIES] = exchange_running(crowd->mailbox);
    pthread_create(&controls, NULL, control, crowd);
    for (size_t i = 0; i < THREADS; i++) {
        repliers[i] = (struct replier){.crowd = crowd, .row = i};
        pthread_create(&repliers[i].thread, NULL, reply_all, &repliers[i]);
    }
    for (size_t done = 0; done < loops;) {
        struct pollfd poll_fd = {fpred__mailbox_fd(crowd->mailbox), POLLIN, 0};
        if (poll(&poll_fd, 1, 20000) != 1)
            break; /* a lost wake */
        done += finish_all(crowd->mailbox);
    }
    fpred__mailbox_close(crowd->mailbox);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(repliers[i].thread, NULL);
    pthread_join(controls, NULL);
    CHECK_EQ(atomic_load(&crowd->reaped), THREADS * REPLIES);
    for (size_t i = 0; i < THREADS * REPLIES; i++)
        CHECK_EQ(atomic_load(&crowd->back[i / REPLIES][i % REPLIES]), 1);
    fpred__mailbox_release(crowd->mailbox);
    free(crowd);
}

TEST(every_owner_comes_back_once_from_many_threads)
{
    run_crowd(THREADS * REPLIES);
}

TEST(every_owner_comes_back_once_though_the_loop_ends_in_between)
{
    for (size_t loops = 0; loops < 8; loops++)
        run_crowd(loops * 300);
}

/* Everything was posted before and nobody is outside: the end is near, but not there while this thread still gives back
 * what nobody will write. */
TEST(the_end_is_not_said_while_closing_gives_owners_back)
{
    for (int round = 0; round < 20; round++) {
        struct crowd *crowd = calloc(1, sizeof *crowd);
        struct replier replier = {.crowd = crowd};
        pthread_t controls;
        crowd->mailbox = mailbox_new();
        for (size_t i = 0; i < REPLIES; i++)
            crowd->exchanges[0][i] = exchange_running(crowd->mailbox);
        reply_all(&replier);
        pthread_create(&controls, NULL, control, crowd);
        fpred__mailbox_close(crowd->mailbox);
        pthread_join(controls, NULL);
        CHECK_EQ(atomic_load(&crowd->reaped), REPLIES);
        reap_all(crowd); /* for LeakSanitizer's sake */
        fpred__mailbox_release(crowd->mailbox);
        free(crowd);
    }
}

TESTS(&check__replies_come_oldest_first_with_one_wake_for_all, &check__a_wake_makes_it_readable_with_nothing_in_it,
      &check__wait_returns_at_once_for_owners_and_in_time_for_none, &check__closing_disposes_of_what_was_posted_before,
      &check__a_post_to_a_closed_mailbox_gives_everything_back, &check__a_call_for_control_ends_one_wait,
      &check__a_call_for_control_is_not_lost_behind_an_owner,
      &check__closed_is_only_said_when_nothing_is_outside_and_nothing_to_reap,
      &check__the_last_exchange_outlives_the_servers_share, &check__every_owner_comes_back_once_from_many_threads,
      &check__every_owner_comes_back_once_though_the_loop_ends_in_between,
      &check__the_end_is_not_said_while_closing_gives_owners_back)
