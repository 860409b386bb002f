/* Regions: any range of a file, shared by holders of any number, and unmapped with the last. */
#include "region.h"

#include <errno.h>
#include <stdio.h>

#include "memory_helpers.h"
#include "slab.h"

TEST(any_range_of_the_file_is_mapped)
{
    static const size_t offsets[] = {0, 1, 63, 4095, 4096, 4097, 12287};
    static const size_t lengths[] = {1, 2, 4095, 4096, 4097, 8192};
    int fd = memory_of(5 * PAGE, 0);
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        if (pwrite(fd, "abc", 3, (off_t)offsets[i]) != 3)
            abort();
        for (size_t j = 0; j < sizeof lengths / sizeof *lengths; j++) {
            struct fpred_region *region;
            CHECK_EQ(fpred_region_map(fd, offsets[i], lengths[j], false, &region), FPRED_OK);
            const char *base = fpred_region_base(region);
            CHECK_EQ(fpred_region_bytes(region), lengths[j]);
            CHECK_EQ((uintptr_t)base % PAGE, offsets[i] % PAGE);
            CHECK(memcmp(base, "abcx", lengths[j] < 4 ? lengths[j] : 3) == 0);
            fpred_region_release(region);
        }
    }
    close(fd);
    CHECK_EQ(fpred__region_count(), 0);
}

TEST(a_range_that_is_not_in_the_file_is_refused)
{
    static const struct {
        uint64_t offset;
        size_t bytes;
    } ranges[] = {{0, 0},
                  {0, 5001},
                  {1, 5000},
                  {5000, 1},
                  {5001, 1},
                  {4096, SIZE_MAX},
                  {UINT64_MAX, 1},
                  {UINT64_MAX, SIZE_MAX},
                  {(uint64_t)1 << 63, 1}};
    struct fpred_region *region;
    int fd = memory_of(5000, 0), pipes[2];
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        CHECK_EQ(fpred_region_map(fd, ranges[i].offset, ranges[i].bytes, false, &region), FPRED_INVALID);
    close(fd);
    CHECK_EQ(fpred_region_map(-1, 0, 1, false, &region), FPRED_SYSTEM);
    CHECK_EQ(errno, EBADF);
    if (pipe(pipes) != 0)
        abort();
    CHECK_EQ(fpred_region_map(pipes[0], 0, 1, false, &region), FPRED_INVALID);
    close(pipes[0]);
    close(pipes[1]);
    CHECK_EQ(fpred__region_count(), 0);
}

TEST(what_may_not_be_written_is_mapped_for_reading_only)
{
    char path[64];
    struct fpred_region *region;
    int fd = memory_of(PAGE, 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(fpred_region_map(reader, 0, PAGE, true, &region), FPRED_SYSTEM);
    CHECK_EQ(errno, EACCES);
    CHECK_EQ(fpred_region_map(reader, 0, PAGE, false, &region), FPRED_OK);
    fpred_region_release(region);
    CHECK_EQ(fpred_region_map(fd, 1, 3, true, &region), FPRED_OK);
    memcpy(fpred_region_base(region), "abc", 3);
    fpred_region_release(region);
    char got[5];
    CHECK_EQ(pread(fd, got, 5, 0), 5);
    CHECK(memcmp(got, "xabcx", 5) == 0);
    close(reader);
    close(fd);
}

TEST(a_file_cut_short_reads_as_zeros_and_shows)
{
    struct fpred_region *region;
    int fd = memory_of(8 * PAGE, 0);
    CHECK_EQ(fpred_region_map(fd, 100, 7 * PAGE, false, &region), FPRED_OK);
    close(fd);
    CHECK(!fpred_region_is_faulted(region));
    fpred_region_release(region);

    fd = memory_of(8 * PAGE, 0);
    CHECK_EQ(fpred_region_map(fd, 100, 7 * PAGE, false, &region), FPRED_OK);
    cut_to(fd, 2 * PAGE);
    CHECK_EQ(read_at(fpred_region_base(region)), 'x');
    CHECK(!fpred_region_is_faulted(region));
    CHECK_EQ(read_at(fpred_region_base(region) + 7 * PAGE - 1), 0);
    CHECK(fpred_region_is_faulted(region));
    fpred_region_release(region);
    close(fd);
}

TEST(the_last_share_unmaps)
{
    struct fpred_region *region;
    struct fpred_slot *slot;
    struct fpred__region_bin bin = {NULL};
    int fd = memory_of(2 * PAGE, 0);
    CHECK_EQ(fpred_region_map(fd, 0, 2 * PAGE, false, &region), FPRED_OK);
    CHECK_EQ(fpred__slot_lend(region, 50, PAGE, &slot), FPRED_OK);
    CHECK(fpred_slot_payload(slot) == fpred_region_base(region) + 50);
    CHECK_EQ(fpred_slot_capacity(slot), PAGE);
    CHECK(fpred_slot_region(slot) == region);
    fpred__region_bin_put(&bin, region);
    fpred__region_bin_empty(&bin);
    CHECK_EQ(fpred__region_count(), 1);
    CHECK_EQ(read_at(fpred_slot_payload(slot)), 'x');
    fpred_slot_release(slot);
    CHECK_EQ(fpred__region_count(), 0);

    for (int i = 0; i < 3; i++) {
        CHECK_EQ(fpred_region_map(fd, 0, PAGE, false, &region), FPRED_OK);
        fpred__region_bin_put(&bin, region);
    }
    CHECK_EQ(fpred__region_count(), 3);
    fpred__region_bin_empty(&bin);
    CHECK_EQ(fpred__region_count(), 0);
    close(fd);
}

static struct fpred_region *inherited;

static void use_in_child(void)
{
    if (read_at(fpred_region_base(inherited) + PAGE) != 0 || !fpred_region_is_faulted(inherited))
        _exit(1);
    fpred_region_release(inherited);
    if (fpred__region_count() != 0)
        _exit(2);
}

TEST(the_child_of_a_fork_keeps_its_region_and_the_guard)
{
    int fd = memory_of(2 * PAGE, 0);
    CHECK_EQ(fpred_region_map(fd, 0, 2 * PAGE, false, &inherited), FPRED_OK);
    cut_to(fd, 100);
    CHECK_EQ(outcome_of(use_in_child), 0);
    CHECK(!fpred_region_is_faulted(inherited));
    fpred_region_release(inherited);
    close(fd);
}

TEST(huge_pages_where_there_are_any)
{
    size_t huge = (size_t)2 << 20;
    struct fpred_region *region;
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (fd == -1)
        return;
    cut_to(fd, 2 * huge);
    if (fpred_region_map(fd, 5, huge, false, &region) == FPRED_OK) { /* memory for them may be short */
        cut_to(fd, 0);
        CHECK_EQ(read_at(fpred_region_base(region)), 0);
        CHECK_EQ(read_at(fpred_region_base(region) + huge - 1), 0);
        CHECK(fpred_region_is_faulted(region));
        fpred_region_release(region);
    }
    close(fd);
}

TESTS(&check__any_range_of_the_file_is_mapped, &check__a_range_that_is_not_in_the_file_is_refused,
      &check__what_may_not_be_written_is_mapped_for_reading_only, &check__a_file_cut_short_reads_as_zeros_and_shows,
      &check__the_last_share_unmaps, &check__the_child_of_a_fork_keeps_its_region_and_the_guard,
      &check__huge_pages_where_there_are_any)
