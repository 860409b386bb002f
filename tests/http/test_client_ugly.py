"""Clients against a server that answers badly, late, in pieces or not at all."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_both import Kind, both
from client_fake import (
    ARRAY,
    DATA,
    LARGE,
    WHOLE,
    FakeServer,
    Peer,
    always,
    answer,
    array_answer,
    check,
    describing,
    head_of,
    once,
)

from fastpredict.client import Client
from fastpredict.client_errors import (
    BadInput,
    BadResponse,
    ClientConnectionError,
)
from fastpredict.client_transport import Transport


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """No test leaves a descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


# ---- what is sent --------------------------------------------------------------------------------


@both
def test_a_request_is_what_a_server_expects(kind: Kind) -> None:
    heard = []

    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            heard.append(request)
            peer.send(WHOLE)

    with FakeServer(script) as server, kind(f"{server.url}/under") as client:
        check(client.predict(ARRAY, "/päth?q=a b#c"))
        check(client.predict(ARRAY, npy=True))
        client.is_live()
    raw, npy, health = heard
    assert raw.line == "POST /under/p%C3%A4th?q=a%20b%23c HTTP/1.1"
    assert raw.fields["host"] == f"127.0.0.1:{server.port}"
    assert raw.fields["content-length"] == str(ARRAY.nbytes)
    assert raw.fields["x-dtype"] == "<f4"
    assert raw.fields["x-shape"] == "4,5"
    assert raw.body == ARRAY.tobytes()
    assert "expect" not in raw.fields
    assert npy.fields["content-type"] == "application/x-npy"
    assert health.line == "GET /under/livez HTTP/1.1"
    assert all(each.head_bytes % 64 == 0 for each in heard)
    assert server.connections == 1


# ---- cut, chunked, interim -----------------------------------------------------------------------


@both
def test_an_answer_cut_at_any_byte_is_a_lost_connection_and_nothing_is_repeated(kind: Kind) -> None:
    cuts = range(0, len(WHOLE), 3)
    with (
        FakeServer(*(once(WHOLE[:cut]) for cut in cuts)) as server,
        kind(server.url) as client,
    ):
        for number, _ in enumerate(cuts, start=1):
            with pytest.raises(ClientConnectionError):
                client.predict(DATA)
            assert server.connections == number


@both
def test_an_answer_in_single_bytes_is_read(kind: Kind) -> None:
    def script(peer: Peer) -> None:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while peer.request() is not None:
            peer.send(*(WHOLE[at : at + 1] for at in range(len(WHOLE))))

    with FakeServer(script) as server, kind(server.url) as client:
        check(client.predict(DATA))
        out = np.empty_like(ARRAY)
        check(client.predict(DATA, out=out))
        check(out)


def chunks(size: int) -> bytes:
    data = ARRAY.tobytes()
    parts = (data[at : at + size] for at in range(0, len(data), size))
    return (
        b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nT: 1\r\n\r\n"
    )


@both
def test_chunked_and_interim_answers_are_read_and_the_connection_kept(kind: Kind) -> None:
    head = head_of(ARRAY, "Transfer-Encoding: chunked")
    answers = [head + chunks(size) for size in (1, 7, 80, 1000)]
    answers.append(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n" + WHOLE)
    json = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answers.append(json + b"5\r\n[[1,2\r\n7\r\n],[3,4]\r\n1\r\n]\r\n0\r\n\r\n")

    def script(peer: Peer) -> None:
        for each in answers:
            peer.request()
            peer.send(each)

    with FakeServer(script) as server, kind(server.url) as client:
        for _ in answers[:-1]:
            check(client.predict(DATA))
        assert client.predict(DATA).tolist() == [[1, 2], [3, 4]]
        assert server.connections == 1


@both
def test_an_answer_up_to_the_end_of_the_connection_is_read(kind: Kind) -> None:
    old = head_of(ARRAY).replace(b"HTTP/1.1", b"HTTP/1.0") + ARRAY.tobytes()
    with FakeServer(once(old)) as server, kind(server.url) as client:
        check(client.predict(DATA))
        check(client.predict(DATA))
        assert server.connections == 2
    with (
        FakeServer(once(old[:-1])) as server,
        kind(server.url) as client,
        pytest.raises(BadResponse, match="shorter"),
    ):
        client.predict(DATA)


@both
@pytest.mark.parametrize(
    "said",
    [
        b"220 mail.example ESMTP\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        answer(b"x" * 81, "200 OK", *describing(ARRAY)),
        answer(b"x" * 79, "200 OK", *describing(ARRAY)),
        head_of(ARRAY, "Transfer-Encoding: chunked") + b"51\r\n" + b"x" * 81 + b"\r\n0\r\n\r\n",
        head_of(ARRAY, "Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_a_wrong_answer_is_said_to_be_one_and_its_connection_is_not_used_again(
    kind: Kind, said: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(said)
        peer.expect_gone()

    with FakeServer(script, always(WHOLE)) as server, kind(server.url) as client:
        with pytest.raises(BadResponse):
            client.predict(DATA)
        check(client.predict(DATA))
        assert server.connections == 2


@both
@pytest.mark.parametrize(
    "said",
    [
        answer(b"<html>", "200 OK", "Content-Type: text/html"),
        head_of(ARRAY, "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n",
    ],
)
def test_an_answer_that_is_whole_but_no_array_keeps_its_connection(kind: Kind, said: bytes) -> None:
    def script(peer: Peer) -> None:
        once(said)(peer)
        always(WHOLE)(peer)

    with FakeServer(script) as server, kind(server.url) as client:
        with pytest.raises(BadResponse):
            client.predict(DATA)
        check(client.predict(DATA))
        assert server.connections == 1


@both
def test_more_than_was_announced_ends_the_connection(kind: Kind) -> None:
    with FakeServer(always(WHOLE + b"HTTP/1.1 ")) as server, kind(server.url) as client:
        for _ in range(3):
            check(client.predict(DATA))
        assert server.connections == 3


# ---- kept connections ----------------------------------------------------------------------------


@both
def test_a_connection_that_the_server_closed_meanwhile_is_replaced(kind: Kind) -> None:
    closed = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(WHOLE)
        peer.socket.shutdown(socket.SHUT_RDWR)
        peer.socket.close()
        closed.release()

    with FakeServer(script) as server, kind(server.url) as client:
        for number in range(1, 6):
            check(client.predict(DATA))
            assert server.connections == number
            assert closed.acquire(timeout=20)


def die(peer: Peer, how: str, heads: int) -> None:
    """Answers once, and ends at the next request: by an orderly end or a reset."""
    for _ in range(heads):
        peer.request()
        peer.send(WHOLE)
    peer.head()
    if how == "reset":
        peer.reset()


@both
@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
def test_a_kept_connection_that_dies_unanswered_is_retried_once(
    kind: Kind, how: str, data: np.ndarray
) -> None:
    def dies(peer: Peer) -> None:
        die(peer, how, 1)

    with FakeServer(dies, always(WHOLE)) as server, kind(server.url) as client:
        check(client.predict(DATA))
        check(client.predict(data))
        assert server.connections == 2


@both
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_new_connection_that_dies_unanswered_is_not_retried(kind: Kind, how: str) -> None:
    def dies(peer: Peer) -> None:
        die(peer, how, 0)

    with FakeServer(dies) as server, kind(server.url) as client:
        with pytest.raises(ClientConnectionError):
            client.predict(DATA)
        assert server.connections == 1


@both
def test_a_kept_connection_that_dies_in_its_answer_is_not_retried(kind: Kind) -> None:
    def script(peer: Peer) -> None:
        once(WHOLE)(peer)
        once(WHOLE[:1])(peer)

    with FakeServer(script, always(WHOLE)) as server, kind(server.url) as client:
        check(client.predict(DATA))
        with pytest.raises(ClientConnectionError):
            client.predict(DATA)
        assert server.connections == 1


@both
def test_a_connection_that_says_something_unasked_is_not_used(kind: Kind) -> None:
    answered, spoken = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        once(WHOLE)(peer)
        assert answered.wait(20)
        peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        spoken.set()
        peer.expect_gone()

    with FakeServer(script, always(WHOLE)) as server, kind(server.url) as client:
        check(client.predict(DATA))
        answered.set()
        assert spoken.wait(20)
        time.sleep(0.05)  # on loopback it has arrived when send() returns, or soon after
        check(client.predict(DATA))
        assert server.connections == 2


def test_a_forked_child_leaves_the_parents_connection_alone() -> None:
    context = multiprocessing.get_context("fork")
    with FakeServer(always(WHOLE)) as server, Client(server.url) as client:
        check(client.predict(DATA))
        result = context.SimpleQueue()

        def call() -> None:
            result.put(client.predict(DATA).tolist())
            os._exit(0)

        child = context.Process(target=call, daemon=True)
        child.start()
        assert result.get() == ARRAY.tolist()
        child.join(20)
        assert server.connections == 2
        check(client.predict(DATA))
        assert server.connections == 2
        result.close()
        child.close()


@both
def test_connection_close_is_heeded(kind: Kind) -> None:
    closing = always(array_answer(ARRAY, "Connection: close"))
    with FakeServer(closing) as server, kind(server.url) as client:
        for number in range(1, 4):
            check(client.predict(DATA))
            assert server.connections == number


# ---- answers before the request is whole ---------------------------------------------------------


TOO_LARGE = answer(b'{"error": "too large"}', "413 Content Too Large")


@both
@pytest.mark.parametrize("ending", ["waits", "closes", "resets"])
def test_an_error_is_read_while_the_body_is_still_being_sent(
    kind: Kind, ending: str, tmp_path: Path
) -> None:
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(TOO_LARGE)
        if ending == "waits":  # and reads nothing: a client that only sends would hang
            assert seen.wait(20)
        elif ending == "resets":
            # The answer first, and time for it: what a reset overtakes is lost to anybody.
            peer.socket.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
            peer.reset()

    # Closing with a body unread is a reset on TCP, which may overtake the answer.
    failures = (BadInput, ClientConnectionError) if ending == "closes" else BadInput
    for unix in (None, str(tmp_path / ending)):
        seen.clear()
        with (
            FakeServer(script, unix=unix) as server,
            kind(server.url, timeout=10, memfd=False) as client,
        ):
            with pytest.raises(failures) as refused:
                client.predict(LARGE)
            seen.set()
            assert isinstance(refused.value, ConnectionError) or "too large" in str(refused.value)


class Late(Transport):
    """Sends when the server is done with the connection."""

    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed

    def send(self, *arguments: Any) -> int:
        assert self._closed.wait(20)
        return super().send(*arguments)


def test_an_answer_given_before_the_first_byte_was_sent_is_read(tmp_path: Path) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(TOO_LARGE)
        peer.socket.close()
        closed.set()

    server = FakeServer(script, unix=str(tmp_path / "socket"))
    with server, Client(server.url) as client:
        client._core.transport = Late(closed)
        with pytest.raises(BadInput, match="too large"):
            client.predict(DATA)


@both
def test_sending_stops_at_the_head_of_an_error(kind: Kind) -> None:
    came: list[int] = []

    def script(peer: Peer) -> None:
        peer.head()
        head, body = TOO_LARGE[:-22], TOO_LARGE[-22:]
        came.append(len(peer.ahead))
        peer.send(head)
        time.sleep(0.1)  # the client stands still meanwhile, and reads
        peer.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while got := peer.socket.recv(1 << 20):
                came.append(len(got))
        peer.send(body)

    with (
        FakeServer(script) as server,
        kind(server.url) as client,
        pytest.raises(BadInput, match="too large"),
    ):
        client.predict(LARGE)
    assert sum(came) < LARGE.nbytes


@both
def test_an_answer_given_early_is_taken_and_the_connection_given_up(kind: Kind) -> None:
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(WHOLE)
        assert seen.wait(20)

    with FakeServer(script, always(WHOLE)) as server, kind(server.url) as client:
        check(client.predict(LARGE))
        seen.set()
        check(client.predict(DATA))
        assert server.connections == 2
