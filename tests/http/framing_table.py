"""The framing table: what must be refused, by which rule, and what accepted, section by section.

A row names its section: "9112 6.3 item 5" is RFC 9112, section 6.3, fifth item; "design" is a rule
of our own. Each row is one request to /echo, whose handler would answer it: a refused one breaks
exactly one rule, and would be accepted without it.

Sections that have no row, since they ask nothing of how a server reads a request: 9112 2.1 (names
of the parts), 4 (status lines are ours to write), 6.3 items 1, 2 and 8 (answers), 7.2 to 7.4 (other
codings, which nobody must know), 8 (answers), 9.1, 9.4, 9.5, 9.7 and 9.8 (times, counts, TLS), 10
to 12; and of 9110 all that isn't about the form of a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Refused:
    """A request that is refused: status and words of the answer, so that it is for this rule."""

    rule: str
    name: str
    data: bytes = field(repr=False)
    says: str = field(repr=False)
    status: int = 400

    def __str__(self) -> str:
        return f"{self.rule}: {self.name}"


@dataclass(frozen=True)
class Accepted:
    """A request that is accepted: the answer to it, but for its date."""

    rule: str
    name: str
    data: bytes = field(repr=False)
    answer: bytes = field(repr=False)
    calls: bool = True  # the handler
    may_continue: bool = False  # 100 comes first where the body isn't there with the head

    def __str__(self) -> str:
        return f"{self.rule}: {self.name}"

    @property
    def closes(self) -> bool:
        return b"\r\nConnection: close\r\n" in self.answer


# ---- why -----------------------------------------------------------------------------------------

# What an answer says; each is the text of one status of csrc/status.h, cut to what tells it apart.
REQUEST_LINE = "malformed request line"
METHOD = "malformed method"
TARGET = "malformed request target"
VERSION = "unsupported protocol version"
NAME = "malformed header name"
ENDING = "bare CR or LF"
CONTROL = "control character in the request head"
FOLDED = "folded header line"
HOST_WANTED = "exactly one valid Host"
BAD_LENGTH = "bad Content-Length"
BOTH = "both Content-Length and Transfer-Encoding"
BAD_CODING = "bad Transfer-Encoding"
UNKNOWN_CODING = "unknown transfer coding"
CHUNK = "malformed chunk"
TOO_LARGE = "the request head is too large"

# ---- requests ------------------------------------------------------------------------------------

LINE = b"POST /echo HTTP/1.1\r\n"
LINE_10 = b"POST /echo HTTP/1.0\r\n"
HOST = b"Host: t\r\n"
LENGTH = b"Content-Length: 5"
GOOD = LINE + HOST + LENGTH + b"\r\n\r\nhello"

#: Sent behind every row. It is a request like any behind an accepted one, which it lets end; behind
#: a refused one nobody may take it for anything.
BEHIND = b"POST /behind HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


def posted(*fields: bytes, body: bytes = b"", start: bytes = LINE + HOST) -> bytes:
    """A POST with these fields, and Host unless start says otherwise."""
    return start + b"".join(name + b"\r\n" for name in fields) + b"\r\n" + body


def line(request_line: bytes) -> bytes:
    """A request of this line and Host."""
    return request_line + b"\r\n" + HOST + b"\r\n"


def target(text: bytes, method: bytes = b"POST") -> bytes:
    return line(method + b" " + text + b" HTTP/1.1")


def hosted(*hosts: bytes, request_line: bytes = LINE) -> bytes:
    """A request with these Host lines and nothing else."""
    return posted(*(b"Host:" + host for host in hosts), start=request_line)


def lengths(*values: bytes) -> bytes:
    return posted(*(b"Content-Length:" + value for value in values), body=b"hello")


def coded(*values: bytes, start: bytes = LINE + HOST) -> bytes:
    fields = (b"Transfer-Encoding:" + value for value in values)
    return posted(*fields, body=b"5\r\nhello\r\n0\r\n\r\n", start=start)


def chunks(body: bytes, path: bytes = b"/echo") -> bytes:
    return posted(b"Transfer-Encoding: chunked", body=body).replace(b"/echo", path, 1)


# ---- answers, with their date masked -------------------------------------------------------------


OCTETS = b"content-type: application/octet-stream"
JSON = b"Content-Type: application/json"


def answer(
    body: bytes = b"hello",
    *fields: bytes,
    status: bytes = b"200 OK",
    connection: bytes | None = None,
) -> bytes:
    """An answer with these fields, those of the echo when there are none."""
    lines = [b"HTTP/1.1 " + status, b"Date: *", b"Content-Length: %d" % len(body)]
    if connection is not None:
        lines.append(b"Connection: " + connection)
    return b"\r\n".join([*lines, *(fields or (OCTETS,)), b"", b""]) + body


def error(status: bytes, sentence: bytes, *fields: bytes) -> bytes:
    return answer(b'{"error": "' + sentence + b'"}\n', JSON, *fields, status=status)


CLOSED = answer(connection=b"close")
BEHIND_ANSWER = answer(b"", connection=b"close")


# ---- how the tables are written ------------------------------------------------------------------

Named = tuple[str, bytes]


def refused(rule: str, says: str, *rows: Named, status: int = 400) -> list[Refused]:
    return [Refused(rule, name, data, says, status) for name, data in rows]


def accepted(rule: str, *rows: Named, gives: bytes | None = None) -> list[Accepted]:
    expected = answer() if gives is None else gives
    return [Accepted(rule, name, data, expected) for name, data in rows]


def gather(*groups: Iterable[Refused]) -> list[Refused]:
    return [row for group in groups for row in group]
