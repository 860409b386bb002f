"""Whoever makes no progress is put out on time; whoever does is not. Margins are wide."""

from __future__ import annotations

import socket
import time

from coreserver import Hold, Servers
from rawhttp import CHUNKED, RawClient, request

LIVEZ = request("GET", "/livez")
SHORT = 0.2  # seconds
SOON = 4.0  # by when something that is due after SHORT has happened for sure


def assert_408(client: RawClient) -> None:
    answer = client.answer()
    assert answer.status == 408
    answer.error()
    assert answer.closes
    client.expect_eof()


def test_head_that_stops_is_408(core_server: Servers) -> None:
    server = core_server(timeout_head=SHORT)
    start = time.monotonic()
    clients = [server.connect() for _ in range(4)]
    for client, piece in zip(
        clients, (b"P", b"\r\n", LIVEZ[:-1], request(body=b"")[:20]), strict=True
    ):
        client.send(piece)
    for client in clients:
        assert_408(client)
    assert SHORT * 0.9 < time.monotonic() - start < SOON


def test_head_that_trickles_is_408_all_the_same(core_server: Servers) -> None:
    """From its first byte to its last, in total."""
    server = core_server(timeout_head=SHORT)
    with server.connect() as client:
        start = time.monotonic()
        while time.monotonic() < start + SOON and client.send_if_open(b"a"):
            time.sleep(0.02)
            client.socket.setblocking(False)
            try:
                if client.socket.recv(1, socket.MSG_PEEK):
                    break
            except BlockingIOError:
                pass
            finally:
                client.socket.settimeout(10)
        assert time.monotonic() - start < SOON
        assert_408(client)


def test_head_timeout_counts_from_the_first_byte(core_server: Servers) -> None:
    server = core_server(timeout_head=SHORT)
    with server.connect() as client:
        client.expect_nothing(SHORT * 2)
        assert client.ask(LIVEZ, method="GET").status == 200
        client.expect_nothing(SHORT * 2)
        assert client.ask(LIVEZ, method="GET").status == 200


def test_body_that_stops_is_408_and_gives_its_slot_back(core_server: Servers) -> None:
    server = core_server(timeout_read=SHORT)
    start = time.monotonic()
    heads = [
        request("POST", "/echo", "Content-Length: 10"),
        request("POST", "/echo", "Content-Length: 10") + b"123456789",
        request("POST", "/echo", CHUNKED),
        request("POST", "/echo", CHUNKED) + b"5\r\nhel",
        request("POST", "/echo", f"Content-Length: {8 << 20}") + bytes(5 << 20),
    ]
    clients = [server.connect() for _ in heads]
    for client, head in zip(clients, heads, strict=True):
        client.send(head)
    for client in clients:
        assert_408(client)
    assert SHORT * 0.9 < time.monotonic() - start < SOON
    assert server.taken == []
    server.wait_idle()


def test_slow_upload_that_goes_on_finishes(core_server: Servers) -> None:
    """Three times as long as timeout_read, in pieces far smaller than what the socket waits for."""
    server = core_server(timeout_read=0.4)
    body = bytes(9 << 20)
    with server.connect() as client:
        client.send(request("POST", "/echo", f"Content-Length: {len(body)}"), body[: 8 << 20])
        rest = body[8 << 20 :]
        for at in range(12):
            time.sleep(0.1)
            client.send(rest[at * 1000 : (at + 1) * 1000])
        client.send(rest[12_000:])
        assert client.answer().body == body


def test_min_data_rate_ends_uploads_and_downloads_that_are_too_slow(core_server: Servers) -> None:
    """Both at once, since it takes 5 s; beside an upload that is just fast enough."""
    server = core_server(
        lambda exchange: exchange.reply(
            200, [], [bytes((32 << 20) if exchange.nbytes == 1 else 3)]
        ),
        min_data_rate=50_000,
    )
    upload, download, steady = server.connect(), server.connect(rcvbuf=4096), server.connect()
    start = time.monotonic()
    upload.send(request("POST", "/echo", "Content-Length: 900000"))
    steady.send(request("POST", "/echo", "Content-Length: 900000"))
    download.send(request(body=b"1"))
    sent = 0
    while time.monotonic() < start + 5.5:
        upload.send_if_open(b"x" * 20)
        steady.send(b"x" * 10_000)
        sent += 10_000
        download.socket.recv(10)
        time.sleep(0.1)
    assert_408(upload)
    upload.close()
    steady.send(b"x" * (900_000 - sent))
    assert steady.answer().status == 200
    server.wait(connections=1, charged_bytes=0)
    download.expect_gone()
    assert time.monotonic() - start < 5 + SOON


def test_answer_that_nobody_reads_is_dropped(core_server: Servers) -> None:
    server = core_server(
        lambda exchange: exchange.reply(200, [], [bytes(32 << 20)]), timeout_write=SHORT
    )
    start = time.monotonic()
    with server.connect(rcvbuf=4096) as client:
        client.send(request(body=b"a"))
        server.wait(requests=1)
        server.wait(connections=0, charged_bytes=0, out_slots=0)
        assert time.monotonic() - start < SOON
        client.expect_gone()


def test_answer_that_is_read_slowly_is_not_dropped(core_server: Servers) -> None:
    """Progress that only the client's side shows counts: the socket's buffer may hold megabytes."""
    size = 8 << 20
    server = core_server(lambda exchange: exchange.reply(200, [], [bytes(size)]), timeout_write=0.5)
    with server.connect(rcvbuf=65536) as client:
        client.send(request(body=b"a"))
        raw = client.read_some(65536)
        for _ in range(15):
            time.sleep(0.1)
            raw += client.read_some(65536)
        while len(raw) < size:
            more = client.read_some(1 << 20)
            assert more, f"cut off after {len(raw)} bytes"
            raw += more
    assert raw.endswith(bytes(size))


def test_idle_connection_is_closed(core_server: Servers) -> None:
    server = core_server(timeout_keep_alive=SHORT)
    start = time.monotonic()
    with server.connect() as new, server.connect() as used:
        assert used.ask(LIVEZ, method="GET").status == 200
        for client in (new, used):
            client.expect_eof()
        assert SHORT * 0.9 < time.monotonic() - start < SOON
    server.wait(connections=0)


def test_running_request_is_not_idle(core_server: Servers) -> None:
    """No timeout of a connection ends a handler's time."""
    hold = Hold()
    server = core_server(
        hold,
        timeout_keep_alive=0.1,
        timeout_read=0.1,
        timeout_head=0.1,
        timeout_write=0.1,
        timeout_queue=0.1,
    )
    with server.connect() as client:
        client.send(request(body=b"a"))
        hold.wait_entered()
        client.expect_nothing(0.4)
        hold.let()
        assert client.answer().body == b"a"


def test_queue_timeout_is_504_while_another_runs(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, timeout_queue=SHORT)
    with server.connect() as running, server.connect() as queued:
        running.send(request(body=b"a"))
        hold.wait_entered()
        start = time.monotonic()
        queued.send(request(body=b"b"))
        answer = queued.answer()
        assert answer.status == 504
        assert "waited" in answer.error()
        assert not answer.closes
        assert SHORT * 0.9 < time.monotonic() - start < SOON
        assert queued.ask(LIVEZ, method="GET").status == 200
        server.wait(queued=0, running=1, out_slots=1)
        hold.let()
        assert running.answer().body == b"a"
        hold.let()
        assert queued.ask(request(body=b"c")).body == b"c"
    assert len(server.taken) == 2
    server.wait_idle()
