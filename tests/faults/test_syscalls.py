"""System calls fail with what their manual pages name: nothing crashes, nothing hangs.

strace attaches to a server that runs, makes the n-th call of each of its threads fail, and lets go.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from lending import Memory, lend, lending, room, send_with
from load import SMALL
from process import Processes, Served, wait_until
from rawhttp import Answer, Ended, RawClient, chunked, request
from soak import FACTOR, figure

STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(STRACE is None, reason="no strace here")

#: Which call fails; a soak has them all.
WHENS = (1, 3, 8) if FACTOR < 5 else range(1, 51)

#: What the manual pages name. Left out is what only a mistake of ours can cause: a descriptor that
#: is not open (EBADF) or of the wrong kind (ENOTSOCK, EOPNOTSUPP of sendmsg, EPERM of epoll_ctl),
#: an address that isn't ours (EFAULT), an argument that makes no sense (EINVAL of most, EEXIST,
#: ENOENT, ELOOP, EISCONN, EDESTADDRREQ, EMSGSIZE, ENOPROTOOPT of setsockopt, EOVERFLOW of mmap and
#: fstatfs); and what belongs to uses that aren't ours, such as paths and datagrams.
FAILURES = {
    "accept4": (
        "EAGAIN EINTR ECONNABORTED EMFILE ENFILE ENOBUFS ENOMEM EPERM EPROTO EINVAL"
        " ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH EOPNOTSUPP ENETUNREACH"
        " ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT"
    ),
    "recvfrom": "EAGAIN EINTR ECONNRESET ECONNREFUSED ENOTCONN ETIMEDOUT ENOMEM EHOSTUNREACH",
    "sendmsg": "EAGAIN EINTR EPIPE ECONNRESET ENOTCONN ENOBUFS ENOMEM ETIMEDOUT",
    "epoll_wait": "EINTR",
    "epoll_ctl": "ENOMEM ENOSPC",
    "mmap": "ENOMEM EAGAIN",
    "munmap": "ENOMEM",
    "madvise": "ENOMEM EAGAIN EINVAL",
    "read": "EINTR EAGAIN",
    "setsockopt": "ENOBUFS EINVAL",
    "getpeername": "ENOTCONN ENOBUFS",
}

#: Of requests that lend memory. fstat is either call, by the C library's age.
FAILURES_LENT = {
    "recvmsg": "EAGAIN EINTR ECONNRESET ECONNREFUSED ENOTCONN ENOBUFS ENOMEM",
    "fcntl": "EINVAL",
    "fstat,newfstatat": "ENOMEM EOVERFLOW",
    "fstatfs": "EINTR EIO ENOMEM ENOSYS",
    "mmap": "EACCES EAGAIN ENFILE ENODEV ENOMEM EPERM",
}

ROUNDS_MOST = 100

#: Calls that a server with warm memory doesn't make: each time on a new one.
OF_MEMORY = {"mmap", "munmap", "madvise"}

BODY = b"x" * 1_000_000
TENSOR = b"x" * 100_000
JSON_BYTES = "Inference-Header-Content-Length"
INFER = (
    b'{"inputs": [{"name": "INPUT0", "datatype": "UINT8", "shape": [100000],'
    b' "parameters": {"binary_data_size": 100000}}]}'
)
REQUESTS = [
    SMALL,
    request("POST", "/echo", body=BODY),
    request("POST", "/length", "Transfer-Encoding: chunked") + chunked(BODY, 400_000),
    request("POST", "/large?4000000", body=b""),
    request("POST", "/wsgi/length", body=BODY),
    request("POST", "/v2/models/length/infer", f"{JSON_BYTES}: {len(INFER)}", body=INFER + TENSOR),
    request("POST", "/nowhere", body=b"12345"),
]
#: 500 where Python itself has no memory.
STATUSES = {200, 404, 500, 503}

#: The memory that a client lends: the body's, and behind it as much for the answer.
LENT_BYTES = 1_000_000
LENT = lend(0, LENT_BYTES)
REQUESTS_LENT = [
    lending("/length", LENT),
    lending("/echo", LENT, room(LENT_BYTES, LENT_BYTES)),
    lending("/wsgi/length", LENT),
    SMALL,  # the descriptor that came with it is closed
]
#: 400 where it can't be told whether the memory is what was promised.
STATUSES_LENT = {200, 400, 500, 503}
REFUSALS = {400, 503}


@contextlib.contextmanager
def failing(server: Served, syscall: str, how: str, log: Path) -> Iterator[None]:
    assert STRACE is not None
    with Processes() as processes:
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


def ask(client: RawClient, wire: bytes, fds: Sequence[int] = ()) -> Answer:
    if not fds:
        return client.ask(wire)
    send_with(client, wire, fds)
    return client.answer()


def ask_on(
    server: Served,
    wires: list[bytes],
    at: int,
    fds: Sequence[int] = (),
    statuses: set[int] = STATUSES,
) -> set[int]:
    """On one connection while it lasts, and on further ones. Every request ends, in some way.

    The statuses of those that were answered.
    """
    left, got = list(wires), set()
    while left:
        with server.connect() as client, contextlib.suppress(OSError, Ended):
            client.socket.settimeout(20)
            while left:
                wire = left.pop(0)
                try:
                    answer = ask(client, wire, fds)
                except TimeoutError:
                    pytest.fail(f"at call {at}: open without an answer: {wire[:60]!r}")
                assert answer.status in statuses, answer
                got.add(answer.status)
                if answer.closes:
                    break
    return got


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


class Kept(Processes):
    """One server for failures of all calls, while it survives them."""

    def __init__(self, *address: str) -> None:
        super().__init__()
        self._address = address or ("--port", "0")
        self._server: Served | None = None
        self.idle = 0

    def take(self) -> Served:
        """The one that was put back, else a new one: after a failure nothing is left of it."""
        server, self._server = self._server, None
        if server is None:
            self.close()
            server = self.serve("targets:app", "--no-access-log", *self._address, port=None)
            assert server.url
            self.idle = server.descriptors()
        return server

    def put_back(self, server: Served, at: int) -> None:
        """When it has closed everything."""
        wait_until(
            lambda: server.descriptors() <= self.idle,
            f"at call {at}: connections close",
            timeout=5,
        )
        self._server = server

    def end(self) -> None:
        if self._server is not None:
            ends(self._server)
            self._server = None


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with Kept() as kept:
        yield kept
        kept.end()


@pytest.fixture(scope="module")
def kept_at_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """The same, on a Unix socket."""
    with Kept("--uds", str(tmp_path_factory.mktemp("server") / "socket")) as kept:
        yield kept
        kept.end()


def cases(failures: dict[str, str]) -> list[tuple[str, str]]:
    return [(syscall, error) for syscall, errors in failures.items() for error in errors.split()]


CASES, CASES_LENT = cases(FAILURES), cases(FAILURES_LENT)


@figure(f"{len(CASES)} errnos of {len(FAILURES)} calls, each at call {WHENS[0]} to {WHENS[-1]}")
@pytest.mark.timeout(120 + 10 * len(WHENS))
@pytest.mark.parametrize(("syscall", "error"), CASES)
def test_failing_call_is_survived(kept: Kept, tmp_path: Path, syscall: str, error: str) -> None:
    log = tmp_path / "log"
    failed = 0
    for when in WHENS:
        if syscall in OF_MEMORY:
            kept.end()
        server = kept.take()
        with failing(server, syscall, f"error={error}:when={when}", log):
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
        kept.put_back(server, when)
    assert failed == len(WHENS), f"only {failed} of {len(WHENS)} calls have failed"


def lends(server: Served, memory: Memory) -> None:
    """Requests that lend are answered rightly, and nothing of the memory stays mapped."""
    assert server.is_alive, f"it died: {server.wait()}, {server.err.text}"
    with server.connect() as client:
        for wire in REQUESTS_LENT:
            memory.map[LENT_BYTES:] = bytes(LENT_BYTES)
            assert ask(client, wire, [memory.fd]).status == 200, wire
            if b"Answer-Memfd" in wire:
                assert memory.map[LENT_BYTES:] == memory.map[:LENT_BYTES]
    maps = Path(f"/proc/{server.pid}/maps")
    wait_until(lambda: "memfd:test" not in maps.read_text(), "the memory is let go", timeout=5)


@figure(f"{len(CASES_LENT)} of {len(FAILURES_LENT)} for lent memory, to call {WHENS[-1]}")
@pytest.mark.timeout(120 + 10 * len(WHENS))
@pytest.mark.parametrize(("syscall", "error"), CASES_LENT)
def test_failing_call_for_lent_memory_is_survived(
    kept_at_path: Kept, tmp_path: Path, syscall: str, error: str
) -> None:
    """What fails for the memory itself, the client is told."""
    log = tmp_path / "log"
    failed = 0
    with Memory(2 * LENT_BYTES) as memory:
        memory.map[:LENT_BYTES] = BODY
        for when in WHENS:
            server = kept_at_path.take()
            got: set[int] = set()
            # A connection begins with two calls of fcntl for itself: of three one is for memory.
            last = when + 2 if syscall == "fcntl" else when
            with failing(server, syscall, f"error={error}:when={when}..{last}", log):
                for _ in range(ROUNDS_MOST):
                    got |= ask_on(server, REQUESTS_LENT, when, [memory.fd], STATUSES_LENT)
                    if "(INJECTED)" in log.read_text() and (syscall == "recvmsg" or got & REFUSALS):
                        failed += 1
                        break
            lends(server, memory)
            kept_at_path.put_back(server, when)
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
        failing(server, "mmap", "error=ENOMEM:when=1+", tmp_path / "log"),
        server.connect() as client,
    ):
        client.send_if_open(wire)
        assert client.answer().status == 503
    with server.connect() as client:
        assert client.ask(wire).status == 200
    works(server)
