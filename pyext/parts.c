/* parts: see parts.h. */
#include "parts.h"

#include "errors.h"
#include "exchange_object.h"
#include "fields.h"
#include "options.h"

/* GIL: held. None, or a length. -1 with an exception. */
static int read_length(PyObject *object, uint64_t *length)
{
    size_t bytes;
    *length = FPRED_LENGTH_UNKNOWN;
    if (object == Py_None)
        return 0;
    if (pyext_as_size(object, "content_length", &bytes) < 0)
        return -1;
    *length = bytes;
    return 0;
}

/* GIL: held. -1 with an exception. */
static int begin(ExchangeObject *self, PyObject *headers, struct fpred_reply *head, uint64_t length)
{
    struct pyext_fields fields = {0};
    int result = pyext_fields_read(headers, &fields);
    struct fpred_exchange *exchange = result == 0 ? pyext_exchange_open(self) : NULL;
    if (exchange != NULL && self->in_parts) { /* the headers' own code has begun an answer */
        pyext_raise_answered();
        exchange = NULL;
        result = -1;
    }
    if (exchange != NULL) {
        head->fields = fields.list;
        head->field_count = fields.count;
        enum fpred_status status = fpred_exchange_begin(exchange, head, length);
        self->in_parts = status == FPRED_OK;
        if (status != FPRED_OK)
            pyext_raise_status(status);
    }
    pyext_fields_clear(&fields);
    return exchange != NULL && self->in_parts ? 0 : -1;
}

/* GIL: held. */
PyObject *pyext_exchange_begin(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"status", "headers", "content_length", "reason", NULL};
    ExchangeObject *self = (ExchangeObject *)op;
    struct fpred_reply head = {0};
    PyObject *headers, *content_length = Py_None, *reason = Py_None;
    uint64_t length;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO|OO:begin", keywords, &head.status, &headers, &content_length,
                                     &reason))
        return NULL;
    if (pyext_exchange_open(self) == NULL)
        return NULL;
    if (self->in_parts)
        return pyext_raise_answered();
    if (head.status < 200 || head.status > 599)
        return pyext_raise_http_status(head.status);
    if (read_length(content_length, &length) < 0 || pyext_read_reason(reason, &head.reason) < 0)
        return NULL;
    return begin(self, headers, &head, length) < 0 ? NULL : Py_NewRef(Py_None);
}

/* GIL: held. The exchange of an answer in parts, borrowed; NULL with RuntimeError. */
static struct fpred_exchange *open_parts(ExchangeObject *self)
{
    struct fpred_exchange *exchange = pyext_exchange_open(self);
    if (exchange != NULL && !self->in_parts) {
        pyext_raise_not_begun();
        return NULL;
    }
    return exchange;
}

/* GIL: released inside. */
PyObject *pyext_exchange_write(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"block", NULL};
    ExchangeObject *self = (ExchangeObject *)op;
    Py_buffer block;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*:write", keywords, &block))
        return NULL;
    PyObject *result = NULL;
    struct fpred_exchange *exchange = open_parts(self);
    if (exchange == NULL)
        goto cleanup;
    uint64_t rest = fpred_exchange_rest(exchange);
    if ((uint64_t)block.len > rest) {
        pyext_raise_too_long((size_t)block.len, rest);
        goto cleanup;
    }
    enum fpred_status status;
    self->exchange = NULL; /* the network thread has it */
    Py_BEGIN_ALLOW_THREADS;
    status = fpred_exchange_write(exchange, block.buf, (size_t)block.len);
    Py_END_ALLOW_THREADS;
    self->exchange = exchange;
    result = PyBool_FromLong(status == FPRED_OK);
cleanup:
    PyBuffer_Release(&block);
    return result;
}

/* GIL: held. */
PyObject *pyext_exchange_end(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"whole", NULL};
    ExchangeObject *self = (ExchangeObject *)op;
    int whole = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:end", keywords, &whole))
        return NULL;
    struct fpred_exchange *exchange = open_parts(self);
    if (exchange == NULL)
        return NULL;
    self->exchange = NULL;
    pyext_exchange_drop_body(self); /* before the client can know, as in a reply */
    fpred_exchange_end(exchange, whole != 0);
    Py_RETURN_NONE;
}
