"""Models: what a route is under the protocol, how one is made, and what control requests tell."""

from __future__ import annotations

import os
import threading
import types

import fake_infer
import numpy as np
import pytest
from fake_infer import Exchange, tensor

import fastpredict
from fastpredict import infer_worker
from fastpredict.inference import Tensor
from fastpredict.models import (
    Statistics,
    answer_control,
    by_name,
    make_model,
    model_of,
)
from fastpredict.route import make_route

VECTOR = np.arange(6, dtype="f4")


def route_model(handler, dtype="f4", shape=(-1,)):
    model = model_of(make_route("/predict", handler, dtype=dtype, shape=shape), "m")
    assert model is not None
    return model


def answer(model, exchange, **options):
    infer_worker.answer_infer(exchange, model, os.getpid(), **options)
    return exchange


# ---- routes as models ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "datatype", "found"),
    [
        ("f4", (3000, 2500), "FP32", (3000, 2500)),
        (np.bool_, (-1, 2), "BOOL", (-1, 2)),
        ("longlong", None, "INT64", (-1,)),
        (None, None, None, None),
        (None, (2, -1), None, (2, -1)),
    ],
)
def test_a_route_is_a_model_of_one_input_and_one_output(dtype, shape, datatype, found):
    model = model_of(make_route("/predict", len, dtype=dtype, shape=shape), "m")
    assert model is not None
    assert model.inputs == (Tensor("INPUT0", datatype, found),)
    assert model.outputs == (Tensor("OUTPUT0", None, None),)
    assert model.infer_paths() == ("/v2/models/m/infer", "/v2/models/m/versions/1/infer")
    assert model.metadata() == {
        "name": "m",
        "versions": ["1"],
        "platform": "fastpredict_python",
        "inputs": [
            {
                "name": "INPUT0",
                "datatype": datatype or "ANY",
                "shape": [-1] if found is None else list(found),
            }
        ],
        "outputs": [{"name": "OUTPUT0", "datatype": "ANY", "shape": [-1]}],
    }


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "S4", "U4", ">f4", "V3", [("a", "f4")], "g"])
def test_a_dtype_without_a_datatype_makes_no_model(dtype):
    assert model_of(make_route("/predict", len, dtype=dtype, shape=(-1,)), "m") is None


@pytest.mark.parametrize("name", ["", "a/b", "a?b", "a#b", "..", "a\nb", None, 5])
def test_a_name_that_is_no_segment_of_a_path_is_refused(name):
    with pytest.raises((TypeError, ValueError)):
        model_of(make_route("/predict", len, dtype="f4", shape=None), name)


# ---- models of several tensors -------------------------------------------------------------------


def scale(image, by):
    return {"image": image * by, "mean": image.mean(dtype="f4")}


SCALE = {
    "inputs": {"image": ("float32", (-1, 3)), "by": ("FP64", (1,))},
    "outputs": {"image": ("float32", (-1, 3)), "mean": ("float32", ())},
}


async def asynchronous(a):
    return a


def generator(a):
    yield a


@pytest.mark.parametrize(
    ("handler", "inputs", "error", "sentence"),
    [
        (asynchronous, {"a": ("f4", -1)}, TypeError, "async"),
        (generator, {"a": ("f4", -1)}, TypeError, "generator"),
        (5, {"a": ("f4", -1)}, TypeError, "callable"),
        (lambda a, b: a, {"a": ("f4", -1)}, TypeError, "'b'"),
        (lambda a: a, {"a": ("f4", -1), "b": ("f4", -1)}, TypeError, "'b'"),
        (lambda a, /: a, {"a": ("f4", -1)}, TypeError, "called with a"),
        (lambda a, request, /: a, {"a": ("f4", -1)}, TypeError, "called with a"),
        (lambda request: request, {"request": ("f4", -1)}, ValueError, "request"),
        (lambda a: a, {}, ValueError, "empty"),
        (lambda a: a, ["a"], TypeError, "dict"),
        (lambda a: a, {"a": "f4"}, TypeError, "(dtype, shape)"),
        (lambda a: a, {"a": ("c8", -1)}, TypeError, "no datatype"),
        (lambda a: a, {"a": (">f4", -1)}, TypeError, "no datatype"),
        (lambda a: a, {"a": ("nonsense", -1)}, TypeError, "nonsense"),
        (lambda a: a, {"a": ("f4", -2)}, ValueError, "negative"),
        (lambda a: a, {"a": ("f4", "x")}, TypeError, "shape"),
        (lambda a: a, {5: ("f4", -1)}, TypeError, "name"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_when_it_is_made(handler, inputs, error, sentence):
    with pytest.raises(error) as caught:
        make_model("m", handler, inputs=inputs, outputs={"x": ("f4", -1)})
    assert sentence in str(caught.value)


def test_handlers_that_take_any_keyword_or_have_defaults_are_fine():
    inputs, outputs = {"a-b": ("f4", -1)}, {"x": ("f4", None)}
    assert make_model("m", lambda **arrays: 0, inputs=inputs, outputs=outputs).request == "none"
    inputs = {"a": ("f4", -1)}
    assert make_model("m", lambda a, b=1: a, inputs=inputs, outputs=outputs).request == "none"
    with_request = make_model("m", lambda a, request=None: a, inputs=inputs, outputs=outputs)
    assert with_request.request == "keyword"
    assert with_request.outputs == (Tensor("x", "FP32", (-1,)),)


def test_two_models_of_one_name_are_refused_and_statistics_are_the_servers_own():
    model = route_model(len)
    with pytest.raises(ValueError, match="the model 'm' is len already"):
        by_name([model, model])
    served = by_name([model])["m"]
    answer(served, Exchange(b"{}"))
    assert served.statistics.snapshot()["inference_stats"]["fail"]["count"] == 1
    assert model.statistics.snapshot()["inference_stats"]["fail"]["count"] == 0


# ---- statistics ----------------------------------------------------------------------------------


def test_statistics_count_what_happened_and_how_long_it_took():
    model = route_model(lambda array: array)
    answer(model, fake_infer.request(tensor("INPUT0", "FP32", VECTOR)), queue_ns=1_000_000_000)
    answer(model, Exchange(b"no json"))
    found = model.statistics.snapshot()
    stages = found["inference_stats"]
    assert found["inference_count"] == found["execution_count"] == 1
    assert found["last_inference"] > 1_700_000_000_000
    assert stages["queue"] == {"count": 1, "ns": 1_000_000_000}
    assert {stage: each["count"] for stage, each in stages.items()} == dict.fromkeys(stages, 1)
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert stages["success"]["ns"] == sum(stages[part]["ns"] for part in parts)
    assert all(stages[part]["ns"] > 0 for part in (*parts, "fail"))
    assert found["input_copies"] == {"count": 0, "bytes": 0}


def test_statistics_show_what_was_copied():
    model = make_model(
        "m",
        lambda a, b: b,
        inputs={"a": ("u1", -1), "b": ("f8", -1)},
        outputs={"b": ("f8", -1)},
    )
    for count in (1, 8):
        exchange = fake_infer.request(
            tensor("a", "UINT8", np.zeros(count, "u1")), tensor("b", "FP64", np.ones(3))
        )
        assert answer(model, exchange).outputs == {"b": [1, 1, 1]}
    assert model.statistics.snapshot()["input_copies"] == {"count": 1, "bytes": 24}


def test_statistics_lose_nothing_between_threads():
    statistics = Statistics()

    def count():
        for _ in range(1000):
            statistics.record(success=1, copied=(1, 2))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = statistics.snapshot()
    assert found["inference_stats"]["success"] == {"count": 4000, "ns": 4000}
    assert found["input_copies"] == {"count": 4000, "bytes": 8000}


# ---- control -------------------------------------------------------------------------------------

MODELS = by_name(
    [
        route_model(len),
        make_model("scale", scale, **SCALE),
    ]
)


def control(path, method="GET", ready=True, body=b"", models=MODELS):
    exchange = Exchange(body, method=method, path=path)
    answer_control(exchange, models, lambda: ready)
    return exchange


def test_server_metadata():
    assert control("/v2").json == {
        "name": "fastpredict",
        "version": fastpredict.__version__,
        "extensions": ["binary_tensor_data", "model_repository", "statistics"],
    }


def test_health():
    assert control("/v2/health/live", ready=False).json == {"live": True}
    assert control("/v2/health/ready").json == {"ready": True}
    down = control("/v2/health/ready", ready=False)
    assert (down.status, down.json["ready"]) == (503, False)
    for path in ("/v2/models/m/ready", "/v2/models/m/versions/1/ready"):
        assert control(path).json == {"name": "m", "ready": True}
        assert control(path, ready=False).status == 503


def test_model_metadata_and_statistics():
    assert control("/v2/models/m").json == MODELS["m"].metadata()
    assert control("/v2/models/scale/versions/1").json["outputs"] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "mean", "datatype": "FP32", "shape": []},
    ]
    for path, names in (
        ("/v2/models/stats", ["m", "scale"]),
        ("/v2/models/m/stats", ["m"]),
        ("/v2/models/scale/versions/1/stats", ["scale"]),
    ):
        found = control(path).json["model_stats"]
        assert [(each["name"], each["version"]) for each in found] == [(n, "1") for n in names]
        assert found[0]["inference_stats"].keys() >= {"success", "fail", "queue"}


def test_a_model_called_stats_is_found_and_its_statistics_too():
    named = model_of(make_route("/stats", len, dtype="f4", shape=None), "stats")
    models = by_name([*MODELS.values(), named])
    for path in ("/v2/models/stats", "/v2/models/stats/versions/1"):
        assert control(path, models=models).json == named.metadata()
    (found,) = control("/v2/models/stats/stats", models=models).json["model_stats"]
    assert found["name"] == "stats"


def test_the_repositorys_index():
    both = [
        {"name": name, "version": "1", "state": "READY", "reason": ""} for name in ("m", "scale")
    ]
    assert control("/v2/repository/index", "POST").json == both
    assert control("/v2/repository/index", "POST", body=b'{"ready": true}').json == both
    down = control("/v2/repository/index", "POST", ready=False).json
    assert [each["state"] for each in down] == ["UNAVAILABLE"] * 2
    down = control("/v2/repository/index", "POST", ready=False, body=b'{"ready": true}')
    assert down.json == []
    for body in (b"[]", b"{", b'{"ready": 1}', b"\xff", b"[" * 200_000):
        assert control("/v2/repository/index", "POST", body=body).status == 400
    assert control("/v2/repository/models/m/load", "POST").status == 400


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v2/models/scael", "there is no model 'scael'; did you mean 'scale'?"),
        ("/v2/models/nothing", "there is no model 'nothing'"),
        ("/v2/models/scael/infer", "did you mean 'scale'?"),
        ("/v2/models/" + "x" * 50_000, "there is no model 'xxx"),
        ("/v2/models/m/versions/2", "the model 'm' has no version '2', only 1"),
        ("/v2/models/m/versions/2/infer", "no version '2'"),
        ("/v2/models/m/config", "nothing is served at"),
        ("/v2/models/m/", "nothing is served at"),
        ("/v2/models/", "nothing is served at"),
        ("/v2/", "nothing is served at"),
        ("/v2/systemsharedmemory", "nothing is served at"),
        ("/v2/models/\udcff", "there is no model"),
    ],
)
def test_what_is_not_there_is_a_404(path, sentence):
    for method in ("GET", "POST", "DELETE"):
        exchange = control(path, method)
        assert exchange.status == 404
        assert sentence in exchange.error
        assert len(exchange.error) < 500


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/v2", "POST", "GET, HEAD"),
        ("/v2/health/live", "PUT", "GET, HEAD"),
        ("/v2/models/m", "DELETE", "GET, HEAD"),
        ("/v2/repository/index", "GET", "POST"),
    ],
)
def test_another_method_is_a_405_with_allow(path, method, allow):
    exchange = control(path, method)
    assert exchange.status == 405
    assert exchange.replies[0][1]["Allow"] == allow
    assert allow in exchange.error
    options = control(path, "OPTIONS").replies[0]
    assert (options[0], options[1], options[2]) == (204, {"Allow": allow}, b"")


def test_a_fault_of_ours_is_a_500_and_the_thread_lives(caplog):
    exchange = Exchange(path="/v2/health/ready", method="GET")
    answer_control(exchange, MODELS, types.SimpleNamespace())  # type: ignore[arg-type]
    assert exchange.status == 500
    assert len(caplog.records) == 1
    exchange = Exchange(path="/v2", method="GET")
    exchange.refusals = [MemoryError(), RuntimeError()]
    answer_control(exchange, MODELS, lambda: True)
    assert exchange.replies == []
