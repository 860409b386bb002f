"""What clients wait for, try again and give up: 503, timeouts, servers that are not there."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
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
    once,
)

from fastpredict.client import Client
from fastpredict.client_async import AsyncClient
from fastpredict.client_errors import (
    BadResponse,
    ClientConnectionError,
    ClientError,
    ClientTimeoutError,
    Unavailable,
)

BUSY = answer(b'{"error": "busy"}', "503 Service Unavailable", "Retry-After: 0")


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """No test leaves a descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


# ---- 503 -----------------------------------------------------------------------------------------


@both
def test_503_is_tried_again_as_often_as_allowed(kind: Kind) -> None:
    def script(peer: Peer) -> None:
        for said in (BUSY, BUSY, WHOLE, BUSY, BUSY):
            peer.request()
            peer.send(said)

    with FakeServer(script) as server, kind(server.url, retries=2) as client:
        check(client.predict(DATA))
        with pytest.raises(Unavailable, match="busy"):
            client.predict(DATA, retries=1)
        assert server.connections == 1


@both
@pytest.mark.parametrize(
    "said",
    [
        answer(b"", "503 Service Unavailable"),
        answer(b"", "503 Service Unavailable", "Retry-After: 31"),
        answer(b"", "503 Service Unavailable", "Retry-After: soon"),
        answer(b"", "500 Internal Server Error", "Retry-After: 0"),
        answer(b"", "429 Too Many Requests", "Retry-After: 0"),
    ],
    ids=["no time", "long", "no sense", "500", "429"],
)
def test_what_is_not_tried_again(kind: Kind, said: bytes) -> None:
    def script(peer: Peer) -> None:
        once(said)(peer)
        assert peer.request() is None

    with FakeServer(script) as server, kind(server.url) as client, pytest.raises(ClientError):
        client.predict(DATA)


@both
def test_retry_after_beyond_the_timeout_is_not_waited_for(kind: Kind) -> None:
    said = answer(b"", "503 Service Unavailable", "Retry-After: 20")
    with FakeServer(always(said)) as server, kind(server.url, timeout=10) as client:
        start = time.monotonic()
        with pytest.raises(Unavailable) as busy:
            client.predict(DATA)
        assert busy.value.retry_after == 20.0
        with pytest.raises(Unavailable):
            client.predict(DATA, timeout=60, retries=0)
        assert time.monotonic() - start < 5


# ---- time ----------------------------------------------------------------------------------------


def silent(peer: Peer) -> None:
    peer.request()
    peer.expect_gone()


def deaf(peer: Peer) -> None:
    """Reads the head and nothing of the body, until the client has gone."""
    peer.head()
    time.sleep(0.3)
    peer.expect_gone()


def held(let: threading.Event) -> Callable[[Peer], None]:
    """Answers once it is let."""

    def script(peer: Peer) -> None:
        peer.request()
        assert let.wait(20)
        peer.send(WHOLE)

    return script


def drips(peer: Peer) -> None:
    peer.request()
    try:
        for at in range(len(WHOLE)):
            peer.send(WHOLE[at : at + 1])
            time.sleep(0.02)
    except (BrokenPipeError, ConnectionResetError):
        pass


@both
@pytest.mark.parametrize(
    ("script", "data"),
    [(silent, DATA), (deaf, LARGE), (drips, DATA)],
    ids=["silent", "deaf", "drips"],
)
def test_a_timeout_covers_the_whole_call(kind: Kind, script: object, data: np.ndarray) -> None:
    with FakeServer(script) as server, kind(server.url, timeout=0.2) as client:
        start = time.monotonic()
        with pytest.raises(ClientTimeoutError, match=r"0\.2 s"):
            client.predict(data)
        assert 0.15 < time.monotonic() - start < 5
        with pytest.raises(TimeoutError):
            client.predict(data, timeout=0.05)


def floods(peer: Peer) -> None:
    """An answer without an end, as fast as it is read."""
    peer.request()
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    until = time.monotonic() + 10
    try:
        peer.send(head)
        while time.monotonic() < until:
            peer.send(b"1000\r\n" + bytes(4096) + b"\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass


@both
def test_a_server_that_never_stops_sending_is_in_the_timeout(kind: Kind) -> None:
    with FakeServer(floods) as server, kind(server.url, timeout=0.3) as client:
        start = time.monotonic()
        with pytest.raises(ClientTimeoutError, match="receiving the answer"):
            client.predict(DATA)
        assert time.monotonic() - start < 5


@both
def test_looking_a_host_up_is_told_from_connecting(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio stops waiting for it; the blocking client can't, but goes no further."""
    real = socket.getaddrinfo

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.5)
        return real(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with (
        FakeServer(always(WHOLE)) as server,
        kind(f"http://localhost:{server.port}") as client,
        pytest.raises(ClientTimeoutError, match="looking the host up"),
    ):
        client.predict(DATA, timeout=0.1)
    assert server.connections == 0


@both
def test_a_server_is_live_though_all_connections_are_busy(kind: Kind) -> None:
    let = threading.Event()

    async def beside(url: str) -> None:
        async with AsyncClient(url, pool_size=1) as client:
            busy = asyncio.create_task(client.predict(DATA))
            while not server.connections:
                await asyncio.sleep(0.001)
            assert await client.is_live()
            let.set()
            check(await busy)

    with FakeServer(held(let), always(answer(b"ok"))) as server:
        if kind is not Client:
            asyncio.run(beside(server.url))
            return
        with Client(server.url, pool_size=1) as client:
            thread = threading.Thread(target=client.predict, args=(DATA,))
            thread.start()
            while not server.connections:
                time.sleep(0.001)
            assert client.is_live()
            let.set()
            thread.join(20)


def test_a_forked_child_waits_for_none_of_its_parents_calls() -> None:
    let = threading.Event()

    with FakeServer(held(let), always(WHOLE)) as server, Client(server.url, pool_size=1) as client:
        thread = threading.Thread(target=client.predict, args=(DATA,))
        thread.start()
        while not server.connections:
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                check(client.predict(DATA, timeout=5))
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        let.set()
        thread.join(20)


@both
def test_waiting_for_a_connection_of_the_pool_is_in_the_timeout(kind: Kind) -> None:
    let = threading.Event()

    if kind is not Client:

        async def both_at_once(url: str) -> None:
            async with AsyncClient(url, pool_size=1) as client:
                first = asyncio.create_task(client.predict(DATA))
                await asyncio.sleep(0)
                with pytest.raises(ClientTimeoutError, match="free connection"):
                    await client.predict(DATA, timeout=0.1)
                let.set()
                check(await first)

        with FakeServer(held(let)) as server:
            asyncio.run(both_at_once(server.url))
        return
    with FakeServer(held(let)) as server, Client(server.url, pool_size=1) as client:
        results: list[np.ndarray] = []
        thread = threading.Thread(target=lambda: results.append(client.predict(DATA)))
        thread.start()
        while not server.connections:
            time.sleep(0.001)
        with pytest.raises(ClientTimeoutError, match="free connection"):
            client.predict(DATA, timeout=0.1)
        let.set()
        thread.join(20)
        check(results[0])


def test_a_cancelled_task_closes_its_connection_and_frees_its_place() -> None:
    async def everything(url: str) -> None:
        async with AsyncClient(url, pool_size=1) as client:
            task = asyncio.create_task(client.predict(DATA))
            while not server.connections:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            check(await client.predict(DATA))

    with FakeServer(silent, always(WHOLE)) as server:
        asyncio.run(everything(server.url))


# ---- the rest ------------------------------------------------------------------------------------


@both
def test_nobody_there_is_a_connection_error(kind: Kind, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (
        f"http://127.0.0.1:{port}",
        f"unix:{tmp_path}/none",
        f"unix:/{'x' * 200}",
        "http://name.invalid:1",
        "http://a..b:1",
    ):
        with kind(url) as client, pytest.raises(ClientConnectionError) as gone:
            client.predict(DATA)
        assert isinstance(gone.value, ConnectionError)


def test_a_host_with_several_addresses_is_tried_to_the_end() -> None:
    # "localhost" is ::1 first, where nobody listens.
    with FakeServer(always(WHOLE)) as server, Client(f"http://localhost:{server.port}") as client:
        check(client.predict(DATA))


@both
def test_a_full_backlog_of_a_unix_socket_is_waited_for(kind: Kind, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        while True:  # until nobody else fits
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            waiting.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        with kind(f"unix:{path}") as client, pytest.raises(ClientTimeoutError, match="connecting"):
            client.predict(DATA, timeout=0.1)
    for sock in waiting:
        sock.close()


@both
def test_out_takes_what_fits_and_nothing_is_sent_for_what_can_not(kind: Kind) -> None:
    with FakeServer(always(WHOLE)) as server, kind(server.url) as client:
        for wrong in (ARRAY.T.copy().T, np.broadcast_to(np.float32(0), (4, 5)), [1]):
            with pytest.raises((TypeError, ValueError)):
                client.predict(DATA, out=wrong)
        assert server.connections == 0
        with pytest.raises(BadResponse, match="out is float64"):
            client.predict(DATA, out=np.zeros((4, 5)))
        check(client.predict(DATA, out=np.zeros((4, 5), np.float32)))
        check(np.asarray(client.predict(DATA, out=np.zeros((4, 5), np.float32).view(np.matrix))))


@both
def test_progress_is_told_in_both_directions(kind: Kind) -> None:
    said: list[tuple[str, int, int | None]] = []
    answers = array_answer(np.arange(1_000_000, dtype=np.float32))
    with FakeServer(always(answers)) as server, kind(server.url) as client:
        client.predict(LARGE, progress=lambda *each: said.append(each))
    sent = [done for direction, done, _ in said if direction == "send"]
    received = [done for direction, done, _ in said if direction == "receive"]
    assert sent == sorted(sent)
    assert sent[-1] >= LARGE.nbytes
    assert received == sorted(received)
    assert received[-1] == 4_000_000


@both
def test_what_progress_raises_is_the_callers_and_nothing_is_repeated(kind: Kind) -> None:
    """Though it may look like what a socket raises."""
    error = BrokenPipeError(32, "standard output has gone")

    def progress(*_: object) -> None:
        raise error

    with FakeServer(always(WHOLE)) as server, kind(server.url) as client:
        check(client.predict(DATA))
        with pytest.raises(BrokenPipeError) as raised:
            client.predict(DATA, progress=progress)
        assert raised.value is error
        check(client.predict(DATA))
    assert server.connections == 2


@both
def test_a_closed_client_says_so(kind: Kind) -> None:
    with FakeServer(always(WHOLE)) as server, kind(server.url) as client:
        check(client.predict(DATA))
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.predict(DATA)


@both
@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "https://h", "ftp://h", "http://", "http://u:p@h", "http://h?q", "http://h:x",
     "http://h:99999", "unix:", "unix://relative", ""],
)  # fmt: skip
def test_a_url_that_can_not_be_is_refused(kind: Kind, url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        kind(url)


@both
def test_options_that_can_not_be_are_refused(kind: Kind) -> None:
    for wrong in (
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"retries": -1},
        {"pool_size": 0},
        {"headers": {"Host": "x"}},
        {"headers": {"X": "a\r\nb"}},
        {"headers": {"Content-Length": "1"}},
    ):
        with pytest.raises(ValueError, match=r".+"):
            kind("http://h", **wrong)
    with pytest.raises(TypeError):
        kind("http://h", retries=1.5)
    with kind("http://h") as client, pytest.raises(ValueError, match="start with"):
        client.predict(DATA, "predict")
