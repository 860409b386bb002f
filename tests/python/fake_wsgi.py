"""An exchange for WSGI applications: it records what a client would see, and checks its caller."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from fastpredict.wsgi import Site, make_mount

TEXT = b"one\ntwo\n"
URLS = ("http://127.0.0.1:8000",)


class Exchange:
    """One request; ``calls`` are the names of what was called, in order."""

    def __init__(
        self,
        *,
        body: bytes = b"",
        method: str = "GET",
        path: str = "/",
        query: str = "",
        target: str | None = None,
        fields: Sequence[tuple[str, str]] = (),
        client: str = "127.0.0.1:53412",
        http_version: str = "HTTP/1.1",
    ) -> None:
        self.body, self.nbytes = body, len(body)
        self.method, self.path, self.query = method, path, query
        self.target = (path + (f"?{query}" if query else "")) if target is None else target
        self.headers, self.client, self.http_version = list(fields), client, http_version
        self.leaves_after: int | None = None  # this write() finds that the client has left
        self.refusal: BaseException | None = None  # what reply() raises
        self.wrote = threading.Event()
        self.calls: list[str] = []
        self.blocks: list[int] = []  # their lengths
        self.payload: list[bytes] = []
        self.length: int | None = None
        self.whole = False
        self._head: tuple[int, bytes, list[tuple[bytes, bytes]]] | None = None
        self._sent = b""

    @property
    def seen(self) -> tuple[int, bytes, list[tuple[bytes, bytes]], bytes]:
        """Status, reason, headers and body; there must be an answer that has ended."""
        assert self._head is not None
        assert self.calls[-1] in ("reply", "end")
        return (*self._head, self._sent)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    def bytes(self) -> bytes:
        return self.body

    def reply(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        payload: list[Any],
        borrow: bool = False,
        reason: bytes | None = None,
    ) -> None:
        assert self.calls == []
        if self.refusal is not None:
            raise self.refusal
        self._begin("reply", status, headers, reason)
        assert all(type(part) is bytes for part in payload)
        self.payload = payload[:]
        payload.clear()
        self._sent = b"".join(self.payload)
        self.length, self.whole = len(self._sent), True

    def begin(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        content_length: int | None = None,
        reason: bytes | None = None,
    ) -> None:
        assert self.calls == []
        self._begin("begin", status, headers, reason)
        self.length = content_length

    def write(self, block: bytes | memoryview) -> bool:
        self._check_open()
        self.calls.append("write")
        self._sent += block
        self.blocks.append(len(block))
        assert not self._has_no_body()
        assert self.length is None or len(self._sent) <= self.length
        self.wrote.set()
        return self.leaves_after is None or self.calls.count("write") < self.leaves_after

    def end(self, whole: bool = True) -> None:
        self._check_open()
        self.calls.append("end")
        complete = self.length in (None, len(self._sent)) or self._has_no_body()
        assert complete or not whole
        self.whole = whole

    def _begin(
        self, name: str, status: int, headers: list[tuple[bytes, bytes]], reason: bytes | None
    ) -> None:
        self.calls.append(name)
        assert 200 <= status <= 599
        assert all(type(each) is bytes for pair in headers for each in pair)
        self._head = (status, reason or b"", list(headers))

    def _check_open(self) -> None:
        assert self.calls[0] == "begin"
        assert "end" not in self.calls
        assert self.leaves_after is None or self.calls.count("write") <= self.leaves_after

    def _has_no_body(self) -> bool:
        assert self._head is not None
        return self.method == "HEAD" or self._head[0] in (204, 304)


def site_of(app: Any, path: str = "/", urls: Sequence[str] = URLS, threads: int = 1) -> Site:
    return Site(make_mount(path, app), urls, threads)


def serve(app: Any, exchange: Exchange | None = None, **request: Any) -> Exchange:
    """Answer one request with the application; the exchange tells how."""
    exchange = exchange or Exchange(**request)
    site_of(app).answer(exchange, os.getpid())  # type: ignore[arg-type]
    assert exchange.calls[-1:] in (["reply"], ["end"], [])
    return exchange
