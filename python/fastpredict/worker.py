"""What predict threads and the control thread do: take, decode, call the handler, answer.

The lifetime of a result decides whether it is copied: the extension sends an array from where it
lies only when its reference count says that nobody else has it. So the handler's result goes
straight into the list ``payload``, the array it was given is never bound at all, and whoever
looks at ``payload[0]`` has returned before ``send`` hands the list over.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from fastpredict.decode import BadInput, decode
from fastpredict.encode import encode, error_body, json_head
from fastpredict.infer_worker import answer_infer
from fastpredict.log import logger
from fastpredict.models import Model, answer_control
from fastpredict.reply import failed, send
from fastpredict.request import Request
from fastpredict.route import PredictRoute
from fastpredict.shared_memory import NOT_ALLOWED, ClientMemory, copied
from fastpredict.wsgi import Site

if TYPE_CHECKING:
    from fastpredict._core import Exchange
    from fastpredict._core import Server as CoreServer

#: What a request can be for.
Route: TypeAlias = PredictRoute | Model | Site


def run_predict(
    core: CoreServer,
    routes: Sequence[Route],
    memory: ClientMemory = NOT_ALLOWED,
    copies: bool = False,
) -> None:
    """Answer requests until the server takes no more. A predict thread.

    ``copies``: handlers get copies of what lies in a client's memory.
    """
    process = os.getpid()
    while True:
        exchange = core.take()
        if exchange is None:
            return
        try:
            route = routes[exchange.route]
            if isinstance(route, PredictRoute):
                answer(exchange, route, process, copies)
            elif isinstance(route, Model):
                waited = time.monotonic_ns() - exchange.queued_ns
                answer_infer(exchange, route, process, memory.lend(exchange), copies, waited)
            else:
                route.answer(exchange, process)
        except BaseException as error:
            # None of them raises, so this is a mistake of ours. It may cost one request, not the
            # thread: that may be the only one, and the queue would fill behind it for good.
            if os.getpid() != process:
                raise
            _give_up(exchange, error)
        del exchange  # not while waiting for the next one: it may be the last


def _give_up(exchange: Exchange, error: BaseException) -> None:
    """Log what should not have happened, and answer where that is still owed. Raises nothing."""
    with contextlib.suppress(BaseException):
        logger.error("no answer for %s", exchange.path, exc_info=error)
    # Not left to the drop of the exchange: a log that keeps the traceback keeps that, too.
    with contextlib.suppress(BaseException):
        body = error_body("the server failed; the traceback is in its log")
        exchange.reply(500, json_head(500).headers, [body])


def run_control(
    core: CoreServer,
    models: Mapping[str, Model],
    ready: Callable[[], bool],
    memory: ClientMemory = NOT_ALLOWED,
) -> None:
    """Drop what the network thread is done with, until all is dropped, and answer under /v2.

    The control thread.
    """
    while core.reap():
        while (exchange := core.take_control()) is not None:
            answer_control(exchange, models, ready, memory)
            del exchange


def answer(exchange: Exchange, route: PredictRoute, process: int, copies: bool = False) -> None:
    """Answer one request of a predict route, whatever the handler does. A predict thread.

    Raises nothing; but in a child that the handler forked, which isn't ``process`` and has nobody
    to answer, whatever ends it.
    """
    payload: list[Any] = []
    try:
        if route.request == "none":
            payload.append(route.handler(_array(exchange, route, copies)))
        elif route.request == "keyword":
            payload.append(
                route.handler(_array(exchange, route, copies), request=Request(exchange))
            )
        else:
            payload.append(route.handler(Request(exchange), _array(exchange, route, copies)))
        head = encode(payload, exchange.header("accept"))
    except BadInput as error:
        payload[:] = (error_body(str(error)),)
        head = json_head(error.status)
    except BaseException as error:  # SystemExit and KeyboardInterrupt of a handler, too
        if os.getpid() != process:
            raise
        head = failed(payload, route, error)
    send(exchange, route, head, payload)


def _array(exchange: Exchange, route: PredictRoute, copies: bool) -> Any:
    return copied(decode(exchange, route)) if copies else decode(exchange, route)
