"""A call from its arguments to its result, for both clients.

What happens is written once, in generators that never wait: they yield what is to be waited for,
and the client that runs them waits in its own way, with poll() or in the event loop. A generator
that is closed, by a timeout, Ctrl-C or a cancelled task, closes its connection.
"""

from __future__ import annotations

import math
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar
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
    encode_array,
)
from fastpredict.client_errors import (
    ClientConnectionError,
    ClientError,
    ClientTimeoutError,
)
from fastpredict.client_infer import InferReceiver, JsonReceiver, StatusReceiver, encode_infer
from fastpredict.client_transport import (
    TCP_BUFFERS,
    UNIX_BUFFERS,
    Address,
    Connection,
    Outgoing,
    Pool,
    Transport,
    open_socket,
    parse_url,
)
from fastpredict.client_wire import AnswerHead, AnswerReader, request_head
from fastpredict.response import HeadersLike, check_headers

T = TypeVar("T")

#: Called with what has been sent or received so far, and the whole of it where it is known.
Progress: TypeAlias = Callable[[Literal["send", "receive"], int, int | None], object]

READ: Final = 1
WRITE: Final = 2

DEFAULT_TIMEOUT: Final = 60.0
DEFAULT_RETRIES: Final = 3
DEFAULT_POOL_SIZE: Final = 16

#: A Retry-After that asks for more than this is the caller's to wait for.
RETRY_AFTER_MAX: Final = 30.0

# Beside those of the connection and Content-Length, which check_headers refuses.
_OWN_FIELDS: Final = frozenset(
    b"content-type expect host inference-header-content-length user-agent x-dtype x-shape".split()
)

_NOTHING: Final = Body((), ())
_AGENT: Final = f"fastpredict/{__version__} Python/{sys.version_info[0]}.{sys.version_info[1]}"


# ---- what is waited for --------------------------------------------------------------------------


class Wait(NamedTuple):
    """Until the socket can be read or written; answered by READ, WRITE, both, or 0: too late."""

    sock: socket.socket
    events: int
    deadline: float


class Pause(NamedTuple):
    """For so many seconds; answered by anything."""

    seconds: float


class Resolve(NamedTuple):
    """Of a host name; answered by what getaddrinfo returns. It may raise OSError."""

    host: str
    port: int


Awaited: TypeAlias = Wait | Pause | Resolve
Steps: TypeAlias = Generator[Awaited, Any, T]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one call may take, on time.monotonic(), and how often a 503 is tried again."""

    deadline: float
    timeout: float | None
    retries: int
    progress: Progress | None = None

    def too_late(self, doing: str) -> ClientTimeoutError:
        return ClientTimeoutError(f"timed out after {self.timeout} s, {doing}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as often as it has to be sent."""

    method: str
    target: str
    body: Body


# ---- one request on one connection ---------------------------------------------------------------


def exchange(
    connection: Connection,
    transport: Transport,
    outgoing: Outgoing,
    reader: AnswerReader,
    limits: Limits,
) -> Steps[bool]:
    """Send a request and read its answer; returns whether the connection can be used again.

    Reads while it sends: a server that refuses a body says so before it has it all. Then sending
    stops, and the connection is given up (RFC 9112, section 9.5).
    """
    sock, pieces, ancillary = connection.sock, outgoing.pieces, outgoing.ancillary
    progress, total = limits.progress, sum(map(len, pieces))
    ready, cut = WRITE, False
    try:
        while True:
            if ready & WRITE and pieces:
                try:
                    transport.send(sock, pieces, ancillary)
                    ancillary = ()
                except BlockingIOError:
                    pass
                except ConnectionError:  # an answer may lie there all the same
                    pieces.clear()
                    cut = True
                if progress is not None:
                    progress("send", total - sum(map(len, pieces)), total)
            ready = yield Wait(sock, READ | WRITE if pieces else READ, limits.deadline)
            if not ready:
                raise limits.too_late("sending" if pieces else "waiting for the answer")
            if ready & READ:
                window = reader.window()
                try:
                    count = transport.receive(sock, window)
                except BlockingIOError:
                    continue
                connection.expect(len(window) - count if count else 0)
                whole = reader.received(count)
                if progress is not None and reader.head is not None:
                    progress("receive", reader.total, reader.head.length)
                if whole:
                    return reader.reusable and not pieces and not cut
                if pieces and reader.head is not None and reader.head.status >= 400:
                    pieces.clear()
                    cut = True
    except ClientError:  # some of them are OSError too
        raise
    except OSError as error:
        where = "in the answer" if reader.started else "before an answer came"
        reason = error.strerror or error
        raise ClientConnectionError(f"the connection broke {where}: {reason}") from error


def connect(address: Address, limits: Limits) -> Steps[Connection]:
    """Connect to the first address that answers."""
    if address.path is not None:
        found: list[Any] = [(socket.AF_UNIX, 0, 0, "", address.path)]
    else:
        try:
            found = yield Resolve(address.host, address.port)
        except OSError as error:
            raise ClientConnectionError(f"can't find {address.host}: {error}") from error
    failure: OSError | None = None
    for family, _, _, _, where in found:
        try:
            return (yield from _connect(family, where, limits))
        except ClientTimeoutError:
            raise
        except OSError as error:
            failure = error
    reason = failure.strerror or failure if failure else "it has no address"
    raise ClientConnectionError(f"can't connect to {address.url}: {reason}") from failure


def _connect(family: int, where: Any, limits: Limits) -> Steps[Connection]:
    sock = open_socket(family, UNIX_BUFFERS if family == socket.AF_UNIX else TCP_BUFFERS)
    try:
        try:
            sock.connect(where)
        except BlockingIOError:
            if family == socket.AF_UNIX:  # EAGAIN: its backlog is full; there is nothing to poll
                yield from _connect_to_full(sock, where, limits)
            elif not (yield Wait(sock, WRITE, limits.deadline)):
                raise limits.too_late("connecting") from None
            elif error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error)) from None
        return Connection(sock)
    except BaseException:
        sock.close()
        raise


def _connect_to_full(sock: socket.socket, where: Any, limits: Limits) -> Steps[None]:
    pause = 0.001
    while True:
        if time.monotonic() + pause > limits.deadline:
            raise limits.too_late("connecting")
        yield Pause(pause)
        try:
            return sock.connect(where)
        except BlockingIOError:
            pause = min(pause * 2, 0.05)


# ---- a call --------------------------------------------------------------------------------------


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
    ) -> None:
        self.address = parse_url(url)
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
        lengths = (shape,) if isinstance(shape, int) else tuple(shape)
        return self.transport.empty(lengths, np.dtype(dtype))

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
        return self._perform(call, lambda: ArrayReceiver(out, self.transport.empty), limits)

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
        self, call: Call, make_receiver: Callable[[], Receiver[T]], limits: Limits
    ) -> Steps[T]:
        """One call, sent again while the server is too busy and says when to come back."""
        for attempt in range(limits.retries + 1):
            receiver = make_receiver()
            head = yield from self._once(call, receiver, limits)
            pause = _pause_before_retry(head, attempt, limits)
            if pause is None:
                break
            yield Pause(pause)
        return receiver.finish()

    def _once(self, call: Call, receiver: Receiver[Any], limits: Limits) -> Steps[AnswerHead]:
        """One answer. A kept connection that turns out dead is replaced, once, unseen."""
        connection = self.pool.take()
        if connection is not None:
            reader = AnswerReader(connection.scratch, receiver.begin)
            try:
                yield from self._on(connection, call, reader, limits)
            except ClientConnectionError:
                # Closed as we sent, most likely, and the request never read. Where the server died
                # at it instead, it gets it once more: a predict function may be called again.
                if reader.started:
                    raise
            else:
                return _whole(reader)
        connection = yield from connect(self.address, limits)
        reader = AnswerReader(connection.scratch, receiver.begin)
        yield from self._on(connection, call, reader, limits)
        return _whole(reader)

    def _on(
        self, connection: Connection, call: Call, reader: AnswerReader, limits: Limits
    ) -> Steps[None]:
        reusable = False
        try:
            outgoing = self.transport.outgoing(call.body)
            outgoing.pieces.insert(0, memoryview(self._head(call, outgoing)))
            reusable = yield from exchange(connection, self.transport, outgoing, reader, limits)
        finally:
            if reusable:
                self.pool.give(connection)
            else:
                connection.close()

    def _head(self, call: Call, outgoing: Outgoing) -> bytes:
        fields = list(outgoing.fields)
        if call.method == "POST":
            fields.append((b"Content-Length", b"%d" % outgoing.content_length))
        fields += self._fields
        return request_head(call.method, call.target, self.address.host_field, _AGENT, fields)


def _whole(reader: AnswerReader) -> AnswerHead:
    assert reader.done
    assert reader.head is not None
    return reader.head


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
