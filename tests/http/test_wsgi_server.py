"""WSGI applications on a real server: what goes over the socket, byte by byte.

Every application here runs under wsgiref.validate, but for those that break a rule on purpose and
those that it would change: it puts an iterator of its own in the place of a list, and wants what is
read to be of type bytes, which a large body read whole is a subclass of.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import numpy as np
import pytest
from rawhttp import CHUNKED, DEADLINE, Answer, Ended, RawClient, chunk, chunked, request

import fastpredict
from fastpredict.app import wsgi_app_of
from fastpredict.wsgi import Site

TYPE = ("Content-Type", "text/plain")
MB = 1 << 20
# More than the socket buffers of both sides ever take.
MUCH = 64 * MB

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]
get = functools.partial(request, "GET")


class Client(RawClient):
    """Reads answers of every framing."""

    def answer(self, method: str = "GET") -> Answer:
        """An answer of a length, or chunked, or up to the end. Raises Ended when it is cut."""
        status, reason, fields = self._head()
        answer = Answer(status, reason, fields, b"")
        length, chunks = answer.get("content-length"), answer.get("transfer-encoding")
        assert answer.get("date") is not None
        assert length is None or chunks is None
        if method == "HEAD" or status in (204, 304):
            return answer
        if length is not None:
            answer.body = self._exactly(int(length))
        elif chunks is not None:
            assert chunks == "chunked"
            answer.body = b"".join(iter(self.chunk, b""))
        else:
            assert answer.closes
            answer.body = self._input + b"".join(iter(self._receive, b""))
            self._input = b""
        return answer

    def chunk(self) -> bytes:
        """One chunk; b"" for the last."""
        while b"\r\n" not in self._input:
            got = self._receive()
            if not got:
                raise Ended("within a chunked body")
            self._input += got
        size, self._input = self._input.split(b"\r\n", 1)
        data = self._exactly(int(size, 16) + 2)
        assert data[-2:] == b"\r\n"
        return data[:-2]


class Served:
    def __init__(self, server: fastpredict.Server) -> None:
        self.server = server
        host, _, port = server.urls[0].removeprefix("http://").rpartition(":")
        self.address = (host, int(port))

    def connect(self, **options: Any) -> Client:
        return Client(self.address, **options)

    def ask(self, *pieces: bytes, method: str = "GET") -> Answer:
        with self.connect() as client:
            return client.ask(*pieces, method=method)

    def wait_idle(self) -> None:
        """Until nothing of any request is left."""
        names = ("queued", "running", "charged_bytes", "out_slots")
        until = time.monotonic() + DEADLINE
        while any(self.server.stats()[name] for name in names):
            assert time.monotonic() < until, self.server.stats()
            time.sleep(0.002)


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves an application, or an App, and ends without anything left of any request."""
    entered: list[AbstractContextManager[fastpredict.Server]] = []

    def start(app: Any, **options: Any) -> Served:
        if not isinstance(app, fastpredict.App):
            app = wsgi_app_of(app)
        server = fastpredict.Server(app, **{"port": 0, "access_log": False} | options)
        server.start()
        entered.append(server)
        return Served(server)

    yield start
    for server in entered:
        server.__exit__(None, None, None)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "fastpredict")
    return caplog


def one_error(errors: pytest.LogCaptureFixture) -> logging.LogRecord:
    """The one entry of the log, waited for: it may come after the answer."""
    until = time.monotonic() + DEADLINE
    while not errors.records:
        assert time.monotonic() < until, "nothing was logged"
        time.sleep(0.002)
    (record,) = errors.records
    return record


def strict(app: Any) -> Any:
    return validator(app)


@strict
def echo(environ: Environ, start: Start) -> list[bytes]:
    body = b"".join(iter(lambda: environ["wsgi.input"].read(65536), b""))
    start("200 OK", [TYPE, ("X-Method", environ["REQUEST_METHOD"])])
    return [body]


@strict
def tell(environ: Environ, start: Start) -> list[bytes]:
    """What is text in environ, as JSON."""
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({k: v for k, v in environ.items() if isinstance(v, str)}).encode()]


def answering(*blocks: bytes, status: str = "200 OK", headers: Any = (TYPE,)) -> Any:
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        start(status, list(headers))
        return iter(blocks)

    return app


# ---- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_and_type_and_length_reaches_the_application(
    serve: Serve, method: str
) -> None:
    served = serve(echo)
    for body in (b"", b"a", b"abc", bytes(3 * MB)):
        answer = served.ask(request(method, "/x", "Content-Type: a/b", body=body), method=method)
        assert answer.get("x-method") == method
        assert answer.body == body
    served.wait_idle()


def test_the_whole_body_is_the_receive_buffer_and_outlives_the_request(serve: Serve) -> None:
    kept = []

    def app(environ: Environ, start: Start) -> list[bytes]:
        body = environ["wsgi.input"].read()
        kept.append(body)
        start("200 OK", [TYPE])
        return [b"%d" % (np.frombuffer(body, np.uint8).ctypes.data % 64)]

    served = serve(app)
    for number in range(3):
        assert served.ask(request(body=bytes([number]) * MB)).body == b"0"
    assert all(isinstance(body, bytes) and type(body) is not bytes for body in kept)
    assert kept == [bytes([number]) * MB for number in range(3)]


def test_json_is_bytes_of_the_very_type(serve: Serve) -> None:
    """orjson takes nothing else."""

    @strict
    def app(environ: Environ, start: Start) -> list[bytes]:
        body = environ["wsgi.input"].read(-1)
        start("200 OK", [TYPE])
        return [type(body).__name__.encode(), b" %d" % len(body)]

    body = b"[%s]" % b",".join([b"1"] * MB)
    answer = serve(app).ask(request("POST", "/", "Content-Type: application/json", body=body))
    assert answer.body == b"bytes %d" % len(body)


@pytest.mark.parametrize("size", [0, 10, 3 * MB])
@pytest.mark.parametrize("length", [True, False], ids=["whole", "parts"])
def test_the_body_can_be_read_after_the_answer(serve: Serve, size: int, length: bool) -> None:
    """A generator goes on behind its last block, and close() comes after it."""
    lengths: list[int] = []

    class Result:
        def __init__(self, environ: Environ, start: Start) -> None:
            self.input = environ["wsgi.input"]
            start("200 OK", [TYPE, ("Content-Length", "2")] if length else [TYPE])

        def __iter__(self) -> Iterator[bytes]:
            yield b"ok"
            lengths.append(len(self.input.read(4)))

        def close(self) -> None:
            lengths.append(len(self.input.read(-1)))

    app = strict(lambda environ, start: Result(environ, start))
    served = serve(app)
    data = os.urandom(size)
    with served.connect() as client:
        for _ in range(2):
            assert client.ask(request("POST", "/", body=data)).body == b"ok"
    served.server.stop()
    first = min(size, 4)
    assert lengths == [first, size - first] * 2


def test_the_receive_buffer_is_free_again_when_a_flask_answer_goes_out(serve: Serve) -> None:
    """Though Flask's answer isn't a list and has an end of its own, which may take its time."""
    flask = pytest.importorskip("flask")
    app, ended = flask.Flask(__name__), threading.Event()

    @app.post("/")
    def length() -> Any:
        response = flask.Response(str(len(flask.request.data)))
        response.call_on_close(lambda: ended.wait(DEADLINE))
        return response

    served = serve(app)
    with served.connect() as client:
        answer = client.ask(request("POST", "/", body=bytes(3 * MB)))
        assert answer.body == b"%d" % (3 * MB)
        until = time.monotonic() + 1
        while served.server.stats()["out_slots"]:
            assert time.monotonic() < until, "the body is still held"
            time.sleep(0.002)
        ended.set()
    served.wait_idle()


def test_the_receive_buffer_is_sent_back_from_where_it_lies(serve: Serve) -> None:
    def app(environ: Environ, start: Start) -> list[bytes]:
        start("200 OK", [TYPE])
        return [environ["wsgi.input"].read()]

    served = serve(app)
    data = os.urandom(5 * MB)
    with served.connect() as client:
        for _ in range(3):
            assert client.ask(request(body=data)).body == data
    served.wait_idle()


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 * MB])
def test_a_chunked_body_is_there_with_its_length(serve: Serve, size: int) -> None:
    @strict
    def app(environ: Environ, start: Start) -> list[bytes]:
        length = environ["CONTENT_LENGTH"]
        assert "HTTP_TRANSFER_ENCODING" not in environ
        start("200 OK", [TYPE, ("X-Length", length)])
        return [environ["wsgi.input"].read(int(length) + 1)] if size < 16384 else [b"big"]

    data = os.urandom(size)
    answer = serve(app).ask(request("POST", "/", CHUNKED) + chunked(data, 70_000))
    assert answer.get("x-length") == str(size)
    assert answer.body == (data if size < 16384 else b"big")


def test_a_body_that_is_not_read_disturbs_nothing(serve: Serve) -> None:
    served = serve(strict(answering(b"abc", headers=[TYPE, ("Content-Length", "3")])))
    with served.connect() as client:
        for _ in range(3):
            assert client.ask(request(body=bytes(MB))).body == b"abc"
    served.wait_idle()


def test_expect_is_continued_before_the_application_is_called(serve: Serve) -> None:
    with serve(echo).connect() as client:
        client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 3"))
        assert client.interim() == 100
        assert client.ask(b"abc").body == b"abc"


def test_pipelined_requests_are_answered_in_order_whatever_the_framing(serve: Serve) -> None:
    def app(environ: Environ, start: Start) -> Any:
        start("200 OK", [TYPE])
        path = environ["PATH_INFO"].encode()
        return [path] if path < b"/2" else iter([path, path])

    with serve(app).connect() as client:
        client.send(b"".join(get(f"/{number % 4}") for number in range(12)))
        for number in range(12):
            path = b"/%d" % (number % 4)
            answer = client.answer()
            assert (answer.get("content-length") is None) is (path >= b"/2")
            assert answer.body == (path if path < b"/2" else path * 2)


def test_environ_tells_the_addresses_and_the_target(serve: Serve) -> None:
    served = serve(tell)
    with served.connect() as client:
        port = client.socket.getsockname()[1]
        said = json.loads(client.ask(get("/a%20b/%C3%A9%ff?x=%20", "X-A: 1", "x-a: 2")).body)
    assert said["SERVER_NAME"] == said["REMOTE_ADDR"] == "127.0.0.1"
    assert said["SERVER_PORT"] == str(served.address[1])
    assert said["REMOTE_PORT"] == str(port)
    assert said["PATH_INFO"] == "/a b/\xc3\xa9\xff"
    assert said["QUERY_STRING"] == "x=%20"
    assert said["RAW_URI"] == said["REQUEST_URI"] == "/a%20b/%C3%A9%ff?x=%20"
    assert said["HTTP_X_A"] == "1,2"
    assert said["HTTP_HOST"] == "test"
    assert said["SERVER_PROTOCOL"] == "HTTP/1.1"


def test_nothing_is_believed_of_what_proxies_add(serve: Serve) -> None:
    fields = (
        "Forwarded: for=192.0.2.1;proto=https;host=evil",
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "X-Real-IP: 192.0.2.1",
    )
    said = json.loads(serve(tell).ask(get("/", *fields)).body)
    assert said["REMOTE_ADDR"] == said["SERVER_NAME"] == "127.0.0.1"
    assert said["wsgi.url_scheme"] == "http"
    assert said["HTTP_HOST"] == "test"


def test_proxy_fix_believes_the_last_proxy(serve: Serve) -> None:
    """The README's advice. The last value is the nearest proxy's; those before it are anybody's."""
    flask = pytest.importorskip("flask")
    proxy_fix = pytest.importorskip("werkzeug.middleware.proxy_fix")
    app = flask.Flask(__name__)

    @app.get("/x")
    def said() -> Any:
        return [flask.request.remote_addr, flask.url_for("said", _external=True)]

    app.wsgi_app = proxy_fix.ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)
    served = serve(app)
    fields = (
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-For: 192.0.2.1",
        "X_Forwarded_For: 203.0.113.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil, models.example",
        "X-Forwarded-Prefix: /shop",
    )
    answer = served.ask(get("/x", *fields))
    assert json.loads(answer.body) == ["192.0.2.1", "https://models.example/shop/x"]
    assert json.loads(served.ask(get("/x")).body) == ["127.0.0.1", "http://test/x"]


def test_environ_of_an_absolute_target_and_of_http_1_0(serve: Serve) -> None:
    served = serve(tell)
    said = json.loads(served.ask(get("http://other:81/a?b")).body)
    assert (said["PATH_INFO"], said["QUERY_STRING"]) == ("/a", "b")
    assert said["HTTP_HOST"] == "other:81"
    said = json.loads(served.ask(get("/a", version="HTTP/1.0")).body)
    assert said["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "HTTP_HOST" not in said


def test_a_field_with_an_underscore_passes_for_no_other(serve: Serve) -> None:
    fields = ("X_User: spoofed", "X-User: real", "Content_Length: 9", "x_user: spoofed")
    said = json.loads(serve(tell).ask(get("/", *fields)).body)
    assert said["HTTP_X_USER"] == "real"
    assert "CONTENT_LENGTH" not in said


def test_a_unix_socket_has_a_server_and_a_client(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with fastpredict.Server(wsgi_app_of(tell), uds=path, access_log=False), Client(path) as client:
        said = json.loads(client.ask(get("/")).body)
    assert (said["SERVER_NAME"], said["SERVER_PORT"]) == ("localhost", "80")
    assert (said["REMOTE_ADDR"], said["REMOTE_PORT"]) == ("127.0.0.1", "0")


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [[b"abc"], [b"a", b"", b"bc"], [bytes(MB), b"x", bytes(MB)]])
def test_a_list_has_a_content_length(serve: Serve, blocks: list[bytes]) -> None:
    def app(environ: Environ, start: Start) -> list[bytes]:
        start("200 OK", [TYPE])
        return blocks

    served = serve(app)
    with served.connect() as client:
        for _ in range(3):
            answer = client.ask(get("/"))
            assert answer.get("content-length") == str(sum(map(len, blocks)))
            assert answer.body == b"".join(blocks)
    served.wait_idle()


@pytest.mark.parametrize("blocks", [[], [b""], [b"abc"], [b"a", b"", b"bc"], [bytes(MB)] * 3])
def test_a_stream_is_chunked_and_the_connection_stays(serve: Serve, blocks: list[bytes]) -> None:
    with serve(strict(answering(*blocks))).connect() as client:
        for _ in range(3):
            client.send(get("/"))
            answer = client.answer()
            framing = "chunked" if any(blocks) else None
            assert answer.get("transfer-encoding") == framing
            assert answer.body == b"".join(blocks)
            assert not answer.closes


def test_a_stream_to_http_1_0_ends_with_the_connection(serve: Serve) -> None:
    with serve(strict(answering(b"a", b"bc"))).connect() as client:
        client.send(get("/", "Connection: keep-alive", version="HTTP/1.0"))
        answer = client.answer()
        assert answer.get("transfer-encoding") is None
        assert answer.body == b"abc"


def test_a_known_length_keeps_an_http_1_0_connection(serve: Serve) -> None:
    app = strict(answering(b"a", b"bc", headers=[TYPE, ("Content-Length", "3")]))
    with serve(app).connect() as client:
        for _ in range(2):
            keep = get("/", "Connection: keep-alive", version="HTTP/1.0")
            assert client.ask(keep).body == b"abc"


def test_head_is_the_head_of_get_and_the_connection_stays(serve: Serve) -> None:
    with serve(strict(answering(b"abc", headers=[TYPE, ("Content-Length", "3")]))).connect() as c:
        for _ in range(2):
            answer = c.ask(request("HEAD", "/"), method="HEAD")
            assert (answer.get("content-length"), answer.body) == ("3", b"")
            assert c.ask(get("/")).body == b"abc"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_head_of_a_stream_has_no_body(serve: Serve, version: str) -> None:
    with serve(strict(answering(b"a", b"bc"))).connect() as client:
        for _ in range(2):
            client.send(request("HEAD", "/", "Connection: keep-alive", version=version))
            assert client.answer("HEAD").status == 200


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_statuses_without_a_body_leave_the_connection_in_step(serve: Serve, status: str) -> None:
    with serve(strict(answering(b"abc", status=status, headers=[]))).connect() as client:
        for _ in range(3):
            answer = client.ask(get("/"))
            assert answer.status == int(status[:3])
            assert answer.get("transfer-encoding") is None


@pytest.mark.parametrize(
    ("status", "reason"), [("418 I'm a teapot", "I'm a teapot"), ("599 Ours alone", "Ours alone")]
)
def test_the_reason_phrase_is_the_applications(serve: Serve, status: str, reason: str) -> None:
    with serve(strict(answering(status=status))).connect() as client:
        assert client.ask(get("/")).reason == reason


def test_headers_come_as_they_are_with_one_date(serve: Serve) -> None:
    date = "Tue, 15 Nov 1994 08:12:31 GMT"
    headers = [TYPE, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Server", "x"), ("Date", date)]
    answer = serve(strict(answering(headers=headers))).ask(get("/"))
    assert [value for name, value in answer.fields if name == "set-cookie"] == ["a=1", "b=2"]
    assert answer.get("date") == date
    assert answer.get("server") == "x"


def test_write_sends_what_the_result_follows(serve: Serve) -> None:
    @strict
    def app(environ: Environ, start: Start) -> list[bytes]:
        write = start("200 OK", [TYPE])
        write(b"ab")
        write(b"c")
        return [b"def"]

    with serve(app).connect() as client:
        for _ in range(2):
            client.send(get("/"))
            assert client.answer().body == b"abcdef"


@pytest.mark.parametrize("with_length", [False, True])
def test_a_file_is_sent_whole(serve: Serve, tmp_path: Path, with_length: bool) -> None:
    data = os.urandom(3 * MB + 1)
    (tmp_path / "file").write_bytes(data)
    files = []

    @strict
    def app(environ: Environ, start: Start) -> Any:
        length = [("Content-Length", str(len(data)))] if with_length else []
        start("200 OK", [TYPE, *length])
        files.append((tmp_path / "file").open("rb"))
        return environ["wsgi.file_wrapper"](files[-1])

    served = serve(app)
    with served.connect() as client:
        for _ in range(2):
            client.send(get("/"))
            answer = client.answer()
            assert (answer.get("content-length") is not None) is with_length
            assert answer.body == data
    served.wait_idle()
    assert all(file.closed for file in files)


def test_a_file_that_is_slow_holds_up_its_own_answer_only(serve: Serve, tmp_path: Path) -> None:
    """Files are read by a predict thread: the network thread answers while one waits."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    @strict
    def app(environ: Environ, start: Start) -> Any:
        start("200 OK", [TYPE])
        return environ["wsgi.file_wrapper"](path.open("rb", buffering=0))

    served = serve(app, threads=1)
    feeder = os.fdopen(os.open(path, os.O_RDWR), "wb", buffering=0)
    with feeder, served.connect() as client:
        client.send(get("/"))
        feeder.write(b"first")
        client._head()
        assert client.chunk() == b"first"
        for _ in range(3):
            assert served.ask(get("/livez")).status == 200
        feeder.write(b"last")
        assert client.chunk() == b"last"
        feeder.close()
        assert client.chunk() == b""
    served.wait_idle()


# ---- streaming -----------------------------------------------------------------------------------


def test_each_block_arrives_before_the_next_is_made(serve: Serve) -> None:
    go = threading.Semaphore(0)

    @strict
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [TYPE])

        def stream() -> Iterator[bytes]:
            for number in range(5):
                yield b"%d" % number
                assert go.acquire(timeout=DEADLINE)

        return stream()

    with serve(app).connect() as client:
        client.send(get("/"))
        client._head()
        for number in range(5):
            assert client.chunk() == b"%d" % number
            go.release()
        assert client.chunk() == b""


def test_a_client_that_does_not_read_stops_the_stream(serve: Serve) -> None:
    made = []

    @strict
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [TYPE, ("Content-Length", str(MUCH))])

        def stream() -> Iterator[bytes]:
            for number in range(MUCH // 65536):
                made.append(number)
                yield bytes(65536)

        return stream()

    served = serve(app)
    with served.connect(rcvbuf=65536) as client:
        client.send(get("/"))
        count = -1
        while count != len(made):  # until it stands still
            count = len(made)
            time.sleep(0.2)
        assert 0 < count < MUCH // 65536 // 2
        assert served.server.stats()["charged_bytes"] <= MB
        assert len(client.answer().body) == MUCH
    served.wait_idle()


def endless(closed: threading.Event, block: bytes = bytes(65536)) -> Any:
    """An application whose stream ends by being closed only."""

    @strict
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [TYPE])

        def stream() -> Iterator[bytes]:
            try:
                yield from itertools.repeat(block)
            finally:
                closed.set()

        return stream()

    return app


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_the_stream_is_closed_when_its_client_leaves(
    serve: Serve, leave: str, errors: pytest.LogCaptureFixture
) -> None:
    closed = threading.Event()
    served = serve(endless(closed))
    client = served.connect()
    client.send(get("/"))
    client.read_some(1000)
    getattr(client, leave)()
    assert closed.wait(DEADLINE)
    served.wait_idle()
    assert errors.records == []


def test_a_client_that_reads_nothing_is_put_out_and_its_stream_closed(serve: Serve) -> None:
    closed = threading.Event()
    served = serve(endless(closed), timeout_write=1)
    with served.connect(rcvbuf=65536) as client:
        client.send(get("/"))
        assert closed.wait(DEADLINE)
        client.expect_gone()
    served.wait_idle()


def test_a_stream_that_has_begun_is_finished_when_the_server_drains(serve: Serve) -> None:
    go = threading.Event()

    @strict
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [TYPE])

        def stream() -> Iterator[bytes]:
            yield b"first"
            assert go.wait(DEADLINE)
            yield b"last"

        return stream()

    served = serve(app)
    with served.connect() as client:
        client.send(get("/"))
        client._head()
        assert client.chunk() == b"first"
        stopping = threading.Thread(target=served.server.stop)
        stopping.start()
        go.set()
        assert client.chunk() == b"last"
        assert client.chunk() == b""
    stopping.join(DEADLINE)
    assert not stopping.is_alive()


# ---- errors --------------------------------------------------------------------------------------


def test_an_error_before_the_head_is_a_500_and_the_connection_stays(
    serve: Serve, errors: pytest.LogCaptureFixture
) -> None:
    @strict
    def app(environ: Environ, start: Start) -> list[bytes]:
        if environ["PATH_INFO"] == "/":
            raise KeyError("secret")
        start("200 OK", [TYPE])
        return [b"abc"]

    with serve(app).connect() as client:
        answer = client.ask(get("/"))
        assert answer.status == 500
        assert "KeyError" in answer.error()
        assert "secret" not in answer.error()
        assert client.ask(get("/a")).body == b"abc"
    assert one_error(errors).exc_info is not None


def test_half_a_line_for_a_closed_standard_error_leaves_the_thread_alive(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    @strict
    def app(environ: Environ, start: Start) -> list[bytes]:
        print("no end of line", end="", file=environ["wsgi.errors"])
        start("200 OK", [TYPE])
        return [b"abc"]

    closed = io.StringIO()
    closed.close()
    served = serve(app, threads=1)
    monkeypatch.setattr(sys, "stderr", closed)
    with served.connect() as client:
        for _ in range(3):
            assert client.ask(get("/")).body == b"abc"


def test_a_mistake_of_ours_is_a_500_and_leaves_the_thread_alive(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, errors: pytest.LogCaptureFixture
) -> None:
    def mistake(site: Site, exchange: object, process: int) -> None:
        raise RuntimeError("secret")

    with serve(echo, threads=1).connect() as client:
        with monkeypatch.context() as patch:
            patch.setattr(Site, "answer", mistake)
            answer = client.ask(get("/"))
        assert (answer.status, "server failed" in answer.error()) == (500, True)
        assert client.ask(get("/")).status == 200
    assert one_error(errors).exc_info is not None


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_an_error_after_the_head_is_seen_as_a_cut(
    serve: Serve, version: str, errors: pytest.LogCaptureFixture
) -> None:
    """In 1.0 only a reset tells a cut from the end."""

    @strict
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [TYPE])

        def stream() -> Iterator[bytes]:
            yield b"abc"
            raise KeyError

        return stream()

    served = serve(app)
    with served.connect() as client:
        client.send(get("/", version=version))
        with pytest.raises((Ended, ConnectionResetError)):
            client.answer()
    one_error(errors)
    served.wait_idle()


@pytest.mark.parametrize("blocks", [(b"ab",), (b"a", b"b")])
def test_too_little_is_seen_as_a_cut(
    serve: Serve, blocks: tuple[bytes, ...], errors: pytest.LogCaptureFixture
) -> None:
    app = strict(answering(*blocks, headers=[TYPE, ("Content-Length", "3")]))
    with serve(app).connect() as client, pytest.raises((Ended, ConnectionResetError)):
        client.ask(get("/"))
    assert "2 bytes of the 3" in one_error(errors).getMessage()


@pytest.mark.parametrize("blocks", [(b"abcHTTP/1.1 200 OK\r\n\r\n",), (b"a", b"bcd", b"e")])
def test_too_much_does_not_pass_for_the_next_answer(
    serve: Serve, blocks: tuple[bytes, ...], errors: pytest.LogCaptureFixture
) -> None:
    app = strict(answering(*blocks, headers=[TYPE, ("Content-Length", "3")]))
    with serve(app).connect() as client:
        client.send(get("/") * 2)
        for _ in range(2):
            assert client.answer().body == b"abc"
    assert "more than the 3" in errors.records[0].getMessage()


@pytest.mark.parametrize(
    "header",
    [("X-A", "a\r\nX-Injected: b"), ("X-A\r\nX-Injected", "b"), ("Transfer-Encoding", "chunked")],
)
def test_a_head_that_would_be_split_is_a_500_without_any_of_it(
    serve: Serve, header: tuple[str, str], errors: pytest.LogCaptureFixture
) -> None:
    with serve(answering(b"abc", headers=[header])).connect() as client:
        for _ in range(2):
            answer = client.ask(get("/"))
            assert answer.status == 500
            assert answer.get("x-injected") is None
    assert len(errors.records) == 2


def test_a_child_that_the_application_forks_answers_nobody(serve: Serve) -> None:
    @strict
    def app(environ: Environ, start: Start) -> list[bytes]:
        start("200 OK", [TYPE])
        child = os.fork()
        if child == 0:
            try:
                write = start("200 OK", [TYPE], (None, None, None))
                write(b"child")
            finally:
                os._exit(3)
        return [b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]

    served = serve(app)
    with served.connect() as client:
        for _ in range(2):
            assert client.ask(get("/")).body == b"3"


# ---- threads and mounts --------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_calls_run_at_once_as_there_are_threads(serve: Serve, threads: int) -> None:
    lock, running, most = threading.Lock(), [0], [0]
    full = threading.Event()

    @strict
    def app(environ: Environ, start: Start) -> list[bytes]:
        assert environ["wsgi.multithread"] is (threads > 1)
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            if running[0] == threads:
                full.set()
        assert full.wait(DEADLINE)
        time.sleep(0.005)
        with lock:
            running[0] -= 1
        start("200 OK", [TYPE])
        return [b"abc"]

    served = serve(app, threads=threads)
    clients = [served.connect() for _ in range(12)]
    for client in clients:
        client.send(get("/") * 2)
    for client in clients:
        for _ in range(2):
            assert client.answer().body == b"abc"
        client.close()
    assert most == [threads]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_predict_route_and_a_mount_count_as_one(serve: Serve, threads: int) -> None:
    """One call at a time, whichever of them it is; and all the threads are there for both."""
    lock, running, most = threading.Lock(), [0], [0]

    def inside() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.005)  # lets the others in, if they may
        with lock:
            running[0] -= 1

    @strict
    def mounted(environ: Environ, start: Start) -> list[bytes]:
        inside()
        start("200 OK", [TYPE])
        return [b"mounted"]

    app = fastpredict.App()
    app.mount("/", mounted)

    @app.predict("/predict", dtype=np.uint8)
    def predict(numbers: np.ndarray) -> np.ndarray:
        inside()
        return numbers

    served = serve(app, threads=threads)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(8)]
        both = request("POST", "/predict", body=b"predict") + get("/")
        for client in clients:
            client.send(both * 3)
        for client in clients:
            for body in (b"predict", b"mounted") * 3:
                assert client.answer().body == body
    assert most == [threads]


def mixed() -> fastpredict.App:
    app = fastpredict.App()

    @app.predict("/predict", dtype=np.float32)
    def double(numbers: np.ndarray) -> np.ndarray:
        return numbers * 2

    @app.predict("/api/predict", dtype=np.float32)
    def triple(numbers: np.ndarray) -> np.ndarray:
        return numbers * 3

    for path in ("/api", "/api/v2", "/é"):
        app.mount(path, tell)
    return app


@pytest.mark.parametrize(
    ("target", "script_name", "path_info"),
    [
        ("/api", "/api", ""),
        ("/api/", "/api", "/"),
        ("/api/x", "/api", "/x"),
        ("/%61pi/x", "/api", "/x"),
        ("/api/v2", "/api/v2", ""),
        ("/api/v2/x", "/api/v2", "/x"),
        ("/api/v22", "/api", "/v22"),
        ("/api/predict/x", "/api", "/predict/x"),
        ("/%C3%A9/%C3%A9", "/\xc3\xa9", "/\xc3\xa9"),
    ],
)
def test_the_longest_mount_of_whole_segments_answers(
    serve: Serve, target: str, script_name: str, path_info: str
) -> None:
    said = json.loads(serve(mixed()).ask(get(target)).body)
    assert (said["SCRIPT_NAME"], said["PATH_INFO"]) == (script_name, path_info)


def test_predict_routes_win_and_what_is_mounted_nowhere_is_404(serve: Serve) -> None:
    served = serve(mixed())
    with served.connect() as client:
        for _ in range(2):
            for target, factor in (("/predict", 2), ("/api/predict", 3)):
                answer = client.ask(request("POST", target, body=np.float32(2).tobytes()))
                assert np.frombuffer(answer.body, np.float32).tolist() == [2 * factor]
            for target in ("/", "/ap", "/apis", "/predict/x"):
                assert client.ask(get(target)).status == 404
            assert client.ask(get("/api/predict")).status == 405


def test_health_is_the_servers_own_below_a_mount_of_everything(serve: Serve) -> None:
    served = serve(tell)
    for path in ("/livez", "/readyz"):
        answer = served.ask(get(path))
        assert answer.status == 200
        assert b"PATH_INFO" not in answer.body
    assert json.loads(served.ask(get("/livezone")).body)["PATH_INFO"] == "/livezone"


def test_dot_segments_never_reach_an_application(serve: Serve) -> None:
    served = serve(tell)
    for target in ("/a/../b", "/..", "/a/%2e%2e/b", "/./a"):
        assert served.ask(get(target)).status == 400


def test_a_body_cut_in_pieces_reaches_the_application_whole(serve: Serve) -> None:
    data = os.urandom(1000)
    whole = request("POST", "/", CHUNKED) + chunk(data) + b"0\r\n\r\n"
    with serve(echo).connect() as client:
        assert client.ask(*(whole[at : at + 1] for at in range(len(whole)))).body == data


# ---- what people pass to a Server, and what browsers send ----------------------------------------


def test_a_server_takes_a_wsgi_application_by_itself():
    @strict
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [TYPE])
        return [environ["QUERY_STRING"].encode("latin-1")]

    with fastpredict.Server(application, port=0) as server:
        answer = Served(server).ask(get("/?filter[name]={a|b}&rate=100%"))
        assert answer.body == b"filter[name]={a|b}&rate=100%"


def test_a_mount_that_models_would_hide_is_refused():
    app = fastpredict.App()
    app.mount("/v2/mine", lambda environ, start_response: [])
    with fastpredict.Server(app, port=0):
        pass
    app.predict("/predict")(lambda array: array)
    with pytest.raises(ValueError, match="mount it elsewhere"):
        fastpredict.Server(app, port=0)
