/* reply: see reply.h. */
#include "reply.h"

#include "numpy_api.h"

#include "errors.h"
#include "exchange_object.h"

/* ---- header fields ---- */

struct fields {
    PyObject *tuple; /* strong: keeps the pairs, and they the bytes */
    struct fpred_field *list;
    size_t count;
};

/* GIL: held. */
static void clear_fields(struct fields *fields)
{
    Py_CLEAR(fields->tuple);
    PyMem_Free(fields->list);
}

/* GIL: held. */
static struct fpred_slice slice_of(PyObject *bytes)
{
    return (struct fpred_slice){PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes)};
}

/* GIL: held. May run Python code. -1 with an exception; clear_fields is due either way. */
static int read_fields(PyObject *headers, struct fields *fields)
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
            (struct fpred_field){slice_of(PyTuple_GET_ITEM(pair, 0)), slice_of(PyTuple_GET_ITEM(pair, 1))};
    }
    return 0;
}

/* ---- payload ---- */

struct payload {
    PyObject *item;   /* strong: what was taken out of the list; NULL for no body */
    PyObject *owner;  /* strong: whose reference keeps data valid; item itself, or a memoryview of it */
    const void *data; /* borrowed from owner */
    size_t bytes;
    bool stays; /* data won't change until it is sent */
};

/* GIL: held. Takes the only object out of the list, if there is one. -1 with an exception. */
static int take_item(PyObject *list, struct payload *payload)
{
    Py_ssize_t count = PyList_GET_SIZE(list);
    if (count == 0)
        return 0;
    if (count != 1) {
        pyext_raise_payload_count(count);
        return -1;
    }
    PyObject *item = Py_NewRef(PyList_GET_ITEM(list, 0));
    if (PyList_SetSlice(list, 0, 1, NULL) < 0) {
        Py_DECREF(item);
        return -1;
    }
    payload->item = item;
    return 0;
}

/* GIL: held. With an exception set, which stays unless there is no memory even for this. */
static void put_back(PyObject *list, const struct payload *payload)
{
    if (payload->item != NULL)
        PyList_Insert(list, 0, payload->item);
}

/* GIL: held. */
static bool has_weak_references(PyObject *object)
{
    Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
    return offset > 0 && *(PyObject **)((char *)object + offset) != NULL;
}

/* GIL: held. Whether this is a plain ndarray with one reference and no way to get another. A subclass may do as
 * it likes, and is not looked into. */
static bool is_held_alone(PyObject *object)
{
    return PyArray_CheckExact(object) && Py_REFCNT(object) == 1 && !has_weak_references(object);
}

/* GIL: held. Bytes that can't change: plain ones and our own. */
static bool is_frozen(const struct module_state *state, PyObject *object)
{
    return PyBytes_CheckExact(object) || Py_IS_TYPE(object, state->body_type);
}

/* GIL: held. Whether nothing but us can reach the array's memory. The exchange's own reference to its lease doesn't
 * count: it goes with the reply. */
static bool is_ours_alone(const ExchangeObject *exchange, PyObject *array)
{
    const struct module_state *state = pyext_state(Py_TYPE(exchange));
    while (is_held_alone(array)) {
        PyObject *base = PyArray_BASE((PyArrayObject *)array);
        if (base == NULL) /* not its own: memory that C code lent it, of which we know nothing */
            return PyArray_CHKFLAGS((PyArrayObject *)array, NPY_ARRAY_OWNDATA);
        if (is_frozen(state, base))
            return true;
        if (Py_IS_TYPE(base, state->lease_type))
            return Py_REFCNT(base) == 1 + (base == exchange->lease);
        array = base;
    }
    return false;
}

/* GIL: held. -1 with an exception. */
static int describe_array(const ExchangeObject *exchange, struct payload *payload)
{
    PyArrayObject *array = (PyArrayObject *)payload->item;
    if (PyDataType_REFCHK(PyArray_DESCR(array))) {
        pyext_raise_payload_objects();
        return -1;
    }
    if (!PyArray_IS_C_CONTIGUOUS(array)) {
        pyext_raise_not_contiguous();
        return -1;
    }
    payload->data = PyArray_DATA(array);
    payload->bytes = (size_t)PyArray_NBYTES(array);
    payload->stays = is_ours_alone(exchange, payload->item);
    payload->owner = Py_NewRef(payload->item);
    return 0;
}

/* GIL: held. May run Python code. The memoryview pins what it shows, a bytearray's memory for one. -1 with an
 * exception.
 */
static int describe_buffer(struct payload *payload)
{
    payload->owner = PyMemoryView_FromObject(payload->item);
    if (payload->owner == NULL)
        return -1;
    const Py_buffer *view = PyMemoryView_GET_BUFFER(payload->owner);
    if (!PyBuffer_IsContiguous(view, 'C')) {
        pyext_raise_not_contiguous();
        return -1;
    }
    payload->data = view->buf;
    payload->bytes = (size_t)view->len;
    return 0;
}

/* GIL: held. May run Python code. Says where the payload's bytes lie and whether they may stay there. -1 with an
 * exception. */
static int describe(const ExchangeObject *exchange, struct payload *payload)
{
    if (payload->item == NULL)
        return 0;
    if (PyArray_Check(payload->item))
        return describe_array(exchange, payload);
    if (!is_frozen(pyext_state(Py_TYPE(exchange)), payload->item))
        return describe_buffer(payload);
    payload->data = PyBytes_AS_STRING(payload->item);
    payload->bytes = (size_t)PyBytes_GET_SIZE(payload->item);
    payload->stays = true;
    payload->owner = Py_NewRef(payload->item);
    return 0;
}

/* ---- the reply ---- */

/* GIL: held. Decides who keeps the body, and copies it into a slot where nobody can. -1 with MemoryError. */
static int place_body(struct fpred_exchange *exchange, const struct payload *payload, bool borrow,
                      struct fpred_reply *reply)
{
    reply->body = payload->data;
    reply->body_bytes = payload->bytes;
    reply->memory = FPRED_REPLY_COPY;
    if (payload->bytes <= FPRED_REPLY_COPY_MAX)
        return 0;
    if (payload->stays || borrow) {
        reply->memory = FPRED_REPLY_OWNER;
        reply->owner = Py_NewRef(payload->owner);
        return 0;
    }
    struct fpred_slot *slot;
    enum fpred_status status = fpred_exchange_reply_slot(exchange, payload->bytes, &slot);
    if (status != FPRED_OK) {
        pyext_raise_status(status);
        return -1;
    }
    memcpy(fpred_slot_payload(slot), payload->data, payload->bytes);
    reply->body = fpred_slot_payload(slot);
    reply->memory = FPRED_REPLY_SLOT;
    reply->owner = slot;
    return 0;
}

/* GIL: held. Runs no Python code before the exchange is given back. 0; 1 with an exception although the exchange is
 * finished; -1 with an exception, and it isn't. */
static int give_reply(ExchangeObject *self, const struct payload *payload, bool borrow, struct fpred_reply *reply)
{
    struct fpred_exchange *exchange = pyext_exchange_open(self);
    if (exchange == NULL || place_body(exchange, payload, borrow, reply) < 0)
        return -1;
    self->exchange = NULL;
    enum fpred_status status = fpred_exchange_reply(exchange, reply);
    pyext_exchange_drop_body(self);
    if (status == FPRED_OK)
        return 0;
    pyext_raise_status(status);
    return 1;
}

/* GIL: held. */
PyObject *pyext_exchange_reply(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"status", "headers", "payload", "borrow", NULL};
    ExchangeObject *self = (ExchangeObject *)op;
    struct fpred_reply reply = {0};
    struct fields fields = {0};
    struct payload payload = {0};
    PyObject *headers, *list;
    int borrow = 0, result = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iOO!|p:reply", keywords, &reply.status, &headers, &PyList_Type,
                                     &list, &borrow))
        return NULL;
    if (pyext_exchange_open(self) == NULL)
        return NULL;
    if (reply.status < 200 || reply.status > 599)
        return pyext_raise_http_status(reply.status);
    if (read_fields(headers, &fields) < 0)
        goto cleanup;
    if (take_item(list, &payload) < 0 || describe(self, &payload) < 0)
        goto cleanup;
    if (payload.bytes != 0 && (reply.status == 204 || reply.status == 304)) {
        pyext_raise_payload_refused(reply.status);
        goto cleanup;
    }
    reply.fields = fields.list;
    reply.field_count = fields.count;
    result = give_reply(self, &payload, borrow != 0, &reply);
cleanup:
    if (result < 0)
        put_back(list, &payload);
    Py_XDECREF(payload.owner);
    Py_XDECREF(payload.item);
    clear_fields(&fields);
    return result == 0 ? Py_NewRef(Py_None) : NULL;
}

/* GIL: not held or held. */
void pyext_reply_unanswered(struct fpred_exchange *exchange)
{
    static const char body[] = "{\"error\": \"the handler gave no answer\"}";
    static const struct fpred_field type = {{"Content-Type", sizeof "Content-Type" - 1},
                                            {"application/json", sizeof "application/json" - 1}};
    const struct fpred_reply reply = {
        .status = 500,
        .fields = &type,
        .field_count = 1,
        .body = body,
        .body_bytes = sizeof body - 1,
        .memory = FPRED_REPLY_COPY,
    };
    fpred_exchange_reply(exchange, &reply);
}
