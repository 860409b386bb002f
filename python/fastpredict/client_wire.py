"""HTTP/1.1 as a client speaks it, without a socket: heads written, answers read.

Nothing here waits or knows who does: both clients give the bytes that came to an AnswerReader,
which says where the next ones go. That is the result's own memory as soon as the head has told what
the result is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, Protocol

from fastpredict.client_errors import BadResponse, ClientConnectionError

#: The longest head of an answer, and the room a connection has for heads and other small reads.
HEAD_BYTES_MAX: Final = 64 << 10
#: The most asked for in one read of what isn't the result: what comes with a head is copied once.
READ_AHEAD_BYTES: Final = 16 << 10

# A whole number of cache lines. A receiver that fetches the head by itself gets a body that lies
# in the kernel's buffers as it will lie in its own: both ends of the copy are aligned alike, and
# some processors copy 5 to 10 % faster then.
_HEAD_MULTIPLE: Final = 64

_INTERIM_MAX: Final = 100
_TRAILER_BYTES_MAX: Final = 8 << 10
_CHUNK_LINE_MAX: Final = 4 << 10
# A chunk with less than this left is read together with the line that follows it.
_DIRECT_BYTES_MIN: Final = 4 << 10

# RFC 9112, sections 4, 5 and 7.1. Folded lines, bare CR and bare LF are refused.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t -~\x80-\xff]*)")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_DIGITS = re.compile(r"[0-9]{1,18}")


def request_head(
    method: str, target: str, host: str, agent: str, fields: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """Write the head of a request; its length is a multiple of 64 (see _HEAD_MULTIPLE).

    The filling is white space before a value, which every reader skips (RFC 9112, section 5.1).
    """
    start = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n".encode("ascii")
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    end = f"{agent}\r\n\r\n".encode("ascii")
    length = len(start) + len(lines) + len(b"User-Agent: ") + len(end)
    return b"".join((start, lines, b"User-Agent: ", b" " * (-length % _HEAD_MULTIPLE), end))


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The head of a final answer.

    ``headers`` has names in lower case; several fields of one name are joined by ", ". ``length``
    is that of the body, where the head says it.
    """

    version: int
    status: int
    reason: str
    headers: Mapping[str, str]
    length: int | None = None
    chunked: bool = False

    @property
    def content_type(self) -> str:
        """The media type, lower case, without parameters; "" where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can be used again, as far as the head says (RFC 9112, 9.3)."""
        options = {each.strip() for each in self.headers.get("connection", "").lower().split(",")}
        return "close" not in options and (self.version >= 1 or "keep-alive" in options)

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait, by Retry-After (RFC 9110, section 10.2.3): a number or a date."""
        value = self.headers.get("retry-after", "").strip()
        if _DIGITS.fullmatch(value):
            return float(value)
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())


# A server says the same to the same call for a second, until its Date changes.
@lru_cache(maxsize=32)
def parse_head(head: bytes) -> AnswerHead:
    """Read a head, without the empty line at its end. What is returned is shared: don't change it.

    Raises
    ------
    BadResponse
        It isn't one by the letter of RFC 9112, or its framing is ambiguous.
    """
    first, *lines = head.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise BadResponse(f"the answer is not HTTP/1.1; it begins with {first[:60]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD_LINE.fullmatch(line)
        if field is None:
            raise BadResponse(f"the answer has a header line that can't be read: {line[:60]!r}")
        # The blanks are not for the pattern, which would try them in every way.
        name, value = field[1].decode("ascii").lower(), field[2].strip(b" \t").decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    status = int(status_line[2])
    length, chunked = _framing(status, headers)
    reason = (status_line[3] or b"").decode("latin-1")
    return AnswerHead(int(status_line[1]), status, reason, headers, length, chunked)


def _framing(status: int, headers: Mapping[str, str]) -> tuple[int | None, bool]:
    """Length, and whether it is chunked. Neither: to the end of the connection (RFC 9112, 6.3)."""
    if status < 200 or status in (204, 304):
        return 0, False
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise BadResponse("the answer has both Content-Length and Transfer-Encoding")
        if coding.lower() != "chunked":
            raise BadResponse(f"the answer has the transfer coding {coding[:60]!r}")
        return None, True
    if length is None:
        return None, False
    if not _DIGITS.fullmatch(length):
        raise BadResponse(f"the answer has the Content-Length {length[:60]!r}")
    return int(length), False


# ---- where a body goes ---------------------------------------------------------------------------


class Sink(Protocol):
    """Takes the body of an answer, piece by piece."""

    @property
    def full(self) -> bool:
        """Whether no more bytes are expected."""

    def window(self, limit: int) -> memoryview:
        """Return where the next bytes go: at least 1 and at most ``limit`` bytes.

        Raises BadResponse where it is full."""

    def advance(self, count: int) -> None:
        """So many bytes have been put into the window."""


class FixedSink:
    """Memory of known length: an array's."""

    __slots__ = ("_filled", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._filled = 0

    @property
    def full(self) -> bool:
        return self._filled == len(self._view)

    def window(self, limit: int) -> memoryview:
        if self.full:
            raise BadResponse(f"the answer is longer than the {self._filled} bytes of its array")
        return self._view[self._filled : self._filled + limit]

    def advance(self, count: int) -> None:
        self._filled += count


class GrowingSink:
    """Memory for a body of unknown length; of one much longer than ``keep`` only the beginning."""

    __slots__ = ("_blocks", "_filled", "_full_blocks", "_keep", "_spill", "full")

    def __init__(self, keep: int = 1 << 62) -> None:
        self.full = False
        self._keep = keep
        self._blocks: list[bytearray] = []
        self._full_blocks = 0  # bytes in all blocks but the last
        self._filled = 0  # bytes in the last
        self._spill: bytearray | None = None  # takes what isn't kept

    def window(self, limit: int) -> memoryview:
        if self._spill is not None:
            return memoryview(self._spill)[:limit]
        if not self._blocks or self._filled == len(self._blocks[-1]):
            if len(self) >= self._keep:
                self._spill = bytearray(64 << 10)
                return memoryview(self._spill)[:limit]
            self._full_blocks += self._filled
            self._filled = 0
            self._blocks.append(bytearray(min(max(self._full_blocks, 64 << 10), 16 << 20)))
        return memoryview(self._blocks[-1])[self._filled : self._filled + limit]

    def advance(self, count: int) -> None:
        if self._spill is None:
            self._filled += count

    def __len__(self) -> int:
        return self._full_blocks + self._filled

    def getvalue(self) -> bytearray:
        """Return all of it; once, the blocks are gone then."""
        blocks, self._blocks = self._blocks, []
        whole = bytearray().join(blocks)
        del whole[len(self) :]
        return whole


# ---- reading an answer ---------------------------------------------------------------------------


class AnswerReader:
    """Reads one answer, interim ones before it left out.

    ``window()`` says where the next bytes go, ``received(count)`` that they came: True when the
    answer is whole. ``scratch`` is HEAD_BYTES_MAX bytes of the connection. ``open_sink`` is called
    with the head and says where the body goes.
    """

    __slots__ = (
        "_at", "_direct", "_end", "_enough", "_interim", "_left", "_open_sink", "_scratch",
        "_searched", "_sink", "_step", "_trailer_bytes", "done", "head", "started", "total",
    )  # fmt: skip

    def __init__(self, scratch: bytearray, open_sink: Callable[[AnswerHead], Sink]) -> None:
        self._scratch = memoryview(scratch)
        self._at = self._end = self._searched = 0  # what waits in scratch; where no line end is
        self._open_sink = open_sink
        self._sink: Sink | None = None
        # Not bound to self: a cycle would keep the result alive until garbage is collected.
        self._step: Callable[[AnswerReader], bool] = AnswerReader._head
        self._left = 0  # of a body with a length, or of a chunk
        self._enough = 1  # with less left than this, the scratch is read into
        self._direct = False
        self._interim = self._trailer_bytes = 0
        self.head: AnswerHead | None = None
        self.started = False  # a byte of an answer came
        self.done = False
        self.total = 0  # bytes of the body so far

    def window(self) -> memoryview:
        """Where the next bytes go. The body's own place where it is sure that they belong there."""
        sink = self._sink
        if sink is not None and self._left >= self._enough and self._at == self._end:
            self._direct = not sink.full
            if self._direct:
                return sink.window(self._left)
        self._direct = False
        if self._at:  # to the front: there is room for a whole head, and little to move
            kept = self._end - self._at
            self._scratch[:kept] = bytes(self._scratch[self._at : self._end])
            self._searched -= self._at
            self._at, self._end = 0, kept
        return self._scratch[self._end : self._end + READ_AHEAD_BYTES]

    def received(self, count: int) -> bool:
        """Take note of so many bytes in the window, 0 for the end of the connection.

        Raises
        ------
        BadResponse
            It is no answer.
        ClientConnectionError
            The connection ended in the middle.
        """
        if count == 0:
            self._ended()
            return True
        self.started = True
        if self._direct:
            assert self._sink is not None
            self._sink.advance(count)
            self._left -= count
            self.total += count
        else:
            self._end += count
        while self._step(self):
            pass
        return self.done

    @property
    def waits_for(self) -> str:
        """What is going on, for those whom it takes too long."""
        return "waiting for the answer" if self.head is None else "receiving the answer"

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on the connection."""
        return (
            self.done
            and self.head is not None
            and self.head.keeps_alive
            and (self.head.length is not None or self.head.chunked)
            and self._at == self._end  # more than was announced came
        )

    def _ended(self) -> None:
        if self._step is AnswerReader._until_close:
            self.done = True
            return
        if self.head is None:
            got = self._end - self._at
            where = (
                f"after {got} bytes of the answer's head" if self.started else "without an answer"
            )
        elif self.head.length is not None:
            where = f"after {self.total} of {self.head.length} bytes of the answer"
        else:
            where = f"after {self.total} bytes of an answer that has no end"
        raise ClientConnectionError(f"the server closed the connection {where}")

    # Steps: each returns True when it has done something and the next may run.

    def _head(self) -> bool:
        waiting = bytes(self._scratch[self._at : self._end])
        if not b"HTTP/1."[: len(waiting)] == waiting[:7]:
            raise BadResponse(f"the answer is not HTTP/1.1; it begins with {waiting[:60]!r}")
        end = waiting.find(b"\r\n\r\n", max(0, self._searched - self._at - 3))
        if end < 0:
            self._searched = self._end
            if len(waiting) >= HEAD_BYTES_MAX - READ_AHEAD_BYTES:
                raise BadResponse(f"the answer's head is longer than {len(waiting)} bytes")
            return False
        head = parse_head(waiting[:end])
        self._at += end + 4
        self._searched = self._at
        if head.status < 200:
            self._interim += 1
            if head.status == 101 or self._interim > _INTERIM_MAX:
                raise BadResponse(f"the server sent {head.status}, {self._interim} interim answers")
            return self._at < self._end
        self.head = head
        self._sink = self._open_sink(head)
        if head.chunked:
            self._step, self._enough = AnswerReader._chunk_line, _DIRECT_BYTES_MIN
        elif head.length is None:
            self._step, self._left = AnswerReader._until_close, 1 << 62
        else:
            self._step, self._left = AnswerReader._length, head.length
        return True

    def _length(self) -> bool:
        self._take()
        self.done = self._left == 0
        return False

    def _until_close(self) -> bool:
        self._take()
        return False

    def _take(self) -> None:
        """Copy what came along with the head, or between the lines of chunks."""
        assert self._sink is not None
        while self._left and self._at < self._end:
            window = self._sink.window(min(self._left, self._end - self._at))
            count = len(window)
            window[:] = self._scratch[self._at : self._at + count]
            self._sink.advance(count)
            self._at += count
            self._left -= count
            self.total += count

    def _line(self, limit: int) -> bytes | None:
        """The next line, or None while it isn't whole."""
        waiting = bytes(self._scratch[self._at : min(self._end, self._at + limit + 2)])
        end = waiting.find(b"\n")
        if end < 0:
            if len(waiting) > limit + 1:
                raise BadResponse(f"the answer has a chunk line longer than {limit} bytes")
            return None
        if end == 0 or waiting[end - 1 : end] != b"\r":
            raise BadResponse("the answer has a chunk line that doesn't end with CR LF")
        self._at += end + 1
        return waiting[: end - 1]

    def _chunk_line(self) -> bool:
        line = self._line(_CHUNK_LINE_MAX)
        if line is None:
            return False
        size = _CHUNK_LINE.fullmatch(line)
        if size is None:
            raise BadResponse(f"the answer has the chunk line {line[:60]!r}")
        self._left = int(size[1], 16)
        self._step = AnswerReader._chunk if self._left else AnswerReader._trailer
        return True

    def _chunk(self) -> bool:
        self._take()
        if self._left:
            return False
        self._step = AnswerReader._chunk_end
        return True

    def _chunk_end(self) -> bool:
        end = bytes(self._scratch[self._at : min(self._end, self._at + 2)])
        if end != b"\r\n"[: len(end)]:
            raise BadResponse("the answer has a chunk that is longer than it says")
        if len(end) < 2:
            return False
        self._at += 2
        self._step = AnswerReader._chunk_line
        return True

    def _trailer(self) -> bool:
        """Trailers are read and dropped."""
        line = self._line(_TRAILER_BYTES_MAX)
        if line is None:
            return False
        self._trailer_bytes += len(line)
        if line and _FIELD_LINE.fullmatch(line) is None:
            raise BadResponse(f"the answer has the trailer line {line[:60]!r}")
        if self._trailer_bytes > _TRAILER_BYTES_MAX:
            raise BadResponse(f"the answer has more than {_TRAILER_BYTES_MAX} bytes of trailers")
        self.done = not line
        return not self.done
