"""A raw HTTP/1.1 client: sends exactly the bytes it is given, reads answers strictly.

Everything has a deadline: a server that says nothing fails a test, it doesn't hang it.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from dataclasses import dataclass, field

DEADLINE = 10.0  # seconds; wide, for machines that are busy with other things

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ([ -~]+)")
FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([ -~]*)")

Address = tuple[str, int] | str  # host and port, or the path of a Unix socket


class Ended(Exception):
    """The server closed the connection where an answer, or the rest of one, was expected."""


class Malformed(Exception):
    """What came is no HTTP answer by the letter."""


@dataclass
class Answer:
    """One answer, complete. Names of fields in lower case."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = field(repr=False)

    def get(self, name: str) -> str | None:
        """The value of a field that may come once only."""
        values = [value for key, value in self.fields if key == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        return (self.get("connection") or "").lower() == "close"

    def error(self) -> str:
        """The sentence of a JSON error, whose form is checked."""
        assert self.get("content-type") == "application/json"
        said = json.loads(self.body)
        assert isinstance(said, dict)
        assert list(said) == ["error"]
        sentence = said["error"]
        assert isinstance(sentence, str)
        assert sentence
        assert "Traceback" not in sentence
        return sentence


class RawClient:
    """One connection."""

    def __init__(
        self, address: Address, *, rcvbuf: int | None = None, deadline: float = DEADLINE
    ) -> None:
        self._deadline = deadline
        self._input = b""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if rcvbuf is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.socket.settimeout(deadline)
        self.socket.connect(address)
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Leaves with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Sends each piece by a call of its own."""
        for piece in pieces:
            self.socket.sendall(piece)

    def send_if_open(self, piece: bytes) -> bool:
        """As send, where the server may have closed already: False then."""
        try:
            self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def ask(self, *pieces: bytes, method: str = "POST") -> Answer:
        self.send(*pieces)
        return self.answer(method)

    def answer(self, method: str = "POST") -> Answer:
        """Reads one final answer, by Content-Length. An interim one is malformed here."""
        status, reason, fields = self._head()
        if status < 200:
            raise Malformed(f"an interim answer, {status}, that nobody asked for")
        answer = Answer(status, reason, fields, b"")
        length = answer.get("content-length")
        assert answer.get("transfer-encoding") is None
        assert answer.get("date") is not None
        if status in (204, 304):
            assert length is None, f"{status} has no body and no Content-Length (RFC 9110 8.6)"
        elif length is None or not re.fullmatch("[0-9]+", length):
            raise Malformed(f"Content-Length is {length}")
        elif method != "HEAD":
            answer.body = self._exactly(int(length))
        return answer

    def interim(self) -> int:
        """Reads an interim answer; its status."""
        status, _, _ = self._head()
        assert 100 <= status < 200, f"expected an interim answer, got {status}"
        return status

    def expect_eof(self) -> None:
        """Nothing more comes, and the server has closed its side."""
        assert self._input == b"", f"{self._input[:200]!r} came after the answer"
        assert self._receive() == b"", "more came after the last answer"

    def expect_gone(self) -> None:
        """The connection has ended, or been reset; what comes before that is thrown away."""
        try:
            while self._receive():
                pass
        except ConnectionResetError:
            pass

    def expect_nothing(self, seconds: float) -> None:
        """The server neither says anything nor closes, for so long."""
        self.socket.settimeout(seconds)
        try:
            got = self.socket.recv(4096)
        except TimeoutError:
            pass
        else:
            raise AssertionError(f"expected nothing, got {got!r}")
        finally:
            self.socket.settimeout(self._deadline)

    def read_some(self, count: int) -> bytes:
        """Up to so many raw bytes of whatever comes."""
        return self.socket.recv(count)

    def unread(self, data: bytes) -> None:
        """Gives back what read_some has read, for answer() to start with."""
        self._input = data + self._input

    def _receive(self) -> bytes:
        return self.socket.recv(1 << 20)

    def _head(self) -> tuple[int, str, list[tuple[str, str]]]:
        until = time.monotonic() + self._deadline
        while b"\r\n\r\n" not in self._input:
            got = self._receive()
            if not got:
                raise Ended(f"the connection ended after {self._input[:200]!r}")
            self._input += got
            assert time.monotonic() < until
        head, self._input = self._input.split(b"\r\n\r\n", 1)
        first, *lines = head.split(b"\r\n")
        status_line = STATUS_LINE.fullmatch(first)
        if status_line is None:
            raise Malformed(f"status line {first!r}")
        fields = []
        for line in lines:
            parts = FIELD_LINE.fullmatch(line)
            if parts is None:
                raise Malformed(f"field line {line!r}")
            fields.append((parts[1].decode().lower(), parts[2].decode()))
        return int(status_line[1]), status_line[2].decode(), fields

    def _exactly(self, count: int) -> bytes:
        until = time.monotonic() + self._deadline
        pieces, have = [self._input], len(self._input)
        while have < count:
            got = self._receive()
            if not got:
                raise Ended(f"the connection ended after {have} of {count} bytes of a body")
            pieces.append(got)
            have += len(got)
            assert time.monotonic() < until
        whole = b"".join(pieces)
        self._input = whole[count:]
        return whole[:count]


# ---- requests ------------------------------------------------------------------------------------


def request(
    method: str = "POST",
    target: str = "/echo",
    *fields: str,
    body: bytes | None = None,
    version: str = "HTTP/1.1",
) -> bytes:
    """A request with Host (in 1.1) and, when there is a body, Content-Length."""
    lines = [f"{method} {target} {version}"]
    if version == "HTTP/1.1":
        lines.append("Host: test")
    lines += fields
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunk(data: bytes, extension: str = "") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension.encode(), data)


def chunked(data: bytes, size: int) -> bytes:
    """The whole of a chunked body, in chunks of this size."""
    chunks = [chunk(data[at : at + size]) for at in range(0, len(data), size)]
    return b"".join(chunks) + b"0\r\n\r\n"


CHUNKED = "Transfer-Encoding: chunked"
