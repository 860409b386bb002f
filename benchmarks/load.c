/* The client of the benchmarks: keeps N connections busy, each with one request at a time, and prints what it took.
 *
 *     load --to PORT|/path [--method POST] [--path /predict] [--body BYTES] [--before TEXT] [--after TEXT]
 *          [--header "Name: value"]... [--answer BYTES] [--connections 1] [--warmup 2] [--requests 10] [--pause-us 0]
 *          [--for-ms 0] [--time-limit 60] [--send-buffer 0]
 *
 * The body is BYTES of float32 values between TEXTs (for multipart forms), made once, in warm memory. An answer must
 * have status 200 and, where --answer says so, that many bytes; anything else ends the program with status 1.
 * --requests and --warmup count for each connection; the clock starts when all have done their warm-up. A server that
 * closes the connection after an answer gets a new one, and the request pays for it. --send-buffer is SO_SNDBUF in
 * bytes; 0 leaves it to the kernel.
 *
 * Prints JSON: {"elapsed_s": ..., "requests": ..., "latencies_us": [...]}. One thread, edge-triggered epoll. */
#define _GNU_SOURCE
#include "net.h"

#include <fcntl.h>
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <time.h>

enum { HEAD_MAX = 65536, SINK_BYTES = 4 << 20, HEADERS_MAX = 2048, CONNECTIONS_MAX = 512, PARTS = 4 };

/* All set once, before the first connection. */
static struct {
    const char *to, *method, *path, *before, *after;
    long body_bytes, answer_bytes; /* an answer of -1 bytes: any */
    long connections, warmup, requests, pause_us, for_ms, time_limit_s, send_buffer_bytes;
    char headers[HEADERS_MAX];
} options = {.method = "POST",
             .path = "/predict",
             .before = "",
             .after = "",
             .answer_bytes = -1,
             .connections = 1,
             .warmup = 2,
             .requests = 10,
             .time_limit_s = 60};
static struct address server;

struct connection {
    int fd;           /* -1: none */
    size_t sent;      /* bytes of the request */
    size_t head_have; /* bytes of the answer's head and of what came with it */
    long long rest;   /* bytes of the answer's body still to come; -1: the head isn't whole */
    int closes;       /* the server said that it will close */
    long done;        /* requests, warm-up among them */
    uint64_t start_ns;
    char head[HEAD_MAX];
};

static struct iovec request[PARTS]; /* head, before, body, after */
static size_t request_bytes;
static struct connection *connections;
static uint64_t *latencies_ns; /* in the order in which they ended */
static size_t latency_count;
static long warm_connections; /* that have done their warm-up */
static uint64_t clock_start_ns;
static char *sink;
static int epoll_fd;

static void fail(const char *what)
{
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void make_request(void)
{
    size_t length = strlen(options.before) + (size_t)options.body_bytes + strlen(options.after);
    char *head;
    int head_bytes =
        asprintf(&head, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %zu\r\nAccept: */*\r\n%s\r\n",
                 options.method, options.path, length, options.headers);
    if (head_bytes < 0)
        die("asprintf");
    char *body = warm_memory((size_t)options.body_bytes);
    for (size_t i = 0; i + sizeof(float) <= (size_t)options.body_bytes; i += sizeof(float)) {
        float value = (float)(i % 4099) / 4099.0f;
        memcpy(body + i, &value, sizeof value);
    }
    request[0] = (struct iovec){head, (size_t)head_bytes};
    request[1] = (struct iovec){(char *)options.before, strlen(options.before)};
    request[2] = (struct iovec){body, (size_t)options.body_bytes};
    request[3] = (struct iovec){(char *)options.after, strlen(options.after)};
    request_bytes = (size_t)head_bytes + length;
}

static void connect_it(struct connection *connection)
{
    connection->fd = open_socket(&server);
    if (options.send_buffer_bytes > 0)
        setsockopt(connection->fd, SOL_SOCKET, SO_SNDBUF, &(int){(int)options.send_buffer_bytes}, sizeof(int));
    if (connect(connection->fd, &server.at.any, server.size) != 0)
        die("load: connect");
    no_delay(&server, connection->fd);
    if (fcntl(connection->fd, F_SETFL, O_NONBLOCK) != 0)
        die("load: fcntl");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) != 0)
        die("load: epoll_ctl");
}

/* Sends what the socket takes. Edge-triggered epoll tells when it takes more. */
static void send_more(struct connection *connection)
{
    while (connection->sent < request_bytes) {
        struct iovec parts[PARTS];
        size_t skip = connection->sent;
        for (int i = 0; i < PARTS; i++) {
            size_t share = skip < request[i].iov_len ? skip : request[i].iov_len;
            parts[i] = (struct iovec){(char *)request[i].iov_base + share, request[i].iov_len - share};
            skip -= share;
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = PARTS};
        ssize_t sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL);
        if (sent >= 0)
            connection->sent += (size_t)sent;
        else if (errno == EAGAIN)
            return;
        else if (errno != EINTR)
            die("load: the server did not take the request");
    }
}

static void begin(struct connection *connection)
{
    if (options.pause_us > 0)
        usleep((useconds_t)options.pause_us);
    connection->sent = connection->head_have = 0;
    connection->rest = -1;
    connection->closes = 0;
    connection->start_ns = now_ns();
    if (connection->fd < 0)
        connect_it(connection);
    send_more(connection);
}

/* The head is whole: its status, its length, whether the server closes. `body` is what came with it. */
static void judge_head(struct connection *connection, char *head_end)
{
    size_t body = connection->head_have - (size_t)(head_end + 4 - connection->head);
    head_end[2] = '\0';
    if (strncmp(connection->head, "HTTP/1.", 7) != 0 || strncmp(connection->head + 8, " 200", 4) != 0) {
        *strchr(connection->head, '\r') = '\0';
        fail(connection->head);
    }
    long long length = content_length(connection->head, -1);
    if (length < 0)
        fail("the answer has no Content-Length");
    if (options.answer_bytes >= 0 && length != options.answer_bytes)
        fail("the answer has another length than it should");
    if (body > (size_t)length)
        fail("more came than was asked for");
    const char *said = field(connection->head, "\r\nConnection:");
    connection->closes = said != NULL ? strncasecmp(said, "close", 5) == 0 : connection->head[7] == '0';
    connection->rest = length - (long long)body;
}

/* Reads what is there. 1 when the answer is whole. */
static int receive_more(struct connection *connection)
{
    while (connection->rest != 0) {
        int in_head = connection->rest < 0;
        char *into = in_head ? connection->head + connection->head_have : sink;
        size_t room = in_head ? HEAD_MAX - 1 - connection->head_have : SINK_BYTES;
        if (!in_head && connection->rest < SINK_BYTES)
            room = (size_t)connection->rest;
        ssize_t got = recv(connection->fd, into, room, 0);
        if (got < 0 && errno == EAGAIN)
            return 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            fail("the server closed the connection before its answer was whole");
        if (!in_head) {
            connection->rest -= got;
            continue;
        }
        connection->head_have += (size_t)got;
        char *end = memmem(connection->head, connection->head_have, "\r\n\r\n", 4);
        if (end != NULL)
            judge_head(connection, end);
        else if (connection->head_have == HEAD_MAX - 1)
            fail("the head of the answer has no end");
    }
    return 1;
}

/* One answer is whole. */
static void finish(struct connection *connection)
{
    uint64_t now = now_ns();
    connection->done++;
    if (clock_start_ns != 0)
        latencies_ns[latency_count++] = now - connection->start_ns;
    else if (connection->done == options.warmup && ++warm_connections == options.connections)
        clock_start_ns = now;
    if (connection->closes || connection->sent < request_bytes) {
        close(connection->fd);
        connection->fd = -1;
    }
}

/* Whether the last answer that counts is here. */
static int is_over(size_t wanted)
{
    uint64_t for_ns = (uint64_t)options.for_ms * 1000000u;
    return latency_count >= wanted || (for_ns > 0 && latency_count > 0 && now_ns() - clock_start_ns > for_ns);
}

/* Connections that are warm before the others go on, uncounted. */
static void run(size_t wanted)
{
    uint64_t end_ns = now_ns() + (uint64_t)options.time_limit_s * 1000000000u;
    struct epoll_event events[64];
    if (options.warmup == 0)
        clock_start_ns = now_ns();
    for (long i = 0; i < options.connections; i++)
        begin(&connections[i]);
    while (!is_over(wanted)) {
        int count = epoll_wait(epoll_fd, events, 64, 1000);
        for (int i = 0; i < count && latency_count < wanted; i++) {
            struct connection *connection = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                send_more(connection);
            if (!(events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) || !receive_more(connection))
                continue;
            finish(connection);
            if (latency_count < wanted)
                begin(connection);
        }
        if (now_ns() > end_ns)
            fail("time limit");
    }
}

static void print_result(uint64_t end_ns)
{
    printf("{\"elapsed_s\": %.9f, \"requests\": %zu, \"latencies_us\": [", (double)(end_ns - clock_start_ns) / 1e9,
           latency_count);
    for (size_t i = 0; i < latency_count; i++)
        printf("%s%.1f", i > 0 ? "," : "", (double)latencies_ns[i] / 1e3);
    printf("]}\n");
}

static void add_header(const char *line)
{
    size_t have = strlen(options.headers);
    if (strlen(line) + 3 > HEADERS_MAX - have)
        fail("too many headers");
    sprintf(options.headers + have, "%s\r\n", line);
}

/* Options that are a number, and where it goes. */
static long *number_option(int option)
{
    switch (option) {
    case 'b':
        return &options.body_bytes;
    case 'a':
        return &options.answer_bytes;
    case 'u':
        return &options.pause_us;
    case 'c':
        return &options.connections;
    case 'w':
        return &options.warmup;
    case 'n':
        return &options.requests;
    case 'f':
        return &options.for_ms;
    case 'l':
        return &options.time_limit_s;
    case 's':
        return &options.send_buffer_bytes;
    default:
        return NULL;
    }
}

static const char **text_option(int option)
{
    switch (option) {
    case 't':
        return &options.to;
    case 'm':
        return &options.method;
    case 'p':
        return &options.path;
    case 'B':
        return &options.before;
    case 'A':
        return &options.after;
    default:
        return NULL;
    }
}

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"to", 1, 0, 't'},       {"method", 1, 0, 'm'},      {"path", 1, 0, 'p'},        {"before", 1, 0, 'B'},
        {"after", 1, 0, 'A'},    {"header", 1, 0, 'H'},      {"body", 1, 0, 'b'},        {"answer", 1, 0, 'a'},
        {"pause-us", 1, 0, 'u'}, {"connections", 1, 0, 'c'}, {"warmup", 1, 0, 'w'},      {"requests", 1, 0, 'n'},
        {"for-ms", 1, 0, 'f'},   {"time-limit", 1, 0, 'l'},  {"send-buffer", 1, 0, 's'}, {0, 0, 0, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (option == 'H')
            add_header(optarg);
        else if (number_option(option) != NULL)
            *number_option(option) = strtol(optarg, NULL, 10);
        else if (text_option(option) != NULL)
            *text_option(option) = optarg;
        else
            exit(2);
    }
    if (options.to == NULL || options.body_bytes < 0 || options.connections < 1 || options.warmup < 0 ||
        options.connections > CONNECTIONS_MAX || options.requests < 1)
        fail("usage: see the top of load.c");
    server = parse_address(options.to);
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    make_request();
    sink = warm_memory(SINK_BYTES);
    connections = calloc((size_t)options.connections, sizeof *connections);
    latencies_ns = calloc((size_t)(options.connections * options.requests), sizeof *latencies_ns);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || latencies_ns == NULL || epoll_fd < 0)
        die("load");
    for (long i = 0; i < options.connections; i++)
        connections[i].fd = -1;
    run((size_t)(options.connections * options.requests));
    print_result(now_ns());
    return 0;
}
