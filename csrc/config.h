/* config: limits and timeouts, checked once, then frozen. Pure functions, any thread. */
#ifndef FPRED_CONFIG_H
#define FPRED_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

/* Sizes in bytes, times in milliseconds; a timeout of 0 is off, but those of head, read, write and keep-alive, which
 * must be at least 1. */
struct fpred_config {
    size_t max_request_body_bytes;
    size_t max_inflight_bytes;
    size_t max_queued_requests;
    size_t limit_concurrency;
    int64_t head_timeout_ms;
    int64_t read_timeout_ms;
    int64_t write_timeout_ms;
    int64_t keep_alive_timeout_ms;
    int64_t queue_timeout_ms;
    int64_t graceful_timeout_ms;
    size_t min_data_rate_bytes; /* per second, after the first 5 s; 0 is off */
    bool access_log;
};

/* FPRED_OK, or FPRED_INVALID with *option the name (as --help has it, underscores) of the first one out of range. */
enum fpred_status fpred_config_check(const struct fpred_config *config, const char **option);

#endif
