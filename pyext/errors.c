/* errors: see errors.h. GIL: held, all of it. */
#include "errors.h"

/* GIL: held. */
PyObject *pyext_raise_status(enum fpred_status status)
{
    assert(status != FPRED_OK && status != FPRED_SYSTEM);
    PyObject *type = PyExc_RuntimeError;
    if (status == FPRED_NOMEM)
        type = PyExc_MemoryError;
    else if (status == FPRED_INVALID)
        type = PyExc_ValueError;
    else if (status == FPRED_TIMEOUT)
        type = PyExc_TimeoutError;
    PyErr_SetString(type, fpred_status_text(status));
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_system(int err, const char *detail, PyObject *path)
{
    PyObject *error = NULL, *text = PyUnicode_DecodeLocale(detail != NULL ? detail : strerror(err), "surrogateescape");
    if (text == NULL)
        return NULL;
    if (err == 0)
        error = PyObject_CallOneArg(PyExc_OSError, text);
    else if (path == NULL)
        error = PyObject_CallFunction(PyExc_OSError, "iO", err, text);
    else
        error = PyObject_CallFunction(PyExc_OSError, "iOO", err, text, path);
    Py_DECREF(text);
    if (error == NULL)
        return NULL;
    /* Made by hand, it may be of a subclass, such as PermissionError. */
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_option(const char *option)
{
    /* What csrc/config.c allows, in words. */
    static const struct {
        const char *option, *rule;
    } rules[] = {
        {"max_request_body_size", "0 bytes or more, and a quarter of the address space at most"},
        {"max_inflight_bytes", "1 byte or more, and a quarter of the address space at most"},
        {"max_queued_requests", "between 1 and 1048576"},
        {"limit_concurrency", "between 1 and 1048576"},
        {"min_data_rate", "between 0 and 1 GiB per second"},
        {"timeout_queue", "between 0 and a year, in seconds"},
        {"timeout_graceful_shutdown", "between 0 and a year, in seconds"},
        {"timeout", "0 seconds or more, or None"},
        {"port", "between 0 and 65535"},
        {"mode", "between 0 and 0o777"},
        {"fd", "0 or more"},
        {"raw_unit_bytes", "a number of bytes"},
        {"npy_max_bytes", "a number of bytes"},
        {"content_length", "a number of bytes, or None"},
    };
    const char *rule = "between 1 ms and a year, in seconds";
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strcmp(rules[i].option, option) == 0)
            rule = rules[i].rule;
    return PyErr_Format(PyExc_ValueError, "%s must be %s", option, rule);
}

/* GIL: held. */
PyObject *pyext_raise_forked(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this server belongs to the parent process");
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_started(void)
{
    PyErr_SetString(PyExc_RuntimeError, "the server has started, or another thread is setting it up");
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_in_control(void)
{
    PyErr_SetString(PyExc_RuntimeError, "another thread is in reap()");
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_answered(void)
{
    PyErr_SetString(PyExc_RuntimeError, "the exchange has had its reply");
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_not_route(PyObject *object)
{
    return PyErr_Format(PyExc_TypeError, "routes must be Route objects, not %.200s", Py_TYPE(object)->tp_name);
}

/* GIL: held. */
PyObject *pyext_raise_null_in(const char *argument)
{
    return PyErr_Format(PyExc_ValueError, "%s holds a null character", argument);
}

/* GIL: held. */
PyObject *pyext_raise_dtype(PyObject *dtype)
{
    return PyErr_Format(PyExc_TypeError, "bytes can't be read as %R: it holds objects or has no size", dtype);
}

/* GIL: held. */
PyObject *pyext_raise_dimensions(Py_ssize_t count)
{
    return PyErr_Format(PyExc_ValueError, "a shape of %zd dimensions is more than NumPy takes", count);
}

/* GIL: held. */
PyObject *pyext_raise_does_not_fit(PyObject *shape, PyObject *dtype, Py_ssize_t offset, size_t body_bytes)
{
    return PyErr_Format(PyExc_ValueError, "%S of shape %R at offset %zd does not fit in a body of %zu bytes", dtype,
                        shape, offset, body_bytes);
}

/* GIL: held. */
PyObject *pyext_raise_http_status(int status)
{
    return PyErr_Format(PyExc_ValueError, "status must be between 200 and 599, not %d", status);
}

/* GIL: held. */
PyObject *pyext_raise_field(PyObject *field)
{
    return PyErr_Format(PyExc_TypeError, "headers must be pairs (bytes, bytes), not %.200s", Py_TYPE(field)->tp_name);
}

/* GIL: held. */
PyObject *pyext_raise_reason(PyObject *reason)
{
    return PyErr_Format(PyExc_TypeError, "reason must be bytes or None, not %.200s", Py_TYPE(reason)->tp_name);
}

/* GIL: held. */
PyObject *pyext_raise_not_begun(void)
{
    PyErr_SetString(PyExc_RuntimeError, "there is no answer in parts to go on with: begin() comes first");
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_too_long(size_t bytes, uint64_t rest)
{
    return PyErr_Format(PyExc_ValueError, "a block of %zu bytes passes content_length, of which %llu are left", bytes,
                        (unsigned long long)rest);
}

/* GIL: held. */
PyObject *pyext_raise_payload_refused(int status)
{
    return PyErr_Format(PyExc_ValueError, "an answer with status %d has no body", status);
}

/* GIL: held. */
PyObject *pyext_raise_payload_objects(void)
{
    PyErr_SetString(PyExc_TypeError, "an array of objects has no bytes to send");
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_not_contiguous(void)
{
    PyErr_SetString(PyExc_BufferError, "the payload is not C-contiguous");
    return NULL;
}

/* GIL: held. */
PyObject *pyext_raise_range(long long offset, Py_ssize_t length)
{
    return PyErr_Format(PyExc_ValueError, "%zd bytes at offset %lld do not lie in the file, or are none", length,
                        offset);
}

/* GIL: held. */
PyObject *pyext_raise_subinterpreter(void)
{
    PyErr_SetString(PyExc_ImportError, "fastpredict does not support subinterpreters");
    return NULL;
}
