/* server_setup: what a Server is made of, and its methods that come before start() has returned. Private to this file
 * and server_object.c. */
#ifndef FPRED_PYEXT_SERVER_SETUP_H
#define FPRED_PYEXT_SERVER_SETUP_H

#include "module.h"

#include <sys/types.h>

#include "fastpredict.h"

enum phase {
    PHASE_NEW,
    PHASE_SETTING_UP, /* a thread is in listen_*() or start(), the GIL released */
    PHASE_STARTED,
    PHASE_FORKED, /* dead: the process is a child of the one that made it, and after_fork_in_child was called */
};

typedef struct {
    PyObject_HEAD struct fpred_server *server; /* owned; set once in new */
    enum phase phase;
    pid_t pid;                 /* that made it; see PHASE_FORKED */
    bool in_control;           /* a thread is in fpred_server_control */
    PyObject *weak_references; /* Python's */
} ServerObject;

/* GIL: held. The server for a method, borrowed while self lives; NULL with an exception in a child of fork(). */
struct fpred_server *pyext_server_alive(PyObject *op);

/* GIL: released inside. The methods: self is a Server. */
PyObject *pyext_server_listen_tcp(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *pyext_server_listen_unix(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *pyext_server_listen_fd(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *pyext_server_start(PyObject *self, PyObject *ignored);

/* GIL: held. */
PyObject *pyext_server_watch_signals(PyObject *self, PyObject *args, PyObject *kwargs);

#endif
