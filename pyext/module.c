/* module: see module.h. Initialised in two phases; GIL: held, all of it.
 *
 * Free threading isn't declared, so an interpreter without a GIL turns it on for us. */
#include "module.h"

#define FPRED_IMPORT_NUMPY
#include "numpy_api.h"

#include "body_type.h"
#include "errors.h"
#include "exchange_object.h"
#include "lease.h"
#include "region_object.h"
#include "route_object.h"
#include "server_object.h"

#include "fastpredict.h"

/* GIL: held. Makes a type and, where it is a public one, adds it to the module. -1 with an exception. */
static int make_type(PyObject *module, PyType_Spec *spec, PyTypeObject *base, bool is_public, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, (PyObject *)base);
    if (*type == NULL)
        return -1;
    return is_public ? PyModule_AddType(module, *type) : 0;
}

/* GIL: held. */
static int make_types(PyObject *module, struct module_state *state)
{
    if (make_type(module, &pyext_route_spec, NULL, true, &state->route_type) < 0 ||
        make_type(module, &pyext_server_spec, NULL, true, &state->server_type) < 0 ||
        make_type(module, &pyext_exchange_spec, NULL, true, &state->exchange_type) < 0 ||
        make_type(module, &pyext_region_spec, NULL, true, &state->region_type) < 0 ||
        make_type(module, &pyext_lease_spec, NULL, false, &state->lease_type) < 0 ||
        make_type(module, &pyext_body_spec, &PyBytes_Type, false, &state->body_type) < 0)
        return -1;
    return pyext_body_check_layout(state);
}

/* GIL: held. */
static int add_constants(PyObject *module)
{
    if (PyModule_AddIntConstant(module, "BODY_RAW", FPRED_BODY_RAW) < 0 ||
        PyModule_AddIntConstant(module, "BODY_NPY", FPRED_BODY_NPY) < 0 ||
        PyModule_AddIntConstant(module, "BODY_JSON", FPRED_BODY_JSON) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "LIBH2O_VERSION", fpred_libh2o_version());
}

/* GIL: held. */
static int module_exec(PyObject *module)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        pyext_raise_subinterpreter();
        return -1;
    }
    if (PyArray_ImportNumPyAPI() < 0)
        return -1;
    if (make_types(module, PyModule_GetState(module)) < 0)
        return -1;
    return add_constants(module);
}

/* GIL: held. The state is NULL until the module has been executed. */
static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    if (state == NULL)
        return 0;
    Py_VISIT(state->route_type);
    Py_VISIT(state->server_type);
    Py_VISIT(state->exchange_type);
    Py_VISIT(state->lease_type);
    Py_VISIT(state->body_type);
    Py_VISIT(state->region_type);
    return 0;
}

/* GIL: held. The rest of the state is needed as long as an instance lives: it holds its type, and that the module. */
static int module_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    if (state == NULL)
        return 0;
    Py_CLEAR(state->route_type);
    Py_CLEAR(state->server_type);
    Py_CLEAR(state->exchange_type);
    Py_CLEAR(state->lease_type);
    Py_CLEAR(state->body_type);
    Py_CLEAR(state->region_type);
    return 0;
}

/* GIL: held. */
static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "fastpredict._core",
    .m_doc = "The extension: libfastpredict's server under Python. Private.",
    .m_size = sizeof(struct module_state),
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

/* GIL: held. */
PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
