/* guard: see guard.h.
 *
 * The table is a list of chunks that are never freed, so the handler may walk it at any time. An entry is read under
 * its version, odd while it changes: the entry that holds a fault is stable, since its mapping is in use, and one that
 * is not must never look as if it held it. */
#include "guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"

#define CHUNK 64
#define CHAIN_MAX 8
#define FUTILE_MAX 100
#define FUTILE_US 1000

struct fpred__guarded {
    atomic_uint version;
    atomic_uintptr_t start; /* 0: the entry is free */
    atomic_size_t bytes, page_bytes;
    atomic_int protection;
    atomic_bool faulted;
    struct fpred__guarded *next_free; /* guarded by mutex */
};

struct chunk {
    struct fpred__guarded entries[CHUNK];
    struct chunk *next; /* set once, before it is published */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic(struct chunk *) chunks;
static struct fpred__guarded *free_entries; /* guarded by mutex */

/* Who handled SIGBUS before: [0] before the first mapping, the others were found over us. Added to under the mutex. */
static struct sigaction chain[CHAIN_MAX];
static atomic_bool chain_spent[CHAIN_MAX]; /* SA_RESETHAND, and it was called */
static atomic_int chain_count;

/* The thread that is passing a fault on, and to whom. */
static atomic_int passing_thread, passing_level;

/* How often in a row a handler has returned from a fault, of this thread at this address, and when. */
static atomic_int futile_thread, futile_count;
static atomic_uintptr_t futile_address;
static _Atomic int64_t futile_us;

/* ---- in the handler ---- */

static bool is_fault(const siginfo_t *info)
{
    return info->si_code > 0 && info->si_code != BUS_MCEERR_AO;
}

/* Maps zeros from the page of the fault on; where the kernel has no room to split a mapping, over all of it. */
static bool put_zeros(uintptr_t start, size_t bytes, size_t page_bytes, int protection, uintptr_t address)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    size_t before = address - start - (address - start) % page_bytes;
    if (mmap((void *)(start + before), bytes - before, protection, flags, -1, 0) != MAP_FAILED)
        return true;
    return mmap((void *)start, bytes, protection, flags, -1, 0) != MAP_FAILED;
}

/* Whether the fault lies in this entry's mapping, and was dealt with. */
static bool covers(struct fpred__guarded *entry, uintptr_t address)
{
    unsigned version = atomic_load(&entry->version);
    uintptr_t start = atomic_load(&entry->start);
    size_t bytes = atomic_load(&entry->bytes), page_bytes = atomic_load(&entry->page_bytes);
    int protection = atomic_load(&entry->protection);
    if (start == 0 || address < start || address - start >= bytes)
        return false;
    if (version % 2 != 0 || atomic_load(&entry->version) != version)
        return false;
    atomic_store(&entry->faulted, true);
    return put_zeros(start, bytes, page_bytes, protection, address);
}

static bool is_ours(uintptr_t address)
{
    for (struct chunk *chunk = atomic_load(&chunks); chunk != NULL; chunk = chunk->next)
        for (size_t i = 0; i < CHUNK; i++)
            if (covers(&chunk->entries[i], address))
                return true;
    return false;
}

/* The process ends as it would have without us: the instruction faults again, or the signal is sent again. */
static void die(int signal, const siginfo_t *info)
{
    const struct sigaction none = {.sa_handler = SIG_DFL};
    sigaction(signal, &none, NULL);
    if (!is_fault(info))
        raise(signal);
}

/* A handler that was installed over us, and that we put ourselves over again, may hand the signal down by raise: then
 * it means the next one in line. A true fault starts at the top. */
static int level_for(const siginfo_t *info)
{
    bool handed_down = info->si_code == SI_TKILL && atomic_load(&passing_thread) == gettid();
    return (handed_down ? atomic_load(&passing_level) : atomic_load(&chain_count)) - 1;
}

static void call(const struct sigaction *action, int signal, siginfo_t *info, void *context)
{
    if (action->sa_flags & SA_SIGINFO)
        action->sa_sigaction(signal, info, context);
    else
        action->sa_handler(signal);
}

/* One that has been switched off since, as faulthandler's is, does nothing and returns, and the instruction faults
 * again, at once and for ever: after so many times the next in line is asked. One that mends its faults is not meant.
 */
static int levels_given_up(const siginfo_t *info)
{
    if (!is_fault(info))
        return 0; /* handed down, see level_for */
    bool again = atomic_load(&futile_thread) == gettid() && atomic_load(&futile_address) == (uintptr_t)info->si_addr &&
                 fpred__clock_now_us() - atomic_load(&futile_us) < FUTILE_US;
    if (!again)
        atomic_store(&futile_count, 0);
    return atomic_load(&futile_count) / FUTILE_MAX;
}

static void note_return(const siginfo_t *info)
{
    atomic_store(&futile_thread, gettid());
    atomic_store(&futile_address, (uintptr_t)info->si_addr);
    atomic_store(&futile_us, fpred__clock_now_us());
    atomic_fetch_add(&futile_count, 1);
}

static void pass_on(int signal, siginfo_t *info, void *context)
{
    int level = level_for(info) - levels_given_up(info);
    const struct sigaction *action = level >= 0 ? &chain[level] : NULL;
    if (action == NULL || action->sa_handler == SIG_DFL || (action->sa_handler == SIG_IGN && is_fault(info)) ||
        ((action->sa_flags & (int)SA_RESETHAND) && atomic_exchange(&chain_spent[level], true))) {
        die(signal, info);
        return;
    }
    if (action->sa_handler == SIG_IGN)
        return;
    int thread_before = atomic_exchange(&passing_thread, gettid());
    int level_before = atomic_exchange(&passing_level, level);
    call(action, signal, info, context);
    atomic_store(&passing_level, level_before);
    atomic_store(&passing_thread, thread_before);
    if (is_fault(info))
        note_return(info);
}

static void on_bus_error(int signal, siginfo_t *info, void *context)
{
    int error = errno;
    if (!is_fault(info) || info->si_code == BUS_ADRALN || !is_ours((uintptr_t)info->si_addr))
        pass_on(signal, info, context);
    errno = error;
}

/* ---- installing it ---- */

static bool is_installed(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_bus_error;
}

static bool is_same(const struct sigaction *a, const struct sigaction *b)
{
    return a->sa_flags == b->sa_flags &&
           ((a->sa_flags & SA_SIGINFO) ? a->sa_sigaction == b->sa_sigaction : a->sa_handler == b->sa_handler);
}

/* One that comes and goes is noted once; of too many, the last two share a place. */
static void remember_locked(const struct sigaction *action)
{
    int count = atomic_load(&chain_count);
    if (count > 0 && is_same(&chain[count - 1], action)) {
        atomic_store(&chain_spent[count - 1], false);
        return;
    }
    int place = count < CHAIN_MAX ? count : CHAIN_MAX - 1;
    chain[place] = *action;
    atomic_store(&chain_spent[place], false);
    atomic_store(&chain_count, place + 1);
}

/* With the mask of the one before and what it wants done to system calls, so that it doesn't notice us. */
static bool install_locked(void)
{
    struct sigaction now;
    if (sigaction(SIGBUS, NULL, &now) != 0)
        return false;
    if (is_installed(&now))
        return true;
    remember_locked(&now);
    struct sigaction ours = {.sa_sigaction = on_bus_error, .sa_mask = now.sa_mask};
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | (now.sa_flags & (SA_RESTART | (int)SA_NODEFER));
    return sigaction(SIGBUS, &ours, NULL) == 0;
}

void fpred__guard_renew(void)
{
    struct sigaction now;
    if (atomic_load(&chain_count) == 0 || (sigaction(SIGBUS, NULL, &now) == 0 && is_installed(&now)))
        return;
    pthread_mutex_lock(&mutex);
    install_locked();
    pthread_mutex_unlock(&mutex);
}

/* ---- the table ---- */

static void lock(void)
{
    pthread_mutex_lock(&mutex);
}

static void unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

/* The child of a fork goes on using its mappings. */
static void mind_forks(void)
{
    pthread_atfork(lock, unlock, unlock);
}

static bool more_entries_locked(void)
{
    struct chunk *chunk = calloc(1, sizeof *chunk);
    if (chunk == NULL)
        return false;
    for (size_t i = 0; i < CHUNK; i++) {
        chunk->entries[i].next_free = free_entries;
        free_entries = &chunk->entries[i];
    }
    chunk->next = atomic_load(&chunks);
    atomic_store(&chunks, chunk);
    return true;
}

/* The version is odd while this goes on. */
static void set_entry(struct fpred__guarded *entry, uintptr_t start, size_t bytes, size_t page_bytes, int protection)
{
    atomic_fetch_add(&entry->version, 1);
    atomic_store(&entry->start, start);
    atomic_store(&entry->bytes, bytes);
    atomic_store(&entry->page_bytes, page_bytes);
    atomic_store(&entry->protection, protection);
    atomic_store(&entry->faulted, false);
    atomic_fetch_add(&entry->version, 1);
}

struct fpred__guarded *fpred__guard_add(char *start, size_t bytes, size_t page_bytes, int protection)
{
    struct fpred__guarded *entry = NULL;
    pthread_once(&once, mind_forks);
    pthread_mutex_lock(&mutex);
    if (install_locked() && (free_entries != NULL || more_entries_locked())) {
        entry = free_entries;
        free_entries = entry->next_free;
        set_entry(entry, (uintptr_t)start, bytes, page_bytes, protection);
    }
    pthread_mutex_unlock(&mutex);
    return entry;
}

void fpred__guard_remove(struct fpred__guarded *entry)
{
    pthread_mutex_lock(&mutex);
    set_entry(entry, 0, 0, 1, 0);
    entry->next_free = free_entries;
    free_entries = entry;
    pthread_mutex_unlock(&mutex);
}

bool fpred__guard_is_faulted(const struct fpred__guarded *entry)
{
    return atomic_load(&entry->faulted);
}
