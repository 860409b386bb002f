/* exchange_object: see exchange_object.h. The GIL guards every field, and no method releases it. */
#include "exchange_object.h"

#include "array.h"
#include "body_type.h"
#include "errors.h"
#include "lease.h"
#include "parts.h"
#include "reply.h"
#include "server_object.h"

/* GIL: held. */
PyObject *pyext_exchange_new(PyObject *server, struct fpred_exchange *exchange)
{
    ExchangeObject *self = PyObject_New(ExchangeObject, pyext_state(Py_TYPE(server))->exchange_type);
    if (self == NULL) {
        pyext_reply_unanswered(exchange);
        return NULL;
    }
    self->exchange = exchange;
    self->server = Py_NewRef(server);
    self->body_bytes = fpred_exchange_body_bytes(exchange);
    self->slot = fpred_exchange_take_slot(exchange);
    self->client_memory = fpred_slot_region(self->slot) != NULL ? fpred_slot_payload(self->slot) : NULL;
    self->lease = NULL;
    self->bytes = NULL;
    self->in_parts = false;
    return (PyObject *)self;
}

/* GIL: held. */
static void exchange_dealloc(PyObject *op)
{
    ExchangeObject *self = (ExchangeObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    pyext_exchange_drop_body(self); /* before the client can know, as in a reply */
    if (self->exchange != NULL && !pyext_server_is_forked(self->server)) {
        if (self->in_parts)
            fpred_exchange_end(self->exchange, false);
        else
            pyext_reply_unanswered(self->exchange);
    }
    Py_DECREF(self->server);
    PyObject_Free(op);
    Py_DECREF(type);
}

/* GIL: held. */
struct fpred_exchange *pyext_exchange_open(ExchangeObject *self)
{
    if (self->exchange == NULL)
        pyext_raise_answered();
    else if (pyext_server_is_forked(self->server))
        pyext_raise_forked();
    else
        return self->exchange;
    return NULL;
}

/* ---- the body ---- */

/* GIL: held. */
void pyext_exchange_drop_body(ExchangeObject *self)
{
    Py_CLEAR(self->lease);
    Py_CLEAR(self->bytes);
    if (self->slot != NULL && !pyext_server_is_forked(self->server))
        fpred_slot_release(self->slot);
    self->slot = NULL;
}

/* GIL: held. A slot with a copy of the body, which bytes() has taken already; the caller's. NULL with an exception. */
static struct fpred_slot *copied_slot(ExchangeObject *self)
{
    assert(self->bytes != NULL || self->body_bytes == 0);
    struct fpred_slot *slot;
    enum fpred_status status = fpred_exchange_reply_slot(self->exchange, self->body_bytes, &slot);
    if (status != FPRED_OK) {
        pyext_raise_status(status);
        return NULL;
    }
    if (self->body_bytes != 0)
        memcpy(fpred_slot_payload(slot), PyBytes_AS_STRING(self->bytes), self->body_bytes);
    return slot;
}

/* GIL: held. */
PyObject *pyext_exchange_lease(ExchangeObject *self)
{
    if (self->lease == NULL) {
        if (self->slot == NULL && (self->slot = copied_slot(self)) == NULL)
            return NULL;
        self->lease = pyext_lease_new(pyext_state(Py_TYPE(self)), self->slot, self->body_bytes);
        if (self->lease == NULL)
            return NULL;
        self->slot = NULL;
    }
    return Py_NewRef(self->lease);
}

/* GIL: held. New bytes: over the slot while nobody else has it, the client neither; else a copy. What is so short that
 * CPython keeps one object for all is that object. */
static PyObject *make_bytes(ExchangeObject *self)
{
    if (self->slot != NULL && self->client_memory == NULL && self->body_bytes > 1) {
        PyObject *body = pyext_body_new(pyext_state(Py_TYPE(self)), self->slot, self->body_bytes);
        if (body != NULL)
            self->slot = NULL;
        return body;
    }
    const char *payload = "";
    if (self->lease != NULL)
        payload = pyext_lease_payload(self->lease);
    else if (self->slot != NULL)
        payload = fpred_slot_payload(self->slot);
    return PyBytes_FromStringAndSize(payload, (Py_ssize_t)self->body_bytes);
}

/* GIL: held. */
static PyObject *exchange_bytes(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ExchangeObject *self = (ExchangeObject *)op;
    if (pyext_exchange_open(self) == NULL)
        return NULL;
    if (self->bytes != NULL)
        return Py_NewRef(self->bytes);
    PyObject *bytes = make_bytes(self);
    /* A copy of what arrays can change is true for now only, and not kept. */
    if (bytes != NULL && self->lease == NULL)
        self->bytes = Py_NewRef(bytes);
    return bytes;
}

/* GIL: held. */
static PyObject *exchange_body(PyObject *op, void *Py_UNUSED(closure))
{
    ExchangeObject *self = (ExchangeObject *)op;
    if (pyext_exchange_open(self) == NULL)
        return NULL;
    PyObject *lease = pyext_exchange_lease(self);
    if (lease == NULL)
        return NULL;
    PyObject *view = PyMemoryView_FromObject(lease);
    Py_DECREF(lease);
    return view;
}

/* ---- the head ---- */

/* GIL: held. */
static PyObject *latin1(struct fpred_slice slice)
{
    return PyUnicode_DecodeLatin1(slice.base != NULL ? slice.base : "", (Py_ssize_t)slice.len, NULL);
}

/* GIL: not held or held. */
static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* GIL: held. A field's name, which is a token and so ASCII, in lower case. */
static PyObject *lower_name(struct fpred_slice name)
{
    PyObject *string = PyUnicode_New((Py_ssize_t)name.len, 127);
    if (string == NULL)
        return NULL;
    for (size_t i = 0; i < name.len; i++) {
        assert((unsigned char)name.base[i] < 128);
        PyUnicode_1BYTE_DATA(string)[i] = (Py_UCS1)lower(name.base[i]);
    }
    return string;
}

/* GIL: held. The field's (name, value). The exchange is asked for anew each time: a list or a tuple may be where
 * garbage is collected, whose finalizers run any code, and another thread may answer meanwhile. NULL with an exception.
 */
static PyObject *field_pair(ExchangeObject *self, size_t index)
{
    const struct fpred_exchange *exchange = pyext_exchange_open(self);
    if (exchange == NULL)
        return NULL;
    size_t count;
    const struct fpred_field *field = &fpred_exchange_fields(exchange, &count)[index];
    assert(index < count);
    PyObject *name = lower_name(field->name), *value = latin1(field->value);
    PyObject *pair = name != NULL && value != NULL ? PyTuple_Pack(2, name, value) : NULL;
    Py_XDECREF(name);
    Py_XDECREF(value);
    return pair;
}

/* GIL: held. */
static PyObject *exchange_headers(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    if (exchange == NULL)
        return NULL;
    size_t count;
    fpred_exchange_fields(exchange, &count);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *pair = field_pair((ExchangeObject *)op, i);
        if (pair == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, pair);
    }
    return list;
}

/* GIL: not held or held. */
static bool is_named(const struct fpred_field *field, const char *name, size_t length)
{
    if (field->name.len != length)
        return false;
    for (size_t i = 0; i < length; i++)
        if (lower(field->name.base[i]) != lower(name[i]))
            return false;
    return true;
}

/* GIL: held. The value behind what is there of the same name (stolen, NULL at first). New reference; NULL with an
 * exception. */
static PyObject *joined(PyObject *values, struct fpred_slice value)
{
    PyObject *text = latin1(value), *both = NULL;
    if (values == NULL || text == NULL) {
        Py_XDECREF(values);
        return text;
    }
    both = PyUnicode_FromFormat("%U, %U", values, text);
    Py_DECREF(values);
    Py_DECREF(text);
    return both;
}

/* GIL: held. */
static PyObject *exchange_header(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name", NULL};
    PyObject *string, *value = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U:header", keywords, &string))
        return NULL;
    Py_ssize_t length;
    const char *name = PyUnicode_AsUTF8AndSize(string, &length);
    const struct fpred_exchange *exchange = name != NULL ? pyext_exchange_open((ExchangeObject *)op) : NULL;
    if (exchange == NULL)
        return NULL;
    size_t count;
    const struct fpred_field *fields = fpred_exchange_fields(exchange, &count);
    for (size_t i = 0; i < count; i++)
        if (is_named(&fields[i], name, (size_t)length) && (value = joined(value, fields[i].value)) == NULL)
            return NULL;
    return value != NULL ? value : Py_NewRef(Py_None);
}

/* GIL: held. */
static PyObject *exchange_method(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    return exchange == NULL ? NULL : latin1(fpred_exchange_method(exchange));
}

/* GIL: held. */
static PyObject *exchange_target(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    return exchange == NULL ? NULL : latin1(fpred_exchange_target(exchange));
}

/* GIL: held. */
static PyObject *exchange_http_version(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    if (exchange == NULL)
        return NULL;
    return PyUnicode_FromString(fpred_exchange_minor_version(exchange) == 0 ? "HTTP/1.0" : "HTTP/1.1");
}

/* GIL: held. */
static PyObject *exchange_path(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    if (exchange == NULL)
        return NULL;
    struct fpred_slice path = fpred_exchange_path(exchange);
    return PyUnicode_DecodeUTF8(path.base, (Py_ssize_t)path.len, "surrogateescape");
}

/* GIL: held. */
static PyObject *exchange_query(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    return exchange == NULL ? NULL : latin1(fpred_exchange_query(exchange));
}

/* GIL: held. */
static PyObject *exchange_client(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    return exchange == NULL ? NULL : PyUnicode_DecodeFSDefault(fpred_exchange_client(exchange));
}

/* GIL: held. */
static PyObject *exchange_route(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    return exchange == NULL ? NULL : PyLong_FromSize_t(fpred_exchange_route(exchange));
}

/* GIL: held. */
static PyObject *exchange_kind(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    return exchange == NULL ? NULL : PyLong_FromLong(fpred_exchange_kind(exchange));
}

/* GIL: held. Known for good. */
static PyObject *exchange_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(((ExchangeObject *)op)->body_bytes);
}

/* GIL: held. Known for good. */
static PyObject *exchange_is_client_memory(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((ExchangeObject *)op)->client_memory != NULL);
}

/* GIL: held. */
static PyObject *exchange_queued_ns(PyObject *op, void *Py_UNUSED(closure))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    return exchange == NULL ? NULL : PyLong_FromLongLong(fpred_exchange_queued_us(exchange) * 1000);
}

/* GIL: held. */
static PyObject *exchange_is_disconnected(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    const struct fpred_exchange *exchange = pyext_exchange_open((ExchangeObject *)op);
    return exchange == NULL ? NULL : PyBool_FromLong(fpred_exchange_is_gone(exchange));
}

/* ---- the type ---- */

#define WITH_KEYWORDS(function) ((PyCFunction)(void (*)(void))(function)), METH_VARARGS | METH_KEYWORDS

PyDoc_STRVAR(header_doc,
             "header($self, name)\n--\n\nThe value of a field, several joined with \", \"; None when absent.");
PyDoc_STRVAR(array_doc, "array($self, dtype, shape, offset=0, fortran=False)\n--\n\n"
                        "An ndarray over the receive buffer from byte offset on.");
PyDoc_STRVAR(bytes_doc, "bytes($self)\n--\n\nThe body as a bytes object made in place; a copy after array() or body.");
PyDoc_STRVAR(disconnected_doc, "is_disconnected($self)\n--\n\nWhether the client has left.");
PyDoc_STRVAR(reply_doc, "reply($self, status, headers, payload, borrow=False, reason=None)\n--\n\n"
                        "Send the answer; the exchange is finished.");
PyDoc_STRVAR(begin_doc, "begin($self, status, headers, content_length=None, reason=None)\n--\n\n"
                        "Begin an answer in parts.");
PyDoc_STRVAR(write_doc, "write($self, block)\n--\n\nSend a part from where it lies; False when the client has left.");
PyDoc_STRVAR(end_doc, "end($self, whole=True)\n--\n\nThe exchange is finished; one that isn't whole is cut.");

static PyMethodDef methods[] = {
    {"header", WITH_KEYWORDS(exchange_header), header_doc},
    {"array", WITH_KEYWORDS(pyext_exchange_array), array_doc},
    {"bytes", exchange_bytes, METH_NOARGS, bytes_doc},
    {"is_disconnected", exchange_is_disconnected, METH_NOARGS, disconnected_doc},
    {"reply", WITH_KEYWORDS(pyext_exchange_reply), reply_doc},
    {"begin", WITH_KEYWORDS(pyext_exchange_begin), begin_doc},
    {"write", WITH_KEYWORDS(pyext_exchange_write), write_doc},
    {"end", WITH_KEYWORDS(pyext_exchange_end), end_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"route", exchange_route, NULL, "Index into the routes given to Server.", NULL},
    {"kind", exchange_kind, NULL, "BODY_RAW, BODY_NPY or BODY_JSON.", NULL},
    {"nbytes", exchange_nbytes, NULL, "Length of the body in bytes.", NULL},
    {"is_client_memory", exchange_is_client_memory, NULL, "Whether the body lies in memory of the client.", NULL},
    {"method", exchange_method, NULL, "The method.", NULL},
    {"path", exchange_path, NULL, "Percent-decoded, without the query.", NULL},
    {"query", exchange_query, NULL, "Without the \"?\", still encoded.", NULL},
    {"target", exchange_target, NULL, "The request target as it was sent.", NULL},
    {"http_version", exchange_http_version, NULL, "HTTP/1.1 or HTTP/1.0.", NULL},
    {"headers", exchange_headers, NULL, "Every field in order, names in lower case.", NULL},
    {"client", exchange_client, NULL, "Address of the client.", NULL},
    {"queued_ns", exchange_queued_ns, NULL, "When it began to wait for a thread, by time.monotonic_ns().", NULL},
    {"body", exchange_body, NULL, "The body; the same memory as array(), and as writable.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "One complete request, owned by the thread that took it, until reply()."},
    {Py_tp_dealloc, exchange_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec pyext_exchange_spec = {
    .name = "fastpredict._core.Exchange",
    .basicsize = sizeof(ExchangeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
