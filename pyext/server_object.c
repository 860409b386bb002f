/* server_object: see server_object.h. The GIL guards every field; what may wait runs without it. */
#include "server_object.h"

#include <errno.h>
#include <stddef.h>
#include <structmember.h>
#include <time.h>
#include <unistd.h>

#include "errors.h"
#include "exchange_object.h"
#include "options.h"
#include "route_object.h"
#include "server_setup.h"

#include "fastpredict.h"

#define JOIN_SLICE_MS 100    /* between two looks at Python's signal handlers */
#define DEALLOC_JOIN_MS 5000 /* a loop that was told to stop ends in milliseconds */

/* ---- making and ending ---- */

/* GIL: held. routes: a tuple. -1 with an exception. */
static int make_server(ServerObject *self, PyObject *routes, const struct fpred_config *config)
{
    PyTypeObject *route_type = pyext_state(Py_TYPE(self))->route_type;
    Py_ssize_t count = PyTuple_GET_SIZE(routes);
    struct fpred_route *list = PyMem_New(struct fpred_route, (size_t)count);
    if (list == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int result = -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *route = PyTuple_GET_ITEM(routes, i);
        if (!Py_IS_TYPE(route, route_type)) {
            pyext_raise_not_route(route);
            goto cleanup;
        }
        list[i] = *pyext_route_get(route);
    }
    enum fpred_status status = fpred_server_new(config, list, (size_t)count, &self->server);
    if (status == FPRED_OK)
        result = 0;
    else if (status == FPRED_SYSTEM)
        pyext_raise_system(errno, NULL, NULL);
    else
        pyext_raise_status(status);
cleanup:
    PyMem_Free(list);
    return result;
}

/* GIL: held. */
static PyObject *server_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"routes", PYEXT_OPTION_NAMES, "access_log", NULL};
    PyObject *routes, *v[PYEXT_OPTIONS];
    int access_log;
    _Static_assert(PYEXT_OPTIONS == 11, "one O and one &v[i] for each");
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$OOOOOOOOOOOp:Server", keywords, &routes, &v[0], &v[1], &v[2],
                                     &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9], &v[10], &access_log))
        return NULL;
    struct fpred_config config = {.access_log = access_log != 0};
    if (pyext_read_options(v, &config) < 0)
        return NULL;
    PyObject *list = PySequence_Tuple(routes);
    if (list == NULL)
        return NULL;
    ServerObject *self = (ServerObject *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->pid = getpid();
    if (self != NULL && make_server(self, list, &config) < 0)
        Py_CLEAR(self);
    Py_DECREF(list);
    return (PyObject *)self;
}

/* GIL: held. Drops the references that the loop is done with. This may run any Python code. */
static void drop_finished(ServerObject *self)
{
    PyObject *owner;
    while ((owner = fpred_server_reap(self->server)) != NULL)
        Py_DECREF(owner);
}

/* GIL: released inside. Nobody else refers to self. */
static void end_server(ServerObject *self)
{
    struct fpred_server *server = self->server;
    if (self->phase == PHASE_STARTED) {
        enum fpred_status status;
        Py_BEGIN_ALLOW_THREADS;
        fpred_server_stop(server);
        status = fpred_server_join(server, DEALLOC_JOIN_MS);
        Py_END_ALLOW_THREADS;
        /* The loop is stuck: to leak what it uses is all that can be done. */
        if (status != FPRED_OK)
            return;
    }
    drop_finished(self);
    Py_BEGIN_ALLOW_THREADS;
    fpred_server_free(server);
    Py_END_ALLOW_THREADS;
}

/* GIL: released inside. */
static void server_dealloc(PyObject *op)
{
    ServerObject *self = (ServerObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->weak_references != NULL)
        PyObject_ClearWeakRefs(op);
    /* Where nobody told: its threads are not here, and the socket's path is the parent's. */
    if (self->server != NULL && self->phase != PHASE_FORKED && self->pid == getpid())
        end_server(self);
    type->tp_free(op);
    Py_DECREF(type);
}

/* GIL: held. */
bool pyext_server_is_forked(PyObject *server)
{
    return ((ServerObject *)server)->phase == PHASE_FORKED;
}

/* GIL: held. The server for a method, borrowed while self lives; NULL with an exception in a child of fork(). */
struct fpred_server *pyext_server_alive(PyObject *op)
{
    ServerObject *self = (ServerObject *)op;
    if (self->phase == PHASE_FORKED) {
        pyext_raise_forked();
        return NULL;
    }
    return self->server;
}

/* ---- running ---- */

/* GIL: held. */
static PyObject *server_set_ready(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fpred_server *server = pyext_server_alive(self);
    if (server == NULL)
        return NULL;
    fpred_server_set_ready(server);
    Py_RETURN_NONE;
}

/* GIL: released inside. References are dropped before the wait, so that it is seldom the control thread that frees a
 * large array while a predict runs, and after it, for those that came back meanwhile. */
static PyObject *server_take(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fpred_server *server = pyext_server_alive(self);
    if (server == NULL)
        return NULL;
    struct fpred_exchange *exchange = NULL;
    enum fpred_status status;
    drop_finished((ServerObject *)self);
    Py_BEGIN_ALLOW_THREADS;
    status = fpred_server_take(server, &exchange);
    Py_END_ALLOW_THREADS;
    PyObject *result = NULL;
    if (status == FPRED_OK)
        result = pyext_exchange_new(self, exchange);
    else if (status == FPRED_CLOSED)
        result = Py_NewRef(Py_None);
    else
        pyext_raise_status(status);
    if (result != NULL)
        drop_finished((ServerObject *)self);
    return result;
}

/* GIL: held. */
static PyObject *server_take_control(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fpred_server *server = pyext_server_alive(self);
    struct fpred_exchange *exchange;
    if (server == NULL)
        return NULL;
    if (fpred_server_take_control(server, &exchange) != FPRED_OK)
        Py_RETURN_NONE;
    return pyext_exchange_new(self, exchange);
}

/* GIL: released inside. */
static PyObject *server_reap(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ServerObject *self = (ServerObject *)op;
    struct fpred_server *server = pyext_server_alive(op);
    if (server == NULL)
        return NULL;
    if (self->in_control)
        return pyext_raise_in_control();
    enum fpred_status status;
    self->in_control = true;
    Py_BEGIN_ALLOW_THREADS;
    status = fpred_server_control(server);
    Py_END_ALLOW_THREADS;
    self->in_control = false;
    drop_finished(self);
    return PyBool_FromLong(status != FPRED_CLOSED);
}

/* GIL: held. */
static PyObject *server_drain(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fpred_server *server = pyext_server_alive(self);
    if (server == NULL)
        return NULL;
    fpred_server_drain(server);
    Py_RETURN_NONE;
}

/* GIL: released inside. */
static PyObject *server_stop(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fpred_server *server = pyext_server_alive(self);
    if (server == NULL)
        return NULL;
    ServerObject *object = (ServerObject *)self;
    if (object->phase == PHASE_NEW) {
        object->phase = PHASE_STARTED; /* as after a start that failed */
        fpred_server_give_up(server);
        Py_RETURN_NONE;
    }
    Py_BEGIN_ALLOW_THREADS;
    fpred_server_stop(server);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* GIL: not held or held. */
static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* GIL: released inside. 1 when the loop has ended, 0 when it is past the deadline, -1 with an exception. */
static int join_until(PyObject *self, int64_t deadline_ms)
{
    for (;;) {
        struct fpred_server *server = pyext_server_alive(self); /* a signal handler may have forked */
        if (server == NULL)
            return -1;
        int64_t left_ms = deadline_ms - now_ms();
        int64_t slice_ms = left_ms < 0 ? 0 : left_ms < JOIN_SLICE_MS ? left_ms : JOIN_SLICE_MS;
        enum fpred_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = fpred_server_join(server, slice_ms);
        Py_END_ALLOW_THREADS;
        if (status == FPRED_OK)
            return 1;
        if (PyErr_CheckSignals() < 0)
            return -1;
        if (left_ms <= slice_ms)
            return 0;
    }
}

/* GIL: released inside. */
static PyObject *server_join(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", NULL};
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:join", keywords, &timeout))
        return NULL;
    int64_t deadline_ms = INT64_MAX, timeout_ms;
    if (timeout != Py_None) {
        if (pyext_as_milliseconds(timeout, "timeout", &timeout_ms) < 0)
            return NULL;
        deadline_ms = now_ms() + timeout_ms;
    }
    if (pyext_server_alive(self) == NULL)
        return NULL;
    if (((ServerObject *)self)->phase != PHASE_STARTED)
        Py_RETURN_TRUE; /* there is no thread to wait for */
    int ended = join_until(self, deadline_ms);
    return ended < 0 ? NULL : PyBool_FromLong(ended);
}

/* GIL: held. */
static PyObject *server_after_fork_in_child(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ServerObject *self = (ServerObject *)op;
    self->phase = PHASE_FORKED;
    pyext_state(Py_TYPE(op))->forks++;
    fpred_server_forked(self->server);
    Py_RETURN_NONE;
}

/* GIL: held. */
static PyObject *server_stats(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fpred_server *server = pyext_server_alive(self);
    if (server == NULL)
        return NULL;
    struct fpred_stats stats;
    fpred_server_stats(server, &stats);
    return Py_BuildValue("{s:n,s:K,s:n,s:n,s:n,s:n,s:n,s:n,s:K}", "connections", (Py_ssize_t)stats.connections,
                         "requests", (unsigned long long)stats.requests, "queued", (Py_ssize_t)stats.queued, "running",
                         (Py_ssize_t)stats.running, "charged_bytes", (Py_ssize_t)stats.slab.charged_bytes, "out_slots",
                         (Py_ssize_t)stats.slab.out_slots, "idle_slots", (Py_ssize_t)stats.slab.idle_slots,
                         "idle_bytes", (Py_ssize_t)stats.slab.idle_bytes, "accesslog_dropped",
                         (unsigned long long)stats.accesslog_dropped);
}

/* GIL: held. */
static PyObject *server_draining(PyObject *self, void *Py_UNUSED(closure))
{
    struct fpred_server *server = pyext_server_alive(self);
    return server == NULL ? NULL : PyBool_FromLong(fpred_server_is_draining(server));
}

/* ---- the type ---- */

#define WITH_KEYWORDS(function) ((PyCFunction)(void (*)(void))(function)), METH_VARARGS | METH_KEYWORDS
#define SIGNATURE(arguments, text) "(" arguments ")\n--\n\n" text

static PyMethodDef methods[] = {
    {"listen_tcp", WITH_KEYWORDS(pyext_server_listen_tcp),
     "listen_tcp" SIGNATURE("$self, host, port", "Bind and listen; port 0 picks one. Returns the port.")},
    {"listen_unix", WITH_KEYWORDS(pyext_server_listen_unix),
     "listen_unix" SIGNATURE("$self, path, mode", "Bind and listen on a Unix socket.")},
    {"listen_fd", WITH_KEYWORDS(pyext_server_listen_fd),
     "listen_fd" SIGNATURE("$self, fd", "Serve an inherited listening stream socket. Returns its name.")},
    {"watch_signals", WITH_KEYWORDS(pyext_server_watch_signals),
     "watch_signals" SIGNATURE("$self, fd, dump_signal", "Let the network thread read signal.set_wakeup_fd's bytes.")},
    {"start", pyext_server_start, METH_NOARGS, "start" SIGNATURE("$self", "Start the network thread.")},
    {"set_ready", server_set_ready, METH_NOARGS, "set_ready" SIGNATURE("$self", "Answer predict routes from now on.")},
    {"take", server_take, METH_NOARGS,
     "take" SIGNATURE("$self", "Wait for the next complete request; None when no more will come.")},
    {"take_control", server_take_control, METH_NOARGS,
     "take_control" SIGNATURE("$self", "The next request of a control route; None when none waits.")},
    {"reap", server_reap, METH_NOARGS,
     "reap" SIGNATURE("$self", "One turn of the control thread; False when it was the last.")},
    {"drain", server_drain, METH_NOARGS, "drain" SIGNATURE("$self", "Stop accepting, finish what was accepted.")},
    {"stop", server_stop, METH_NOARGS, "stop" SIGNATURE("$self", "End now, or never start. Does not wait.")},
    {"join", WITH_KEYWORDS(server_join),
     "join" SIGNATURE("$self, timeout=None", "Wait for the network thread to end; False when the timeout passed.")},
    {"after_fork_in_child", server_after_fork_in_child, METH_NOARGS,
     "after_fork_in_child" SIGNATURE("$self", "Close every descriptor; all other methods raise from now on.")},
    {"stats", server_stats, METH_NOARGS, "stats" SIGNATURE("$self", "Counters and gauges by name.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ServerObject, weak_references), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"draining", server_draining, NULL, "Whether the server accepts no more.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(server_doc,
             "Server(routes, *, max_request_body_size, max_inflight_bytes, max_queued_requests, limit_concurrency, "
             "timeout_head, timeout_read, timeout_write, min_data_rate, timeout_keep_alive, timeout_queue, "
             "timeout_graceful_shutdown, access_log)\n--\n\n"
             "An HTTP server with its network thread and access-log thread.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)server_doc},
    {Py_tp_new, server_new},
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_tp_members, members},
    {0, NULL},
};

PyType_Spec pyext_server_spec = {
    .name = "fastpredict._core.Server",
    .basicsize = sizeof(ServerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
