"""Descriptors run out, nothing can be written to disk, clients are slow: others are served on."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable

import pytest
from load import BUSY_S, KEPT, LINGER_S, PRESENT, REAL, SMALL, steady
from process import Processes, wait_until
from rawhttp import RawClient, request
from soak import FACTOR, FULL, figure, seconds, times

DESCRIPTORS = 40
CROWD = 60  # more than DESCRIPTORS allows
WAITING = 10  # of them, in the backlog while others are served

EXHAUSTED_S = seconds(1.5, most=30)
#: Of one core, while nothing can be accepted. A soak has the machine for itself.
CPU_SHARE = 0.5 if FACTOR < 10 else 0.05
#: A second is promised; more is for a busy machine.
RECOVERY_S = 1.0 if FACTOR >= 10 else 2.0


@figure(f"no descriptor left for {EXHAUSTED_S} s: under {CPU_SHARE:.0%} of a core, back within 1 s")
@pytest.mark.timeout(120)
def test_descriptors_run_out(processes: Processes) -> None:
    limits = {resource.RLIMIT_NOFILE: DESCRIPTORS}
    server = processes.serve("targets:app", "--no-access-log", limits=limits)
    with server.connect() as old, contextlib.ExitStack() as crowd:
        assert old.ask(SMALL).status == 200
        clients = [crowd.enter_context(server.connect()) for _ in range(CROWD)]
        wait_until(lambda: server.descriptors() >= DESCRIPTORS - 1, "they run out")
        before = server.cpu_seconds()
        start = time.monotonic()
        while (waited := time.monotonic() - start) < EXHAUSTED_S:
            assert old.ask(SMALL).status == 200  # the open are served
            time.sleep(0.1)
        assert (server.cpu_seconds() - before) / waited < CPU_SHARE
        assert clients[0].ask(SMALL).status == 200
        for client in clients[:-WAITING]:
            client.close()
        start = time.monotonic()
        for client in clients[-WAITING:]:  # those that waited in the backlog
            assert client.ask(SMALL).status == 200
        with server.connect() as new:
            assert new.ask(SMALL).status == 200
        assert time.monotonic() - start < RECOVERY_S
        assert old.ask(SMALL).status == 200
    server.signal(15)
    text = server.ended(0)
    assert "Traceback" not in text


def test_nothing_is_ever_written_to_disk(processes: Processes) -> None:
    """No file may grow by a byte, no temporary folder can be written: nothing changes."""
    server = processes.serve(
        "targets:app",
        limits={resource.RLIMIT_FSIZE: 0},
        env={"TMPDIR": "/proc", "TMP": "/proc", "TEMP": "/proc", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    body = bytes(range(256)) * 200_000
    with server.connect() as client:
        for _ in range(3):
            assert client.ask(request("POST", "/echo", body=body)).body == body
            assert client.ask(SMALL).body == b"100"
    server.signal(15)
    assert "Traceback" not in server.ended(0)


# ---- slow clients

SLOW = times(100, most=1000)  # of each kind
PACE = times(20, most=500)  # answers of each real client to measure by

#: All of them must have come, and the others' pace been measured, before the first goes. An answer
#: is made for those that read, which takes longer; an error lets the others stay for LINGER_S.
READ_S = 15.0 if FULL else 1.0
WRITE_S = 25.0 if FULL else 3.0
LARGE = 6_000_000  # more than the kernel keeps for a connection


def slow_head(client: RawClient) -> None:
    client.send(b"POST /length HT")


def slow_body(client: RawClient) -> None:
    client.send(request("POST", "/length", "Content-Length: 1000000") + b"x" * 1000)


def slow_reading(client: RawClient) -> None:
    client.send(request("POST", f"/large?{LARGE}", body=b""))


#: How long after its last byte each is put out, at least and at most. When a client last read is
#: told by looks, a quarter of the timeout apart: one look late at each end.
STAY_S = {
    slow_head: (READ_S + LINGER_S, READ_S + LINGER_S),
    slow_body: (READ_S + LINGER_S, READ_S + LINGER_S),
    slow_reading: (WRITE_S, WRITE_S * 1.5),
}


@figure(f"{SLOW:,} slow connections of each kind beside {REAL} real clients that keep {KEPT:.0%}")
@pytest.mark.timeout(120 + SLOW)
@pytest.mark.parametrize("be_slow", STAY_S)
def test_slow_clients_are_put_out_and_hold_up_nobody(
    processes: Processes,
    record_property: Callable[[str, object], None],
    be_slow: Callable[[RawClient], None],
) -> None:
    server = processes.serve(
        "targets:app", "--no-access-log", "--limit-concurrency", str(SLOW + 100),
        "--max-inflight-bytes", "12G", "--max-queued-requests", "1000", "--min-data-rate", "0",
        "--timeout-head", str(READ_S), "--timeout-read", str(READ_S),
        "--timeout-write", str(WRITE_S),
    )  # fmt: skip
    with steady(server.address, REAL) as real, contextlib.ExitStack() as slow:
        real.wait_more(5)
        alone = real.best_pace(PACE)
        idle = server.descriptors()
        clients = [slow.enter_context(server.connect(rcvbuf=4096)) for _ in range(SLOW)]
        least, most = STAY_S[be_slow]
        first = time.monotonic()
        for client in clients:
            be_slow(client)
        if be_slow is slow_reading:
            for client in clients:
                client.read_some(1)  # its answer has been made: the rest costs nobody time
        last = time.monotonic()

        def are_there() -> bool:
            return server.descriptors() >= idle + PRESENT * SLOW

        wait_until(are_there, "the slow are there")
        kept = real.pace_kept(PACE, alone, KEPT, are_there)
        wait_until(lambda: server.descriptors() < idle + SLOW, "the first is out", most + BUSY_S)
        assert time.monotonic() - first >= least, "put out too soon"
        left = last + most + BUSY_S - time.monotonic()
        wait_until(lambda: server.descriptors() <= idle, "the slow are out in time", left)
        record_property(f"pace kept beside {be_slow.__name__}", f"{kept:.0%}")
        assert kept >= KEPT
