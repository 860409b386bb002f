"""The codecs behind the real server: its arrays and its answers, for any bodies and results."""

from __future__ import annotations

import http.client
import io
import logging
from collections.abc import Iterator
from typing import Any

import fake_core
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis_values import Array, accepts, arrays, mutations, npy_of, results
from soak import times

import fastpredict

pytestmark = [
    pytest.mark.skipif(
        fake_core.core().Server is fake_core.Server, reason="the extension isn't built"
    ),
    pytest.mark.filterwarnings("ignore"),
]

#: One server for all examples, which it must outlive.
SERVED = settings(
    max_examples=times(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Client:
    """A server whose /same returns its input, and whose /give returns ``given``."""

    def __init__(self, server: fastpredict.Server) -> None:
        self.given: Any = None
        host, port = server.url.removeprefix("http://").split(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=20)

    def post(self, path: str, body: bytes, **headers: str | None) -> tuple[int, bytes]:
        fields = {
            name.replace("_", "-"): value for name, value in headers.items() if value is not None
        }
        self._connection.request("POST", path, body, fields)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    app = fastpredict.App()

    client: Client

    @app.predict("/same")
    def same(array: Array) -> Array:
        return array

    @app.predict("/give")
    def give(array: Array) -> Any:
        return client.given  # set below, before anybody asks

    logging.disable(logging.CRITICAL)
    with fastpredict.Server(app, port=0, access_log=False) as server:
        client = Client(server)
        yield client
    logging.disable(logging.NOTSET)


@given(data=st.data(), array=arrays())
@SERVED
def test_mutated_npy_is_served_or_400(client: Client, data: st.DataObject, array: Array) -> None:
    body = data.draw(mutations(npy_of(array)))
    status, sent = client.post(
        "/same", body, Content_Type="application/x-npy", Accept="application/x-npy"
    )
    assert status in (200, 400)
    if status == 200:
        right = np.load(io.BytesIO(body), allow_pickle=False)
        found = np.load(io.BytesIO(sent), allow_pickle=False)
        assert found.shape == right.shape
        assert found.tobytes() == right.tobytes()


@given(st.binary(max_size=300))
@SERVED
def test_raw_bytes_come_back(client: Client, body: bytes) -> None:
    assert client.post("/same", body) == (200, body)


@given(data=st.data())
@SERVED
def test_mutated_json_is_served_or_400(client: Client, data: st.DataObject) -> None:
    body = data.draw(mutations(b"[0, 255, 1e1, 3.0]"))
    status, sent = client.post("/same", body, Content_Type="application/json")
    assert status in (200, 400)
    assert status == 400 or len(sent) <= len(body)


@given(results, accepts)
@SERVED
def test_any_result_is_sent_or_500(client: Client, result: Any, accept: str | None) -> None:
    client.given = result
    latin = None if accept is None else accept.encode("latin-1").decode("latin-1")
    status, sent = client.post("/give", b"", Accept=latin)
    if isinstance(result, (str, bytes)) and status == 200:
        assert sent == (result.encode() if isinstance(result, str) else bytes(result))
    if not isinstance(result, tuple):
        assert status in (200, 204, 500)
