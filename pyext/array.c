/* array: see array.h. */
#include "array.h"

#include "numpy_api.h"

#include "errors.h"
#include "exchange_object.h"
#include "lease.h"

struct request {
    PyArray_Descr *dtype; /* borrowed */
    PyObject *shape;      /* borrowed: a tuple */
    Py_ssize_t offset;
    int fortran;
    int count;
    npy_intp dimensions[NPY_MAXDIMS];
    size_t bytes; /* what all of it takes */
};

/* GIL: held. Reads the shape; a number beyond npy_intp stays as large as that. May run Python code. -1 with an
 * exception. */
static int read_dimensions(struct request *request, size_t body_bytes)
{
    Py_ssize_t count = PyTuple_GET_SIZE(request->shape);
    if (count > NPY_MAXDIMS) {
        pyext_raise_dimensions(count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        request->dimensions[i] = PyNumber_AsSsize_t(PyTuple_GET_ITEM(request->shape, i), NULL);
        if (request->dimensions[i] == -1 && PyErr_Occurred())
            return -1;
        if (request->dimensions[i] < 0) {
            pyext_raise_does_not_fit(request->shape, (PyObject *)request->dtype, request->offset, body_bytes);
            return -1;
        }
    }
    request->count = (int)count;
    return 0;
}

/* GIL: not held or held. Whether the array lies within the body; sets request->bytes. */
static bool fits(struct request *request, size_t body_bytes)
{
    if (request->offset < 0 || (size_t)request->offset > body_bytes)
        return false;
    size_t room = body_bytes - (size_t)request->offset, bytes = (size_t)PyDataType_ELSIZE(request->dtype);
    bool empty = false;
    for (int i = 0; i < request->count; i++)
        empty = empty || request->dimensions[i] == 0;
    for (int i = 0; i < request->count && !empty; i++) {
        size_t dimension = (size_t)request->dimensions[i];
        if (bytes > room / dimension)
            return false;
        bytes *= dimension;
    }
    request->bytes = empty ? 0 : bytes;
    return request->bytes <= room;
}

/* GIL: held. New array over data, which lease (borrowed) keeps alive. */
static PyObject *view_of(struct request *request, char *data, PyObject *lease)
{
    int order = request->fortran ? NPY_ARRAY_F_CONTIGUOUS : NPY_ARRAY_C_CONTIGUOUS;
    int writable = pyext_lease_is_client_memory(lease) ? 0 : NPY_ARRAY_WRITEABLE;
    Py_INCREF(request->dtype); /* stolen */
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, request->dtype, request->count, request->dimensions, NULL,
                                           data, order | NPY_ARRAY_ALIGNED | writable, NULL);
    if (array == NULL)
        return NULL;
    Py_INCREF(lease); /* stolen, also on failure */
    if (PyArray_SetBaseObject((PyArrayObject *)array, lease) < 0)
        Py_CLEAR(array);
    return array;
}

/* GIL: held. New array with memory of its own and the same contents. */
static PyObject *copy_of(struct request *request, const char *data)
{
    Py_INCREF(request->dtype); /* stolen */
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, request->dtype, request->count, request->dimensions, NULL,
                                           NULL, request->fortran ? NPY_ARRAY_F_CONTIGUOUS : 0, NULL);
    if (array != NULL)
        memcpy(PyArray_DATA((PyArrayObject *)array), data, request->bytes);
    return array;
}

/* GIL: held. */
PyObject *pyext_exchange_array(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"dtype", "shape", "offset", "fortran", NULL};
    ExchangeObject *self = (ExchangeObject *)op;
    struct request request = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!|np:array", keywords, &PyArrayDescr_Type, &request.dtype,
                                     &PyTuple_Type, &request.shape, &request.offset, &request.fortran))
        return NULL;
    /* An itemsize of 0 would be made 1 by NumPy, beyond what we have checked. */
    if (PyDataType_REFCHK(request.dtype) || PyDataType_ELSIZE(request.dtype) <= 0)
        return pyext_raise_dtype((PyObject *)request.dtype);
    if (read_dimensions(&request, self->body_bytes) < 0)
        return NULL;
    if (!fits(&request, self->body_bytes))
        return pyext_raise_does_not_fit(request.shape, (PyObject *)request.dtype, request.offset, self->body_bytes);
    if (pyext_exchange_open(self) == NULL)
        return NULL;
    PyObject *lease = pyext_exchange_lease(self);
    if (lease == NULL)
        return NULL;
    char *data = pyext_lease_payload(lease) + request.offset;
    bool aligned = (uintptr_t)data % (size_t)PyDataType_ALIGNMENT(request.dtype) == 0;
    PyObject *array = aligned ? view_of(&request, data, lease) : copy_of(&request, data);
    Py_DECREF(lease);
    return array;
}
