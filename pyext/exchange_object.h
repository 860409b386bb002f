/* exchange_object: fastpredict._core.Exchange.
 *
 * It owes the core a reply. Its body lies in a slot, which becomes either a lease, under arrays and `body`, or a bytes
 * object, and is copied only when both are asked for:
 *
 *   slot --- array(), body ---> lease        bytes() now copies: the lease's memory can be written
 *   slot --- bytes() ---------> bytes        array() and body now get a lease over a copy: bytes never change
 *
 * Over a client's memory bytes() always copies, and lease and arrays are read-only.
 *
 * reply() lets go of all of it; what was handed out lives on by itself. */
#ifndef FPRED_PYEXT_EXCHANGE_OBJECT_H
#define FPRED_PYEXT_EXCHANGE_OBJECT_H

#include "module.h"

#include "fastpredict.h"

/* All fields are guarded by the GIL. */
typedef struct {
    PyObject_HEAD struct fpred_exchange *exchange; /* owes a reply; NULL once it has been given, and while a thread is
                                                      in write() */
    PyObject *server;                              /* strong; set once */
    struct fpred_slot *slot;   /* owned: the body, until lease or bytes takes it, or the reply ends it */
    PyObject *lease;           /* strong, or NULL */
    PyObject *bytes;           /* strong, or NULL */
    const char *client_memory; /* set once: where the body lies in a client's memory, else NULL; only ever compared
                                  with, since it is the slot or lease that keeps it */
    bool in_parts;             /* begin() was called */
    size_t body_bytes;         /* set once */
} ExchangeObject;

extern PyType_Spec pyext_exchange_spec;

/* GIL: held. New Exchange that takes the exchange; NULL with an exception, and it has then been answered with 500. */
PyObject *pyext_exchange_new(PyObject *server, struct fpred_exchange *exchange);

/* GIL: held. The exchange, borrowed until anything is called that may run Python code. NULL with RuntimeError when it
 * has been answered, or in a child of fork(). */
struct fpred_exchange *pyext_exchange_open(ExchangeObject *self);

/* GIL: held. The lease over the body, made when first asked for. New reference; NULL with an exception. The exchange
 * must be open. */
PyObject *pyext_exchange_lease(ExchangeObject *self);

/* GIL: held. Lets go of the body. */
void pyext_exchange_drop_body(ExchangeObject *self);

#endif
