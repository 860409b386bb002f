"""Streamed answers of a WSGI application, and what may happen to them on the way."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from process import Processes, Served, address_of, wait_until
from rawhttp import DEADLINE, Ended, RawClient, request
from soak import figure, times
from targets import BLOCK, FAILURES

import fastpredict
from fastpredict.app import wsgi_app_of

# ---- the client leaves, at each stage

LEAVES = times(3, most=100)  # of each way, at each stage

#: Where an answer may be when its client leaves; "blocked": the kernel has no room for more.
STAGES = ("called", "started", "between", "blocked", "ended", "closing")


class Staged:
    """An application that stops at one stage until it is let go, and tells when it was closed."""

    def __init__(self, stage: str) -> None:
        self.reached, self.go, self.closed = (threading.Event() for _ in range(3))
        self.made = 0  # blocks
        self._stage = stage

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        self._pass("called")
        start("200 OK", [("Content-Type", "application/octet-stream")])
        self._pass("started")
        self._blocks = self._make()
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def close(self) -> None:
        self._pass("closing")
        self.closed.set()

    def _make(self) -> Iterator[bytes]:
        yield b"first"
        self._pass("between")
        if self._stage == "blocked":
            self.reached.set()
            for self.made in itertools.count():
                yield BLOCK
        yield b"last"
        self._pass("ended")

    def _pass(self, stage: str) -> None:
        if stage == self._stage:
            self.reached.set()
            assert self.go.wait(DEADLINE)


def half_close(client: RawClient) -> None:
    client.socket.shutdown(socket.SHUT_WR)


def wait_still(staged: Staged) -> None:
    """Until no more blocks are made."""
    made = -1
    while made != staged.made:
        made = staged.made
        time.sleep(0.1)


def stats_become(server: fastpredict.Server, **figures: int) -> None:
    wait_until(lambda: figures.items() <= server.stats().items(), figures, pause=0.002)


@figure(
    f"{LEAVES} x 3 clients gone at each of {len(STAGES)} stages of a stream: closed, nothing left"
)
@pytest.mark.timeout(60 + LEAVES)
@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset, half_close])
@pytest.mark.parametrize("stage", STAGES)
def test_client_gone_at_a_stage_of_a_stream_leaves_nothing(
    stage: str, leave: Callable[[RawClient], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastpredict")
    staged = Staged(stage)
    app = wsgi_app_of(lambda environ, start: staged(environ, start))
    with fastpredict.Server(app, port=0, access_log=False) as server:
        descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        for _ in range(LEAVES):
            staged = Staged(stage)
            with RawClient(address_of(server.url), rcvbuf=4096) as client:
                client.send(request("GET", "/"))
                assert staged.reached.wait(DEADLINE)
                if stage in ("between", "blocked"):
                    assert client.read_some(20).startswith(b"HTTP/1.1 200 ")
                if stage == "blocked":
                    wait_still(staged)
                leave(client)
                stats_become(server, connections=0)
                staged.go.set()
                assert staged.closed.wait(DEADLINE), "close() was not called"
            stats_become(server, queued=0, running=0, charged_bytes=0, out_slots=0)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert threading.active_count() == threads
    assert caplog.records == []  # a client that leaves is no error


def test_client_gone_while_its_stream_is_queued_never_begins_it() -> None:
    first, second = Staged("between"), Staged("nowhere")
    waiting = iter((first, second))
    app = wsgi_app_of(lambda environ, start: next(waiting)(environ, start))
    with fastpredict.Server(app, port=0, access_log=False) as server:
        address = address_of(server.url)
        with RawClient(address) as client, RawClient(address) as gone:
            client.send(request("GET", "/"))
            assert first.reached.wait(DEADLINE)
            gone.send(request("GET", "/"))
            stats_become(server, queued=1)
            gone.close()
            stats_become(server, queued=0, connections=1)
            first.go.set()
            assert first.closed.wait(DEADLINE)
        stats_become(server, running=0, charged_bytes=0, out_slots=0, connections=0)
        assert next(waiting) is second, "the application was called for nobody"


# ---- the application fails

RAISES = times(200, most=1000)
RAISERS = [kind for kind in FAILURES if kind[:5] not in ("wrong", "objec", "set")]
#: Where a failure comes, and what its client sees of it.
PLACES = ("call", "first", "later", "close")
TRACEBACK = "Traceback (most recent call last)"


@figure(f"{RAISES:,} failures of a WSGI application, {len(RAISERS)} kinds, at {len(PLACES)} places")
@pytest.mark.timeout(120 + RAISES // 10)
def test_failing_application_is_a_500_or_a_cut_and_the_server_lives(processes: Processes) -> None:
    server = processes.serve("targets:app", "--no-access-log")
    cases = itertools.cycle(itertools.product(RAISERS, PLACES))
    for kind, place in itertools.islice(cases, RAISES):
        with server.connect() as client:
            client.send(request("GET", f"/wsgi/fail?{kind}.{place}"))
            if place in ("call", "first"):
                answer = client.answer("GET")
                assert answer.status == 500
                assert answer.error()
                assert not answer.closes
                client.send(request("POST", "/wsgi/length", body=b"12345"))
                assert client.answer().body == b"5"
            else:
                due = (b"block", False) if place == "later" else (b"whole", True)
                assert read_chunks(client) == due, kind
    server.signal(signal.SIGTERM)
    text = server.ended(0)
    assert text.count(" ERROR the WSGI application mounted failed") == RAISES
    assert text.count(TRACEBACK) >= RAISES


def read_chunks(client: RawClient) -> tuple[bytes, bool]:
    """A chunked body up to its end, or to where it is cut, and whether it has come to its end."""
    status, _, _ = client._head()
    assert status == 200
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        try:
            piece = client._exactly(1)
        except Ended:
            break
        data += piece
    return b"".join(data.split(b"\r\n")[1::2]), data.endswith(b"\r\n0\r\n\r\n")


# ---- signals while it streams

TERMS = times(2, most=50)


@figure(f"SIGTERM and SIGINT {TERMS} times during a stream: sent whole, exit 0")
@pytest.mark.timeout(60 + 10 * TERMS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_a_stream_finishes_it(processes: Processes, number: signal.Signals) -> None:
    blocks = 200  # more than the kernel keeps
    for _ in range(TERMS):
        server = processes.serve("targets:app", "--no-access-log")
        with server.connect(rcvbuf=65_536) as client:
            begin(client, f"/wsgi/stream?{blocks}")
            server.signal(number)
            wait_until(lambda server=server: not accepts(server), "it drains")  # type: ignore[misc]
            for _ in range(blocks):
                assert client._exactly(len(b"10000\r\n") + len(BLOCK) + 2)[7:-2] == BLOCK
            assert client._exactly(5) == b"0\r\n\r\n"
        assert "Traceback" not in server.ended(0)


def begin(client: RawClient, target: str) -> None:
    client.send(request("GET", target))
    status, _, _ = client._head()
    assert status == 200


def accepts(server: Served) -> bool:
    try:
        server.connect().close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("target", ["/wsgi/stream", "/wsgi/slowly?0.01", "/wsgi/slowly?60"])
def test_stream_without_an_end_is_cut_when_the_drain_is_overdue(
    processes: Processes, target: str
) -> None:
    server = processes.serve("targets:app", "--timeout-graceful-shutdown", "0.3")
    with server.connect() as client:
        begin(client, target)
        server.signal(signal.SIGTERM)
        assert "most recent call first" in server.ended(1, timeout=10)
        client.expect_gone()


@pytest.mark.parametrize("target", ["/wsgi/stream", "/wsgi/slowly?60"])
def test_second_signal_ends_a_stream_at_once(processes: Processes, target: str) -> None:
    server = processes.serve("targets:app")
    with server.connect() as client:
        begin(client, target)
        server.signal(signal.SIGTERM)
        wait_until(lambda: not accepts(server), "it drains")
        server.signal(signal.SIGTERM)
        server.ended(128 + signal.SIGTERM, timeout=5)


def test_stream_that_nobody_reads_does_not_hold_up_the_drain(processes: Processes) -> None:
    """Its client is put out, as at any other time."""
    server = processes.serve("targets:app", "--timeout-write", "0.5")
    with server.connect(rcvbuf=4096) as client:
        begin(client, "/wsgi/stream")
        server.signal(signal.SIGTERM)
        assert "Traceback" not in server.ended(0, timeout=15)
        client.expect_gone()


def test_stop_ends_a_stream_and_calls_close() -> None:
    staged = Staged("blocked")
    app = wsgi_app_of(staged)
    server = fastpredict.Server(app, port=0, access_log=False, timeout_graceful_shutdown=0.3)
    with server, RawClient(address_of(server.url), rcvbuf=4096) as client:
        begin(client, "/")
        assert staged.reached.wait(DEADLINE)
        wait_still(staged)
        server.stop()
        assert staged.closed.wait(DEADLINE)
        client.expect_gone()
