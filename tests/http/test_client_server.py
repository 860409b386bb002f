"""fastpredict.Client and AsyncClient against fastpredict's own server, TCP and Unix sockets."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from client_both import Kind, both
from process import COMMAND, Process

import fastpredict
from fastpredict.client import Client
from fastpredict.client_async import AsyncClient
from fastpredict.client_errors import BadInput, BadResponse, HandlerError, Unavailable

PAIR = np.dtype([("a", "<i2"), ("b", "<f8", (2,))])
LARGE = np.random.default_rng(6).random((3000, 2500), dtype=np.float32)

app = fastpredict.App()


@app.predict("/predict", dtype=np.float32, shape=(-1, 4))
def double(rows: np.ndarray) -> np.ndarray:
    return rows * 2


@app.predict("/any")
def anything(array: np.ndarray) -> np.ndarray:
    return array


@app.predict("/pairs", dtype=PAIR)
def pairs(array: np.ndarray) -> np.ndarray:
    return array


@app.predict("/big", dtype=">i4")
def big(array: np.ndarray) -> np.ndarray:
    return array + 1


@app.predict("/sha256")
def sha256(data: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8).copy()


@app.predict("/scalar")
def scalar(array: np.ndarray) -> float:
    return float(array.sum())


@app.predict("/nothing")
def nothing(array: np.ndarray) -> None:
    return None


@app.predict("/fail")
def fail(array: np.ndarray) -> None:
    raise RuntimeError("secret")


@app.predict("/query")
def query(array: np.ndarray, request: fastpredict.Request) -> str:
    return request.query


@app.predict("/token")
def token(array: np.ndarray, request: fastpredict.Request) -> bytes:
    return dict(request.headers)["x-token"].encode()


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    path = tmp_path_factory.mktemp("client") / "socket"
    with fastpredict.Server(app, port=0, uds=str(path), access_log=False) as server:
        tcp, unix = server.urls
        yield {"tcp": tcp, "unix": unix, "unix://": f"unix://{path}"}
        assert not server.stats()["out_slots"]


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


@both
def test_an_array_goes_there_and_its_result_comes_back(kind: Kind, urls: dict[str, str]) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    for url in urls.values():
        with kind(url) as client:
            for _ in range(3):
                np.testing.assert_array_equal(client.predict(rows), rows * 2)
            np.testing.assert_array_equal(client.predict(rows[::-1, :]), rows[::-1] * 2)
            out = np.empty_like(rows)
            assert client.predict(rows, out=out) is out
            np.testing.assert_array_equal(out, rows * 2)


@both
@pytest.mark.parametrize(
    "array",
    [
        np.array([True, False]),
        np.float16([1, -2.5]),
        np.arange(24, dtype=np.int64).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        np.zeros((3, 0, 2), np.int8),
        np.array(3.5),
        np.array([(1, (2, 3)), (4, (5, 6))], PAIR),
        np.array(["2020-01-01"], "M8[D]"),
        np.array(["text", "ü"]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_npy_carries_every_dtype_and_shape(kind: Kind, url: str, array: np.ndarray) -> None:
    with kind(url) as client:
        answer = client.predict(array, "/any", npy=True)
        assert (answer.dtype, answer.shape) == (array.dtype, array.shape)
        assert answer.tobytes() == array.tobytes()
        out = np.empty(array.shape, array.dtype)
        assert client.predict(array, "/any", out, npy=True) is out
        assert out.tobytes() == array.tobytes()


def test_structured_and_empty_arrays_go_raw(url: str) -> None:
    with Client(url) as client:
        array = np.array([(1, (2, 3)), (4, (5, 6))], PAIR)
        assert client.predict(array, "/pairs").tobytes() == array.tobytes()
        assert client.predict(array[:0], "/pairs").shape == (0,)
        assert client.predict(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_an_array_of_another_byte_order_is_understood(url: str) -> None:
    with Client(url) as client:
        array = np.array([1, 70_000], ">i4")
        assert client.predict(array, "/big").tolist() == [2, 70_001]
        assert client.predict(array, "/big", npy=False).tolist() == [2, 70_001]
        for npy in (None, False):  # not taken for the numbers that its bytes would be
            with pytest.raises(BadInput, match="another dtype"):
                client.predict(np.zeros((1, 4), ">f4"), "/predict", npy=npy)


@both
def test_other_results_are_arrays_or_said_to_be_none(kind: Kind, url: str) -> None:
    data = np.ones(8, np.uint8)
    with kind(url) as client:
        answer = client.predict(data, "/scalar")
        assert (answer.shape, answer.tolist()) == ((), 8.0)
        with pytest.raises(BadResponse, match="204"):
            client.predict(data, "/nothing")
        with pytest.raises(BadResponse, match="text/plain"):
            client.predict(data, "/query?a=1&b=%20")
        assert client.predict(data, "/any").tolist() == data.tolist()


@both
def test_errors_say_what_the_server_said(kind: Kind, url: str) -> None:
    with kind(url) as client:
        with pytest.raises(BadInput, match="expected float32 of shape") as refused:
            client.predict(np.zeros(3, np.float32))
        assert refused.value.status == 400
        with pytest.raises(BadInput) as lost:
            client.predict(np.zeros(3), "/nowhere")
        assert lost.value.status == 404
        with pytest.raises(HandlerError) as failed:
            client.predict(np.zeros(3), "/fail")
        assert failed.value.status == 500
        assert "secret" not in str(failed.value)
        assert client.predict(np.zeros((1, 4), np.float32)).shape == (1, 4)


@both
def test_an_array_that_only_has_the_right_length_is_not_taken(kind: Kind, url: str) -> None:
    with kind(url) as client:
        for rows in (1, 100_000):  # over a Unix socket, many bytes go in memory that is lent
            with pytest.raises(BadInput, match=r"another dtype.*float32 of shape.*got int32"):
                client.predict(np.ones((rows, 4), np.int32))
            with pytest.raises(BadInput, match=r"another dtype.*got float64"):
                client.predict(np.ones((rows, 4)))
            with pytest.raises(BadInput, match=r"another shape.*got shape \(4, "):
                client.predict(np.ones((4, rows * 2), np.float32))
            array = np.ones(rows * 4, np.float32)
            assert client.predict(array).shape == (rows, 4), "another number of axes"


@both
def test_bytes_are_sent_as_bytes(kind: Kind, url: str) -> None:
    """To NumPy they are one text."""
    with kind(url) as client:
        for sent in (b"abc\0\0", bytearray(b"abc\0\0"), memoryview(b"abc\0\0"), b""):
            assert client.predict(sent, "/any").tobytes() == bytes(sent)


def test_a_large_array_that_is_refused_at_the_head_is_told_why(url: str) -> None:
    with Client(url) as client:
        for _ in range(3):
            with pytest.raises(BadInput, match="has 60000001 bytes"):
                client.predict(np.zeros(60_000_001, np.uint8))


def test_a_body_over_every_limit_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with fastpredict.Server(
        app, port=0, uds=str(path), access_log=False, max_request_body_size="1M"
    ) as server:
        for url in server.urls:
            with Client(url) as client, pytest.raises(BadInput) as refused:
                client.predict(np.zeros(100_000_000, np.uint8), "/any")
            assert refused.value.status == 413


def test_large_arrays_arrive_whole_both_ways(url: str) -> None:
    data = LARGE.view(np.uint8).ravel()
    with Client(url) as client:
        assert client.predict(data, "/sha256").tobytes() == hashlib.sha256(data).digest()
        for npy in (False, True):
            answer = client.predict(data, "/any", npy=npy)
            assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()


def test_threads_share_a_client(url: str) -> None:
    with Client(url, pool_size=4) as client, ThreadPoolExecutor(12) as threads:

        def call(seed: int) -> None:
            rows = np.random.default_rng(seed).random((seed % 50, 4), dtype=np.float32)
            np.testing.assert_array_equal(client.predict(rows), rows * 2)

        list(threads.map(call, range(300)))
        assert len(client._core.pool._idle) <= 4


def test_tasks_share_a_client(url: str) -> None:
    async def everything() -> None:
        async with AsyncClient(url, pool_size=4) as client:

            async def call(seed: int) -> None:
                rows = np.random.default_rng(seed).random((seed % 50, 4), dtype=np.float32)
                np.testing.assert_array_equal(await client.predict(rows), rows * 2)

            await asyncio.gather(*(call(seed) for seed in range(300)))
            large = await client.predict(LARGE.view(np.uint8).ravel(), "/any")
            assert (large == LARGE.view(np.uint8).ravel()).all()
            assert len(client._core.pool._idle) <= 4

    asyncio.run(everything())


@both
def test_health(kind: Kind, urls: dict[str, str], tmp_path: Path) -> None:
    for url in urls.values():
        with kind(url) as client:
            assert client.is_live() is True
            assert client.is_ready() is True
    for url in (f"unix:{tmp_path}/none", "http://127.0.0.1:1"):
        with kind(url) as client:
            assert client.is_live() is False
            assert client.is_ready() is False


@both
def test_headers_of_the_client_go_with_every_request(kind: Kind, url: str) -> None:
    with kind(url, headers={"X-Token": "s3"}) as client:
        assert client.predict(np.zeros(5, np.uint8), "/token").tobytes() == b"s3"


@both
def test_a_client_outlives_its_server(kind: Kind, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    rows = np.ones((1, 4), np.float32)
    with kind(f"unix:{path}") as client:
        for _ in range(3):
            with fastpredict.Server(app, uds=path, access_log=False):
                assert client.predict(rows).tolist() == [[2] * 4]
            assert client.is_live() is False


def test_a_full_queue_is_tried_again_and_then_said() -> None:
    let, entered = threading.Event(), threading.Semaphore(0)
    slow = fastpredict.App()

    @slow.predict("/predict")
    def wait(data: np.ndarray) -> np.ndarray:
        entered.release()
        assert let.wait(20)
        return data

    data = np.arange(9, dtype=np.uint8)
    with (
        fastpredict.Server(slow, port=0, access_log=False, max_queued_requests=1) as server,
        Client(server.url) as client,
        ThreadPoolExecutor(3) as threads,
    ):
        first = threads.submit(client.predict, data)
        assert entered.acquire(timeout=20)
        second = threads.submit(client.predict, data)
        until = time.monotonic() + 20
        while client.is_ready() and time.monotonic() < until:
            time.sleep(0.002)
        with pytest.raises(Unavailable) as full:
            client.predict(data, retries=0)
        assert full.value.status == 503
        assert full.value.retry_after == 1.0
        with pytest.raises(Unavailable):  # not enough time left to wait a second
            client.predict(data, timeout=0.9)
        third = threads.submit(client.predict, data)
        let.set()
        for each in (first, second, third):
            assert each.result(30).tolist() == data.tolist()


def test_against_a_server_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(
        "import fastpredict, numpy\napp = fastpredict.App()\n"
        "@app.predict('/predict', dtype='f4', shape=(3000, 2500))\n"
        "def predict(image):\n    return image * 2\n"
    )
    path = tmp_path / "socket"
    server = Process(*COMMAND, "serve", "served.py", "--port", "0", "--uds", path, cwd=tmp_path)
    try:
        found = server.err.wait(r"on (http://\S+) and (unix:\S+)")
        for url in found.groups():
            with Client(url) as client:
                out = client.empty(LARGE.shape, LARGE.dtype)
                for _ in range(3):
                    out[:] = 0
                    np.testing.assert_array_equal(client.predict(LARGE, out=out), LARGE * 2)
    finally:
        server.end()


@both
def test_a_route_is_a_model_too(kind: Kind, url: str) -> None:
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    with kind(url) as client:
        said = client.model_metadata("double")
        (given,), (result,) = said["inputs"], said["outputs"]
        for outputs in (None, [result["name"]]):
            answers = client.infer("double", {given["name"]: rows}, outputs)
            assert list(answers) == [result["name"]]
            np.testing.assert_array_equal(answers[result["name"]], rows * 2)
        with pytest.raises(BadInput) as lost:
            client.infer("nobody", {given["name"]: rows})
        assert lost.value.status == 404
        with pytest.raises(BadInput):
            client.infer("double", {given["name"]: rows.astype(np.float64)})
