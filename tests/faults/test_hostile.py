"""Clients that are slow on purpose, and many that do nothing: put out, and nobody else notices.

slowhttptest is Debian's; script/setup has it.
"""

from __future__ import annotations

import contextlib
import resource
import select
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
from load import BUSY_S, KEPT, LINGER_S, PRESENT, REAL, SMALL, Crew, steady
from process import Hosted, Processes, wait_until
from rawhttp import CHUNKED, DEADLINE, RawClient, request
from soak import FULL, figure, times

Record = Callable[[str, object], None]

SLOWHTTPTEST = shutil.which("slowhttptest")

ATTACKERS = times(100, most=1000)
PACE = times(20, most=250)  # answers of each real client to measure by

#: All of the slow must have come before the first of them goes.
PATIENT_S = 10.0 if FULL else 3.0
LIMITS = {
    "timeout_head": PATIENT_S,
    "timeout_read": PATIENT_S,
    "timeout_write": PATIENT_S,
    "max_inflight_bytes": "12G",
    "max_queued_requests": 2000,
}
RATE_S = 5.0  # min_data_rate judges after so long


# ---- slowhttptest

#: A soak measures the server: what slowhttptest computes shall cost the real clients nothing.
GENTLY = ("nice", "-n", "10") if FULL else ()

SLOW_READS = ("-n", "5", "-z", "1", "-w", "1024", "-y", "2048")  # 1 byte in 5 s, small windows
MODES = {
    "slow head": ("-H", "-i", "1", "-u", "/length"),
    "slow head at a mount": ("-H", "-i", "1", "-u", "/wsgi/length"),
    "slow body": ("-B", "-i", "2", "-s", "1000000", "-u", "/length"),
    "slow body at a mount": ("-B", "-i", "2", "-s", "1000000", "-u", "/wsgi/length"),
    "slow read": ("-X", *SLOW_READS, "-u", "/wsgi/large?6000000"),
}


if not FULL:  # these take as long again, and reach little that is new
    del MODES["slow head at a mount"], MODES["slow body at a mount"]


@figure(
    f"slowhttptest, {len(MODES)} modes, {ATTACKERS:,} connections: real clients keep {KEPT:.0%}"
)
@pytest.mark.skipif(SLOWHTTPTEST is None, reason="no slowhttptest here")
@pytest.mark.parametrize("mode", MODES)
def test_slowhttptest_holds_up_nobody_and_is_put_out(
    processes: Processes, record_property: Record, mode: str
) -> None:
    """A slow body by min_data_rate; a slow reader by its timeout, after the others are measured."""
    assert SLOWHTTPTEST is not None
    reads = mode == "slow read"
    rate = {"min_data_rate": 0} if reads else {}
    server = processes.host(limit_concurrency=ATTACKERS + 100, **LIMITS, **rate)
    stay = RATE_S if "body" in mode else PATIENT_S
    looks = stay / 2 if reads else 0.0  # as in test_exhaustion: a quarter late at each end
    *flags, path = MODES[mode]
    with steady(server.address, REAL) as real:
        real.wait_more(5)
        alone = real.best_pace(PACE)
        first = time.monotonic()
        processes.start(
            *GENTLY, SLOWHTTPTEST, *flags, server.url + path,
            "-c", str(ATTACKERS), "-r", str(ATTACKERS), "-l", "60",
        )  # fmt: skip
        wait_until(lambda: under_attack(server), "most of them have come", pause=0.05)
        last = time.monotonic()
        kept = real.pace_kept(PACE, alone, KEPT, lambda: slow_of(server) >= PRESENT * ATTACKERS)
        out = last + stay + looks + LINGER_S + BUSY_S
        wait_until(
            lambda: slow_of(server) < PRESENT * ATTACKERS,
            "the first are out in time",
            out - time.monotonic(),
        )
        assert time.monotonic() - first >= stay, "put out too soon"
        wait_until(
            lambda: slow_of(server) <= 1,  # it asks once by itself
            "the slow are out in time",
            out - time.monotonic(),
        )
        record_property(f"pace kept beside {mode}", f"{kept:.0%}")
        assert kept >= KEPT


def slow_of(server: Hosted) -> int:
    return server.stats()["connections"] - REAL


def under_attack(server: Hosted) -> bool:
    return slow_of(server) >= PRESENT * ATTACKERS and server.stats()["queued"] <= REAL


# ---- a byte a second


def bytes_for_ever(client: RawClient, head: bytes, byte: bytes) -> None:
    """One byte each second, until the server says something or closes."""
    client.send(head)
    while not select.select([client.socket], [], [], 1.0)[0]:
        if not client.send_if_open(byte):
            break
    client.close()


def read_a_byte_a_second(client: RawClient, server: Hosted) -> None:
    client.send(request("POST", "/large?6000000", body=b""))
    wait_until(lambda: server.stats()["requests"] > 0)
    while server.stats()["connections"] > REAL:
        client.read_some(1)
        time.sleep(1)


TRICKLES = {
    "head": lambda client, _: bytes_for_ever(client, b"POST /length HTTP/1.1\r\nX: ", b"x"),
    "body": lambda client, _: bytes_for_ever(
        client, request("POST", "/length", "Content-Length: 100"), b"x"
    ),
    "chunks": lambda client, _: bytes_for_ever(
        client, request("POST", "/wsgi/length", CHUNKED) + b"64\r\n", b"x"
    ),
    "extension of a chunk": lambda client, _: bytes_for_ever(
        client, request("POST", "/length", CHUNKED) + b"1;", b"x"
    ),
    "reading": read_a_byte_a_second,
}


@figure(f"{len(TRICKLES)} clients with a byte a second: put out by timeout_head or min_data_rate")
def test_a_byte_a_second_is_put_out(processes: Processes) -> None:
    server = processes.host(timeout_head=3, timeout_read=30, timeout_write=30)
    with contextlib.ExitStack() as closing, steady(server.address, REAL) as real, Crew() as crew:
        start = time.monotonic()
        for trickle in TRICKLES.values():
            client = closing.enter_context(server.connect(rcvbuf=4096))
            crew.start(lambda trickle=trickle, client=client: trickle(client, server))  # type: ignore[misc]
        wait_until(lambda: server.stats()["connections"] == REAL + len(TRICKLES), "they are there")
        real.wait_more(10)
        wait_until(
            lambda: server.stats()["connections"] == REAL,
            "they are out in time",
            RATE_S + LINGER_S + BUSY_S,
        )
        assert time.monotonic() - start > 2, "put out too soon"
        crew.join()
        real.wait_more(10)


# ---- streams of a WSGI application

STREAMS = times(6, most=60)
THREADS = 3


def read_nothing(client: RawClient, server: Hosted) -> None:
    pass


def read_a_little(client: RawClient, server: Hosted) -> None:
    """Less than min_data_rate, for as long as there is something: from a window of few bytes."""
    while server.stats()["connections"] > 0:
        with contextlib.suppress(OSError):
            client.read_some(10)
        time.sleep(0.2)


@figure(f"{STREAMS} clients that read a stream slowly, {THREADS} threads: out, and close() called")
@pytest.mark.timeout(60 + 12 * STREAMS)
@pytest.mark.parametrize("read", [read_nothing, read_a_little])
def test_slow_reader_of_a_stream_is_put_out_and_the_stream_closed(
    processes: Processes, read: Callable[[RawClient, Hosted], None]
) -> None:
    """Each holds up a predict thread meanwhile; the server itself is there for the others."""
    limits = LIMITS | {"timeout_write": 1.0 if read is read_nothing else 60.0}
    server = processes.host(threads=THREADS, **limits)
    count = STREAMS if read is read_nothing else THREADS
    with contextlib.ExitStack() as closing, Crew() as crew:
        for _ in range(count):
            client = closing.enter_context(server.connect(rcvbuf=4096))
            client.send(request("GET", "/wsgi/stream"))
            crew.start(lambda client=client: read(client, server))  # type: ignore[misc]
        wait_until(lambda: server.do("streams")[0] >= THREADS, "every thread streams")
        with server.connect() as probe:
            assert probe.ask(request("GET", "/livez"), method="GET").status == 200
        rounds = (count + THREADS - 1) // THREADS
        wait_until(lambda: server.do("streams") == [count, count], "closed", 12.0 * rounds)
        server.wait_idle()
        crew.join()
    with server.connect() as client:
        assert client.ask(request("POST", "/wsgi/length", body=b"12345")).body == b"5"


# ---- idle

IDLE = times(1500, most=10_000)
#: What a connection may cost the server while it says nothing.
IDLE_BYTES = 16_384
REST = 200  # other descriptors of either process


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"a process may have {hard} descriptors here, which are too few for {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@figure(f"{IDLE:,} idle connections: real clients keep {KEPT:.0%}, under {IDLE_BYTES} bytes each")
@pytest.mark.usefixtures("one_core")
def test_idle_connections_cost_little_and_hold_up_nobody(
    processes: Processes, record_property: Record
) -> None:
    with descriptors(IDLE + REST), contextlib.ExitStack() as closing:
        server = processes.host(limit_concurrency=IDLE + 100)
        with steady(server.address, REAL) as real:
            real.wait_more(5)
            alone = real.best_pace(PACE)
            resident, held = server.resident_bytes(), server.descriptors()
            for index in range(IDLE):
                client = server.connect()
                closing.callback(client.reset)  # leaves no port in TIME_WAIT
                if index % 2:
                    assert client.ask(SMALL).status == 200
            server.wait_stats(connections=IDLE + REAL)
            each = (server.resident_bytes() - resident) / IDLE
            kept = real.pace_kept(
                PACE, alone, KEPT, lambda: server.stats()["connections"] == IDLE + REAL
            )
            record_property("bytes each", round(each))
            record_property("pace kept", f"{kept:.0%}")
            assert client.ask(SMALL).status == 200
            assert each < IDLE_BYTES
            assert kept >= KEPT
            closing.close()
            wait_until(lambda: server.descriptors() <= held, "they are gone", DEADLINE)
