/* numpy_api: NumPy's C API, whose table of functions one file imports (module.c, with FPRED_IMPORT_NUMPY) and all
 * others share. Include it after module.h. */
#ifndef FPRED_PYEXT_NUMPY_API_H
#define FPRED_PYEXT_NUMPY_API_H

#define PY_ARRAY_UNIQUE_SYMBOL fpred_numpy_api
#ifndef NPY_NO_DEPRECATED_API
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#endif
#ifndef FPRED_IMPORT_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#endif
