"""answer(): results and exceptions become replies; results stay unshared until they are sent."""

from __future__ import annotations

import itertools
import json
import logging
import os

import fake_core
import numpy as np
import pytest

import fastpredict
from fastpredict import worker
from fastpredict.request import Request
from fastpredict.worker import answer, run_control, run_predict
from fastpredict.wsgi import Site, make_mount


def route_of(handler, dtype="f4", shape=None):
    app = fastpredict.App()
    app.predict("/predict", dtype=dtype, shape=shape)(handler)
    return app.routes[0]


def ask(handler, body=b"\0\0\0\0" * 6, dtype="f4", shape=None, **request):
    exchange = fake_core.Exchange(body, **request)
    answer(exchange, route_of(handler, dtype, shape), os.getpid())
    return exchange


def test_the_handler_gets_the_body_as_its_array():
    body = np.arange(6, dtype="f4").tobytes()
    exchange = ask(lambda array: array.sum(axis=0), body, shape=(2, 3))
    status, headers, payload, borrow = exchange.replies[0]
    assert status == 200
    assert borrow is False
    assert headers == {
        "Content-Type": "application/octet-stream",
        "X-Dtype": "<f4",
        "X-Shape": "3",
    }
    assert payload.tolist() == [3.0, 5.0, 7.0]


def test_writes_to_the_array_are_writes_to_the_body():
    def handler(array):
        array += 1
        return array

    exchange = ask(handler)
    assert np.frombuffer(exchange.memory, "f4").tolist() == [1] * 6


@pytest.mark.parametrize(
    "handler",
    [
        lambda array: array,
        lambda array: array * 2,
        lambda array: array.reshape(2, 3).T,
        lambda array: array.astype(">f4"),
        lambda array: (array * 2, 201),
        lambda array: (array * 2, 201, {"X-A": "1"}),
        lambda array: fastpredict.Response(array * 2, 201, {"X-A": "1"}),
        lambda array: fastpredict.Response(array * 2, borrow=True),
        lambda array, request: array * 2,
        lambda request, array: array * 2,
        lambda array: array.tobytes() + b"x",
        lambda array: bytearray(array.tobytes()),
        lambda array: "text of its own: " + str(array),
        lambda array: {"a": array},
        lambda array: float(array.sum()) + 1e10,
        lambda array: array.view(np.matrix),
        lambda array: array.sum(),
    ],
    ids=range(17),
)
@pytest.mark.parametrize("accept", [None, "application/x-npy", "application/json"])
def test_nothing_but_the_payload_list_refers_to_a_result_when_it_is_sent(handler, accept):
    exchange = ask(handler, headers={"accept": accept} if accept else {})
    assert exchange.replies[0][0] in (200, 201)
    assert exchange.refcounts == [fake_core.lone_refcount()]


def test_the_base_of_a_result_is_referred_to_by_the_result_only():
    exchange = ask(lambda array: (array * 2).reshape(2, 3))
    assert exchange.replies[0][2].base is not None
    assert exchange.base_refcounts == [fake_core.lone_refcount()]


def test_a_result_that_the_handler_keeps_is_seen_to_be_shared():
    kept = np.zeros(3)
    response = fastpredict.Response(np.zeros(3))
    for result in (kept, response):
        exchange = ask(lambda array, result=result: result)
        assert exchange.refcounts[0] > fake_core.lone_refcount()


def test_a_response_that_is_returned_again_has_its_body_again():
    response = fastpredict.Response({"a": 1})
    for _ in range(2):
        assert ask(lambda array: response).replies[0][2] == b'{"a":1}'


def test_borrow_reaches_the_reply():
    assert ask(lambda array: fastpredict.Response(b"x", borrow=True)).replies[0][3] is True


def test_a_handler_with_request_gets_one():
    def handler(array, request):
        assert isinstance(request, Request)
        assert request.headers["X-A"] == "1, 2"
        assert request.headers.get_all("x-a") == ["1", "2"]
        assert "x-b" not in request.headers
        assert list(request.headers) == ["x-a"]
        assert bytes(request.body) == array.tobytes()
        assert not request.is_disconnected()
        return [request.method, request.path, request.query, request.client]

    exchange = fake_core.Exchange(b"\0" * 8)
    exchange.headers = [("x-a", "1"), ("x-a", "2")]
    answer(exchange, route_of(handler), os.getpid())
    assert json.loads(exchange.replies[0][2]) == ["POST", "/predict", "a=1", "127.0.0.1:9"]


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        KeyboardInterrupt(),
        SystemExit(3),
        MemoryError(),
        Odd(),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_handler_raises_is_one_500_and_one_traceback(error, caplog):
    def handler(array):
        raise error

    with caplog.at_level(logging.INFO, "fastpredict"):
        exchange = ask(handler)
    ((status, headers, payload, _),) = exchange.replies
    assert (status, headers) == (500, {"Content-Type": "application/json"})
    said = json.loads(payload)["error"]
    assert type(error).__name__ in said
    assert "secret" not in said
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize(
    "result",
    [
        object(),
        {1, 2},
        1j,
        (1,),
        (1, 2, 3, 4),
        ("x", "200"),
        ("x", 999),
        ("x", 200, {"Content-Length": "1"}),
        ("x", 204),
        np.array([None]),
        np.ma.masked_array([1.0], [True]),
        {"a": b"bytes"},
        {"a": 1j},
        "\ud800",
        lambda: None,
    ],
    ids=lambda result: repr(result)[:20],
)
def test_an_unusable_result_is_one_500_and_one_log_entry(result, caplog):
    with caplog.at_level(logging.INFO, "fastpredict"):
        exchange = ask(lambda array: result)
    ((status, _, payload, _),) = exchange.replies
    assert status == 500
    assert "returned" in json.loads(payload)["error"]
    assert len(caplog.records) == 1


def test_a_list_in_a_list_in_itself_is_a_500():
    cycle: list[object] = []
    cycle.append(cycle)
    assert ask(lambda array: cycle).replies[0][0] == 500


def test_a_body_that_does_not_fit_is_the_clients_mistake_and_not_logged(caplog):
    with caplog.at_level(logging.DEBUG, "fastpredict"):
        exchange = ask(lambda array: array, b"\0\0\0")
    status, headers, payload, _ = exchange.replies[0]
    assert (status, headers) == (400, {"Content-Type": "application/json"})
    said = json.loads(payload)["error"]
    assert "wrong length" in said
    assert "multiple of 4 bytes" in said
    assert "3 bytes" in said
    assert not caplog.records


@pytest.mark.parametrize("error", [TypeError(), ValueError(), BufferError(), MemoryError()])
def test_a_payload_that_the_extension_refuses_is_a_500(error, caplog):
    exchange = fake_core.Exchange(b"\0" * 4)
    exchange.refusals = [error]
    answer(exchange, route_of(lambda array: array), os.getpid())
    assert exchange.replies[0][0] == 500
    assert len(caplog.records) == 1


def test_an_exchange_that_takes_no_reply_at_all_is_dropped_in_peace():
    exchange = fake_core.Exchange(b"\0" * 4)
    exchange.refusals = [RuntimeError(), RuntimeError()]
    answer(exchange, route_of(lambda array: array), os.getpid())
    assert exchange.replies == []


def test_logging_that_fails_does_not_cost_the_answer(monkeypatch):
    def broken(*args, **more):
        raise MemoryError

    monkeypatch.setattr(fastpredict.reply.logger, "error", broken)
    assert ask(lambda array: 1 / 0).replies[0][0] == 500


def test_none_is_204_without_a_body():
    assert ask(lambda array: None).replies[0] == (204, {}, None, False)


def test_the_loops_end_with_the_server():
    server = fake_core.Server([])
    first, second = (server.submit(fake_core.Exchange(b"\0" * 4)) for _ in range(2))
    server.drain()
    run_predict(server, [route_of(lambda array: array)])
    run_control(server, {}, lambda: True)
    assert first.replies
    assert second.replies


# ---- mistakes of ours ----------------------------------------------------------------------------


def routes_of_each_kind():
    app = fastpredict.App()
    app.predict("/predict", dtype="f4")(lambda array: array)
    mount = make_mount("/", lambda environ, start_response: [])
    return [app.routes[0], app.models[0], Site(mount, (), 1)]


@pytest.fixture(params=[RuntimeError("secret"), SystemExit(3)], ids=["error", "exit"])
def mistaken(request, monkeypatch):
    """What answers a request of each kind raises."""

    def mistake(*_, **__):
        raise request.param

    for owner, name in ((worker, "answer"), (worker, "answer_infer"), (Site, "answer")):
        monkeypatch.setattr(owner, name, mistake)
    return request.param


@pytest.mark.parametrize("route", [0, 1, 2], ids=["route", "model", "mount"])
def test_a_mistake_of_ours_costs_one_request_and_not_the_thread(route, mistaken, caplog):
    server = fake_core.Server([])
    asked = [server.submit(fake_core.Exchange(b"\0" * 4, route=route)) for _ in range(2)]
    server.drain()
    run_predict(server, routes_of_each_kind())
    for exchange in asked:
        ((status, _, body, _),) = exchange.replies
        assert status == 500
        assert "server failed" in json.loads(body)["error"]
        assert b"secret" not in body
    assert [record.exc_info[1] for record in caplog.records] == [mistaken] * 2


def test_a_mistake_that_can_be_neither_logged_nor_answered_costs_no_thread(mistaken, monkeypatch):
    server = fake_core.Server([])
    exchange = server.submit(fake_core.Exchange(b"\0" * 4))
    exchange.refusals = [RuntimeError()]
    server.drain()
    monkeypatch.setattr(worker.logger, "error", None)
    run_predict(server, routes_of_each_kind())
    assert exchange.replies == []


def test_in_a_forked_child_what_ends_a_predict_thread_is_raised(mistaken, monkeypatch):
    server = fake_core.Server([])
    exchange = server.submit(fake_core.Exchange(b"\0" * 4))
    monkeypatch.setattr(os, "getpid", itertools.count(1).__next__)
    with pytest.raises(type(mistaken)):
        run_predict(server, routes_of_each_kind())
    assert exchange.replies == []
