/* Tests of config: every limit on both sides of its edge. */
#include "config.h"

#include <stddef.h>

#include "check.h"

static struct fpred_config lawful(void)
{
    return (struct fpred_config){.max_request_body_bytes = 1,
                                 .max_inflight_bytes = 1,
                                 .max_queued_requests = 1,
                                 .limit_concurrency = 1,
                                 .head_timeout_ms = 1,
                                 .read_timeout_ms = 1,
                                 .write_timeout_ms = 1,
                                 .keep_alive_timeout_ms = 1};
}

static const char *refused_option(const struct fpred_config *config)
{
    const char *option = "none";
    enum fpred_status status = fpred_config_check(config, &option);
    CHECK_EQ(status, strcmp(option, "none") == 0 ? FPRED_OK : FPRED_INVALID);
    return option;
}

TEST(the_least_of_everything_is_lawful)
{
    struct fpred_config config = lawful();
    CHECK(strcmp(refused_option(&config), "none") == 0);
    config.max_request_body_bytes = 0;
    CHECK(strcmp(refused_option(&config), "none") == 0);
}

#define YEAR_MS ((int64_t)366 * 24 * 3600 * 1000)

static const struct {
    const char *option;
    size_t offset;
    int64_t least, most;
} limits[] = {
    {"max_request_body_size", offsetof(struct fpred_config, max_request_body_bytes), 0, (int64_t)(SIZE_MAX / 4)},
    {"max_inflight_bytes", offsetof(struct fpred_config, max_inflight_bytes), 1, (int64_t)(SIZE_MAX / 4)},
    {"max_queued_requests", offsetof(struct fpred_config, max_queued_requests), 1, 1 << 20},
    {"limit_concurrency", offsetof(struct fpred_config, limit_concurrency), 1, 1 << 20},
    {"timeout_head", offsetof(struct fpred_config, head_timeout_ms), 1, YEAR_MS},
    {"timeout_read", offsetof(struct fpred_config, read_timeout_ms), 1, YEAR_MS},
    {"timeout_write", offsetof(struct fpred_config, write_timeout_ms), 1, YEAR_MS},
    {"timeout_keep_alive", offsetof(struct fpred_config, keep_alive_timeout_ms), 1, YEAR_MS},
    {"timeout_queue", offsetof(struct fpred_config, queue_timeout_ms), 0, YEAR_MS},
    {"timeout_graceful_shutdown", offsetof(struct fpred_config, graceful_timeout_ms), 0, YEAR_MS},
    {"min_data_rate", offsetof(struct fpred_config, min_data_rate_bytes), 0, 1 << 30},
};

static const char *refused_with(size_t i, int64_t value)
{
    struct fpred_config config = lawful();
    memcpy((char *)&config + limits[i].offset, &value, sizeof value);
    return refused_option(&config);
}

TEST(each_limit_holds_on_both_sides_and_is_named)
{
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        CHECK(strcmp(refused_with(i, limits[i].least), "none") == 0);
        CHECK(strcmp(refused_with(i, limits[i].most), "none") == 0);
        CHECK(strcmp(refused_with(i, limits[i].least - 1), limits[i].option) == 0);
        CHECK(strcmp(refused_with(i, limits[i].most + 1), limits[i].option) == 0);
        CHECK(strcmp(refused_with(i, INT64_MIN), limits[i].option) == 0);
    }
}

TEST(the_first_of_several_is_named)
{
    struct fpred_config config = lawful();
    config.write_timeout_ms = 0;
    config.limit_concurrency = 0;
    CHECK(strcmp(refused_option(&config), "limit_concurrency") == 0);
}

TESTS(&check__the_least_of_everything_is_lawful, &check__each_limit_holds_on_both_sides_and_is_named,
      &check__the_first_of_several_is_named)
