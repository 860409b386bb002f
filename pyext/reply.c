/* reply: see reply.h. */
#include "reply.h"

#include "numpy_api.h"

#include "errors.h"
#include "exchange_object.h"
#include "fields.h"
#include "lease.h"

/* ---- payload ---- */

struct item {
    PyObject *object; /* strong: what was taken out of the list */
    PyObject *owner;  /* strong: whose reference keeps data valid; object itself, or a memoryview of it */
    const void *data; /* borrowed from owner */
    size_t bytes;
    bool stays; /* data won't change until it is sent; decided last, when no more Python code runs */
    bool lent;  /* data is the request's body in the client's memory, which it may change whatever we say */
};

#define FEW 2
#define RELEASE_MIN ((size_t)256 << 10) /* bytes to copy for which it pays to release the GIL */

struct payload {
    struct item *items;        /* few, or from PyMem */
    struct fpred_slice *parts; /* as many; few_parts, or from PyMem */
    Py_ssize_t count;
    size_t bytes;
    PyObject *keeper; /* strong: an empty tuple for as many owners; NULL for one, who keeps itself */
    struct item few[FEW];
    struct fpred_slice few_parts[FEW];
};

/* GIL: held. Takes every object out of the list. -1 with an exception. */
static int take_items(PyObject *list, struct payload *payload)
{
    Py_ssize_t count = PyList_GET_SIZE(list);
    payload->items = payload->few;
    payload->parts = payload->few_parts;
    if (count > FEW) {
        payload->items = PyMem_New(struct item, (size_t)count);
        payload->parts = PyMem_New(struct fpred_slice, (size_t)count);
        if (payload->items == NULL || payload->parts == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++)
        payload->items[i] = (struct item){.object = Py_NewRef(PyList_GET_ITEM(list, i))};
    payload->count = count;
    return count == 0 ? 0 : PyList_SetSlice(list, 0, count, NULL);
}

/* GIL: held. With an exception set, which stays unless there is no memory even for this. */
static void put_back(PyObject *list, const struct payload *payload)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    for (Py_ssize_t i = payload->count; i-- > 0;)
        if (PyList_Insert(list, 0, payload->items[i].object) < 0)
            PyErr_Clear();
    PyErr_Restore(type, value, trace);
}

/* GIL: held. May run Python code. */
static void clear_payload(struct payload *payload)
{
    for (Py_ssize_t i = 0; i < payload->count; i++) {
        Py_XDECREF(payload->items[i].owner);
        Py_XDECREF(payload->items[i].object);
    }
    Py_XDECREF(payload->keeper);
    if (payload->items != payload->few)
        PyMem_Free(payload->items);
    if (payload->parts != payload->few_parts)
        PyMem_Free(payload->parts);
}

/* GIL: held. */
static bool has_weak_references(PyObject *object)
{
    Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
    return offset > 0 && *(PyObject **)((char *)object + offset) != NULL;
}

/* GIL: held. Whether this is a plain ndarray with so many references and no way to get another. A subclass may do as
 * it likes, and is not looked into. */
static bool is_held_alone(PyObject *object, Py_ssize_t references)
{
    return PyArray_CheckExact(object) && Py_REFCNT(object) == references && !has_weak_references(object);
}

/* GIL: held. Bytes that can't change: plain ones and our own. */
static bool is_frozen(const struct module_state *state, PyObject *object)
{
    return PyBytes_CheckExact(object) || Py_IS_TYPE(object, state->body_type);
}

/* GIL: held. Whether nothing but the item, which has it twice, can reach the array's memory. The exchange's own
 * reference to its lease doesn't count: it goes with the reply. */
static bool is_ours_alone(const ExchangeObject *exchange, PyObject *array)
{
    const struct module_state *state = pyext_state(Py_TYPE(exchange));
    for (Py_ssize_t references = 2; is_held_alone(array, references); references = 1) {
        PyObject *base = PyArray_BASE((PyArrayObject *)array);
        if (base == NULL) /* not its own: memory that C code lent it, of which we know nothing */
            return PyArray_CHKFLAGS((PyArrayObject *)array, NPY_ARRAY_OWNDATA);
        if (is_frozen(state, base))
            return true;
        if (Py_IS_TYPE(base, state->lease_type))
            return Py_REFCNT(base) == 1 + (base == exchange->lease) && !pyext_lease_is_client_memory(base);
        array = base;
    }
    return false;
}

/* GIL: held. -1 with an exception. */
static int describe_array(struct item *item)
{
    PyArrayObject *array = (PyArrayObject *)item->object;
    if (PyDataType_REFCHK(PyArray_DESCR(array))) {
        pyext_raise_payload_objects();
        return -1;
    }
    if (!PyArray_IS_C_CONTIGUOUS(array)) {
        pyext_raise_not_contiguous();
        return -1;
    }
    item->data = PyArray_DATA(array);
    item->bytes = (size_t)PyArray_NBYTES(array);
    item->owner = Py_NewRef(item->object);
    return 0;
}

/* GIL: held. May run Python code. The memoryview pins what it shows, a bytearray's memory for one. -1 with an
 * exception.
 */
static int describe_buffer(struct item *item)
{
    item->owner = PyMemoryView_FromObject(item->object);
    if (item->owner == NULL)
        return -1;
    const Py_buffer *view = PyMemoryView_GET_BUFFER(item->owner);
    if (!PyBuffer_IsContiguous(view, 'C')) {
        pyext_raise_not_contiguous();
        return -1;
    }
    item->data = view->buf;
    item->bytes = (size_t)view->len;
    return 0;
}

/* GIL: held. May run Python code. -1 with an exception. */
static int describe_object(const ExchangeObject *exchange, struct item *item)
{
    if (PyArray_Check(item->object))
        return describe_array(item);
    if (!is_frozen(pyext_state(Py_TYPE(exchange)), item->object))
        return describe_buffer(item);
    item->data = PyBytes_AS_STRING(item->object);
    item->bytes = (size_t)PyBytes_GET_SIZE(item->object);
    item->owner = Py_NewRef(item->object);
    return 0;
}

/* GIL: held. May run Python code. Says where the item's bytes lie. -1 with an exception. */
static int describe(const ExchangeObject *exchange, struct item *item)
{
    if (describe_object(exchange, item) < 0)
        return -1;
    uintptr_t data = (uintptr_t)item->data, body = (uintptr_t)exchange->client_memory;
    item->lent = body != 0 && data >= body && data - body < exchange->body_bytes;
    return 0;
}

/* GIL: not held or held. */
static bool is_kept(const struct item *item, bool borrow)
{
    return (item->stays || borrow) && !item->lent;
}

/* GIL: held. May run Python code: what a collection finds, and buffers of the user's. -1 with an exception. */
static int describe_all(const ExchangeObject *exchange, struct payload *payload)
{
    if (payload->count > 1 && (payload->keeper = PyTuple_New(payload->count)) == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < payload->count; i++) {
        if (describe(exchange, &payload->items[i]) < 0)
            return -1;
        payload->bytes += payload->items[i].bytes;
    }
    return 0;
}

/* GIL: held. Decides which items may stay where they lie. From here to the end of the reply no Python code runs and
 * nothing is allocated that garbage may be collected for, so nobody gets at them meanwhile. */
static void decide_all(const ExchangeObject *exchange, struct payload *payload)
{
    const struct module_state *state = pyext_state(Py_TYPE(exchange));
    for (Py_ssize_t i = 0; i < payload->count; i++) {
        struct item *item = &payload->items[i];
        item->stays = is_frozen(state, item->object) || is_ours_alone(exchange, item->object);
    }
}

/* ---- the reply ---- */

/* GIL: held. What keeps the items that stay: the only one's owner, or the tuple with all of theirs. New reference; NULL
 * where none stays. */
static PyObject *keeper_of(struct payload *payload, bool borrow)
{
    Py_ssize_t stay = 0;
    const struct item *last = NULL;
    for (Py_ssize_t i = 0; i < payload->count; i++) {
        if (!is_kept(&payload->items[i], borrow))
            continue;
        last = &payload->items[i];
        stay++;
    }
    if (stay <= 1)
        return last != NULL ? Py_NewRef(last->owner) : NULL;
    for (Py_ssize_t i = 0; i < payload->count; i++)
        PyTuple_SET_ITEM(payload->keeper, i,
                         Py_NewRef(is_kept(&payload->items[i], borrow) ? payload->items[i].owner : Py_None));
    PyObject *keeper = payload->keeper;
    payload->keeper = NULL;
    return keeper;
}

/* GIL: held. Copies what may not stay into one slot. *slot: NULL where all stays. -1 with MemoryError. */
static int copy_others(struct fpred_exchange *exchange, struct payload *payload, bool borrow, struct fpred_slot **slot)
{
    size_t bytes = 0;
    for (Py_ssize_t i = 0; i < payload->count; i++)
        bytes += is_kept(&payload->items[i], borrow) ? 0 : payload->items[i].bytes;
    *slot = NULL;
    if (bytes == 0)
        return 0;
    enum fpred_status status = fpred_exchange_reply_slot(exchange, bytes, slot);
    if (status != FPRED_OK) {
        pyext_raise_status(status);
        return -1;
    }
    char *at = fpred_slot_payload(*slot);
    for (Py_ssize_t i = 0; i < payload->count; i++) {
        const struct item *item = &payload->items[i];
        if (is_kept(item, borrow) || item->bytes == 0)
            continue;
        memcpy(at, item->data, item->bytes);
        payload->parts[i].base = at;
        at += item->bytes;
    }
    return 0;
}

/* GIL: held. Decides who keeps the parts, and copies into a slot what nobody can. -1 with MemoryError. */
static int place_body(struct fpred_exchange *exchange, struct payload *payload, bool borrow, struct fpred_reply *reply)
{
    for (Py_ssize_t i = 0; i < payload->count; i++)
        payload->parts[i] = (struct fpred_slice){payload->items[i].data, payload->items[i].bytes};
    reply->parts = payload->parts;
    reply->part_count = (size_t)payload->count;
    reply->copy = payload->bytes <= FPRED_REPLY_COPY_MAX;
    if (reply->copy || fpred_exchange_fills_memory(exchange, reply->status, payload->bytes))
        return 0;
    PyObject *keeper = keeper_of(payload, borrow);
    if (copy_others(exchange, payload, borrow, &reply->slot) < 0) {
        Py_XDECREF(keeper);
        return -1;
    }
    reply->owner = keeper;
    return 0;
}

/* GIL: released inside, for a large body that goes into the client's memory. */
static enum fpred_status send_reply(struct fpred_exchange *exchange, const struct fpred_reply *reply, size_t bytes)
{
    enum fpred_status status;
    if (bytes < RELEASE_MIN || !fpred_exchange_fills_memory(exchange, reply->status, bytes))
        return fpred_exchange_reply(exchange, reply);
    Py_BEGIN_ALLOW_THREADS;
    status = fpred_exchange_reply(exchange, reply);
    Py_END_ALLOW_THREADS;
    return status;
}

/* GIL: released inside. Runs no Python code before the exchange is given back. 0; 1 with an exception although the
 * exchange is finished; -1 with an exception, and it isn't. */
static int give_reply(ExchangeObject *self, struct payload *payload, bool borrow, struct fpred_reply *reply)
{
    struct fpred_exchange *exchange = pyext_exchange_open(self);
    if (exchange != NULL && self->in_parts) { /* begun by code of the headers or the payload */
        pyext_raise_answered();
        exchange = NULL;
    }
    if (exchange == NULL)
        return -1;
    decide_all(self, payload);
    if (place_body(exchange, payload, borrow, reply) < 0)
        return -1;
    self->exchange = NULL;
    /* Before the client can know: the next request's body then goes into the same memory, which the processor still has
     * at hand. What of the body the payload shows, its items keep until the answer was handed over. */
    pyext_exchange_drop_body(self);
    enum fpred_status status = send_reply(exchange, reply, payload->bytes);
    if (status == FPRED_OK)
        return 0;
    pyext_raise_status(status);
    return 1;
}

/* GIL: released inside. The same, with the list and the fields read. */
static int reply_with(ExchangeObject *self, PyObject *headers, PyObject *list, bool borrow, struct fpred_reply *reply)
{
    struct pyext_fields fields = {0};
    struct payload payload = {0};
    int result = -1;
    if (pyext_fields_read(headers, &fields) < 0 || take_items(list, &payload) < 0 || describe_all(self, &payload) < 0)
        goto cleanup;
    if (payload.bytes != 0 && (reply->status == 204 || reply->status == 304)) {
        pyext_raise_payload_refused(reply->status);
        goto cleanup;
    }
    reply->fields = fields.list;
    reply->field_count = fields.count;
    result = give_reply(self, &payload, borrow, reply);
cleanup:
    if (result < 0)
        put_back(list, &payload);
    clear_payload(&payload);
    pyext_fields_clear(&fields);
    return result;
}

/* GIL: released inside. */
PyObject *pyext_exchange_reply(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"status", "headers", "payload", "borrow", "reason", NULL};
    ExchangeObject *self = (ExchangeObject *)op;
    struct fpred_reply reply = {0};
    PyObject *headers, *list, *reason = Py_None;
    int borrow = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iOO!|pO:reply", keywords, &reply.status, &headers, &PyList_Type,
                                     &list, &borrow, &reason))
        return NULL;
    if (pyext_exchange_open(self) == NULL)
        return NULL;
    if (self->in_parts)
        return pyext_raise_answered();
    if (reply.status < 200 || reply.status > 599)
        return pyext_raise_http_status(reply.status);
    if (pyext_read_reason(reason, &reply.reason) < 0)
        return NULL;
    return reply_with(self, headers, list, borrow != 0, &reply) == 0 ? Py_NewRef(Py_None) : NULL;
}

/* GIL: not held or held. */
void pyext_reply_unanswered(struct fpred_exchange *exchange)
{
    static const char body[] = "{\"error\": \"the handler gave no answer\"}";
    static const struct fpred_field type = {{"Content-Type", sizeof "Content-Type" - 1},
                                            {"application/json", sizeof "application/json" - 1}};
    static const struct fpred_slice part = {body, sizeof body - 1};
    const struct fpred_reply reply = {
        .status = 500, .fields = &type, .field_count = 1, .parts = &part, .part_count = 1, .copy = true};
    fpred_exchange_reply(exchange, &reply);
}
