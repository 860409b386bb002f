/* options: see options.h. GIL: held, all of it. */
#include "options.h"

#include <math.h>

#include "errors.h"

#define SECONDS_MAX 3e9 /* far beyond what config allows, far below INT64_MAX ms */

static const char *const names[] = {PYEXT_OPTION_NAMES};
_Static_assert(sizeof names / sizeof *names == PYEXT_OPTIONS, "PYEXT_OPTIONS counts them");

/* Where each goes, and whether it is an int64_t of milliseconds given in seconds, or a size_t. */
static const struct {
    size_t offset;
    bool seconds;
} fields[] = {
    {offsetof(struct fpred_config, max_request_body_bytes), false},
    {offsetof(struct fpred_config, max_inflight_bytes), false},
    {offsetof(struct fpred_config, max_queued_requests), false},
    {offsetof(struct fpred_config, limit_concurrency), false},
    {offsetof(struct fpred_config, head_timeout_ms), true},
    {offsetof(struct fpred_config, read_timeout_ms), true},
    {offsetof(struct fpred_config, write_timeout_ms), true},
    {offsetof(struct fpred_config, min_data_rate_bytes), false},
    {offsetof(struct fpred_config, keep_alive_timeout_ms), true},
    {offsetof(struct fpred_config, queue_timeout_ms), true},
    {offsetof(struct fpred_config, graceful_timeout_ms), true},
};
_Static_assert(sizeof fields / sizeof *fields == PYEXT_OPTIONS, "one for each name");

/* GIL: held. */
int pyext_as_size(PyObject *number, const char *option, size_t *size)
{
    PyObject *integer = PyNumber_Index(number);
    if (integer == NULL)
        return -1;
    *size = PyLong_AsSize_t(integer);
    Py_DECREF(integer);
    if (*size != (size_t)-1 || !PyErr_Occurred())
        return 0;
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        pyext_raise_option(option);
    }
    return -1;
}

/* GIL: held. */
int pyext_as_milliseconds(PyObject *number, const char *option, int64_t *ms)
{
    double seconds = PyFloat_AsDouble(number);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(seconds >= 0 && seconds <= SECONDS_MAX)) { /* written so that NaN is refused */
        pyext_raise_option(option);
        return -1;
    }
    *ms = llround(seconds * 1000);
    if (*ms == 0 && seconds > 0)
        *ms = 1;
    return 0;
}

/* GIL: held. */
int pyext_read_options(PyObject *const *values, struct fpred_config *config)
{
    for (size_t i = 0; i < PYEXT_OPTIONS; i++) {
        void *field = (char *)config + fields[i].offset;
        int failed = fields[i].seconds ? pyext_as_milliseconds(values[i], names[i], field)
                                       : pyext_as_size(values[i], names[i], field);
        if (failed < 0)
            return -1;
    }
    const char *option;
    if (fpred_config_check(config, &option) != FPRED_OK) {
        pyext_raise_option(option);
        return -1;
    }
    return 0;
}
