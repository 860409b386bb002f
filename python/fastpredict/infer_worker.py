"""What predict threads do for models: from an inference request through the handler to its answer.

The twin of worker.py for the Open Inference Protocol. What worker.py says of results holds here: a
result lies in the list ``payload`` and is bound nowhere else, so that it is sent from where it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastpredict.decode import BadInput
from fastpredict.encode import Head, Headers, error_body, json_head, to_json
from fastpredict.inference import (
    InferRequest,
    SharedMemory,
    format_answer,
    read_request,
    take_inputs,
)
from fastpredict.models import VERSION, Model
from fastpredict.reply import failed, send
from fastpredict.request import Request
from fastpredict.response import BODYLESS, Response
from fastpredict.shared_memory import copied

if TYPE_CHECKING:
    from fastpredict._core import Exchange


def answer_infer(
    exchange: Exchange,
    model: Model,
    process: int,
    memory: SharedMemory | None = None,
    copies: bool = False,
    queue_ns: int = 0,
) -> None:
    """Answer one inference request, whatever the handler does. A predict thread.

    ``memory`` resolves shared memory for this request; without it, shared memory is refused.
    ``copies``: the handler gets copies of what lies in a client's memory. ``queue_ns`` is how long
    the request waited, for the statistics.

    Raises nothing; but in a child that the handler forked, which isn't ``process`` and has nobody
    to answer, whatever ends it.
    """
    payload: list[Any] = []
    start = time.perf_counter_ns()
    try:
        head = _infer(exchange, model, memory, copies, payload, queue_ns)
    except BadInput as error:
        head = _refused(payload, error)
    except BaseException as error:  # SystemExit and KeyboardInterrupt of a handler, too
        if os.getpid() != process:
            raise
        head = _cut_short(payload, memory) or failed(payload, model, error)
    if head.status != 200:
        model.statistics.record(fail=time.perf_counter_ns() - start)
    send(exchange, model, head, payload)


def _infer(
    exchange: Exchange,
    model: Model,
    memory: SharedMemory | None,
    copies: bool,
    payload: list[Any],
    queue_ns: int,
) -> Head:
    start = time.perf_counter_ns()
    request = read_request(exchange, model.inputs, model.outputs, memory)
    arrays: list[Any] = []
    unaligned = take_inputs(exchange, request, memory, arrays)
    if copies:
        arrays[:] = map(copied, arrays)
    taken = time.perf_counter_ns()
    payload.append(_call(model, exchange, arrays))
    called = time.perf_counter_ns()
    head = _finish(payload, model, request, memory)
    if memory is not None:
        memory.check()
    end = time.perf_counter_ns()
    if head.status == 200:
        # Before the reply, so that a client that has it finds it counted.
        model.statistics.record(
            copied=unaligned,
            success=queue_ns + end - start,
            queue=queue_ns,
            compute_input=taken - start,
            compute_infer=called - taken,
            compute_output=end - called,
        )
    return head


def _call(model: Model, exchange: Exchange, arrays: list[Any]) -> Any:
    """Call the handler as its HTTP route would; the arrays are its own from then on."""
    if model.by_keyword:
        given = {tensor.name: arrays.pop(0) for tensor in model.inputs}
        if model.request != "none":
            given["request"] = Request(exchange)
        return model.handler(**given)
    if model.request == "none":
        return model.handler(arrays.pop())
    if model.request == "keyword":
        return model.handler(arrays.pop(), request=Request(exchange))
    return model.handler(Request(exchange), arrays.pop())


def _finish(
    payload: list[Any], model: Model, request: InferRequest, memory: SharedMemory | None
) -> Head:
    """Turn the handler's result, the one item of ``payload``, into the answer, in place."""
    if type(payload[0]) is tuple:
        if not 2 <= len(payload[0]) <= 3:
            raise TypeError(f"a tuple of {len(payload[0])} items was returned")
        payload[0] = Response(*payload[0])
    status, borrow = 200, False
    given: Headers = ()
    if isinstance(payload[0], Response):
        status, given, borrow = payload[0].status, payload[0].headers, payload[0].borrow
        payload[0] = payload[0].body  # where nobody kept the Response, it is the list's alone
    if status >= 400:
        payload[0] = _refusal(payload[0], status)
        return Head(status, _merged(json_head(status).headers, given))
    if status >= 300 or status in BODYLESS:
        raise ValueError(f"status {status} was returned; the protocol has 200, and 400 and above")
    _choose(payload, model, [wanted.tensor.name for wanted in request.outputs])
    headers = format_answer(payload, model.name, VERSION, request, memory)
    return Head(200, _merged(headers, given), borrow)


def _refusal(body: object, status: int) -> bytes:
    """A handler's own error in the protocol's form: ``{"error": "..."}``."""
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        return to_json(body)
    if body is None:
        return error_body(_phrase(status))
    if isinstance(body, (bytes, bytearray, memoryview)):
        return error_body(bytes(body).decode("utf-8", "replace"))
    return error_body(body if isinstance(body, str) else to_json(body).decode("utf-8"))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status {status}"


def _merged(headers: Headers, given: Headers) -> Headers:
    """The protocol's headers, then the handler's where they don't contradict."""
    names = {name.lower() for name, _ in headers}
    names.add(b"inference-header-content-length")
    return headers + tuple(pair for pair in given if pair[0].lower() not in names)


def _choose(payload: list[Any], model: Model, names: Sequence[str]) -> None:
    """Put the results that are wanted into the payload, one for each name; drop the others."""
    declared = [tensor.name for tensor in model.outputs]
    if not model.by_keyword or not (isinstance(payload[0], dict) or len(declared) > 1):
        return
    if not isinstance(payload[0], dict):
        kind = type(payload[0]).__name__
        raise TypeError(f"a {kind} was returned; expected a dict with {', '.join(declared)}")
    if payload[0].keys() != set(declared):
        came = ", ".join(map(str, payload[0])) or "nothing"
        raise ValueError(f"outputs {came} were returned; {', '.join(declared)} are declared")
    payload[:] = [payload[0][name] for name in names]


def _refused(payload: list[Any], error: BadInput) -> Head:
    payload[:] = (error_body(str(error)),)
    return json_head(error.status)


def _cut_short(payload: list[Any], memory: SharedMemory | None) -> Head | None:
    """The refusal where a client took its memory away, which is then why the handler failed."""
    try:
        if memory is not None:
            memory.check()
    except BadInput as error:
        return _refused(payload, error)
    return None
