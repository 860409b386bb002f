"""A client in a process of its own lends its memory, and is killed at every step."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreserver import CoreServer, Hold, Servers, echo
from lending import mappings_of, open_descriptors, until
from rawhttp import DEADLINE, RawClient, request

from fastpredict import _core

SIZE = 4 << 20

# Speaks raw HTTP; says a line when it has done a step, and goes on when it reads one. The memory is
# SIZE bytes for the body and as many for the answer.
CLIENT = """
import fcntl, mmap, os, socket, sys

path, size, fields = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
os.ftruncate(fd, 2 * size)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
memory = mmap.mmap(fd, 2 * size)
client = socket.socket(socket.AF_UNIX)
client.connect(path)

def say(what):
    print(what, flush=True)
    sys.stdin.readline()

say("connected")
for turn in range(1000):
    memory[:size] = bytes([turn % 256]) * size
    memory[size:] = bytes(size)
    head = "POST /echo HTTP/1.1\\r\\nHost: t\\r\\n"
    head += f"Fastpredict-Memfd: offset=0; length={size}\\r\\n" + fields.replace("|", "\\r\\n")
    socket.send_fds(client, [head.encode() + b"\\r\\n"], [fd])
    say("sent")
    got = b""
    while b"\\r\\n\\r\\n" not in got:
        came = client.recv(65536)
        if not came:
            sys.exit("no answer")
        got += came
        say("reading")
    head, _, body = got.partition(b"\\r\\n\\r\\n")
    lines = [line.lower().split(b": ") for line in head.split(b"\\r\\n")]
    length = next(int(line[1]) for line in lines if line[0] == b"content-length")
    while len(body) < length:
        body += client.recv(1 << 20)
    if b"Fastpredict-Memfd" in head:
        body = memory[size:]
    say("right" if body == memory[:size] else "wrong")
"""


class Peer:
    def __init__(self, path: str, *fields: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", CLIENT, path, str(SIZE), "".join(f"{x}|" for x in fields)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self, step: str) -> None:
        """Until it has done this step, of which it rests then."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == step + "\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def reach(self, *steps: str) -> None:
        """Goes through these steps, and rests in the last."""
        for number, step in enumerate(steps):
            if number:
                self.go()
            self.wait(step)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def serve(core_server: Servers, tmp_path: Path) -> Iterator[Callable[..., tuple[CoreServer, str]]]:
    def start(handler: Any, **options: Any) -> tuple[CoreServer, str]:
        path = str(tmp_path / "socket")
        server = core_server(handler, tcp=False, **options)
        server.core.listen_unix(path, 0o600)
        server.start()
        return server, path

    return start


def array_echo(exchange: _core.Exchange) -> None:
    exchange.reply(200, [], [exchange.array(np.dtype("u1"), (exchange.nbytes,))])


ROOM = f"Fastpredict-Answer-Memfd: offset={SIZE}; length={SIZE}"


@contextlib.contextmanager
def all_comes_back(server: CoreServer) -> Iterator[None]:
    before = open_descriptors()
    yield
    server.wait(connections=0)
    server.wait_idle()
    until(lambda: mappings_of() == 0)
    until(lambda: open_descriptors() <= before)


@pytest.mark.parametrize("fields", [(), (ROOM,)], ids=["socket", "memory"])
def test_from_another_process_the_answer_is_right(serve: Any, fields: tuple[str, ...]) -> None:
    server, path = serve(array_echo)
    with all_comes_back(server):
        peer = Peer(path, *fields)
        peer.wait("connected")
        for _ in range(3):
            peer.go()
            peer.reach("sent", "reading", "right")
            assert mappings_of() == 1 + len(fields)
        peer.kill()


@pytest.mark.parametrize("fields", [(), (ROOM,)], ids=["socket", "memory"])
@pytest.mark.parametrize(
    "steps",
    [
        ("connected",),
        ("connected", "sent"),
        ("connected", "sent", "reading"),
        ("connected", "sent", "reading", "right", "sent"),
        ("connected", "sent", "reading", "right", "sent", "reading"),
    ],
    ids=" ".join,
)
def test_killed_after_each_step(
    serve: Any, steps: tuple[str, ...], fields: tuple[str, ...]
) -> None:
    server, path = serve(array_echo)
    with all_comes_back(server):
        for _ in range(3):
            peer = Peer(path, *fields)
            peer.reach(*steps)
            peer.kill()
    with RawClient(path) as client:
        assert client.ask(request(body=b"still there")).body == b"still there"


@pytest.mark.parametrize("fields", [(), (ROOM,)], ids=["socket", "memory"])
def test_killed_while_queued_never_reaches_the_handler(serve: Any, fields: tuple[str, ...]) -> None:
    hold = Hold()
    server, path = serve(hold)
    with RawClient(path) as first:
        first.send(request(body=b"first"))
        hold.wait_entered()
        peers = [Peer(path, *fields) for _ in range(3)]
        for peer in peers:
            peer.reach("connected", "sent")
        server.wait(queued=3)
        assert mappings_of() == 3 * (1 + len(fields))
        for peer in peers:
            peer.kill()
        server.wait(queued=0, connections=1)
        until(lambda: mappings_of() == 0)
        hold.let()
        assert first.answer().body == b"first"
    assert server.taken == ["/echo"]


@pytest.mark.parametrize("fields", [(), (ROOM,)], ids=["socket", "memory"])
def test_killed_while_running_the_body_stays_readable(serve: Any, fields: tuple[str, ...]) -> None:
    seen: list[Any] = []

    def keep(exchange: _core.Exchange) -> None:
        assert exchange.is_disconnected()
        array = exchange.array(np.dtype("u1"), (exchange.nbytes,))
        seen.append(array.copy())
        exchange.reply(200, [], [array])

    hold = Hold(keep)
    server, path = serve(hold)
    with all_comes_back(server):
        peer = Peer(path, *fields)
        peer.reach("connected", "sent")
        hold.wait_entered()
        peer.kill()
        server.wait(connections=0)
        hold.let()
        until(lambda: len(seen) == 1)
        assert not seen[0].any()


def test_killed_while_the_answer_is_written(serve: Any) -> None:
    server, path = serve(array_echo, timeout_write=60.0)
    with all_comes_back(server):
        peer = Peer(path)
        peer.reach("connected", "sent", "reading")  # no further: the answer is half written
        until(lambda: server.stats()["running"] == 0)
        peer.kill()


def test_an_array_that_is_kept_outlives_its_client(serve: Any) -> None:
    kept: list[Any] = []

    def keep(exchange: _core.Exchange) -> None:
        kept.append(exchange.array(np.dtype("u1"), (exchange.nbytes,)))
        exchange.reply(200, [], [kept[-1]])

    server, path = serve(keep)
    with all_comes_back(server):
        peer = Peer(path)
        peer.reach("connected", "sent", "reading", "right", "sent", "reading", "right")
        peer.kill()
        server.wait(connections=0)
        assert mappings_of() == 1
        assert (kept[0] == 1).all()  # the same memory, as the second turn left it
        kept.clear()


def test_a_server_that_stops_first(serve: Any) -> None:
    server, path = serve(array_echo)
    peer = Peer(path, ROOM)
    peer.reach("connected", "sent", "reading", "right")
    server.stop()
    until(lambda: mappings_of() == 0)
    peer.kill()


@pytest.mark.timeout(60)
def test_killed_at_random_moments(serve: Any) -> None:
    """A client that doesn't wait between its steps; some of them die in the middle of one."""
    server, path = serve(echo, threads=2)
    feed = os.memfd_create("feed")
    os.write(feed, b"\n" * 5000)
    with all_comes_back(server):
        for number in range(12):
            fields = f"{ROOM}|" * (number % 2)
            with open(f"/proc/self/fd/{feed}") as lines:
                process = subprocess.Popen(
                    [sys.executable, "-S", "-c", CLIENT, path, str(SIZE), fields],
                    stdin=lines,
                    stdout=subprocess.DEVNULL,
                )
                until(lambda: server.stats()["connections"] > 0)
                time.sleep(number * 0.007)
                process.kill()
                process.wait(DEADLINE)
    os.close(feed)
    with RawClient(path) as client:
        assert client.ask(request(body=b"still there")).body == b"still there"
