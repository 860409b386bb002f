#include "accesslog.h"

#include "check.h"
#include "clock.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLICE(text) ((struct fpred_slice){(text), sizeof(text) - 1})
#define LONG_MS 10000 /* far more than anything takes */

static const struct fpred__accesslog_entry plain = {.client = "127.0.0.1:53412",
                                                    .method = SLICE("POST"),
                                                    .target = SLICE("/predict"),
                                                    .minor_version = 1,
                                                    .status = 200,
                                                    .body_bytes = 30000000,
                                                    .reply_bytes = 12000,
                                                    .duration_us = 6140};

/* Reads into text until `want` bytes or the end, NUL behind. Gives up when nothing comes for LONG_MS. */
static size_t read_some(int fd, char *text, size_t want)
{
    size_t len = 0;
    while (len < want) {
        struct pollfd ready = {fd, POLLIN, 0};
        if (poll(&ready, 1, LONG_MS) != 1)
            break;
        ssize_t got = read(fd, text + len, want - len);
        if (got <= 0)
            break;
        len += (size_t)got;
    }
    text[len] = '\0';
    return len;
}

/* What one entry is written as. */
static const char *line_of(const struct fpred__accesslog_entry *entry)
{
    static char text[8192];
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    struct fpred__accesslog *log = fpred__accesslog_new(fds[1], 4096);
    fpred__accesslog_add(log, entry);
    fpred__accesslog_free(log, LONG_MS);
    close(fds[1]);
    read_some(fds[0], text, sizeof text - 1);
    close(fds[0]);
    return text;
}

static void check_line(const struct fpred__accesslog_entry *entry, const char *wanted)
{
    const char *line = line_of(entry);
    CHECK(strcmp(line, wanted) == 0);
    if (strcmp(line, wanted) != 0)
        fprintf(stderr, "  got    %s  wanted %s", line, wanted);
}

TEST(a_line_reads_as_the_header_shows_it)
{
    check_line(&plain, "127.0.0.1:53412 \"POST /predict HTTP/1.1\" 200 30000000 12000 6.1ms\n");
    struct fpred__accesslog_entry entry = plain;
    entry.client = "[::1]:53412";
    entry.minor_version = 0;
    entry.body_bytes = 0;
    entry.reply_bytes = SIZE_MAX;
    check_line(&entry, "[::1]:53412 \"POST /predict HTTP/1.0\" 200 0 18446744073709551615 6.1ms\n");
}

TEST(a_client_that_left_before_an_answer_has_a_dash_for_a_status)
{
    struct fpred__accesslog_entry entry = plain;
    entry.status = 0;
    check_line(&entry, "127.0.0.1:53412 \"POST /predict HTTP/1.1\" - 30000000 12000 6.1ms\n");
}

TEST(a_request_line_that_was_not_understood_is_a_dash)
{
    struct fpred__accesslog_entry entry = {.client = "unix", .status = 400, .reply_bytes = 170, .duration_us = 40};
    check_line(&entry, "unix \"-\" 400 0 170 0.04ms\n");
    entry.method = SLICE("POST"); /* and then the target was refused */
    check_line(&entry, "unix \"-\" 400 0 170 0.04ms\n");
}

TEST(bytes_that_could_forge_a_line_are_escaped)
{
    struct fpred__accesslog_entry entry = plain;
    entry.target = SLICE("/a b\"c\\d\r\n\x1b[2J\x7f\xc3\xa9\0~");
    check_line(&entry, "127.0.0.1:53412 \"POST /a b\\x22c\\x5Cd\\x0D\\x0A\\x1B[2J\\x7F\\xC3\\xA9\\x00~ HTTP/1.1\" 200 "
                       "30000000 12000 6.1ms\n");
    entry = plain;
    entry.method = SLICE("\"GET");
    check_line(&entry, "127.0.0.1:53412 \"\\x22GET /predict HTTP/1.1\" 200 30000000 12000 6.1ms\n");
}

TEST(durations_have_a_unit_that_suits_them)
{
    static const struct {
        int64_t us;
        const char *text;
    } durations[] = {
        {-5, "0.00ms"},
        {0, "0.00ms"},
        {4, "0.00ms"},
        {36, "0.04ms"},
        {994, "0.99ms"},
        {995, "1.0ms"},
        {6140, "6.1ms"},
        {9960, "10.0ms"},
        {99949, "99.9ms"},
        {99950, "100ms"},
        {123456, "123ms"},
        {999499, "999ms"},
        {999500, "1.0s"},
        {1234567, "1.2s"},
        {75000000, "75.0s"},
        {3600000000, "3600.0s"},
        {INT64_MAX, "9223372036854.8s"},
    };
    for (size_t i = 0; i < sizeof durations / sizeof *durations; i++) {
        struct fpred__accesslog_entry entry = plain;
        entry.duration_us = durations[i].us;
        char wanted[128];
        snprintf(wanted, sizeof wanted, "127.0.0.1:53412 \"POST /predict HTTP/1.1\" 200 30000000 12000 %s\n",
                 durations[i].text);
        check_line(&entry, wanted);
    }
}

TEST(a_line_of_2_kib_is_whole_and_a_longer_one_has_its_target_cut)
{
    static const char front[] = "127.0.0.1:53412 \"POST ", back[] = " HTTP/1.1\" 200 30000000 12000 6.1ms\n";
    size_t room = 2048 - (sizeof front - 1) - (sizeof back - 1);
    char target[4096];
    memset(target, 'x', sizeof target);
    struct fpred__accesslog_entry entry = plain;
    entry.target = (struct fpred_slice){target, room};
    const char *line = line_of(&entry);
    CHECK_EQ(strlen(line), 2048);
    CHECK(strstr(line, "...") == NULL);

    for (size_t more = 1; more < 3; more++) {
        entry.target.len = room + more;
        line = line_of(&entry);
        CHECK_EQ(strlen(line), 2048);
        CHECK(strstr(line, "xxx... HTTP/1.1\" 200 ") != NULL);
        CHECK(strcmp(line + 2048 - (sizeof back - 1), back) == 0);
    }
}

TEST(a_cut_never_splits_an_escape)
{
    char target[4096];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(target, 'x', shift);
        memset(target + shift, '\n', sizeof target - shift);
        struct fpred__accesslog_entry entry = plain;
        entry.target = (struct fpred_slice){target, sizeof target};
        const char *line = line_of(&entry);
        CHECK(strlen(line) <= 2048 && strlen(line) > 2040);
        CHECK(strstr(line, "\\x0A\\x0A... HTTP/1.1\" 200 ") != NULL);
    }
}

TEST(an_endless_method_or_client_cannot_push_the_rest_out)
{
    char method[3000], client[3000];
    memset(method, 'M', sizeof method);
    memset(client, 'c', sizeof client);
    client[sizeof client - 1] = '\0';
    struct fpred__accesslog_entry entry = plain;
    entry.client = client;
    entry.method = (struct fpred_slice){method, sizeof method};
    const char *line = line_of(&entry);
    CHECK(strlen(line) < 300);
    CHECK(strstr(line, "MMM... /predict HTTP/1.1\" 200 30000000 12000 6.1ms\n") != NULL);
}

/* -- the ring -- */

/* An entry whose target is its number and a filling of i % 97 letters, and how it is told from a torn one. */
static void add_numbered(struct fpred__accesslog *log, unsigned i)
{
    char target[160];
    int len = snprintf(target, sizeof target, "/%u/", i);
    memset(target + len, 'f', i % 97);
    struct fpred__accesslog_entry entry = plain;
    entry.target = (struct fpred_slice){target, (size_t)len + i % 97};
    fpred__accesslog_add(log, &entry);
}

struct tally {
    unsigned next;     /* numbers come in order, with gaps where lines were dropped */
    unsigned lines;    /* whole numbered lines */
    unsigned reported; /* as dropped */
    unsigned torn;
};

static void tally_line(struct tally *tally, const char *line)
{
    unsigned number, count;
    int at = 0;
    if (sscanf(line, "access log: lines dropped: %u%n", &count, &at) == 1 && line[at] == '\0') {
        tally->reported += count;
        return;
    }
    if (sscanf(line, "127.0.0.1:53412 \"POST /%u/%n", &number, &at) != 1 || number < tally->next ||
        strspn(line + at, "f") != number % 97 ||
        strcmp(line + at + number % 97, " HTTP/1.1\" 200 30000000 12000 6.1ms") != 0) {
        if (tally->torn++ < 3)
            fprintf(stderr, "  torn: %s\n", line);
        return;
    }
    tally->next = number + 1;
    tally->lines++;
}

/* Reads fd to its end. */
static void tally_all(struct tally *tally, int fd)
{
    char line[4096];
    FILE *file = fdopen(dup(fd), "r");
    while (fgets(line, sizeof line, file) != NULL) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        tally_line(tally, line);
    }
    fclose(file);
}

TEST(lines_that_wrap_around_the_ring_stay_whole)
{
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    struct fpred__accesslog *log = fpred__accesslog_new(fds[1], 512);
    struct tally tally = {0};
    for (unsigned i = 0; i < 200; i += 2) {
        add_numbered(log, i);
        add_numbered(log, i + 1);
        for (unsigned lines = 0; lines < 2; lines++) {
            char line[512];
            size_t len = 0;
            while (read_some(fds[0], line + len, 1) == 1 && line[len] != '\n')
                len++;
            line[len] = '\0';
            tally_line(&tally, line);
        }
    }
    CHECK_EQ(tally.lines, 200);
    CHECK_EQ(tally.torn, 0);
    CHECK_EQ(fpred__accesslog_dropped(log), 0);
    fpred__accesslog_free(log, LONG_MS);
    close(fds[0]);
    close(fds[1]);
}

static void *tally_main(void *arg)
{
    struct tally *tally = ((void **)arg)[0];
    tally_all(tally, *(int *)((void **)arg)[1]);
    return NULL;
}

/* Each line is written or counted, none is torn, and what was counted is reported: also past the size of the ring and
 * of the pipe. */
static void run_at_full_speed(int flags, unsigned count, size_t ring_bytes)
{
    int fds[2];
    CHECK_EQ(pipe2(fds, 0), 0);
    CHECK_EQ(fcntl(fds[1], F_SETFL, flags), 0);
    struct fpred__accesslog *log = fpred__accesslog_new(fds[1], ring_bytes);
    struct tally tally = {0};
    void *args[] = {&tally, &fds[0]};
    pthread_t reader;
    CHECK_EQ(pthread_create(&reader, NULL, tally_main, args), 0);
    for (unsigned i = 0; i < count; i++)
        add_numbered(log, i);
    uint64_t dropped = fpred__accesslog_dropped(log);
    fpred__accesslog_free(log, LONG_MS);
    close(fds[1]);
    pthread_join(reader, NULL);
    close(fds[0]);
    CHECK_EQ(tally.torn, 0);
    CHECK_EQ(tally.reported, dropped);
    CHECK_EQ(tally.lines + dropped, count);
}

TEST(nothing_is_torn_or_lost_uncounted_at_full_speed)
{
    run_at_full_speed(0, 50000, 65536);
    run_at_full_speed(0, 20000, 1024);
    run_at_full_speed(O_NONBLOCK, 20000, 16384);
}

TEST(a_full_ring_drops_and_a_later_line_says_how_many)
{
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    struct fpred__accesslog *log = fpred__accesslog_new(fds[1], 8192);
    for (unsigned i = 0; i < 5000; i++) /* more than the pipe and the ring hold */
        add_numbered(log, i);
    uint64_t dropped = fpred__accesslog_dropped(log);
    CHECK(dropped > 0 && dropped < 5000);

    struct tally tally = {0};
    void *args[] = {&tally, &fds[0]};
    pthread_t reader;
    CHECK_EQ(pthread_create(&reader, NULL, tally_main, args), 0);
    fpred__accesslog_free(log, LONG_MS);
    close(fds[1]);
    pthread_join(reader, NULL);
    close(fds[0]);
    CHECK_EQ(tally.reported, dropped);
    CHECK_EQ(tally.lines + tally.reported, 5000);
    CHECK_EQ(tally.torn, 0);
}

TEST(a_line_longer_than_the_ring_is_dropped_and_counted)
{
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    struct fpred__accesslog *log = fpred__accesslog_new(fds[1], 64);
    fpred__accesslog_add(log, &plain);
    CHECK_EQ(fpred__accesslog_dropped(log), 1);
    fpred__accesslog_free(log, LONG_MS);
    close(fds[0]);
    close(fds[1]);
}

TEST(a_sleeping_log_thread_is_woken_by_one_line)
{
    int fds[2];
    char text[256];
    CHECK_EQ(pipe(fds), 0);
    struct fpred__accesslog *log = fpred__accesslog_new(fds[1], 4096);
    size_t len = strlen("127.0.0.1:53412 \"POST /predict HTTP/1.1\" 200 30000000 12000 6.1ms\n");
    for (int round = 0; round < 20; round++) {
        usleep(round % 2 == 0 ? 12000 : 0); /* asleep, or still lingering: either way it must come */
        fpred__accesslog_add(log, &plain);
        CHECK_EQ(read_some(fds[0], text, len), len);
    }
    fpred__accesslog_free(log, LONG_MS);
    close(fds[0]);
    close(fds[1]);
}

/* -- the other end -- */

static int count_threads(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/task");
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

TEST(free_is_bounded_when_the_reader_of_a_pipe_has_stopped)
{
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    int threads = count_threads();
    struct fpred__accesslog *log = fpred__accesslog_new(fds[1], 65536);
    for (unsigned i = 0; i < 5000; i++)
        add_numbered(log, i);
    int64_t before_ms = fpred__clock_now_ms();
    fpred__accesslog_free(log, 50);
    CHECK(fpred__clock_now_ms() - before_ms < 5000);
    CHECK_EQ(count_threads(), threads); /* joined: its write never blocked */

    close(fds[1]); /* what did get through is whole lines */
    struct tally tally = {0};
    tally_all(&tally, fds[0]);
    CHECK(tally.lines > 0);
    CHECK_EQ(tally.torn, 0);
    close(fds[0]);
}

/* poll says that a terminal takes bytes when it takes one; a write of more then blocks. */
TEST(free_is_bounded_when_a_write_to_a_stopped_terminal_blocks)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        fprintf(stderr, "no pseudo-terminals here: skipped\n");
        if (master >= 0)
            close(master);
        return;
    }
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(slave >= 0);
    int threads = count_threads();
    struct fpred__accesslog *log = fpred__accesslog_new(slave, 65536);
    for (unsigned i = 0; i < 1000; i++)
        add_numbered(log, i);
    int64_t before_ms = fpred__clock_now_ms();
    fpred__accesslog_free(log, 50);
    CHECK(fpred__clock_now_ms() - before_ms < 5000);

    close(master); /* the write returns, and the thread goes with the log: leak checkers watch */
    for (int64_t until_ms = fpred__clock_now_ms() + LONG_MS; count_threads() > threads;) {
        CHECK(fpred__clock_now_ms() < until_ms);
        if (fpred__clock_now_ms() >= until_ms)
            break;
        usleep(1000);
    }
    /* The slave stays open: nothing orders a close after the write of a thread that nobody joined, and TSan says so. */
}

/* SIGPIPE at its default would end this program. */
TEST(a_reader_that_went_costs_lines_and_nothing_else)
{
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    signal(SIGPIPE, SIG_DFL);
    struct fpred__accesslog *log = fpred__accesslog_new(fds[1], 4096);
    close(fds[0]);
    fpred__accesslog_add(log, &plain);
    for (int64_t until_ms = fpred__clock_now_ms() + LONG_MS; fpred__accesslog_dropped(log) == 0;) {
        if (fpred__clock_now_ms() >= until_ms)
            break;
        usleep(1000);
    }
    CHECK_EQ(fpred__accesslog_dropped(log), 1);
    fpred__accesslog_free(log, LONG_MS);
    close(fds[1]);
}

TEST(a_closed_descriptor_costs_lines_and_nothing_else)
{
    int fd = open("/dev/null", O_WRONLY);
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 500); /* a number that nobody takes meanwhile */
    close(fd);
    struct fpred__accesslog *log = fpred__accesslog_new(high, 4096);
    close(high);
    for (int i = 0; i < 10; i++)
        fpred__accesslog_add(log, &plain);
    fpred__accesslog_free(log, LONG_MS);
}

TEST(partial_writes_to_a_small_socket_lose_nothing)
{
    int fds[2], bytes = 1;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), 0);
    CHECK_EQ(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    struct fpred__accesslog *log = fpred__accesslog_new(fds[0], 262144);
    for (unsigned i = 0; i < 1000; i++)
        add_numbered(log, i);
    struct tally tally = {0};
    void *args[] = {&tally, &fds[1]};
    pthread_t reader;
    CHECK_EQ(pthread_create(&reader, NULL, tally_main, args), 0);
    fpred__accesslog_free(log, LONG_MS);
    close(fds[0]);
    pthread_join(reader, NULL);
    close(fds[1]);
    CHECK_EQ(tally.lines, 1000);
    CHECK_EQ(tally.torn, 0);
}

TEST(start_and_stop_leave_no_descriptor_and_no_thread)
{
    int null = open("/dev/null", O_WRONLY), threads = count_threads();
    int before = dup(null);
    close(before);
    for (int i = 0; i < 100; i++) {
        struct fpred__accesslog *log = fpred__accesslog_new(null, 4096);
        fpred__accesslog_add(log, &plain);
        fpred__accesslog_free(log, LONG_MS);
    }
    int after = dup(null);
    CHECK_EQ(after, before);
    CHECK_EQ(count_threads(), threads);
    close(after);
    close(null);
}

TESTS(&check__a_line_reads_as_the_header_shows_it, &check__a_client_that_left_before_an_answer_has_a_dash_for_a_status,
      &check__a_request_line_that_was_not_understood_is_a_dash, &check__bytes_that_could_forge_a_line_are_escaped,
      &check__durations_have_a_unit_that_suits_them,
      &check__a_line_of_2_kib_is_whole_and_a_longer_one_has_its_target_cut, &check__a_cut_never_splits_an_escape,
      &check__an_endless_method_or_client_cannot_push_the_rest_out, &check__lines_that_wrap_around_the_ring_stay_whole,
      &check__nothing_is_torn_or_lost_uncounted_at_full_speed, &check__a_full_ring_drops_and_a_later_line_says_how_many,
      &check__a_line_longer_than_the_ring_is_dropped_and_counted, &check__a_sleeping_log_thread_is_woken_by_one_line,
      &check__free_is_bounded_when_the_reader_of_a_pipe_has_stopped,
      &check__free_is_bounded_when_a_write_to_a_stopped_terminal_blocks,
      &check__a_reader_that_went_costs_lines_and_nothing_else, &check__a_closed_descriptor_costs_lines_and_nothing_else,
      &check__partial_writes_to_a_small_socket_lose_nothing, &check__start_and_stop_leave_no_descriptor_and_no_thread)
