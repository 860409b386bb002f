"""Clients that would lend their memory, and servers that don't take it or take it wrongly."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from client_both import Kind, both
from client_fake import (
    ARRAY,
    WHOLE,
    FakeServer,
    Peer,
    always,
    answer,
    array_answer,
    check,
    describing,
)

from fastpredict.client import Client
from fastpredict.client_errors import BadResponse, ClientConnectionError, ClientError

BODY = np.arange(1_000_000, dtype=np.uint8)
QUESTION = "GET /v2 HTTP/1.1"
CALL = "POST /predict HTTP/1.1"
BUSY = answer(b"{}", "503 Service Unavailable")


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def taken(value: str) -> bytes:
    """The answer of a server that takes memory, or says so."""
    return answer(b"", "200 OK", f"Fastpredict-Memfd: {value}")


def takes(peer: Peer) -> None:
    """Answers the question as a server does that takes memory."""
    heard = peer.request()
    assert heard is not None
    assert heard.line == QUESTION
    peer.send(taken(heard.fields["fastpredict-answer-memfd"].replace("17408", "9")))


# ---- servers that take none ----------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "said", [WHOLE, answer(b"", "404 Not Found"), answer(b"{}", "400 Bad Request"), BUSY]
)
def test_a_server_that_doesnt_say_that_it_takes_memory_is_sent_the_body(
    kind: Kind, path: str, said: bytes
) -> None:
    heard = []

    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            heard.append(request.line)
            if request.line == QUESTION:
                peer.send(said)
            else:
                assert "fastpredict-memfd" not in request.fields
                assert request.body == BODY.tobytes()
                peer.send(WHOLE)

    with FakeServer(script, unix=path) as server, kind(server.url) as client:
        lent = client.empty(BODY.shape, BODY.dtype)
        lent[:] = BODY
        for array in (BODY, lent, BODY):
            check(client.predict(array))
        assert server.connections == 1
    asked_once = [QUESTION, CALL, CALL, CALL]
    assert heard == (asked_once if said is not BUSY else [QUESTION, CALL] * 3)


@both
@pytest.mark.parametrize(
    "last", [b"", b"nonsense", answer(b"", "400 Bad Request", "Connection: close")]
)
def test_a_server_that_leaves_at_the_question_is_not_asked_again(
    kind: Kind, path: str, last: bytes
) -> None:
    def leave(peer: Peer) -> None:
        peer.request()
        peer.send(last)

    with FakeServer(leave, always(WHOLE), unix=path) as server, kind(server.url) as client:
        check(client.predict(BODY))
        check(client.predict(BODY))
        assert server.connections == 2


@both
def test_a_client_that_insists_fails_where_no_memory_is_taken(kind: Kind, path: str) -> None:
    with (
        FakeServer(always(WHOLE), unix=path) as server,
        kind(server.url, memfd=True) as client,
        pytest.raises(BadResponse, match="takes no memory"),
    ):
        client.predict(BODY)


def test_small_calls_ask_nothing(path: str) -> None:
    lines = []

    def script(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            lines.append(request.line)
            peer.send(WHOLE)

    with FakeServer(script, unix=path) as server, Client(server.url) as client:
        for _ in range(3):
            check(client.predict(BODY[:1000]))
    assert lines == [CALL] * 3


def test_without_memfds_all_goes_over_the_socket(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused)
    with FakeServer(always(WHOLE), unix=path) as server, Client(server.url) as client:
        array = client.empty(BODY.shape, BODY.dtype)
        array[:] = BODY
        check(client.predict(array))
        check(client.predict(BODY, out=np.empty_like(ARRAY)))


# ---- servers that take it wrongly ----------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "value",
    ["offset=0; length=80", "offset=4096; length=99999999999", "offset=-1; length=80", "yes", ""],
)
def test_an_answer_elsewhere_than_in_its_room_is_refused(kind: Kind, path: str, value: str) -> None:
    def script(peer: Peer) -> None:
        takes(peer)
        request = peer.request()
        assert request is not None
        assert request.fields["content-length"] == "0"
        assert request.fields["fastpredict-memfd"].endswith("length=1000000")
        fields = (*describing(ARRAY), f"Fastpredict-Memfd: {value}")
        peer.send(answer(b"", "200 OK", *fields))
        peer.expect_gone()

    with (
        FakeServer(script, unix=path) as server,
        kind(server.url) as client,
        pytest.raises(BadResponse, match="memory"),
    ):
        client.predict(BODY)


@both
def test_an_answer_in_memory_of_another_length_than_it_says_is_refused(
    kind: Kind, path: str
) -> None:
    def script(peer: Peer) -> None:
        takes(peer)
        request = peer.request()
        assert request is not None
        room = request.fields["fastpredict-answer-memfd"].replace("1001024", "79")
        peer.send(answer(b"", "200 OK", *describing(ARRAY), f"Fastpredict-Memfd: {room}"))
        peer.expect_gone()

    with (
        FakeServer(script, unix=path) as server,
        kind(server.url) as client,
        pytest.raises(BadResponse, match="but comes with 79"),
    ):
        client.predict(BODY)


@both
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", array_answer(ARRAY)[:-9]])
def test_memory_of_a_broken_call_is_not_used_again(kind: Kind, path: str, said: bytes) -> None:
    def script(peer: Peer) -> None:
        takes(peer)
        peer.request()
        peer.send(said)

    with FakeServer(script, unix=path) as server, kind(server.url) as client:
        lent = client.empty(BODY.shape, BODY.dtype)
        core = getattr(client, "_client", client)._core
        arena = core.lender.arena
        with pytest.raises(ClientConnectionError):
            client.predict(lent)
        used = arena.find(lent)
        assert used is not None
        assert used.segment.retired
        again = arena.find(client.empty(BODY.shape, BODY.dtype))
        assert again is not None
        assert again.segment is not used.segment
        del lent, used
        gc.collect()
        assert not any(segment.retired for segment in arena._index[1])


@both
def test_a_call_sent_again_on_a_new_connection_has_other_room(kind: Kind, path: str) -> None:
    rooms = []

    def script(peer: Peer) -> None:
        takes(peer)
        for number in range(2):
            request = peer.request()
            if request is None:
                return
            rooms.append(request.fields.get("fastpredict-answer-memfd"))
            if number:
                return  # without an answer: the client can't know whether it was read
            peer.send(array_answer(np.zeros(200_000, np.uint8)))

    with FakeServer(script, unix=path) as server, kind(server.url) as client:
        assert client.predict(BODY).shape == (200_000,)
        assert client.predict(BODY).shape == (200_000,)
        assert server.connections == 2
    assert all(rooms)
    assert len(rooms) == 3


def test_clients_refuse_fields_that_they_write_themselves() -> None:
    for name in ("Fastpredict-Memfd", "fastpredict-answer-memfd"):
        with pytest.raises(ValueError, match="written by the client"):
            Client("unix:/nowhere", headers={name: "offset=0; length=1"})
    assert issubclass(BadResponse, ClientError)
