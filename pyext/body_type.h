/* body_type: a bytes object made in place, over the slot that the body was received into.
 *
 *   slot:   ... | slot, forks | header of a bytes object | body ... | NUL |
 *               ^ lead          ^ the object               ^ payload, 64-aligned
 *
 * It is a heap type derived from bytes: isinstance, hash, slices, json.loads and np.frombuffer all work, and none of
 * them copies. Nobody else can make one, since an instance that has no slot below it would be freed as if it had: the
 * type can't be called, subclassed or assigned to __class__, and its instances pickle and copy as plain bytes.
 * Where the layout of bytes is not what is drawn here, the body is copied into plain bytes. */
#ifndef FPRED_PYEXT_BODY_TYPE_H
#define FPRED_PYEXT_BODY_TYPE_H

#include "module.h"

#include "fastpredict.h"

extern PyType_Spec pyext_body_spec;

/* GIL: held. Once at import: sets state->body_in_place. -1 with an exception when out of memory. */
int pyext_body_check_layout(struct module_state *state);

/* GIL: held. New bytes object over the first `bytes` of the slot, which it takes; NULL with an exception, and the slot
 * is still the caller's. The slot must have no other user. */
PyObject *pyext_body_new(struct module_state *state, struct fpred_slot *slot, size_t bytes);

#endif
