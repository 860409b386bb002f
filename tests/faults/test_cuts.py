"""Clients that leave at any moment, many of them: no slot, no descriptor and no memory is lost."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from pathlib import Path

import pytest
from load import SMALL, Crew
from process import FRUGAL, Hosted, Level, Processes
from rawhttp import RawClient, chunked, request
from soak import figure, times

CUTS = times(200, most=10_000)
CUT_BYTES = times(3_000_000, most=30_000_000)
GONE = times(300, most=10_000)
QUEUED = times(60, most=10_000)
WAITING = 50  # of them at a time


def leave(client: RawClient, by_reset: bool) -> None:
    if by_reset:
        client.reset()
    else:
        client.close()


def cut(server: Hosted, choose: random.Random, wire: bytes, offset: int) -> None:
    client = server.connect()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(wire[:offset])
    leave(client, by_reset=choose.random() < 0.5)


@figure(f"{CUTS:,} uploads of {CUT_BYTES:,} bytes cut at a random offset, half by RST")
@pytest.mark.timeout(60 + CUTS)
def test_cut_uploads_lose_no_slot(processes: Processes) -> None:
    server = processes.host({"env": FRUGAL})
    choose = random.Random(2)
    body = b"x" * CUT_BYTES
    wires = [
        request("POST", "/length", body=body),
        request("POST", "/length", "Transfer-Encoding: chunked") + chunked(body, 300_000),
    ]
    for wire in wires:  # warm slots of each kind
        with server.connect() as client:
            assert client.ask(wire).status == 200
    level = Level(server)
    for index in range(CUTS):
        wire = wires[index % 2]
        cut(server, choose, wire, choose.randrange(len(wire)))
    level.is_kept(server)
    for wire in wires:
        with server.connect() as client:
            assert client.ask(wire).body == str(CUT_BYTES).encode()


@figure(f"{CUTS:,} uploads of {CUT_BYTES:,} bytes cut so, 4 at a time")
@pytest.mark.timeout(60 + CUTS)
def test_uploads_cut_side_by_side_lose_no_slot(processes: Processes) -> None:
    server = processes.host({"env": FRUGAL})
    wire = request("POST", "/length", body=b"x" * CUT_BYTES)
    level = Level(server)

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(CUTS // 4):
            cut(server, choose, wire, choose.randrange(len(wire)))

    with Crew() as crew:
        for seed in range(4):
            crew.start(lambda seed=seed: work(seed))  # type: ignore[misc]
        crew.join(60 + CUTS)
    level.is_kept(server)
    with server.connect() as client:
        assert client.ask(wire).body == str(CUT_BYTES).encode()


def come_and_go(server: Hosted, count: int) -> None:
    """Four clients at a time, gone while their requests are on the way, queued, running, sent."""

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(count // 4):
            body = b"x" * choose.choice((1, 5_000, 200_000, 1_000_000))
            path = choose.choice(("/nap?0.001", "/echo", "/large?3000000"))
            client = server.connect()
            client.send(request("POST", path, body=body))
            time.sleep(choose.choice((0, 0, 0.001, 0.003)))
            leave(client, by_reset=choose.random() < 0.5)

    with Crew() as crew:
        for seed in range(4):
            crew.start(lambda seed=seed: work(seed))  # type: ignore[misc]
        crew.join(60 + count)


@figure(f"2 x {GONE:,} clients gone while their request was sent, queued, run or answered")
@pytest.mark.timeout(60 + 2 * GONE)
def test_clients_gone_while_queued_or_running_leave_nothing(processes: Processes) -> None:
    server = processes.host({"env": FRUGAL}, max_queued_requests=1000)
    come_and_go(server, GONE)  # so that the handlers' own arrays have had their memory, too
    level = Level(server)
    come_and_go(server, GONE)
    level.is_kept(server)
    with server.connect() as client:
        assert client.ask(SMALL).body == b"100"


@figure(f"{QUEUED:,} clients gone while they were queued: not one call of the handler")
@pytest.mark.timeout(60 + QUEUED // 10)
def test_queued_requests_of_gone_clients_never_reach_the_handler(processes: Processes) -> None:
    server = processes.host({"env": FRUGAL}, max_queued_requests=WAITING)
    level = Level(server)
    wire = request("POST", "/hold", body=b"12345")
    choose = random.Random(4)
    called = 0
    for first in range(0, QUEUED, WAITING):
        with server.connect(deadline=60) as running, server.connect(deadline=60) as patient:
            running.send(wire)
            server.wait_stats(running=1)
            patient.send(wire)
            server.wait_stats(queued=1)
            gone = [server.connect() for _ in range(min(WAITING - 1, QUEUED - first))]
            for client in gone:
                client.send(wire)
            server.wait_stats(queued=1 + len(gone))
            for client in gone:
                leave(client, by_reset=choose.random() < 0.5)
            server.wait_stats(queued=1, running=1, connections=2)
            server.do("let", 2)
            assert running.answer().body == patient.answer().body == b"5"
            called += 2
            assert server.do("held") == called
    level.is_kept(server)
    assert server.do("held") == called


ANSWERS = {
    "predict": request("POST", "/large?5000000", body=b""),
    "mount": request("GET", "/wsgi/large?5000000"),
    "stream": request("GET", "/wsgi/stream"),
}


@figure(f"2 x {GONE // 3:,} clients gone while they read an answer of 5 MB, or one without an end")
@pytest.mark.timeout(60 + GONE)
@pytest.mark.parametrize("wire", ANSWERS.values(), ids=ANSWERS)
def test_clients_gone_while_reading_leave_nothing(processes: Processes, wire: bytes) -> None:
    server = processes.host({"env": FRUGAL})
    read_a_little(server, wire, GONE // 3)
    level = Level(server)
    read_a_little(server, wire, GONE // 3)
    level.is_kept(server)


def read_a_little(server: Hosted, wire: bytes, count: int) -> None:
    choose = random.Random(3)
    for _ in range(count):
        client = server.connect(rcvbuf=16_384)
        client.send(wire)
        if choose.random() < 0.8:
            client.read_some(choose.randrange(1, 100_000))
        leave(client, by_reset=choose.random() < 0.5)


@pytest.mark.parametrize("path", ["/large?5000000", "/wsgi/stream"])
def test_gone_client_with_sigpipe_at_its_default(
    processes: Processes, tmp_path: Path, path: str
) -> None:
    """Python ignores SIGPIPE; an embedder, or a user's module, may put the default back.

    Over a Unix socket: the first thing sent after a reset of TCP gives ECONNRESET, never a signal.
    """
    server = processes.host({"env": FRUGAL}, port=None, uds=str(tmp_path / "socket"))
    server.do("default_sigpipe")
    wire = request("POST", path, body=b"")
    for _ in range(10):
        with server.connect() as client:  # nobody reads, but the server's own reading goes on
            client.socket.shutdown(socket.SHUT_RD)
            client.send(wire)
            server.wait_stats(connections=0)
        with server.connect() as client:
            client.send(wire)
            client.read_some(1000)
    server.wait_idle()
    with server.connect() as client:
        assert client.ask(SMALL).body == b"100"
