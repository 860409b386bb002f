"""System calls fail with what their manual pages name: nothing crashes, nothing hangs.

strace attaches to a server that runs, makes the n-th call of each of its threads fail, and lets go.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from load import SMALL
from process import Processes, Served, wait_until
from rawhttp import Ended, chunked, request
from soak import FACTOR, figure

STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(STRACE is None, reason="no strace here")

#: Which call fails; a soak has them all.
WHENS = (1, 2, 3, 5, 8) if FACTOR < 5 else range(1, 51)

FAILURES = {
    "accept4": (
        "EAGAIN EINTR ECONNABORTED EMFILE ENFILE ENOBUFS ENOMEM EPERM EPROTO ENETDOWN EHOSTUNREACH"
        " EINVAL"
    ),
    "recvfrom": "EAGAIN EINTR ECONNRESET ETIMEDOUT ENOMEM EHOSTUNREACH",
    "sendmsg": "EAGAIN EINTR EPIPE ECONNRESET ENOBUFS ENOMEM ETIMEDOUT",
    "epoll_wait": "EINTR",
    "epoll_ctl": "ENOMEM ENOSPC",
    "mmap": "ENOMEM EAGAIN",
    "munmap": "ENOMEM",
    "madvise": "ENOMEM EAGAIN EINVAL",
    "read": "EINTR EAGAIN",
    "setsockopt": "ENOBUFS EINVAL",
    "getpeername": "ENOTCONN ENOBUFS",
}

ROUNDS_MOST = 100

#: Calls that a server with warm memory doesn't make: each time on a new one.
OF_MEMORY = {"mmap", "munmap", "madvise"}

BODY = b"x" * 1_000_000
REQUESTS = [
    SMALL,
    request("POST", "/echo", body=BODY),
    request("POST", "/length", "Transfer-Encoding: chunked") + chunked(BODY, 400_000),
    request("POST", "/large?4000000", body=b""),
    request("POST", "/nowhere", body=b"12345"),
]
#: 500 where Python itself has no memory.
STATUSES = {200, 404, 500, 503}


@contextlib.contextmanager
def failing(
    processes: Processes, server: Served, syscall: str, how: str, log: Path
) -> Iterator[None]:
    assert STRACE is not None
    strace = processes.start(
        STRACE, "-f", "-o", str(log), "-e", f"trace={syscall}", "-e", f"inject={syscall}:{how}",
        "-p", str(server.pid),
    )  # fmt: skip
    if "ttached" not in strace.err.next_line():
        pytest.skip(f"strace may not attach here: {strace.err.text}")
    try:
        yield
    finally:
        strace.signal(signal.SIGINT)
        strace.wait()


def ask_on(server: Served, wires: list[bytes], at: int) -> None:
    """On one connection while it lasts, and on further ones. Every request ends, in some way."""
    left = list(wires)
    while left:
        with server.connect() as client, contextlib.suppress(OSError, Ended):
            client.socket.settimeout(20)
            while left:
                wire = left.pop(0)
                try:
                    answer = client.ask(wire)
                except TimeoutError:
                    pytest.fail(f"at call {at}: open without an answer: {wire[:60]!r}")
                assert answer.status in STATUSES, answer
                if answer.closes:
                    break


def works(server: Served) -> None:
    assert server.is_alive, f"it died: {server.wait()}, {server.err.text}"
    with server.connect() as client:
        for wire in REQUESTS[:-1]:
            assert client.ask(wire).status == 200, wire[:60]
        assert client.ask(REQUESTS[-1]).status == 404


def uploads_at_once(server: Served, count: int) -> None:
    """Each needs a slot of its own: memory that the server doesn't have yet."""
    wire = request("POST", "/echo", body=b"x" * 2_500_000)
    with contextlib.ExitStack() as closing:
        clients = [closing.enter_context(server.connect()) for _ in range(count)]
        open_still = [client for client in clients if client.send_if_open(wire[:1_000_000])]
        for client in open_still:
            client.send_if_open(wire[1_000_000:])
        for client in open_still:
            assert client.answer().status in STATUSES


CASES = [(syscall, error) for syscall, errors in FAILURES.items() for error in errors.split()]


@figure(f"{len(CASES)} errnos of {len(FAILURES)} calls, each at call {WHENS[0]} to {WHENS[-1]}")
@pytest.mark.timeout(120 + 10 * len(WHENS))
@pytest.mark.parametrize(("syscall", "error"), CASES)
def test_failing_call_is_survived(
    processes: Processes, tmp_path: Path, syscall: str, error: str
) -> None:
    log = tmp_path / "log"
    failed = 0
    server: Served | None = None
    for when in WHENS:
        if server is None or syscall in OF_MEMORY:
            server = processes.serve("targets:app", "--no-access-log")
            assert server.url
            idle = server.descriptors()
        with failing(processes, server, syscall, f"error={error}:when={when}", log):
            if syscall in OF_MEMORY:
                uploads_at_once(server, 2 * when + 1)
            for wire in REQUESTS:
                ask_on(server, [wire], when)
            for _ in range(1 if syscall in OF_MEMORY else ROUNDS_MOST):
                ask_on(server, REQUESTS, when)
                if "(INJECTED)" in log.read_text():  # a thread makes some calls once in a while
                    break
        failed += "(INJECTED)" in log.read_text()
        works(server)
        wait_until(
            lambda server=server, idle=idle: server.descriptors() <= idle,  # type: ignore[misc]
            f"at call {when}: connections close",
            timeout=5,
        )
        if syscall in OF_MEMORY:
            ends(server)
    assert server is not None
    if server.is_alive:
        ends(server)
    assert failed == len(WHENS), f"only {failed} of {len(WHENS)} calls have failed"


def ends(server: Served) -> None:
    server.signal(signal.SIGTERM)
    assert "AssertionError" not in server.ended(0)


def test_no_memory_for_a_body_is_503_and_then_it_works(
    processes: Processes, tmp_path: Path
) -> None:
    server = processes.serve("targets:app", "--no-access-log")
    with server.connect() as client:
        assert client.ask(SMALL).status == 200
    wire = request("POST", "/length", body=b"x" * 30_000_000)
    with (
        failing(processes, server, "mmap", "error=ENOMEM:when=1+", tmp_path / "log"),
        server.connect() as client,
    ):
        client.send_if_open(wire)
        assert client.answer().status == 503
    with server.connect() as client:
        assert client.ask(wire).status == 200
    works(server)
