/* Tests of how an answer in parts flows: its maker waits for the client and no longer than it must, whoever leaves,
 * stops or drains meanwhile; and nothing is left of it. How it is framed is server_parts_test.c's.
 *
 * What needs seconds to pass is done by the test's own clock, which is CLOCK_MONOTONIC and as much more as a test says.
 */
#include "stage.h"

#include <sys/syscall.h>
#include <sys/timerfd.h>

#define PART (64 * 1024)
#define NO_SUCH_LENGTH FPRED_LENGTH_UNKNOWN

/* ---- the clock of this process: these two are called instead of libc's ----
 * What waits on a condition would wait for as much longer; so a test sets it back when its server has gone. */

static atomic_llong ahead_ms;

int clock_gettime(clockid_t id, struct timespec *time)
{
    int rc = (int)syscall(SYS_clock_gettime, id, time);
    if (id == CLOCK_MONOTONIC)
        time->tv_sec += atomic_load(&ahead_ms) / 1000;
    return rc;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *time, struct itimerspec *before)
{
    struct itimerspec real = *time;
    time_t ahead_s = atomic_load(&ahead_ms) / 1000;
    if ((flags & TFD_TIMER_ABSTIME) != 0 && real.it_value.tv_sec != 0)
        real.it_value.tv_sec = real.it_value.tv_sec > ahead_s ? real.it_value.tv_sec - ahead_s : 1;
    return (int)syscall(SYS_timerfd_settime, fd, flags, &real, before);
}

/* ---- a maker on a thread of its own ---- */

struct maker {
    struct fpred_exchange *exchange;
    const char *bytes;
    size_t total, part; /* bytes altogether, and in one write */
    pthread_t thread;
    atomic_size_t written;    /* by writes that have returned */
    enum fpred_status status; /* of the last; read once it is joined */
};

static void *make(void *argument)
{
    struct maker *maker = argument;
    for (size_t done = 0; done < maker->total && maker->status == FPRED_OK; done += maker->part) {
        size_t len = maker->total - done < maker->part ? maker->total - done : maker->part;
        maker->status = fpred_exchange_write(maker->exchange, maker->bytes + done, len);
        if (maker->status == FPRED_OK)
            atomic_fetch_add(&maker->written, len);
    }
    fpred_exchange_end(maker->exchange, maker->status == FPRED_OK);
    return NULL;
}

static void maker_start(struct maker *maker, struct fpred_exchange *exchange, const char *bytes, size_t total,
                        size_t part)
{
    *maker = (struct maker){.exchange = exchange, .bytes = bytes, .total = total, .part = part, .status = FPRED_OK};
    CHECK_EQ(pthread_create(&maker->thread, NULL, make, maker), 0);
}

static enum fpred_status maker_join(struct maker *maker)
{
    pthread_join(maker->thread, NULL);
    return maker->status;
}

/* Whether it is inside a write that goes on, with the charge of exactly that part. */
static bool maker_waits(struct stage *stage, struct maker *maker, size_t others)
{
    size_t before = SIZE_MAX;
    int64_t since_ms = now_ms();
    for (int64_t until_ms = now_ms() + WAIT_MS; now_ms() < until_ms; pause_ms(5)) {
        size_t written = atomic_load(&maker->written);
        if (written != before || stage_stats(stage).slab.charged_bytes != maker->part + others)
            since_ms = now_ms();
        else if (now_ms() - since_ms > 150)
            return true;
        before = written;
    }
    return false;
}

static struct fpred_exchange *asked(struct stage *stage, struct client *client, uint64_t length)
{
    client_asks(client, "GET", "/x", 1);
    struct fpred_exchange *exchange = stage_take(stage);
    begin_parts(exchange, 200, length);
    return exchange;
}

/* ---- slow clients ---- */

TEST(a_maker_stops_at_what_the_kernel_takes_until_the_client_reads)
{
    struct stage stage;
    struct maker maker;
    size_t total = 32 * MIB;
    char *bytes = random_bytes(total, 1), *got = malloc(total);
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    maker_start(&maker, asked(&stage, &client, total), bytes, total, PART);
    CHECK(maker_waits(&stage, &maker, 0));
    CHECK(atomic_load(&maker.written) < total - PART);
    CHECK(client_hears_status(&client, 200));
    CHECK(client_takes(&client, got, total) && memcmp(got, bytes, total) == 0);
    CHECK_EQ(maker_join(&maker), FPRED_OK);
    CHECK(client_goes_on(&client, &stage));
    client_close(&client);
    CHECK(COMES_TRUE(stage_is_empty(&stage)));
    stage_stop(&stage);
    free(bytes);
    free(got);
}

TEST(a_part_of_30_mb_is_one_chunk)
{
    struct stage stage;
    struct maker maker;
    size_t total = 30000000;
    char *bytes = random_bytes(total, 2), *got = malloc(total);
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    maker_start(&maker, asked(&stage, &client, NO_SUCH_LENGTH), bytes, total, total);
    CHECK(client_hears_status(&client, 200));
    CHECK(client_takes(&client, got, 9) && memcmp(got, "1c9c380\r\n", 9) == 0);
    CHECK_EQ(stage_stats(&stage).slab.charged_bytes, total);
    CHECK(client_takes(&client, got, total) && memcmp(got, bytes, total) == 0);
    CHECK(client_takes(&client, got, 7) && memcmp(got, "\r\n0\r\n\r\n", 7) == 0);
    CHECK_EQ(maker_join(&maker), FPRED_OK);
    CHECK(client_goes_on(&client, &stage));
    client_close(&client);
    stage_stop(&stage);
    free(bytes);
    free(got);
}

/* The request's own body is charged until the end, each part only while it is under way. */
TEST(what_is_charged_is_the_body_and_the_part_under_way)
{
    struct stage stage;
    struct maker maker;
    char *bytes = random_bytes(32 * MIB, 3);
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    CHECK(client_post(&client, "/exact", bytes, 1000));
    struct fpred_exchange *exchange = stage_take(&stage);
    begin_parts(exchange, 200, NO_SUCH_LENGTH);
    CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
    CHECK_EQ(stage_stats(&stage).slab.charged_bytes, 1000);
    CHECK_EQ(stage_stats(&stage).slab.out_slots, 1);
    maker_start(&maker, exchange, bytes, 32 * MIB, PART);
    CHECK(maker_waits(&stage, &maker, 1000));
    client_abort(&client);
    CHECK_EQ(maker_join(&maker), FPRED_CLOSED);
    CHECK(COMES_TRUE(stage_is_empty(&stage)));
    stage_stop(&stage);
    free(bytes);
}

TEST(a_client_that_takes_nothing_for_too_long_is_dropped)
{
    struct fpred_config config = config_for_tests();
    config.write_timeout_ms = 200;
    struct stage stage;
    struct maker maker;
    char *bytes = random_bytes(32 * MIB, 4);
    stage_open(&stage, &config);
    struct client client = client_of(&stage);
    maker_start(&maker, asked(&stage, &client, NO_SUCH_LENGTH), bytes, 32 * MIB, PART);
    CHECK(COMES_TRUE(stage_stats(&stage).connections == 0)); /* though its descriptor is open */
    CHECK_EQ(maker_join(&maker), FPRED_CLOSED);
    CHECK(COMES_TRUE(stage_is_empty(&stage)));
    client_close(&client);
    stage_stop(&stage);
    free(bytes);
}

/* ---- slow makers ---- */

/* Neither the time in the queue nor that of writing goes on while there is nothing to send. */
TEST(a_maker_may_take_its_time_between_two_parts)
{
    struct fpred_config config = config_for_tests();
    config.queue_timeout_ms = config.write_timeout_ms = config.keep_alive_timeout_ms = 60;
    config.read_timeout_ms = config.head_timeout_ms = 60;
    struct stage stage;
    stage_open(&stage, &config);
    struct client client = client_of(&stage);
    struct fpred_exchange *exchange = asked(&stage, &client, NO_SUCH_LENGTH);
    pause_ms(200);
    CHECK_EQ(write_text(exchange, "a"), FPRED_OK);
    CHECK(client_hears_status(&client, 200));
    CHECK(client_hears(&client, "1\r\na\r\n"));
    for (int i = 0; i < 2; i++) {
        pause_ms(200);
        CHECK_EQ(write_text(exchange, "b"), FPRED_OK);
        CHECK(client_hears(&client, "1\r\nb\r\n"));
    }
    pause_ms(200);
    fpred_exchange_end(exchange, true);
    CHECK(client_hears(&client, "0\r\n\r\n"));
    client_close(&client);
    stage_stop(&stage);
}

/* The client has had ten seconds and three bytes when a part begins that it doesn't read at once. */
TEST(the_least_data_rate_does_not_count_the_makers_pauses)
{
    struct fpred_config config = config_for_tests();
    config.min_data_rate_bytes = 1000 * MIB;
    struct stage stage;
    struct maker maker;
    size_t total = 32 * MIB;
    char *bytes = random_bytes(total, 5), *got = malloc(total);
    stage_open(&stage, &config);
    struct client client = client_of(&stage);
    struct fpred_exchange *exchange = asked(&stage, &client, total + 3);
    CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
    CHECK(client_hears_status(&client, 200));
    CHECK(client_hears(&client, "abc"));
    atomic_fetch_add(&ahead_ms, 10000);
    maker_start(&maker, exchange, bytes, total, PART);
    CHECK(maker_waits(&stage, &maker, 0));
    CHECK(client_takes(&client, got, total) && memcmp(got, bytes, total) == 0);
    CHECK_EQ(maker_join(&maker), FPRED_OK);
    client_close(&client);
    stage_stop(&stage);
    atomic_store(&ahead_ms, 0);
    free(bytes);
    free(got);
}

/* ---- clients that leave ---- */

static void leave(struct client *client, bool by_reset)
{
    by_reset ? client_abort(client) : client_close(client);
}

TEST(a_client_that_leaves_between_two_parts_is_told_to_the_maker)
{
    struct stage stage;
    stage_open(&stage, NULL);
    size_t descriptors = open_descriptors();
    for (int by_reset = 0; by_reset < 2; by_reset++) {
        struct client client = client_of(&stage);
        CHECK(client_post(&client, "/exact", "body", 4));
        struct fpred_exchange *exchange = stage_take(&stage);
        begin_parts(exchange, 200, by_reset ? NO_SUCH_LENGTH : 1000000);
        CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
        CHECK(client_hears_status(&client, 200));
        CHECK(!fpred_exchange_is_gone(exchange));
        leave(&client, by_reset);
        CHECK(COMES_TRUE(stage_stats(&stage).connections == 0));
        CHECK(fpred_exchange_is_gone(exchange));
        CHECK_EQ(write_text(exchange, "def"), FPRED_CLOSED);
        CHECK_EQ(write_text(exchange, "ghi"), FPRED_CLOSED); /* and whoever doesn't listen may go on */
        CHECK_EQ(stage_stats(&stage).running, 1);
        CHECK_EQ(stage_stats(&stage).slab.out_slots, 1);
        fpred_exchange_end(exchange, by_reset);
        CHECK(COMES_TRUE(stage_is_empty(&stage)));
    }
    CHECK_EQ(open_descriptors(), descriptors);
    stage_stop(&stage);
}

TEST(a_client_that_leaves_while_a_part_is_under_way_ends_the_write)
{
    struct stage stage;
    char *bytes = random_bytes(30 * MIB, 7);
    stage_open(&stage, NULL);
    size_t descriptors = open_descriptors();
    for (int by_reset = 0; by_reset < 2; by_reset++) {
        struct client client = client_of(&stage);
        struct maker maker;
        maker_start(&maker, asked(&stage, &client, NO_SUCH_LENGTH), bytes, 30 * MIB, 30 * MIB);
        CHECK(client_hears_status(&client, 200));
        CHECK_EQ(stage_stats(&stage).slab.charged_bytes, 30 * MIB);
        leave(&client, by_reset);
        CHECK_EQ(maker_join(&maker), FPRED_CLOSED);
        CHECK(COMES_TRUE(stage_is_empty(&stage)));
    }
    CHECK_EQ(open_descriptors(), descriptors);
    stage_stop(&stage);
    free(bytes);
}

TEST(an_answer_without_body_hears_of_its_client_too)
{
    struct stage stage;
    stage_open(&stage, NULL);
    struct client client = client_of(&stage);
    client_asks(&client, "HEAD", "/x", 1);
    struct fpred_exchange *exchange = stage_take(&stage);
    begin_parts(exchange, 200, NO_SUCH_LENGTH);
    CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
    client_abort(&client);
    CHECK(COMES_TRUE(write_text(exchange, "abc") == FPRED_CLOSED));
    fpred_exchange_end(exchange, false);
    CHECK(COMES_TRUE(stage_is_empty(&stage)));
    stage_stop(&stage);
}

/* ---- ends of the server ---- */

TEST(stop_ends_a_write_that_waits_and_all_that_follow)
{
    struct stage stage;
    char *bytes = random_bytes(30 * MIB, 8);
    struct maker maker;
    stage_open(&stage, NULL);
    struct client reader = client_of(&stage), other = client_of(&stage);
    struct fpred_exchange *between = asked(&stage, &other, NO_SUCH_LENGTH);
    CHECK_EQ(write_text(between, "abc"), FPRED_OK);
    maker_start(&maker, asked(&stage, &reader, 30 * MIB), bytes, 30 * MIB, 30 * MIB);
    CHECK(client_hears_status(&reader, 200));
    fpred_server_stop(stage.server);
    CHECK_EQ(maker_join(&maker), FPRED_CLOSED);
    CHECK_EQ(fpred_server_join(stage.server, WAIT_MS), FPRED_OK);
    CHECK(fpred_exchange_is_gone(between));
    CHECK_EQ(write_text(between, "def"), FPRED_CLOSED);
    CHECK_EQ(fpred_server_control(stage.server), FPRED_OK); /* one is outside */
    fpred_exchange_end(between, true);
    CHECK_EQ(fpred_server_control(stage.server), FPRED_CLOSED);
    client_close(&reader);
    client_close(&other);
    stage_end(&stage);
    free(bytes);
}

TEST(drain_finishes_answers_in_parts)
{
    struct stage stage;
    struct maker maker;
    size_t total = 32 * MIB;
    char *bytes = random_bytes(total, 9), *got = malloc(total);
    stage_open(&stage, NULL);
    struct client reader = client_of(&stage), other = client_of(&stage), third = client_of(&stage);
    struct fpred_exchange *between = asked(&stage, &other, NO_SUCH_LENGTH), *begun = asked(&stage, &third, 3);
    CHECK_EQ(write_text(between, "abc"), FPRED_OK);
    maker_start(&maker, asked(&stage, &reader, total), bytes, total, PART);
    CHECK(maker_waits(&stage, &maker, 0));
    fpred_server_drain(stage.server);
    CHECK_EQ(fpred_server_join(stage.server, 100), FPRED_TIMEOUT);
    CHECK_EQ(write_text(between, "def"), FPRED_OK);
    fpred_exchange_end(between, true);
    CHECK(client_hears_status(&other, 200));
    CHECK(client_hears(&other, "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"));
    CHECK_EQ(client_end(&other), 0);
    CHECK_EQ(write_text(begun, "ghi"), FPRED_OK);
    fpred_exchange_end(begun, true);
    CHECK_EQ(lines_of(client_hears_head(&third, 200, got) ? got : "", "Connection: close\r\n"), 1);
    CHECK(client_hears(&third, "ghi"));
    CHECK_EQ(client_end(&third), 0);
    CHECK(client_hears_status(&reader, 200));
    CHECK(client_takes(&reader, got, total) && memcmp(got, bytes, total) == 0);
    CHECK_EQ(client_end(&reader), 0);
    CHECK_EQ(maker_join(&maker), FPRED_OK);
    client_close(&reader);
    client_close(&other);
    client_close(&third);
    stage_end(&stage);
    free(bytes);
    free(got);
}

TEST(an_overdue_drain_ends_a_write_that_waits)
{
    struct fpred_config config = config_for_tests();
    config.graceful_timeout_ms = 100;
    struct stage stage;
    struct maker maker;
    char *bytes = random_bytes(30 * MIB, 10);
    stage_open(&stage, &config);
    struct client client = client_of(&stage);
    maker_start(&maker, asked(&stage, &client, 30 * MIB), bytes, 30 * MIB, 30 * MIB);
    CHECK(client_hears_status(&client, 200));
    fpred_server_drain(stage.server);
    CHECK_EQ(maker_join(&maker), FPRED_CLOSED);
    client_close(&client);
    stage_end(&stage);
    free(bytes);
}

/* The order that pyext can't prevent. One has begun and written, one has only begun, one has done neither. */
TEST(an_exchange_that_is_written_to_outlives_its_server)
{
    struct stage stage;
    struct fpred_exchange *exchanges[3];
    struct client clients[3];
    stage_open(&stage, NULL);
    for (size_t i = 0; i < 3; i++) {
        clients[i] = client_of(&stage);
        CHECK(client_post(&clients[i], "/exact", "body", 4));
        exchanges[i] = stage_take(&stage);
        if (i > 0)
            begin_parts(exchanges[i], 200, NO_SUCH_LENGTH);
        if (i > 1)
            CHECK_EQ(write_text(exchanges[i], "abc"), FPRED_OK);
    }
    fpred_server_stop(stage.server);
    CHECK_EQ(fpred_server_join(stage.server, WAIT_MS), FPRED_OK);
    fpred_server_free(stage.server);
    begin_parts(exchanges[0], 200, 6);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(write_text(exchanges[i], "def"), FPRED_CLOSED);
        CHECK_EQ(write_text(exchanges[i], "ghi"), FPRED_CLOSED);
        fpred_exchange_end(exchanges[i], i == 0);
        client_close(&clients[i]);
    }
    CHECK_EQ(open_descriptors(), stage.descriptors);
}

TESTS(&check__a_maker_stops_at_what_the_kernel_takes_until_the_client_reads, &check__a_part_of_30_mb_is_one_chunk,
      &check__what_is_charged_is_the_body_and_the_part_under_way,
      &check__a_client_that_takes_nothing_for_too_long_is_dropped, &check__a_maker_may_take_its_time_between_two_parts,
      &check__the_least_data_rate_does_not_count_the_makers_pauses,
      &check__a_client_that_leaves_between_two_parts_is_told_to_the_maker,
      &check__a_client_that_leaves_while_a_part_is_under_way_ends_the_write,
      &check__an_answer_without_body_hears_of_its_client_too, &check__stop_ends_a_write_that_waits_and_all_that_follow,
      &check__drain_finishes_answers_in_parts, &check__an_overdue_drain_ends_a_write_that_waits,
      &check__an_exchange_that_is_written_to_outlives_its_server)
