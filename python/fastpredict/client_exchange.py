"""One request on one connection: connecting, sending and receiving, without waiting for anything.

These are generators that yield what is to be waited for; see client_core.py.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from fastpredict.client_errors import ClientConnectionError, ClientTimeoutError
from fastpredict.client_transport import (
    TCP_BUFFERS,
    UNIX_BUFFERS,
    Address,
    Connection,
    Outgoing,
    Transport,
    open_socket,
)
from fastpredict.client_wire import AnswerReader

T = TypeVar("T")

#: Called with what has been sent or received so far, and the whole of it where it is known.
Progress: TypeAlias = Callable[[Literal["send", "receive"], int, int | None], object]

READ: Final = 1
WRITE: Final = 2

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
            except OSError as error:
                raise _broken(reader, error) from error
            if progress is not None:
                progress("send", total - sum(map(len, pieces)), total)
        # Here, not only where nothing comes: a server that keeps sending is always ready.
        in_time = time.monotonic() < limits.deadline
        ready = in_time and (yield Wait(sock, READ | WRITE if pieces else READ, limits.deadline))
        if not ready:
            raise limits.too_late("sending" if pieces else reader.waits_for)
        if ready & READ:
            window = reader.window()
            try:
                count = transport.receive(sock, window)
                connection.expect(len(window) - count if count else 0)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _broken(reader, error) from error
            whole = reader.received(count)
            if progress is not None and reader.head is not None:
                progress("receive", reader.total, reader.head.length)
            if whole:
                return reader.reusable and not pieces and not cut
            if pieces and reader.head is not None and reader.head.status >= 400:
                pieces.clear()
                cut = True


def _broken(reader: AnswerReader, error: OSError) -> ClientConnectionError:
    where = "in the answer" if reader.started else "before an answer came"
    return ClientConnectionError(f"the connection broke {where}: {error.strerror or error}")


def connect(address: Address, limits: Limits) -> Steps[Connection]:
    """Connect to the first address that answers."""
    if address.path is not None:
        found: list[Any] = [(socket.AF_UNIX, 0, 0, "", address.path)]
    else:
        try:
            found = yield Resolve(address.host, address.port)
        except ClientTimeoutError:
            raise
        except (OSError, UnicodeError) as error:
            raise ClientConnectionError(f"can't find {address.host}: {error}") from error
        if time.monotonic() >= limits.deadline:
            raise limits.too_late("looking the host up")
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
