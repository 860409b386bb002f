/* The guard from many threads at once: mappings come, are cut short under a reader, and go. */
#include "guard.h"

#include <pthread.h>
#include <stdatomic.h>

#include "memory_helpers.h"

#define THREADS 4
#define ROUNDS 400
#define PAGES 8

static atomic_int wrong;

static void *come_and_go(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        int fd = memory_of(PAGES * PAGE, 0);
        char *start = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);
        struct fpred__guarded *guarded = fpred__guard_add(start, PAGES * PAGE, PAGE, PROT_READ);
        size_t keep = (size_t)i % PAGES;
        cut_to(fd, keep * PAGE);
        for (size_t page = PAGES; page-- > 0;)
            if (read_at(start + page * PAGE) != (page < keep ? 'x' : '\0'))
                atomic_fetch_add(&wrong, 1);
        fpred__guard_renew();
        if (!fpred__guard_is_faulted(guarded))
            atomic_fetch_add(&wrong, 1);
        fpred__guard_remove(guarded);
        munmap(start, PAGES * PAGE);
        close(fd);
    }
    return NULL;
}

TEST(threads_fault_side_by_side)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, come_and_go, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(atomic_load(&wrong), 0);
}

TESTS(&check__threads_fault_side_by_side)
