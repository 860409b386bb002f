/* A server on a Unix socket whose clients lend their memory: they ask, leave while their request runs, change their
 * memory for another, and go. What came is right, and nothing is left over. */
#include "memory_helpers.h"
#include "region.h"
#include "service.h"

#include <sys/un.h>

#define CLIENTS 4
#define ROUNDS 30
#define MEMORIES 3
#define BYTES ((size_t)300000)

struct worker {
    const char *path;
    pthread_t thread;
    unsigned seed;
    size_t right, wrong;
};

static bool client_connect_unix(struct client *client, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    client_wrap(client, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return connect(client->fd, (struct sockaddr *)&address, sizeof address) == 0;
}

static bool client_lends(struct client *client, const char *path, int fd, size_t offset, size_t bytes)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    char head[256];
    int len =
        snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\nFastpredict-Memfd: offset=%zu; length=%zu\r\n\r\n",
                 path, offset, bytes);
    struct iovec vector = {head, (size_t)len};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(part), &fd, sizeof fd);
    return sendmsg(client->fd, &message, MSG_NOSIGNAL) == len;
}

static unsigned next_random(unsigned *seed)
{
    return (*seed = *seed * 1103515245 + 12345) >> 8;
}

/* Asks with one of its memories after another. True: the connection may go on. */
static bool ask(struct worker *worker, struct client *client, const int *fds, const char *bytes)
{
    size_t offset = next_random(&worker->seed) % BYTES, len = next_random(&worker->seed) % (BYTES - offset);
    unsigned what = next_random(&worker->seed) % 8;
    if (!client_lends(client, what == 0 ? "/own" : "/sum", fds[next_random(&worker->seed) % MEMORIES], offset, len) ||
        what == 1)
        return false; /* it leaves, whatever becomes of the request */
    bool right = what == 0 ? client_gets(client, bytes + offset, len) : client_gets_sum(client, bytes + offset, len);
    *(right ? &worker->right : &worker->wrong) += 1;
    return right;
}

static void *client_main(void *argument)
{
    struct worker *worker = argument;
    char *bytes = random_bytes(BYTES, worker->seed);
    for (int round = 0; round < ROUNDS; round++) {
        struct client client;
        int fds[MEMORIES];
        for (int i = 0; i < MEMORIES; i++) {
            fds[i] = memory_of(0, 0);
            if (write(fds[i], bytes, BYTES) != (ssize_t)BYTES || fcntl(fds[i], F_ADD_SEALS, F_SEAL_SHRINK) != 0)
                abort();
        }
        if (!client_connect_unix(&client, worker->path))
            worker->wrong++;
        for (int i = 0; i < 20 && ask(worker, &client, fds, bytes); i++)
            ;
        client_close(&client);
        for (int i = 0; i < MEMORIES; i++)
            close(fds[i]);
    }
    free(bytes);
    return NULL;
}

TEST(memory_is_lent_from_all_sides)
{
    struct service service;
    struct worker workers[CLIENTS] = {0};
    const char *detail;
    char path[64];
    size_t right = 0;
    snprintf(path, sizeof path, "/tmp/fastpredict-test-%d", (int)getpid());
    service_new(&service, NULL);
    service.predict_count = 2;
    CHECK_EQ(fpred_server_listen_unix(service.server, path, 0600, &detail), FPRED_OK);
    service_run(&service);
    for (unsigned i = 0; i < CLIENTS; i++) {
        workers[i] = (struct worker){.path = path, .seed = i + 1};
        pthread_create(&workers[i].thread, NULL, client_main, &workers[i]);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(workers[i].thread, NULL);
        right += workers[i].right;
        CHECK_EQ(workers[i].wrong, 0);
    }
    CHECK(right > CLIENTS * ROUNDS);
    CHECK(COMES_TRUE(service_stats(&service).connections == 0));
    CHECK(COMES_TRUE(fpred__region_count() == 0));
    service_stop(&service);
}

TESTS(&check__memory_is_lent_from_all_sides)
