"""What handlers may rely on: how many run at once, whole answers, nothing kept."""

from __future__ import annotations

import json
import socket
import time

import pytest
from load import SMALL, Crew
from process import Hosted, Processes
from rawhttp import RawClient, request
from soak import figure, times

CLIENTS = 64
CALLS = times(10, most=500)  # of each client
ANSWERS = times(10, most=200)  # of each slow reader
REFERENCES = times(1000, most=1000)  # in each of three rounds

INFER = json.dumps(
    {"inputs": [{"name": "INPUT0", "shape": [3], "datatype": "UINT8", "data": [1, 2, 3]}]}
).encode()


def ask_side_by_side(server: Hosted, clients: int, wire: bytes, count: int) -> None:
    def work() -> None:
        with server.connect(deadline=60) as client:
            for _ in range(count):
                assert client.ask(wire).status == 200

    with Crew() as crew:
        for _ in range(clients):
            crew.start(work)
        crew.join(60 + count)


@figure(f"{CLIENTS} clients, {CLIENTS * CALLS:,} calls, --threads 1: never two at once")
@pytest.mark.timeout(120 + CALLS)
def test_one_thread_never_runs_two_calls(processes: Processes) -> None:
    server = processes.host(threads=1, max_queued_requests=CLIENTS)
    ask_side_by_side(server, CLIENTS, request("POST", "/peak", body=b"x"), CALLS)
    assert server.do("peak") == 1


@figure(f"{CLIENTS} clients, {CLIENTS * CALLS:,} calls, --threads 4: never five at once")
@pytest.mark.timeout(120 + CALLS)
def test_four_threads_run_more_than_one_and_never_five(processes: Processes) -> None:
    server = processes.host(threads=4, max_queued_requests=CLIENTS)
    ask_side_by_side(server, CLIENTS, request("POST", "/peak", body=b"x"), CALLS)
    assert 1 < server.do("peak") <= 4


@figure(f"{3 * ANSWERS} answers from one array, read slowly by 3 clients: none torn")
@pytest.mark.timeout(120 + ANSWERS)
def test_array_that_a_handler_reuses_is_never_torn(processes: Processes) -> None:
    server = processes.host()
    wire = request("POST", "/state", body=b"")
    turning = request("POST", "/state", body=b"x")

    def read_slowly() -> None:
        with server.connect(rcvbuf=65_536) as client:
            for _ in range(ANSWERS):
                answer = client_slow_answer(client, wire)
                assert len(answer) == 2_000_000
                assert answer.count(answer[:1]) == len(answer), "two states in one answer"

    with Crew() as crew:
        for _ in range(3):
            crew.start(read_slowly)
        with server.connect() as client:  # turns the state while they read
            for _ in range(ANSWERS):
                assert client.ask(turning).status == 200
        crew.join(60 + ANSWERS)


def client_slow_answer(client: RawClient, wire: bytes) -> bytes:
    """A body, read in pieces with pauses; the connection is kept."""
    client.send(wire)
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.read_some(1000)
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"Content-Length: 2000000" in head or b"content-length: 2000000" in head, head
    pieces, have = [body], len(body)
    while have < 2_000_000:
        time.sleep(0.002)
        piece = client.read_some(50_000)
        assert piece, "the connection ended"
        pieces.append(piece)
        have += len(piece)
    return b"".join(pieces)


def test_borrowed_answer_is_not_copied(processes: Processes) -> None:
    """Changed while it is sent, against its promise, it shows: nobody has made a copy."""
    server = processes.host()
    with server.connect(rcvbuf=4096) as client:
        client.send(request("POST", "/borrowed", body=b""))
        assert client.read_some(1).startswith(b"H")  # the answer is on its way
        server.do("fill_borrowed", 7)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        have, last = 0, b""
        while have < 20_000_000:
            last = client.read_some(1 << 20)
            have += len(last)
    assert last[-1] == 7


@figure(f"3 x {REFERENCES:,} requests: no object and no memory more")
@pytest.mark.timeout(120 + REFERENCES)
def test_requests_leave_no_object_and_no_memory(processes: Processes) -> None:
    server = processes.host()
    server.do("trace")
    wires = [
        SMALL,
        request("POST", "/echo", body=b"x" * 10_000),
        request("POST", "/nap?0", "X-Some: thing", body=b"x"),
        request("POST", "/state", body=b""),
        request("POST", "/length", "Content-Type: application/json", body=b"[1, 2, 3]"),
        request("POST", "/length", "Content-Type: application/json", body=b"[1, 2"),
        request("POST", "/echo", "Accept: application/x-npy", body=b"x" * 100),
        request("POST", "/nowhere", body=b"x"),
        request("POST", "/wsgi/length", body=b"x" * 10_000),
        request("GET", "/wsgi/large?1000000"),
        request("POST", "/fail?exception", body=b"x"),  # in the log, which keeps nothing, either
        request("POST", "/fail?wrong-type", body=b"x"),
        request("GET", "/wsgi/fail?exception.call"),
        request("POST", "/v2/models/echo/infer", body=INFER),
        request("GET", "/v2/models/echo"),
    ]
    rounds = []
    for _ in range(3):
        with server.connect() as client:
            for index in range(REFERENCES):
                client.ask(wires[index % len(wires)])
        server.wait_idle()
        rounds.append(server.do("figures"))
    first, second, third = rounds
    assert third["objects"] - second["objects"] <= 5, rounds
    assert third["traced_bytes"] - second["traced_bytes"] <= 20_000, rounds
    assert first["objects"] - second["objects"] < 1_000, rounds


@pytest.mark.timeout(120)
def test_memory_in_flight_is_that_of_the_bodies(processes: Processes) -> None:
    count, size = 8, 30_000_000
    server = processes.host(max_inflight_bytes="1G")
    with server.connect() as client:
        assert client.ask(SMALL).status == 200
    server.wait_idle()
    idle = server.resident_bytes()
    wire = request("POST", "/hold", body=b"x" * size)
    clients = [server.connect(deadline=60) for _ in range(count)]
    for client in clients:
        client.send(wire)
    server.wait_stats(running=1, queued=count - 1)
    assert server.resident_bytes() - idle <= count * size * 1.1 + 20_000_000
    server.do("let", count)
    for client in clients:
        assert client.answer().body == str(size).encode()
        client.close()
    server.wait_idle()


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/length", 200),
        ("/fail?exception", 500),
        ("/wsgi/length", 200),
        ("/wsgi/parts", 200),
        ("/wsgi/fail?exception.read", 500),
    ],
)
def test_next_body_goes_into_the_memory_of_the_one_before(
    processes: Processes, path: str, status: int
) -> None:
    """The body is let go of before the answer is sent: a client may ask at once on having it."""
    server = processes.host()
    wire = request("POST", path, body=b"x" * 3_000_000)
    with server.connect() as client:
        for _ in range(50):
            client.send(wire)
            text = client.read_some(1000)
            while not text.endswith((b"\r\n0\r\n\r\n", b"\r\n\r\n3000000", b"}")):
                text += client.read_some(1000)
            assert text.startswith(b"HTTP/1.1 %d " % status)
    server.wait_idle()
    assert server.stats()["idle_slots"] == 1
