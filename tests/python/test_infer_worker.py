"""answer_infer(): how a model's handler is called, and how its results are answered."""

from __future__ import annotations

import json
import os
import weakref

import fake_core
import fake_infer
import numpy as np
import pytest
from fake_infer import BINARY, tensor

from fastpredict import infer_worker
from fastpredict.datatypes import DATATYPES
from fastpredict.models import make_model, model_of
from fastpredict.response import Response
from fastpredict.route import make_route

VECTOR = np.arange(6, dtype="f4")


def route_model(handler, dtype="f4", shape=(-1,)):
    model = model_of(make_route("/predict", handler, dtype=dtype, shape=shape), "m")
    assert model is not None
    return model


def answer(model, exchange, **options):
    infer_worker.answer_infer(exchange, model, os.getpid(), **options)
    return exchange


def ask(handler, array=VECTOR, datatype="FP32", dtype="f4", shape=(-1,), **members):
    exchange = fake_infer.request(tensor("INPUT0", datatype, array), **members)
    return answer(route_model(handler, dtype, shape), exchange)


# ---- one input, one output ---------------------------------------------------------------------


def test_the_handler_gets_the_body_and_the_client_its_result():
    seen = []

    def handler(array):
        seen.append((array.ctypes.data % 64, array.flags.writeable))
        array *= 2
        return array

    exchange = ask(handler, id="42", parameters=BINARY)
    assert seen == [(0, True)]
    status, headers, _, borrow = exchange.replies[0]
    assert (status, borrow) == (200, False)
    assert headers["Content-Type"] == "application/octet-stream"
    assert exchange.json == {
        "id": "42",
        "model_name": "m",
        "model_version": "1",
        "outputs": [
            {
                "name": "OUTPUT0",
                "datatype": "FP32",
                "shape": [6],
                "parameters": {"binary_data_size": 24},
            }
        ],
    }
    assert exchange.outputs == {"OUTPUT0": (VECTOR * 2).tobytes()}


def test_without_binary_data_the_answer_is_json():
    exchange = ask(lambda array: array.mean())
    status, headers, body, _ = exchange.replies[0]
    assert status == 200
    assert headers == {"Content-Type": "application/json"}
    assert json.loads(body)["outputs"] == [
        {"name": "OUTPUT0", "datatype": "FP32", "shape": [], "data": [2.5]}
    ]


@pytest.mark.parametrize(
    ("result", "datatype", "shape", "data"),
    [
        (np.float64(1.5), "FP64", [], [1.5]),
        ([[1, 2], [3, 4]], "INT64", [2, 2], [1, 2, 3, 4]),
        (True, "BOOL", [], [True]),
        (7, "INT64", [], [7]),
        (0.5, "FP64", [], [0.5]),
        ([], "FP64", [0], []),
        (np.arange(6, dtype=">i2").reshape(2, 3).T, "INT16", [3, 2], [0, 3, 1, 4, 2, 5]),
        (np.array(["a", "é"]), "BYTES", [2], ["a", "é"]),
        (np.array([b"a", "b"], object), "BYTES", [2], ["a", "b"]),
        (["x"], "BYTES", [1], ["x"]),
        (Response(np.uint8(3), headers={"X-A": "1"}), "UINT8", [], [3]),
        ((np.int8([1]), 201), "INT8", [1], [1]),
    ],
)
def test_what_is_a_tensor_is_answered_as_one(result, datatype, shape, data):
    for parameters in ({}, BINARY):
        exchange = ask(lambda array: result, parameters=parameters)
        (output,) = exchange.json["outputs"]
        assert exchange.status == 200
        assert (output["datatype"], output["shape"]) == (datatype, shape)
        if not parameters:
            assert output["data"] == data
        if isinstance(result, Response):
            assert exchange.replies[0][1]["X-A"] == "1"


@pytest.mark.parametrize(
    "result",
    [
        "text",
        b"bytes",
        np.str_("a"),
        {"a": 1},
        None,
        [[1], [1, 2]],
        [{}],
        np.array([1j]),
        np.array(["2020"], "M8[D]"),
        np.ma.masked_array([1], [True]),
        memoryview(b"abc"),
        (1, 2, 3, 4),
        Response(None, 204),
        Response(VECTOR, 301),
        object(),
    ],
)
def test_what_is_no_tensor_is_a_500_with_its_reason_in_the_log(result, caplog):
    exchange = ask(lambda array: result)
    assert exchange.status == 500
    assert "isn't what the model declares" in exchange.error
    assert len(caplog.records) == 1
    assert "<lambda> of the model m returned" in caplog.text


def test_a_handlers_own_refusal_is_an_error_of_the_protocol(caplog):
    assert ask(lambda array: ("too dark", 422)).error == "too dark"
    assert ask(lambda array: ({"error": "no", "more": 1}, 422)).json == {"error": "no", "more": 1}
    for body in (b"not today", bytearray(b"not today"), memoryview(b"nyoatd otto")[:0:-1]):
        said = "not today" if not isinstance(body, memoryview) else body.tobytes().decode()
        assert ask(lambda array, body=body: (body, 422)).error == said
    assert ask(lambda array: (b"\xff!", 422)).error == "\ufffd!"
    for status, said in ((404, "Not Found"), (503, "Service Unavailable"), (499, "status 499")):
        exchange = ask(lambda array, status=status: Response(None, status))
        assert (exchange.status, exchange.error) == (status, said)
    exchange = ask(lambda array: Response({"a": 1}, 503, {"Retry-After": "1"}))
    assert (exchange.status, exchange.error) == (503, '{"a":1}')
    assert exchange.replies[0][1] == {"Content-Type": "application/json", "Retry-After": "1"}
    assert not caplog.records


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(3), MemoryError()])
def test_a_handler_that_raises_is_a_500_that_tells_the_type_only(error, caplog):
    def handler(array):
        raise error

    exchange = ask(handler)
    assert exchange.status == 500
    assert type(error).__name__ in exchange.error
    assert "secret" not in exchange.error
    assert [record.exc_info[1] for record in caplog.records] == [error]


def test_in_a_forked_child_what_ends_the_handler_is_raised():
    def handler(array):
        raise SystemExit

    exchange = fake_infer.request(tensor("INPUT0", "FP32", VECTOR))
    with pytest.raises(SystemExit):
        infer_worker.answer_infer(exchange, route_model(handler), os.getpid() + 1)
    assert exchange.replies == []


@pytest.mark.parametrize(
    "handler",
    [
        lambda array, request: [array.size, len(request.body)],
        lambda request, array: [array.size, len(request.body)],
        lambda array, *, request: [array.size, len(request.body)],
    ],
)
def test_the_handler_gets_its_request_as_on_its_route(handler):
    exchange = ask(handler)
    assert exchange.json["outputs"][0]["data"] == [6, exchange.nbytes]


def test_any_datatype_is_taken_where_the_route_leaves_it_open():
    for datatype, dtype in (("INT8", "i1"), ("FP16", "f2"), ("BOOL", "?")):
        array = np.ones((2, 3), dtype)
        exchange = ask(lambda array: array, array, datatype, dtype=None, shape=None)
        assert exchange.json["outputs"][0]["datatype"] == datatype
        assert exchange.json["outputs"][0]["shape"] == [2, 3]


def test_a_wrong_request_is_a_400_and_never_reaches_the_handler(caplog):
    exchange = ask(pytest.fail, VECTOR.astype("f8"), "FP64")
    assert exchange.status == 400
    assert exchange.error == "the input 'INPUT0' is FP64; the model takes FP32"
    assert not caplog.records


# ---- copies --------------------------------------------------------------------------------------


def kept(array):
    kept.array = array
    return array


@pytest.mark.parametrize(
    ("handler", "shared"),
    [
        (lambda array: array, False),
        (lambda array: array * 2, False),
        (lambda array: array.reshape(2, 3).T, False),
        (lambda array: Response(array), False),
        (lambda array: (array, 200), False),
        (kept, True),
    ],
)
def test_a_result_is_unshared_unless_the_handler_keeps_it(handler, shared):
    exchange = ask(handler, parameters=BINARY)
    alone = fake_core.lone_refcount()
    assert exchange.refcounts[0] == alone
    assert exchange.refcounts[1] == alone + shared


def test_the_results_of_several_outputs_are_unshared():
    model = make_model(
        "m",
        lambda a: {"x": a, "y": a + 1, "z": a + 2},
        inputs={"a": ("f4", -1)},
        outputs={"x": ("f4", -1), "y": ("f4", -1), "z": ("f4", -1)},
    )
    exchange = fake_infer.request(
        tensor("a", "FP32", VECTOR),
        parameters=BINARY,
        outputs=[{"name": "z"}, {"name": "x"}],
    )
    answer(model, exchange)
    assert exchange.outputs == {"z": (VECTOR + 2).tobytes(), "x": VECTOR.tobytes()}
    assert exchange.refcounts == [fake_core.lone_refcount()] * 3


def test_input_and_result_are_let_go_with_the_reply():
    seen = []

    def handler(array):
        seen.append(weakref.ref(array))
        return array[1:]

    ask(handler, parameters=BINARY)
    assert seen[0]() is None


# ---- models of several tensors -------------------------------------------------------------------


def scale(image, by):
    return {"image": image * by, "mean": image.mean(dtype="f4")}


SCALE = {
    "inputs": {"image": ("float32", (-1, 3)), "by": ("FP64", (1,))},
    "outputs": {"image": ("float32", (-1, 3)), "mean": ("float32", ())},
}


def test_arrays_go_by_keyword_and_come_as_a_dict():
    exchange = fake_infer.request(
        tensor("by", "FP64", np.array([2.0]), binary=False),
        tensor("image", "FP32", VECTOR.reshape(2, 3)),
    )
    answer(make_model("m", scale, **SCALE), exchange)
    assert exchange.outputs == {"image": (VECTOR * 2).tolist(), "mean": [2.5]}


def test_one_output_needs_no_dict_and_only_what_is_wanted_is_sent():
    model = make_model("m", lambda a: a, inputs={"a": ("i4", -1)}, outputs={"b": ("i8", -1)})
    exchange = fake_infer.request(tensor("a", "INT32", np.arange(3, dtype="i4")))
    assert answer(model, exchange).json["outputs"] == [
        {"name": "b", "datatype": "INT64", "shape": [3], "data": [0, 1, 2]}
    ]
    exchange = fake_infer.request(
        tensor("by", "FP64", np.array([2.0])),
        tensor("image", "FP32", VECTOR.reshape(2, 3)),
        outputs=[{"name": "mean", "parameters": {"binary_data": True}}],
    )
    answer(make_model("m", scale, **SCALE), exchange)
    assert exchange.outputs == {"mean": np.float32(2.5).tobytes()}


def test_bytes_and_bf16_come_as_declared():
    def handler(text, weights, request):
        assert text.dtype == object
        assert text.tolist() == [b"a", b"\xff"]
        assert weights.dtype == DATATYPES["BF16"]
        return {"text": text, "weights": np.array([1.0, -2.0], "f4"), "path": [request.path]}

    model = make_model(
        "m",
        handler,
        inputs={"text": ("BYTES", 2), "weights": ("BF16", 2)},
        outputs={"text": (object, -1), "weights": ("BF16", 2), "path": ("BYTES", 1)},
    )
    packed = b"\1\0\0\0a\1\0\0\0\xff"
    entry = {"name": "text", "datatype": "BYTES", "shape": [2]}
    entry["parameters"] = {"binary_data_size": len(packed)}
    bits = np.array([0x3F80, 0xC000], "u2")
    exchange = fake_infer.request(
        (entry, packed), tensor("weights", "BF16", bits), parameters=BINARY
    )
    answer(model, exchange)
    path = b"/v2/models/m/infer"
    assert exchange.outputs == {
        "text": packed,
        "weights": bits.tobytes(),
        "path": len(path).to_bytes(4, "little") + path,
    }


@pytest.mark.parametrize(
    "result",
    [
        VECTOR,
        {},
        {"image": VECTOR.reshape(2, 3)},
        {"image": VECTOR.reshape(2, 3), "mean": 1.0, "more": 1},
        {"image": VECTOR, "mean": 1.0},
        {"image": VECTOR.reshape(2, 3), "mean": 1j},
        {"image": VECTOR.reshape(2, 3), "mean": "1"},
        {1: 2},
    ],
)
def test_results_that_are_not_declared_are_a_500(result, caplog):
    exchange = fake_infer.request(
        tensor("by", "FP64", np.array([2.0])), tensor("image", "FP32", VECTOR.reshape(2, 3))
    )
    answer(make_model("m", lambda image, by: result, **SCALE), exchange)
    assert exchange.status == 500
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("declared", "result", "data"),
    [
        ("UINT8", [0, 255], [0, 255]),
        ("UINT8", [0, 256], None),
        ("INT8", np.array([-129.0]), None),
        ("FP32", [1, 2], [1, 2]),
        ("FP32", np.array([0.5], "f8"), [0.5]),
        ("FP32", [True], [1]),
        ("INT64", [0.5], None),
        ("BOOL", [1], None),
        ("BF16", [1.0], [1.0]),
        ("BYTES", [1], None),
        ("BYTES", np.array([1, 2], object), None),
        ("FP32", np.array([1.0], object), None),
    ],
)
def test_numbers_become_the_declared_datatype_where_it_holds_them(declared, result, data):
    model = make_model(
        "m", lambda a: result, inputs={"a": ("f4", -1)}, outputs={"b": (declared, -1)}
    )
    exchange = answer(model, fake_infer.request(tensor("a", "FP32", VECTOR)))
    if data is None:
        assert exchange.status == 500
    else:
        assert exchange.json["outputs"][0]["datatype"] == declared
        assert exchange.outputs == {"b": data}


# ---- sending -------------------------------------------------------------------------------------


def test_an_answer_that_cannot_be_sent_becomes_a_500(caplog):
    exchange = fake_infer.request(tensor("INPUT0", "FP32", VECTOR))
    exchange.refusals = [MemoryError()]
    assert answer(route_model(np.sum), exchange).status == 500
    assert len(caplog.records) == 1
    exchange = fake_infer.request(tensor("INPUT0", "FP32", VECTOR))
    exchange.refusals = [MemoryError(), MemoryError()]
    assert answer(route_model(np.sum), exchange).replies == []


def test_a_borrowed_result_is_sent_as_such():
    exchange = ask(lambda array: Response(array, borrow=True), parameters=BINARY)
    assert exchange.replies[0][3] is True
