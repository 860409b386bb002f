/* The least that a server can do, for the others to be compared with:
 *
 *     raw PORT|/path BODY_BYTES_MAX ANSWER_BYTES_MAX
 *
 * Reads a head, receives as many bytes as its Content-Length says into memory that is warm already, and answers 200.
 * GET or POST /answer/N is answered with N bytes from warm memory, an inference of the Open Inference Protocol with
 * always the same answer, anything else with "ok". It parses nothing, checks nothing, logs nothing and hands nothing to
 * Python. A thread for each connection; no thread touches another's memory.
 *
 * Receiving: non-blocking recv and poll, with SO_RCVLOWAT at 1 MiB so that a wake brings a share worth waking for.
 * Sending: non-blocking sendmsg and poll. TCP sizes its send buffer itself, as a server on a real network must let it
 * (a fixed 1 MiB may be faster on loopback); a Unix socket gets the buffer that our own server asks for. */
#define _GNU_SOURCE
#include "net.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

/* Three numbers, as the handler of the others answers. */
#define INFERENCE                                                                                                 \
    "{\"model_name\":\"timed\",\"model_version\":\"1\",\"outputs\":[{\"name\":\"OUTPUT0\",\"datatype\":\"FP64\"," \
    "\"shape\":[3],\"data\":[0,0,0]}]}"

enum { HEAD_MAX = 65536, LOWAT = 1 << 20, LOWAT_LEAST = 65536, UNIX_SEND_BUFFER = 1 << 20 };

/* All set once before the first connection. */
static struct address address;
static size_t body_bytes_max, answer_bytes_max;
static char *answer;

/* Buffers of connections that ended, so that a new one finds memory warm. Guarded by spare_mutex. */
struct spare {
    struct spare *next;
};
static pthread_mutex_t spare_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct spare *spares;

static char *take_buffer(void)
{
    pthread_mutex_lock(&spare_mutex);
    struct spare *first = spares;
    if (first != NULL)
        spares = first->next;
    pthread_mutex_unlock(&spare_mutex);
    return first != NULL ? (char *)first : warm_memory(body_bytes_max + sizeof *first);
}

static void give_buffer(char *buffer)
{
    struct spare *spare = (struct spare *)buffer;
    pthread_mutex_lock(&spare_mutex);
    spare->next = spares;
    spares = spare;
    pthread_mutex_unlock(&spare_mutex);
}

/* Near the end of a body the kernel must not wait for more than is still to come. */
static void set_low_water(int fd, int *now, size_t rest)
{
    int want = rest > LOWAT ? LOWAT : (int)rest;
    if (want < LOWAT_LEAST)
        want = 1;
    if (want != *now && is_tcp(&address) && setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof want) == 0)
        *now = want;
}

/* Receives `bytes` more. 0, or -1 when the client has gone. */
static int receive(int fd, char *into, size_t bytes)
{
    int low_water = 1;
    while (bytes > 0) {
        ssize_t got = recv(fd, into, bytes, MSG_DONTWAIT);
        if (got > 0) {
            into += got;
            bytes -= (size_t)got;
        } else if (got < 0 && errno == EAGAIN) {
            set_low_water(fd, &low_water, bytes);
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1);
        } else if (got == 0 || errno != EINTR) {
            return -1;
        }
    }
    set_low_water(fd, &low_water, 1);
    return 0;
}

/* Reads a head into `head`, ends it with a NUL, and takes what came behind it to `body`. The bytes there, or -1. */
static ssize_t read_head(int fd, char *head, char *body)
{
    size_t have = 0;
    while (have < HEAD_MAX - 1) {
        ssize_t got = recv(fd, head + have, HEAD_MAX - 1 - have, 0);
        if (got <= 0)
            return -1;
        have += (size_t)got;
        char *end = memmem(head, have, "\r\n\r\n", 4);
        if (end != NULL) {
            size_t behind = have - (size_t)(end + 4 - head);
            if (behind > body_bytes_max)
                return -1;
            memcpy(body, end + 4, behind);
            end[2] = '\0';
            return (ssize_t)behind;
        }
    }
    return -1;
}

static int send_answer(int fd, const char *what, size_t bytes)
{
    char head[128];
    int head_bytes = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", bytes);
    struct iovec parts[2] = {{head, (size_t)head_bytes}, {(char *)what, bytes}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    while (parts[0].iov_len + parts[1].iov_len > 0) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
            continue;
        }
        if (sent < 0)
            return -1;
        for (int i = 0; i < 2; i++) {
            size_t share = (size_t)sent < parts[i].iov_len ? (size_t)sent : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + share;
            parts[i].iov_len -= share;
            sent -= (ssize_t)share;
        }
    }
    return 0;
}

static int answer_to(int fd, const char *head)
{
    const char *end = strchr(head, '\r');
    const char *infer = strstr(head, "/infer "), *target = strstr(head, " /answer/");
    if (infer != NULL && infer < end)
        return send_answer(fd, INFERENCE, sizeof INFERENCE - 1);
    if (target == NULL || target > end)
        return send_answer(fd, "ok", 2);
    size_t wanted = strtoul(target + strlen(" /answer/"), NULL, 10);
    return wanted > answer_bytes_max ? -1 : send_answer(fd, answer, wanted);
}

static void *serve(void *argument)
{
    int fd = (int)(intptr_t)argument;
    char head[HEAD_MAX], *body = take_buffer();
    no_delay(&address, fd);
    if (!is_tcp(&address))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){UNIX_SEND_BUFFER}, sizeof(int));
    for (;;) {
        ssize_t have = read_head(fd, head, body);
        if (have < 0)
            break;
        long long length = content_length(head, 0);
        if (length < have || (unsigned long long)length > body_bytes_max)
            break;
        if (receive(fd, body + have, (size_t)(length - have)) != 0 || answer_to(fd, head) != 0)
            break;
    }
    give_buffer(body);
    close(fd);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: raw PORT|/path BODY_BYTES_MAX ANSWER_BYTES_MAX\n");
        return 2;
    }
    address = parse_address(argv[1]);
    body_bytes_max = strtoul(argv[2], NULL, 10) + HEAD_MAX;
    answer_bytes_max = strtoul(argv[3], NULL, 10);
    answer = warm_memory(answer_bytes_max);
    int listener = open_socket(&address);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, &address.at.any, address.size) != 0 || listen(listener, 128) != 0)
        die(argv[1]);
    give_buffer(take_buffer());
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0)
            pthread_detach(thread);
        else
            close(fd);
    }
}
