/* chunked: a strict decoder of the chunked transfer coding (RFC 9112 7.1), in place.
 *
 * Hex digits only, at most 16 of them, CRLF exactly, extensions bounded and ignored, trailers bounded and dropped. The
 * decoder keeps all it needs between calls: the same bytes give the same answer however they were cut.
 * No allocation, no I/O. Any one thread. */
#ifndef FPRED_CHUNKED_H
#define FPRED_CHUNKED_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

#define FPRED__CHUNK_LINE_MAX 1024                     /* one size line with its extensions */
#define FPRED__CHUNK_EXTENSIONS_MAX ((size_t)16 << 10) /* extension bytes of a whole body */
#define FPRED__CHUNK_TRAILERS_MAX ((size_t)8 << 10)    /* the trailer section */

/* Zero it before each body. */
struct fpred__chunked {
    uint64_t chunk_left;    /* bytes of the current chunk still to come */
    size_t line_bytes;      /* of the line being read */
    size_t extension_bytes; /* of the body so far */
    size_t trailer_bytes;
    uint8_t digits; /* of the size being read */
    uint8_t state;  /* private to chunked.c */
};

/* Decodes buf[0, *len): the payload in it is moved to its front. On return *payload is how many payload bytes lie at
 * buf, and *used how many bytes of the input belong to this body (all of them unless it ended).
 * FPRED_MORE: the body goes on. FPRED_OK: it ended; buf[*used, len) is what follows and has not been moved.
 * FPRED_BAD_CHUNK: refused for good. */
enum fpred_status fpred__chunked_decode(struct fpred__chunked *decoder, char *buf, size_t len, size_t *payload,
                                        size_t *used);

/* Bytes that may be received straight behind the payload without moving anything: what is left of the current chunk,
 * 0 outside of one. */
uint64_t fpred__chunked_contiguous(const struct fpred__chunked *decoder);

#endif
