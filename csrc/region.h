/* region: a part of a file of somebody else's, mapped and shared with whoever wrote it: a client's memory.
 *
 * It is guarded (guard.h): where the file is cut short, zeros are read and the region has faulted. A region is shared
 * by any number of holders and unmapped with the last of them, on whatever thread that is; unmapping costs some 20 ms
 * for each GB that was touched, so the loop leaves it to the control thread, by way of a bin.
 *
 * Threads: any. No lock is held over mmap and munmap. */
#ifndef FPRED_REGION_H
#define FPRED_REGION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

struct fpred_region;

/* Maps [offset, offset + bytes) of a file, at any offset, for reading, or for both. fd is borrowed for the call only.
 * *region: the caller's share. FPRED_INVALID: no bytes, or the range goes beyond the end of the file; FPRED_SYSTEM with
 * errno; FPRED_NOMEM. */
enum fpred_status fpred_region_map(int fd, uint64_t offset, size_t bytes, bool writable, struct fpred_region **region);

/* The byte at offset; borrowed until release. It lies in its page as it does in the file. */
char *fpred_region_base(const struct fpred_region *region);
size_t fpred_region_bytes(const struct fpred_region *region);

/* Before a use of it that begins now: makes sure that the guard stands (fpred__guard_renew). A system call. */
void fpred_region_guard(const struct fpred_region *region);

/* Whether some of it could not be read or written, and zeros stood in for it. */
bool fpred_region_is_faulted(const struct fpred_region *region);

/* One more share, which is the caller's. */
struct fpred_region *fpred__region_share(struct fpred_region *region);

/* Gives a share back. The last one unmaps. */
void fpred_region_release(struct fpred_region *region);

/* Where the loop puts shares, whose regions may have to be unmapped. Zeroed at first. */
struct fpred__region_bin {
    _Atomic(struct fpred_region *) first;
};

/* Gives a share back; where it is the last one the region waits in the bin. */
void fpred__region_bin_put(struct fpred__region_bin *bin, struct fpred_region *region);
/* Unmaps what is in the bin. Any one thread at a time. */
void fpred__region_bin_empty(struct fpred__region_bin *bin);

/* Regions that are mapped now, of the whole process. */
size_t fpred__region_count(void);

#endif
