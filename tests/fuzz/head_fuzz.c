/* head under libFuzzer. Two bytes choose where to cut, the rest is the head: whole, cut there and byte by byte must
 * give the same answer, and what is accepted must keep the header's promises. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* From a copy of exactly len bytes, which ASan guards. */
static enum fpred_status scan(struct fpred__head_scan *scan, const uint8_t *bytes, size_t len)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, bytes, len);
    enum fpred_status status = fpred__head_scan(scan, copy, len);
    free(copy);
    return status;
}

static bool same(const struct fpred__head_scan *a, const struct fpred__head_scan *b)
{
    return a->at == b->at && a->start == b->start && a->lines == b->lines && a->state == b->state;
}

static void require_inside(struct fpred_slice slice, const char *base, size_t len)
{
    if (slice.base == NULL)
        require(slice.len == 0);
    else
        require(slice.base >= base && slice.len <= len && slice.base <= base + (len - slice.len));
}

static void require_promises(const struct fpred__head *head, const char *buf, size_t len, const char *path_buf)
{
    require(head->bytes == len && head->minor_version >= 0 && head->minor_version <= 1);
    require(head->method.len > 0 && head->raw_path.len > 0 && head->path.len > 0);
    require(head->path.base == path_buf && head->path.len <= head->raw_path.len);
    require(head->path.base[0] == '/' || head->path.base[0] == '*');
    require(memchr(head->path.base, '\0', head->path.len) == NULL);
    require(memmem(head->path.base, head->path.len, "/../", 4) == NULL);
    require(head->authority.len > 0 || head->minor_version == 0);
    require(head->framing == FPRED__FRAMING_LENGTH || head->content_length == 0);
    require(!head->expect_continue || head->framing != FPRED__FRAMING_NONE);
    const struct fpred_slice parts[] = {head->method,    head->target,       head->raw_path,        head->query,
                                        head->authority, head->content_type, head->content_encoding};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        require_inside(parts[i], buf, len);
    require(head->field_count <= FPRED__HEAD_FIELDS);
    for (size_t i = 0; i < head->field_count; i++) {
        require(head->fields[i].name.len > 0);
        require_inside(head->fields[i].name, buf, len);
        require_inside(head->fields[i].value, buf, len);
    }
}

static void parse(const struct fpred__head_scan *scan, const uint8_t *bytes)
{
    struct fpred__head *head = malloc(sizeof *head);
    char *buf = malloc(scan->at), *path_buf = malloc(scan->at);
    memcpy(buf, bytes, scan->at);
    enum fpred_status status = fpred__head_parse(scan, buf, path_buf, head);
    require(status != FPRED_MORE);
    if (status == FPRED_OK)
        require_promises(head, buf, scan->at, path_buf);
    else
        require(head->field_count == 0 && head->path.base == NULL);
    free(path_buf);
    free(buf);
    free(head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const uint8_t *bytes = data + 2;
    size_t len = size - 2, cut = (size_t)(data[0] << 8 | data[1]) % (len + 1);
    struct fpred__head_scan whole = {0}, two = {0}, bytewise = {0};
    enum fpred_status status = scan(&whole, bytes, len), last = FPRED_MORE;
    enum fpred_status first = scan(&two, bytes, cut);
    require(first == FPRED_MORE || first == status);
    require(scan(&two, bytes, len) == status && same(&two, &whole));
    for (size_t at = 0; at <= len; at++)
        last = fpred__head_scan(&bytewise, (const char *)bytes, at);
    require(last == status && same(&bytewise, &whole));
    require(status == FPRED_MORE ? whole.at == len : whole.at <= len);
    if (status == FPRED_OK)
        parse(&whole, bytes);
    return 0;
}
