/* Tests of slab: no slot holds more than 1.25 x its payload + 128 KiB resident, asked of the kernel by mincore. */
#include "slab.h"

#include "check.h"
#include "slab_helpers.h"

TEST(take_touches_nothing)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t i = 0; i < SIZE_COUNT; i++) {
        size_t class = expected_class(sizes[i]);
        if (class < FPRED__SLOT_MAP_MIN)
            continue;
        struct fpred_slot *known = take(slab, sizes[i]), *growing = take_growing(slab, sizes[i]);
        CHECK_EQ(resident_bytes(map_of(known), class), 0);
        CHECK_EQ(resident_bytes(map_of(growing), class), 0);
        fpred_slot_release(known);
        fpred_slot_release(growing);
    }
    fpred__slab_release(slab);
}

TEST(resident_size_keeps_to_the_rule_when_the_payload_is_written)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t i = 0; i < SIZE_COUNT; i++) {
        size_t class = expected_class(sizes[i]);
        if (class < FPRED__SLOT_MAP_MIN)
            continue;
        struct fpred_slot *slot = take(slab, sizes[i]);
        write_all(slot, sizes[i], 'x');
        CHECK(resident_bytes(map_of(slot), class) >= (long long)sizes[i]);
        CHECK(resident_bytes(map_of(slot), class) <= resident_limit(sizes[i]));
        fpred_slot_release(slot);
    }
    fpred__slab_release(slab);
}

TEST(resident_size_keeps_to_the_rule_after_a_larger_body_of_the_class)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t class = 128 * KIB, next; class <= 64 * MIB; class = next) {
        next = expected_class(class - FPRED__SLOT_LEAD);
        size_t largest = next - FPRED__SLOT_LEAD - 1, smallest = class - FPRED__SLOT_LEAD;
        struct fpred_slot *slot = take(slab, largest);
        char *map = map_of(slot);
        write_all(slot, largest, 'x');
        fpred_slot_release(slot);
        slot = take(slab, smallest);
        CHECK(map_of(slot) == map);
        write_all(slot, smallest, 'y');
        CHECK(resident_bytes(map, next) <= resident_limit(smallest));
        fpred_slot_release(slot);
        fpred__slab_trim(slab, 0, 0);
    }
    fpred__slab_release(slab);
}

TEST(growing_slot_keeps_to_the_rule_at_every_size)
{
    static const size_t bodies[] = {
        0,       1,           1 * KIB,     200 * KIB,     2 * MIB,      5 * MIB, 6658457, 8 * MIB - 65,
        8 * MIB, 8 * MIB + 1, 9 * MIB + 7, 10 * MIB - 64, 17 * MIB + 1, 30000000};
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        for (int warm = 0; warm < 2; warm++) {
            struct fpred_slot *slot = take_growing(slab, 64 * MIB);
            grow_to(slot, bodies[i], 2 * MIB);
            fpred__slot_seal(slot, bodies[i]);
            long long resident = resident_bytes(map_of(slot), expected_class(64 * MIB));
            CHECK(resident >= (long long)bodies[i]);
            CHECK(resident <= resident_limit(bodies[i]));
            fpred_slot_release(slot);
            slot = take_growing(slab, 64 * MIB); /* the next one finds all of it warm */
            grow_to(slot, 40 * MIB, 2 * MIB);
            fpred_slot_release(slot);
            if (warm)
                fpred__slab_trim(slab, 0, 0);
        }
    fpred__slab_release(slab);
}

TEST(growing_without_pauses_is_within_the_rule_before_seal_too)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    struct fpred_slot *slot = take_growing(slab, GIB);
    size_t class = expected_class(GIB);
    for (size_t done = 0; done < 16 * MIB; done += 96 * KIB) {
        fpred__slot_grown(slot, done + 96 * KIB);
        memset(fpred_slot_payload(slot) + done, 'g', 96 * KIB);
        if (done % (480 * KIB) == 0)
            CHECK(resident_bytes(map_of(slot), class) <= resident_limit(done + 96 * KIB));
    }
    fpred_slot_release(slot);
    fpred__slab_release(slab);
}

TEST(warm_gib_reserve_gives_back_what_a_small_body_leaves_over)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    size_t class = expected_class(GIB);
    struct fpred_slot *slot = take_growing(slab, GIB);
    char *map = map_of(slot);
    CHECK_EQ(resident_bytes(map, class), 0);
    grow_to(slot, 30000000, 2 * MIB);
    fpred__slot_seal(slot, 30000000);
    CHECK_EQ(fpred_slot_capacity(slot), 30000000);
    fpred_slot_payload(slot)[30000000] = '\0';
    fpred_slot_release(slot);
    CHECK(stats_of(slab).idle_bytes >= 30000000);
    CHECK(stats_of(slab).idle_bytes <= (size_t)resident_limit(30000000));

    slot = take_growing(slab, GIB);
    CHECK(map_of(slot) == map);
    CHECK_EQ(fpred_slot_capacity(slot), GIB);
    fpred__slot_grown(slot, 1 * KIB);
    write_all(slot, 1 * KIB, 's');
    fpred__slot_seal(slot, 1 * KIB);
    CHECK(resident_bytes(map, class) <= resident_limit(1 * KIB));
    for (size_t i = 0; i < 1 * KIB; i++)
        CHECK(fpred_slot_payload(slot)[i] == 's');
    fpred_slot_release(slot);
    CHECK(stats_of(slab).idle_bytes <= (size_t)resident_limit(1 * KIB));
    fpred__slab_release(slab);
}

TEST(seal_keeps_the_body_whole)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    for (size_t body_bytes = 1; body_bytes < 16 * MIB; body_bytes = body_bytes * 2 + 77) {
        struct fpred_slot *slot = take_growing(slab, 64 * MIB);
        grow_to(slot, 20 * MIB, 4 * MIB);
        fpred__slot_seal(slot, body_bytes);
        size_t wrong = 0;
        for (size_t i = 0; i < body_bytes; i++)
            wrong += fpred_slot_payload(slot)[i] != 'g';
        CHECK_EQ(wrong, 0);
        fpred_slot_release(slot);
    }
    fpred__slab_release(slab);
}

TEST(small_growing_slot_can_be_sealed)
{
    struct fpred__slab *slab = fpred__slab_new(0);
    struct fpred_slot *slot = take_growing(slab, 1000);
    fpred__slot_grown(slot, 1000);
    write_all(slot, 1000, 'x');
    fpred__slot_seal(slot, 10);
    CHECK_EQ(fpred_slot_capacity(slot), 10);
    fpred_slot_release(slot);
    fpred__slab_release(slab);
}

TESTS(&check__take_touches_nothing, &check__resident_size_keeps_to_the_rule_when_the_payload_is_written,
      &check__resident_size_keeps_to_the_rule_after_a_larger_body_of_the_class,
      &check__growing_slot_keeps_to_the_rule_at_every_size,
      &check__growing_without_pauses_is_within_the_rule_before_seal_too,
      &check__warm_gib_reserve_gives_back_what_a_small_body_leaves_over, &check__seal_keeps_the_body_whole,
      &check__small_growing_slot_can_be_sealed)
