/* parts: Exchange.begin, write and end, an answer in parts.
 *
 * write() sends from where the block lies: it returns once the kernel has taken all of it, and holds the block until
 * then. Meanwhile the exchange is with the network thread, and to other threads the Exchange looks answered. */
#ifndef FPRED_PYEXT_PARTS_H
#define FPRED_PYEXT_PARTS_H

#include "module.h"

/* GIL: held, or released inside (write). The methods: self is an Exchange. */
PyObject *pyext_exchange_begin(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *pyext_exchange_write(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *pyext_exchange_end(PyObject *self, PyObject *args, PyObject *kwargs);

#endif
