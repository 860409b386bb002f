"""Addresses, connections and what travels on them: the sockets of the client, never waiting.

What is lent instead of being sent is client_lending.py's; its descriptors go out here, beside the
head.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import quote, urlsplit

from fastpredict.client_codec import Body, Field
from fastpredict.client_wire import HEAD_BYTES_MAX

SocketAddress: TypeAlias = tuple[Any, ...] | str
Ancillary: TypeAlias = Sequence[tuple[int, int, bytes]]

# What may stand in a request target as it is (RFC 3986, section 3.3, and the query); % too, for
# paths that are encoded already.
_TARGET_SAFE: Final = "/%?!$&'()*+,;=:@-._~"
_PIECES_MAX: Final = 512  # of one sendmsg; IOV_MAX is 1024


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. ``path`` is a Unix socket's, else ``host`` and ``port`` are TCP's."""

    url: str
    host: str = ""
    port: int = 0
    path: str | None = None
    prefix: str = ""

    @property
    def host_field(self) -> str:
        """The value of Host."""
        if self.path is not None:
            return "localhost"
        # A zone means something on this machine alone (RFC 6874, section 4).
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def target(self, path: str) -> str:
        """Make the target of a request. Raises ValueError for a path that isn't one."""
        if not path.startswith("/"):
            raise ValueError(f"the path {path!r} must start with '/'")
        return quote(self.prefix + path, safe=_TARGET_SAFE)


def parse_url(url: str) -> Address:
    """Read http://host:port, unix:/path or unix:///path, as ``Server.url`` has them.

    What follows host and port is put before every path. A Unix socket's path is taken as it is, to
    the end and without percent-decoding; relative ones are relative to the working directory of
    the moment.

    Raises
    ------
    ValueError
        For any other URL.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if path.startswith("//"):
            path = path.removeprefix("//")
            if not path.startswith("/"):
                raise ValueError(f"{url!r}: a path after unix:// starts with '/'")
        if not path or "\0" in path:
            raise ValueError(f"{url!r} names no socket")
        return Address(url, path=path)
    parts = urlsplit(url)
    if parts.scheme == "https":
        raise ValueError(f"{url!r}: TLS is not offered; use http:// or unix:")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is neither http://host:port nor unix:/path")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has more than host, port and path")
    host = parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    port = 80 if parts.port is None else parts.port  # port raises ValueError by itself
    return Address(url, host, port, prefix=parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True)
class BufferSizes:
    """What is asked of the kernel for each socket; None leaves it to the kernel.

    On a Unix socket bytes wait on the sender's account alone, up to its SO_SNDBUF, so the client's
    decides how far it runs ahead of the server. TCP sizes its own buffers as it goes, and a size
    that is asked for would only keep it from that. The kernel doubles what it is asked for, and
    bounds it by net.core.wmem_max first.
    """

    send: int | None = None
    receive: int | None = None


UNIX_BUFFERS: Final = BufferSizes(send=1 << 20)
TCP_BUFFERS: Final = BufferSizes()


# While more than twice this is to come by TCP, the kernel wakes us for no less: an eighth off the
# time of a large answer. A call's deadline is for all of it, so that slow bytes that wake nobody
# deceive nobody either; an end of the connection wakes at once.
_RCVLOWAT_BYTES: Final = 1 << 20


class Connection:
    """One connected, non-blocking socket. Used by one call at a time."""

    __slots__ = ("_lowat", "_poll", "lends", "scratch", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: Whether its server takes memory instead of a body; None before it has been asked.
        self.lends: bool | None = None if sock.family == socket.AF_UNIX else False
        self._lowat = 0 if sock.family == socket.AF_UNIX else 1  # 0: has no effect there
        self.scratch = bytearray(HEAD_BYTES_MAX)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether the server has neither closed it nor said anything that nobody asked for."""
        return not self._poll.poll(0)

    def expect(self, nbytes: int) -> None:
        """Say how many bytes are sure to come, at least; to be said again after each read."""
        lowat = _RCVLOWAT_BYTES if nbytes >= 2 * _RCVLOWAT_BYTES else 1
        if self._lowat and self._lowat != lowat:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowat)
            self._lowat = lowat

    def close(self) -> None:
        self.sock.close()


def open_socket(family: int, buffers: BufferSizes) -> socket.socket:
    """Make a non-blocking socket, not yet connected. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffers.send is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers.send)
        if buffers.receive is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers.receive)
    except BaseException:
        sock.close()
        raise
    return sock


class Pool:
    """Connections that wait for their next call; the one used last goes first. Any thread.

    A forked child begins with none: it closes its copies of the parent's without a word on them.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._pid = os.getpid()
        self.closed = False

    def take(self) -> Connection | None:
        """Return one that is still good, or None."""
        self._check_fork()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Take one back after a whole answer."""
        if self._pid == os.getpid():  # else the lock may never be free
            with self._lock:
                if not self.closed and len(self._idle) < self._size:
                    self._idle.append(connection)
                    return
        connection.close()

    def close(self) -> None:
        """Close what waits; what is in use is closed when it comes back."""
        self._check_fork()
        with self._lock:
            idle, self._idle = self._idle, []
            self.closed = True
        for connection in idle:
            connection.close()

    def _check_fork(self) -> None:
        if self._pid == os.getpid():
            return
        inherited, closed = self._idle, self.closed
        self._start()  # the lock may have been held by a thread that the child doesn't have
        self.closed = closed
        for connection in inherited:
            connection.close()


class Outgoing(NamedTuple):
    """How one request's body goes out: further fields of the head, and what follows the head."""

    fields: tuple[Field, ...]
    pieces: list[memoryview]
    content_length: int
    ancillary: Ancillary = ()


class Transport:
    """How bytes travel through the socket: from and into the arrays' own memory."""

    def outgoing(self, body: Body) -> Outgoing:
        """Decide how a body goes out."""
        return Outgoing(body.fields, list(body.pieces), body.nbytes)

    def send(self, sock: socket.socket, pieces: list[memoryview], ancillary: Ancillary) -> int:
        """Send what the kernel takes now; ``pieces`` keeps the rest.

        Raises OSError, BlockingIOError among them."""
        sent = sock.sendmsg(pieces[:_PIECES_MAX], ancillary, socket.MSG_NOSIGNAL)
        drop_front(pieces, sent)
        return sent

    def receive(self, sock: socket.socket, window: memoryview) -> int:
        """Receive what is there, at most the window; 0 is the end. Raises OSError."""
        return sock.recv_into(window)


def drop_front(pieces: list[memoryview], count: int) -> None:
    """Take the first ``count`` bytes away."""
    whole = 0
    while whole < len(pieces) and count >= len(pieces[whole]):
        count -= len(pieces[whole])
        whole += 1
    del pieces[:whole]
    if count:
        pieces[0] = pieces[0][count:]
