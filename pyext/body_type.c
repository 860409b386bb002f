/* body_type: see body_type.h. */
#include "body_type.h"

/* What lies right in front of the object. */
struct lead {
    struct fpred_slot *slot; /* owned by the object */
    unsigned forks;          /* module_state.forks when it was made; see lease.h */
};

/* GIL: not held or held. Where the payload of a bytes object starts; checked at import. */
static const size_t payload_offset = offsetof(PyBytesObject, ob_sval);

/* GIL: held. */
static struct lead *lead_of(PyObject *body)
{
    return (struct lead *)body - 1;
}

/* GIL: held. The hash is computed on demand from then on. The field is deprecated for those who read it. */
static void forget_hash(PyBytesObject *bytes)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    bytes->ob_shash = -1;
#pragma GCC diagnostic pop
}

/* GIL: held. */
static bool is_unhashed(const PyBytesObject *bytes)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    return bytes->ob_shash == -1;
#pragma GCC diagnostic pop
}

/* GIL: held. */
int pyext_body_check_layout(struct module_state *state)
{
    static const char text[] = "layout";
    PyObject *sample = PyBytes_FromStringAndSize(text, sizeof text - 1);
    if (sample == NULL)
        return -1;
    PyTypeObject *type = state->body_type;
    size_t offset = (size_t)(PyBytes_AsString(sample) - (char *)sample);
    state->body_in_place = offset == payload_offset && offset + sizeof(struct lead) <= FPRED__SLOT_LEAD &&
                           offset % sizeof(void *) == 0 && Py_SIZE(sample) == sizeof text - 1 &&
                           memcmp((char *)sample + offset, text, sizeof text) == 0 &&
                           is_unhashed((PyBytesObject *)sample) && PyBytes_Type.tp_itemsize == 1 &&
                           type->tp_basicsize == PyBytes_Type.tp_basicsize && type->tp_itemsize == 1 &&
                           (size_t)type->tp_basicsize == offset + 1 && !PyType_IS_GC(type) &&
                           type->tp_dictoffset == 0 && type->tp_weaklistoffset == 0;
    Py_DECREF(sample);
    return 0;
}

/* GIL: held. */
PyObject *pyext_body_new(struct module_state *state, struct fpred_slot *slot, size_t bytes)
{
    char *payload = fpred_slot_payload(slot);
    if (!state->body_in_place || (uintptr_t)payload % sizeof(void *) != 0) {
        PyObject *copy = PyBytes_FromStringAndSize(payload, (Py_ssize_t)bytes);
        if (copy != NULL)
            fpred_slot_release(slot);
        return copy;
    }
    PyObject *body = (PyObject *)(payload - payload_offset);
    *lead_of(body) = (struct lead){.slot = slot, .forks = state->forks};
    payload[bytes] = '\0';
    PyObject_InitVar((PyVarObject *)body, state->body_type, (Py_ssize_t)bytes);
    forget_hash((PyBytesObject *)body);
    return body;
}

/* GIL: held. */
static void body_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    struct lead lead = *lead_of(op);
    if (lead.forks == pyext_state(type)->forks)
        fpred_slot_release(lead.slot);
    Py_DECREF(type);
}

/* GIL: held. As plain bytes, for every protocol: also what copy.copy and copy.deepcopy go by. */
static PyObject *body_reduce(PyObject *op, PyObject *Py_UNUSED(protocol))
{
    return Py_BuildValue("O(y#)", (PyObject *)&PyBytes_Type, PyBytes_AS_STRING(op), PyBytes_GET_SIZE(op));
}

static PyMethodDef methods[] = {
    {"__reduce__", body_reduce, METH_NOARGS, NULL},
    {"__reduce_ex__", body_reduce, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "bytes over the memory that a request body was received into."},
    {Py_tp_dealloc, body_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

/* basicsize and itemsize are those of bytes. */
PyType_Spec pyext_body_spec = {
    .name = "fastpredict._core.BodyBytes",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
