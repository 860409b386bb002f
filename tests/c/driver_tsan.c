/* The whole server under ThreadSanitizer: its loop, two predict threads, the control thread, and six clients that do
 * all at once what clients do: whole requests of mixed sizes, uploads cut at random, leaving while their request runs,
 * reading slowly. Started, drained and stopped several times. A report of a race fails the program, as a wrong answer
 * does. FPRED_DRIVER_SECONDS bounds it; 10 when not set. */
#include "service.h"

#include <sched.h>

#define CLIENTS 6
#define ROUNDS 6
#define LARGEST (3 * MIB)

struct driver {
    struct service service;
    const char *bytes; /* LARGEST of them */
    atomic_bool over;
    atomic_size_t answers, wrong;
};

struct worker {
    struct driver *driver;
    pthread_t thread;
    unsigned seed;
};

static unsigned next_random(unsigned *seed)
{
    return (*seed = *seed * 1103515245 + 12345) >> 8;
}

static size_t random_size(unsigned *seed)
{
    static const size_t sizes[] = {4, 4, 4, 4, 100000, 100000, LARGEST};
    return sizes[next_random(seed) % (sizeof sizes / sizeof *sizes)];
}

/* Some requests on one connection. An answer may be missing, since the server may end at any moment; a whole one must
 * be right, or a 503. */
static void keep_alive(struct driver *driver, struct client *client, unsigned *seed)
{
    static const char *const paths[] = {"/sum", "/echo", "/own"};
    for (int i = 0; i < 10 && !atomic_load(&driver->over); i++) {
        size_t bytes = random_size(seed);
        unsigned path = next_random(seed) % 3;
        if (!client_post(client, paths[path], driver->bytes, bytes))
            return;
        struct answer answer = client_read(client);
        bool right = answer.status == 0 || answer.status == 503;
        if (answer.status == 200 && path == 0)
            right = strtoul(answer.body, NULL, 10) == bytes;
        else if (answer.status == 200)
            right = answer.body_bytes == bytes && memcmp(answer.body, driver->bytes, bytes) == 0;
        free(answer.body);
        atomic_fetch_add(right ? &driver->answers : &driver->wrong, 1);
        if (answer.status == 0 || answer.closes)
            return;
    }
}

static void cut_upload(struct driver *driver, struct client *client, unsigned *seed)
{
    client_post_head(client, "/own", LARGEST);
    client_send(client, driver->bytes, next_random(seed) % LARGEST);
}

static void leave_early(struct driver *driver, struct client *client, unsigned *seed)
{
    client_post(client, next_random(seed) % 2 == 0 ? "/own" : "/echo", driver->bytes, random_size(seed));
    if (next_random(seed) % 2 == 0)
        sched_yield();
}

static void read_slowly(struct driver *driver, struct client *client, unsigned *seed)
{
    if (!client_post(client, next_random(seed) % 2 == 0 ? "/own" : "/echo", driver->bytes, LARGEST))
        return;
    for (int i = 0; i < 20 && client_fill(client); i++) {
        client->filled = 0;
        pause_ms(1);
    }
}

static void *work(void *argument)
{
    static void (*const ways[])(struct driver *, struct client *, unsigned *) = {keep_alive, keep_alive,  keep_alive,
                                                                                 cut_upload, leave_early, read_slowly};
    struct worker *worker = argument;
    while (!atomic_load(&worker->driver->over)) {
        struct client client;
        if (client_connect(&client, worker->driver->service.port))
            ways[next_random(&worker->seed) % 6](worker->driver, &client, &worker->seed);
        else
            pause_ms(1);
        if (next_random(&worker->seed) % 2 == 0)
            client_abort(&client);
        else
            client_close(&client);
    }
    return NULL;
}

/* One life of a server, under load to its end. */
static void run_round(struct driver *driver, unsigned round, int64_t ms)
{
    struct fpred_config config = config_for_tests();
    struct worker workers[CLIENTS];
    struct fpred_stats stats;
    config.max_queued_requests = 4; /* so that some are refused */
    config.limit_concurrency = round % 2 == 0 ? 256 : 5;
    config.graceful_timeout_ms = 2000;
    config.access_log = false;
    service_new(&driver->service, &config);
    driver->service.predict_count = 2;
    service_listen(&driver->service);
    service_run(&driver->service);
    atomic_store(&driver->over, false);
    for (unsigned i = 0; i < CLIENTS; i++) {
        workers[i] = (struct worker){.driver = driver, .seed = round * 100 + i + 1};
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (int64_t until = now_ms() + ms; now_ms() < until; pause_ms(5))
        fpred_server_stats(driver->service.server, &stats);
    if (round % 2 == 0)
        fpred_server_drain(driver->service.server);
    else
        fpred_server_stop(driver->service.server);
    CHECK_EQ(fpred_server_join(driver->service.server, WAIT_MS), FPRED_OK);
    atomic_store(&driver->over, true);
    for (size_t i = 0; i < CLIENTS; i++)
        pthread_join(workers[i].thread, NULL);
    service_end(&driver->service);
}

TEST(nothing_races_while_clients_do_what_they_like)
{
    struct driver driver = {.bytes = random_bytes(LARGEST, 1)};
    const char *seconds = getenv("FPRED_DRIVER_SECONDS");
    int64_t ms = (seconds != NULL ? atoi(seconds) : 10) * 1000LL;
    for (unsigned round = 0; round < ROUNDS; round++)
        run_round(&driver, round, ms / ROUNDS);
    CHECK_EQ(atomic_load(&driver.wrong), 0);
    CHECK(atomic_load(&driver.answers) > 100);
    printf("%zu answers\n", atomic_load(&driver.answers));
    free((char *)driver.bytes);
}

/* Empty lives, where starting and ending meet. */
TEST(nothing_races_at_either_end)
{
    for (int i = 0; i < 30; i++) {
        struct service service;
        service_new(&service, NULL);
        service.predict_count = 2;
        service_listen(&service);
        service_run(&service);
        if (i % 3 == 0)
            CHECK_EQ(status_of(service.port, "POST /own HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx"), 200);
        if (i % 2 == 0)
            fpred_server_drain(service.server);
        fpred_server_stop(service.server);
        service_end(&service);
    }
}

/* A thread that takes while the loop ends: control may not say that nothing is outside. */
TEST(an_exchange_taken_at_the_very_end_is_waited_for)
{
    unsigned seed = 1;
    for (int i = 0; i < 100; i++) {
        struct service service;
        struct client client;
        service_new(&service, NULL);
        service.predict_count = 2;
        service_listen(&service);
        service_run(&service);
        if (client_connect(&client, service.port))
            client_post(&client, "/own", "x", 1);
        for (unsigned spins = next_random(&seed) % 200; spins > 0; spins--)
            sched_yield();
        fpred_server_stop(service.server);
        service_end(&service);
        client_close(&client);
    }
}

TESTS(&check__nothing_races_while_clients_do_what_they_like, &check__nothing_races_at_either_end,
      &check__an_exchange_taken_at_the_very_end_is_waited_for)
