/* config: see config.h. Any thread. */
#include "config.h"

/* A year: far enough, and sums of such times stay far from INT64_MAX. */
#define TIMEOUT_MAX_MS ((int64_t)366 * 24 * 3600 * 1000)

enum fpred_status fpred_config_check(const struct fpred_config *config, const char **option)
{
    const struct {
        const char *option;
        bool fits;
    } rules[] = {
        {"max_request_body_size", config->max_request_body_bytes <= SIZE_MAX / 4},
        {"max_inflight_bytes", config->max_inflight_bytes >= 1 && config->max_inflight_bytes <= SIZE_MAX / 4},
        {"max_queued_requests", config->max_queued_requests >= 1 && config->max_queued_requests <= 1u << 20},
        {"limit_concurrency", config->limit_concurrency >= 1 && config->limit_concurrency <= 1u << 20},
        {"timeout_head", config->head_timeout_ms >= 1 && config->head_timeout_ms <= TIMEOUT_MAX_MS},
        {"timeout_read", config->read_timeout_ms >= 1 && config->read_timeout_ms <= TIMEOUT_MAX_MS},
        {"timeout_write", config->write_timeout_ms >= 1 && config->write_timeout_ms <= TIMEOUT_MAX_MS},
        {"timeout_keep_alive", config->keep_alive_timeout_ms >= 1 && config->keep_alive_timeout_ms <= TIMEOUT_MAX_MS},
        {"timeout_queue", config->queue_timeout_ms >= 0 && config->queue_timeout_ms <= TIMEOUT_MAX_MS},
        {"timeout_graceful_shutdown",
         config->graceful_timeout_ms >= 0 && config->graceful_timeout_ms <= TIMEOUT_MAX_MS},
        {"min_data_rate", config->min_data_rate_bytes <= 1u << 30},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (!rules[i].fits) {
            *option = rules[i].option;
            return FPRED_INVALID;
        }
    }
    return FPRED_OK;
}
