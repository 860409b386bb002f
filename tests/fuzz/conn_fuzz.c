/* A whole connection under libFuzzer: bytes in arbitrary cuts, through everything from http1.c down, with handlers.
 *
 * The first four bytes are a scheme, the rest is what the client sends, where "\xfe n" is the byte before it n * 32
 * times more ("\xfe \0" is \xfe itself), and "\xfd n" lends memory with the byte behind it ("\xfd \xff" is \xfd
 * itself). A stream is sent whole and in pieces to a client that stays, and both must get the same answers, one for
 * each request; or in pieces only, while something happens to the connection on the way. After each connection nothing
 * may be left of it. */
#include "conn_answers.h"
#include "conn_handler.h"
#include "conn_lend.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LENDS_MAX 16
#define STREAM_MAX ((size_t)160 << 10)
#define PIECES_MAX 64 /* the last one is the rest */

enum happening { NOTHING, LEAVES, HALF_CLOSES, TIME_PASSES, DRAIN, NO_MEMORY, READS_NOTHING };

struct scheme {
    enum policy policy;
    bool is_tcp;   /* as far as the connection is told */
    bool is_small; /* little fits between the ends, in pieces */
    enum happening happening;
    size_t happens_at; /* which piece */
    size_t first, step;
    unsigned choice;
};

static struct scheme scheme_of(const uint8_t *data)
{
    static const enum happening happenings[16] = {[9] = READS_NOTHING, LEAVES, LEAVES,   HALF_CLOSES,
                                                  TIME_PASSES,         DRAIN,  NO_MEMORY};
    static const enum policy policies[4] = {AT_ONCE, AT_ONCE, LATER, NEVER};
    return (struct scheme){
        .policy = policies[data[0] & 3],
        .is_tcp = (data[0] & 4) != 0,
        .is_small = (data[0] & 8) != 0,
        .happening = happenings[data[0] >> 4],
        .happens_at = data[1] >> 4,
        .step = data[1] & 15,
        .first = (size_t)data[2] << 2 | data[3] >> 6,
        .choice = data[3] & 63,
    };
}

struct stream {
    char *bytes;
    size_t len;
    struct {
        size_t at; /* the byte that they come with */
        unsigned which;
    } lent[LENDS_MAX];
    size_t lent_count;
    bool may_continue; /* asks for 100: its answers depend on what has come with the head */
};

static void append(struct stream *stream, char byte, size_t times)
{
    if (times > STREAM_MAX - stream->len)
        times = STREAM_MAX - stream->len;
    memset(stream->bytes + stream->len, byte, times);
    stream->len += times;
}

static void mark_lent(struct stream *stream, unsigned which)
{
    if (stream->lent_count == LENDS_MAX)
        return;
    stream->lent[stream->lent_count].at = stream->len;
    stream->lent[stream->lent_count++].which = which;
}

static bool may_continue(const struct stream *stream)
{
    const char *end = stream->bytes + stream->len;
    for (const char *at = stream->bytes; at < end; at += strlen(at) + 1)
        if (strcasestr(at, "100-continue") != NULL)
            return true;
    return false;
}

static struct stream stream_of(const uint8_t *data, size_t size)
{
    static char bytes[STREAM_MAX + 1];
    struct stream stream = {.bytes = bytes};
    for (size_t i = 0; i < size; i++) {
        bool escapes = i + 1 < size && ((data[i] == 0xfe && stream.len != 0) || data[i] == 0xfd);
        if (!escapes)
            append(&stream, (char)data[i], 1);
        else if (data[i++] == 0xfe)
            append(&stream, data[i] == 0 ? (char)0xfe : bytes[stream.len - 1], data[i] == 0 ? 1 : data[i] * 32u);
        else if (data[i] == 0xff)
            append(&stream, (char)0xfd, 1);
        else
            mark_lent(&stream, data[i]);
    }
    bytes[stream.len] = '\0';
    stream.may_continue = may_continue(&stream);
    return stream;
}

/* Sends some of [at, end): up to the next byte that comes with memory, or that byte. As send. */
static ssize_t send_some(const struct stream *stream, size_t at, size_t end)
{
    for (size_t i = 0; i < stream->lent_count; i++) {
        if (stream->lent[i].at == at && at < end)
            return lend_with(world.client.fd, stream->bytes + at, stream->lent[i].which);
        if (stream->lent[i].at > at && stream->lent[i].at < end)
            end = stream->lent[i].at;
    }
    return send(world.client.fd, stream->bytes + at, end - at, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Sends a piece. False when the server has closed. Where the kernel takes no more, it waits until the handler has
 * answered. */
static bool send_piece(const struct stream *stream, size_t at, size_t end)
{
    if (at == end)
        world_settle();
    for (int tries = 0; at < end; tries++) {
        ssize_t sent = send_some(stream, at, end);
        if (sent == -1 && errno != EAGAIN)
            return false;
        if (sent > 0) {
            at += (size_t)sent;
            tries = 0;
        }
        world_settle();
        if (sent == -1 && !handler_release()) {
            require(tries < 1000);
            world_pass(PASS_MS);
        }
    }
    return true;
}

static void happen(const struct scheme *scheme)
{
    struct fpred__http1 *http1 = &world.loop.http1;
    switch (scheme->happening) {
    case LEAVES:
        world_leave();
        break;
    case HALF_CLOSES:
        shutdown(world.client.fd, SHUT_WR);
        break;
    case DRAIN:
        fpred__http1_drain(http1, 300);
        break;
    case NO_MEMORY:
        fpred__slab_trim(http1->slab, 0, 0);
        if (scheme->choice < 4)
            fpred__slab_fail(http1->slab, scheme->choice, 1);
        else
            world.spare_allocations = scheme->choice - 3;
        break;
    default:
        break;
    }
}

/* Sends the stream in the scheme's pieces, or until the connection ends. */
static void send_stream(const struct scheme *scheme, const struct stream *stream)
{
    size_t step = scheme->step == 0 ? STREAM_MAX : scheme->step * scheme->step;
    size_t len = scheme->first % (stream->len + 1);
    for (size_t at = 0, piece = 0; at < stream->len || piece == scheme->happens_at; at += len, piece++) {
        if (piece == scheme->happens_at)
            happen(scheme);
        if (piece > 0 || len == 0)
            len = step;
        if (len > stream->len - at || piece == PIECES_MAX)
            len = stream->len - at;
        if (world.client.fd == -1 || !send_piece(stream, at, at + len))
            return;
        if (scheme->happening == TIME_PASSES)
            world_pass((int64_t)scheme->choice * 200);
    }
}

/* Whatever a client doesn't do, its connection ends in time. */
static void wait_for_end(void)
{
    world_settle();
    while (handler_release())
        world_settle();
    for (size_t passes = 0; world_is_connected(); passes++) {
        require(passes < 64 + atomic_load(&world.loop.http1.requests));
        world_pass(PASS_MS);
        world_settle();
        while (handler_release())
            world_settle();
    }
    world_settle(); /* the client reads the rest */
}

static void restore(void)
{
    struct fpred__http1 *http1 = &world.loop.http1;
    http1->draining = world.loop.finished = false;
    fpred__slab_fail(http1->slab, 0, 0);
    world.spare_allocations = 0;
}

/* One connection; what it was sent is world.client.got, to be freed. */
static void run(const struct scheme *scheme, const struct stream *stream)
{
    handler_begin(scheme->policy, scheme->happening == NO_MEMORY);
    world_connect(scheme->is_tcp, scheme->is_small);
    world.client.reads = scheme->happening != READS_NOTHING;
    send_stream(scheme, stream);
    wait_for_end();
    if (scheme->happening == NOTHING) {
        require(world.client.ended);
        check_count(handler.has_cut);
    }
    if ((scheme->happening == NOTHING || scheme->happening == DRAIN) && !handler.has_cut)
        check_answers();
    world_leave();
    handler_end();
    world_require_clean();
    restore();
}

static void compare(const struct scheme *scheme, const struct stream *stream)
{
    const struct scheme whole = {.policy = scheme->policy, .is_tcp = scheme->is_tcp, .happens_at = SIZE_MAX};
    run(&whole, stream);
    struct client first = world.client;
    bool comparable = !handler.has_cut && !stream->may_continue && stream->lent_count == 0;
    run(scheme, stream);
    struct client second = world.client;
    if (comparable) {
        require(first.got_bytes == second.got_bytes);
        require(first.got_bytes == 0 || memcmp(first.got, second.got, first.got_bytes) == 0);
    }
    free(first.got);
    free(second.got);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    world.handle = handler_turn;
    lend_open();
    world_open();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    struct scheme scheme = scheme_of(data);
    struct stream stream = stream_of(data + 4, size - 4);
    if (stream.lent_count != 0)
        lend_restore();
    if (scheme.happening == NOTHING) {
        compare(&scheme, &stream);
    } else {
        run(&scheme, &stream);
        free(world.client.got);
    }
    return 0;
}
