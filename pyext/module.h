/* module: fastpredict._core itself: its types, its constants and what is kept for each interpreter that imports it.
 *
 *   module -> region_object, server_object, route_object -> exchange_object -> array, reply -> lease, body_type ->
 * errors
 *
 * pyext is the only place that knows the GIL: every function says `GIL: held`, `GIL: released inside` or
 * `GIL: not held`. Two rules keep it from deadlock: no lock of the core is held while the GIL is taken, and whatever
 * may wait in the core is called with the GIL released.
 *
 * None of the types takes part in garbage collection: a Region refers to no Python object, nor a Server, an Exchange
 * only to its Server and to its body, a body to none; so there is no cycle to find. */
#ifndef FPRED_PYEXT_MODULE_H
#define FPRED_PYEXT_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <assert.h>
#include <stdbool.h>

/* All of it is guarded by the GIL. */
struct module_state {
    PyTypeObject *route_type; /* strong, as all types here; cleared when the module goes */
    PyTypeObject *server_type;
    PyTypeObject *exchange_type;
    PyTypeObject *lease_type;
    PyTypeObject *body_type;
    PyTypeObject *region_type;
    bool body_in_place; /* a bytes object may be laid over a slot: pyext_body_check_layout found what it expects */
    unsigned forks;     /* times that after_fork_in_child was called here; see lease.h */
};

/* GIL: held. The state of the module that made this type: one of ours, none of which can be subclassed. Borrowed while
 * the type lives. */
static inline struct module_state *pyext_state(PyTypeObject *type)
{
    struct module_state *state = PyType_GetModuleState(type);
    assert(state != NULL);
    return state;
}

#endif
