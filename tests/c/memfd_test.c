/* Memory that clients lend: what heads say of it, which descriptors are whose, and mappings that are kept. */
#include "memfd.h"

#include <sys/resource.h>
#include <sys/socket.h>

#include "memory_helpers.h"
#include "service.h"

/* ---- heads ---- */

struct parsed {
    char bytes[1024], path[1024];
    struct fpred__head head;
};

static enum fpred_status read_memory(const char *fields, bool is_tcp, struct fpred__memory *memory, const char **detail)
{
    struct parsed parsed;
    struct fpred__head_scan scan = {0};
    snprintf(parsed.bytes, sizeof parsed.bytes, "POST /p HTTP/1.1\r\nHost: t\r\n%s\r\n", fields);
    CHECK_EQ(fpred__head_scan(&scan, parsed.bytes, strlen(parsed.bytes)), FPRED_OK);
    CHECK_EQ(fpred__head_parse(&scan, parsed.bytes, parsed.path, &parsed.head), FPRED_OK);
    return fpred__memory_read(&parsed.head, is_tcp, memory, detail);
}

TEST(a_head_names_body_and_answer)
{
    struct fpred__memory memory;
    const char *detail;
    CHECK_EQ(read_memory("Content-Length: 5\r\n", false, &memory, &detail), FPRED_OK);
    CHECK(!memory.body.is_named && !memory.answer.is_named);
    CHECK_EQ(read_memory("fastPREDICT-memFD:   offset=7; length=30000000  \r\n", false, &memory, &detail), FPRED_OK);
    CHECK(memory.body.is_named && !memory.answer.is_named);
    CHECK_EQ(memory.body.offset, 7);
    CHECK_EQ(memory.body.bytes, 30000000);
    CHECK_EQ(read_memory("Fastpredict-Answer-Memfd: offset=0;length=18446744073709551615\r\nContent-Length: 5\r\n",
                         false, &memory, &detail),
             FPRED_OK);
    CHECK(!memory.body.is_named && memory.answer.is_named);
    CHECK(memory.answer.bytes == SIZE_MAX);
    CHECK_EQ(read_memory("Fastpredict-Memfd: offset=18446744073709551615; length=0\r\n", false, &memory, &detail),
             FPRED_OK);
}

TEST(a_head_that_breaks_a_rule_is_refused)
{
    static const char *const wrong[] = {
        "Fastpredict-Memfd:\r\n",
        "Fastpredict-Memfd: offset=1\r\n",
        "Fastpredict-Memfd: offset=1;\r\n",
        "Fastpredict-Memfd: offset=1; length\r\n",
        "Fastpredict-Memfd: offset=1; length=\r\n",
        "Fastpredict-Memfd: offset=1 ; length=1\r\n",
        "Fastpredict-Memfd: offset=1; length=1;\r\n",
        "Fastpredict-Memfd: offset=1; length=18446744073709551616\r\n",
        "Fastpredict-Memfd: offset=1; length=18446744073709551615\r\n",
        "Fastpredict-Memfd: offset=1; length=1\r\nFastpredict-Memfd: offset=1; length=1\r\n",
        "Fastpredict-Memfd: offset=1; length=1\r\nContent-Length: 1\r\n",
        "Fastpredict-Memfd: offset=1; length=1\r\nTransfer-Encoding: chunked\r\n",
        "Fastpredict-Answer-Memfd: o\r\n",
    };
    struct fpred__memory memory;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *detail = NULL;
        CHECK_EQ(read_memory(wrong[i], false, &memory, &detail), FPRED_BAD_MEMORY);
        CHECK(detail != NULL);
    }
    const char *detail = NULL;
    CHECK_EQ(read_memory("Fastpredict-Memfd: offset=1; length=1\r\n", true, &memory, &detail), FPRED_BAD_MEMORY);
    CHECK(detail != NULL);
}

/* ---- descriptors ---- */

struct line {
    int ends[2]; /* a client's, and the server's */
    struct fpred__memfds memfds;
    struct fpred__region_bin bin;
    char input[4096];
    size_t filled;
};

static void line_open(struct line *line)
{
    memset(line, 0, sizeof *line);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line->ends), 0);
}

static void line_close(struct line *line)
{
    fpred__memfds_close(&line->memfds, &line->bin);
    fpred__region_bin_empty(&line->bin);
    close(line->ends[0]);
    close(line->ends[1]);
}

/* Sends text along with the same descriptor count times. */
static void say_with(struct line *line, const char *text, int fd, size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(200 * sizeof(int))];
    } control;
    struct iovec vector = {(char *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (count != 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(count * sizeof(int));
        for (size_t i = 0; i < count; i++)
            memcpy(CMSG_DATA(part) + i * sizeof fd, &fd, sizeof fd);
    }
    CHECK_EQ(sendmsg(line->ends[0], &message, 0), strlen(text));
}

static void hear(struct line *line, size_t room)
{
    ssize_t got = fpred__memfds_recv(&line->memfds, line->ends[1], line->input + line->filled, room, line->filled);
    if (got > 0)
        line->filled += (size_t)got;
}

TEST(no_more_than_two_are_ever_held_and_all_are_closed)
{
    struct line line;
    line_open(&line);
    int fd = memory_of(1, F_SEAL_SHRINK);
    size_t before = open_descriptors();
    static const size_t counts[] = {1, 2, 3, 4, 100, 1, 1, 1, 2, 200};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        say_with(&line, "x", fd, counts[i]);
        hear(&line, 100);
        CHECK(open_descriptors() <= before + 2);
    }
    CHECK_EQ(line.filled, 10);
    CHECK_EQ(line.memfds.pending_count, 2);
    fpred__memfds_drop(&line.memfds, 0);
    CHECK_EQ(open_descriptors(), before + 2);
    fpred__memfds_drop(&line.memfds, 1);
    CHECK_EQ(open_descriptors(), before + 1);
    fpred__memfds_drop(&line.memfds, 2);
    CHECK_EQ(open_descriptors(), before);
    say_with(&line, "x", fd, 2);
    hear(&line, 100);
    line_close(&line);
    close(fd);
    CHECK_EQ(open_descriptors(), before - 3);
}

TEST(a_descriptor_is_not_inherited)
{
    struct line line;
    line_open(&line);
    int fd = memory_of(1, 0);
    say_with(&line, "x", fd, 1);
    hear(&line, 100);
    CHECK_EQ(fcntl(line.memfds.pending[0].fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    line_close(&line);
}

TEST(where_a_descriptor_came_is_kept_right_as_input_is_used)
{
    struct line line;
    line_open(&line);
    int fd = memory_of(1, 0);
    say_with(&line, "0123456789", fd, 0);
    say_with(&line, "abcdefghij", fd, 1);
    hear(&line, 100);
    CHECK_EQ(line.filled, 20);
    CHECK_EQ(line.memfds.pending[0].end, 20);
    fpred__memfds_shift(&line.memfds, 5, 3); /* of a body that came before it */
    CHECK_EQ(line.memfds.pending[0].end, 17);
    fpred__memfds_shift(&line.memfds, 17, 10); /* behind it */
    CHECK_EQ(line.memfds.pending[0].end, 17);
    fpred__memfds_shift(&line.memfds, 10, 20); /* it lay in what was used */
    CHECK_EQ(line.memfds.pending[0].end, 10);
    fpred__memfds_shift(&line.memfds, 0, 10);
    CHECK_EQ(line.memfds.pending[0].end, 0);
    fpred__memfds_drop(&line.memfds, 0);
    CHECK_EQ(line.memfds.pending_count, 0);
    close(fd);
    line_close(&line);
}

TEST(a_descriptor_comes_with_the_first_bytes_of_its_message)
{
    struct line line;
    line_open(&line);
    int fd = memory_of(1, 0);
    say_with(&line, "0123456789", fd, 1);
    hear(&line, 4);
    CHECK_EQ(line.memfds.pending_count, 1);
    CHECK_EQ(line.memfds.pending[0].end, 4);
    hear(&line, 100);
    CHECK_EQ(line.filled, 10);
    CHECK_EQ(line.memfds.pending_count, 1);
    close(fd);
    line_close(&line);
}

/* ---- lending ---- */

static const struct fpred__memory_range some = {true, 3, 4000};

/* Lends the range of the descriptor's file as a body; what comes of it. */
static enum fpred_status lend_body(struct line *line, int fd, struct fpred__memory_range range,
                                   struct fpred__lent *lent, const char **detail)
{
    struct fpred__memory memory = {.body = range};
    say_with(line, "x", fd, 1);
    hear(line, 100);
    return fpred__memfds_lend(&line->memfds, line->filled, &memory, MIB, &line->bin, lent, detail);
}

TEST(the_body_is_the_range_and_is_found_again)
{
    struct line line;
    struct fpred__lent lent;
    const char *detail, *first = NULL;
    line_open(&line);
    int fd = memory_of(5000, F_SEAL_SHRINK);
    size_t before = open_descriptors();
    for (size_t i = 0; i < 10; i++) {
        struct fpred__memory_range range = {true, i * 10, 4000};
        CHECK_EQ(lend_body(&line, fd, range, &lent, &detail), FPRED_OK);
        const char *payload = fpred_slot_payload(lent.body);
        CHECK(first == NULL || payload == first + i * 10);
        first = first != NULL ? first : payload;
        CHECK_EQ(fpred_slot_capacity(lent.body), 4000);
        CHECK_EQ(read_at(payload + 3999), 'x');
        fpred_slot_release(lent.body);
        CHECK_EQ(open_descriptors(), before);
    }
    CHECK_EQ(fpred__region_count(), 1);
    line_close(&line);
    CHECK_EQ(fpred__region_count(), 0);
    close(fd);
}

TEST(a_body_outlives_its_connection)
{
    struct line line;
    struct fpred__lent lent;
    const char *detail;
    line_open(&line);
    int fd = memory_of(5000, F_SEAL_SHRINK);
    CHECK_EQ(lend_body(&line, fd, some, &lent, &detail), FPRED_OK);
    line_close(&line);
    close(fd);
    CHECK_EQ(fpred__region_count(), 1);
    CHECK_EQ(read_at(fpred_slot_payload(lent.body)), 'x');
    fpred_slot_release(lent.body);
    CHECK_EQ(fpred__region_count(), 0);
}

TEST(mappings_are_bounded_and_the_oldest_goes)
{
    struct line line;
    struct fpred__lent lent;
    const char *detail;
    int fds[FPRED__MEMFD_MAPPINGS + 1];
    line_open(&line);
    for (size_t i = 0; i <= FPRED__MEMFD_MAPPINGS; i++)
        fds[i] = memory_of(5000, F_SEAL_SHRINK);
    for (int turn = 0; turn < 3; turn++) {
        for (size_t i = 0; i <= FPRED__MEMFD_MAPPINGS; i++) {
            CHECK_EQ(lend_body(&line, fds[i], some, &lent, &detail), FPRED_OK);
            fpred_slot_release(lent.body);
            CHECK_EQ(lend_body(&line, fds[0], some, &lent, &detail), FPRED_OK); /* always among the youngest */
            fpred_slot_release(lent.body);
            fpred__region_bin_empty(&line.bin);
            CHECK(fpred__region_count() <= FPRED__MEMFD_MAPPINGS);
        }
    }
    CHECK_EQ(fpred__region_count(), FPRED__MEMFD_MAPPINGS);
    line_close(&line);
    for (size_t i = 0; i <= FPRED__MEMFD_MAPPINGS; i++)
        close(fds[i]);
}

TEST(of_a_large_file_only_the_range_is_mapped)
{
    struct line line;
    struct fpred__lent lent;
    const char *detail;
    struct fpred__memory_range far = {true, ((size_t)1 << 40) - 10, 10}, near = {true, 0, 10};
    line_open(&line);
    int fd = memory_of(10, 0);
    cut_to(fd, (size_t)1 << 40);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    for (int turn = 0; turn < 2; turn++) {
        CHECK_EQ(lend_body(&line, fd, far, &lent, &detail), FPRED_OK);
        CHECK_EQ(fpred_region_bytes(fpred_slot_region(lent.body)), 10);
        CHECK_EQ(read_at(fpred_slot_payload(lent.body) + 9), 0);
        fpred_slot_release(lent.body);
        CHECK_EQ(lend_body(&line, fd, near, &lent, &detail), FPRED_OK);
        CHECK_EQ(read_at(fpred_slot_payload(lent.body) + 9), 'x');
        fpred_slot_release(lent.body);
        fpred__region_bin_empty(&line.bin);
        CHECK_EQ(fpred__region_count(), 1);
    }
    close(fd);
    line_close(&line);
}

TEST(what_can_not_be_lent_is_refused_and_closed)
{
    struct line line;
    struct fpred__lent lent;
    const char *detail;
    line_open(&line);
    int bare = memory_of(5000, 0), good = memory_of(5000, F_SEAL_SHRINK);
    size_t before = open_descriptors();
    struct fpred__memory_range ranges[] = {{true, 0, 5001}, {true, 1, 5000}, {true, 5001, 1}, {true, UINT64_MAX, 1}};
    CHECK_EQ(lend_body(&line, bare, some, &lent, &detail), FPRED_BAD_MEMORY);
    CHECK_EQ(lend_body(&line, line.ends[0], some, &lent, &detail), FPRED_BAD_MEMORY);
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        CHECK_EQ(lend_body(&line, good, ranges[i], &lent, &detail), FPRED_BAD_MEMORY);
    struct fpred__memory memory = {.body = some};
    CHECK_EQ(fpred__memfds_lend(&line.memfds, line.filled, &memory, MIB, &line.bin, &lent, &detail), FPRED_BAD_MEMORY);
    CHECK(lent.body == NULL && lent.answer == NULL);
    CHECK_EQ(open_descriptors(), before);
    CHECK_EQ(fpred__region_count(), 0);
    close(bare);
    close(good);
    line_close(&line);
}

TEST(what_there_is_no_room_for_is_for_later)
{
    struct line line;
    struct fpred__lent lent;
    const char *detail = NULL;
    struct fpred__memory memory = {.body = some};
    struct fpred__memory_range vast = {true, 0, (size_t)1 << 60};
    struct rlimit usual, none;
    line_open(&line);
    int fd = memory_of(5000, F_SEAL_SHRINK);
    size_t before = open_descriptors();
    getrlimit(RLIMIT_NOFILE, &usual);
    none = usual;
    none.rlim_cur = 0;
    say_with(&line, "x", fd, 1);
    setrlimit(RLIMIT_NOFILE, &none);
    hear(&line, 100);
    setrlimit(RLIMIT_NOFILE, &usual);
    CHECK_EQ(fpred__memfds_lend(&line.memfds, line.filled, &memory, MIB, &line.bin, &lent, &detail), FPRED_OVER_BUDGET);
    CHECK(detail != NULL && strstr(detail, "descriptor") != NULL);
    CHECK_EQ(lend_body(&line, fd, some, &lent, &detail), FPRED_OK);
    fpred_slot_release(lent.body);
    cut_to(fd, (size_t)1 << 60);
    CHECK_EQ(lend_body(&line, fd, vast, &lent, &detail), FPRED_NOMEM);
    CHECK(lent.body == NULL);
    CHECK_EQ(lend_body(&line, fd, some, &lent, &detail), FPRED_OK);
    fpred_slot_release(lent.body);
    CHECK_EQ(open_descriptors(), before);
    close(fd);
    line_close(&line);
    CHECK_EQ(fpred__region_count(), 0);
}

TEST(body_and_answer_from_one_descriptor)
{
    struct line line;
    struct fpred__lent lent;
    const char *detail;
    struct fpred__memory memory = {.body = {true, 0, 100}, .answer = {true, 100, 50}};
    line_open(&line);
    int fd = memory_of(5000, F_SEAL_SHRINK);
    say_with(&line, "x", fd, 1);
    hear(&line, 100);
    CHECK_EQ(fpred__memfds_lend(&line.memfds, line.filled, &memory, MIB, &line.bin, &lent, &detail), FPRED_OK);
    memcpy(lent.answer_base, "abc", 3);
    CHECK(memcmp(fpred_slot_payload(lent.body) + 99, "xabcx", 5) == 0); /* it is one memory */
    fpred_region_release(lent.answer);
    fpred_slot_release(lent.body);
    CHECK_EQ(fpred__region_count(), 2);
    memory.answer.offset = 99;
    say_with(&line, "x", fd, 1);
    hear(&line, 100);
    CHECK_EQ(fpred__memfds_lend(&line.memfds, line.filled, &memory, MIB, &line.bin, &lent, &detail), FPRED_BAD_MEMORY);
    close(fd);
    line_close(&line);
    CHECK_EQ(fpred__region_count(), 0);
}

TESTS(&check__a_head_names_body_and_answer, &check__a_head_that_breaks_a_rule_is_refused,
      &check__no_more_than_two_are_ever_held_and_all_are_closed, &check__a_descriptor_is_not_inherited,
      &check__where_a_descriptor_came_is_kept_right_as_input_is_used,
      &check__a_descriptor_comes_with_the_first_bytes_of_its_message, &check__the_body_is_the_range_and_is_found_again,
      &check__a_body_outlives_its_connection, &check__mappings_are_bounded_and_the_oldest_goes,
      &check__of_a_large_file_only_the_range_is_mapped, &check__what_can_not_be_lent_is_refused_and_closed,
      &check__what_there_is_no_room_for_is_for_later, &check__body_and_answer_from_one_descriptor)
