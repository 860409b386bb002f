"""The wall clock moves under a server: nothing happens but that its Date is another."""

from __future__ import annotations

import email.utils
import mmap
import os
import shlex
import struct
import subprocess
from pathlib import Path

import pytest
from load import SMALL, steady
from process import FRUGAL, HERE, Level, Processes, wait_until
from rawhttp import RawClient, request
from soak import figure, times

MOVES = times(4, most=100)
HOUR = 3600


class WallClock:
    """The clock of processes that have `environment`."""

    def __init__(self, folder: Path) -> None:
        library, file = folder / "wall_clock.so", folder / "moved"
        command = [*shlex.split(os.environ.get("CC", "gcc")), "-std=c11", "-O1", "-shared", "-fPIC"]
        source = HERE / "wall_clock.c"
        subprocess.run([*command, source, "-o", library, "-ldl"], check=True, timeout=60)
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._moved = mmap.mmap(opened.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(file)}

    def move(self, seconds: int) -> None:
        """So far from what it really is."""
        self._moved[:] = struct.pack("q", seconds)


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def date_of(client: RawClient) -> float:
    return email.utils.parsedate_to_datetime(client.ask(SMALL).get("date") or "").timestamp()


@figure(f"wall clock moved by hours {MOVES} times under load: nothing happens")
def test_wall_clock_moved_changes_nothing(processes: Processes, wall_clock: WallClock) -> None:
    server = processes.host({"env": FRUGAL | wall_clock.environment}, threads=2)
    with steady(server.address, 2) as clients:
        clients.wait_more(3)
    level = Level(server)
    with steady(server.address, 2) as clients, server.connect() as client:
        idle = [server.connect() for _ in range(8)]
        for each in idle[:4]:
            assert each.ask(SMALL).status == 200
        begun = server.connect()
        begun.send(SMALL[:-10])  # its body is on the way
        clients.wait_more(3)
        told = date_of(client)
        with server.connect() as running:
            running.send(request("POST", "/nap?1", body=b"12345"))
            for index in range(MOVES):
                wall_clock.move(HOUR * (-1) ** index * (1 + index % 3))
                clients.wait_more(3)
            assert running.answer().body == b"5"
        wall_clock.move(HOUR)
        wait_until(lambda: date_of(client) - told >= HOUR, "Date follows")
        begun.send(SMALL[-10:])
        assert begun.answer().status == 200
        for each in idle:
            assert each.ask(SMALL).status == 200
            each.close()
        begun.close()
    level.is_kept(server)
    assert "Traceback" not in server.stopped()


def test_timeouts_do_not_wait_for_the_wall_clock(
    processes: Processes, wall_clock: WallClock
) -> None:
    """An hour back: whoever measures by it puts nobody out, nor ends a drain, for an hour."""
    server = processes.serve(
        "targets:app", "--timeout-read", "1", "--timeout-keep-alive", "1", "--timeout-queue", "1",
        "--timeout-graceful-shutdown", "1", env=wall_clock.environment,
    )  # fmt: skip
    with server.connect() as idle, server.connect() as slow, server.connect() as long:
        assert idle.ask(SMALL).status == 200
        slow.send(SMALL[:-10])
        long.send(request("POST", "/clutch?60", body=b"x"))
        server.err.wait("clutching")
        with server.connect() as queued:
            queued.send(SMALL)
            wall_clock.move(-HOUR)
            assert queued.answer().status == 504
        assert slow.answer().status == 408
        idle.expect_eof()
        server.signal(15)
        server.ended(1, timeout=15)
