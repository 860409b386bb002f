/* listener: see listener.h. */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 4096 /* the kernel clips it to net.core.somaxconn */
#define ACCEPT_TURN 64
#define RETRY_MS 100
#ifdef SO_PASSPIDFD
#define PASS_PIDFD SO_PASSPIDFD
#else
#define PASS_PIDFD 76 /* Linux 6.5; older headers don't know it */
#endif
#define UNIX_SNDBUF (1 << 20) /* answers on a Unix socket: the default of 208 KiB costs a wake for each of it */

struct fpred__listener {
    struct fpred__listener *next;
    struct fpred__listeners *listeners;
    int fd; /* owned */
    size_t fd_place;
    h2o_socket_t *socket; /* over a duplicate, so that it can be made anew; NULL: none */
    size_t socket_place;
    bool is_tcp;
    char *path; /* of a Unix socket that we bound; owned */
    dev_t device;
    ino_t inode;
};

/* ---- binding: the owner's thread ---- */

static enum fpred_status add(struct fpred__listeners *listeners, int fd, bool is_tcp, struct fpred__listener **added)
{
    struct fpred__listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return FPRED_NOMEM;
    listener->listeners = listeners;
    listener->fd = fd;
    listener->is_tcp = is_tcp;
    listener->fd_place = fpred__fdset_add(listeners->http1->fds, fd);
    listener->next = listeners->first;
    listeners->first = listener;
    *added = listener;
    return FPRED_OK;
}

/* Closes fd, keeping errno. */
static int close_failed(int fd)
{
    int error = errno;
    if (fd != -1)
        close(fd);
    errno = error;
    return -1;
}

/* A bound, listening socket, or -1 with errno. */
static int bind_tcp(const struct addrinfo *address)
{
    int on = 1, fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == -1 || listen(fd, BACKLOG) == -1)
        return close_failed(fd);
    return fd;
}

static int port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &len) == -1)
        return -1;
    return (int)h2o_socket_getport((struct sockaddr *)&address);
}

enum fpred_status fpred__listen_tcp(struct fpred__listeners *listeners, const char *host, int port, int *bound_port,
                                    const char **detail)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *addresses = NULL;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int error = getaddrinfo(host, service, &hints, &addresses);
    if (error != 0) {
        if (error != EAI_SYSTEM) {
            *detail = gai_strerror(error);
            errno = 0;
        }
        return FPRED_SYSTEM;
    }
    /* The first address that can be bound; an address in use is an error, not a reason to take the next. */
    int fd = -1;
    for (struct addrinfo *address = addresses; address != NULL && fd == -1; address = address->ai_next) {
        fd = bind_tcp(address);
        if (fd == -1 && errno != EADDRNOTAVAIL && errno != EAFNOSUPPORT)
            break;
    }
    error = errno;
    freeaddrinfo(addresses);
    errno = error;
    if (fd == -1)
        return FPRED_SYSTEM;
    *bound_port = port_of(fd);
    struct fpred__listener *added;
    if (add(listeners, fd, true, &added) == FPRED_OK)
        return FPRED_OK;
    close(fd);
    return FPRED_NOMEM;
}

/* Removes a socket's file that nobody answers at. 0, or -1 with EADDRINUSE where somebody does, or another errno. */
static int clear_stale(const struct sockaddr_un *address)
{
    struct stat found;
    if (lstat(address->sun_path, &found) == -1)
        return errno == ENOENT ? 0 : -1;
    if (!S_ISSOCK(found.st_mode)) {
        errno = EEXIST;
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return -1;
    bool refused = connect(fd, (const struct sockaddr *)address, sizeof *address) == -1 && errno == ECONNREFUSED;
    close(fd);
    if (!refused) {
        errno = EADDRINUSE;
        return -1;
    }
    struct stat now; /* another server may have come first */
    if (lstat(address->sun_path, &now) == 0 && (now.st_dev != found.st_dev || now.st_ino != found.st_ino)) {
        errno = EADDRINUSE;
        return -1;
    }
    return unlink(address->sun_path) == -1 && errno != ENOENT ? -1 : 0;
}

/* The file appears with its mode: fchmod on the unbound socket, which bind then narrows by the umask; widening it again
 * afterwards opens nothing that was not asked for. */
static int bind_unix(const struct sockaddr_un *address, unsigned mode)
{
    if (clear_stale(address) == -1)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return -1;
    if (fchmod(fd, mode) == -1 || bind(fd, (const struct sockaddr *)address, sizeof *address) == -1)
        return close_failed(fd);
    if (chmod(address->sun_path, mode) == -1 || listen(fd, BACKLOG) == -1) {
        unlink(address->sun_path);
        return close_failed(fd);
    }
    return fd;
}

enum fpred_status fpred__listen_unix(struct fpred__listeners *listeners, const char *path, unsigned mode,
                                     const char **detail)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof address.sun_path) {
        *detail = "a Unix socket's path has 1 to 107 bytes";
        errno = 0;
        return FPRED_SYSTEM;
    }
    strcpy(address.sun_path, path);
    int fd = bind_unix(&address, mode);
    if (fd == -1)
        return FPRED_SYSTEM;
    struct stat bound;
    struct fpred__listener *added = NULL;
    char *copy = strdup(path);
    if (copy == NULL || stat(path, &bound) == -1 || add(listeners, fd, false, &added) != FPRED_OK) {
        free(copy);
        unlink(path);
        close(fd);
        return FPRED_NOMEM;
    }
    added->path = copy;
    added->device = bound.st_dev;
    added->inode = bound.st_ino;
    return FPRED_OK;
}

/* What is wrong with an inherited descriptor, or NULL. */
static const char *why_not(int fd, int *family)
{
    int type = 0, listening = 0;
    struct sockaddr_storage address;
    socklen_t len = sizeof type, address_len = sizeof address;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == -1)
        return errno == EBADF ? "it is not open" : "it is not a socket";
    len = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == -1 || !listening || type != SOCK_STREAM)
        return "it is not a listening stream socket";
    if (getsockname(fd, (struct sockaddr *)&address, &address_len) == -1)
        return "its address can't be read";
    *family = address.ss_family;
    return *family == AF_INET || *family == AF_INET6 || *family == AF_UNIX ? NULL
                                                                           : "it is neither a TCP nor a Unix socket";
}

static void name_fd(int fd, int family, char *name, size_t bytes)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    char host[NI_MAXHOST];
    getsockname(fd, (struct sockaddr *)&address, &len);
    if (family == AF_UNIX) {
        const struct sockaddr_un *path = (const struct sockaddr_un *)&address;
        snprintf(name, bytes, "unix:%.*s", (int)sizeof path->sun_path, path->sun_path);
        return;
    }
    size_t host_len = h2o_socket_getnumerichost((struct sockaddr *)&address, len, host);
    snprintf(name, bytes, family == AF_INET6 ? "[%.*s]:%d" : "%.*s:%d", host_len == SIZE_MAX ? 0 : (int)host_len, host,
             port_of(fd));
}

/* Connections inherit what else is sent along with bytes, and it would take the room of a client's memory. */
static void ask_for_descriptors_alone(int fd)
{
    static const int options[] = {SO_PASSCRED, SO_PASSSEC, PASS_PIDFD};
    const int off = 0;
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        setsockopt(fd, SOL_SOCKET, options[i], &off, sizeof off); /* what the kernel doesn't know isn't on */
}

enum fpred_status fpred__listen_fd(struct fpred__listeners *listeners, int fd, char *name, size_t name_bytes,
                                   const char **detail)
{
    int family = AF_UNSPEC;
    *detail = why_not(fd, &family);
    if (*detail != NULL) {
        errno = 0;
        return FPRED_SYSTEM;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy == -1)
        return FPRED_SYSTEM;
    name_fd(copy, family, name, name_bytes);
    if (family == AF_UNIX)
        ask_for_descriptors_alone(copy);
    struct fpred__listener *added;
    if (add(listeners, copy, family != AF_UNIX, &added) == FPRED_OK)
        return FPRED_OK;
    close(copy);
    return FPRED_NOMEM;
}

/* ---- accepting: the loop thread ---- */

static void on_acceptable(h2o_socket_t *socket, const char *error);

static void set_accepting(struct fpred__listeners *listeners, bool on)
{
    listeners->paused = !on;
    for (struct fpred__listener *listener = listeners->first; listener != NULL; listener = listener->next) {
        if (listener->socket == NULL)
            continue;
        if (on)
            h2o_socket_read_start(listener->socket, on_acceptable);
        else
            h2o_socket_read_stop(listener->socket);
    }
}

static bool is_full(const struct fpred__http1 *http1)
{
    return http1->all.count >= http1->config->limit_concurrency;
}

/* Whether one more connection may come: there is room, or an idle one that can make some. */
static bool may_accept(const struct fpred__listeners *listeners)
{
    return !is_full(listeners->http1) || listeners->http1->idle.first != NULL || listeners->http1->draining;
}

static void pause_accepting(struct fpred__listeners *listeners, bool retry)
{
    set_accepting(listeners, false);
    if (retry)
        fpred__clock_set(listeners->http1->clock, &listeners->retry, fpred__clock_now_ms() + RETRY_MS);
}

/* The connection is gone again; see accept(2). Whatever else there is may last: descriptors or memory are exhausted,
 * somebody has shut the socket down, a policy forbids it. */
static bool is_gone(int error)
{
    return error == ECONNABORTED || error == EINTR || error == EPROTO || error == ENOPROTOOPT || error == EOPNOTSUPP ||
           error == ENETDOWN || error == ENETUNREACH || error == EHOSTDOWN || error == EHOSTUNREACH || error == ENONET;
}

/* Accepts one. 0 or an errno. */
static int accept_one(struct fpred__listener *listener)
{
    struct fpred__http1 *http1 = listener->listeners->http1;
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1, bytes = UNIX_SNDBUF;
    if (fd == -1)
        return errno;
    if (is_full(http1) && !http1->draining)
        fpred__http1_close_idle(http1); /* only now is it known that its place is wanted */
    if (listener->is_tcp)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    else
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    int flags = H2O_SOCKET_FLAG_DONT_READ | H2O_SOCKET_FLAG_IS_ACCEPTED_CONNECTION;
    h2o_socket_t *socket = h2o_evloop_socket_create(http1->ctx->loop, fd, flags);
    return fpred__http1_accept(http1, socket, listener->is_tcp) == FPRED_OK ? 0 : ENOMEM;
}

/* Up to `turn` connections; pauses where it must: polling is level-triggered and would come back at once. */
static void accept_some(struct fpred__listener *listener, int turn)
{
    while (turn-- > 0) {
        if (!may_accept(listener->listeners)) {
            pause_accepting(listener->listeners, false);
            return;
        }
        int error = accept_one(listener);
        if (error == EAGAIN || error == EWOULDBLOCK)
            return;
        if (error != 0 && !is_gone(error)) {
            pause_accepting(listener->listeners, true);
            return;
        }
    }
}

static void on_acceptable(h2o_socket_t *socket, const char *error)
{
    (void)error;
    accept_some(socket->data, ACCEPT_TURN);
}

static void close_socket(struct fpred__listener *listener)
{
    if (listener->socket == NULL)
        return;
    fpred__fdset_remove(listener->listeners->http1->fds, listener->socket_place);
    h2o_socket_close(listener->socket);
    listener->socket = NULL;
}

static bool open_socket(struct fpred__listener *listener)
{
    struct fpred__http1 *http1 = listener->listeners->http1;
    int copy = fcntl(listener->fd, F_DUPFD_CLOEXEC, 3);
    if (copy == -1)
        return false;
    listener->socket_place = fpred__fdset_add(http1->fds, copy);
    listener->socket = h2o_evloop_socket_create(http1->ctx->loop, copy, H2O_SOCKET_FLAG_DONT_READ);
    listener->socket->data = listener;
    return true;
}

enum fpred_status fpred__listeners_reopen(struct fpred__listeners *listeners)
{
    bool all = true;
    for (struct fpred__listener *listener = listeners->first; listener != NULL; listener = listener->next) {
        close_socket(listener);
        all = open_socket(listener) && all;
    }
    if (all)
        set_accepting(listeners, true);
    else
        pause_accepting(listeners, true);
    return all ? FPRED_OK : FPRED_SYSTEM;
}

/* After descriptors or memory ran out. */
static void on_retry(struct fpred__deadline *deadline)
{
    struct fpred__listeners *listeners = H2O_STRUCT_FROM_MEMBER(struct fpred__listeners, retry, deadline);
    if (listeners->paused)
        fpred__listeners_reopen(listeners);
}

enum fpred_status fpred__listeners_open(struct fpred__listeners *listeners)
{
    listeners->retry = (struct fpred__deadline){.due_ms = FPRED__NEVER};
    enum fpred_status status = fpred__clock_add(listeners->http1->clock, &listeners->retry);
    if (status != FPRED_OK)
        return status;
    listeners->retry.on_due = on_retry;
    return fpred__listeners_reopen(listeners);
}

void fpred__listeners_resume(struct fpred__listeners *listeners)
{
    if (listeners->paused && listeners->retry.due_ms == FPRED__NEVER)
        set_accepting(listeners, true);
}

void fpred__listeners_accept_rest(struct fpred__listeners *listeners)
{
    for (struct fpred__listener *listener = listeners->first; listener != NULL; listener = listener->next)
        accept_some(listener, BACKLOG);
}

static void remove_file(const struct fpred__listener *listener)
{
    struct stat found;
    if (listener->path != NULL && lstat(listener->path, &found) == 0 && found.st_dev == listener->device &&
        found.st_ino == listener->inode)
        unlink(listener->path);
}

void fpred__listeners_close(struct fpred__listeners *listeners)
{
    while (listeners->first != NULL) {
        struct fpred__listener *listener = listeners->first;
        listeners->first = listener->next;
        remove_file(listener);
        fpred__fdset_remove(listeners->http1->fds, listener->fd_place);
        close_socket(listener);
        close(listener->fd);
        free(listener->path);
        free(listener);
    }
    if (listeners->retry.on_due != NULL)
        fpred__clock_remove(listeners->http1->clock, &listeners->retry);
    listeners->retry.on_due = NULL;
}
