"""Answers asked for wrongly: each mistake is an exception, and the right answer still goes out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from coreserver import Servers, echo, route
from rawhttp import request

from fastpredict import _core

Mistake = Callable[[Any], Any]

# What is asked for, the exception and what it says; before begin(200, [], 6) and after it.
BEFORE: list[tuple[Mistake, type[Exception], str]] = [
    (lambda exchange: exchange.write(b"a"), RuntimeError, "begin"),
    (lambda exchange: exchange.end(), RuntimeError, "begin"),
    (lambda exchange: exchange.end(False), RuntimeError, "begin"),
    (lambda exchange: exchange.begin(199, [], 6), ValueError, "199"),
    (lambda exchange: exchange.begin(600, [], 6), ValueError, "600"),
    (lambda exchange: exchange.begin(200, [], -1), ValueError, "content_length"),
    (lambda exchange: exchange.begin(200, [], 6, "OK"), TypeError, "reason must be bytes"),
    (lambda exchange: exchange.begin(200, [(b"a", "b")], 6), TypeError, "pairs"),
    (lambda exchange: exchange.reply(200, [], [b"abcdef"], reason="OK"), TypeError, "reason"),
]
AFTER: list[tuple[Mistake, type[Exception], str]] = [
    (lambda exchange: exchange.begin(200, [], 6), RuntimeError, "had its reply"),
    (lambda exchange: exchange.reply(200, [], [b"abcdef"]), RuntimeError, "had its reply"),
    (lambda exchange: exchange.write(b"abcdefg"), ValueError, "7 bytes.* 6 are left"),
    (lambda exchange: exchange.write("abcdef"), TypeError, "bytes-like"),
]


def make(exchange: _core.Exchange, mistakes: list[tuple[Mistake, type[Exception], str]]) -> None:
    for mistake, kind, says in mistakes:
        with pytest.raises(kind, match=says):
            mistake(exchange)


def test_mistakes_lose_nothing(core_server: Servers) -> None:
    def handler(exchange: _core.Exchange) -> None:
        make(exchange, BEFORE)
        exchange.begin(200, [], 6)
        make(exchange, AFTER)
        assert exchange.write(b"abc")
        with pytest.raises(ValueError, match=r"4 bytes.* 3 are left"):
            exchange.write(b"defg")
        assert exchange.write(b"def")
        exchange.end()
        make(exchange, [(lambda it: it.write(b"g"), RuntimeError, "reply"), *AFTER[:2]])
        with pytest.raises(RuntimeError):
            exchange.end()

    server = core_server(handler)
    with server.connect() as client:
        for _ in range(2):
            client.send(request(body=b"a"))
            answer = client.answer()
            assert (answer.status, answer.body) == (200, b"abcdef")


def test_headers_that_answer_while_they_are_read(core_server: Servers) -> None:
    """begin() runs the iterator's own code, which may have begun the answer itself."""

    def handler(exchange: _core.Exchange) -> None:
        def headers() -> Any:
            exchange.begin(200, [(b"who", b"inner")], 2)
            yield (b"who", b"outer")

        with pytest.raises(RuntimeError, match="had its reply"):
            exchange.begin(200, headers(), 3)
        assert exchange.write(b"ok")
        exchange.end()

    server = core_server(handler)
    with server.connect() as client:
        client.send(request(body=b"a"))
        answer = client.answer()
        assert (answer.body, answer.get("who")) == (b"ok", "inner")


def test_one_thread_reaps(core_server: Servers) -> None:
    server = core_server()
    with pytest.raises(RuntimeError, match="another thread is in reap"):
        server.core.reap()


def test_an_exchange_is_one_threads_while_it_writes(core_server: Servers) -> None:
    """Another thread that comes upon it then is told so, and the answer goes on."""
    size = 8 << 20
    seen: list[str] = []
    began = threading.Event()

    def handler(exchange: _core.Exchange) -> None:
        def intrude() -> None:
            began.set()
            while not seen:
                try:
                    exchange.header("kind")
                except RuntimeError as error:
                    seen.append(str(error))

        exchange.begin(200, [], size)
        other = threading.Thread(target=intrude)
        other.start()
        assert began.wait(10)
        assert exchange.write(bytes(size))
        exchange.end()
        other.join(10)

    server = core_server(handler)
    with server.connect(rcvbuf=4096) as client:
        client.send(request(body=b"a"))
        assert client.answer().body == bytes(size)
    assert len(seen) == 1


def test_errors_are_json_whatever_the_route_is_called(core_server: Servers) -> None:
    expected = 'a "quoted" \\ thing,\ttwo\nlines'
    server = core_server(echo, routes=[route("/q", unit=4, expected=expected)])
    with server.connect() as client:
        client.send(request(target="/q", body=b"abc"))
        answer = client.answer()
        assert answer.status == 400
        assert expected in answer.error()


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/octet-stream ; a=b", 200),
        ("application/octet-stream\t ;", 200),
        ("application/octet-stream x;", 415),
        ("text/html ; charset=utf-8", 415),
    ],
)
def test_blanks_before_parameters_of_a_media_type(
    core_server: Servers, kind: str, status: int
) -> None:
    server = core_server()
    with server.connect() as client:
        client.send(request("POST", "/echo", f"Content-Type: {kind}", body=b"abc"))
        assert client.answer().status == status
