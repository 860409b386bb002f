/* reply: Exchange.reply, and the reply of an exchange that was dropped.
 *
 *   each object of payload                             is sent
 *   all, where the client has lent memory for it       by a copy there, with the GIL released when it is large
 *   all, up to FPRED_REPLY_COPY_MAX bytes together     from a copy that the core makes; its reference goes at once
 *   bytes, also ours                                   from where they lie: nobody can change them
 *   C-contiguous ndarray that nothing else refers to,  from where it lies: nobody is left to change it
 *     nor to its base, and so on down
 *   anything, with borrow=True                         from where it lies: the caller has promised
 *   anything else                                      from a copy in a slot
 *   whatever lies in the request's own memory, where   from a copy in a slot: the client may write there when it has
 *     that is the client's                               read the answer's beginning
 *
 * What is sent from where it lies is kept by the references that were taken out of the list; they come back through
 * fpred_server_reap and is dropped in Server.take or Server.reap. */
#ifndef FPRED_PYEXT_REPLY_H
#define FPRED_PYEXT_REPLY_H

#include "module.h"

#include "fastpredict.h"

/* GIL: held. The method: self is an Exchange. */
PyObject *pyext_exchange_reply(PyObject *self, PyObject *args, PyObject *kwargs);

/* GIL: not held or held. Answers 500; the exchange must not be touched afterwards. */
void pyext_reply_unanswered(struct fpred_exchange *exchange);

#endif
