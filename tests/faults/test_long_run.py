"""Many requests, one after the other: each answer exact, none slower at the end, no memory more."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
from process import PATIENCE, Hosted, Processes
from rawhttp import RawClient, request
from soak import FACTOR, FULL, figure, times
from targets import ROW

Record = Callable[[str, object], None]

LARGE = times(50, most=50_000)
LARGE_BYTES = 30_000_000
SMALL = times(2_500, most=2_500_000)
SMALL_BYTES = 100
SMALL_CLIENTS = 4
SIDE_BY_SIDE = times(1_000, most=1_000_000)  # exact only, on as many cores as there are

WARM_UP = 20
#: Of the last tenth's latencies, against those that were first. Fewer requests say nothing.
SLOWER = 1.05 if FULL else float("inf")
#: What the allocator may yet take after the first tenth.
SLACK_BYTES = 4_000_000

TENTHS = 10 if FACTOR > 1 else 2  # a fresh server for each takes its time, too

#: Asks so many requests, beginning with this one of all; their latencies in seconds.
Ask = Callable[[int, int], list[float]]
#: Connects to a server, warms it up, and says how it is asked.
Connect = Callable[[Hosted], Ask]


class Run:
    """Requests to one server, and in turns with it to one that has just started.

    The machine's own pace wanders by a third within minutes, and a fresh server's with it: by that
    one's latencies, a moment apart, it shows whether ours has grown slower. Each tenth has a fresh
    one of its own.
    """

    def __init__(self, processes: Processes, connect: Connect, count: int, block: int) -> None:
        self._processes = processes
        self._connect = connect
        self._server = processes.host()
        self._ask = connect(self._server)
        self._tenth, self._block = count // TENTHS, block
        self._start = time.monotonic()
        self._ours: list[np.ndarray] = []  # of each tenth, in ms
        self._fresh: list[np.ndarray] = []
        for tenth in range(TENTHS):
            self._run(tenth * self._tenth)
            if tenth == 0:
                self._first = self._held()

    def _run(self, first: int) -> None:
        server = self._processes.host()
        ask_fresh = self._connect(server)
        ours: list[float] = []
        fresh: list[float] = []
        for number in range(first, first + self._tenth, self._block):
            count = min(self._block, first + self._tenth - number)
            ours += self._ask(number, count)
            fresh += ask_fresh(number, count)
        server.end()
        self._ours.append(np.array(ours) * 1000)
        self._fresh.append(np.array(fresh) * 1000)

    def _held(self) -> tuple[int, int, int]:
        self._server.wait_stats(charged_bytes=0, out_slots=0)
        return self._server.held()

    def check(self, record: Record) -> None:
        held = self._held()
        record("took", f"{time.monotonic() - self._start:.0f} s")
        was, now = self._first[2] / 1e6, held[2] / 1e6
        record("resident without idle slots", f"{was:.1f} MB, then {now:.1f} MB")
        medians = self._grown("median", 50, record)
        tails = self._grown("99th percentile", 99, record)
        assert held[:2] == self._first[:2], "descriptors or threads more"
        assert held[2] <= self._first[2] + SLACK_BYTES, f"memory grows: {self._first[2]}, {held[2]}"
        assert medians <= SLOWER, "slower at the end"
        assert tails <= SLOWER, "the slowest are slower at the end"

    def _grown(self, what: str, percent: float, record: Record) -> float:
        """How much longer ours took at the end than at first, each time by the fresh server's.

        Of three tenths each: a fresh process may be a slow one, and few outliers make a tail.
        """
        ours, fresh = (
            np.array([np.percentile(tenth, percent) for tenth in tenths])
            for tenths in (self._ours, self._fresh)
        )
        ratios = ours / fresh
        grown = float(np.median(ratios[-3:]) / np.median(ratios[:3]))
        record(f"{what} of each tenth, ms", " ".join(f"{each:.3f}" for each in ours))
        record(f"{what}, by a fresh server's", " ".join(f"{each:.3f}" for each in ratios))
        record(f"{what}, last tenth to first", f"{ours[-1] / ours[0] - 1:+.1%}")
        record(f"{what}, by a fresh server's, last three to first three", f"{grown - 1:+.1%}")
        return grown


class Bodies:
    """Parts of one large random block, each with its checksum, for little work."""

    def __init__(self, size: int) -> None:
        self._words = size // 8
        assert self._words % ROW == 0
        self._spare = 100_000
        self._random = np.random.default_rng(1).integers(
            0, 1 << 64, self._words + self._spare, dtype=np.uint64
        )
        self._until = np.concatenate([[np.uint64(0)], np.cumsum(self._random, dtype=np.uint64)])

    def body(self, at: int) -> tuple[memoryview, bytes]:
        """The body that begins at this word, modulo the spare, and the answer that is due."""
        at %= self._spare
        until = self._until[at : at + self._words + 1 : ROW]
        body = self._random[at : at + self._words]
        return memoryview(body).cast("B"), b"%d" % zlib.crc32(np.diff(until).tobytes())


@figure(f"{LARGE:,} requests of {LARGE_BYTES:,} bytes: exact, memory flat, as fast at the end")
@pytest.mark.timeout(120 + LARGE // 10)
def test_large_requests_for_long(processes: Processes, record_property: Record) -> None:
    bodies, choose = Bodies(LARGE_BYTES), random.Random(4)
    head = request("POST", "/sums", f"Content-Length: {LARGE_BYTES}")
    with contextlib.ExitStack() as closing:

        def connect(server: Hosted) -> Ask:
            client = closing.enter_context(server.connect(deadline=PATIENCE))
            do_not_pace(client.socket)

            def ask(first: int, count: int) -> list[float]:
                return [ask_large(client, head, bodies, choose) for _ in range(count)]

            ask(0, WARM_UP)
            return ask

        Run(processes, connect, LARGE, block=5).check(record_property)


def do_not_pace(client: socket.socket) -> None:
    """Where BBR is the system's default it paces on loopback, too, each connection as it likes."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def ask_large(client: RawClient, head: bytes, bodies: Bodies, choose: random.Random) -> float:
    body, due = bodies.body(choose.randrange(1 << 30))
    start = time.perf_counter()
    client.send(head, body)  # type: ignore[arg-type]
    answer = client.answer()
    seconds = time.perf_counter() - start
    assert (answer.status, answer.body) == (200, due)
    return seconds


@figure(f"{SMALL:,} requests of {SMALL_BYTES} bytes: exact, memory flat, as fast at the end")
@pytest.mark.usefixtures("one_core")
@pytest.mark.timeout(120 + SMALL // 1000)
def test_small_requests_for_long(processes: Processes, record_property: Record) -> None:
    with contextlib.ExitStack() as closing:

        def connect(server: Hosted) -> Ask:
            clients = small_clients(server, closing)

            def ask(first: int, count: int) -> list[float]:
                return ask_small(clients, range(first, first + count))

            ask(0, 1000)
            return ask

        Run(processes, connect, SMALL, block=100).check(record_property)


@figure(f"{SIDE_BY_SIDE:,} of {SMALL_BYTES} bytes, all cores: exact")
@pytest.mark.timeout(120 + SIDE_BY_SIDE // 1000)
def test_small_requests_on_all_cores(processes: Processes) -> None:
    """The network thread and the predict thread at the same time, in truth."""
    server = processes.host()
    with contextlib.ExitStack() as closing:
        ask_small(small_clients(server, closing), range(SIDE_BY_SIDE))


def small_clients(server: Hosted, closing: contextlib.ExitStack) -> list[socket.socket]:
    return [
        closing.enter_context(server.connect(deadline=PATIENCE)).socket
        for _ in range(SMALL_CLIENTS)
    ]


def ask_small(clients: list[socket.socket], numbers: range) -> list[float]:
    """One request after the other on each connection, those of all under way at once."""
    head = request("POST", "/crc", f"Content-Length: {SMALL_BYTES}")
    waiting: deque[tuple[socket.socket, bytes, float]] = deque()
    free = deque(clients)
    seconds = []
    for number in numbers:
        if not free:
            free.append(waiting[0][0])
            seconds.append(finish(*waiting.popleft()))
        client = free.popleft()
        body = struct.pack("<Q", number * 0x9E3779B97F4A7C15 & ~(-1 << 64)).ljust(SMALL_BYTES, b"x")
        start = time.perf_counter()
        client.sendall(head + body)
        waiting.append((client, b"\r\n\r\n%d" % zlib.crc32(body), start))
    return seconds + [finish(*asked) for asked in waiting]


def finish(client: socket.socket, due: bytes, start: float) -> float:
    answer = client.recv(4096)
    while not answer.endswith(due):  # the head may have come alone; what never comes times out
        assert len(answer) < 2000, answer
        more = client.recv(4096)
        assert more, answer
        answer += more
    seconds = time.perf_counter() - start
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return seconds
