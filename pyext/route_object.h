/* route_object: fastpredict._core.Route, an immutable description of one predict route. */
#ifndef FPRED_PYEXT_ROUTE_OBJECT_H
#define FPRED_PYEXT_ROUTE_OBJECT_H

#include "module.h"

#include "fastpredict.h"

extern PyType_Spec pyext_route_spec;

/* GIL: held. The route's description; its strings are borrowed while the Route lives. */
const struct fpred_route *pyext_route_get(PyObject *route);

#endif
