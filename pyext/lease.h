/* lease: a small object that owns a slot and is the base of every array over it.
 *
 * It exports the slot's bytes through the buffer protocol, so a memoryview of it is the body: writable, but for a
 * client's memory. The slot goes
 * back to the slab with the last reference, on whatever thread that is and whether or not the server still runs.
 *
 * In a child of fork() slots are left alone: a lock of the slab may have been held by a thread that is no longer there.
 * So whatever owns a slot remembers how many forks the module had seen when it was made. */
#ifndef FPRED_PYEXT_LEASE_H
#define FPRED_PYEXT_LEASE_H

#include "module.h"

#include "fastpredict.h"

extern PyType_Spec pyext_lease_spec;

/* GIL: held. New lease over the first `bytes` of the slot, which it takes; NULL with an exception, and the slot is
 * still the caller's. */
PyObject *pyext_lease_new(struct module_state *state, struct fpred_slot *slot, size_t bytes);

/* GIL: held. Borrowed while the lease lives. */
char *pyext_lease_payload(PyObject *lease);

/* GIL: held. Whether it is a client's memory, and so may not be written, and not be trusted beyond the reply. */
bool pyext_lease_is_client_memory(PyObject *lease);

#endif
