/* Tests of what the whole server survives: fork, no memory, no descriptors, a stopped process, a second signal. */
#include "exchange.h"
#include "mailbox.h"
#include "service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define SUM_OF_NOTHING "POST /sum HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"

/* The exit status of a child, or 128 + the signal that ended it; -1 when it doesn't end in time. */
static int status_of_child(pid_t child)
{
    int status = 0;
    if (!COMES_TRUE(waitpid(child, &status, WNOHANG) == child)) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        return -1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- fork ---- */

TEST(a_forked_child_closes_everything_and_the_parent_serves_on)
{
    size_t before = open_descriptors();
    struct service service;
    struct client kept, held;
    char *body = random_bytes(3 * MIB, 1);
    service_start(&service, NULL);
    CHECK(client_connect(&kept, service.port));
    CHECK(client_post_head(&kept, "/sum", 3 * MIB) && client_send(&kept, body, MIB));
    CHECK(client_connect(&held, service.port) && client_post(&held, "/hold", "x", 1));
    CHECK(COMES_TRUE(atomic_load(&service.holding) == 1));
    pid_t child = fork();
    if (child == 0) {
        fpred_server_forked(service.server);
        fpred_server_forked(service.server); /* harmless */
        close(kept.fd);
        close(held.fd);
        _exit(open_descriptors() == before ? 0 : (int)(100 + open_descriptors() - before));
    }
    CHECK_EQ(status_of_child(child), 0);
    CHECK(client_send(&kept, body + MIB, 2 * MIB));
    service_open(&service);
    CHECK(client_gets_sum(&held, "x", 1));
    CHECK(client_gets_sum(&kept, body, 3 * MIB));
    CHECK_EQ(status_of(service.port, SUM_OF_NOTHING), 200);
    client_close(&kept);
    client_close(&held);
    service_stop(&service);
    free(body);
}

TEST(the_port_is_free_again_while_a_forked_child_lives_on)
{
    struct service service, next;
    const char *detail;
    int port, gate = eventfd(0, EFD_CLOEXEC);
    uint64_t one = 1;
    service_start(&service, NULL);
    CHECK_EQ(status_of(service.port, SUM_OF_NOTHING), 200);
    pid_t child = fork();
    if (child == 0) {
        fpred_server_forked(service.server);
        alarm(60);
        _exit(write(gate, &one, sizeof one) == sizeof one && pause() == 0);
    }
    CHECK_EQ(read(gate, &one, sizeof one), sizeof one);
    service_stop(&service);
    service_new(&next, NULL);
    CHECK_EQ(fpred_server_listen_tcp(next.server, "127.0.0.1", service.port, &port, &detail), FPRED_OK);
    service_run(&next);
    CHECK_EQ(status_of(port, SUM_OF_NOTHING), 200);
    service_stop(&next);
    kill(child, SIGKILL);
    CHECK_EQ(status_of_child(child), 128 + SIGKILL);
    close(gate);
}

/* ---- no memory, no descriptors ---- */

/* fpred_server is opaque, its exchanges aren't: their mailbox holds the slab. */
static struct fpred__slab *slab_of(struct service *service, struct client *client)
{
    struct fpred_exchange *exchange;
    struct fpred_reply reply = {.status = 204};
    CHECK(client_post(client, "/sum", "x", 1));
    CHECK_EQ(fpred_server_take(service->server, &exchange), FPRED_OK);
    struct fpred__slab *slab = fpred__mailbox_slab(exchange->mailbox);
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
    CHECK_EQ(client_status(client), 204);
    return slab;
}

TEST(a_slab_that_fails_is_503_and_the_next_request_works)
{
    struct service service;
    struct client client;
    char *body = random_bytes(3 * MIB, 1);
    service_new(&service, NULL);
    service.predict_count = 0;
    service_listen(&service);
    service_run(&service);
    CHECK(client_connect(&client, service.port));
    struct fpred__slab *slab = slab_of(&service, &client);
    service.predict_count = 1;
    pthread_create(&service.predict[0], NULL, predict_main, &service);
    for (size_t bytes = 1000; bytes <= 3 * MIB; bytes *= 10) {
        fpred__slab_fail(slab, 0, 1);
        CHECK(client_post(&client, "/sum", body, bytes));
        CHECK_EQ(client_status(&client), 503);
        CHECK(client_post(&client, "/sum", body, bytes));
        CHECK(client_gets_sum(&client, body, bytes));
    }
    client_close(&client);
    free(body);
    service_stop(&service);
}

static int64_t cpu_ms(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000LL +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

/* The limit counts the process's descriptors, the test's too: whoever wants to connect has its own already. */
TEST(without_descriptors_the_server_rests_and_recovers)
{
    struct service service;
    struct client open, late[3];
    struct rlimit before, tight;
    service_start(&service, NULL);
    CHECK(client_connect(&open, service.port));
    CHECK(client_say(&open, SUM_OF_NOTHING) && client_gets_sum(&open, "", 0));
    getrlimit(RLIMIT_NOFILE, &before);
    for (size_t i = 0; i < 3; i++)
        client_wrap(&late[i], socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int next = dup(0);
    close(next);
    tight = (struct rlimit){(rlim_t)next, before.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)service.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(connect(late[i].fd, (struct sockaddr *)&address, sizeof address), 0);
        CHECK(client_say(&late[i], SUM_OF_NOTHING));
    }
    int64_t cpu = cpu_ms(), until = now_ms() + 1000;
    size_t answered = 0;
    for (; now_ms() < until; pause_ms(20))
        answered += client_say(&open, SUM_OF_NOTHING) && client_gets_sum(&open, "", 0);
    CHECK(answered >= 10);
    CHECK(cpu_ms() - cpu < 500); /* spinning is 1,000 */
    CHECK_EQ(service_stats(&service).connections, 1);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    for (size_t i = 0; i < 3; i++) {
        CHECK(client_gets_sum(&late[i], "", 0));
        client_close(&late[i]);
    }
    client_close(&open);
    service_stop(&service);
}

TEST(a_start_without_descriptors_is_an_error_not_an_abort)
{
    struct rlimit before, tight;
    getrlimit(RLIMIT_NOFILE, &before);
    size_t descriptors = open_descriptors();
    for (int spare = 0; spare < 24; spare++) {
        struct service service;
        service_new(&service, NULL);
        service_listen(&service);
        int next = dup(0);
        close(next);
        tight = (struct rlimit){(rlim_t)(next + spare), before.rlim_max};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
        enum fpred_status status = fpred_server_start(service.server);
        if (status == FPRED_OK) {
            fpred_server_stop(service.server);
            CHECK_EQ(fpred_server_join(service.server, WAIT_MS), FPRED_OK);
        } else {
            CHECK_EQ(status, FPRED_SYSTEM);
            CHECK_EQ(errno, EMFILE);
        }
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
        fpred_server_free(service.server);
    }
    CHECK_EQ(open_descriptors(), descriptors);
}

TEST(a_limit_of_one_connection_serves_it)
{
    struct fpred_config config = config_for_tests();
    config.limit_concurrency = 1;
    struct service service;
    struct client client;
    service_start(&service, &config);
    CHECK(client_connect(&client, service.port));
    CHECK(COMES_TRUE(service_stats(&service).connections == 1));
    for (int i = 0; i < 3; i++)
        CHECK(client_say(&client, SUM_OF_NOTHING) && client_gets_sum(&client, "", 0));
    client_close(&client);
    service_stop(&service);
}

TEST(at_the_limit_of_connections_the_longest_idle_makes_room)
{
    struct fpred_config config = config_for_tests();
    config.limit_concurrency = 2;
    struct service service;
    struct client clients[4];
    service_start(&service, &config);
    for (size_t i = 0; i < 3; i++) {
        CHECK(client_connect(&clients[i], service.port));
        CHECK(client_say(&clients[i], SUM_OF_NOTHING) && client_gets_sum(&clients[i], "", 0));
    }
    CHECK(client_is_at_end(&clients[0]));
    CHECK(client_post(&clients[1], "/hold", "x", 1) && client_post(&clients[2], "/hold", "y", 1));
    CHECK(COMES_TRUE(atomic_load(&service.holding) == 1 && service_stats(&service).queued == 1));
    CHECK(client_connect(&clients[3], service.port)); /* none is idle: it waits in the backlog */
    CHECK(client_say(&clients[3], SUM_OF_NOTHING));
    service_open(&service);
    CHECK(client_gets_sum(&clients[1], "x", 1) && client_gets_sum(&clients[2], "y", 1));
    client_close(&clients[1]);
    CHECK(client_gets_sum(&clients[3], "", 0));
    client_close(&clients[0]);
    client_close(&clients[2]);
    client_close(&clients[3]);
    service_stop(&service);
}

/* ---- signals ---- */

/* A child that stops and continues this process; it ends by itself. */
static pid_t stopper(int times)
{
    pid_t parent = getpid(), child = fork();
    if (child != 0)
        return child;
    for (int i = 0; i < times; i++) {
        kill(parent, SIGSTOP);
        pause_ms(1);
        kill(parent, SIGCONT);
        pause_ms(1);
    }
    _exit(0);
}

TEST(stopping_and_continuing_the_process_changes_nothing)
{
    struct service service;
    struct client client;
    char *body = random_bytes(100000, 1);
    service_start(&service, NULL);
    CHECK(client_connect(&client, service.port));
    pid_t child = stopper(100);
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        CHECK(client_post(&client, "/sum", body, 100000));
        CHECK(client_gets_sum(&client, body, 100000));
    }
    CHECK_EQ(status, 0);
    client_close(&client);
    free(body);
    service_stop(&service);
}

/* In a child, which the second byte ends. What the child does in between, no test may see in this process. */
static pid_t serve_in_child(int signal_fd, int report_fd, int64_t graceful_ms)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    struct fpred_config config = config_for_tests();
    config.graceful_timeout_ms = graceful_ms;
    static struct service service;
    service_new(&service, &config);
    service_listen(&service);
    fpred_server_watch_signals(service.server, signal_fd, SIGCONT);
    service_run(&service);
    if (write(report_fd, &service.port, sizeof service.port) != sizeof service.port)
        _exit(99);
    alarm(60);
    fpred_server_join(service.server, -1);
    _exit(0);
}

static void drain_with(const char *signals, int64_t graceful_ms, int expected)
{
    int pair[2], report[2], port = 0;
    struct client client;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    CHECK_EQ(pipe(report), 0);
    pid_t child = serve_in_child(pair[0], report[1], graceful_ms);
    CHECK_EQ(read(report[0], &port, sizeof port), sizeof port);
    CHECK(client_connect(&client, port) && client_post(&client, "/hold", "x", 1));
    for (const char *signal = signals; *signal != '\0'; signal++)
        CHECK_EQ(write(pair[1], signal, 1), 1);
    CHECK_EQ(status_of_child(child), expected);
    client_close(&client);
    close(pair[0]);
    close(pair[1]);
    close(report[0]);
    close(report[1]);
}

TEST(a_second_signal_ends_the_process_though_a_handler_runs)
{
    drain_with("\x0f\x02", 20000, 128 + 2);
}

TEST(an_overdue_drain_ends_the_process)
{
    drain_with("\x0f", 100, 1);
}

TESTS(&check__a_forked_child_closes_everything_and_the_parent_serves_on,
      &check__the_port_is_free_again_while_a_forked_child_lives_on,
      &check__a_slab_that_fails_is_503_and_the_next_request_works,
      &check__without_descriptors_the_server_rests_and_recovers,
      &check__a_start_without_descriptors_is_an_error_not_an_abort, &check__a_limit_of_one_connection_serves_it,
      &check__at_the_limit_of_connections_the_longest_idle_makes_room,
      &check__stopping_and_continuing_the_process_changes_nothing,
      &check__a_second_signal_ends_the_process_though_a_handler_runs, &check__an_overdue_drain_ends_the_process)
