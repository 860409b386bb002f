/* route_object: see route_object.h. */
#include "route_object.h"

#include "errors.h"
#include "options.h"

typedef struct {
    PyObject_HEAD PyObject *path; /* str, strong; set once, as all here */
    PyObject *expected;           /* str, strong */
    struct fpred_route route;     /* its strings are the UTF-8 that the two keep */
} RouteObject;

/* GIL: held. */
const struct fpred_route *pyext_route_get(PyObject *route)
{
    return &((RouteObject *)route)->route;
}

/* GIL: held. The UTF-8 of a str, borrowed while the str lives; NULL with an exception. */
static const char *text_of(PyObject *string, const char *argument)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(string, &length);
    if (text != NULL && strlen(text) != (size_t)length) {
        pyext_raise_null_in(argument);
        return NULL;
    }
    return text;
}

/* GIL: held. */
static int set_route(RouteObject *self, PyObject *path, PyObject *unit, PyObject *npy_max, PyObject *expected)
{
    struct fpred_route *route = &self->route;
    self->path = Py_NewRef(path);
    self->expected = Py_NewRef(expected);
    if ((route->path = text_of(path, "path")) == NULL || (route->expected = text_of(expected, "expected")) == NULL)
        return -1;
    if (pyext_as_size(unit, "raw_unit_bytes", &route->raw_unit_bytes) < 0)
        return -1;
    return pyext_as_size(npy_max, "npy_max_bytes", &route->npy_max_bytes);
}

/* GIL: held. */
static PyObject *route_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"path", "raw_unit_bytes", "raw_exact", "raw_allowed", "npy_max_bytes", "expected", NULL};
    PyObject *path, *unit, *npy_max, *expected;
    int exact, allowed;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U$OppOU:Route", keywords, &path, &unit, &exact, &allowed, &npy_max,
                                     &expected))
        return NULL;
    RouteObject *self = (RouteObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->route.raw_exact = exact != 0;
    self->route.raw_allowed = allowed != 0;
    if (set_route(self, path, unit, npy_max, expected) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* GIL: held. */
static void route_dealloc(PyObject *op)
{
    RouteObject *self = (RouteObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    Py_XDECREF(self->path);
    Py_XDECREF(self->expected);
    type->tp_free(op);
    Py_DECREF(type);
}

/* GIL: held. */
static PyObject *route_path(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((RouteObject *)op)->path);
}

static PyGetSetDef getset[] = {
    {"path", route_path, NULL, "The path, matched exactly.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(route_doc, "Route(path, *, raw_unit_bytes, raw_exact, raw_allowed, npy_max_bytes, expected)\n--\n\n"
                        "One predict route, as the network thread needs it to refuse a request at its head.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)route_doc},
    {Py_tp_new, route_new},
    {Py_tp_dealloc, route_dealloc},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec pyext_route_spec = {
    .name = "fastpredict._core.Route",
    .basicsize = sizeof(RouteObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
