/* fields: see fields.h. */
#include "fields.h"

#include "errors.h"

/* GIL: held. */
void pyext_fields_clear(struct pyext_fields *fields)
{
    Py_CLEAR(fields->tuple);
    PyMem_Free(fields->list);
    fields->list = NULL;
}

/* GIL: held. */
struct fpred_slice pyext_slice_of(PyObject *bytes)
{
    return (struct fpred_slice){PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes)};
}

/* GIL: held. */
int pyext_fields_read(PyObject *headers, struct pyext_fields *fields)
{
    /* A tuple: a list could change under us while the payload's own code runs. */
    fields->tuple = PySequence_Tuple(headers);
    if (fields->tuple == NULL)
        return -1;
    fields->count = (size_t)PyTuple_GET_SIZE(fields->tuple);
    fields->list = PyMem_New(struct fpred_field, fields->count);
    if (fields->list == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < fields->count; i++) {
        PyObject *pair = PyTuple_GET_ITEM(fields->tuple, (Py_ssize_t)i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyBytes_Check(PyTuple_GET_ITEM(pair, 0)) ||
            !PyBytes_Check(PyTuple_GET_ITEM(pair, 1))) {
            pyext_raise_field(pair);
            return -1;
        }
        fields->list[i] =
            (struct fpred_field){pyext_slice_of(PyTuple_GET_ITEM(pair, 0)), pyext_slice_of(PyTuple_GET_ITEM(pair, 1))};
    }
    return 0;
}

/* GIL: held. */
int pyext_read_reason(PyObject *reason, struct fpred_slice *slice)
{
    *slice = (struct fpred_slice){NULL, 0};
    if (reason == Py_None)
        return 0;
    if (!PyBytes_Check(reason)) {
        pyext_raise_reason(reason);
        return -1;
    }
    *slice = pyext_slice_of(reason);
    return 0;
}
