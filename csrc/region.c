/* region: see region.h. */
#include "region.h"

#include <assert.h>
#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "guard.h"

struct fpred_region {
    atomic_size_t shares;
    char *map;                      /* set once */
    size_t map_bytes;               /* set once */
    char *base;                     /* set once */
    size_t bytes;                   /* set once */
    struct fpred__guarded *guarded; /* set once */
    struct fpred_region *next;      /* in a bin */
};

static atomic_size_t region_count;

/* What mappings of the file are made of. 0 with errno. */
static size_t page_bytes_of(int fd)
{
    struct statfs system;
    if (fstatfs(fd, &system) != 0)
        return 0;
    return system.f_type == HUGETLBFS_MAGIC ? (size_t)system.f_bsize : (size_t)sysconf(_SC_PAGESIZE);
}

static enum fpred_status check_range(int fd, uint64_t offset, size_t bytes)
{
    struct stat file;
    if (fstat(fd, &file) != 0)
        return FPRED_SYSTEM;
    uint64_t size = (uint64_t)file.st_size;
    return bytes != 0 && offset <= size && bytes <= size - offset ? FPRED_OK : FPRED_INVALID;
}

static enum fpred_status map_file(struct fpred_region *region, int fd, uint64_t offset, bool writable)
{
    size_t page_bytes = page_bytes_of(fd);
    if (page_bytes == 0)
        return FPRED_SYSTEM;
    size_t lead = offset % page_bytes, bytes = lead + region->bytes;
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    region->map_bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
    region->map = mmap(NULL, region->map_bytes, protection, MAP_SHARED, fd, (off_t)(offset - lead));
    if (region->map == MAP_FAILED)
        return errno == ENOMEM ? FPRED_NOMEM : FPRED_SYSTEM;
    region->base = region->map + lead;
    region->guarded = fpred__guard_add(region->map, region->map_bytes, page_bytes, protection);
    if (region->guarded != NULL)
        return FPRED_OK;
    munmap(region->map, region->map_bytes);
    return FPRED_NOMEM;
}

enum fpred_status fpred_region_map(int fd, uint64_t offset, size_t bytes, bool writable, struct fpred_region **region)
{
    enum fpred_status status = check_range(fd, offset, bytes);
    if (status != FPRED_OK)
        return status;
    struct fpred_region *made = calloc(1, sizeof *made);
    if (made == NULL)
        return FPRED_NOMEM;
    atomic_init(&made->shares, 1);
    made->bytes = bytes;
    status = map_file(made, fd, offset, writable);
    if (status != FPRED_OK) {
        int error = errno;
        free(made);
        errno = error;
        return status;
    }
    atomic_fetch_add_explicit(&region_count, 1, memory_order_relaxed);
    *region = made;
    return FPRED_OK;
}

char *fpred_region_base(const struct fpred_region *region)
{
    return region->base;
}

size_t fpred_region_bytes(const struct fpred_region *region)
{
    return region->bytes;
}

void fpred_region_guard(const struct fpred_region *region)
{
    (void)region;
    fpred__guard_renew();
}

bool fpred_region_is_faulted(const struct fpred_region *region)
{
    return fpred__guard_is_faulted(region->guarded);
}

struct fpred_region *fpred__region_share(struct fpred_region *region)
{
    atomic_fetch_add_explicit(&region->shares, 1, memory_order_relaxed);
    return region;
}

static bool was_last(struct fpred_region *region)
{
    size_t before = atomic_fetch_sub_explicit(&region->shares, 1, memory_order_acq_rel);
    assert(before != 0);
    return before == 1;
}

static void unmap(struct fpred_region *region)
{
    fpred__guard_remove(region->guarded);
    munmap(region->map, region->map_bytes);
    atomic_fetch_sub_explicit(&region_count, 1, memory_order_relaxed);
    free(region);
}

void fpred_region_release(struct fpred_region *region)
{
    if (was_last(region))
        unmap(region);
}

void fpred__region_bin_put(struct fpred__region_bin *bin, struct fpred_region *region)
{
    if (!was_last(region))
        return;
    region->next = atomic_load_explicit(&bin->first, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&bin->first, &region->next, region, memory_order_release,
                                                  memory_order_relaxed))
        ;
}

void fpred__region_bin_empty(struct fpred__region_bin *bin)
{
    struct fpred_region *region = atomic_exchange_explicit(&bin->first, NULL, memory_order_acquire);
    while (region != NULL) {
        struct fpred_region *next = region->next;
        unmap(region);
        region = next;
    }
}

size_t fpred__region_count(void)
{
    return atomic_load_explicit(&region_count, memory_order_relaxed);
}
