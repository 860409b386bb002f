/* fdset: see fdset.h. */
#include "fdset.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

struct fpred__fdset {
    size_t capacity;
    size_t free_count;
    size_t *free_places; /* a stack */
    atomic_int fds[];    /* -1 where there is none */
};

struct fpred__fdset *fpred__fdset_new(size_t capacity)
{
    struct fpred__fdset *set = malloc(sizeof *set + capacity * sizeof set->fds[0]);
    size_t *places = malloc((capacity + 1) * sizeof *places);
    if (set == NULL || places == NULL) {
        free(set);
        free(places);
        return NULL;
    }
    set->capacity = set->free_count = capacity;
    set->free_places = places;
    for (size_t i = 0; i < capacity; i++) {
        atomic_init(&set->fds[i], -1);
        places[i] = capacity - 1 - i;
    }
    return set;
}

void fpred__fdset_free(struct fpred__fdset *set)
{
    free(set->free_places);
    free(set);
}

size_t fpred__fdset_add(struct fpred__fdset *set, int fd)
{
    if (set->free_count == 0)
        return SIZE_MAX;
    size_t place = set->free_places[--set->free_count];
    atomic_store(&set->fds[place], fd);
    return place;
}

void fpred__fdset_remove(struct fpred__fdset *set, size_t place)
{
    if (place == SIZE_MAX)
        return;
    atomic_store(&set->fds[place], -1);
    set->free_places[set->free_count++] = place;
}

void fpred__fdset_close_all(struct fpred__fdset *set)
{
    for (size_t i = 0; i < set->capacity; i++) {
        int fd = atomic_exchange(&set->fds[i], -1);
        if (fd != -1)
            close(fd);
    }
}
