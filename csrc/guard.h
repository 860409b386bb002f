/* guard: memory that somebody else can cut short must not kill the process.
 *
 * Reading a mapped file behind its end is SIGBUS. A handler of ours knows which mappings may do that: it puts pages of
 * zeros there, from the fault to the end of the mapping (all of that lies behind the file's end too, and one step is
 * cheaper than one a page), notes that the mapping has faulted, and the read goes on. Whoever works on the memory asks
 * fpred__guard_is_faulted before it believes what it read.
 *
 * Every other SIGBUS goes to whoever handled it before us: a handler, with the flags and mask that it asked for; or
 * nobody, and the process dies of SIGBUS at the same instruction. The handler comes first with the first mapping, and
 * is put first again, by fpred__guard_renew, where another one was installed over it since (faulthandler, say).
 *
 * A thread that has blocked SIGBUS is killed by one whatever the handler: the loop and log threads block all signals,
 * and so never touch such memory themselves; what they hand to the kernel fails with EFAULT instead.
 *
 * Threads: any. A mutex orders add, remove and renew; fork waits for it. The handler takes no lock. */
#ifndef FPRED_GUARD_H
#define FPRED_GUARD_H

#include <stdbool.h>
#include <stddef.h>

struct fpred__guarded;

/* From now on [start, start + bytes), whole pages of page_bytes, is guarded; protection is the mapping's. NULL when out
 * of memory, or where the handler can't be installed. */
struct fpred__guarded *fpred__guard_add(char *start, size_t bytes, size_t page_bytes, int protection);

/* Before it is unmapped. */
void fpred__guard_remove(struct fpred__guarded *guarded);

/* Whether zeros stand in for some of it. */
bool fpred__guard_is_faulted(const struct fpred__guarded *guarded);

/* Puts the handler first again where another one was installed over it. A system call. */
void fpred__guard_renew(void);

#endif
