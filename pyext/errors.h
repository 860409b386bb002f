/* errors: every exception of ours is made here, and nowhere else a status of the core becomes one.
 *
 * Each returns NULL, so that a caller can return what it was given. GIL: held, all of them. */
#ifndef FPRED_PYEXT_ERRORS_H
#define FPRED_PYEXT_ERRORS_H

#include "module.h"

#include "fastpredict.h"

/* A status other than FPRED_OK and FPRED_SYSTEM: MemoryError, ValueError, TimeoutError or RuntimeError. */
PyObject *pyext_raise_status(enum fpred_status status);

/* FPRED_SYSTEM: OSError, or the subclass that belongs to err. err: errno, 0 where detail says it all. detail: a static
 * sentence or NULL. path: borrowed, what the call was about, or NULL. */
PyObject *pyext_raise_system(int err, const char *detail, PyObject *path);

/* ValueError: "limit_concurrency must be between 1 and 1048576". */
PyObject *pyext_raise_option(const char *option);

/* RuntimeError: the call came at the wrong time. */
PyObject *pyext_raise_forked(void);     /* in a child of fork() */
PyObject *pyext_raise_started(void);    /* after start(), or while another thread sets the server up */
PyObject *pyext_raise_in_control(void); /* two threads in reap() */
PyObject *pyext_raise_answered(void);   /* the exchange has had its reply */

/* TypeError and ValueError of Server(), array() and reply(). */
PyObject *pyext_raise_not_route(PyObject *object);
PyObject *pyext_raise_null_in(const char *argument);
PyObject *pyext_raise_dtype(PyObject *dtype);
PyObject *pyext_raise_dimensions(Py_ssize_t count);
PyObject *pyext_raise_does_not_fit(PyObject *shape, PyObject *dtype, Py_ssize_t offset, size_t body_bytes);
PyObject *pyext_raise_http_status(int status);
PyObject *pyext_raise_field(PyObject *field);
PyObject *pyext_raise_reason(PyObject *reason);
PyObject *pyext_raise_not_begun(void);
PyObject *pyext_raise_too_long(size_t bytes, uint64_t rest);
PyObject *pyext_raise_payload_refused(int status);
PyObject *pyext_raise_payload_objects(void);
PyObject *pyext_raise_not_contiguous(void);
PyObject *pyext_raise_range(long long offset, Py_ssize_t length); /* of Region(): not in the file */

/* ImportError: in an interpreter other than the main one. */
PyObject *pyext_raise_subinterpreter(void);

#endif
