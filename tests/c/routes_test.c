/* Tests of routes: exact matching, health paths, copies. */
#include "routes.h"

#include <stdlib.h>

#include "check.h"

static enum fpred__route_kind find(const struct fpred__routes *routes, const char *path, size_t *index)
{
    /* in memory of exactly its length, so that ASan sees a byte read behind it */
    size_t len = strlen(path);
    char *bytes = malloc(len != 0 ? len : 1);
    memcpy(bytes, path, len);
    enum fpred__route_kind kind = fpred__routes_find(routes, (struct fpred_slice){bytes, len}, index);
    free(bytes);
    return kind;
}

TEST(paths_match_exactly_and_tell_their_place)
{
    const struct fpred_route given[] = {{.path = "/predict", .expected = "a"},
                                        {.path = "/predict/", .expected = "b"},
                                        {.path = "/", .expected = "c"},
                                        {.path = "/a b", .expected = "d"}};
    struct fpred__routes *routes = fpred__routes_new(given, 4);
    size_t index = 99;
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(find(routes, given[i].path, &index), FPRED__ROUTE_PREDICT);
        CHECK_EQ(index, i);
    }
    static const char *const others[] = {"", "/p", "/predic", "/predictx", "/predict/x", "/Predict", "//", "/a%20b"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CHECK_EQ(find(routes, others[i], &index), FPRED__ROUTE_NONE);
    CHECK_EQ(fpred__routes_find(routes, (struct fpred_slice){"/predict\0", 9}, &index), FPRED__ROUTE_NONE);
    fpred__routes_free(routes);
}

TEST(health_needs_no_route)
{
    struct fpred__routes *routes = fpred__routes_new(NULL, 0);
    size_t index;
    CHECK_EQ(find(routes, "/livez", &index), FPRED__ROUTE_LIVEZ);
    CHECK_EQ(find(routes, "/readyz", &index), FPRED__ROUTE_READYZ);
    CHECK_EQ(find(routes, "/livez/", &index), FPRED__ROUTE_NONE);
    CHECK_EQ(find(routes, "/", &index), FPRED__ROUTE_NONE);
    fpred__routes_free(routes);
}

TEST(routes_are_copied_whole)
{
    char path[] = "/p", expected[] = "float32";
    struct fpred_route given = {path, false, false, false, 12, true, true, 34, expected};
    struct fpred__routes *routes = fpred__routes_new(&given, 1);
    memset(path, 'x', 2);
    memset(expected, 'x', 7);
    memset(&given, 0, sizeof given);
    const struct fpred_route *route = fpred__routes_at(routes, 0);
    CHECK(strcmp(route->path, "/p") == 0);
    CHECK(strcmp(route->expected, "float32") == 0);
    CHECK_EQ(route->raw_unit_bytes, 12);
    CHECK_EQ(route->npy_max_bytes, 34);
    CHECK(route->raw_exact && route->raw_allowed);
    fpred__routes_free(routes);
}

TEST(allow_says_what_the_path_takes)
{
    CHECK(strcmp(fpred__routes_allow(FPRED__ROUTE_PREDICT), "POST, OPTIONS") == 0);
    CHECK(strcmp(fpred__routes_allow(FPRED__ROUTE_LIVEZ), "GET, HEAD, OPTIONS") == 0);
    CHECK(strcmp(fpred__routes_allow(FPRED__ROUTE_READYZ), "GET, HEAD, OPTIONS") == 0);
}

TESTS(&check__paths_match_exactly_and_tell_their_place, &check__health_needs_no_route, &check__routes_are_copied_whole,
      &check__allow_says_what_the_path_takes)
