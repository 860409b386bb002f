/* chunked: the decoder as a state machine over the bytes between payloads. Any one thread; see chunked.h.
 *
 *   SIZE -> [SPACE -> EXTENSION ->] SIZE_LF -> DATA -> DATA_CR -> DATA_LF -> SIZE -> ...
 *                                   size 0: -> LINE -> [NAME -> TRAILER -> TRAILER_LF -> LINE -> ...] END_LF -> DONE
 * Payload is moved by whole runs, and not at all while nothing lies before it. */
#include "chunked.h"

#include <stdbool.h>
#include <string.h>

#include "uri.h"

enum {
    SIZE,       /* in the digits of a size, or before them */
    SPACE,      /* "bad" white space before the ';' of an extension */
    EXTENSION,  /* behind that ';' */
    SIZE_LF,    /* the LF of a size line */
    DATA,       /* chunk_left bytes of payload are to come */
    DATA_CR,    /* the CRLF behind them */
    DATA_LF,    /* ... */
    LINE,       /* first byte of a trailer line, or of the empty one */
    NAME,       /* in the name of a trailer */
    TRAILER,    /* behind its colon */
    TRAILER_LF, /* its LF */
    END_LF,     /* the LF of the empty line */
    DONE,
    FAILED
};

/* RFC 9110 5.5: what may stand in a field value, and here in an extension too. */
static bool is_text(char c)
{
    return ((unsigned char)c >= 0x20 && c != 0x7f) || c == '\t';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A byte in or right behind the digits. Leading zeros count toward the 16, so nothing can overflow; sizes that no
 * buffer could have are refused at the digit that makes them so. */
static int step_size(struct fpred__chunked *decoder, char c)
{
    int value = hex_value(c);
    if (value >= 0) {
        if (decoder->digits == 16)
            return FAILED;
        decoder->digits++;
        decoder->chunk_left = decoder->chunk_left << 4 | (unsigned)value;
        return decoder->chunk_left > SIZE_MAX / 2 ? FAILED : SIZE;
    }
    if (decoder->digits == 0)
        return FAILED;
    if (c == '\r')
        return SIZE_LF;
    if (++decoder->extension_bytes > FPRED__CHUNK_EXTENSIONS_MAX)
        return FAILED;
    return c == ';' ? EXTENSION : c == ' ' || c == '\t' ? SPACE : FAILED;
}

static int step_extension(struct fpred__chunked *decoder, char c)
{
    if (c == '\r')
        return decoder->state == EXTENSION ? SIZE_LF : FAILED;
    if (!is_text(c) || ++decoder->extension_bytes > FPRED__CHUNK_EXTENSIONS_MAX)
        return FAILED;
    if (decoder->state == EXTENSION || c == ';')
        return EXTENSION;
    return c == ' ' || c == '\t' ? SPACE : FAILED;
}

static int step_size_lf(struct fpred__chunked *decoder, char c)
{
    decoder->line_bytes = 0;
    decoder->digits = 0;
    if (c != '\n')
        return FAILED;
    return decoder->chunk_left > 0 ? DATA : LINE;
}

/* One byte outside of payload; the next state. */
static int step(struct fpred__chunked *decoder, char c)
{
    if (decoder->state <= SIZE_LF && ++decoder->line_bytes > FPRED__CHUNK_LINE_MAX)
        return FAILED;
    if (decoder->state >= LINE && ++decoder->trailer_bytes > FPRED__CHUNK_TRAILERS_MAX)
        return FAILED;
    switch (decoder->state) {
    case SIZE:
        return step_size(decoder, c);
    case SPACE:
    case EXTENSION:
        return step_extension(decoder, c);
    case SIZE_LF:
        return step_size_lf(decoder, c);
    case DATA_CR:
        return c == '\r' ? DATA_LF : FAILED;
    case DATA_LF:
        return c == '\n' ? SIZE : FAILED;
    case LINE:
        return c == '\r' ? END_LF : fpred__is_char(c, FPRED__CHAR_TOKEN) ? NAME : FAILED;
    case NAME: /* RFC 9112 7.1.2: a field line; what isn't one may be the next request, to somebody else */
        return c == ':' ? TRAILER : fpred__is_char(c, FPRED__CHAR_TOKEN) ? NAME : FAILED;
    case TRAILER:
        return c == '\r' ? TRAILER_LF : is_text(c) ? TRAILER : FAILED;
    case TRAILER_LF:
        return c == '\n' ? LINE : FAILED;
    case END_LF:
        return c == '\n' ? DONE : FAILED;
    default:
        return FAILED;
    }
}

/* Moves what lies in buf[from, len) of the current chunk to buf + to; returns how much that was. */
static size_t take_data(struct fpred__chunked *decoder, char *buf, size_t from, size_t len, size_t to)
{
    size_t run = len - from;
    if (run > decoder->chunk_left)
        run = (size_t)decoder->chunk_left;
    if (from != to)
        memmove(buf + to, buf + from, run);
    decoder->chunk_left -= run;
    if (decoder->chunk_left == 0)
        decoder->state = DATA_CR;
    return run;
}

enum fpred_status fpred__chunked_decode(struct fpred__chunked *decoder, char *buf, size_t len, size_t *payload,
                                        size_t *used)
{
    size_t from = 0, to = 0;
    while (from < len && decoder->state < DONE) {
        if (decoder->state == DATA) {
            size_t run = take_data(decoder, buf, from, len, to);
            from += run;
            to += run;
        } else {
            decoder->state = (uint8_t)step(decoder, buf[from++]);
        }
    }
    *payload = to;
    *used = from;
    return decoder->state == DONE ? FPRED_OK : decoder->state == FAILED ? FPRED_BAD_CHUNK : FPRED_MORE;
}

uint64_t fpred__chunked_contiguous(const struct fpred__chunked *decoder)
{
    return decoder->state == DATA ? decoder->chunk_left : 0;
}
