"""Answers are whole, and health needs no Python."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from coreserver import OCTETS, Servers
from rawhttp import DEADLINE, Address, request

from fastpredict import _core

SIZE = 30_000_000


def numbers() -> np.ndarray:
    return np.arange(SIZE // 8, dtype=np.uint64) * 0x9E3779B97F4A7C15


def test_30_mb_reach_a_slow_reader_intact(core_server: Servers) -> None:
    expected = numbers().tobytes()
    server = core_server(lambda exchange: exchange.reply(200, [OCTETS], [numbers()]))
    with server.connect(rcvbuf=4096) as slow:
        slow.send(request(body=b"a"))
        raw = b""
        for _ in range(50):
            raw += slow.read_some(100)
            time.sleep(0.002)
        slow.unread(raw)
        assert slow.answer().body == expected
    server.wait_idle()


def test_array_that_the_handler_reuses_is_sent_as_it_was(core_server: Servers) -> None:
    """Three slow readers, one output array: none gets a torn answer."""
    output = np.zeros(SIZE // 4, dtype=np.uint32)
    state = 0

    def handler(exchange: _core.Exchange) -> None:
        nonlocal state
        state += 1
        output[:] = state
        exchange.reply(200, [OCTETS], [output])

    server = core_server(handler)
    clients = [server.connect(rcvbuf=4096) for _ in range(3)]
    for client in clients:
        client.send(request(body=b"a"))
    server.wait(requests=3)
    server.wait(queued=0, running=0)
    seen = []
    for client in clients:
        answer = np.frombuffer(client.answer().body, dtype=np.uint32)
        assert (answer == answer[0]).all()
        seen.append(int(answer[0]))
    assert sorted(seen) == [1, 2, 3]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536, 1_000_003])
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "array", "shared array", "borrowed"])
def test_every_kind_of_payload_of_every_size(core_server: Servers, kind: str, size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    kept = np.frombuffer(data, dtype=np.uint8).copy()

    def handler(exchange: _core.Exchange) -> None:
        make = {
            "bytes": lambda: data,
            "bytearray": lambda: bytearray(data),
            "array": lambda: np.frombuffer(data, dtype=np.uint8).copy(),
            "shared array": lambda: kept,
            "borrowed": lambda: kept,
        }
        exchange.reply(200, [OCTETS], [make[kind]()], kind == "borrowed")

    server = core_server(handler)
    with server.connect() as client:
        for _ in range(3):
            assert client.ask(request(body=b"a")).body == data
    server.wait_idle()


def test_array_of_the_body_outlives_its_request(core_server: Servers) -> None:
    kept = []

    def handler(exchange: _core.Exchange) -> None:
        kept.append(exchange.array(np.dtype(np.uint8), (exchange.nbytes,)))
        exchange.reply(204, [], [])

    server = core_server(handler)
    with server.connect() as client:
        for count in range(4):
            assert client.ask(request(body=bytes([count]) * 3_000_000)).status == 204
    server.wait(charged_bytes=0)
    server.stop()
    for count, array in enumerate(kept):
        assert (array == count).all()


def test_body_sent_back_as_it_came(core_server: Servers) -> None:
    """The slot goes out as the answer, from where it lies, and comes back."""
    data = numbers().tobytes()

    def handler(exchange: _core.Exchange) -> None:
        payload = [exchange.array(np.dtype(np.uint64), (SIZE // 8,))]
        payload[0] += np.uint64(1)
        exchange.reply(200, [OCTETS], payload)

    server = core_server(handler)
    with server.connect() as client:
        for _ in range(2):
            answer = client.ask(request(body=data))
            assert (np.frombuffer(answer.body, np.uint64) == numbers() + np.uint64(1)).all()
    server.wait_idle()


def test_health_answers_while_a_handler_holds_the_gil(core_server: Servers) -> None:
    """Asked by another process, since no thread of this one can run meanwhile."""
    hold_seconds = 1.0
    sleep = ctypes.PyDLL(None).usleep  # PyDLL keeps the GIL
    started, go = threading.Event(), threading.Event()

    def handler(exchange: _core.Exchange) -> None:
        started.set()
        assert go.wait(DEADLINE)
        time.sleep(0.05)  # for the requests to be sent
        sleep(int(hold_seconds * 1e6))
        exchange.reply(204, [], [])

    server = core_server(handler)
    with server.connect() as running, server.connect() as health:
        running.send(request(body=b"a"))
        assert started.wait(DEADLINE)
        child = health_from_another_process(server.address)
        go.set()
        assert running.answer().status == 204
        slowest, count = (float(word) for word in child())
        assert count > 20, "too few requests while the GIL was held"
        assert slowest < hold_seconds / 2, f"an answer took {slowest} s"
        assert health.ask(request("GET", "/readyz"), method="GET").status == 200


def health_from_another_process(address: Address) -> Callable[[], list[str]]:
    """Asks for a second and a half; gives the slowest answer and how many there were."""
    script = """
import socket, sys, time
slowest = count = 0
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
client.settimeout(10)
print("ready", flush=True)
until = time.monotonic() + 1.5
while time.monotonic() < until:
    for path in (b"/livez", b"/readyz"):
        start = time.monotonic()
        client.sendall(b"GET " + path + b" HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        assert b" 200 OK" in client.recv(4096)
        slowest = max(slowest, time.monotonic() - start)
        count += 1
    time.sleep(0.005)
print(slowest, count)
"""
    assert isinstance(address, tuple)
    host, port = address
    child = subprocess.Popen(
        [sys.executable, "-c", script, host, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"

    def result() -> list[str]:
        output, _ = child.communicate(timeout=DEADLINE)
        assert child.returncode == 0
        return output.split()

    return result
