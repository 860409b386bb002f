/* server_object: fastpredict._core.Server.
 *
 * It owns a struct fpred_server. Each Exchange holds its Server, so as long as a reply can still be given there is
 * somebody to drop the references that come back from it. When the last reference goes the server is stopped and joined
 * within a bound, what is left is dropped, and it is freed. */
#ifndef FPRED_PYEXT_SERVER_OBJECT_H
#define FPRED_PYEXT_SERVER_OBJECT_H

#include "module.h"

extern PyType_Spec pyext_server_spec;

/* GIL: held. Whether this process is a child of fork() in which the server is dead. */
bool pyext_server_is_forked(PyObject *server);

#endif
