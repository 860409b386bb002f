"""How a handler's result, or its failure, becomes an answer: the same for routes and for models.

A result lies in the list ``payload`` and is bound nowhere else, so that it is sent from where it
is (see worker.py).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from fastpredict.encode import Head, error_body, json_head
from fastpredict.log import logger

if TYPE_CHECKING:
    from fastpredict._core import Exchange


class Handled(Protocol):
    """What has a handler, as messages call it."""

    @property
    def label(self) -> str:
        """For the log: "the handler predict of /predict"."""

    @property
    def fault(self) -> str:
        """For clients: what a result must be and wasn't."""


def send(exchange: Exchange, owner: Handled, head: Head, payload: list[Any]) -> None:
    """Hand the answer to the network thread; a payload that can't be sent becomes a 500."""
    try:
        exchange.reply(head.status, head.headers, payload, head.borrow)
        return
    except BaseException as error:
        head = failed(payload, owner, error)
    try:
        exchange.reply(head.status, head.headers, payload, head.borrow)
    except Exception:
        # The exchange is finished, or memory is so short that not even this goes: dropping the
        # exchange answers 500 where an answer is still owed.
        logger.debug("no answer could be sent by %s", owner.label)


def failed(payload: list[Any], owner: Handled, error: BaseException) -> Head:
    """Log the traceback once and put the 500 into the payload; clients learn the type only."""
    if payload:  # it has returned, so what it returned is at fault
        sentence = (
            f"the handler returned something that {owner.fault};"
            " what is wrong with it is in the server's log"
        )
        what = "returned something that can't be sent"
    else:
        sentence = (
            f"the handler raised {type(error).__name__}; the traceback is in the server's log"
        )
        what = "failed"
    payload.clear()  # before logging: the result may be what fills the memory
    with contextlib.suppress(BaseException):  # logging that fails must not cost the answer
        logger.error("%s %s", owner.label, what, exc_info=error)
    payload.append(error_body(sentence))
    return json_head(500)
