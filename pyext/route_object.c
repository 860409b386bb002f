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
/* unit, npy_max and expected: NULL for the default. */
static int set_route(RouteObject *self, PyObject *path, PyObject *unit, PyObject *npy_max, PyObject *expected)
{
    struct fpred_route *route = &self->route;
    self->path = Py_NewRef(path);
    self->expected = expected != NULL ? Py_NewRef(expected) : PyUnicode_FromString("");
    if (self->expected == NULL)
        return -1;
    if ((route->path = text_of(path, "path")) == NULL ||
        (route->expected = text_of(self->expected, "expected")) == NULL)
        return -1;
    if (unit != NULL && pyext_as_size(unit, "raw_unit_bytes", &route->raw_unit_bytes) < 0)
        return -1;
    return npy_max != NULL ? pyext_as_size(npy_max, "npy_max_bytes", &route->npy_max_bytes) : 0;
}

/* GIL: held. */
static PyObject *route_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"path",      "mount",       "any_body",      "control",  "raw_unit_bytes",
                               "raw_exact", "raw_allowed", "npy_max_bytes", "expected", NULL};
    PyObject *path, *unit = NULL, *npy_max = NULL, *expected = NULL;
    int mount = 0, any_body = 0, control = 0, exact = 0, allowed = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U|$pppOppOU:Route", keywords, &path, &mount, &any_body, &control,
                                     &unit, &exact, &allowed, &npy_max, &expected))
        return NULL;
    RouteObject *self = (RouteObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->route.mount = mount != 0;
    self->route.any_body = any_body != 0;
    self->route.control = control != 0;
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

PyDoc_STRVAR(route_doc, "Route(path, *, mount=False, any_body=False, control=False, raw_unit_bytes=0, "
                        "raw_exact=False, raw_allowed=True, npy_max_bytes=0, expected='')\n--\n\n"
                        "One route, as the network thread needs it to refuse a request at its head.");

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
