/* uri: the rules of RFC 3986 for what a request target and Host are made of, and RFC 9110's tokens beside them, since
 * one table serves both. head's helper: nobody else judges targets.
 *
 * Pure functions, no allocation. Any thread. */
#ifndef FPRED_URI_H
#define FPRED_URI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "head.h"

/* Where a byte may stand as itself. '%' is none of a URI's: escapes are judged apart. */
enum {
    FPRED__CHAR_TOKEN = 1, /* RFC 9110 5.6.2: methods, field names, codings */
    FPRED__CHAR_PATH = 2,  /* pchar and '/', and "[]^|" */
    FPRED__CHAR_QUERY = 4, /* pchar, '/' and '?', and "[]^|\`{}" */
    FPRED__CHAR_HOST = 8   /* reg-name */
};

extern const uint8_t fpred__chars[256];

static inline bool fpred__is_char(char c, int where)
{
    return (fpred__chars[(unsigned char)c] & where) != 0;
}

static inline struct fpred_slice fpred__slice_of(const char *base, size_t len)
{
    return (struct fpred_slice){base, len};
}

/* Whether all of it is bytes that may stand there and well-formed escapes, none of them %00. */
bool fpred__uri_is_encoded(struct fpred_slice slice, int where);

/* Whether all of it is bytes that may stand in a query, without %00. Other escapes aren't judged: a query is its
 * application's to decode, and people write "?rate=100%". */
bool fpred__uri_is_query(struct fpred_slice query);

/* Decodes raw into out, which has room for raw.len bytes; *path is what lies there then. False for bytes that no path
 * has, bad escapes, %00, and dot segments, escaped or not. */
bool fpred__uri_decode_path(struct fpred_slice raw, char *out, struct fpred_slice *path);

/* uri-host [ ":" port ] with a host that isn't empty: a name, an IPv4 address or an IPv6 address in brackets. */
bool fpred__uri_is_authority(struct fpred_slice authority);

/* The parts of a target, borrowed from it. base is NULL where there is no such part, but there always is a path: that
 * of "http://host" is one of the slashes before the host (RFC 9110 4.2.3). */
struct fpred__uri {
    struct fpred_slice authority;
    struct fpred_slice path;
    struct fpred_slice query;
};

/* Takes an origin-form or absolute-form target (RFC 9112 3.2.1, 3.2.2) apart, into a zeroed *uri. False when it is
 * neither, its scheme isn't http or https, or its authority is bad. Path and query are not judged here. */
bool fpred__uri_split(struct fpred_slice target, struct fpred__uri *uri);

#endif
