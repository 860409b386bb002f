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
from soak import FULL, figure, times
from targets import ROW

Record = Callable[[str, object], None]

LARGE = times(50, most=50_000)
LARGE_BYTES = 30_000_000
SMALL = times(2_500, most=2_500_000)
SMALL_BYTES = 100
SMALL_CLIENTS = 4

WARM_UP = 20
#: Of the last tenth's 99th percentile, against the first tenth's. Fewer requests say nothing.
SLOWER = 1.05 if FULL else float("inf")
#: What the allocator may yet take after the first tenth.
SLACK_BYTES = 4_000_000


class Run:
    """The latencies of a run, and what the server held after its first tenth."""

    def __init__(self, server: Hosted, count: int) -> None:
        self._server = server
        self._seconds = np.zeros(count)
        self._done = 0
        self._tenth = max(1, count // 10)
        self._start = time.monotonic()

    def add(self, seconds: float) -> None:
        self._seconds[self._done] = seconds
        self._done += 1
        if self._done == self._tenth:
            self._first = self._held()

    def _held(self) -> tuple[int, int, int]:
        """Without what it keeps warm for the next body: sometimes one slot, sometimes two."""
        server = self._server
        server.wait_stats(charged_bytes=0, out_slots=0)
        resident = server.resident_bytes() - server.stats()["idle_bytes"]
        return server.descriptors(), server.threads(), resident

    def check(self, record: Record) -> None:
        tenths = [part * 1000 for part in np.array_split(self._seconds, 10)]
        slowest = [float(np.percentile(tenth, 99)) for tenth in tenths]
        first, last = slowest[0], slowest[-1]
        held = self._held()
        record("took", f"{time.monotonic() - self._start:.0f} s")
        record("99th percentile of each tenth, ms", " ".join(f"{each:.3f}" for each in slowest))
        record("median of each tenth, ms", " ".join(f"{np.median(each):.3f}" for each in tenths))
        record("99th percentile, last tenth to first", f"{last / first - 1:+.1%}")
        was, now = self._first[2] / 1e6, held[2] / 1e6
        record("resident without idle slots", f"{was:.1f} MB, then {now:.1f} MB")
        assert held[:2] == self._first[:2], "descriptors or threads more"
        assert held[2] <= self._first[2] + SLACK_BYTES, f"memory grows: {self._first[2]}, {held[2]}"
        assert last <= first * SLOWER, f"slower at the end: {first} ms, {last} ms"


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
    server = processes.host()
    bodies, choose = Bodies(LARGE_BYTES), random.Random(4)
    head = request("POST", "/sums", f"Content-Length: {LARGE_BYTES}")
    with server.connect() as client:
        for _ in range(WARM_UP):
            ask_large(client, head, bodies, choose)
        run = Run(server, LARGE)
        for _ in range(LARGE):
            run.add(ask_large(client, head, bodies, choose))
        run.check(record_property)


def ask_large(client: RawClient, head: bytes, bodies: Bodies, choose: random.Random) -> float:
    body, due = bodies.body(choose.randrange(1 << 30))
    start = time.perf_counter()
    client.send(head, body)  # type: ignore[arg-type]
    answer = client.answer()
    seconds = time.perf_counter() - start
    assert (answer.status, answer.body) == (200, due)
    return seconds


@figure(f"{SMALL:,} requests of {SMALL_BYTES} bytes: exact, memory flat, as fast at the end")
@pytest.mark.timeout(120 + SMALL // 1000)
def test_small_requests_for_long(processes: Processes, record_property: Record) -> None:
    server = processes.host()
    with contextlib.ExitStack() as closing:
        clients = [
            closing.enter_context(server.connect(deadline=PATIENCE)).socket
            for _ in range(SMALL_CLIENTS)
        ]
        ask_small(clients, range(1000), lambda seconds: None)
        run = Run(server, SMALL)
        ask_small(clients, range(SMALL), run.add)
        run.check(record_property)


def ask_small(clients: list[socket.socket], numbers: range, tell: Callable[[float], None]) -> None:
    """One request after the other on each connection, those of all under way at once."""
    head = request("POST", "/crc", f"Content-Length: {SMALL_BYTES}")
    waiting: deque[tuple[socket.socket, bytes, float]] = deque()
    free = deque(clients)
    for number in numbers:
        if not free:
            free.append(finish(waiting.popleft(), tell))
        client = free.popleft()
        body = struct.pack("<Q", number * 0x9E3779B97F4A7C15 & ~(-1 << 64)).ljust(SMALL_BYTES, b"x")
        start = time.perf_counter()
        client.sendall(head + body)
        waiting.append((client, b"\r\n\r\n%d" % zlib.crc32(body), start))
    while waiting:
        finish(waiting.popleft(), tell)


def finish(
    asked: tuple[socket.socket, bytes, float], tell: Callable[[float], None]
) -> socket.socket:
    client, due, start = asked
    answer = client.recv(4096)
    while not answer.endswith(due):  # the head may have come alone; what never comes times out
        assert len(answer) < 2000, answer
        more = client.recv(4096)
        assert more, answer
        answer += more
    tell(time.perf_counter() - start)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return client
