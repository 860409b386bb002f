/* fields: a sequence of header pairs as the core wants them. */
#ifndef FPRED_PYEXT_FIELDS_H
#define FPRED_PYEXT_FIELDS_H

#include "module.h"

#include "fastpredict.h"

/* Zero it, then read, then clear. */
struct pyext_fields {
    PyObject *tuple; /* strong: keeps the pairs, and they the bytes */
    struct fpred_field *list;
    size_t count;
};

/* GIL: held. May run Python code. -1 with an exception; clear is due either way. */
int pyext_fields_read(PyObject *headers, struct pyext_fields *fields);

/* GIL: held. */
void pyext_fields_clear(struct pyext_fields *fields);

/* GIL: held. The bytes of a bytes object, borrowed while it lives. */
struct fpred_slice pyext_slice_of(PyObject *bytes);

/* GIL: held. A reason phrase, borrowed: bytes, or None for the status' own (base NULL). -1 with TypeError. */
int pyext_read_reason(PyObject *reason, struct fpred_slice *slice);

#endif
