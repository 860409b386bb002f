/* uri: the rules of RFC 3986 for what a request target and Host are made of. Any thread; see uri.h. */
#include "uri.h"

#include <arpa/inet.h>
#include <string.h>

#define S (FPRED__CHAR_PATH | FPRED__CHAR_QUERY | FPRED__CHAR_HOST) /* sub-delims that tokens don't have */
#define U (S | FPRED__CHAR_TOKEN)                                   /* the other sub-delims, and unreserved */
#define P (FPRED__CHAR_PATH | FPRED__CHAR_QUERY)
#define Q FPRED__CHAR_QUERY
#define T FPRED__CHAR_TOKEN
#define B P /* no URI has it, but browsers send it as it is (the URL Standard), and it means nothing to the framing */
/* clang-format off */
const uint8_t fpred__chars[256] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    /*   !  "  #  $  %  &  '  (  )  *  +  ,  -  .  / */
    0, U, 0, T, U, T, U, U, S, S, U, U, S, U, U, P,
    /* 0 to 9                     :  ;  <  =  >  ? */
    U, U, U, U, U, U, U, U, U, U, P, S, 0, S, 0, Q,
    /* @  A to O */
    P, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    /* P to Z                        [  \  ]  ^  _ */
    U, U, U, U, U, U, U, U, U, U, U, B, Q, B, B | T, U,
    /* `  a to o */
    Q | T, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    /* p to z                        {  |  }  ~    */
    U, U, U, U, U, U, U, U, U, U, U, Q, B | T, Q, U, 0,
};
/* clang-format on */
#undef B
#undef U
#undef S
#undef P
#undef Q
#undef T

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that "%XX" at the front of the slice stands for; -1 for a malformed escape, and for %00, which no path,
 * query or host has a use for but to end a C string early. */
static int escaped_byte(struct fpred_slice slice)
{
    if (slice.len < 3 || slice.base[0] != '%')
        return -1;
    int high = hex_value(slice.base[1]), low = hex_value(slice.base[2]);
    return high < 0 || low < 0 || high + low == 0 ? -1 : high << 4 | low;
}

bool fpred__uri_is_encoded(struct fpred_slice slice, int where)
{
    for (size_t i = 0; i < slice.len; i++) {
        if (fpred__is_char(slice.base[i], where))
            continue;
        if (escaped_byte(fpred__slice_of(slice.base + i, slice.len - i)) < 0)
            return false;
        i += 2;
    }
    return true;
}

bool fpred__uri_is_query(struct fpred_slice query)
{
    for (size_t i = 0; i < query.len; i++) {
        if (query.base[i] == '%' && query.len - i > 2 && query.base[i + 1] == '0' && query.base[i + 2] == '0')
            return false;
        if (query.base[i] != '%' && !fpred__is_char(query.base[i], FPRED__CHAR_QUERY))
            return false;
    }
    return true;
}

/* Whether a segment is "." or "..", slashes that came as %2F counting too: whoever maps the path to anything would take
 * them for slashes. */
static bool has_dot_segment(struct fpred_slice path)
{
    for (size_t i = 1; i < path.len; i++) {
        if (path.base[i] != '.' || path.base[i - 1] != '/')
            continue;
        size_t next = i + 1 < path.len && path.base[i + 1] == '.' ? i + 2 : i + 1;
        if (next == path.len || path.base[next] == '/')
            return true;
    }
    return false;
}

bool fpred__uri_decode_path(struct fpred_slice raw, char *out, struct fpred_slice *path)
{
    size_t len = 0;
    for (size_t i = 0; i < raw.len; i++) {
        int c = (unsigned char)raw.base[i];
        if (!fpred__is_char(raw.base[i], FPRED__CHAR_PATH)) {
            c = escaped_byte(fpred__slice_of(raw.base + i, raw.len - i));
            if (c < 0)
                return false;
            i += 2;
        }
        out[len++] = (char)c;
    }
    *path = fpred__slice_of(out, len);
    return !has_dot_segment(*path);
}

/* The length of "[...]" at the front, if what is in it is an IPv6 address; else 0. */
static size_t ipv6_literal(struct fpred_slice authority)
{
    char address[INET6_ADDRSTRLEN];
    struct in6_addr ignored;
    const char *end = memchr(authority.base, ']', authority.len);
    size_t len = end != NULL ? (size_t)(end - authority.base) - 1 : sizeof address;
    if (len >= sizeof address)
        return 0;
    memcpy(address, authority.base + 1, len);
    address[len] = '\0';
    return inet_pton(AF_INET6, address, &ignored) == 1 ? len + 2 : 0;
}

static size_t registered_name(struct fpred_slice authority)
{
    const char *colon = memchr(authority.base, ':', authority.len);
    size_t len = colon != NULL ? (size_t)(colon - authority.base) : authority.len;
    return fpred__uri_is_encoded(fpred__slice_of(authority.base, len), FPRED__CHAR_HOST) ? len : 0;
}

/* RFC 3986 lets a host be empty; RFC 9110 4.2.1 doesn't let an http URI have such a one. No userinfo (4.2.4): '@' is no
 * byte of a host. */
bool fpred__uri_is_authority(struct fpred_slice authority)
{
    if (authority.len == 0)
        return false;
    size_t host = authority.base[0] == '[' ? ipv6_literal(authority) : registered_name(authority);
    if (host == 0 || (host < authority.len && authority.base[host] != ':'))
        return false;
    for (size_t i = host + 1; i < authority.len; i++) {
        if (authority.base[i] < '0' || authority.base[i] > '9')
            return false;
    }
    return true;
}

bool fpred__uri_split(struct fpred_slice target, struct fpred__uri *uri)
{
    size_t at = 0, end = target.len;
    if (target.len == 0 || target.base[0] != '/') {
        if (target.len > 7 && fpred__slice_is(fpred__slice_of(target.base, 7), "http://"))
            at = 7;
        else if (target.len > 8 && fpred__slice_is(fpred__slice_of(target.base, 8), "https://"))
            at = 8;
        else
            return false;
        const char *authority = target.base + at;
        while (at < end && target.base[at] != '/' && target.base[at] != '?')
            at++;
        uri->authority = fpred__slice_of(authority, (size_t)(target.base + at - authority));
        if (!fpred__uri_is_authority(uri->authority))
            return false;
    }
    const char *mark = at < end ? memchr(target.base + at, '?', end - at) : NULL;
    size_t path_end = mark != NULL ? (size_t)(mark - target.base) : end;
    uri->path = fpred__slice_of(target.base + at, path_end - at);
    if (uri->path.len == 0)
        uri->path = fpred__slice_of(uri->authority.base - 1, 1);
    if (mark != NULL)
        uri->query = fpred__slice_of(mark + 1, end - path_end - 1);
    return true;
}
