/* options: Python numbers to the sizes and times of struct fpred_config, each refused by its name. */
#ifndef FPRED_PYEXT_OPTIONS_H
#define FPRED_PYEXT_OPTIONS_H

#include "module.h"

#include "fastpredict.h"

/* The options of Server() that are numbers, in its order. */
#define PYEXT_OPTION_NAMES                                                                                     \
    "max_request_body_size", "max_inflight_bytes", "max_queued_requests", "limit_concurrency", "timeout_head", \
        "timeout_read", "timeout_write", "min_data_rate", "timeout_keep_alive", "timeout_queue",               \
        "timeout_graceful_shutdown"
#define PYEXT_OPTIONS 11

/* GIL: held. Fills *config from as many values (borrowed) and checks it. -1 with TypeError or ValueError. */
int pyext_read_options(PyObject *const *values, struct fpred_config *config);

/* GIL: held. A whole number as a size; `option` is its name in the error. -1 with TypeError or ValueError. */
int pyext_as_size(PyObject *number, const char *option, size_t *size);

/* GIL: held. Seconds as milliseconds: rounded, but never down to 0, which would mean off. -1 with TypeError or
 * ValueError, the latter for NaN, too. */
int pyext_as_milliseconds(PyObject *number, const char *option, int64_t *ms);

#endif
