/* Tests of fdset: places are reused, a full set refuses politely, a forked child closes what is noted and no more. */
#include "fdset.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static int new_fd(void)
{
    return fcntl(0, F_DUPFD_CLOEXEC, 10);
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}

TEST(a_full_set_refuses_and_a_place_is_used_again)
{
    struct fpred__fdset *set = fpred__fdset_new(3);
    size_t places[3];
    for (int i = 0; i < 3; i++) {
        places[i] = fpred__fdset_add(set, 1000 + i);
        CHECK(places[i] < 3);
    }
    CHECK(places[0] != places[1] && places[1] != places[2] && places[0] != places[2]);
    CHECK_EQ(fpred__fdset_add(set, 1003), SIZE_MAX);
    fpred__fdset_remove(set, SIZE_MAX);
    CHECK_EQ(fpred__fdset_add(set, 1003), SIZE_MAX);
    fpred__fdset_remove(set, places[1]);
    CHECK_EQ(fpred__fdset_add(set, 1004), places[1]);
    fpred__fdset_free(set);
}

TEST(a_set_without_room_works)
{
    struct fpred__fdset *set = fpred__fdset_new(0);
    CHECK_EQ(fpred__fdset_add(set, 0), SIZE_MAX);
    fpred__fdset_close_all(set);
    CHECK(is_open(0));
    fpred__fdset_free(set);
}

/* What the child finds; its exit status. */
static int look(struct fpred__fdset *set, const int *noted, int forgotten)
{
    fpred__fdset_close_all(set);
    fpred__fdset_close_all(set); /* the second time closes nothing that was opened in between */
    int wrong = is_open(noted[0]) || is_open(noted[1]) || !is_open(forgotten) || !is_open(0);
    int again = new_fd();
    fpred__fdset_close_all(set);
    return wrong || !is_open(again);
}

TEST(a_child_closes_what_is_noted_and_the_parent_keeps_it)
{
    struct fpred__fdset *set = fpred__fdset_new(8);
    int noted[2] = {new_fd(), new_fd()}, forgotten = new_fd(), status = -1;
    fpred__fdset_add(set, noted[0]);
    size_t place = fpred__fdset_add(set, forgotten);
    fpred__fdset_add(set, noted[1]);
    fpred__fdset_remove(set, place);
    pid_t child = fork();
    if (child == 0)
        _exit(look(set, noted, forgotten));
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK(is_open(noted[0]) && is_open(noted[1]) && is_open(forgotten));
    close(noted[0]);
    close(noted[1]);
    close(forgotten);
    fpred__fdset_free(set);
}

TESTS(&check__a_full_set_refuses_and_a_place_is_used_again, &check__a_set_without_room_works,
      &check__a_child_closes_what_is_noted_and_the_parent_keeps_it)
