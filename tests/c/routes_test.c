/* Tests of routes: exact matching, mounts, health paths, copies. */
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

/* ---- mounts ---- */

static const struct mounted {
    const char *path;
    enum fpred__route_kind kind;
    size_t index;
} mounted[] = {
    {"/a", FPRED__ROUTE_MOUNT, 0},
    {"/a/", FPRED__ROUTE_MOUNT, 0},
    {"/a/x", FPRED__ROUTE_MOUNT, 0},
    {"/ax", FPRED__ROUTE_NONE, 99},
    {"/", FPRED__ROUTE_NONE, 99},
    {"", FPRED__ROUTE_NONE, 99},
    {"/a/b", FPRED__ROUTE_MOUNT, 2},
    {"/a/b/c", FPRED__ROUTE_MOUNT, 2},
    {"/a/bc", FPRED__ROUTE_MOUNT, 0},
    {"/a/b/d", FPRED__ROUTE_PREDICT, 1},
    {"/a/b/d/", FPRED__ROUTE_MOUNT, 2},
    {"/A/b", FPRED__ROUTE_NONE, 99},
    {"/livez", FPRED__ROUTE_LIVEZ, 99},
    {"/livez/x", FPRED__ROUTE_NONE, 99},
    {"/v2/health/live", FPRED__ROUTE_NONE, 99},
};

/* Whichever of two mounts was given first. */
TEST(a_mount_covers_whole_segments_and_the_longest_wins_behind_exact_paths)
{
    const struct fpred_route given[] = {{.path = "/a", .mount = true, .expected = ""},
                                        {.path = "/a/b/d", .expected = ""},
                                        {.path = "/a/b", .mount = true, .expected = ""}};
    const struct fpred_route turned[] = {given[2], given[1], given[0]};
    struct fpred__routes *routes = fpred__routes_new(given, 3), *others = fpred__routes_new(turned, 3);
    for (size_t i = 0; i < sizeof mounted / sizeof *mounted; i++) {
        size_t index = 99, other = 99;
        CHECK_EQ(find(routes, mounted[i].path, &index), mounted[i].kind);
        CHECK_EQ(find(others, mounted[i].path, &other), mounted[i].kind);
        if (mounted[i].index != 99) {
            CHECK_EQ(index, mounted[i].index);
            CHECK_EQ(other, 2 - mounted[i].index);
        }
    }
    fpred__routes_free(routes);
    fpred__routes_free(others);
}

TEST(a_mount_at_the_root_gets_what_nobody_else_does)
{
    const struct fpred_route given[] = {{.path = "/", .mount = true, .expected = ""},
                                        {.path = "/", .expected = ""},
                                        {.path = "/a", .mount = true, .expected = ""},
                                        {.path = "/readyz", .expected = ""}};
    struct fpred__routes *routes = fpred__routes_new(given, 4);
    size_t index = 99;
    CHECK_EQ(find(routes, "/", &index), FPRED__ROUTE_PREDICT);
    CHECK_EQ(index, 1);
    CHECK_EQ(find(routes, "/x", &index), FPRED__ROUTE_MOUNT);
    CHECK_EQ(index, 0);
    CHECK_EQ(find(routes, "/a", &index), FPRED__ROUTE_MOUNT);
    CHECK_EQ(index, 2);
    CHECK_EQ(find(routes, "/ab", &index), FPRED__ROUTE_MOUNT);
    CHECK_EQ(index, 0);
    CHECK_EQ(find(routes, "/livez", &index), FPRED__ROUTE_LIVEZ);
    CHECK_EQ(find(routes, "/readyz", &index), FPRED__ROUTE_PREDICT); /* an exact path comes before all */
    CHECK_EQ(find(routes, "/v2/health/live", &index), FPRED__ROUTE_MOUNT);
    CHECK_EQ(index, 0);
    fpred__routes_free(routes);
}

TEST(v2_health_is_the_loops_only_where_control_is_mounted)
{
    for (int control = 0; control < 2; control++) {
        const struct fpred_route given[] = {{.path = "/v2", .mount = true, .control = control, .expected = ""}};
        struct fpred__routes *routes = fpred__routes_new(given, 1);
        size_t index = 99;
        CHECK_EQ(find(routes, "/v2/health/live", &index), control ? FPRED__ROUTE_V2_LIVE : FPRED__ROUTE_MOUNT);
        CHECK_EQ(find(routes, "/v2/health/ready", &index), control ? FPRED__ROUTE_V2_READY : FPRED__ROUTE_MOUNT);
        CHECK_EQ(find(routes, "/v2/health", &index), FPRED__ROUTE_MOUNT);
        CHECK_EQ(find(routes, "/v2/health/live/", &index), FPRED__ROUTE_MOUNT);
        CHECK_EQ(index, 0);
        fpred__routes_free(routes);
    }
}

/* ---- health, copies ---- */

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
    struct fpred_route given = {.path = path,
                                .mount = true,
                                .any_body = true,
                                .control = true,
                                .raw_unit_bytes = 12,
                                .raw_exact = true,
                                .raw_allowed = true,
                                .npy_max_bytes = 34,
                                .expected = expected};
    struct fpred__routes *routes = fpred__routes_new(&given, 1);
    memset(path, 'x', 2);
    memset(expected, 'x', 7);
    memset(&given, 0, sizeof given);
    const struct fpred_route *route = fpred__routes_at(routes, 0);
    CHECK(strcmp(route->path, "/p") == 0);
    CHECK(strcmp(route->expected, "float32") == 0);
    CHECK_EQ(route->raw_unit_bytes, 12);
    CHECK_EQ(route->npy_max_bytes, 34);
    CHECK(route->raw_exact && route->raw_allowed && route->mount && route->any_body && route->control);
    fpred__routes_free(routes);
}

TEST(allow_says_what_the_path_takes)
{
    CHECK(strcmp(fpred__routes_allow(FPRED__ROUTE_PREDICT), "POST, OPTIONS") == 0);
    CHECK(strcmp(fpred__routes_allow(FPRED__ROUTE_LIVEZ), "GET, HEAD, OPTIONS") == 0);
    CHECK(strcmp(fpred__routes_allow(FPRED__ROUTE_READYZ), "GET, HEAD, OPTIONS") == 0);
    CHECK(strcmp(fpred__routes_allow(FPRED__ROUTE_V2_LIVE), "GET, HEAD, OPTIONS") == 0);
}

TESTS(&check__paths_match_exactly_and_tell_their_place,
      &check__a_mount_covers_whole_segments_and_the_longest_wins_behind_exact_paths,
      &check__a_mount_at_the_root_gets_what_nobody_else_does,
      &check__v2_health_is_the_loops_only_where_control_is_mounted, &check__health_needs_no_route,
      &check__routes_are_copied_whole, &check__allow_says_what_the_path_takes)
