/* memfd: bodies that never cross a socket. A client on the same host lends its memory by a descriptor, over the Unix
 * socket, and an ordinary request says what of it is the body, and where the answer's body may be written.
 *
 * The protocol. The request's head is sent by sendmsg with SCM_RIGHTS: one descriptor, or two, of which the second is
 * for the answer.
 *
 *   POST /predict HTTP/1.1
 *   Host: localhost
 *   Content-Type: application/octet-stream
 *   Fastpredict-Memfd: offset=0; length=30000000
 *   Fastpredict-Answer-Memfd: offset=30000128; length=12000
 *
 *   HTTP/1.1 200 OK
 *   Fastpredict-Memfd: offset=30000128; length=12000
 *   Content-Length: 0
 *
 * - Each descriptor is a memfd (or what has seals as one) that is sealed against shrinking: F_SEAL_SHRINK. offset and
 *   length, in bytes, decimal, lie within its size; offset may be anything, and a multiple of 64 is best.
 * - Fastpredict-Memfd: the body. The request has no other: no Content-Length but 0, no Transfer-Encoding. Everything
 *   that holds for a body's type and length holds for this one; only the budget isn't charged.
 * - Fastpredict-Answer-Memfd: room for the answer's body. Where that of a 2xx fits it is written there, and the answer
 *   says so with Fastpredict-Memfd and Content-Length: 0; where not, and for errors and answers in parts, it comes over
 *   the socket. The request's own body may come either way. One descriptor serves both; the two ranges must not overlap
 *   then.
 * - The client leaves the body alone until it has the reply, and the answer's room as well. After that both are its
 *   own again: the next request may come with the same descriptor.
 * - What breaks a rule is answered by 400 and a sentence, and the connection goes on.
 *
 * A descriptor is mapped and closed at once, and the mapping is kept by the connection and found again by device and
 * inode, so a client that sends the same one again costs neither a mapping nor a fault. At most FPRED__MEMFD_MAPPINGS a
 * connection; the one not used for longest goes first. A mapping lives until its connection, and the last body in it,
 * are gone.
 *
 * Descriptors come with the bytes of the input. Those of a head that doesn't name them are closed, as are those beyond
 * two; while a body is received or thrown away they don't even become ours. So no connection ever holds more than two.
 *
 * Threads: the loop's. No h2o in here. */
#ifndef FPRED_MEMFD_H
#define FPRED_MEMFD_H

#include <sys/types.h>

#include "fastpredict.h"

#define FPRED__MEMFD_MAPPINGS 8
#define FPRED__MEMFD_PENDING 2

struct fpred__memory_range {
    bool is_named;
    uint64_t offset;
    size_t bytes;
};

/* What a head says of memory. */
struct fpred__memory {
    struct fpred__memory_range body, answer;
};

/* Reads it. FPRED_OK, with nothing named in most heads, or FPRED_BAD_MEMORY; *detail is a static sentence then. is_tcp:
 * no descriptor can have come. */
enum fpred_status fpred__memory_read(const struct fpred__head *head, bool is_tcp, struct fpred__memory *memory,
                                     const char **detail);

/* Embedded in the connection, zeroed at first; all of it is memfd.c's. */
struct fpred__memfds {
    struct {
        int fd;
        size_t end; /* the bytes that it came with end here in the input, or later */
    } pending[FPRED__MEMFD_PENDING];
    unsigned pending_count;
    bool missed;                     /* no descriptor was free for one that came */
    struct fpred__mapping *mappings; /* owned; FPRED__MEMFD_MAPPINGS of them, or NULL before the first */
    uint64_t uses;
};

/* recv, without waiting, of up to `room` bytes that come to lie at `at` in the input; takes what descriptors come
 * along.
 */
ssize_t fpred__memfds_recv(struct fpred__memfds *memfds, int fd, char *into, size_t room, size_t at);

/* So many bytes at `at` have left the input. */
void fpred__memfds_shift(struct fpred__memfds *memfds, size_t at, size_t bytes);

/* Closes those that came with the first `end` bytes of the input, and no later. */
void fpred__memfds_drop(struct fpred__memfds *memfds, size_t end);

/* Gives everything back: descriptors now, mappings to the bin. Safe on zeroed memfds. */
void fpred__memfds_close(struct fpred__memfds *memfds, struct fpred__region_bin *bin);

/* What a request has been lent. */
struct fpred__lent {
    struct fpred_slot *body;     /* owned; NULL where it isn't in memory, or has no bytes */
    struct fpred_region *answer; /* a share; NULL where there is no room */
    char *answer_base;           /* in it */
};

/* Takes the descriptors of a head that ends at `end` in the input, maps what it names and closes them. Files of up to
 * whole_max bytes are mapped as a whole, of larger ones what is named. FPRED_OK; FPRED_BAD_MEMORY or FPRED_OVER_BUDGET
 * with a static sentence in *detail; FPRED_NOMEM. Nothing is lent then. */
enum fpred_status fpred__memfds_lend(struct fpred__memfds *memfds, size_t end, const struct fpred__memory *memory,
                                     size_t whole_max, struct fpred__region_bin *bin, struct fpred__lent *lent,
                                     const char **detail);

#endif
