"""A call from its arguments to its result, for both clients.

What happens is written once, in generators that never wait: they yield what is to be waited for,
and the client that runs them waits in its own way, with poll() or in the event loop. A generator
that is closed, by a timeout, Ctrl-C or a cancelled task, closes its connection.
"""

from __future__ import annotations

import math
import operator
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from fastpredict._version import __version__
from fastpredict.client_codec import (
    Array,
    ArrayReceiver,
    Body,
    Field,
    Receiver,
    check_out,
    empty,
    encode_array,
)
from fastpredict.client_errors import (
    BadResponse,
    ClientConnectionError,
    ClientError,
)
from fastpredict.client_exchange import Limits, Pause, Progress, Steps, connect, exchange
from fastpredict.client_infer import InferReceiver, JsonReceiver, StatusReceiver, encode_infer
from fastpredict.client_lending import FIELD, Lender, Loan
from fastpredict.client_transport import (
    Address,
    Connection,
    Outgoing,
    Pool,
    Transport,
    parse_url,
)
from fastpredict.client_wire import AnswerHead, AnswerReader, request_head
from fastpredict.response import HeadersLike, check_headers

T = TypeVar("T")

DEFAULT_TIMEOUT: Final = 60.0
DEFAULT_RETRIES: Final = 3
DEFAULT_POOL_SIZE: Final = 16

#: A Retry-After that asks for more than this is the caller's to wait for.
RETRY_AFTER_MAX: Final = 30.0

# Beside those of the connection and Content-Length, which check_headers refuses.
_OWN_FIELDS: Final = frozenset(
    b"content-type expect fastpredict-answer-memfd fastpredict-memfd host"
    b" inference-header-content-length user-agent x-dtype x-shape".split()
)

_NOTHING: Final = Body((), ())
_AGENT: Final = f"fastpredict/{__version__} Python/{sys.version_info[0]}.{sys.version_info[1]}"


# ---- a call --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as often as it has to be sent."""

    method: str
    target: str
    body: Body


class Core:
    """What both clients are made of: the address, the pool, and every call as a generator."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None,
        retries: int,
        pool_size: int,
        headers: HeadersLike | None,
        memfd: bool | None,
    ) -> None:
        self.address = parse_url(url)
        self.lender = make_lender(self.address, memfd)
        self.timeout = check_timeout(timeout)
        self.retries = check_count("retries", retries, 0)
        self.pool_size = check_count("pool_size", pool_size, 1)
        self.pool = Pool(self.pool_size)
        self.transport = Transport()
        self._fields: tuple[Field, ...] = tuple(check_headers(headers or {}))
        for name, _ in self._fields:
            if name.lower() in _OWN_FIELDS:
                raise ValueError(f"the header {name.decode()} is written by the client")

    def limits(
        self,
        timeout: float | Literal["client"] | None,
        retries: int | None = None,
        progress: Progress | None = None,
    ) -> Limits:
        """Begin the time of a call; what isn't given is the client's own."""
        if self.pool.closed:
            raise RuntimeError("the client is closed")
        seconds = self.timeout if timeout == "client" else check_timeout(timeout)
        times = self.retries if retries is None else check_count("retries", retries, 0)
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        return Limits(deadline, seconds, times, progress)

    def empty(self, shape: int | Iterable[int], dtype: npt.DTypeLike) -> Array:
        lengths = tuple(shape) if isinstance(shape, Iterable) else (operator.index(shape),)
        if self.lender is None:
            return empty(lengths, np.dtype(dtype))
        return self.lender.arena.empty(lengths, np.dtype(dtype))

    def close(self) -> None:
        self.pool.close()
        if self.lender is not None:
            self.lender.arena.close()

    def predict(
        self,
        array: npt.ArrayLike,
        path: str,
        out: Array | None,
        npy: bool | None,
        limits: Limits,
    ) -> Steps[Array]:
        check_out(out)
        call = Call("POST", self.address.target(path), encode_array(array, npy))
        return self._perform(call, lambda: ArrayReceiver(out), limits, out)

    def infer(
        self,
        name: str,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Iterable[str] | None,
        version: str | None,
        parameters: Mapping[str, Any] | None,
        limits: Limits,
    ) -> Steps[dict[str, Array]]:
        body = encode_infer(inputs, outputs, parameters=parameters)
        target = self.address.target(f"{_model_path(name, version)}/infer")
        return self._perform(Call("POST", target, body), InferReceiver, limits)

    def metadata(self, name: str, version: str | None, limits: Limits) -> Steps[dict[str, Any]]:
        target = self.address.target(_model_path(name, version))
        return self._perform(Call("GET", target, _NOTHING), JsonReceiver, limits)

    def is_up(self, path: str, limits: Limits) -> Steps[bool]:
        """Whether a health path answers 200. What keeps it from answering is no error here."""
        call = Call("GET", self.address.target(path), _NOTHING)
        try:
            return (yield from self._perform(call, StatusReceiver, replace(limits, retries=0)))
        except ClientError:
            return False

    def _perform(
        self,
        call: Call,
        make_receiver: Callable[[], Receiver[T]],
        limits: Limits,
        out: Array | None = None,
    ) -> Steps[T]:
        """One call, sent again while the server is too busy and says when to come back."""
        loan = None
        if self.lender is not None and call.method == "POST":
            loan = self.lender.loan(call.target, call.body, out)
        try:
            for attempt in range(limits.retries + 1):
                receiver = make_receiver()
                head = yield from self._once(call, receiver, loan, limits)
                pause = _pause_before_retry(head, attempt, limits)
                if pause is None:
                    break
                yield Pause(pause)
        finally:
            if loan is not None:
                loan.done()
        if self.lender is not None and loan is None:
            self.lender.learn(call.target, head)
        return receiver.finish()

    def _once(
        self, call: Call, receiver: Receiver[Any], loan: Loan | None, limits: Limits
    ) -> Steps[AnswerHead]:
        """One answer. A kept connection that turns out dead is replaced, once, unseen."""
        connection = self.pool.take()
        kept = connection is not None
        while True:
            if connection is None:
                connection = yield from connect(self.address, limits)
            reader = _reader(connection, receiver, loan)
            try:
                if loan is not None and not (yield from self._asked(connection, kept, limits)):
                    connection = yield from connect(self.address, limits)
                    connection.lends = False
                    reader = _reader(connection, receiver, loan)
                return (yield from self._on(connection, call, loan, reader, limits))
            except ClientConnectionError:
                # Closed as we sent, most likely, and the request never read. Where the server died
                # at it instead, it gets it once more: a predict function may be called again.
                if reader.started or not kept:
                    raise
            connection, kept = None, False

    def _on(
        self,
        connection: Connection,
        call: Call,
        loan: Loan | None,
        reader: AnswerReader,
        limits: Limits,
    ) -> Steps[AnswerHead]:
        reusable = False
        lent = None
        try:
            if loan is not None:
                lent = loan if connection.lends else None
                if lent is None and loan.insists:
                    raise BadResponse("the server takes no memory, and the client has memfd=True")
            outgoing = self.transport.outgoing(call.body) if lent is None else lent.outgoing()
            outgoing.pieces.insert(0, memoryview(self._head(call, outgoing)))
            reusable = yield from exchange(connection, self.transport, outgoing, reader, limits)
        finally:
            if lent is not None and not reader.done:
                lent.failed()
            if reusable:
                self.pool.give(connection)
            else:
                connection.close()
        assert reader.head is not None
        return reader.head

    def _asked(self, connection: Connection, kept: bool, limits: Limits) -> Steps[bool]:
        """Ask whether the server takes memory, once; False: the connection hasn't survived it."""
        survives = False
        try:
            if connection.lends is None:
                yield from self._ask(connection, limits)
            survives = True
        except (BadResponse, ClientConnectionError):
            if kept:  # it may have been closed before
                raise ClientConnectionError("the server closed the connection") from None
        finally:
            if not survives:
                connection.close()
        return survives

    def _ask(self, connection: Connection, limits: Limits) -> Steps[None]:
        """Find out whether the server takes memory: offer room for an answer that is always there.

        One that doesn't know the field ignores it, and nothing has happened. Where a proxy keeps
        the descriptor to itself, the server says 400.
        """
        assert self.lender is not None
        loan = self.lender.question(self.address.target("/v2"))
        reader = _reader(connection, StatusReceiver(), loan)
        call = Call("GET", self.address.target("/v2"), _NOTHING)
        limits = replace(limits, progress=None)
        try:
            outgoing = loan.outgoing()
            outgoing.pieces.insert(0, memoryview(self._head(call, outgoing)))
            usable = yield from exchange(connection, self.transport, outgoing, reader, limits)
        finally:
            if not reader.done:
                loan.failed()
        assert reader.head is not None
        if not usable:
            raise ClientConnectionError("the server closed the connection")
        if reader.head.status != 503:
            connection.lends = FIELD.lower() in reader.head.headers

    def _head(self, call: Call, outgoing: Outgoing) -> bytes:
        fields = list(outgoing.fields)
        if call.method == "POST":
            fields.append((b"Content-Length", b"%d" % outgoing.content_length))
        fields += self._fields
        return request_head(call.method, call.target, self.address.host_field, _AGENT, fields)


def _reader(connection: Connection, receiver: Receiver[Any], loan: Loan | None) -> AnswerReader:
    begin = receiver.begin if loan is None else partial(loan.begin, receiver)
    return AnswerReader(connection.scratch, begin)


def make_lender(address: Address, memfd: bool | None) -> Lender | None:
    """What lends memory, where that is possible and wanted."""
    if memfd not in (None, True, False):
        raise TypeError(f"memfd must be None, True or False, not {memfd!r}")
    if address.path is None and memfd:
        raise ValueError("memfd=True is for unix: URLs; TCP can't pass memory")
    return None if address.path is None or memfd is False else Lender(bool(memfd))


def _model_path(name: str, version: str | None) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def _pause_before_retry(head: AnswerHead, attempt: int, limits: Limits) -> float | None:
    """Seconds until the next attempt; None for none."""
    if head.status != 503 or attempt == limits.retries:
        return None
    asked = head.retry_after
    if asked is None or asked > RETRY_AFTER_MAX:
        return None
    # At least what the server asks for, and up to as much again or a second, so that clients that
    # were refused together don't come back together. A server that says 0 is asked less and less.
    least = max(asked, 0.01 * float(2**attempt))
    pause = least + random.uniform(0, min(least, 1.0))
    return pause if time.monotonic() + pause < limits.deadline else None


def check_timeout(timeout: float | None) -> float | None:
    """Seconds, more than 0, or None for no bound."""
    if timeout is None:
        return None
    seconds = float(timeout)
    if not seconds > 0:
        raise ValueError(f"timeout must be more than 0 seconds or None, not {timeout!r}")
    return None if math.isinf(seconds) else seconds


def check_count(name: str, value: int, least: int) -> int:
    """An int of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value
