/* head: scans, splits and judges a request head. Any one thread; see head.h.
 *
 * The scanner refuses at the byte; what it lets through has lines that end in CRLF, a request line of printable or
 * high bytes, and field lines of the form token ':' text, at most 100 of them in 64 KiB. The parser then looks for the
 * first rule that is broken, in this order:
 *   1. the request line: three parts, a token as method, then HTTP/1.0 or HTTP/1.1;
 *   2. the target;
 *   3. Host;
 *   4. Content-Length by itself; Content-Length beside Transfer-Encoding; Transfer-Encoding by itself.
 * Up to rule 1 nothing of the head counts as understood, so the log shows "-" for it. */
#include "head.h"

#include <assert.h>
#include <string.h>

#include "uri.h"

/* picohttpparser lives in libh2o, which ships it without its header. */
struct phr_header {
    const char *name;
    size_t name_len;
    const char *value;
    size_t value_len;
};
int phr_parse_request(const char *buf, size_t len, const char **method, size_t *method_len, const char **path,
                      size_t *path_len, int *minor_version, struct phr_header *headers, size_t *num_headers,
                      size_t last_len);

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static bool is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

enum { STEP = sizeof(uint64_t) }; /* values are skipped eight bytes at a time */

/* Bit 7 of each byte that is a control byte is set, up to the first such byte; above it bits may be wrong. */
static uint64_t control_mask(const char *buf)
{
    const uint64_t ones = UINT64_MAX / 255, high = ones * 0x80;
    uint64_t bytes;
    memcpy(&bytes, buf, sizeof bytes);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    uint64_t del = bytes ^ ones * 0x7f;
    return (((bytes - ones * 0x20) & ~bytes) | ((del - ones) & ~del)) & high;
}

/* From `at` to the first control byte, or end. */
static size_t skip_text(const char *buf, size_t at, size_t end)
{
    for (; end - at >= STEP; at += STEP) {
        uint64_t mask = control_mask(buf + at);
        if (mask != 0)
            return at + (size_t)__builtin_ctzll(mask) / 8;
    }
    while (at < end && !is_control(buf[at]))
        at++;
    return at;
}

/* From `at` to the first byte that no token has, or end. */
static size_t skip_token(const char *buf, size_t at, size_t end)
{
    while (at < end && fpred__is_char(buf[at], FPRED__CHAR_TOKEN))
        at++;
    return at;
}

/* ---- the scanner ------------------------------------------------------------------------------------------------ */

enum {
    SCAN_START,       /* nothing yet */
    SCAN_EMPTY_LF,    /* the LF of an empty line in front */
    SCAN_FIRST,       /* first byte of the request line, after that empty line */
    SCAN_REQUEST,     /* in the request line */
    SCAN_LINE_LF,     /* the LF that ends a line */
    SCAN_LINE,        /* first byte of a field line, or of the empty one */
    SCAN_NAME,        /* in a field name */
    SCAN_VALUE,       /* in a field value */
    SCAN_END_LF,      /* the LF that ends the head */
    SCAN_DONE,        /* the head is complete */
    SCAN_REFUSED = 64 /* + the status */
};

_Static_assert(SCAN_REFUSED + FPRED_STATUS_COUNT <= UINT8_MAX, "a refusal fits into scan->state");

/* What a byte means that may not stand in text. */
static enum fpred_status control_status(char c)
{
    return c == '\r' || c == '\n' ? FPRED_BAD_LINE_ENDING : FPRED_BAD_CONTROL_BYTE;
}

static enum fpred_status go(struct fpred__head_scan *scan, int state)
{
    scan->state = (uint8_t)state;
    return FPRED_MORE;
}

/* The first byte of the request line. RFC 9112 2.2: a server SHOULD ignore at least one empty line before it; a second
 * one is more than any client of good will sends. */
static enum fpred_status step_first(struct fpred__head_scan *scan, char c)
{
    if (c == '\r')
        return scan->state == SCAN_START ? go(scan, SCAN_EMPTY_LF) : FPRED_BAD_REQUEST_LINE;
    scan->start = scan->at - 1;
    return is_control(c) ? control_status(c) : go(scan, SCAN_REQUEST);
}

/* The first byte of a field line, where a fold or the end of the head shows. */
static enum fpred_status step_line(struct fpred__head_scan *scan, char c)
{
    if (c == '\r')
        return go(scan, SCAN_END_LF);
    if (c == ' ' || c == '\t')
        return FPRED_FOLDED_FIELD;
    if (is_control(c))
        return control_status(c);
    if (!fpred__is_char(c, FPRED__CHAR_TOKEN))
        return FPRED_BAD_FIELD_NAME;
    if (scan->lines > FPRED__HEAD_FIELDS)
        return FPRED_HEAD_TOO_LARGE;
    return go(scan, SCAN_NAME);
}

/* The byte that ends a field name: only ':' does so lawfully. A tab there is a space before the colon, and a CR ends a
 * line that has no colon. */
static enum fpred_status step_name(struct fpred__head_scan *scan, char c)
{
    if (c == ':')
        return go(scan, SCAN_VALUE);
    return is_control(c) && c != '\t' && c != '\r' ? control_status(c) : FPRED_BAD_FIELD_NAME;
}

/* The byte, at scan->at - 1, that the skipping loops stopped at. FPRED_MORE, FPRED_OK or the refusal. */
static enum fpred_status step(struct fpred__head_scan *scan, char c)
{
    switch (scan->state) {
    case SCAN_VALUE:
        if (c == '\t')
            return FPRED_MORE;
        return c == '\r' ? go(scan, SCAN_LINE_LF) : control_status(c);
    case SCAN_LINE_LF:
        if (c != '\n')
            return FPRED_BAD_LINE_ENDING;
        scan->lines++;
        return go(scan, SCAN_LINE);
    case SCAN_LINE:
        return step_line(scan, c);
    case SCAN_NAME:
        return step_name(scan, c);
    case SCAN_REQUEST:
        return c == '\r' ? go(scan, SCAN_LINE_LF) : control_status(c);
    case SCAN_END_LF:
        return c == '\n' ? FPRED_OK : FPRED_BAD_LINE_ENDING;
    case SCAN_EMPTY_LF:
        return c == '\n' ? go(scan, SCAN_FIRST) : FPRED_BAD_LINE_ENDING;
    default:
        return step_first(scan, c);
    }
}

static size_t skip(const struct fpred__head_scan *scan, const char *buf, size_t end)
{
    if (scan->state == SCAN_NAME)
        return skip_token(buf, scan->at, end);
    if (scan->state == SCAN_VALUE || scan->state == SCAN_REQUEST)
        return skip_text(buf, scan->at, end);
    return scan->at;
}

enum fpred_status fpred__head_scan(struct fpred__head_scan *scan, const char *buf, size_t len)
{
    if (scan->state == SCAN_DONE)
        return FPRED_OK;
    if (scan->state >= SCAN_REFUSED)
        return (enum fpred_status)(scan->state - SCAN_REFUSED);

    size_t end = len < FPRED__HEAD_MAX ? len : FPRED__HEAD_MAX;
    enum fpred_status status = FPRED_MORE;
    while (status == FPRED_MORE && (scan->at = skip(scan, buf, end)) < end)
        status = step(scan, buf[scan->at++]);
    /* The caller's buffer ends here too: refuse now, not at a byte that it has no room for. */
    if (status == FPRED_MORE && scan->at == FPRED__HEAD_MAX)
        status = FPRED_HEAD_TOO_LARGE;
    if (status != FPRED_MORE)
        go(scan, status == FPRED_OK ? SCAN_DONE : SCAN_REFUSED + (int)status);
    return status;
}

/* ---- slices and lists ------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static struct fpred_slice trim(struct fpred_slice slice)
{
    while (slice.len > 0 && is_space(slice.base[slice.len - 1]))
        slice.len--;
    while (slice.len > 0 && is_space(slice.base[0])) {
        slice.base++;
        slice.len--;
    }
    return slice;
}

static bool starts_with(struct fpred_slice slice, const char *lower)
{
    size_t i = 0;
    for (; lower[i] != '\0'; i++) {
        if (i == slice.len)
            return false;
        unsigned char c = (unsigned char)slice.base[i];
        c |= (unsigned char)((unsigned char)(c - 'A') < 26) << 5;
        if (c != (unsigned char)lower[i])
            return false;
    }
    return true;
}

static bool is_exactly(struct fpred_slice slice, const char *text)
{
    return slice.len == strlen(text) && memcmp(slice.base, text, slice.len) == 0;
}

bool fpred__slice_is(struct fpred_slice slice, const char *lower)
{
    return slice.len == strlen(lower) && starts_with(slice, lower);
}

/* Takes the next element, trimmed, off a comma-separated list; false at its end. Empty elements come out as such. */
static bool list_next(struct fpred_slice *list, struct fpred_slice *element)
{
    if (list->base == NULL)
        return false;
    const char *comma = list->len > 0 ? memchr(list->base, ',', list->len) : NULL;
    size_t len = comma != NULL ? (size_t)(comma - list->base) : list->len;
    *element = trim(fpred__slice_of(list->base, len));
    *list = comma != NULL ? fpred__slice_of(comma + 1, list->len - len - 1) : fpred__slice_of(NULL, 0);
    return true;
}

bool fpred__list_has(struct fpred_slice list, const char *lower)
{
    struct fpred_slice element;
    while (list_next(&list, &element)) {
        if (fpred__slice_is(element, lower))
            return true;
    }
    return false;
}

/* ---- the parser ------------------------------------------------------------------------------------------------- */

/* RFC 9112 3.2. The authority form is CONNECT's alone, and CONNECT has no other; we are no proxy. */
static enum fpred_status parse_target(struct fpred__head *head, char *path_buf)
{
    if (is_exactly(head->method, "OPTIONS") && is_exactly(head->target, "*")) {
        path_buf[0] = '*';
        head->raw_path = head->target;
        head->path = fpred__slice_of(path_buf, 1);
        return FPRED_OK;
    }
    struct fpred__uri uri = {.path = {NULL, 0}};
    if (is_exactly(head->method, "CONNECT") || !fpred__uri_split(head->target, &uri))
        return FPRED_BAD_TARGET;
    head->authority = uri.authority;
    head->raw_path = uri.path;
    head->query = uri.query;
    bool good = fpred__uri_decode_path(uri.path, path_buf, &head->path) && fpred__uri_is_query(uri.query);
    return good ? FPRED_OK : FPRED_BAD_TARGET;
}

/* Why picohttpparser could not split the request line. The scanner has vouched for the field lines. */
static enum fpred_status request_line_status(struct fpred_slice method, struct fpred_slice target, const char *head_end)
{
    if (method.base == NULL || target.base == NULL)
        return FPRED_BAD_REQUEST_LINE;
    const char *rest = target.base + target.len + 1;
    const char *line_end = memchr(rest, '\r', (size_t)(head_end - rest));
    struct fpred_slice version = fpred__slice_of(rest, (size_t)(line_end - rest));
    bool one_word = memchr(rest, ' ', version.len) == NULL;
    return one_word && starts_with(version, "http/") ? FPRED_BAD_VERSION : FPRED_BAD_REQUEST_LINE;
}

/* Rule 1, and the field lines into head->fields. */
static enum fpred_status split(const struct fpred__head_scan *scan, const char *buf, struct fpred__head *head)
{
    struct phr_header fields[FPRED__HEAD_FIELDS];
    size_t count = FPRED__HEAD_FIELDS;
    struct fpred_slice method, target;
    int minor_version;
    int len = phr_parse_request(buf + scan->start, scan->at - scan->start, &method.base, &method.len, &target.base,
                                &target.len, &minor_version, fields, &count, 0);
    if (method.base != NULL && (method.len == 0 || skip_token(method.base, 0, method.len) != method.len))
        return FPRED_BAD_METHOD;
    if (len < 0)
        return request_line_status(method, target, buf + scan->at);
    if (minor_version > 1)
        return FPRED_BAD_VERSION;
    assert((size_t)len == scan->at - scan->start && count == scan->lines - 1);
    head->bytes = scan->at;
    head->method = method;
    head->target = target;
    head->minor_version = minor_version;
    for (size_t i = 0; i < count; i++) {
        head->fields[i].name = fpred__slice_of(fields[i].name, fields[i].name_len);
        head->fields[i].value = trim(fpred__slice_of(fields[i].value, fields[i].value_len));
    }
    head->field_count = count;
    return FPRED_OK;
}

/* The fields that this module judges, gathered in one pass. */
struct gathered {
    struct fpred_slice host, length, coding; /* the first of each */
    unsigned hosts, lengths, codings;
    bool close, keep_alive;
    bool expects;
};

/* RFC 9110 10.1.1: 100-continue is the only expectation there is, and one in HTTP/1.0 is ignored. */
static void gather_expect(struct fpred__head *head, struct gathered *found, struct fpred_slice list)
{
    struct fpred_slice element;
    while (head->minor_version > 0 && list_next(&list, &element)) {
        if (fpred__slice_is(element, "100-continue"))
            found->expects = true;
        else if (element.len > 0)
            head->bad_expect = true;
    }
}

static void gather(struct fpred__head *head, struct gathered *found, const struct fpred_field *field)
{
    switch (field->name.len) { /* with the length known, starts_with is equality; most fields end here */
    case 4:
        if (starts_with(field->name, "host") && found->hosts++ == 0)
            found->host = field->value;
        break;
    case 6:
        if (starts_with(field->name, "expect"))
            gather_expect(head, found, field->value);
        break;
    case 10:
        if (starts_with(field->name, "connection")) {
            found->close |= fpred__list_has(field->value, "close");
            found->keep_alive |= fpred__list_has(field->value, "keep-alive");
        }
        break;
    case 12:
        if (head->content_type.base == NULL && starts_with(field->name, "content-type"))
            head->content_type = field->value;
        break;
    case 14:
        if (starts_with(field->name, "content-length") && found->lengths++ == 0)
            found->length = field->value;
        break;
    case 16:
        if (head->content_encoding.base == NULL && starts_with(field->name, "content-encoding"))
            head->content_encoding = field->value;
        break;
    case 17:
        if (starts_with(field->name, "transfer-encoding") && found->codings++ == 0)
            found->coding = field->value;
        break;
    }
}

/* RFC 9112 3.2: also in HTTP/1.0 a Host that is there must be one and valid. A target's own authority beats it, and
 * doesn't excuse it. */
static enum fpred_status judge_host(struct fpred__head *head, const struct gathered *found)
{
    if (found->hosts > 1 || (found->hosts == 0 && head->minor_version > 0))
        return FPRED_BAD_HOST;
    if (found->hosts == 1 && !fpred__uri_is_authority(found->host))
        return FPRED_BAD_HOST;
    if (head->authority.base == NULL)
        head->authority = found->host;
    return FPRED_OK;
}

/* RFC 9112 6.2, 6.3 rule 5. */
static enum fpred_status judge_length(struct fpred__head *head, struct fpred_slice text)
{
    uint64_t value = 0;
    if (text.len == 0)
        return FPRED_BAD_CONTENT_LENGTH;
    for (size_t i = 0; i < text.len; i++) {
        unsigned digit = (unsigned)text.base[i] - '0';
        if (digit > 9 || value > (SIZE_MAX - digit) / 10)
            return FPRED_BAD_CONTENT_LENGTH;
        value = value * 10 + digit;
    }
    head->framing = FPRED__FRAMING_LENGTH;
    head->content_length = value;
    return FPRED_OK;
}

/* RFC 9112 6.1 and 6.3 rule 4. We take "chunked" alone. A list whose last coding isn't chunked MUST be answered 400,
 * whatever is in it; so is one that is malformed, or has chunked twice or with parameters. What remains is well formed
 * and ends in chunked, but has a coding before it that we don't know: 501. */
static enum fpred_status judge_coding(struct fpred__head *head, struct fpred_slice list)
{
    struct fpred_slice element;
    size_t others = 0;
    bool last_is_chunked = false;
    while (list_next(&list, &element)) {
        if (last_is_chunked)
            return FPRED_BAD_TRANSFER_ENCODING;
        size_t name = skip_token(element.base, 0, element.len);
        struct fpred_slice after = trim(fpred__slice_of(element.base + name, element.len - name));
        if (name == 0 || (after.len > 0 && after.base[0] != ';'))
            return FPRED_BAD_TRANSFER_ENCODING;
        last_is_chunked = fpred__slice_is(fpred__slice_of(element.base, name), "chunked");
        if (last_is_chunked && after.len > 0)
            return FPRED_BAD_TRANSFER_ENCODING;
        others += !last_is_chunked;
    }
    if (!last_is_chunked)
        return FPRED_BAD_TRANSFER_ENCODING;
    head->framing = FPRED__FRAMING_CHUNKED;
    return others > 0 ? FPRED_UNKNOWN_CODING : FPRED_OK;
}

static enum fpred_status judge_framing(struct fpred__head *head, const struct gathered *found)
{
    if (found->lengths > 0) {
        enum fpred_status status = found->lengths == 1 ? judge_length(head, found->length) : FPRED_BAD_CONTENT_LENGTH;
        if (status == FPRED_OK && found->codings > 0)
            return FPRED_LENGTH_WITH_CODING;
        return status;
    }
    if (found->codings == 0)
        return FPRED_OK;
    if (found->codings > 1 || head->minor_version == 0)
        return FPRED_BAD_TRANSFER_ENCODING;
    return judge_coding(head, found->coding);
}

static enum fpred_status judge(struct fpred__head *head, char *path_buf)
{
    struct gathered found = {.hosts = 0};
    enum fpred_status status = parse_target(head, path_buf);
    if (status != FPRED_OK)
        return status;
    for (size_t i = 0; i < head->field_count; i++)
        gather(head, &found, &head->fields[i]);
    status = judge_host(head, &found);
    if (status == FPRED_OK)
        status = judge_framing(head, &found);
    bool body = head->framing == FPRED__FRAMING_CHUNKED || head->content_length > 0;
    head->expect_continue = found.expects && body && !head->bad_expect;
    head->keep_alive = !found.close && (head->minor_version > 0 || found.keep_alive);
    return status;
}

/* All but the room for the fields, which is most of the struct and is covered by field_count. */
static void clear(struct fpred__head *head)
{
    memset(head, 0, offsetof(struct fpred__head, fields));
    head->field_count = 0;
}

enum fpred_status fpred__head_parse(const struct fpred__head_scan *scan, const char *buf, char *path_buf,
                                    struct fpred__head *head)
{
    assert(scan->state == SCAN_DONE);
    clear(head);
    enum fpred_status status = split(scan, buf, head);
    if (status == FPRED_OK)
        status = judge(head, path_buf);
    if (status != FPRED_OK) {
        struct fpred_slice method = head->method, target = head->target;
        int minor_version = head->minor_version;
        clear(head);
        head->method = method;
        head->target = target;
        head->minor_version = minor_version;
    }
    return status;
}
