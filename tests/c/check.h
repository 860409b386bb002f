/* The C tests' whole framework: a test is a function, a check that fails prints where and why and the test goes on.
 * A test file is a program of its own:
 *     TEST(slot_is_aligned_to_64) { ... CHECK(x == y); ... }
 *     TESTS(&check__slot_is_aligned_to_64, ...)
 * Exits 1 when a check failed. `PROGRAM name` runs that test alone. */
#ifndef FPRED_TESTS_CHECK_H
#define FPRED_TESTS_CHECK_H

#include <stdio.h>
#include <string.h>

static int check__failed;

struct check__test {
    const char *name;
    void (*run)(void);
};

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            check__failed++;                                                                      \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition); \
        }                                                                                         \
    } while (0)

#define CHECK_EQ(got, wanted)                                                                                       \
    do {                                                                                                            \
        long long check__got = (long long)(got), check__wanted = (long long)(wanted);                               \
        if (check__got != check__wanted) {                                                                          \
            check__failed++;                                                                                        \
            fprintf(stderr, "%s:%d: %s: %s is %lld, wanted %lld\n", __FILE__, __LINE__, __func__, #got, check__got, \
                    check__wanted);                                                                                 \
        }                                                                                                           \
    } while (0)

#define TEST(name)                                                 \
    static void name(void);                                        \
    static const struct check__test check__##name = {#name, name}; \
    static void name(void)

static inline int check__main(int argc, char **argv, const struct check__test *const *tests, size_t count)
{
    int passed = 0, failed = 0;
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], tests[i]->name) != 0)
            continue;
        int before = check__failed;
        tests[i]->run();
        if (check__failed == before) {
            passed++;
        } else {
            failed++;
            fprintf(stderr, "FAILED %s\n", tests[i]->name);
        }
    }
    printf("%s: %d passed, %d failed\n", argv[0], passed, failed);
    return failed != 0 || passed + failed == 0;
}

/* The tests of a file, in order: TESTS(&check__a, &check__b) */
#define TESTS(...)                                                           \
    int main(int argc, char **argv)                                          \
    {                                                                        \
        static const struct check__test *const tests[] = {__VA_ARGS__};      \
        return check__main(argc, argv, tests, sizeof tests / sizeof *tests); \
    }

#endif
