"""Clients that people use, against fastpredict.App served by fastpredict.Server."""

from __future__ import annotations

import asyncio
import io
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import fastpredict

aiohttp = pytest.importorskip("aiohttp")
httpx = pytest.importorskip("httpx")
requests = pytest.importorskip("requests")

SHAPE = (3000, 2500)
LARGE = np.random.default_rng(7).random(SHAPE, dtype=np.float32)
CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="curl is not installed")


def make_app() -> fastpredict.App:
    app = fastpredict.App()

    @app.predict("/predict", dtype=np.float32, shape=SHAPE)
    def predict(image: npt.NDArray[np.float32]) -> np.float32:
        return image.mean(axis=1).std(axis=0)

    @app.predict("/double", dtype=np.float32, shape=(-1,))
    def double(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        values *= 2
        return values

    @app.predict("/bytes", dtype=np.uint8, shape=(-1,))
    def count(values: npt.NDArray[np.uint8]) -> dict[str, int]:
        return {"count": len(values), "sum": int(values.sum())}

    @app.predict("/fail", dtype=np.uint8, shape=(-1,))
    def fail(values: npt.NDArray[np.uint8]) -> None:
        raise ValueError("on purpose")

    return app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with fastpredict.Server(make_app(), port=0, access_log=False) as server:
        yield server.url


EXPECTED = LARGE.mean(axis=1).std(axis=0)
VALUES = np.arange(1000, dtype=np.float32)


def as_npy(array: npt.NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# ---- curl ----------------------------------------------------------------------------------------


def curl(*arguments: str, data: bytes = b"") -> bytes:
    command = [str(CURL), "-sS", "--max-time", "30", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=40).stdout


@needs_curl
def test_curl_as_it_is(url: str) -> None:
    """Form type by default; a body over 1 MiB makes it expect 100."""
    answer = curl("--data-binary", "@-", f"{url}/double", data=VALUES.tobytes())
    assert (np.frombuffer(answer, np.float32) == VALUES * 2).all()


@needs_curl
def test_curl_with_a_large_body(url: str) -> None:
    answer = curl(
        "-H",
        "Accept: application/json",
        "--data-binary",
        "@-",
        f"{url}/predict",
        data=LARGE.tobytes(),
    )
    assert np.float32(answer) == EXPECTED


@needs_curl
def test_curl_expects_100(url: str) -> None:
    said = curl(
        "-v",
        "--stderr",
        "-",
        "-H",
        "Expect: 100-continue",
        "--data-binary",
        "@-",
        f"{url}/bytes",
        data=b"abc" * 1000,
    )
    assert b"100 Continue" in said
    assert b'"count": 3000' in said or b'"count":3000' in said


@needs_curl
def test_curl_uploads_chunked_from_a_pipe(url: str) -> None:
    answer = curl("-T", "-", "-X", "POST", f"{url}/double", data=VALUES.tobytes())
    assert (np.frombuffer(answer, np.float32) == VALUES * 2).all()


@needs_curl
def test_curl_reads_an_error_while_it_uploads(url: str) -> None:
    answer = curl(
        "-w",
        "%{http_code}",
        "-H",
        "Expect:",
        "--data-binary",
        "@-",
        f"{url}/nothing",
        data=bytes(40 << 20),
    )
    assert answer.startswith(b'{"error": ')
    assert answer.endswith(b"404")


@needs_curl
def test_curl_with_http_10_and_head_and_http2_upgrade(url: str) -> None:
    assert curl("--http1.0", f"{url}/livez") == b"ok\n"
    assert b"200 OK" in curl("-I", f"{url}/livez")
    assert curl("--http2", f"{url}/livez") == b"ok\n"


@needs_curl
def test_curl_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with fastpredict.Server(make_app(), uds=path, access_log=False):
        answer = curl(
            "--unix-socket", path, "--data-binary", "@-", "http://any/double", data=VALUES.tobytes()
        )
    assert (np.frombuffer(answer, np.float32) == VALUES * 2).all()


# ---- requests and httpx --------------------------------------------------------------------------


def test_requests_as_the_seed_question_sends(url: str) -> None:
    with requests.Session() as session:
        for _ in range(3):
            answer = session.post(
                f"{url}/predict",
                data=LARGE.tobytes(),
                headers={"Accept": "application/json"},
                timeout=30,
            )
            assert answer.status_code == 200
            assert np.float32(answer.json()) == EXPECTED


def test_requests_with_npy_json_and_a_generator(url: str) -> None:
    npy = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    answer = requests.post(f"{url}/double", data=as_npy(VALUES), headers=npy, timeout=30)
    assert (np.load(io.BytesIO(answer.content)) == VALUES * 2).all()
    answer = requests.post(
        f"{url}/double", json=[1, 2, 3], headers={"Accept": "application/json"}, timeout=30
    )
    assert answer.json() == [2, 4, 6]
    pieces = (VALUES.tobytes()[at : at + 7] for at in range(0, 4000, 7))
    answer = requests.post(f"{url}/double", data=pieces, timeout=30)
    assert (np.frombuffer(answer.content, np.float32) == VALUES * 2).all()


def test_requests_reads_every_error(url: str) -> None:
    with requests.Session() as session:
        for path, data, status in (
            ("/nothing", LARGE.tobytes(), 404),
            ("/predict", b"abc", 400),
            ("/double", b"abc", 400),
            ("/fail", b"abc", 500),
        ):
            answer = session.post(url + path, data=data, timeout=30)
            assert answer.status_code == status
            assert list(answer.json()) == ["error"]
        assert session.get(f"{url}/predict", timeout=30).headers["Allow"] == "POST, OPTIONS"


def test_requests_from_many_threads(url: str) -> None:
    def post(seed: int) -> bool:
        values = np.random.default_rng(seed).random(50_000, dtype=np.float32)
        answer = requests.post(f"{url}/double", data=values.tobytes(), timeout=30)
        return bool((np.frombuffer(answer.content, np.float32) == values * 2).all())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(post, range(100)))


def test_httpx_keeps_its_connection(url: str) -> None:
    with httpx.Client(base_url=url, timeout=30) as client:
        for _ in range(20):
            answer = client.post("/double", content=VALUES.tobytes())
            assert np.dtype(answer.headers["x-dtype"]) == np.float32
            assert answer.headers["x-shape"] == "1000"
            assert (np.frombuffer(answer.content, np.float32) == VALUES * 2).all()
        pieces = np.split(VALUES, 10)
        answer = client.post("/double", content=(piece.tobytes() for piece in pieces))
        assert (np.frombuffer(answer.content, np.float32) == VALUES * 2).all()
        assert client.head("/readyz").status_code == 200
        assert client.options("/double").status_code == 204


# ---- aiohttp -------------------------------------------------------------------------------------


async def pieces_of(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def test_aiohttp_side_by_side(url: str) -> None:
    async def post(session: aiohttp.ClientSession, seed: int) -> None:
        values = np.random.default_rng(seed).random(30_000 + seed, dtype=np.float32)
        data = values.tobytes()
        body = data if seed % 2 else pieces_of(data, 9973)
        async with session.post(f"{url}/double", data=body, expect100=seed % 3 == 0) as answer:
            assert answer.status == 200
            assert (np.frombuffer(await answer.read(), np.float32) == values * 2).all()

    async def everything() -> None:
        timeout = aiohttp.ClientTimeout(total=40)
        connector = aiohttp.TCPConnector(limit=32)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(post(session, seed) for seed in range(150)))
            async with session.post(
                f"{url}/predict", data=pieces_of(LARGE.tobytes(), 1 << 20)
            ) as answer:
                assert np.frombuffer(await answer.read(), np.float32)[0] == EXPECTED

    asyncio.run(everything())
