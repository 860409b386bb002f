/* What the tests of guard, region and memfd share: files in memory, and children that may die. */
#ifndef FPRED_TESTS_MEMORY_HELPERS_H
#define FPRED_TESTS_MEMORY_HELPERS_H

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define PAGE ((size_t)4096)

/* A memfd of so many bytes, each of which is 'x', with these seals. */
static inline int memory_of(size_t bytes, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    char page[4096];
    memset(page, 'x', sizeof page);
    assert(fd != -1);
    for (size_t done = 0; done < bytes; done += sizeof page)
        if (pwrite(fd, page, bytes - done < sizeof page ? bytes - done : sizeof page, (off_t)done) == -1)
            abort();
    if (seals != 0 && fcntl(fd, F_ADD_SEALS, seals) != 0)
        abort();
    return fd;
}

static inline void cut_to(int fd, size_t bytes)
{
    if (ftruncate(fd, (off_t)bytes) != 0)
        abort();
}

/* How a child that runs this ends: its exit status, or minus the signal that killed it. Its complaints (ASan's, of a
 * death that is wanted) go nowhere. */
static inline int outcome_of(void (*run)(void))
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(nowhere, STDERR_FILENO);
        alarm(60);
        run();
        _exit(0);
    }
    while (waitpid(child, &status, 0) == -1)
        ;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static inline char read_at(const volatile char *at)
{
    return *at;
}

#endif
