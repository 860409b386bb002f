/* server_setup: see server_setup.h. */
#include "server_setup.h"

#include <errno.h>

#include "errors.h"

#define NAME_BYTES 256 /* "unix:" and a sun_path, or an address */

/* GIL: held. Claims the server for a call that may only come before start, and that releases the GIL; end_setup ends
 * the claim. NULL with an exception. */
static struct fpred_server *begin_setup(PyObject *op)
{
    ServerObject *self = (ServerObject *)op;
    if (pyext_server_alive(op) == NULL)
        return NULL;
    if (self->phase != PHASE_NEW) {
        pyext_raise_started();
        return NULL;
    }
    self->phase = PHASE_SETTING_UP;
    return self->server;
}

/* GIL: held. -1 with an exception unless the status is FPRED_OK. path: borrowed, or NULL. */
static int end_setup(PyObject *op, enum fpred_status status, int err, const char *detail, PyObject *path)
{
    ServerObject *self = (ServerObject *)op;
    assert(self->phase == PHASE_SETTING_UP);
    self->phase = PHASE_NEW;
    if (status == FPRED_OK)
        return 0;
    if (status == FPRED_SYSTEM)
        pyext_raise_system(err, detail, path);
    else
        pyext_raise_status(status);
    return -1;
}

/* GIL: released inside. */
PyObject *pyext_server_listen_tcp(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"host", "port", NULL};
    const char *host, *detail = NULL;
    int port, bound_port = 0, err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "si:listen_tcp", keywords, &host, &port))
        return NULL;
    if (port < 0 || port > 65535)
        return pyext_raise_option("port");
    struct fpred_server *server = begin_setup(self);
    if (server == NULL)
        return NULL;
    enum fpred_status status;
    Py_BEGIN_ALLOW_THREADS;
    errno = 0;
    status = fpred_server_listen_tcp(server, host, port, &bound_port, &detail);
    err = errno;
    Py_END_ALLOW_THREADS;
    return end_setup(self, status, err, detail, NULL) < 0 ? NULL : PyLong_FromLong(bound_port);
}

/* GIL: released inside. */
PyObject *pyext_server_listen_unix(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"path", "mode", NULL};
    PyObject *path, *path_bytes, *result = NULL;
    const char *detail = NULL;
    int mode, err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ui:listen_unix", keywords, &path, &mode))
        return NULL;
    if (mode < 0 || mode > 0777)
        return pyext_raise_option("mode");
    if (!PyUnicode_FSConverter(path, &path_bytes))
        return NULL;
    struct fpred_server *server = begin_setup(self);
    if (server == NULL)
        goto cleanup;
    enum fpred_status status;
    Py_BEGIN_ALLOW_THREADS;
    errno = 0;
    status = fpred_server_listen_unix(server, PyBytes_AS_STRING(path_bytes), (unsigned)mode, &detail);
    err = errno;
    Py_END_ALLOW_THREADS;
    if (end_setup(self, status, err, detail, path) == 0)
        result = Py_NewRef(Py_None);
cleanup:
    Py_DECREF(path_bytes);
    return result;
}

/* GIL: released inside. */
PyObject *pyext_server_listen_fd(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", NULL};
    char name[NAME_BYTES] = "";
    const char *detail = NULL;
    int fd, err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:listen_fd", keywords, &fd))
        return NULL;
    struct fpred_server *server = begin_setup(self);
    if (server == NULL)
        return NULL;
    enum fpred_status status;
    Py_BEGIN_ALLOW_THREADS;
    errno = 0;
    status = fpred_server_listen_fd(server, fd, name, sizeof name, &detail);
    err = errno;
    Py_END_ALLOW_THREADS;
    return end_setup(self, status, err, detail, NULL) < 0 ? NULL : PyUnicode_DecodeFSDefault(name);
}

/* GIL: held. */
PyObject *pyext_server_watch_signals(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "dump_signal", NULL};
    int fd, dump_signal;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ii:watch_signals", keywords, &fd, &dump_signal))
        return NULL;
    if (fd < 0)
        return pyext_raise_option("fd");
    struct fpred_server *server = begin_setup(self);
    if (server == NULL)
        return NULL;
    fpred_server_watch_signals(server, fd, dump_signal);
    end_setup(self, FPRED_OK, 0, NULL, NULL);
    Py_RETURN_NONE;
}

/* GIL: released inside. */
PyObject *pyext_server_start(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fpred_server *server = begin_setup(self);
    if (server == NULL)
        return NULL;
    enum fpred_status status;
    int err;
    Py_BEGIN_ALLOW_THREADS;
    errno = 0;
    status = fpred_server_start(server);
    err = errno;
    Py_END_ALLOW_THREADS;
    int failed = end_setup(self, status, err, NULL, NULL);
    ((ServerObject *)self)->phase = PHASE_STARTED; /* also when it failed: there is no second try */
    if (failed < 0)
        return NULL;
    Py_RETURN_NONE;
}
