/* region_object: see region_object.h. */
#include "region_object.h"

#include <errno.h>

#include "errors.h"

#include "fastpredict.h"

typedef struct {
    PyObject_HEAD struct fpred_region *region; /* a share; set once */
    bool writable;                             /* set once */
} RegionObject;

/* GIL: released inside. NULL with an exception. */
static struct fpred_region *map(int fd, long long offset, Py_ssize_t length, bool writable)
{
    struct fpred_region *region = NULL;
    if (offset < 0 || length <= 0) {
        pyext_raise_range(offset, length);
        return NULL;
    }
    enum fpred_status status;
    int error;
    Py_BEGIN_ALLOW_THREADS;
    status = fpred_region_map(fd, (uint64_t)offset, (size_t)length, writable, &region);
    error = errno;
    Py_END_ALLOW_THREADS;
    if (status == FPRED_INVALID)
        pyext_raise_range(offset, length);
    else if (status == FPRED_SYSTEM)
        pyext_raise_system(error, NULL, NULL);
    else if (status != FPRED_OK)
        pyext_raise_status(status);
    return status == FPRED_OK ? region : NULL;
}

/* GIL: released inside. */
static void unmap(struct fpred_region *region)
{
    Py_BEGIN_ALLOW_THREADS;
    fpred_region_release(region);
    Py_END_ALLOW_THREADS;
}

/* GIL: released inside. */
static PyObject *region_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "offset", "length", "writable", NULL};
    int fd, writable = 0;
    long long offset;
    Py_ssize_t length;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iLn|p:Region", keywords, &fd, &offset, &length, &writable))
        return NULL;
    struct fpred_region *region = map(fd, offset, length, writable != 0);
    if (region == NULL)
        return NULL;
    RegionObject *self = PyObject_New(RegionObject, type);
    if (self == NULL) {
        unmap(region);
        return NULL;
    }
    self->region = region;
    self->writable = writable != 0;
    return (PyObject *)self;
}

/* GIL: released inside. */
static void region_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    struct fpred_region *region = ((RegionObject *)op)->region;
    PyObject_Free(op);
    Py_DECREF(type);
    unmap(region);
}

/* GIL: held. */
static int region_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    const RegionObject *self = (RegionObject *)op;
    fpred_region_guard(self->region);
    return PyBuffer_FillInfo(view, op, fpred_region_base(self->region), (Py_ssize_t)fpred_region_bytes(self->region),
                             !self->writable, flags);
}

/* GIL: held. */
static PyObject *region_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(fpred_region_bytes(((RegionObject *)op)->region));
}

/* GIL: held. */
static PyObject *region_writable(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((RegionObject *)op)->writable);
}

/* GIL: held. */
static PyObject *region_faulted(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(fpred_region_is_faulted(((RegionObject *)op)->region));
}

static PyGetSetDef getset[] = {
    {"nbytes", region_nbytes, NULL, "Length in bytes.", NULL},
    {"writable", region_writable, NULL, "Whether it may be written.", NULL},
    {"faulted", region_faulted, NULL, "Whether zeros stood in for some of it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(region_doc, "Region(fd, offset, length, writable=False)\n--\n\n"
                         "Bytes of a file, mapped and shared with whoever else has it mapped.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)region_doc},      {Py_tp_new, region_new},
    {Py_tp_dealloc, region_dealloc},      {Py_tp_getset, getset},
    {Py_bf_getbuffer, region_get_buffer}, {0, NULL},
};

PyType_Spec pyext_region_spec = {
    .name = "fastpredict._core.Region",
    .basicsize = sizeof(RegionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
