/* routes: method and path to route. Read-only once built: any thread. */
#ifndef FPRED_ROUTES_H
#define FPRED_ROUTES_H

#include "fastpredict.h"

enum fpred__route_kind {
    FPRED__ROUTE_NONE,
    FPRED__ROUTE_LIVEZ,
    FPRED__ROUTE_READYZ,
    FPRED__ROUTE_V2_LIVE, /* the Open Inference Protocol's, where a control mount is at /v2 */
    FPRED__ROUTE_V2_READY,
    FPRED__ROUTE_PREDICT, /* also with any_body */
    FPRED__ROUTE_MOUNT,
};

struct fpred__routes;

/* Copies the routes. NULL when out of memory. */
struct fpred__routes *fpred__routes_new(const struct fpred_route *routes, size_t count);
void fpred__routes_free(struct fpred__routes *routes);

/* By the decoded path: an exact match, else the longest mount. *index is the place in the array given to new. */
enum fpred__route_kind fpred__routes_find(const struct fpred__routes *routes, struct fpred_slice path, size_t *index);

/* Borrowed until free. */
const struct fpred_route *fpred__routes_at(const struct fpred__routes *routes, size_t index);

/* The Allow field of a kind of route. Static. */
const char *fpred__routes_allow(enum fpred__route_kind kind);

#endif
