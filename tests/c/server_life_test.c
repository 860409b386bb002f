/* Tests of the whole server's life: start, drain, stop, fork, addresses, and what it survives. */
#include "service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define SUM_OF_NOTHING "POST /sum HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"

/* ---- start, drain, stop ---- */

TEST(two_hundred_lives_leave_no_descriptor_thread_or_mapping)
{
    size_t descriptors = 0, threads = 0, maps = 0;
    for (int i = 0; i < 200; i++) {
        struct service service;
        service_start(&service, NULL);
        if (i % 10 == 0)
            CHECK_EQ(status_of(service.port, SUM_OF_NOTHING), 200);
        if (i % 2 == 0)
            fpred_server_drain(service.server);
        else
            fpred_server_stop(service.server);
        service_end(&service);
        if (i == 0) { /* after the first, which may set something up for good */
            descriptors = open_descriptors();
            threads = live_threads();
            maps = mappings();
        }
    }
    CHECK_EQ(open_descriptors(), descriptors);
    CHECK(mappings() < maps + 100);               /* an allocator may want some */
    CHECK(COMES_TRUE(live_threads() == threads)); /* a joined thread leaves /proc a moment later */
}

TEST(a_server_that_was_never_started_leaves_nothing)
{
    size_t descriptors = open_descriptors();
    for (int i = 0; i < 10; i++) {
        struct service service;
        service_new(&service, NULL);
        service_listen(&service);
        fpred_server_free(service.server);
    }
    CHECK_EQ(open_descriptors(), descriptors);
}

TEST(drain_answers_what_was_accepted_and_refuses_nobody_in_between)
{
    struct service service;
    struct client clients[6], idle, late;
    service_start(&service, NULL);
    CHECK(client_connect(&idle, service.port));
    CHECK(client_say(&idle, SUM_OF_NOTHING) && client_gets_sum(&idle, "", 0));
    for (size_t i = 0; i < 5; i++)
        CHECK(client_connect(&clients[i], service.port) && client_post(&clients[i], "/hold", "x", 1));
    CHECK(client_connect(&clients[5], service.port) && client_post_head(&clients[5], "/sum", 2)); /* body under way */
    CHECK(COMES_TRUE(service_stats(&service).queued == 4 && service_stats(&service).requests == 7));
    fpred_server_drain(service.server);
    CHECK(fpred_server_is_draining(service.server));
    CHECK(client_is_at_end(&idle)); /* that is: closed, in time */
    CHECK(!client_connect(&late, service.port));
    CHECK_EQ(fpred_server_join(service.server, 0), FPRED_TIMEOUT);
    service_open(&service);
    CHECK(client_say(&clients[5], "ab"));
    for (size_t i = 0; i < 6; i++) {
        struct answer answer = client_read(&clients[i]);
        CHECK_EQ(answer.status, 200);
        CHECK(answer.closes);
        free(answer.body);
        CHECK(client_is_at_end(&clients[i]));
        client_close(&clients[i]);
    }
    client_close(&idle);
    client_close(&late);
    service_end(&service);
    CHECK_EQ(atomic_load(&service.handled), 7);
}

TEST(a_drain_that_is_overdue_stops)
{
    struct fpred_config config = config_for_tests();
    config.graceful_timeout_ms = 100;
    struct service service;
    struct client client;
    service_start(&service, &config);
    CHECK(client_connect(&client, service.port) && client_post(&client, "/hold", "x", 1));
    CHECK(COMES_TRUE(atomic_load(&service.holding) == 1));
    fpred_server_drain(service.server);
    service_end(&service);
    CHECK_EQ(client_status(&client), 0);
    client_close(&client);
}

TEST(stop_drops_what_is_queued_and_owners_of_late_replies_come_back)
{
    struct service service;
    struct client clients[10];
    service_start(&service, NULL);
    for (size_t i = 0; i < 10; i++) {
        CHECK(client_connect(&clients[i], service.port));
        CHECK(client_post(&clients[i], i == 0 ? "/hold" : "/own", "x", 1));
        CHECK(COMES_TRUE(i == 0 ? atomic_load(&service.holding) == 1 : service_stats(&service).queued == i));
    }
    fpred_server_stop(service.server);
    CHECK_EQ(fpred_server_join(service.server, WAIT_MS), FPRED_OK);
    CHECK_EQ(service_stats(&service).running, 1);
    CHECK_EQ(service_stats(&service).queued, 0);
    service_end(&service);
    CHECK_EQ(atomic_load(&service.handled), 1);
    for (size_t i = 0; i < 10; i++) {
        CHECK_EQ(client_status(&clients[i]), 0);
        client_close(&clients[i]);
    }
}

/* The order that pyext can't prevent: the server goes while a thread still has an exchange. */
TEST(an_exchange_and_its_slot_outlive_their_server)
{
    struct service service;
    struct client client;
    struct fpred_exchange *exchange;
    service_new(&service, NULL);
    service_listen(&service);
    CHECK_EQ(fpred_server_start(service.server), FPRED_OK);
    fpred_server_set_ready(service.server);
    CHECK(client_connect(&client, service.port) && client_post(&client, "/sum", "abc", 3));
    CHECK_EQ(fpred_server_take(service.server, &exchange), FPRED_OK);
    fpred_server_stop(service.server);
    CHECK_EQ(fpred_server_join(service.server, WAIT_MS), FPRED_OK);
    fpred_server_free(service.server);
    CHECK(fpred_exchange_is_gone(exchange));
    struct fpred_slot *slot = fpred_exchange_take_slot(exchange);
    struct fpred_slice part = {"ok", 2};
    struct fpred_reply reply = {.status = 200, .parts = &part, .part_count = 1, .copy = true};
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
    CHECK(memcmp(fpred_slot_payload(slot), "abc", 3) == 0);
    fpred_slot_release(slot);
    client_close(&client);
}

TEST(several_servers_live_side_by_side)
{
    struct service services[5];
    for (size_t i = 0; i < 5; i++)
        service_start(&services[i], NULL);
    for (size_t i = 0; i < 5; i++)
        CHECK_EQ(status_of(services[i].port, SUM_OF_NOTHING), 200);
    service_stop(&services[2]);
    for (size_t i = 0; i < 5; i++)
        if (i != 2) {
            CHECK_EQ(status_of(services[i].port, SUM_OF_NOTHING), 200);
            service_stop(&services[i]);
        }
}

TEST(bytes_on_the_signal_socket_drain)
{
    struct service service;
    int pair[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    service_new(&service, NULL);
    service_listen(&service);
    fpred_server_watch_signals(service.server, pair[0], SIGUSR1);
    service_run(&service);
    CHECK_EQ(write(pair[1], "\x1c", 1), 1); /* SIGWINCH: not one that counts */
    CHECK_EQ(write(pair[1], "\x0f", 1), 1);
    CHECK_EQ(fpred_server_join(service.server, 5000), FPRED_OK); /* drained; watching goes on */
    fpred_server_stop(service.server);
    service_end(&service);
    close(pair[0]);
    close(pair[1]);
}

/* ---- addresses ---- */

TEST(a_port_in_use_is_an_error_at_once)
{
    struct service first, second;
    const char *detail;
    int port;
    service_start(&first, NULL);
    service_new(&second, NULL);
    CHECK_EQ(fpred_server_listen_tcp(second.server, "127.0.0.1", first.port, &port, &detail), FPRED_SYSTEM);
    CHECK_EQ(errno, EADDRINUSE);
    CHECK(detail == NULL);
    fpred_server_free(second.server);
    service_stop(&first);
    service_new(&second, NULL); /* and free again at once */
    CHECK_EQ(fpred_server_listen_tcp(second.server, "127.0.0.1", first.port, &port, &detail), FPRED_OK);
    CHECK_EQ(port, first.port);
    fpred_server_free(second.server);
}

static char folder[64], path[128];

static void make_path(void)
{
    strcpy(folder, "/tmp/fpred-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/socket", folder);
}

static bool connect_unix(struct client *client)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    client_wrap(client, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return connect(client->fd, (struct sockaddr *)&address, sizeof address) == 0;
}

static bool path_exists(void)
{
    return access(path, F_OK) == 0;
}

TEST(a_unix_socket_has_its_mode_serves_and_is_removed)
{
    struct service service;
    struct client client;
    struct stat found;
    const char *detail;
    char *body = random_bytes(5 * MIB, 1);
    make_path();
    service_new(&service, NULL);
    CHECK_EQ(fpred_server_listen_unix(service.server, path, 0600, &detail), FPRED_OK);
    CHECK_EQ(stat(path, &found), 0);
    CHECK_EQ(found.st_mode & 07777, 0600);
    service_run(&service);
    CHECK(connect_unix(&client));
    CHECK(client_post(&client, "/own", body, 5 * MIB) && client_gets(&client, body, 5 * MIB));
    client_close(&client);
    service_stop(&service);
    CHECK(!path_exists());
    rmdir(folder);
    free(body);
}

TEST(only_a_dead_unix_socket_is_replaced)
{
    struct service first, second;
    const char *detail;
    make_path();
    service_new(&first, NULL);
    CHECK_EQ(fpred_server_listen_unix(first.server, path, 0600, &detail), FPRED_OK);
    service_run(&first);
    service_new(&second, NULL);
    CHECK_EQ(fpred_server_listen_unix(second.server, path, 0600, &detail), FPRED_SYSTEM);
    CHECK_EQ(errno, EADDRINUSE);
    service_stop(&first);

    struct sockaddr_un address = {.sun_family = AF_UNIX}; /* one that nobody listens at */
    strcpy(address.sun_path, path);
    int dead = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(dead, (struct sockaddr *)&address, sizeof address), 0);
    close(dead);
    CHECK_EQ(fpred_server_listen_unix(second.server, path, 0600, &detail), FPRED_OK);
    fpred_server_free(second.server);
    CHECK(!path_exists());

    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)); /* no socket at all */
    service_new(&second, NULL);
    CHECK_EQ(fpred_server_listen_unix(second.server, path, 0600, &detail), FPRED_SYSTEM);
    CHECK_EQ(errno, EEXIST);
    fpred_server_free(second.server);
    CHECK(path_exists());
    unlink(path);
    rmdir(folder);
}

TEST(a_unix_socket_that_somebody_put_in_our_place_stays)
{
    struct service first, second;
    struct client client;
    const char *detail;
    make_path();
    service_new(&first, NULL);
    CHECK_EQ(fpred_server_listen_unix(first.server, path, 0600, &detail), FPRED_OK);
    service_run(&first);
    unlink(path);
    service_new(&second, NULL);
    CHECK_EQ(fpred_server_listen_unix(second.server, path, 0600, &detail), FPRED_OK);
    service_run(&second);
    service_stop(&first);
    CHECK(path_exists());
    CHECK(connect_unix(&client) && client_say(&client, SUM_OF_NOTHING) && client_gets_sum(&client, "", 0));
    client_close(&client);
    service_stop(&second);
    CHECK(!path_exists());
    rmdir(folder);
}

TEST(an_inherited_listener_serves_and_stays_the_callers)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), pipes[2];
    char name[128], expected[128];
    const char *detail;
    struct service service;
    service_new(&service, NULL);
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(fpred_server_listen_fd(service.server, fd, name, sizeof name, &detail), FPRED_SYSTEM);
    CHECK(detail != NULL); /* it doesn't listen yet */
    CHECK_EQ(pipe(pipes), 0);
    CHECK_EQ(fpred_server_listen_fd(service.server, pipes[0], name, sizeof name, &detail), FPRED_SYSTEM);
    CHECK(detail != NULL);
    CHECK_EQ(fpred_server_listen_fd(service.server, 1000, name, sizeof name, &detail), FPRED_SYSTEM);
    CHECK(detail != NULL);
    CHECK_EQ(listen(fd, 16), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    CHECK_EQ(fpred_server_listen_fd(service.server, fd, name, sizeof name, &detail), FPRED_OK);
    snprintf(expected, sizeof expected, "127.0.0.1:%d", ntohs(address.sin_port));
    CHECK(strcmp(name, expected) == 0);
    service_run(&service);
    CHECK_EQ(status_of(ntohs(address.sin_port), SUM_OF_NOTHING), 200);
    service_stop(&service);
    CHECK(fcntl(fd, F_GETFD) != -1);
    close(fd);
    close(pipes[0]);
    close(pipes[1]);
}

TESTS(&check__two_hundred_lives_leave_no_descriptor_thread_or_mapping,
      &check__a_server_that_was_never_started_leaves_nothing,
      &check__drain_answers_what_was_accepted_and_refuses_nobody_in_between, &check__a_drain_that_is_overdue_stops,
      &check__stop_drops_what_is_queued_and_owners_of_late_replies_come_back,
      &check__an_exchange_and_its_slot_outlive_their_server, &check__several_servers_live_side_by_side,
      &check__bytes_on_the_signal_socket_drain, &check__a_port_in_use_is_an_error_at_once,
      &check__a_unix_socket_has_its_mode_serves_and_is_removed, &check__only_a_dead_unix_socket_is_replaced,
      &check__a_unix_socket_that_somebody_put_in_our_place_stays,
      &check__an_inherited_listener_serves_and_stays_the_callers)
