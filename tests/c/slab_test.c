/* Tests of slab: where slots lie, reuse, who may give them back, the budget, failures. */
#include "slab.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "check.h"
#include "slab_helpers.h"

/* ---- places ---- */

TEST(payload_is_aligned_and_lead_and_nul_are_writable)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t i = 0; i < SIZE_COUNT; i++) {
        struct fpred_slot *slot = take(slab, sizes[i]);
        char *payload = fpred_slot_payload(slot);
        CHECK_EQ((uintptr_t)payload % 64, 0);
        CHECK_EQ(fpred_slot_capacity(slot), sizes[i]);
        memset(payload - FPRED__SLOT_LEAD, 'l', FPRED__SLOT_LEAD);
        memset(payload, 'b', sizes[i]);
        payload[sizes[i]] = '\0';
        CHECK_EQ(payload[-1], 'l');
        fpred_slot_release(slot);
    }
    fpred__slab_release(slab);
}

TEST(slots_of_two_mib_start_on_a_huge_page)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t i = 0; i < SIZE_COUNT; i++) {
        struct fpred_slot *known = take(slab, sizes[i]), *growing = take_growing(slab, sizes[i]);
        if (expected_class(sizes[i]) >= 2 * MIB) {
            CHECK_EQ((uintptr_t)map_of(known) % (2 * MIB), 0);
            CHECK_EQ((uintptr_t)map_of(growing) % (2 * MIB), 0);
        }
        fpred_slot_release(known);
        fpred_slot_release(growing);
    }
    fpred__slab_release(slab);
}

/* Idle bytes tell the class: a known slot counts with all of it. */
TEST(classes_are_four_to_the_doubling)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t power = 64; power <= 64 * MIB; power *= 2)
        for (size_t quarter = 4; quarter < 8; quarter++)
            for (size_t off = 0; off < 3; off++) {
                size_t body_bytes = power / 4 * quarter + off - 1 >= 65 ? power / 4 * quarter + off - 66 : 0;
                fpred_slot_release(take(slab, body_bytes));
                CHECK_EQ(stats_of(slab).idle_bytes, expected_class(body_bytes));
                fpred__slab_trim(slab, 0, 0);
            }
    fpred__slab_release(slab);
}

#ifdef __SANITIZE_ADDRESS__
#define IS_POISONED(address) (__asan_address_is_poisoned(address) != 0)
#else
#define IS_POISONED(address) true
#endif

/* All that is its holder's can be written, and nothing behind it. */
static void check_ahead(struct fpred__slab *slab, size_t body_bytes, size_t ahead)
{
    struct fpred_slot *slot = NULL;
    CHECK_EQ(fpred__slab_take_ahead(slab, body_bytes, ahead, &slot), FPRED_OK);
    char *payload = fpred_slot_payload(slot);
    CHECK_EQ(((uintptr_t)payload + ahead) % 64, 0);
    CHECK_EQ(fpred_slot_capacity(slot), body_bytes);
    memset(payload - FPRED__SLOT_LEAD, 'l', FPRED__SLOT_LEAD);
    memset(payload, 'b', body_bytes);
    payload[body_bytes] = '\0';
    CHECK(IS_POISONED(payload + body_bytes + 1));
    fpred__slot_seal(slot, body_bytes);
    CHECK(fpred_slot_payload(slot) == payload);
    fpred_slot_release(slot);
}

/* Also where it is the slot that lay differently the time before: an ordinary take of the same class follows each. */
TEST(data_behind_what_is_ahead_is_aligned_and_the_slot_as_ever_afterwards)
{
    static const size_t bodies[] = {0, 1, 200, 1000, 200 * KIB, 3 * MIB}; /* no class ends within 64 bytes behind one */
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        for (size_t ahead = 0; ahead <= 200; ahead += i < 4 ? 1 : 13) {
            check_ahead(slab, bodies[i], ahead);
            struct fpred_slot *slot = take(slab, bodies[i]);
            char *payload = fpred_slot_payload(slot);
            CHECK_EQ((uintptr_t)payload % 64, 0);
            CHECK_EQ(fpred_slot_capacity(slot), bodies[i]);
            CHECK(IS_POISONED(payload + bodies[i] + 1));
            payload[bodies[i]] = '\0';
            fpred_slot_release(slot);
            CHECK(IS_POISONED(payload));
            CHECK_EQ(stats_of(slab).out_slots, 0);
        }
    CHECK(stats_of(slab).idle_slots <= 2 * sizeof bodies / sizeof *bodies); /* warm ones were used */
    fpred__slab_release(slab);
}

/* As at every size that the shift pushes into the next class. */
TEST(what_is_ahead_may_need_the_next_class)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    size_t body_bytes = 1024 - FPRED__SLOT_LEAD - 1;
    struct fpred_slot *slot;
    for (size_t ahead = 0; ahead < 65; ahead++) {
        CHECK_EQ(fpred__slab_take_ahead(slab, body_bytes, ahead, &slot), FPRED_OK);
        memset(fpred_slot_payload(slot), 'b', body_bytes + 1);
        fpred_slot_release(slot);
        CHECK_EQ(stats_of(slab).idle_bytes, ahead % 64 == 0 ? 1024 : 1280);
        fpred__slab_trim(slab, 0, 0);
    }
    fpred__slab_release(slab);
}

/* ---- warm slots ---- */

TEST(last_released_is_taken_first_with_its_memory_warm)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    struct fpred_slot *a = take(slab, 30000000), *b = take(slab, 30000000);
    char *map_a = map_of(a), *map_b = map_of(b);
    write_all(a, 30000000, 'a');
    write_all(b, 30000000, 'b');
    fpred_slot_release(a);
    fpred_slot_release(b);
    CHECK_EQ(stats_of(slab).idle_slots, 2);
    a = take(slab, 29500000); /* of the same class */
    CHECK(map_of(a) == map_b);
    CHECK(resident_bytes(map_b, 30000000) >= 30000000);
    b = take(slab, 30000000);
    CHECK(map_of(b) == map_a);
    CHECK_EQ(stats_of(slab).idle_slots, 0);
    CHECK_EQ(stats_of(slab).idle_bytes, 0);
    CHECK_EQ(stats_of(slab).out_slots, 2);
    fpred_slot_release(a);
    fpred_slot_release(b);
    fpred__slab_release(slab);
}

TEST(classes_and_kinds_do_not_mix)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    struct fpred_slot *known = take(slab, 30000000);
    char *map = map_of(known);
    fpred_slot_release(known);
    struct fpred_slot *growing = take_growing(slab, 30000000), *smaller = take(slab, 20000000);
    CHECK(map_of(growing) != map);
    CHECK(map_of(smaller) != map);
    fpred_slot_release(growing);
    fpred_slot_release(smaller);
    CHECK_EQ(stats_of(slab).idle_slots, 3);
    fpred__slab_release(slab);
}

TEST(trim_gives_back_what_was_idle_for_long_enough)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    struct fpred_slot *old = take(slab, 3 * MIB), *young = take(slab, 3 * MIB), *small = take(slab, 100);
    char *map_old = map_of(old), *map_young = map_of(young);
    fpred_slot_release(old);
    fpred__slab_trim(slab, 1000, 30000); /* sees old */
    fpred_slot_release(young);
    fpred_slot_release(small);
    fpred__slab_trim(slab, 30999, 30000); /* sees young and small; old is 29,999 ms old */
    CHECK_EQ(stats_of(slab).idle_slots, 3);
    fpred__slab_trim(slab, 31000, 30000);
    CHECK_EQ(stats_of(slab).idle_slots, 2);
    CHECK(is_unmapped(map_old, expected_class(3 * MIB)));
    CHECK(resident_bytes(map_young, expected_class(3 * MIB)) >= 0);
    fpred__slab_trim(slab, 60998, 30000);
    CHECK_EQ(stats_of(slab).idle_slots, 2);
    fpred__slab_trim(slab, 60999, 30000);
    CHECK_EQ(stats_of(slab).idle_slots, 0);
    CHECK_EQ(stats_of(slab).idle_bytes, 0);
    CHECK(is_unmapped(map_young, expected_class(3 * MIB)));
    fpred__slab_release(slab);
}

TEST(use_makes_a_slot_young_again)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    fpred_slot_release(take(slab, MIB));
    fpred__slab_trim(slab, 0, 30000);
    fpred_slot_release(take(slab, MIB));
    fpred__slab_trim(slab, 30000, 30000);
    CHECK_EQ(stats_of(slab).idle_slots, 1);
    fpred__slab_trim(slab, 30001, 0);
    CHECK_EQ(stats_of(slab).idle_slots, 0);
    fpred__slab_release(slab);
}

TEST(release_unmaps_every_idle_slot)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    char *maps[2 * SIZE_COUNT];
    struct fpred_slot *slots[2 * SIZE_COUNT];
    for (size_t i = 0; i < 2 * SIZE_COUNT; i++) {
        slots[i] = i % 2 == 0 ? take(slab, sizes[i / 2]) : take_growing(slab, sizes[i / 2]);
        maps[i] = map_of(slots[i]);
    }
    for (size_t i = 0; i < 2 * SIZE_COUNT; i++)
        fpred_slot_release(slots[i]);
    CHECK_EQ(stats_of(slab).idle_slots, 2 * SIZE_COUNT);
    fpred__slab_release(slab);
    for (size_t i = 0; i < 2 * SIZE_COUNT; i++)
        if (expected_class(sizes[i / 2]) >= 2 * MIB)
            CHECK(is_unmapped(maps[i], expected_class(sizes[i / 2])));
}

TEST(mapping_an_aligned_slot_leaves_no_mapping_around_it)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    char line[512];
    size_t before = 0, after = 0;
    for (int round = 0; round < 2; round++) {
        FILE *statm = fopen("/proc/self/statm", "r");
        CHECK(statm != NULL && fgets(line, sizeof line, statm) != NULL);
        fclose(statm);
        *(round == 0 ? &before : &after) = strtoul(line, NULL, 10);
        if (round == 0)
            for (int i = 0; i < 50; i++)
                fpred_slot_release(take(slab, 30000000 + (size_t)i * 9000000));
        fpred__slab_trim(slab, 0, 0);
    }
    CHECK((after - before) * (size_t)sysconf(_SC_PAGESIZE) < 2 * MIB || after < before);
    fpred__slab_release(slab);
}

TEST(slot_outlives_its_slab)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    struct fpred_slot *first = take(slab, 30000000), *second = take(slab, 10);
    char *map = map_of(first);
    write_all(first, 30000000, 'k');
    fpred__slab_release(slab);
    CHECK_EQ(fpred_slot_payload(first)[29999999], 'k');
    fpred_slot_release(first);
    CHECK(is_unmapped(map, expected_class(30000000)));
    write_all(second, 10, 'k');
    fpred_slot_release(second); /* frees the slab: LeakSanitizer would tell */
}

/* ---- threads ---- */

#define RELEASERS 8
#define HANDED 4000

static struct {
    struct fpred__slab *slab;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct fpred_slot *slots[16]; /* guarded by mutex */
    unsigned count;               /* guarded by mutex */
    bool closed;                  /* guarded by mutex */
    atomic_uint wrong;
} hand = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *release_what_comes(void *unused)
{
    for (;;) {
        pthread_mutex_lock(&hand.mutex);
        while (hand.count == 0 && !hand.closed)
            pthread_cond_wait(&hand.changed, &hand.mutex);
        struct fpred_slot *slot = hand.count == 0 ? NULL : hand.slots[--hand.count];
        pthread_cond_broadcast(&hand.changed);
        pthread_mutex_unlock(&hand.mutex);
        if (slot == NULL)
            return unused;
        char *payload = fpred_slot_payload(slot);
        size_t capacity = fpred_slot_capacity(slot);
        if (payload[0] != (char)capacity || payload[capacity - 1] != (char)capacity)
            atomic_fetch_add(&hand.wrong, 1);
        fpred_slot_release(slot);
    }
}

static void hand_over(struct fpred_slot *slot)
{
    pthread_mutex_lock(&hand.mutex);
    while (hand.count == sizeof hand.slots / sizeof *hand.slots)
        pthread_cond_wait(&hand.changed, &hand.mutex);
    hand.slots[hand.count++] = slot;
    pthread_cond_broadcast(&hand.changed);
    pthread_mutex_unlock(&hand.mutex);
}

/* The last slots go back after the slab's creator has left. */
TEST(eight_threads_release_while_one_takes_and_trims)
{
    pthread_t threads[RELEASERS];
    hand.slab = fpred__slab_new(0);
    for (int i = 0; i < RELEASERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, release_what_comes, NULL), 0);
    unsigned random = 1;
    for (int i = 0; i < HANDED; i++) {
        random = random * 1103515245 + 12345;
        size_t body_bytes = 2 + (random >> 16) % (i % 4 == 0 ? 300 * KIB : 2 * KIB);
        struct fpred_slot *slot = i % 3 == 0 ? take_growing(hand.slab, body_bytes) : take(hand.slab, body_bytes);
        fpred__slot_grown(slot, body_bytes);
        fpred_slot_payload(slot)[0] = fpred_slot_payload(slot)[body_bytes - 1] = (char)body_bytes;
        fpred__slot_seal(slot, body_bytes);
        hand_over(slot);
        if (i % 64 == 0)
            fpred__slab_trim(hand.slab, i, 100);
        CHECK(stats_of(hand.slab).out_slots <= RELEASERS + sizeof hand.slots / sizeof *hand.slots);
    }
    fpred__slab_release(hand.slab);
    pthread_mutex_lock(&hand.mutex);
    hand.closed = true;
    pthread_cond_broadcast(&hand.changed);
    pthread_mutex_unlock(&hand.mutex);
    for (int i = 0; i < RELEASERS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(atomic_load(&hand.wrong), 0);
}

static void *read_charged(void *slab)
{
    for (int i = 0; i < 10000; i++)
        if (stats_of(slab).charged_bytes % 7 != 0)
            atomic_fetch_add(&hand.wrong, 1);
    return NULL;
}

TEST(budget_is_read_while_it_is_charged)
{
    struct fpred__slab *slab = fpred__slab_new(70);
    pthread_t reader;
    CHECK_EQ(pthread_create(&reader, NULL, read_charged, slab), 0);
    for (int i = 0; i < 10000; i++) {
        CHECK_EQ(fpred__slab_charge(slab, 7), FPRED_OK);
        fpred__slab_uncharge(slab, 7);
    }
    pthread_join(reader, NULL);
    CHECK_EQ(atomic_load(&hand.wrong), 0);
    fpred__slab_release(slab);
}

/* ---- budget ---- */

TEST(budget_refuses_exactly_beyond_its_edge)
{
    struct fpred__slab *slab = fpred__slab_new(1000);
    CHECK_EQ(fpred__slab_budget(slab), 1000);
    CHECK_EQ(fpred__slab_charge(slab, 1001), FPRED_OVER_BUDGET);
    CHECK_EQ(fpred__slab_charge(slab, SIZE_MAX), FPRED_OVER_BUDGET);
    CHECK_EQ(fpred__slab_charge(slab, 400), FPRED_OK);
    CHECK_EQ(fpred__slab_charge(slab, 601), FPRED_OVER_BUDGET);
    CHECK_EQ(fpred__slab_charge(slab, SIZE_MAX), FPRED_OVER_BUDGET);
    CHECK_EQ(fpred__slab_charge(slab, SIZE_MAX - 399), FPRED_OVER_BUDGET);
    CHECK_EQ(stats_of(slab).charged_bytes, 400);
    CHECK_EQ(fpred__slab_charge(slab, 600), FPRED_OK);
    CHECK_EQ(fpred__slab_charge(slab, 1), FPRED_OVER_BUDGET);
    CHECK_EQ(fpred__slab_charge(slab, 0), FPRED_OK);
    fpred__slab_uncharge(slab, 1000);
    CHECK_EQ(fpred__slab_charge(slab, 1000), FPRED_OK);
    fpred__slab_uncharge(slab, 1000);
    CHECK_EQ(stats_of(slab).charged_bytes, 0);
    fpred__slab_release(slab);
}

TEST(charge_always_passes_the_budget_and_then_nothing_fits)
{
    struct fpred__slab *slab = fpred__slab_new(10);
    fpred__slab_charge_always(slab, 25);
    CHECK_EQ(stats_of(slab).charged_bytes, 25);
    CHECK_EQ(fpred__slab_charge(slab, 0), FPRED_OVER_BUDGET);
    CHECK_EQ(fpred__slab_charge(slab, SIZE_MAX), FPRED_OVER_BUDGET);
    fpred__slab_uncharge(slab, 20);
    CHECK_EQ(fpred__slab_charge(slab, 5), FPRED_OK);
    fpred__slab_uncharge(slab, 10);
    fpred__slab_release(slab);
}

/* ---- failures ---- */

TEST(sizes_beyond_the_largest_class_are_refused)
{
    static const size_t bodies[] = {SIZE_MAX, SIZE_MAX - 64, SIZE_MAX / 2, (size_t)1 << 46, ((size_t)1 << 46) - 64};
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct fpred_slot *slot = (void *)slab;
        CHECK_EQ(fpred__slab_take(slab, bodies[i], &slot), FPRED_NOMEM);
        CHECK(slot == NULL);
        CHECK_EQ(fpred__slab_take_growing(slab, bodies[i], &slot), FPRED_NOMEM);
        slot = (void *)slab;
        CHECK_EQ(fpred__slab_take_ahead(slab, bodies[i], 1, &slot), FPRED_NOMEM);
        CHECK(slot == NULL);
    }
    CHECK_EQ(stats_of(slab).out_slots, 0);
    fpred__slab_release(slab);
}

TEST(no_address_space_is_nomem_and_the_next_take_works)
{
#if !defined(__SANITIZE_THREAD__)
    struct fpred__slab *slab = fpred__slab_new(0);
    struct fpred_slot *slot;
    struct rlimit was, tight;
    CHECK_EQ(getrlimit(RLIMIT_AS, &was), 0);
    tight = was;
    tight.rlim_cur = 1; /* what is mapped stays; nothing more can be */
    CHECK_EQ(setrlimit(RLIMIT_AS, &tight), 0);
    enum fpred_status known = fpred__slab_take(slab, 30000000, &slot);
    enum fpred_status growing = fpred__slab_take_growing(slab, GIB, &slot);
    CHECK_EQ(setrlimit(RLIMIT_AS, &was), 0);
    CHECK_EQ(known, FPRED_NOMEM);
    CHECK_EQ(growing, FPRED_NOMEM);
    CHECK_EQ(stats_of(slab).out_slots, 0);
    fpred_slot_release(take(slab, 30000000));
    fpred__slab_release(slab);
#endif
}

TEST(fail_hook_counts_only_takes_that_need_fresh_memory)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    struct fpred_slot *slot;
    fpred_slot_release(take(slab, 5000));
    fpred__slab_fail(slab, 1, 2);
    fpred_slot_release(take(slab, 5000)); /* warm: not counted */
    fpred_slot_release(take(slab, 10));
    CHECK_EQ(fpred__slab_take(slab, 3 * MIB, &slot), FPRED_NOMEM);
    CHECK(slot == NULL);
    fpred_slot_release(take(slab, 5000));
    CHECK_EQ(fpred__slab_take_growing(slab, 3 * MIB, &slot), FPRED_NOMEM);
    CHECK_EQ(stats_of(slab).out_slots, 0);
    fpred_slot_release(take(slab, 3 * MIB));
    fpred__slab_release(slab);
}

TESTS(&check__payload_is_aligned_and_lead_and_nul_are_writable, &check__slots_of_two_mib_start_on_a_huge_page,
      &check__classes_are_four_to_the_doubling,
      &check__data_behind_what_is_ahead_is_aligned_and_the_slot_as_ever_afterwards,
      &check__what_is_ahead_may_need_the_next_class, &check__last_released_is_taken_first_with_its_memory_warm,
      &check__classes_and_kinds_do_not_mix, &check__trim_gives_back_what_was_idle_for_long_enough,
      &check__use_makes_a_slot_young_again, &check__release_unmaps_every_idle_slot,
      &check__mapping_an_aligned_slot_leaves_no_mapping_around_it, &check__slot_outlives_its_slab,
      &check__eight_threads_release_while_one_takes_and_trims, &check__budget_is_read_while_it_is_charged,
      &check__budget_refuses_exactly_beyond_its_edge, &check__charge_always_passes_the_budget_and_then_nothing_fits,
      &check__sizes_beyond_the_largest_class_are_refused, &check__no_address_space_is_nomem_and_the_next_take_works,
      &check__fail_hook_counts_only_takes_that_need_fresh_memory)
