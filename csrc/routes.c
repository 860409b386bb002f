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
        copy->routes[i].expected = strdup(routes[i].expected);
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

enum fpred__route_kind fpred__routes_find(const struct fpred__routes *routes, struct fpred_slice path, size_t *index)
{
    for (size_t i = 0; i < routes->count; i++) {
        if (same(path, routes->routes[i].path)) {
            *index = i;
            return FPRED__ROUTE_PREDICT;
        }
    }
    if (same(path, "/livez"))
        return FPRED__ROUTE_LIVEZ;
    if (same(path, "/readyz"))
        return FPRED__ROUTE_READYZ;
    return FPRED__ROUTE_NONE;
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
