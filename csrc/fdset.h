/* fdset: the descriptors a server owns, so that the child of a fork can close them.
 *
 * The child's only thread may find every lock taken and every list half changed, so this is an array of atomic ints:
 * the owner notes a descriptor after it opened it and forgets it before it closes it. A fork in between the two leaves
 * one descriptor open in the child, never one closed that isn't ours. Add and remove on any one thread at a time;
 * close_all in the child of a fork. */
#ifndef FPRED_FDSET_H
#define FPRED_FDSET_H

#include <stddef.h>

struct fpred__fdset;

/* Room for capacity descriptors. NULL when out of memory. */
struct fpred__fdset *fpred__fdset_new(size_t capacity);
void fpred__fdset_free(struct fpred__fdset *set);

/* Returns the place, to be given to remove. When the set is full: SIZE_MAX, which remove takes too. */
size_t fpred__fdset_add(struct fpred__fdset *set, int fd);
void fpred__fdset_remove(struct fpred__fdset *set, size_t place);

void fpred__fdset_close_all(struct fpred__fdset *set);

#endif
