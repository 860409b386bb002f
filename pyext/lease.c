/* lease: see lease.h. */
#include "lease.h"

typedef struct {
    PyObject_HEAD struct fpred_slot *slot; /* owned; set once */
    size_t bytes;                          /* set once */
    unsigned forks;                        /* set once: module_state.forks when it was made */
} LeaseObject;

/* GIL: held. */
PyObject *pyext_lease_new(struct module_state *state, struct fpred_slot *slot, size_t bytes)
{
    assert(bytes <= fpred_slot_capacity(slot));
    LeaseObject *self = PyObject_New(LeaseObject, state->lease_type);
    if (self == NULL)
        return NULL;
    self->slot = slot;
    self->bytes = bytes;
    self->forks = state->forks;
    return (PyObject *)self;
}

/* GIL: held. */
char *pyext_lease_payload(PyObject *lease)
{
    return fpred_slot_payload(((LeaseObject *)lease)->slot);
}

/* GIL: held. */
bool pyext_lease_is_client_memory(PyObject *lease)
{
    return fpred_slot_region(((LeaseObject *)lease)->slot) != NULL;
}

/* GIL: held. */
static void lease_dealloc(PyObject *op)
{
    LeaseObject *self = (LeaseObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->forks == pyext_state(type)->forks)
        fpred_slot_release(self->slot);
    PyObject_Free(op);
    Py_DECREF(type);
}

/* GIL: held. */
static int lease_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    LeaseObject *self = (LeaseObject *)op;
    return PyBuffer_FillInfo(view, op, fpred_slot_payload(self->slot), (Py_ssize_t)self->bytes,
                             pyext_lease_is_client_memory(op), flags);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "Owner of the memory that a request body was received into."},
    {Py_tp_dealloc, lease_dealloc},
    {Py_bf_getbuffer, lease_get_buffer},
    {0, NULL},
};

PyType_Spec pyext_lease_spec = {
    .name = "fastpredict._core.Lease",
    .basicsize = sizeof(LeaseObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
