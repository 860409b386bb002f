/* routes: see routes.h. A server has a handful of routes: a loop over them beats a table. */
#include "routes.h"

#include <assert.h>

#include <stdlib.h>
#include <string.h>

struct fpred__routes {
    size_t count;
    struct fpred_route routes[];
};

struct fpred__routes *fpred__routes_new(const struct fpred_route *routes, size_t count)
{
    struct fpred__routes *copy = calloc(1, sizeof *copy + count * sizeof *routes);
    if (copy == NULL)
        return NULL;
    copy->count = count;
    bool complete = true;
    for (size_t i = 0; i < count; i++) {
        copy->routes[i] = routes[i];
        copy->routes[i].path = strdup(routes[i].path);
        copy->routes[i].expected = strdup(routes[i].expected != NULL ? routes[i].expected : "");
        complete = complete && copy->routes[i].path != NULL && copy->routes[i].expected != NULL;
    }
    if (!complete) {
        fpred__routes_free(copy);
        return NULL;
    }
    return copy;
}

void fpred__routes_free(struct fpred__routes *routes)
{
    for (size_t i = 0; i < routes->count; i++) {
        free((char *)routes->routes[i].path);
        free((char *)routes->routes[i].expected);
    }
    free(routes);
}

static bool same(struct fpred_slice slice, const char *text)
{
    return strlen(text) == slice.len && memcmp(slice.base, text, slice.len) == 0;
}

/* Bytes of the path that the mount covers; SIZE_MAX where it doesn't. */
static size_t covered(const struct fpred_route *mount, struct fpred_slice path)
{
    size_t len = strlen(mount->path);
    if (len == 1) /* "/" */
        return 0;
    if (len > path.len || memcmp(path.base, mount->path, len) != 0)
        return SIZE_MAX;
    return len == path.len || path.base[len] == '/' ? len : SIZE_MAX;
}

static bool find_exact(const struct fpred__routes *routes, struct fpred_slice path, size_t *index)
{
    for (size_t i = 0; i < routes->count; i++) {
        if (!routes->routes[i].mount && same(path, routes->routes[i].path)) {
            *index = i;
            return true;
        }
    }
    return false;
}

static bool find_mount(const struct fpred__routes *routes, struct fpred_slice path, size_t *index)
{
    size_t longest = 0;
    bool found = false;
    for (size_t i = 0; i < routes->count; i++) {
        size_t bytes = routes->routes[i].mount ? covered(&routes->routes[i], path) : SIZE_MAX;
        if (bytes == SIZE_MAX || (found && bytes <= longest))
            continue;
        found = true;
        longest = bytes;
        *index = i;
    }
    return found;
}

enum fpred__route_kind fpred__routes_find(const struct fpred__routes *routes, struct fpred_slice path, size_t *index)
{
    if (find_exact(routes, path, index))
        return FPRED__ROUTE_PREDICT;
    if (same(path, "/livez"))
        return FPRED__ROUTE_LIVEZ;
    if (same(path, "/readyz"))
        return FPRED__ROUTE_READYZ;
    if (!find_mount(routes, path, index))
        return FPRED__ROUTE_NONE;
    const struct fpred_route *mount = &routes->routes[*index];
    bool is_v2 = mount->control && strcmp(mount->path, "/v2") == 0;
    if (is_v2 && same(path, "/v2/health/live"))
        return FPRED__ROUTE_V2_LIVE;
    if (is_v2 && same(path, "/v2/health/ready"))
        return FPRED__ROUTE_V2_READY;
    return FPRED__ROUTE_MOUNT;
}

const struct fpred_route *fpred__routes_at(const struct fpred__routes *routes, size_t index)
{
    assert(index < routes->count);
    return &routes->routes[index];
}

const char *fpred__routes_allow(enum fpred__route_kind kind)
{
    return kind == FPRED__ROUTE_PREDICT ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
}
