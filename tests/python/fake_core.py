"""Doubles for fastpredict._core, so that the package's own modules are tested without a server.

Import this before anything of fastpredict. Tests give Exchange doubles to worker and codecs by
hand, and put Server in by monkeypatch; only where the extension is not built does this module
stand in for it in sys.modules.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np


class Exchange:
    """One request with its body in memory; records its reply."""

    def __init__(
        self,
        body: bytes = b"",
        kind: int | None = None,
        headers: dict[str, str] | None = None,
        route: int = 0,
    ) -> None:
        self.kind = core().BODY_RAW if kind is None else kind
        self.memory = bytearray(body)
        self.headers = list((headers or {}).items())
        self.route = route
        self.method, self.path, self.query, self.client = "POST", "/predict", "a=1", "127.0.0.1:9"
        self.queued_ns = time.monotonic_ns()
        self.gone = False
        self.refusals: list[Exception] = []  # what the next calls of reply() raise
        self.replies: list[tuple[int, dict[str, str], Any, bool]] = []
        self.refcounts: list[int] = []
        self.base_refcounts: list[int] = []
        self.done = threading.Event()

    @property
    def nbytes(self) -> int:
        return len(self.memory)

    def header(self, name: str) -> str | None:
        values = [value for field, value in self.headers if field == name]
        return ", ".join(values) if values else None

    def array(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0, fortran: bool = False
    ) -> np.ndarray[Any, Any]:
        order = "F" if fortran else "C"
        return np.ndarray(shape, dtype, memoryview(self.memory)[offset:], order=order)

    def bytes(self) -> bytes:
        return bytes(self.memory)

    @property
    def body(self) -> memoryview:
        return memoryview(self.memory)

    def is_disconnected(self) -> bool:
        return self.gone

    def reply(self, status: int, headers: Any, payload: list[Any], borrow: bool = False) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        assert all(type(name) is bytes and type(value) is bytes for name, value in headers)
        if payload:
            self.refcounts.append(sys.getrefcount(payload[0]))
            if getattr(payload[0], "base", None) is not None:
                self.base_refcounts.append(sys.getrefcount(payload[0].base))
        text = {name.decode(): value.decode("latin-1") for name, value in headers}
        self.replies.append((status, text, payload.pop() if payload else None, borrow))
        self.done.set()


def lone_refcount() -> int:
    """What getrefcount() says of an object that only a list refers to."""
    lone = [object()]
    return sys.getrefcount(lone[0])


class Route:
    def __init__(self, path: str, **limits: Any) -> None:
        self.path = path
        self.limits = limits


class Server:
    """A server without sockets: requests come from submit()."""

    def __init__(self, routes: list[Any], **options: Any) -> None:
        self.routes, self.options = routes, options
        self.lane: queue.Queue[Exchange | None] = queue.Queue()
        self.ended = threading.Event()
        self.ready = threading.Event()
        self.calls: list[str] = []
        self.listening: list[Any] = []

    def submit(self, exchange: Exchange) -> Exchange:
        self.lane.put(exchange)
        return exchange

    def listen_tcp(self, host: str, port: int) -> int:
        if port == 1:
            raise OSError(98, "Address already in use")
        self.listening.append((host, port))
        return port or 54321

    def listen_unix(self, path: str, mode: int) -> None:
        self.listening.append((path, mode))

    def listen_fd(self, fd: int) -> str:
        self.listening.append(fd)
        return "127.0.0.1:7"

    def start(self) -> None:
        self.calls.append("start")

    def set_ready(self) -> None:
        self.ready.set()

    def take(self) -> Exchange | None:
        exchange = self.lane.get()
        if exchange is None:
            self.lane.put(None)  # for the other threads
        return exchange

    def reap(self) -> bool:
        return not self.ended.wait(0.05)

    def take_control(self) -> Exchange | None:
        return None

    @property
    def draining(self) -> bool:
        return self.ended.is_set()

    def drain(self) -> None:
        self.calls.append("drain")
        self._end()

    def stop(self) -> None:
        self.calls.append("stop")
        self._end()

    def _end(self) -> None:
        self.lane.put(None)
        self.ended.set()

    def join(self, timeout: float | None = None) -> bool:
        return self.ended.wait(timeout)

    def watch_signals(self, fd: int, dump_signal: int) -> None:
        self.calls.append("watch_signals")

    def after_fork_in_child(self) -> None:
        self.calls.append("after_fork_in_child")

    def stats(self) -> dict[str, int]:
        return {"connections": 0}


def core() -> Any:
    """fastpredict._core, real or ours."""
    return sys.modules["fastpredict._core"]


def _make_importable() -> None:
    source = str(Path(__file__).resolve().parents[2] / "python")
    with contextlib.suppress(ImportError):
        import fastpredict._core

        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastpredict"]:
        del sys.modules[name]  # half imported
    if source not in sys.path:
        sys.path.insert(0, source)
    with contextlib.suppress(ImportError):  # built in place
        import fastpredict._core  # noqa: F401

        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastpredict"]:
        del sys.modules[name]
    fake = types.ModuleType("fastpredict._core")
    fake.__dict__.update(
        LIBH2O_VERSION="0.0.0",
        BODY_RAW=0,
        BODY_NPY=1,
        BODY_JSON=2,
        Route=Route,
        Server=Server,
        Exchange=Exchange,
    )
    sys.modules["fastpredict._core"] = fake


_make_importable()
