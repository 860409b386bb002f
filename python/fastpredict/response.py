"""Response: an answer with a status, headers or a content type of the handler's choice."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

HeadersLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

#: Statuses whose answers have no body (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5).
BODYLESS = frozenset({204, 205, 304})

# RFC 9110, sections 5.6.2 (token) and 5.5 (field values).
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# Fields of the connection (RFC 9110, section 7.6.1), and those that the server writes itself.
_SERVERS_OWN = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Response:
    """An answer: a body and what goes with it.

    Parameters
    ----------
    body
        Whatever a handler may return by itself: ndarray, NumPy scalar, bytes-like, str, dict, list,
        bool, int, float, or None for no body.
    status
        200 to 599. 204, 205 and 304 must have no body.
    headers
        A mapping or pairs of str. Content-Length, Date and the fields of the connection are the
        server's and are refused.
    content_type
        In place of the one that follows from the body. An ndarray is written as .npy or JSON when
        this says ``application/x-npy`` or ``application/json``, else as raw bytes.
    borrow
        True promises not to change the body until it is sent, so that it need not be copied even
        while something else refers to it.

    Raises
    ------
    TypeError
        A body, status or header of the wrong type.
    ValueError
        A status, header or content type that can't be sent.

    Examples
    --------
    >>> return fastpredict.Response({"error": "too dark"}, status=422)
    """

    __slots__ = ("body", "borrow", "content_type", "headers", "status")

    body: Any
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    content_type: str | None
    borrow: bool

    def __init__(
        self,
        body: Any,
        status: int = 200,
        headers: HeadersLike | None = None,
        content_type: str | None = None,
        borrow: bool = False,
    ) -> None:
        if isinstance(body, (Response, tuple)):
            raise TypeError(f"a body can't be a {type(body).__name__}")
        self.status = check_status(status)
        pairs = [] if headers is None else check_headers(headers)
        in_headers = [value for name, value in pairs if name.lower() == b"content-type"]
        if len(in_headers) + (content_type is not None) > 1:
            raise ValueError("the content type is given more than once")
        if in_headers:
            content_type = in_headers[0].decode("latin-1")
            pairs = [pair for pair in pairs if pair[0].lower() != b"content-type"]
        elif content_type is not None:
            check_header("Content-Type", content_type)
        if self.status in BODYLESS and not is_empty(body):
            raise ValueError(f"an answer with status {self.status} must have no body (None)")
        self.body = body
        self.headers = tuple(pairs)
        self.content_type = content_type
        self.borrow = bool(borrow)

    def __repr__(self) -> str:
        return f"<fastpredict.Response {self.status} {type(self.body).__name__}>"


def is_empty(body: object) -> bool:
    """Whether a body is None or has no bytes."""
    return body is None or (isinstance(body, (bytes, bytearray, str)) and not body)


def check_status(status: object) -> int:
    """Return a status as an int, or raise: a final one is 200 to 599 (1xx is the server's)."""
    try:
        if isinstance(status, bool):
            raise TypeError
        checked = operator.index(status)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a status is an int from 200 to 599, not {status!r}") from None
    if not 200 <= checked <= 599:
        raise ValueError(f"a status is an int from 200 to 599, not {checked}")
    return checked


def check_headers(headers: HeadersLike) -> list[tuple[bytes, bytes]]:
    """Return headers as pairs of bytes, or raise for the first that can't be sent."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
        raise TypeError(f"headers are a mapping or pairs of str, not {headers!r}")
    checked = []
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"headers are a mapping or pairs of str; {pair!r} is neither")
        checked.append(check_header(*pair))
    return checked


def check_header(name: object, value: object) -> tuple[bytes, bytes]:
    """Return one header as bytes, or raise."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"a header is a pair of str, not ({name!r}, {value!r})")
    if _TOKEN.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a header name")
    if name.lower() in _SERVERS_OWN:
        raise ValueError(f"the header {name} is written by the server and can't be set")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(
            f"the header {name} can't have the value {value!r}: controls or not latin-1"
        )
    return name.encode("ascii"), value.encode("latin-1")
