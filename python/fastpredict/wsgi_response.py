"""One WSGI answer: start_response, the write callable, and the blocks of the result on their way.

The rules are those of PEP 3333, and of RFC 9110 where it refers to HTTP. Runs in predict threads.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from fastpredict.encode import error_body, json_head

if TYPE_CHECKING:
    from fastpredict._core import Exchange

Headers: TypeAlias = list[tuple[bytes, bytes]]
ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

#: How much of a file is read at a time where reading it can't wait for more to come.
FILE_BLOCK_BYTES = 256 << 10

# Several blocks that are this small together are joined: one part more costs as much as copying it.
_JOINED_BYTES = 64 << 10

# How far an answer is. Before _BEGUN nothing was sent, and start_response may still change it all.
_NEW, _BEGUN, _GONE, _DONE = range(4)

# RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
_BODYLESS = frozenset({204, 205, 304})

# RFC 9110, sections 5.6.2 (token) and 5.5 (field values); RFC 9112, section 4 (status line).
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_STATUS = re.compile(r"([2-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_LENGTH = re.compile(r"[0-9]{1,18}")

# RFC 9110, section 7.6.1, and what wsgiref takes for such: the connection is the server's.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)


class FileWrapper:
    """``wsgi.file_wrapper``: a file as an iterable of its blocks, from where it stands.

    Returned by an application as it is, it is read in bigger blocks than it asks for, and never
    beyond a Content-Length.
    """

    def __init__(self, filelike: Any, block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.filelike.read(self.block_size)
        if block:
            return block
        raise StopIteration

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()

    def best_block_size(self) -> int:
        """Return how much to read at a time: what was asked for, or more of a regular file.

        A pipe is not read for more: it would wait until as much has come.
        """
        at_once = isinstance(self.filelike, io.BytesIO)
        if not at_once:
            with contextlib.suppress(AttributeError, TypeError, ValueError, OSError):
                at_once = stat.S_ISREG(os.fstat(self.filelike.fileno()).st_mode)
        return max(self.block_size, FILE_BLOCK_BYTES) if at_once else self.block_size


class Answer:
    """The answer to one request, from start_response to the last block. One thread.

    Attributes
    ----------
    complaint
        What was wrong with an answer that was begun all the same, as the end of a sentence that
        starts with the application; None where nothing was.
    """

    __slots__ = (
        "_bodyless",
        "_exchange",
        "_headers",
        "_is_head",
        "_length",
        "_reason",
        "_sent",
        "_state",
        "_status",
        "complaint",
    )

    _headers: Headers | None  # None until start_response; with it _status, _reason, _length
    _status: int
    _reason: bytes
    _length: int | None  # the Content-Length, where it is known
    _bodyless: bool

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._is_head = exchange.method == "HEAD"
        self._headers = None
        self._state = _NEW
        self._sent = 0  # bytes of the body
        self.complaint: str | None = None

    # ---- what the application calls --------------------------------------------------------------

    def start_response(
        self,
        status: str,
        response_headers: list[tuple[str, str]],
        exc_info: ExcInfo | None = None,
    ) -> Callable[[bytes], None]:
        """Take the head of the answer, which goes out with its first byte. Returns write().

        Raises
        ------
        TypeError, ValueError
            For a status or header that can't be sent.
        RuntimeError
            On a second call without ``exc_info``.
        BaseException
            The one in ``exc_info``, when the head was sent already.
        """
        if exc_info:
            try:
                if self._state != _NEW and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # the traceback refers to this frame: no ring
        elif self._headers is not None:
            raise RuntimeError("start_response was called a second time without exc_info")
        code, reason = check_status(status)
        headers, length = check_headers(response_headers)
        self._status, self._reason, self._headers, self._length = code, reason, headers, length
        self._bodyless = self._is_head or code in _BODYLESS
        return self.write

    def write(self, data: bytes) -> None:
        """Send this at once: the older way to answer. Blocks until the kernel has all of it.

        Raises
        ------
        TypeError
            For what is not bytes.
        BrokenPipeError
            The client has left. An application that lets it pass ends in peace.
        RuntimeError
            The answer has ended.
        """
        if not isinstance(data, bytes):
            raise TypeError(_not_bytes(data))
        if self._state == _DONE:
            raise RuntimeError("write() was called after the answer had ended")
        if self._bodyless:
            return
        if self._state == _NEW:  # PEP 3333: the head goes with the first call, whatever it brings
            self._begin()
            if not data:
                self._send(data)
        if data:
            self._put(data)
        if self._state == _GONE:
            raise BrokenPipeError("the client has left")

    # ---- what the server calls -------------------------------------------------------------------

    @property
    def client_left(self) -> bool:
        """Whether sending has shown that nobody reads the answer any more."""
        return self._state == _GONE

    def send(self, result: Iterable[bytes]) -> None:
        """Send what the application returned and finish the exchange. Does not close it.

        Each block is sent before the next is asked for; blocks until the kernel has them.

        Raises
        ------
        TypeError, RuntimeError
            The application broke a rule.
        BaseException
            Whatever iterating raised.
        """
        if self._headers is not None and self._bodyless:
            pass  # nobody will see any of it
        elif isinstance(result, (list, tuple)):
            self._send_blocks(result)
        else:
            blocks = self._file_blocks(result) if type(result) is FileWrapper else result
            for block in blocks:
                if not self._put(block):
                    break
        self._finish()

    def fail(self, raised: str) -> None:
        """Answer 500 where nothing was sent, else cut the connection. Raises nothing.

        ``raised`` is the name of the exception's type.
        """
        state, self._state = self._state, _DONE
        # Where not even this goes, dropping the exchange says as much to the client.
        with contextlib.suppress(Exception):
            if state == _NEW:
                sentence = f"the application raised {raised};"
                body = error_body(f"{sentence} the traceback is in the server's log")
                head = json_head(500)
                self._exchange.reply(head.status, head.headers, [body])
            elif state != _DONE:
                self._exchange.end(False)

    # ---- sending ---------------------------------------------------------------------------------

    def _send_blocks(self, blocks: list[bytes] | tuple[bytes, ...]) -> None:
        """All blocks are there: their length is known before the head is sent."""
        for block in blocks:
            if not isinstance(block, bytes):
                raise TypeError(_not_bytes(block))
        total = sum(map(len, blocks))
        if self._headers is None:
            raise RuntimeError(_NO_HEAD)
        if self._state == _NEW:
            if self._length is None:
                self._length = total
            if self._length == total:
                self._reply([block for block in blocks if block])
                return
            if total < self._length:
                raise RuntimeError(self._too_short(total))
        for block in blocks:
            if not self._put(block):
                return

    def _file_blocks(self, file: FileWrapper) -> Iterator[bytes]:
        size = file.best_block_size()
        while True:
            length = self._length if self._headers is not None else None
            wanted = size if length is None else min(size, length - self._sent)
            block = file.filelike.read(wanted) if wanted else b""
            if not block:
                return
            yield block

    def _put(self, block: bytes) -> bool:
        """Send one block. Returns whether to ask for the next."""
        if not isinstance(block, bytes):
            raise TypeError(_not_bytes(block))
        if not block:
            return True  # PEP 3333: no reason to send the head
        if self._headers is None:
            raise RuntimeError(_NO_HEAD)
        if self._state == _NEW:
            if self._bodyless:
                return False
            if self._length == len(block):
                self._reply([block])
                return True
            self._begin()
        if self._length is not None and len(block) > self._length - self._sent:
            self._send_up_to_length(block)
            return False
        return self._send(block)

    def _send(self, block: bytes | memoryview) -> bool:
        if self._state == _BEGUN and not self._exchange.write(block):
            self._state = _GONE
        if self._state == _GONE:
            return False
        self._sent += len(block)
        return True

    def _send_up_to_length(self, block: bytes) -> None:
        """RFC 9112, section 6.3: what comes after it would be read as the next answer."""
        assert self._length is not None
        rest = self._length - self._sent
        if rest:
            self._send(memoryview(block)[:rest])
        self.complaint = f"sent more than the {self._length} bytes of its Content-Length"

    def _begin(self) -> None:
        assert self._headers is not None
        self._exchange.begin(self._status, self._headers, self._length, self._reason)
        self._state = _BEGUN

    def _reply(self, payload: list[Any]) -> None:
        """Send the whole answer, or what it has for a body."""
        assert self._headers is not None
        length = sum(map(len, payload))
        if len(payload) > 1 and length <= _JOINED_BYTES:
            payload = [b"".join(payload)]
        self._exchange.reply(self._status, self._headers, payload, False, self._reason)
        self._state = _DONE
        self._sent = length

    def _finish(self) -> None:
        """There are no more blocks: whatever is missing is missing for good."""
        if self._state == _DONE:
            return
        if self._headers is None:
            raise RuntimeError(_NO_HEAD)
        if self._bodyless and self._state == _NEW:
            self._end_without_body()
        elif self._state == _NEW:
            if self._length:
                raise RuntimeError(self._too_short(0))
            self._reply([])
        else:
            whole = self._state == _BEGUN and (self._length is None or self._length == self._sent)
            if self._state == _BEGUN and not whole:
                self.complaint = self._too_short(self._sent).removeprefix(_SUBJECT)
            self._exchange.end(whole)
        self._state = _DONE

    def _end_without_body(self) -> None:
        if self._status == 204:
            self._length = None  # RFC 9110, section 8.6
        elif self._status == 205:
            self._length = 0  # RFC 9110, section 15.3.6
        self._begin()
        self._exchange.end()

    def _too_short(self, total: int) -> str:
        return f"{_SUBJECT}sent {total} bytes of the {self._length} of its Content-Length"


_SUBJECT = "the application "
_NO_HEAD = f"{_SUBJECT}has not called start_response before its first block, or the end"


def _not_bytes(block: object) -> str:
    """Say what is wrong with a block, and what was probably meant."""
    hint = ""
    if isinstance(block, str):
        hint = "; encode the text"
    elif isinstance(block, int):
        hint = "; bytes are returned in a list, [body]"
    return f"the blocks of a WSGI answer are bytes, not {type(block).__name__}{hint}"


# ---- heads ---------------------------------------------------------------------------------------


def check_status(status: str) -> tuple[int, bytes]:
    """Return code and reason phrase of "200 OK", or raise TypeError or ValueError."""
    if not isinstance(status, str):
        raise TypeError(f"a status is a str such as '200 OK', not {status!r}")
    return _checked_status(status)


@lru_cache(maxsize=128)
def _checked_status(status: str) -> tuple[int, bytes]:
    found = _STATUS.fullmatch(status)
    if found is None:
        raise ValueError(f"a status is a str such as '200 OK', from 200 to 599, not {status!r}")
    return int(found[1]), (found[2] or "").encode("latin-1")


# Names as applications write them, and as they are sent; b"" for Content-Length, which the server
# writes. Filled as they come, up to a bound: an application may make names up.
_NAMES: dict[str, bytes] = {}
_NAMES_MAX = 256


def check_headers(headers: list[tuple[str, str]]) -> tuple[Headers, int | None]:
    """Return headers as bytes, without Content-Length, which is returned beside them.

    Raises
    ------
    TypeError, ValueError
        For the first that can't be sent.
    """
    if not isinstance(headers, list):
        raise TypeError(f"headers are a list of (name, value), not {type(headers).__name__}")
    checked = []
    length = None
    for pair in headers:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"headers are a list of (name, value); {pair!r} is no such pair")
        name, value = pair
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"a header is a pair of str, not ({name!r}, {value!r})")
        sent_name = _NAMES.get(name)
        if sent_name is None:
            sent_name = _checked_name(name)
        if not sent_name:
            length = _checked_length(value, length)
        elif value.isascii() and value.isprintable():  # the usual case, and faster
            checked.append((sent_name, value.encode("ascii")))
        elif _VALUE.fullmatch(value):
            checked.append((sent_name, value.encode("latin-1")))
        else:
            raise ValueError(
                f"the header {name} can't have the value {value!r}: controls or not latin-1"
            )
    return checked, length


def _checked_name(name: str) -> bytes:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a header name")
    if name.lower() in _HOP_BY_HOP:
        raise ValueError(f"the header {name} is about the connection, which is the server's")
    sent_name = b"" if name.lower() == "content-length" else name.encode("ascii")
    if len(_NAMES) < _NAMES_MAX:
        _NAMES[name] = sent_name
    return sent_name


def _checked_length(value: str, earlier: int | None) -> int:
    if earlier is not None:
        raise ValueError("the header Content-Length is given more than once")
    if _LENGTH.fullmatch(value) is None:
        raise ValueError(f"the header Content-Length is a number of bytes, not {value!r}")
    return int(value)
