/* What the two C programs of the benchmarks share: addresses, memory and heads. Only they include it. */
#ifndef BENCH_NET_H
#define BENCH_NET_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* A loopback address: digits are a TCP port, anything else the path of a Unix socket. */
struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in tcp;
        struct sockaddr_un local;
    } at;
    socklen_t size;
};

static int is_tcp(const struct address *address)
{
    return address->at.any.sa_family == AF_INET;
}

static struct address parse_address(const char *text)
{
    struct address address = {.size = sizeof address.at.tcp};
    char *end;
    unsigned long port = strtoul(text, &end, 10);
    if (*text != '\0' && *end == '\0' && port <= UINT16_MAX) {
        address.at.tcp.sin_family = AF_INET;
        address.at.tcp.sin_port = htons((uint16_t)port);
        address.at.tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return address;
    }
    address.at.local.sun_family = AF_UNIX;
    address.size = sizeof address.at.local;
    if (strlen(text) >= sizeof address.at.local.sun_path) {
        errno = ENAMETOOLONG;
        die(text);
    }
    strcpy(address.at.local.sun_path, text);
    return address;
}

static int open_socket(const struct address *address)
{
    int fd = socket(address->at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    return fd;
}

/* Small answers must not wait for an acknowledgement; on a Unix socket nothing does. */
static void no_delay(const struct address *address, int fd)
{
    if (is_tcp(address))
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

/* Memory that every request uses again: huge pages where the system grants them, touched before the first use. */
static char *warm_memory(size_t bytes)
{
    size_t whole = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    char *mapped = mmap(NULL, whole + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        die("mmap");
    char *start = mapped + (HUGE_PAGE - (uintptr_t)mapped % HUGE_PAGE) % HUGE_PAGE;
    madvise(start, whole, MADV_HUGEPAGE);
    memset(start, 0, whole);
    return start;
}

/* The value of a field in a head that ends in a NUL, or NULL. `name` is given as "\r\nName:". */
static const char *field(const char *head, const char *name)
{
    const char *found = strcasestr(head, name);
    if (found == NULL)
        return NULL;
    found += strlen(name);
    return found + strspn(found, " \t");
}

/* Content-Length, or `otherwise`. The other side is trusted: it is ours, or a server that we chose to measure. */
static long long content_length(const char *head, long long otherwise)
{
    const char *value = field(head, "\r\nContent-Length:");
    return value != NULL ? strtoll(value, NULL, 10) : otherwise;
}

#endif
