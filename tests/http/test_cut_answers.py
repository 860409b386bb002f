"""Answers that don't come to their end, or only slowly: what the client sees of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastpredict

DEADLINE = 20.0
BLOCK = bytes(1 << 16)

Blocks = Callable[[], Iterable[bytes]]


def app_of(blocks: Blocks) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter(blocks())

    return app


def slow() -> Iterator[bytes]:
    for _ in range(200):
        yield b"first"
        time.sleep(0.05)


def fails() -> Iterator[bytes]:
    yield from (b"first", BLOCK)
    raise ValueError("midway")


def large() -> Iterator[bytes]:
    return iter([BLOCK] * 400)


def ask(address: Any, *, version: str = "1.0", **options: int) -> socket.socket:
    unix = isinstance(address, str)
    client = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    client.settimeout(DEADLINE)
    for name, value in options.items():
        client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    client.connect(address)
    client.sendall(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    return client


def port_of(server: fastpredict.Server) -> tuple[str, int]:
    return "127.0.0.1", int(server.url.rpartition(":")[2])


def rest_of(client: socket.socket) -> int:
    """How many bytes come up to the end. ConnectionResetError where that isn't one."""
    count = 0
    while got := client.recv(1 << 20):
        count += len(got)
    return count


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("blocks", "options", "pause"),
    [
        (fails, {}, 0.0),
        (slow, {"timeout_graceful_shutdown": 0.2}, 0.0),
        (large, {"timeout_write": 0.5}, 1.5),
    ],
    ids=["the application raises", "the server's time is up", "the client is too slow"],
)
def test_an_answer_up_to_the_end_of_the_connection_is_not_whole_where_it_is_cut(
    blocks: Blocks, options: dict[str, Any], pause: float
) -> None:
    """HTTP/1.0, without a length: any other end but a reset would pass for the answer's."""
    server = fastpredict.Server(app_of(blocks), port=0, access_log=False, **options)
    server.start()
    with ask(port_of(server), SO_RCVBUF=4096) as client:
        client.recv(10)
        if "timeout_graceful_shutdown" in options:
            server.stop()
        time.sleep(pause)
        with pytest.raises(ConnectionResetError):
            rest_of(client)
    server.stop()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_answer_up_to_the_end_of_the_connection_ends_in_peace(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    options: dict[str, Any] = {"port": 0} if kind == "tcp" else {"uds": path}
    with (
        fastpredict.Server(app_of(large), access_log=False, **options) as server,
        ask(path if kind == "unix" else port_of(server)) as client,
    ):
        assert rest_of(client) > 400 * len(BLOCK)


def test_small_blocks_on_a_unix_socket_are_not_taken_for_a_slow_client(tmp_path: Path) -> None:
    """The kernel tells there what memory they take, which is several times their length.

    The least rate is 1 KiB per second, and first asked for after 5 s; this client takes 20 kB.
    """
    path = str(tmp_path / "socket")
    blocks = [b"x" * 100] * 4000
    with (
        fastpredict.Server(app_of(lambda: blocks), access_log=False, uds=path),
        ask(path, version="1.1") as client,
    ):
        read, until = 0, time.monotonic() + 6.5
        while time.monotonic() < until:
            read += len(client.recv(1000))
            time.sleep(0.05)
        ended = b""
        while not ended.endswith(b"\r\n0\r\n\r\n"):
            got = client.recv(1 << 20)
            assert got, "it was cut"
            read += len(got)
            ended = (ended + got)[-10:]
        assert read > 4000 * 100
