/* Answers in parts under ThreadSanitizer: the real loop, three makers, the control thread, and six clients, some of
 * which read slowly, leave in the middle or ask the control thread something. Drained and stopped under way several
 * times. A report of a race fails the program, as a wrong byte does. FPRED_DRIVER_SECONDS bounds it; 6 when not set.
 *
 * A request's query says what is wanted: how the answer is made, and how many bytes it has. */
#include "stage.h"

#define MAKERS 3
#define CLIENTS 6
#define ROUNDS 6
#define LARGEST MIB

struct driver {
    struct stage stage;
    const char *bytes; /* LARGEST of them */
    atomic_bool over;
    atomic_size_t whole, cut, closed, controls, wrong;
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

/* ---- makers ---- */

/* Parts of any size, now and then an empty one. Whether the client stayed to the end. */
static bool write_all(struct driver *driver, struct fpred_exchange *exchange, size_t total, unsigned *seed)
{
    size_t largest = next_random(seed) % 4 == 0 ? total + 1 : 20000;
    enum fpred_status status = FPRED_OK;
    for (size_t done = 0; done < total && status == FPRED_OK;) {
        size_t len = next_random(seed) % largest;
        len = len < total - done ? len : total - done;
        status = fpred_exchange_write(exchange, driver->bytes + done, len);
        done += len;
    }
    return status == FPRED_OK;
}

static void answer(struct driver *driver, struct fpred_exchange *exchange, unsigned *seed)
{
    struct fpred_slice query = fpred_exchange_query(exchange);
    size_t total = strtoul(query.base + 1, NULL, 10); /* a space follows */
    struct fpred_slice parts[2] = {{driver->bytes, total / 2}, {driver->bytes + total / 2, total - total / 2}};
    struct fpred_reply reply = {.status = 200, .parts = parts, .part_count = 2};
    if (*query.base == 'r') {
        fpred_exchange_reply(exchange, &reply);
        return;
    }
    uint64_t length = *query.base == 'c' ? FPRED_LENGTH_UNKNOWN : total + (*query.base == 'e');
    CHECK_EQ(fpred_exchange_begin(exchange, &reply, length), FPRED_OK);
    bool stayed = write_all(driver, exchange, total, seed);
    atomic_fetch_add(&driver->closed, !stayed);
    fpred_exchange_end(exchange, stayed);
}

static void *make(void *argument)
{
    struct worker *worker = argument;
    struct fpred_exchange *exchange;
    while (fpred_server_take(worker->driver->stage.server, &exchange) == FPRED_OK)
        answer(worker->driver, exchange, &worker->seed);
    return NULL;
}

static void *control(void *argument)
{
    struct driver *driver = argument;
    struct fpred_exchange *exchange;
    while (fpred_server_control(driver->stage.server) == FPRED_OK)
        while (fpred_server_take_control(driver->stage.server, &exchange) == FPRED_OK)
            reply_text(exchange, 200, "control");
    return NULL;
}

/* ---- clients ---- */

/* The bytes of the next chunk behind `done`; SIZE_MAX when the answer was cut, or is wrong. */
static size_t read_chunk(struct driver *driver, struct client *client, size_t done, char *into)
{
    char line[32] = "", end[2];
    for (size_t len = 0; strstr(line, "\r\n") == NULL; line[++len] = '\0')
        if (len == sizeof line - 2 || !client_takes(client, line + len, 1))
            return SIZE_MAX;
    size_t bytes = strtoul(line, NULL, 16);
    if (bytes > LARGEST - done || !client_takes(client, into + done, bytes) || !client_takes(client, end, 2))
        return SIZE_MAX;
    if (memcmp(into + done, driver->bytes + done, bytes) != 0 || memcmp(end, "\r\n", 2) != 0)
        atomic_fetch_add(&driver->wrong, 1);
    return bytes;
}

/* Whether all of a chunked answer came. */
static bool read_chunks(struct driver *driver, struct client *client, size_t total, char *into, bool slowly)
{
    size_t done = 0, bytes;
    while ((bytes = read_chunk(driver, client, done, into)) != 0) {
        if (bytes == SIZE_MAX)
            return false;
        done += bytes;
        if (slowly)
            pause_ms(1);
    }
    if (done != total)
        atomic_fetch_add(&driver->wrong, 1);
    return true;
}

/* One request, and as much of its answer as this client wants. Whether the connection may be used again. */
static bool ask(struct driver *driver, struct client *client, unsigned *seed, char *into)
{
    char head[HEAD_MAX], target[64], kind = "ccckkre"[next_random(seed) % 7];
    size_t total = next_random(seed) % (next_random(seed) % 2 == 0 ? LARGEST : 1000);
    unsigned way = next_random(seed) % 8;
    snprintf(target, sizeof target, "/x?%c%zu", kind, total);
    if (!client_may_ask(client, "GET", target, 1) || way == 0 || !client_hears_head(client, 200, head))
        return false;
    if (way == 1) {
        client_takes(client, into, next_random(seed) % (total + 1));
        return false;
    }
    bool whole = kind == 'c' ? read_chunks(driver, client, total, into, way == 2)
                             : client_takes(client, into, total + (kind == 'e'));
    if (whole && (kind == 'e' || memcmp(into, driver->bytes, total) != 0))
        atomic_fetch_add(&driver->wrong, 1);
    atomic_fetch_add(whole ? &driver->whole : &driver->cut, 1);
    return whole && lines_of(head, "Connection: close") == 0;
}

static bool ask_control(struct driver *driver, struct client *client)
{
    char head[HEAD_MAX], got[7];
    if (!client_may_ask(client, "GET", "/v2/models", 1) || !client_hears_head(client, 200, head) ||
        !client_takes(client, got, 7))
        return false;
    atomic_fetch_add(&driver->controls, 1);
    return lines_of(head, "Connection: close") == 0;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct driver *driver = worker->driver;
    char *into = malloc(LARGEST + 1);
    while (!atomic_load(&driver->over)) {
        struct client client;
        bool goes_on = client_connect(&client, driver->stage.port);
        while (goes_on && !atomic_load(&driver->over))
            goes_on = next_random(&worker->seed) % 6 == 0 ? ask_control(driver, &client)
                                                          : ask(driver, &client, &worker->seed, into);
        if (next_random(&worker->seed) % 2 == 0)
            client_abort(&client);
        else
            client_close(&client);
    }
    free(into);
    return NULL;
}

/* ---- rounds ---- */

static void start(struct driver *driver, struct worker *workers, size_t count, unsigned seed, void *(*run)(void *))
{
    for (unsigned i = 0; i < count; i++) {
        workers[i] = (struct worker){.driver = driver, .seed = seed + i};
        pthread_create(&workers[i].thread, NULL, run, &workers[i]);
    }
}

static void join(struct worker *workers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
}

static void run_round(struct driver *driver, unsigned round, int64_t ms)
{
    struct worker makers[MAKERS], clients[CLIENTS];
    pthread_t control_thread;
    stage_open(&driver->stage, NULL);
    atomic_store(&driver->over, false);
    start(driver, makers, MAKERS, round * 1000 + 1, make);
    pthread_create(&control_thread, NULL, control, driver);
    start(driver, clients, CLIENTS, round * 1000 + 500, work);
    for (int64_t until = now_ms() + ms; now_ms() < until; pause_ms(5))
        stage_stats(&driver->stage);
    if (round % 2 == 0)
        fpred_server_drain(driver->stage.server);
    else
        fpred_server_stop(driver->stage.server);
    CHECK_EQ(fpred_server_join(driver->stage.server, WAIT_MS), FPRED_OK);
    atomic_store(&driver->over, true);
    join(clients, CLIENTS);
    join(makers, MAKERS);
    pthread_join(control_thread, NULL);
    stage_end(&driver->stage);
}

TEST(nothing_races_while_makers_write_and_clients_leave)
{
    struct driver driver = {.bytes = random_bytes(LARGEST, 1)};
    const char *seconds = getenv("FPRED_DRIVER_SECONDS");
    int64_t ms = (seconds != NULL ? atoi(seconds) : 6) * 1000LL;
    for (unsigned round = 0; round < ROUNDS; round++)
        run_round(&driver, round, ms / ROUNDS);
    CHECK_EQ(atomic_load(&driver.wrong), 0);
    CHECK(atomic_load(&driver.whole) > 0);
    CHECK(atomic_load(&driver.cut) > 0);
    CHECK(atomic_load(&driver.closed) > 0);
    CHECK(atomic_load(&driver.controls) > 0);
    printf("%zu whole, %zu cut, %zu makers left alone, %zu from control\n", atomic_load(&driver.whole),
           atomic_load(&driver.cut), atomic_load(&driver.closed), atomic_load(&driver.controls));
    free((char *)driver.bytes);
}

/* A maker that writes at the very moment in which its server ends, and outlives it. */
TEST(nothing_races_between_a_write_and_the_end)
{
    unsigned seed = 1;
    for (int i = 0; i < 60; i++) {
        struct stage stage;
        stage_open(&stage, NULL);
        struct client client = client_of(&stage);
        client_asks(&client, "GET", "/x", 1);
        struct fpred_exchange *exchange = stage_take(&stage);
        begin_parts(exchange, 200, FPRED_LENGTH_UNKNOWN);
        CHECK_EQ(write_text(exchange, "abc"), FPRED_OK);
        if (i % 3 == 0)
            client_abort(&client);
        else
            fpred_server_stop(stage.server);
        for (unsigned writes = next_random(&seed) % 50; writes > 0; writes--)
            write_text(exchange, "abc");
        if (i % 3 == 1) {
            CHECK_EQ(fpred_server_join(stage.server, WAIT_MS), FPRED_OK);
            fpred_server_free(stage.server);
        }
        fpred_exchange_end(exchange, true);
        if (i % 3 != 0)
            client_close(&client);
        if (i % 3 != 1)
            stage_stop(&stage);
    }
}

TESTS(&check__nothing_races_while_makers_write_and_clients_leave, &check__nothing_races_between_a_write_and_the_end)
