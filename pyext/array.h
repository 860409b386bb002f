/* array: Exchange.array, an ndarray over the memory that the body was received into. */
#ifndef FPRED_PYEXT_ARRAY_H
#define FPRED_PYEXT_ARRAY_H

#include "module.h"

/* GIL: held. The method: self is an Exchange. */
PyObject *pyext_exchange_array(PyObject *self, PyObject *args, PyObject *kwargs);

#endif
