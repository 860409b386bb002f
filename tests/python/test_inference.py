"""The protocol alone: binary tensors there and back, and every request that must be refused."""

from __future__ import annotations

import json

import fake_infer
import numpy as np
import pytest
from fake_infer import FIELD, Exchange, arrays_of, same
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpredict import datatypes, inference
from fastpredict.datatypes import DATATYPES
from fastpredict.decode import BadInput
from fastpredict.inference import InferRequest, Region, Tensor, Wanted


def take(exchange, *tensors, memory=None):
    request = inference.read_request(exchange, tensors, [], memory)
    arrays = []
    copied = inference.take_inputs(exchange, request, memory, arrays)
    return arrays, copied


def refusal(exchange, *tensors):
    with pytest.raises(BadInput) as caught:
        take(exchange, *tensors)
    return caught.value.status, str(caught.value)


def ask(entry, data=b"", **members):
    text = json.dumps({"inputs": [entry], **members}).encode()
    return Exchange(text + data, {FIELD: str(len(text))})


# ---- every datatype ------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", DATATYPES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_binary_tensors_come_and_go_bit_by_bit(datatype, data):
    array = data.draw(arrays_of(datatype))
    declared = Tensor("x", datatype, None)
    packed = datatypes.pack_bytes(array) if datatype == "BYTES" else array.tobytes()
    entry = {"name": "x", "datatype": datatype, "shape": list(array.shape)}
    entry["parameters"] = {"binary_data_size": len(packed)}
    (taken,), copied = take(ask(entry, packed), declared)
    assert taken.dtype == DATATYPES[datatype]
    assert same(taken, array)
    assert copied == ((1, len(packed)) if datatype == "BYTES" and packed else (0, 0))
    payload = [taken]
    request = InferRequest(None, (), (Wanted(declared, True, None),))
    inference.format_answer(payload, "m", "1", request, None)
    head = json.loads(payload[0])["outputs"][0]
    assert head == {**entry}
    assert b"".join(np.asarray(part).tobytes() for part in payload[1:]) == packed


# ---- placing -------------------------------------------------------------------------------------


def test_arrays_lie_in_the_body_and_only_unaligned_ones_are_copied():
    first, second = np.arange(3, dtype="u1"), np.arange(4, dtype="f8")
    exchange = fake_infer.request(
        fake_infer.tensor("a", "UINT8", first), fake_infer.tensor("b", "FP64", second)
    )
    tensors = Tensor("a", "UINT8", (3,)), Tensor("b", "FP64", (-1,))
    arrays, copied = take(exchange, *tensors)
    assert [array.tolist() for array in arrays] == [first.tolist(), second.tolist()]
    assert np.shares_memory(arrays[0], exchange.slot)
    assert arrays[0].ctypes.data % 64 == 0
    assert not np.shares_memory(arrays[1], exchange.slot)
    assert copied == (1, 32)


def test_inputs_come_in_the_order_of_the_model():
    one, two = np.array([1], "f4"), np.array([2], "f4")
    exchange = fake_infer.request(
        fake_infer.tensor("b", "FP32", two), fake_infer.tensor("a", "FP32", one, binary=False)
    )
    arrays, _ = take(exchange, Tensor("a", "FP32", (1,)), Tensor("b", "FP32", (1,)))
    assert [array.tolist() for array in arrays] == [[1], [2]]


# ---- requests that are refused -------------------------------------------------------------------

X = Tensor("x", "FP32", (-1, 2))
GOOD = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
SIZED = {key: GOOD[key] for key in ("name", "datatype", "shape")}


def sized(size):
    return {**SIZED, "parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(
    ("entry", "data", "sentence"),
    [
        ({**GOOD, "name": "y"}, b"", "the model has no input 'y'; it has x"),
        ({**GOOD, "name": 5}, b"", "an object with a 'name'"),
        ("x", b"", "an object with a 'name'"),
        ({**GOOD, "datatype": "FP64"}, b"", "is FP64; the model takes FP32"),
        ({**GOOD, "datatype": "float"}, b"", "needs a datatype, one of BOOL"),
        ({**GOOD, "datatype": None}, b"", "needs a datatype"),
        ({**GOOD, "datatype": ["FP32"]}, b"", "'datatype' of the input 'x' must be a string"),
        ({**GOOD, "shape": [2]}, b"", "has the shape (2,); the model takes (-1, 2)"),
        ({**GOOD, "shape": [1, -2]}, b"", "a list of lengths"),
        ({**GOOD, "shape": [True, 2]}, b"", "a list of lengths"),
        ({**GOOD, "shape": [1.0, 2]}, b"", "a list of lengths"),
        ({**GOOD, "shape": None}, b"", "a list of lengths"),
        ({**GOOD, "shape": "12"}, b"", "must be a list"),
        ({**GOOD, "shape": [1] * 33}, b"", "33 axes"),
        ({**GOOD, "shape": [1 << 4000, 2]}, b"", "no memory holds"),
        ({**GOOD, "parameters": []}, b"", "'parameters' of the input 'x' must be an object"),
        ({**GOOD, "data": "12"}, b"", "not a list"),
        (SIZED, b"", "needs one of 'data', binary_data_size"),
        ({**GOOD, "parameters": {"binary_data_size": 8}}, b"12345678", "needs one of 'data'"),
        (sized(9), b"123456789", "has 9 bytes of data; FP32 of shape (1, 2) has 8"),
        (sized(8), b"1234", "4 bytes follow the JSON"),
        (sized(8), b"1234567890", "10 bytes follow the JSON"),
        (sized(-8), b"", "binary_data_size of the input 'x' must be a number of bytes"),
        (sized(True), b"", "must be a number of bytes"),
        (sized("8"), b"", "must be a number of bytes"),
        (sized(8.0), b"", "must be a number of bytes"),
        (GOOD, b"1234", "4 bytes follow the JSON"),
        ({**GOOD, "parameters": {"shared_memory_region": 1}}, b"", "must be a string"),
        (
            {**SIZED, "parameters": {"shared_memory_region": "r"}},
            b"",
            "needs a shared_memory_byte_size",
        ),
        (
            {
                **SIZED,
                "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8},
            },
            b"",
            "shared memory isn't served",
        ),
    ],
)
def test_an_input_that_is_wrong_is_refused_with_a_sentence(entry, data, sentence):
    status, text = refusal(ask(entry, data), X)
    assert status == 400
    assert sentence in text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "doesn't begin with the JSON"),
        (b"[]", "must be an object"),
        (b"{", "doesn't begin with the JSON"),
        (b"\xff{}", "doesn't begin with the JSON"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"inputs": [], "a": ' + b"9" * 5000 + b"}", "doesn't begin with the JSON"),
        (b'{"inputs": {}}', "'inputs' of the request must be a list"),
        (b'{"inputs": []}', "lacks the input 'x'"),
        (b"{}", "lacks the input 'x'"),
        (b'{"id": 5, "inputs": []}', "'id' of the request must be a string"),
        (b'{"parameters": 5, "inputs": []}', "'parameters' of the request must be an object"),
        (b'{"inputs": [{"data": [NaN]}]}', "NaN, which is not JSON"),
        (b'{"inputs": [{"data": [-Infinity]}]}', "-Infinity, which is not JSON"),
    ],
)
def test_json_that_is_no_request_is_refused(text, sentence):
    status, found = refusal(Exchange(text), X)
    assert status == 400
    assert sentence in found


def test_an_input_that_is_there_twice_is_refused():
    text = json.dumps({"inputs": [GOOD, GOOD]}).encode()
    assert "there twice" in refusal(Exchange(text), X)[1]


@pytest.mark.parametrize("field", ["", "x", "-1", "+5", "5, 5", "999999", "²", "1" * 30])
def test_a_wrong_header_length_is_refused(field):
    exchange = Exchange(json.dumps({"inputs": [GOOD]}).encode(), {FIELD: field})
    assert "must be a number up to" in refusal(exchange, X)[1]


def test_a_header_length_that_cuts_the_json_is_refused():
    exchange = Exchange(json.dumps({"inputs": [GOOD]}).encode(), {FIELD: "10"})
    assert "doesn't begin with the JSON" in refusal(exchange, X)[1]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP, identity"])
def test_a_compressed_body_is_refused(coding):
    exchange = Exchange(b"\x1f\x8b", {"content-encoding": coding})
    status, said = refusal(exchange, X)
    assert (status, "isn't served" in said) == (415, True)
    plain = Exchange(json.dumps({"inputs": [GOOD]}).encode(), {"content-encoding": "identity"})
    assert take(plain, X)[0][0].tolist() == [[1, 2]]


def test_too_much_json_is_refused_unread(monkeypatch):
    monkeypatch.setattr(inference, "JSON_MAX_BYTES", 100)
    status, _ = refusal(Exchange(b" " * 101), X)
    assert status == 413


def test_an_empty_array_of_a_shape_that_cannot_be_is_refused():
    huge = {**SIZED, "shape": [1 << 62, 1 << 62, 0], "parameters": {"binary_data_size": 0}}
    assert "no array can have" in refusal(ask(huge), Tensor("x", "FP32", (-1, -1, -1)))[1]
    huge = {**SIZED, "shape": [1 << 62, 1 << 62, 0], "data": []}
    assert "no array can have" in refusal(ask(huge), Tensor("x", "FP32", (-1, -1, -1)))[1]


# ---- BYTES ---------------------------------------------------------------------------------------

TEXTS = Tensor("x", "BYTES", (-1,))


def texts(count, data):
    entry = {"name": "x", "datatype": "BYTES", "shape": [count]}
    return ask({**entry, "parameters": {"binary_data_size": len(data)}}, data)


@pytest.mark.parametrize(
    ("count", "data", "sentence"),
    [
        (1, b"", "too few for the 1 items"),
        (1 << 20, b"\0\0\0\0", "too few"),
        (1, b"\5\0\0\0abcd", "cut short: 0 items of 1"),
        (2, b"\1\0\0\0ab\0\0", "cut short: 1 items of 2"),
        (1, b"\1\0\0\0abc", "2 bytes after the 1 items"),
        (0, b"a", "1 bytes after the 0 items"),
        (1, b"\xff\xff\xff\xffa", "cut short"),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(count, data, sentence):
    assert sentence in refusal(texts(count, data), TEXTS)[1]


def test_bytes_are_bounded(monkeypatch):
    assert refusal(texts((1 << 20) + 1, b"\0\0\0\0"), TEXTS)[0] == 413
    monkeypatch.setattr(inference, "BYTES_MAX_BYTES", 4)
    assert refusal(texts(1, b"\1\0\0\0a"), TEXTS)[0] == 413


def test_bytes_need_a_model_that_declares_them():
    entry = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    assert "the model takes numbers" in refusal(ask(entry), Tensor("x", None, None))[1]


# ---- raw binary requests -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "body", "shape"),
    [
        (X, b"0" * 24, (3, 2)),
        (X, b"", (0, 2)),
        (Tensor("x", "INT16", (2,)), b"0" * 4, (2,)),
        (Tensor("x", "INT16", (-1, 0)), b"", (0, 0)),
        (Tensor("x", None, None), b"0" * 5, (5,)),
    ],
)
def test_a_body_without_json_is_the_only_input(tensor, body, shape):
    exchange = Exchange(body, {FIELD: "0"})
    output = Tensor("y", None, None)
    request = inference.read_request(exchange, [tensor], [output])
    assert request.outputs == (Wanted(output, True, None),)
    (array,), _ = take(exchange, tensor)
    assert array.shape == shape
    assert array.tobytes() == body


@pytest.mark.parametrize(
    ("tensors", "body", "sentence"),
    [
        ([X, X], b"", "models with one input"),
        ([TEXTS], b"", "not of BYTES"),
        ([Tensor("x", "FP32", (-1, -1))], b"", "one free axis"),
        ([X], b"0" * 12, "12 bytes, which don't make FP32 of shape (-1, 2)"),
        ([Tensor("x", "FP32", (1,))], b"0" * 8, "8 bytes"),
        ([Tensor("x", "FP32", (-1, 0))], b"0", "1 bytes"),
    ],
)
def test_a_body_without_json_that_tells_no_shape_is_refused(tensors, body, sentence):
    assert sentence in refusal(Exchange(body, {FIELD: "0"}), *tensors)[1]


# ---- outputs -------------------------------------------------------------------------------------

OUTPUTS = (Tensor("a", None, None), Tensor("b", None, None))


def wanted(**members):
    text = json.dumps({"inputs": [GOOD], **members}).encode()
    request = inference.parse_request(text, 0, [X], OUTPUTS)
    return [(each.tensor.name, each.binary) for each in request.outputs]


def test_outputs_are_json_unless_binary_data_is_asked_for():
    assert wanted() == [("a", False), ("b", False)]
    assert wanted(outputs=[]) == wanted(outputs=None) == wanted()
    assert wanted(parameters={"binary_data_output": True}) == [("a", True), ("b", True)]
    assert wanted(outputs=[{"name": "b"}]) == [("b", False)]
    both = [{"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}]
    assert wanted(outputs=both, parameters={"binary_data_output": True}) == [
        ("b", False),
        ("a", True),
    ]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"outputs": [{"name": "c"}]}, "the model has no output 'c'; it has a, b"),
        ({"outputs": [{"name": "a"}, {"name": "a"}]}, "the output 'a' is there twice"),
        ({"outputs": {}}, None),
        ({"outputs": "a"}, "must be a list"),
        ({"outputs": ["a"]}, "an object with a 'name'"),
        (
            {"outputs": [{"name": "a", "parameters": {"binary_data": 1}}]},
            "binary_data of the output 'a' must be true or false",
        ),
        (
            {"outputs": [{"name": "a", "parameters": {"classification": 3}}]},
            "classification, which isn't served",
        ),
        ({"parameters": {"binary_data_output": "yes"}}, "must be true or false"),
    ],
)
def test_outputs_that_cannot_be_had_are_refused(members, sentence):
    with pytest.raises(BadInput) as caught:
        wanted(**members)
    assert (sentence or "must be a list") in str(caught.value)


def test_not_a_number_goes_out_as_null_and_bytes_must_be_text():
    request = InferRequest("7", (), (Wanted(OUTPUTS[0], False, None),))
    payload = [np.array([1.5, np.nan, np.inf], "f4")]
    headers = inference.format_answer(payload, "m", "1", request, None)
    assert headers == ((b"Content-Type", b"application/json"),)
    answer = json.loads(payload[0])
    assert answer["id"] == "7"
    assert answer["outputs"][0]["data"] == [1.5, None, None]
    with pytest.raises(BadInput, match="isn't UTF-8"):
        inference.format_answer([np.array([b"\xff"], object)], "m", "1", request, None)


# ---- shared memory -------------------------------------------------------------------------------


class Memory:
    """One region, and who has been asked for it."""

    def __init__(self, nbytes):
        self.bytes = bytearray(nbytes)
        self.held = []

    def hold(self, region):
        if region.name != "r":
            raise BadInput(400, "no such region")
        self.held.append(region)

    def check(self):
        pass

    def settled(self, output):
        return output

    def view(self, region):
        assert region in self.held
        end = region.offset + region.byte_size
        return memoryview(self.bytes)[region.offset : end].toreadonly()

    def store(self, region, data):
        assert region in self.held
        data = data if isinstance(data, bytes) else data.tobytes()
        assert len(data) <= region.byte_size
        self.bytes[region.offset : region.offset + len(data)] = data


def region_of(size, offset=0, name="r"):
    parameters = {"shared_memory_region": name, "shared_memory_byte_size": size}
    return {**parameters, "shared_memory_offset": offset} if offset else parameters


def test_inputs_and_outputs_go_through_the_resolver():
    memory = Memory(64)
    memory.bytes[8:16] = np.array([1, 2], "f4").tobytes()
    entry = {**SIZED, "parameters": region_of(8, 8)}
    exchange = ask(entry, outputs=[{"name": "a", "parameters": region_of(48, 16)}])
    request = inference.read_request(exchange, [X], OUTPUTS, memory)
    assert request.outputs == (Wanted(OUTPUTS[0], False, Region("r", 48, 16)),)
    arrays = []
    assert inference.take_inputs(exchange, request, memory, arrays) == (0, 0)
    assert arrays[0].tolist() == [[1, 2]]
    assert not arrays[0].flags.writeable
    assert np.shares_memory(arrays[0], np.frombuffer(memory.bytes, "u1"))
    payload = [arrays[0] * 2]
    headers = inference.format_answer(payload, "m", "1", request, memory)
    assert headers[0] == (b"Content-Type", b"application/json")
    assert json.loads(payload[0])["outputs"] == [{"name": "a", "datatype": "FP32", "shape": [1, 2]}]
    assert np.frombuffer(memory.bytes, "f4", 2, 16).tolist() == [2, 4]


def test_a_region_must_be_of_the_inputs_size_and_known():
    memory = Memory(64)
    for parameters, sentence in (
        (region_of(12), "has 12 bytes of data"),
        (region_of(8, -1), "shared_memory_offset of the input 'x'"),
        (region_of(8, name="q"), "no such region"),
    ):
        with pytest.raises(BadInput, match=sentence):
            take(ask({**SIZED, "parameters": parameters}), X, memory=memory)


def test_an_output_larger_than_its_region_is_refused_with_both_sizes():
    memory = Memory(64)
    for result, size in ((np.ones((2, 2), "f4"), 16), (np.array([b"abc", b"de"], object), 13)):
        tensor = Tensor("a", None, None)
        request = InferRequest(None, (), (Wanted(tensor, False, Region("r", size - 1, 0)),))
        memory.hold(request.outputs[0].region)
        with pytest.raises(BadInput, match=f"has {size} bytes; .*byte_size is {size - 1}"):
            inference.format_answer([result], "m", "1", request, memory)
        assert memory.bytes == bytes(64)


def test_an_input_that_lies_unaligned_in_its_region_is_copied_and_counted():
    memory = Memory(64)
    memory.bytes[3:11] = np.array([1, 2], "f4").tobytes()
    exchange = ask({**SIZED, "parameters": region_of(8, 3)})
    request = inference.read_request(exchange, [X], [], memory)
    arrays = []
    assert inference.take_inputs(exchange, request, memory, arrays) == (1, 8)
    assert arrays[0].tolist() == [[1, 2]]
    assert arrays[0].flags.aligned


def test_a_length_of_thousands_of_digits_is_a_400():
    status, text = refusal(ask({**GOOD, "shape": [10**4000, 10**4000]}), X)
    assert status == 400
    assert "no memory holds" in text
