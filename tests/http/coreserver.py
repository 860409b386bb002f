"""The server below Python's App: a fastpredict._core.Server with the test's own predict threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from rawhttp import DEADLINE, RawClient

from fastpredict import _core

Handler = Callable[["_core.Exchange"], None]

OCTETS = (b"content-type", b"application/octet-stream")

DEFAULTS: dict[str, Any] = {
    "max_request_body_size": 64 << 20,
    "max_inflight_bytes": 512 << 20,
    "max_queued_requests": 64,
    "limit_concurrency": 512,
    "timeout_head": 60.0,
    "timeout_read": 60.0,
    "timeout_write": 60.0,
    "min_data_rate": 0,
    "timeout_keep_alive": 60.0,
    "timeout_queue": 0.0,
    "timeout_graceful_shutdown": 30.0,
    "access_log": False,
}


def route(
    path: str,
    *,
    unit: int = 1,
    exact: bool = False,
    raw: bool = True,
    npy_max: int = 0,
    expected: str = "any bytes",
) -> _core.Route:
    return _core.Route(
        path,
        raw_unit_bytes=unit,
        raw_exact=exact,
        raw_allowed=raw,
        npy_max_bytes=npy_max,
        expected=expected,
    )


ROUTES = (
    route("/echo"),
    route("/twelve", unit=12, exact=True, expected="float32 of shape (3,), 12 bytes"),
    route("/fours", unit=4, expected="float32 of shape (-1,), a multiple of 4 bytes"),
    route("/empty", unit=0, expected="an empty body"),
    route("/npy", raw=False, npy_max=1000, expected="float32 of shape (-1, -1)"),
    route("/smuggled"),
)


def echo(exchange: _core.Exchange) -> None:
    exchange.reply(200, [OCTETS], [exchange.bytes()])


class Hold:
    """A handler that tells when it runs and goes on when it is let; then it answers as another."""

    def __init__(self, then: Handler = echo) -> None:
        self._then = then
        self._entered = threading.Semaphore(0)
        self._let = threading.Semaphore(0)

    def __call__(self, exchange: _core.Exchange) -> None:
        self._entered.release()
        assert self._let.acquire(timeout=DEADLINE)
        self._then(exchange)

    def wait_entered(self) -> None:
        """Until one more call runs."""
        assert self._entered.acquire(timeout=DEADLINE), "the handler was not called"

    def let(self, calls: int = 1) -> None:
        self._let.release(calls)


class CoreServer:
    """Started and ready. The handler gets every exchange and owes it a reply."""

    def __init__(
        self,
        handler: Handler = echo,
        *,
        routes: Iterable[_core.Route] = ROUTES,
        threads: int = 1,
        tcp: bool = True,
        ready: bool = True,
        **options: Any,
    ) -> None:
        self.handler = handler
        self.taken: list[str] = []  # paths, in order
        self.errors: list[BaseException] = []
        self.core = _core.Server(list(routes), **(DEFAULTS | options))
        self.address = ("127.0.0.1", self.core.listen_tcp("127.0.0.1", 0) if tcp else 0)
        self._threads = [threading.Thread(target=self._control, daemon=True)]
        self._threads += [
            threading.Thread(target=self._predict, daemon=True) for _ in range(threads)
        ]
        self._started = False
        if tcp:
            self.start(ready)

    def start(self, ready: bool = True) -> None:
        self.core.start()
        self._started = True
        for thread in self._threads:
            thread.start()
        if ready:
            self.core.set_ready()

    def _control(self) -> None:
        while self.core.reap():
            pass

    def _predict(self) -> None:
        while (exchange := self.core.take()) is not None:
            self.taken.append(exchange.path)
            try:
                self.handler(exchange)
            except BaseException as error:
                self.errors.append(error)
            del exchange

    def connect(self, **options: Any) -> RawClient:
        return RawClient(self.address, **options)

    def stats(self) -> dict[str, int]:
        return self.core.stats()

    def wait(self, **figures: int) -> None:
        """Until the gauges have these values."""
        until = time.monotonic() + DEADLINE
        while True:
            stats = self.stats()
            if all(stats[name] == value for name, value in figures.items()):
                return
            assert time.monotonic() < until, f"expected {figures}, have {stats}"
            time.sleep(0.002)

    def wait_idle(self) -> None:
        """Until nothing of any request is left: no slot, no charge, no job."""
        self.wait(queued=0, running=0, charged_bytes=0, out_slots=0)

    def drain(self) -> None:
        self.core.drain()

    def stop(self) -> None:
        """Ends it, and fails where a thread of it doesn't end or a handler has failed."""
        if not self._started:
            return
        self._started = False
        self.core.stop()
        self.join()

    def join(self) -> None:
        assert self.core.join(DEADLINE), "the network thread has not ended"
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "take() or reap() did not return"
        self._started = False
        assert self.errors == []


class Servers(contextlib.ExitStack):
    """Makes servers and ends them all."""

    def __call__(self, handler: Handler = echo, **options: Any) -> CoreServer:
        server = CoreServer(handler, **options)
        self.callback(server.stop)
        return server
