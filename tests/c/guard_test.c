/* The guard: faults in our mappings become zeros, and every other SIGBUS goes where it went before. */
#include "guard.h"

#include <errno.h>
#include <setjmp.h>
#include <stdbool.h>

#include "memory_helpers.h"

struct mapped {
    int fd;
    char *start;
    size_t bytes;
    struct fpred__guarded *guarded; /* NULL: not guarded */
};

static struct mapped mapped_of(size_t pages, bool guarded)
{
    struct mapped mapped = {.fd = memory_of(pages * PAGE, 0), .bytes = pages * PAGE};
    mapped.start = mmap(NULL, mapped.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mapped.fd, 0);
    assert(mapped.start != MAP_FAILED);
    if (guarded)
        mapped.guarded = fpred__guard_add(mapped.start, mapped.bytes, PAGE, PROT_READ | PROT_WRITE);
    return mapped;
}

static void unmapped(struct mapped *mapped)
{
    if (mapped->guarded != NULL)
        fpred__guard_remove(mapped->guarded);
    munmap(mapped->start, mapped->bytes);
    close(mapped->fd);
}

/* Reads where no guard is. */
static void fault_elsewhere(void)
{
    struct mapped bare = mapped_of(1, false);
    cut_to(bare.fd, 0);
    read_at(bare.start);
    unmapped(&bare);
}

TEST(what_was_cut_off_reads_as_zeros_and_the_rest_as_it_was)
{
    struct mapped mapped = mapped_of(64, true), other = mapped_of(2, true);
    CHECK(mapped.guarded != NULL);
    CHECK(!fpred__guard_is_faulted(mapped.guarded));
    cut_to(mapped.fd, 10 * PAGE + 5);
    for (size_t i = 0; i < mapped.bytes; i++)
        if (read_at(mapped.start + i) != (i < 10 * PAGE + 5 ? 'x' : '\0'))
            CHECK(!"as expected");
    CHECK(fpred__guard_is_faulted(mapped.guarded));
    CHECK(!fpred__guard_is_faulted(other.guarded));
    unmapped(&mapped);
    unmapped(&other);
}

TEST(from_the_back_to_the_front_too_and_for_writing)
{
    struct mapped mapped = mapped_of(64, true);
    cut_to(mapped.fd, 0);
    for (size_t i = mapped.bytes; i-- > 0;)
        mapped.start[i] = (char)i;
    CHECK(fpred__guard_is_faulted(mapped.guarded));
    unmapped(&mapped);
}

TEST(errno_survives_a_fault)
{
    struct mapped mapped = mapped_of(1, true);
    cut_to(mapped.fd, 0);
    errno = ENOTTY;
    CHECK_EQ(read_at(mapped.start), 0);
    CHECK_EQ(errno, ENOTTY);
    unmapped(&mapped);
}

TEST(an_entry_used_again_has_not_faulted)
{
    for (int i = 0; i < 300; i++) {
        struct mapped mapped = mapped_of(2, true);
        CHECK(!fpred__guard_is_faulted(mapped.guarded));
        cut_to(mapped.fd, 0);
        CHECK_EQ(read_at(mapped.start + PAGE), 0);
        CHECK(fpred__guard_is_faulted(mapped.guarded));
        unmapped(&mapped);
    }
}

TEST(many_mappings_at_once)
{
    static struct mapped many[200];
    for (size_t i = 0; i < 200; i++)
        many[i] = mapped_of(1, true);
    for (size_t i = 0; i < 200; i += 2)
        cut_to(many[i].fd, 0);
    for (size_t i = 0; i < 200; i++)
        CHECK_EQ(read_at(many[i].start), i % 2 == 0 ? '\0' : 'x');
    for (size_t i = 0; i < 200; i++)
        CHECK_EQ(fpred__guard_is_faulted(many[i].guarded), i % 2 == 0);
    for (size_t i = 0; i < 200; i++)
        unmapped(&many[i]);
}

/* ---- whatever is not ours: each runs in a child ---- */

static void use_the_guard(void)
{
    struct mapped mapped = mapped_of(1, true);
    cut_to(mapped.fd, 0);
    if (read_at(mapped.start) != 0)
        _exit(99);
    unmapped(&mapped);
}

static void handle_by(void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(SIGBUS, &action, NULL);
}

static void foreign_with_nobody(void)
{
    handle_by(SIG_DFL, 0);
    use_the_guard();
    fault_elsewhere();
}

static void foreign_while_ignored(void)
{
    handle_by(SIG_IGN, 0);
    use_the_guard();
    raise(SIGBUS); /* this one can be */
    fault_elsewhere();
}

static void sent_with_nobody(void)
{
    handle_by(SIG_DFL, 0);
    use_the_guard();
    kill(getpid(), SIGBUS);
    pause();
}

static void removed_before(void)
{
    handle_by(SIG_DFL, 0);
    struct mapped mapped = mapped_of(1, true);
    fpred__guard_remove(mapped.guarded);
    cut_to(mapped.fd, 0);
    read_at(mapped.start);
}

TEST(a_foreign_fault_kills_as_before)
{
    CHECK_EQ(outcome_of(use_the_guard), 0);
    CHECK_EQ(outcome_of(foreign_with_nobody), -SIGBUS);
    CHECK_EQ(outcome_of(foreign_while_ignored), -SIGBUS);
    CHECK_EQ(outcome_of(sent_with_nobody), -SIGBUS);
    CHECK_EQ(outcome_of(removed_before), -SIGBUS);
}

static sigjmp_buf back;
static volatile int calls;

static void note(int signal)
{
    (void)signal;
    calls++;
}

static void raise_again(int signal)
{
    raise(signal);
}

static void jump(int signal)
{
    (void)signal;
    calls++;
    siglongjmp(back, 1);
}

static void jump_with_info(int signal, siginfo_t *info, void *context)
{
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    if (info->si_code <= 0 || context == NULL || !sigismember(&now, SIGUSR1))
        _exit(98);
    jump(signal);
}

static void foreign_to_a_handler(void)
{
    handle_by(jump, 0);
    use_the_guard();
    for (int i = 1; i <= 3; i++) {
        if (sigsetjmp(back, 1) == 0)
            fault_elsewhere();
        if (calls != i)
            _exit(97);
        use_the_guard();
    }
}

static void foreign_to_one_with_info(void)
{
    struct sigaction action = {.sa_sigaction = jump_with_info, .sa_flags = SA_SIGINFO};
    sigaddset(&action.sa_mask, SIGUSR1);
    sigaction(SIGBUS, &action, NULL);
    use_the_guard();
    if (sigsetjmp(back, 1) == 0)
        fault_elsewhere();
    _exit(calls == 1 ? 0 : 97);
}

static void foreign_to_one_that_serves_once(void)
{
    handle_by(note, (int)SA_RESETHAND);
    use_the_guard();
    fault_elsewhere(); /* called once, then it is nobody's */
}

static void installed_over_us(void)
{
    handle_by(SIG_DFL, 0);
    use_the_guard();
    handle_by(jump, 0);
    use_the_guard(); /* adds a mapping, so we come first again */
    if (calls != 0)
        _exit(96);
    if (sigsetjmp(back, 1) == 0)
        fault_elsewhere();
    _exit(calls == 1 ? 0 : 97);
}

static void renewed(void)
{
    struct mapped mapped = mapped_of(1, true);
    handle_by(jump, 0);
    fpred__guard_renew();
    cut_to(mapped.fd, 0);
    _exit(read_at(mapped.start) == 0 && calls == 0 ? 0 : 97);
}

/* As faulthandler does it: puts back what was there before it, and sends the signal on. */
static struct sigaction before_it;

static void hand_down(int signal)
{
    if (++calls > 3)
        _exit(95);
    sigaction(SIGBUS, &before_it, NULL);
    raise(signal);
}

static void handed_down(void)
{
    struct sigaction action = {.sa_handler = hand_down, .sa_flags = (int)SA_NODEFER};
    handle_by(SIG_DFL, 0);
    use_the_guard();
    sigaction(SIGBUS, &action, &before_it); /* over us, and we over it */
    use_the_guard();
    if (calls != 0)
        _exit(96);
    fault_elsewhere();
}

static void handed_down_from_below(void)
{
    struct sigaction action = {.sa_handler = hand_down, .sa_flags = (int)SA_NODEFER};
    handle_by(SIG_DFL, 0);
    sigaction(SIGBUS, &action, &before_it);
    use_the_guard();
    if (calls != 0)
        _exit(96);
    fault_elsewhere();
}

static void comes_and_goes(void)
{
    struct sigaction action = {.sa_handler = hand_down, .sa_flags = (int)SA_NODEFER}, was;
    handle_by(SIG_DFL, 0);
    for (int i = 0; i < 50; i++) {
        use_the_guard();
        sigaction(SIGBUS, &action, &was);
        use_the_guard();
        sigaction(SIGBUS, &was, NULL);
        handle_by(i % 2 == 0 ? note : SIG_DFL, 0);
    }
    use_the_guard();
    fault_elsewhere();
}

/* faulthandler again: it was enabled over us, and disabled since, which puts us back. */
static void switched_off(void)
{
    handle_by(SIG_DFL, 0);
    use_the_guard();
    struct sigaction action = {.sa_handler = note}, was;
    sigaction(SIGBUS, &action, &was);
    use_the_guard();
    sigaction(SIGBUS, &was, NULL);
    fault_elsewhere(); /* to note(), which does nothing, and in the end to nobody */
}

static void jumps_again_and_again(void)
{
    handle_by(jump, 0);
    use_the_guard();
    struct mapped bare = mapped_of(1, false);
    cut_to(bare.fd, 0);
    for (volatile int i = 0; i < 250; i++)
        if (sigsetjmp(back, 1) == 0)
            read_at(bare.start);
    _exit(calls == 250 ? 0 : 97);
}

/* A handler that mends what is not ours, each time that it is broken again. */
static char *mended;

static void mend(int signal)
{
    (void)signal;
    calls++;
    mmap(mended, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void mends_again_and_again(void)
{
    handle_by(mend, 0);
    use_the_guard();
    struct mapped bare = mapped_of(1, false);
    cut_to(bare.fd, 0);
    mended = bare.start;
    for (int i = 0; i < 250; i++) {
        read_at(bare.start);
        usleep(1500);
        mmap(bare.start, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, bare.fd, 0);
    }
    _exit(calls == 250 ? 0 : 97);
}

/* One that hands down by raise, over one that does nothing. */
static void handed_down_to_nothing(void)
{
    struct sigaction nothing = {.sa_handler = note}, hands = {.sa_handler = raise_again, .sa_flags = (int)SA_NODEFER};
    handle_by(SIG_DFL, 0);
    use_the_guard();
    sigaction(SIGBUS, &nothing, NULL);
    use_the_guard();
    sigaction(SIGBUS, &hands, NULL);
    use_the_guard();
    fault_elsewhere();
}

TEST(a_fault_is_not_passed_for_ever_to_a_handler_that_does_nothing)
{
    CHECK_EQ(outcome_of(switched_off), -SIGBUS);
    CHECK_EQ(outcome_of(mends_again_and_again), 0);
    CHECK_EQ(outcome_of(handed_down_to_nothing), -SIGBUS);
    CHECK_EQ(outcome_of(jumps_again_and_again), 0);
}

TEST(a_foreign_fault_reaches_the_handler_from_before)
{
    CHECK_EQ(outcome_of(foreign_to_a_handler), 0);
    CHECK_EQ(outcome_of(foreign_to_one_with_info), 0);
    CHECK_EQ(outcome_of(foreign_to_one_that_serves_once), -SIGBUS);
}

TEST(a_handler_installed_over_us_gets_what_is_not_ours)
{
    CHECK_EQ(outcome_of(installed_over_us), 0);
    CHECK_EQ(outcome_of(renewed), 0);
    CHECK_EQ(outcome_of(handed_down), -SIGBUS);
    CHECK_EQ(outcome_of(handed_down_from_below), -SIGBUS);
    CHECK_EQ(outcome_of(comes_and_goes), -SIGBUS);
}

TESTS(&check__what_was_cut_off_reads_as_zeros_and_the_rest_as_it_was,
      &check__from_the_back_to_the_front_too_and_for_writing, &check__errno_survives_a_fault,
      &check__an_entry_used_again_has_not_faulted, &check__many_mappings_at_once,
      &check__a_foreign_fault_kills_as_before, &check__a_fault_is_not_passed_for_ever_to_a_handler_that_does_nothing,
      &check__a_foreign_fault_reaches_the_handler_from_before,
      &check__a_handler_installed_over_us_gets_what_is_not_ours)
