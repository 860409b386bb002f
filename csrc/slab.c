/* slab: memory for bodies. One mutex guards the idle lists and the counts; system calls that map, unmap or advise are
 * made without it. See slab.h for threads and ownership.
 *
 * Resident size. A slot of known length never holds more than its class, and a class is at most 1.25 times what it was
 * taken for: the rule (1.25 x payload + 128 KiB) is true by construction, also for a warm slot that held a larger body.
 * A growing slot reserves far more than it may fill, so there the rule needs two things. Its first GROW_SMALL bytes
 * never get a huge page; from there on one huge page is at most a quarter of what is filled already, so they are asked
 * for once, when the slot is mapped, and the kernel brings each in as the body reaches it. And `touched` remembers how
 * far the slot was ever written, so that seal can give back what a smaller body leaves over. */
#include "slab.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#endif
#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#endif

#define SLOT_ALIGN ((size_t)64)
#define CLASS_MIN_LOG2 8
#define CLASS_MAX_LOG2 46
#define CLASS_MAX ((size_t)1 << CLASS_MAX_LOG2)
#define CLASS_COUNT ((CLASS_MAX_LOG2 - CLASS_MIN_LOG2) * 4 + 1)

#define GROW_SMALL (4 * FPRED__HUGE_PAGE)
#define RESIDENT_SLACK ((size_t)128 << 10)
#define RESIDENT_STEP ((size_t)64 << 10) /* a whole number of pages on every machine we know */

#define NOT_STAMPED INT64_MIN

struct fpred_slot {
    struct fpred__slab *slab;    /* set once; valid while the slot is out, which is a share of the slab */
    struct fpred_region *region; /* set once: a share of the client's memory that it lies in, and no slab then */
    char *map;                   /* set once */
    char *payload;               /* the holder's: FPRED__SLOT_LEAD behind map, or up to 63 bytes more */
    size_t map_bytes;            /* set once; the size of its class */
    unsigned size_class;         /* set once */
    bool growing;                /* set once; only mapped slots are */
    size_t capacity;             /* the holder's */
    size_t touched;              /* the holder's; no byte of map from here on is resident */
    struct fpred_slot *next;     /* guarded by slab->mutex while idle */
    int64_t idle_since_ms;       /* guarded by slab->mutex */
};

struct fpred__slab {
    size_t budget_bytes;         /* set once */
    atomic_size_t charged_bytes; /* added to by the loop thread only */
    pthread_mutex_t mutex;
    struct fpred_slot *idle[2][CLASS_COUNT]; /* guarded by mutex; [growing][size_class], last released first */
    size_t out_slots;                        /* guarded by mutex; each is a share of the slab */
    size_t idle_slots;                       /* guarded by mutex */
    size_t idle_bytes;                       /* guarded by mutex */
    bool creator_left;                       /* guarded by mutex; no slot becomes idle any more */
    unsigned fail_after;                     /* guarded by mutex */
    unsigned fail_count;                     /* guarded by mutex */
};

static size_t round_down(size_t bytes, size_t step)
{
    return bytes - bytes % step;
}

static size_t round_up(size_t bytes, size_t step)
{
    return round_down(bytes + step - 1, step);
}

/* ---- size classes: 2^n x 1, 1.25, 1.5, 1.75 ---- */

static unsigned class_of(size_t map_bytes)
{
    assert(map_bytes <= CLASS_MAX);
    if (map_bytes <= (size_t)1 << CLASS_MIN_LOG2)
        return 0;
    unsigned log2 = 63 - (unsigned)__builtin_clzll(map_bytes - 1);
    unsigned quarter = (unsigned)((map_bytes - 1) >> (log2 - 2)) - 4;
    return (log2 - CLASS_MIN_LOG2) * 4 + quarter + 1;
}

static size_t class_bytes(unsigned size_class)
{
    return (size_t)(4 + size_class % 4) << (size_class / 4 + CLASS_MIN_LOG2 - 2);
}

/* ---- a slot's memory ---- */

/* Advice may be refused (no huge pages in this kernel): the slot works all the same. */
static void advise(char *start, const char *end, int advice)
{
    if (start < end)
        (void)madvise(start, (size_t)(end - start), advice);
}

/* What can't be unmapped (splitting a mapping can fail at the kernel's limit of them) at least holds no memory. */
static void unmap(char *start, size_t bytes)
{
    if (bytes != 0 && munmap(start, bytes) != 0)
        (void)madvise(start, bytes, MADV_DONTNEED);
}

static char *map_reserve(size_t bytes)
{
    size_t align = bytes >= FPRED__HUGE_PAGE ? FPRED__HUGE_PAGE : 0;
    char *start = mmap(NULL, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    if (align == 0)
        return start;
    size_t before = -(size_t)start % align;
    unmap(start, before);
    unmap(start + before + bytes, align - before);
    return start + before;
}

static char *map_new(size_t bytes, bool growing)
{
    char *map = map_reserve(bytes);
    if (map == NULL)
        return NULL;
    char *whole_end = map + round_down(bytes, FPRED__HUGE_PAGE);
    if (!growing) {
        advise(map, whole_end, MADV_HUGEPAGE);
        return map;
    }
    /* Where huge pages are always on, one would be far more than a small body may hold. */
    size_t small = bytes < GROW_SMALL ? bytes : GROW_SMALL;
    advise(map, map + small, MADV_NOHUGEPAGE);
    advise(map + small, whole_end, MADV_HUGEPAGE);
    return map;
}

static bool class_is_mapped(unsigned size_class)
{
    return class_bytes(size_class) >= FPRED__SLOT_MAP_MIN;
}

static struct fpred_slot *slot_new(struct fpred__slab *slab, unsigned size_class, bool growing)
{
    struct fpred_slot *slot = calloc(1, sizeof *slot);
    if (slot == NULL)
        return NULL;
    size_t bytes = class_bytes(size_class);
    slot->map = class_is_mapped(size_class) ? map_new(bytes, growing) : aligned_alloc(64, bytes);
    if (slot->map == NULL) {
        free(slot);
        return NULL;
    }
    slot->slab = slab;
    slot->map_bytes = bytes;
    slot->size_class = size_class;
    slot->growing = growing;
    slot->touched = growing ? 0 : bytes;
    return slot;
}

static void slot_free(struct fpred_slot *slot)
{
    ASAN_UNPOISON_MEMORY_REGION(slot->map, slot->touched);
    if (class_is_mapped(slot->size_class))
        unmap(slot->map, slot->map_bytes);
    else
        free(slot->map);
    free(slot);
}

static void slots_free(struct fpred_slot *slots)
{
    while (slots != NULL) {
        struct fpred_slot *next = slots->next;
        slot_free(slots);
        slots = next;
    }
}

/* Under ASan a holder may touch its lead, its payload and the NUL, and nobody an idle slot. */
static void slot_open(struct fpred_slot *slot, size_t capacity)
{
    slot->capacity = capacity;
    ASAN_UNPOISON_MEMORY_REGION(slot->map, slot->touched);
    if (!slot->growing) {
        size_t used = FPRED__SLOT_LEAD + capacity + 1;
        ASAN_POISON_MEMORY_REGION(slot->map + used, slot->map_bytes - used);
    }
}

/* ---- idle slots ---- */

static struct fpred_slot *idle_pop_locked(struct fpred__slab *slab, unsigned size_class, bool growing)
{
    struct fpred_slot **list = &slab->idle[growing][size_class], *slot = *list;
    if (slot == NULL)
        return NULL;
    *list = slot->next;
    slab->idle_slots--;
    slab->idle_bytes -= slot->touched;
    return slot;
}

static void idle_push_locked(struct fpred__slab *slab, struct fpred_slot *slot)
{
    struct fpred_slot **list = &slab->idle[slot->growing][slot->size_class];
    slot->idle_since_ms = NOT_STAMPED;
    slot->next = *list;
    *list = slot;
    slab->idle_slots++;
    slab->idle_bytes += slot->touched;
}

/* Moves what was idle for long enough from one list to the front of *gone. A list is ordered by age, youngest first:
 * the old are its tail. Release doesn't read the clock, so a slot's age counts from the first trim that sees it. */
static void idle_cut_locked(struct fpred__slab *slab, struct fpred_slot **list, int64_t now_ms, int64_t idle_ms,
                            struct fpred_slot **gone)
{
    for (; *list != NULL; list = &(*list)->next) {
        if ((*list)->idle_since_ms == NOT_STAMPED)
            (*list)->idle_since_ms = now_ms;
        if (idle_ms == 0 || now_ms - (*list)->idle_since_ms >= idle_ms)
            break;
    }
    struct fpred_slot *old = *list;
    *list = NULL;
    while (old != NULL) {
        struct fpred_slot *next = old->next;
        slab->idle_slots--;
        slab->idle_bytes -= old->touched;
        old->next = *gone;
        *gone = old;
        old = next;
    }
}

/* The caller frees what is returned, without the lock. */
static struct fpred_slot *idle_cut_all_locked(struct fpred__slab *slab, int64_t now_ms, int64_t idle_ms)
{
    struct fpred_slot *gone = NULL;
    for (unsigned growing = 0; growing < 2; growing++)
        for (unsigned size_class = 0; size_class < CLASS_COUNT && slab->idle_slots != 0; size_class++)
            idle_cut_locked(slab, &slab->idle[growing][size_class], now_ms, idle_ms, &gone);
    return gone;
}

/* ---- the slab ---- */

struct fpred__slab *fpred__slab_new(size_t budget_bytes)
{
    struct fpred__slab *slab = calloc(1, sizeof *slab);
    if (slab == NULL)
        return NULL;
    if (pthread_mutex_init(&slab->mutex, NULL) != 0) {
        free(slab);
        return NULL;
    }
    slab->budget_bytes = budget_bytes;
    atomic_init(&slab->charged_bytes, 0);
    return slab;
}

static void slab_free(struct fpred__slab *slab)
{
    assert(slab->idle_slots == 0 && slab->idle_bytes == 0);
    pthread_mutex_destroy(&slab->mutex);
    free(slab);
}

void fpred__slab_release(struct fpred__slab *slab)
{
    pthread_mutex_lock(&slab->mutex);
    assert(!slab->creator_left);
    slab->creator_left = true;
    struct fpred_slot *gone = idle_cut_all_locked(slab, 0, 0);
    bool last = slab->out_slots == 0;
    pthread_mutex_unlock(&slab->mutex);
    slots_free(gone);
    if (last)
        slab_free(slab);
}

/* Ends a slot's share. Returns whether the slot (NULL: none came about) became idle; if not it is the caller's to
 * free, and the slab may be gone. */
static bool slab_put_back(struct fpred__slab *slab, struct fpred_slot *slot)
{
    pthread_mutex_lock(&slab->mutex);
    assert(slab->out_slots != 0);
    slab->out_slots--;
    bool keep = slot != NULL && !slab->creator_left, last = slab->creator_left && slab->out_slots == 0;
    if (keep)
        idle_push_locked(slab, slot);
    pthread_mutex_unlock(&slab->mutex);
    if (last)
        slab_free(slab);
    return keep;
}

static bool must_fail_locked(struct fpred__slab *slab)
{
    if (slab->fail_after != 0) {
        slab->fail_after--;
        return false;
    }
    if (slab->fail_count == 0)
        return false;
    slab->fail_count--;
    return true;
}

static enum fpred_status take(struct fpred__slab *slab, size_t bytes, bool growing, struct fpred_slot **slot)
{
    *slot = NULL;
    if (bytes > CLASS_MAX - FPRED__SLOT_LEAD - 1)
        return FPRED_NOMEM;
    unsigned size_class = class_of(FPRED__SLOT_LEAD + bytes + 1);
    growing = growing && class_is_mapped(size_class); /* a smaller one can't break the resident rule */

    pthread_mutex_lock(&slab->mutex);
    struct fpred_slot *taken = idle_pop_locked(slab, size_class, growing);
    bool fresh = taken == NULL && !must_fail_locked(slab);
    slab->out_slots++;
    pthread_mutex_unlock(&slab->mutex);

    if (fresh)
        taken = slot_new(slab, size_class, growing);
    if (taken == NULL) {
        slab_put_back(slab, NULL);
        return FPRED_NOMEM;
    }
    slot_open(taken, bytes);
    taken->payload = taken->map + FPRED__SLOT_LEAD;
    *slot = taken;
    return FPRED_OK;
}

enum fpred_status fpred__slab_take(struct fpred__slab *slab, size_t body_bytes, struct fpred_slot **slot)
{
    return take(slab, body_bytes, false, slot);
}

enum fpred_status fpred__slab_take_ahead(struct fpred__slab *slab, size_t body_bytes, size_t ahead,
                                         struct fpred_slot **slot)
{
    size_t shift = (0 - ahead) % SLOT_ALIGN;
    *slot = NULL;
    if (body_bytes > SIZE_MAX - SLOT_ALIGN)
        return FPRED_NOMEM;
    enum fpred_status status = take(slab, body_bytes + shift, false, slot);
    if (status == FPRED_OK) {
        (*slot)->payload += shift;
        (*slot)->capacity = body_bytes;
    }
    return status;
}

enum fpred_status fpred__slab_take_growing(struct fpred__slab *slab, size_t max_bytes, struct fpred_slot **slot)
{
    return take(slab, max_bytes, true, slot);
}

enum fpred_status fpred__slot_lend(struct fpred_region *region, size_t offset, size_t bytes, struct fpred_slot **slot)
{
    assert(offset <= fpred_region_bytes(region) && bytes <= fpred_region_bytes(region) - offset);
    struct fpred_slot *lent = calloc(1, sizeof *lent);
    if (lent == NULL)
        return FPRED_NOMEM;
    lent->region = fpred__region_share(region);
    lent->payload = fpred_region_base(region) + offset;
    lent->capacity = bytes;
    *slot = lent;
    return FPRED_OK;
}

void fpred__slab_trim(struct fpred__slab *slab, int64_t now_ms, int64_t idle_ms)
{
    pthread_mutex_lock(&slab->mutex);
    struct fpred_slot *gone = idle_cut_all_locked(slab, now_ms, idle_ms);
    pthread_mutex_unlock(&slab->mutex);
    slots_free(gone);
}

void fpred__slab_stats(struct fpred__slab *slab, struct fpred__slab_stats *stats)
{
    pthread_mutex_lock(&slab->mutex);
    stats->charged_bytes = atomic_load_explicit(&slab->charged_bytes, memory_order_relaxed);
    stats->out_slots = slab->out_slots;
    stats->idle_slots = slab->idle_slots;
    stats->idle_bytes = slab->idle_bytes;
    pthread_mutex_unlock(&slab->mutex);
}

void fpred__slab_fail(struct fpred__slab *slab, unsigned after, unsigned count)
{
    pthread_mutex_lock(&slab->mutex);
    slab->fail_after = after;
    slab->fail_count = count;
    pthread_mutex_unlock(&slab->mutex);
}

/* ---- a slot that is out ---- */

struct fpred_region *fpred_slot_region(const struct fpred_slot *slot)
{
    return slot->region;
}

char *fpred_slot_payload(const struct fpred_slot *slot)
{
    return slot->payload;
}

size_t fpred_slot_capacity(const struct fpred_slot *slot)
{
    return slot->capacity;
}

void fpred__slot_grown(struct fpred_slot *slot, size_t body_bytes)
{
    assert(body_bytes <= slot->capacity);
    if (!slot->growing)
        return;
    size_t used = FPRED__SLOT_LEAD + body_bytes + 1;
    size_t touched = round_up(used, used > GROW_SMALL ? FPRED__HUGE_PAGE : RESIDENT_STEP);
    if (touched > slot->map_bytes)
        touched = slot->map_bytes;
    if (touched > slot->touched)
        slot->touched = touched;
}

void fpred__slot_seal(struct fpred_slot *slot, size_t body_bytes)
{
    assert(body_bytes <= slot->capacity);
    slot->capacity = body_bytes;
    if (!slot->growing)
        return;
    fpred__slot_grown(slot, body_bytes);
    /* Cut on whole huge pages where there are any: half a one is not given back before memory runs short. */
    size_t keep = body_bytes + body_bytes / 4 + RESIDENT_SLACK;
    keep = round_down(keep, keep > GROW_SMALL ? FPRED__HUGE_PAGE : RESIDENT_STEP);
    assert(keep > FPRED__SLOT_LEAD + body_bytes);
    if (keep >= slot->touched)
        return;
    advise(slot->map + keep, slot->map + slot->touched, MADV_DONTNEED);
    slot->touched = keep;
}

void fpred_slot_release(struct fpred_slot *slot)
{
    if (slot->region != NULL) {
        fpred_region_release(slot->region);
        free(slot);
        return;
    }
    ASAN_POISON_MEMORY_REGION(slot->map, slot->touched);
    if (!slab_put_back(slot->slab, slot))
        slot_free(slot);
}

/* ---- budget ---- */

enum fpred_status fpred__slab_charge(struct fpred__slab *slab, size_t bytes)
{
    size_t charged = atomic_load_explicit(&slab->charged_bytes, memory_order_relaxed);
    if (charged > slab->budget_bytes || bytes > slab->budget_bytes - charged)
        return FPRED_OVER_BUDGET;
    atomic_fetch_add_explicit(&slab->charged_bytes, bytes, memory_order_relaxed);
    return FPRED_OK;
}

void fpred__slab_charge_always(struct fpred__slab *slab, size_t bytes)
{
    size_t before = atomic_fetch_add_explicit(&slab->charged_bytes, bytes, memory_order_relaxed);
    assert(bytes <= SIZE_MAX - before);
    (void)before;
}

void fpred__slab_uncharge(struct fpred__slab *slab, size_t bytes)
{
    size_t before = atomic_fetch_sub_explicit(&slab->charged_bytes, bytes, memory_order_relaxed);
    assert(bytes <= before);
    (void)before;
}

size_t fpred__slab_budget(const struct fpred__slab *slab)
{
    return slab->budget_bytes;
}
