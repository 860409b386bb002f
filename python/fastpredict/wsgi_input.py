"""``wsgi.input``: the body, which is here already, read as a file (PEP 3333)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastpredict._core import Exchange


# A copy of so little costs nothing; of JSON, little beside its parsing. See Input._load.
_PLAIN_BYTES = 16 << 10


class Input:
    """The body of one request as a file; it ends where the body ends.

    Reading all of it in one call returns the receive buffer itself as bytes, without a copy (little
    bodies and JSON are copied to plain bytes); reading parts copies them. One thread at a time.
    Not an :class:`io.IOBase`, each of which costs a microsecond when it goes, but enough of one
    for :class:`io.BufferedReader` and :class:`io.TextIOWrapper`.
    """

    __slots__ = ("_body", "_exchange", "_position")

    #: Closing is left to the server, so that a wrapper that is dropped closes nothing.
    closed = False

    def __init__(self, exchange: Exchange) -> None:
        self._exchange: Exchange | None = exchange  # None when the request has ended
        self._body: bytes | None = None  # None until it is first read
        self._position = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most ``size`` bytes, all that are left for None or less than 0."""
        body = self._body
        if body is None:
            body = self._load()
        start = self._position
        left = len(body) - start
        if size is None or size < 0 or size >= left:
            self._move(len(body))
            return body[start:] if start else body
        self._position = start + size
        return body[start : start + size]

    read1 = read

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill a writable buffer as far as the body goes; returns the number of bytes."""
        body = self._body
        if body is None:
            body = self._load()
        start = self._position
        with memoryview(buffer).cast("B") as target, memoryview(body) as source:
            count = min(len(target), len(source) - start)
            target[:count] = source[start : start + count]
        self._move(start + count)
        return count

    readinto1 = readinto

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the rest of a line with its end, at most ``size`` bytes of it; b"" at the end."""
        body = self._body
        if body is None:
            body = self._load()
        start = self._position
        stop = len(body) if size is None or size < 0 else min(len(body), start + size)
        found = body.find(b"\n", start, stop)
        stop = stop if found < 0 else found + 1
        self._move(stop)
        return body[start:stop]

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Return the lines that are left, no more once they have more than ``hint`` bytes."""
        lines: list[bytes] = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint < total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return False."""
        return False

    def seekable(self) -> bool:
        """Return False: other servers' can't be sought in, so nobody should rely on it."""
        return False

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: middleware that closes what it wraps must not take it from the others."""

    def keep(self) -> None:
        """Fetch the body, which goes with the answer, for those who read it only afterwards.

        Nothing is copied for them: a large JSON of which nobody has read a byte is gone by then.
        """
        if self._body is None and self._exchange is not None and not self._is_large_json():
            self._load()

    def detach(self) -> None:
        """Let go of the body, as the request has ended: whoever keeps environ keeps no buffer."""
        self._exchange = self._body = None

    def _move(self, position: int) -> None:
        """Go on; at the end, let go of the body.

        What is left of it is the application's alone then, and gone when that is done with it: the
        next request is received into the same memory, which the processor still has at hand.
        """
        assert self._body is not None
        self._position = position
        if position == len(self._body):
            self._body, self._position = b"", 0

    def _load(self) -> bytes:
        if self._exchange is None:
            raise ValueError("wsgi.input was read after the request had ended")
        plain = self._exchange.nbytes <= _PLAIN_BYTES or self._is_large_json()
        body = self._exchange.bytes()
        if plain and type(body) is not bytes:
            body = bytes(body)  # for those who ask for the very type: orjson, wsgiref.validate
        self._body = body
        return body

    def _is_large_json(self) -> bool:
        assert self._exchange is not None
        if self._exchange.nbytes <= _PLAIN_BYTES:
            return False
        media_type = (self._exchange.header("content-type") or "").partition(";")[0]
        return media_type.strip().lower().endswith(("/json", "+json"))
