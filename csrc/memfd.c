/* memfd: see memfd.h. Loop thread. */
#include "memfd.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guard.h"

/* One file of the client's, mapped. */
struct fpred__mapping {
    struct fpred_region *region; /* a share; NULL: a free place */
    dev_t device;
    ino_t inode;
    bool writable;
    uint64_t offset; /* of the region's first byte in the file */
    uint64_t used;   /* memfds->uses when it was used last */
};

/* ---- the head ---- */

/* "name=digits" at *at, which moves on behind it. */
static bool read_number(struct fpred_slice value, size_t *at, const char *name, uint64_t *number)
{
    size_t len = strlen(name), digits = 0;
    if (value.len - *at < len || memcmp(value.base + *at, name, len) != 0)
        return false;
    *number = 0;
    for (*at += len; *at < value.len && value.base[*at] >= '0' && value.base[*at] <= '9'; ++*at, digits++)
        if (__builtin_mul_overflow(*number, (uint64_t)10, number) ||
            __builtin_add_overflow(*number, (uint64_t)(value.base[*at] - '0'), number))
            return false;
    return digits != 0;
}

/* "offset=0; length=30000000" */
static bool read_range(struct fpred_slice value, struct fpred__memory_range *range)
{
    uint64_t bytes;
    size_t at = 0;
    if (range->is_named || !read_number(value, &at, "offset=", &range->offset) || at == value.len ||
        value.base[at++] != ';')
        return false;
    while (at < value.len && (value.base[at] == ' ' || value.base[at] == '\t'))
        at++;
    if (!read_number(value, &at, "length=", &bytes) || at != value.len || bytes > SIZE_MAX ||
        bytes > UINT64_MAX - range->offset)
        return false;
    range->bytes = (size_t)bytes;
    range->is_named = true;
    return true;
}

static const char *fault_in(const struct fpred__head *head, bool is_tcp, const struct fpred__memory *memory)
{
    if (is_tcp)
        return "memory can be lent over a Unix socket only";
    if (memory->body.is_named && (head->framing == FPRED__FRAMING_CHUNKED ||
                                  (head->framing == FPRED__FRAMING_LENGTH && head->content_length != 0)))
        return "both a body and memory, expected Content-Length 0 or none beside Fastpredict-Memfd";
    return NULL;
}

enum fpred_status fpred__memory_read(const struct fpred__head *head, bool is_tcp, struct fpred__memory *memory,
                                     const char **detail)
{
    bool well = true;
    *memory = (struct fpred__memory){0};
    for (size_t i = 0; well && i < head->field_count; i++) {
        if (fpred__slice_is(head->fields[i].name, "fastpredict-memfd"))
            well = read_range(head->fields[i].value, &memory->body);
        else if (fpred__slice_is(head->fields[i].name, "fastpredict-answer-memfd"))
            well = read_range(head->fields[i].value, &memory->answer);
    }
    if (well && !memory->body.is_named && !memory->answer.is_named)
        return FPRED_OK;
    *detail = well ? fault_in(head, is_tcp, memory) : "malformed memory, expected once offset=NUMBER; length=NUMBER";
    return *detail == NULL ? FPRED_OK : FPRED_BAD_MEMORY;
}

/* ---- descriptors ---- */

static void keep(struct fpred__memfds *memfds, int fd, size_t end)
{
    if (memfds->pending_count == FPRED__MEMFD_PENDING) {
        close(fd);
        return;
    }
    memfds->pending[memfds->pending_count].fd = fd;
    memfds->pending[memfds->pending_count++].end = end;
}

/* Of a message with more descriptors than there is room for, or than the process may have, none is kept: nobody can
 * tell which were meant. */
static void keep_all(struct fpred__memfds *memfds, struct msghdr *message, size_t end)
{
    bool cut = (message->msg_flags & MSG_CTRUNC) != 0;
    size_t came = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            if (cut)
                close(fd);
            else
                keep(memfds, fd, end);
        }
        came += count;
    }
    if (cut && came < FPRED__MEMFD_PENDING)
        memfds->missed = true;
}

ssize_t fpred__memfds_recv(struct fpred__memfds *memfds, int fd, char *into, size_t room, size_t at)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FPRED__MEMFD_PENDING * sizeof(int))];
    } control;
    struct iovec vector = {into, room};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got >= 0 && (message.msg_controllen != 0 || (message.msg_flags & MSG_CTRUNC)))
        keep_all(memfds, &message, at + (size_t)got);
    return got;
}

void fpred__memfds_shift(struct fpred__memfds *memfds, size_t at, size_t bytes)
{
    for (unsigned i = 0; i < memfds->pending_count; i++) {
        size_t end = memfds->pending[i].end;
        if (end > at)
            memfds->pending[i].end = end - at > bytes ? end - bytes : at;
    }
}

/* Takes pending[index] out. */
static int take_out(struct fpred__memfds *memfds, unsigned index)
{
    int fd = memfds->pending[index].fd;
    memfds->pending_count--;
    for (; index < memfds->pending_count; index++)
        memfds->pending[index] = memfds->pending[index + 1];
    return fd;
}

void fpred__memfds_drop(struct fpred__memfds *memfds, size_t end)
{
    while (memfds->pending_count != 0 && memfds->pending[0].end <= end)
        close(take_out(memfds, 0));
}

/* Those of a head that ends at `end`: they came with bytes of it. Where the bytes of the first ones go on behind it
 * (the client sent two heads at once), these are taken, and no others. */
static unsigned take_for_head(struct fpred__memfds *memfds, size_t end, int fds[FPRED__MEMFD_PENDING])
{
    unsigned count = 0;
    if (memfds->pending_count != 0 && memfds->pending[0].end > end)
        end = memfds->pending[0].end;
    while (memfds->pending_count != 0 && memfds->pending[0].end <= end)
        fds[count++] = take_out(memfds, 0);
    return count;
}

/* ---- mappings ---- */

static void forget(struct fpred__mapping *mapping, struct fpred__region_bin *bin)
{
    if (mapping->region != NULL)
        fpred__region_bin_put(bin, mapping->region);
    mapping->region = NULL;
}

void fpred__memfds_close(struct fpred__memfds *memfds, struct fpred__region_bin *bin)
{
    fpred__memfds_drop(memfds, SIZE_MAX);
    for (size_t i = 0; memfds->mappings != NULL && i < FPRED__MEMFD_MAPPINGS; i++)
        forget(&memfds->mappings[i], bin);
    free(memfds->mappings);
    memfds->mappings = NULL;
}

static bool is_of(const struct fpred__mapping *mapping, const struct stat *file, bool writable)
{
    return mapping->region != NULL && mapping->inode == file->st_ino && mapping->device == file->st_dev &&
           mapping->writable == writable;
}

static bool holds(const struct fpred__mapping *mapping, const struct fpred__memory_range *range)
{
    size_t bytes = fpred_region_bytes(mapping->region);
    return !fpred_region_is_faulted(mapping->region) && range->offset >= mapping->offset &&
           range->offset - mapping->offset <= bytes && range->bytes <= bytes - (range->offset - mapping->offset);
}

/* The place of this file's mapping, whether it serves or not; else a free one; else the one not used for longest. */
static struct fpred__mapping *place_for(struct fpred__memfds *memfds, const struct stat *file, bool writable)
{
    struct fpred__mapping *place = &memfds->mappings[0];
    for (size_t i = 0; i < FPRED__MEMFD_MAPPINGS; i++) {
        struct fpred__mapping *mapping = &memfds->mappings[i];
        if (is_of(mapping, file, writable))
            return mapping;
        if (place->region != NULL && (mapping->region == NULL || mapping->used < place->used))
            place = mapping;
    }
    return place;
}

/* Whether the file may be mapped as a client's memory: its size holds the range and can't shrink under us. */
static enum fpred_status check_file(int fd, const struct fpred__memory_range *range, struct stat *file,
                                    const char **detail)
{
    int seals = fcntl(fd, F_GET_SEALS);
    *detail = NULL;
    if (seals == -1 || !(seals & F_SEAL_SHRINK))
        *detail = "not a memfd sealed against shrinking, expected one with F_SEAL_SHRINK";
    else if (fstat(fd, file) != 0 || range->offset > (uint64_t)file->st_size ||
             range->bytes > (uint64_t)file->st_size - range->offset)
        *detail = "offset and length go beyond the end of the memory";
    return *detail == NULL ? FPRED_OK : FPRED_BAD_MEMORY;
}

static enum fpred_status map_into(struct fpred__mapping *place, int fd, const struct stat *file,
                                  const struct fpred__memory_range *range, bool writable, size_t whole_max,
                                  const char **detail)
{
    bool whole = (uint64_t)file->st_size <= whole_max;
    uint64_t offset = whole ? 0 : range->offset;
    size_t bytes = whole ? (size_t)file->st_size : range->bytes;
    enum fpred_status status = fpred_region_map(fd, offset, bytes, writable, &place->region);
    if (status == FPRED_OK) {
        place->device = file->st_dev;
        place->inode = file->st_ino;
        place->writable = writable;
        place->offset = offset;
    } else if (status == FPRED_SYSTEM && (errno == EACCES || errno == EPERM)) {
        *detail = writable ? "memory that can not be written, expected it open and not sealed for the answer"
                           : "memory that can not be read, expected it open for reading";
        status = FPRED_BAD_MEMORY;
    }
    return status == FPRED_OK || status == FPRED_BAD_MEMORY ? status : FPRED_NOMEM;
}

/* The mapping that holds the range of the file, made where there is none. */
static enum fpred_status find(struct fpred__memfds *memfds, int fd, const struct fpred__memory_range *range,
                              bool writable, size_t whole_max, struct fpred__region_bin *bin,
                              struct fpred__mapping **found, const char **detail)
{
    struct stat file;
    enum fpred_status status = check_file(fd, range, &file, detail);
    if (status != FPRED_OK)
        return status;
    if (memfds->mappings == NULL)
        memfds->mappings = calloc(FPRED__MEMFD_MAPPINGS, sizeof *memfds->mappings);
    if (memfds->mappings == NULL)
        return FPRED_NOMEM;
    struct fpred__mapping *place = place_for(memfds, &file, writable);
    if (!is_of(place, &file, writable) || !holds(place, range)) {
        forget(place, bin);
        status = map_into(place, fd, &file, range, writable, whole_max, detail);
    }
    place->used = ++memfds->uses;
    *found = place;
    return status;
}

/* ---- lending ---- */

static bool is_wanted(const struct fpred__memory_range *range)
{
    return range->is_named && range->bytes != 0;
}

static bool overlap(const struct fpred__memory_range *a, const struct fpred__memory_range *b)
{
    return a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

static bool is_same_file(const struct fpred__mapping *a, const struct fpred__mapping *b)
{
    return a->device == b->device && a->inode == b->inode;
}

static enum fpred_status lend(struct fpred__memfds *memfds, const int *fds, unsigned count,
                              const struct fpred__memory *memory, size_t whole_max, struct fpred__region_bin *bin,
                              struct fpred__lent *lent, const char **detail)
{
    struct fpred__mapping *body = NULL, *answer = NULL;
    enum fpred_status status = FPRED_OK;
    if (is_wanted(&memory->body))
        status = find(memfds, fds[0], &memory->body, false, whole_max, bin, &body, detail);
    if (status == FPRED_OK && is_wanted(&memory->answer))
        status = find(memfds, fds[count - 1], &memory->answer, true, whole_max, bin, &answer, detail);
    if (status == FPRED_OK && body != NULL && answer != NULL && is_same_file(body, answer) &&
        overlap(&memory->body, &memory->answer)) {
        *detail = "the memory for the answer overlaps that of the body";
        status = FPRED_BAD_MEMORY;
    }
    if (status == FPRED_OK && body != NULL)
        status = fpred__slot_lend(body->region, (size_t)(memory->body.offset - body->offset), memory->body.bytes,
                                  &lent->body);
    if (status == FPRED_OK && answer != NULL) {
        lent->answer = fpred__region_share(answer->region);
        lent->answer_base = fpred_region_base(answer->region) + (memory->answer.offset - answer->offset);
    }
    return status;
}

enum fpred_status fpred__memfds_lend(struct fpred__memfds *memfds, size_t end, const struct fpred__memory *memory,
                                     size_t whole_max, struct fpred__region_bin *bin, struct fpred__lent *lent,
                                     const char **detail)
{
    int fds[FPRED__MEMFD_PENDING];
    unsigned count = take_for_head(memfds, end, fds);
    bool missed = memfds->missed;
    enum fpred_status status;
    memfds->missed = false;
    *lent = (struct fpred__lent){0};
    fpred__guard_renew();
    if (count != 0) {
        status = lend(memfds, fds, count, memory, whole_max, bin, lent, detail);
    } else {
        *detail = missed ? "the server has no descriptor left for the memory, try again later"
                         : "no memory came, expected one descriptor or two with the head";
        status = missed ? FPRED_OVER_BUDGET : FPRED_BAD_MEMORY;
    }
    while (count != 0)
        close(fds[--count]);
    return status;
}
