"""Clients that leave: what is queued is dropped, what runs is told, and nothing is left behind."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable

import pytest
from coreserver import Hold, Servers
from rawhttp import CHUNKED, DEADLINE, RawClient, chunk, request

from fastpredict import _core


def half_close(client: RawClient) -> None:
    client.socket.shutdown(socket.SHUT_WR)


leaves = pytest.mark.parametrize(
    "leave", [RawClient.close, RawClient.reset, half_close], ids=["close", "reset", "half close"]
)
Leave = Callable[[RawClient], None]

# Small, so that it comes with its head; and more than any input buffer.
sizes = pytest.mark.parametrize("size", [1, 20_000, 200_000, 5_000_000])


@leaves
def test_while_uploading(core_server: Servers, leave: Leave) -> None:
    server = core_server()
    parts = [
        b"POST /ec",
        request("POST", "/echo", "Content-Length: 10"),
        request("POST", "/echo", "Content-Length: 10000000") + b"x" * 5_000_000,
        request("POST", "/echo", CHUNKED) + b"5\r\nhel",
        request("POST", "/echo", CHUNKED) + chunk(b"x" * 3_000_000) + b"ffffff\r\nx",
        request("POST", "/nothing", "Content-Length: 10") + b"x",
    ]
    for _ in range(5):
        for part in parts:
            client = server.connect()
            client.send(part)
            leave(client)
    server.wait(connections=0)
    server.wait_idle()
    assert server.taken == []


@leaves
@sizes
def test_while_queued_never_reaches_a_handler(
    core_server: Servers, leave: Leave, size: int
) -> None:
    hold = Hold()
    server = core_server(hold)
    with server.connect() as first:
        first.send(request(body=b"first"))
        hold.wait_entered()
        clients = [server.connect() for _ in range(6)]
        for client in clients:
            client.send(request(body=b"x" * size))
        server.wait(queued=6)
        for client in clients[:5]:
            leave(client)
        server.wait(queued=1, connections=2)
        hold.let(2)
        assert first.answer().body == b"first"
        assert len(clients[5].answer().body) == size
    assert len(server.taken) == 2
    server.wait_idle()


@leaves
@sizes
def test_while_running_is_told_and_the_answer_dropped(
    core_server: Servers, leave: Leave, size: int
) -> None:
    entered, told = threading.Event(), threading.Event()

    def handler(exchange: _core.Exchange) -> None:
        assert not exchange.is_disconnected()
        entered.set()
        until = time.monotonic() + DEADLINE
        while not exchange.is_disconnected() and time.monotonic() < until:
            time.sleep(0.001)
        if exchange.is_disconnected():
            told.set()
        exchange.reply(200, [], [exchange.bytes()])

    server = core_server(handler)
    client = server.connect()
    client.send(request(body=b"x" * size))
    assert entered.wait(DEADLINE)
    leave(client)
    assert told.wait(DEADLINE), "is_disconnected() stayed False"
    server.wait(connections=0)
    server.wait_idle()


@leaves
def test_while_running_with_pipelined_requests_behind(core_server: Servers, leave: Leave) -> None:
    """They were never begun, and are not now."""
    hold = Hold()
    server = core_server(hold)
    client = server.connect()
    client.send(request(body=b"a") * 3)
    hold.wait_entered()
    leave(client)
    server.wait(connections=0)
    hold.let()
    server.wait_idle()
    assert len(server.taken) == 1


@leaves
def test_while_being_answered(core_server: Servers, leave: Leave) -> None:
    server = core_server(lambda exchange: exchange.reply(200, [], [bytes(32 << 20)]))
    for _ in range(3):
        client = server.connect(rcvbuf=4096)
        client.send(request(body=b"a"))
        client.read_some(100)
        leave(client)
    server.wait(connections=0)
    server.wait_idle()


def test_between_requests(core_server: Servers) -> None:
    server = core_server()
    for leave in (RawClient.close, RawClient.reset, half_close):
        client = server.connect()
        assert client.ask(request(body=b"a")).status == 200
        leave(client)
    server.wait(connections=0)
    server.wait_idle()


def test_half_close_behind_a_request_counts_as_gone(core_server: Servers) -> None:
    """contract.md: before it has the whole answer. It gets none."""
    hold = Hold()
    server = core_server(hold)
    with server.connect() as client:
        client.send(request(body=b"a"))
        hold.wait_entered()
        half_close(client)
        server.wait(connections=0)
        client.expect_gone()
    hold.let()
    server.wait_idle()


def test_200_clients_that_leave_at_any_point_leave_nothing(core_server: Servers) -> None:
    server = core_server(
        lambda exchange: exchange.reply(200, [], [bytes(1 << 20)]), threads=2, timeout_head=1
    )
    pick = random.Random(7)
    data = (
        request(body=b"x" * 300_000)
        + request("POST", "/echo", CHUNKED)
        + chunk(b"y" * 100_000)
        + b"0\r\n\r\n"
    )
    for _ in range(200):
        client = server.connect(rcvbuf=65536)
        client.send_if_open(data[: pick.randrange(len(data))])
        if pick.random() < 0.5:
            client.socket.settimeout(0.001)
            with contextlib.suppress(TimeoutError):
                client.read_some(pick.randrange(1, 100_000))
        pick.choice([RawClient.close, RawClient.reset])(client)
    server.wait(connections=0)
    server.wait_idle()
    with server.connect() as client:
        assert len(client.ask(request(body=b"a")).body) == 1 << 20
