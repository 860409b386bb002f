"""A server that does exactly what a test tells it to: for clients, what rawhttp is for servers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

DEADLINE = 20.0


class Heard(NamedTuple):
    """One request, whole."""

    line: str
    fields: dict[str, str]
    body: bytes
    head_bytes: int


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(DEADLINE)
        self.ahead = b""  # read, and not taken yet

    def head(self) -> Heard | None:
        """The head of a request, its body not read; None where the client has gone."""
        while b"\r\n\r\n" not in self.ahead:
            try:
                got = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not got:
                return None
            self.ahead += got
        head, self.ahead = self.ahead.split(b"\r\n\r\n", 1)
        line, *rest = head.decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip() for name, value in (each.split(":", 1) for each in rest)
        }
        assert len(fields) == len(rest), "a field came twice"
        return Heard(line, fields, b"", len(head) + 4)

    def request(self) -> Heard | None:
        """A request with its body."""
        heard = self.head()
        if heard is None:
            return None
        length = int(heard.fields.get("content-length", 0))
        while len(self.ahead) < length:
            got = self.socket.recv(1 << 20)
            assert got, "the client left in the middle of a body"
            self.ahead += got
        body, self.ahead = self.ahead[:length], self.ahead[length:]
        return heard._replace(body=body)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def expect_gone(self) -> None:
        """The client closes, or resets, without another request."""
        try:
            while self.socket.recv(1 << 20):
                pass
        except ConnectionResetError:
            pass

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class FakeServer:
    """Runs a script for each connection, in the order in which they come; the last for all others.

    What a script fails with, fails the test that uses it as a context.
    """

    def __init__(self, *scripts: Callable[[Peer], Any], unix: str | None = None) -> None:
        self.connections = 0
        self.requests: list[Heard] = []
        self._scripts = scripts
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        if unix is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(unix)
            self._listener.listen()
            self.url = f"unix:{unix}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(script, sock), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, script: Callable[[Peer], Any], sock: socket.socket) -> None:
        try:
            with sock:
                script(Peer(sock))
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        if kind is None:
            assert not self._errors, self._errors
            assert not any(thread.is_alive() for thread in self._threads)


def answer(
    body: bytes = b"", status: str = "200 OK", *fields: str, length: int | str | None = None
) -> bytes:
    """An answer with Content-Length."""
    said = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {said}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def describing(array: np.ndarray) -> tuple[str, ...]:
    """The fields of a raw array."""
    return (
        "Content-Type: application/octet-stream",
        f"X-Dtype: {array.dtype.str}",
        f"X-Shape: {','.join(map(str, array.shape))}",
    )


def array_answer(array: np.ndarray, *fields: str) -> bytes:
    return answer(array.tobytes(), "200 OK", *describing(array), *fields)


def head_of(array: np.ndarray, *fields: str) -> bytes:
    """The head of an answer without Content-Length."""
    return "\r\n".join(["HTTP/1.1 200 OK", *describing(array), *fields, "", ""]).encode("latin-1")


def always(*pieces: bytes) -> Callable[[Peer], None]:
    """A script: this answer to each request, as long as the client asks."""

    def script(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(*pieces)

    return script


def once(*pieces: bytes) -> Callable[[Peer], None]:
    """A script: one request, this answer, and the end."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(*pieces)

    return script


# ---- what most tests send and get ----------------------------------------------------------------

ARRAY = np.arange(20, dtype=np.float32).reshape(4, 5)
DATA = np.arange(100, dtype=np.uint8)
LARGE = np.zeros(50_000_000, np.uint8)
WHOLE = array_answer(ARRAY)


def check(result: np.ndarray) -> None:
    """It is ARRAY."""
    assert result.dtype == ARRAY.dtype
    np.testing.assert_array_equal(result, ARRAY)
