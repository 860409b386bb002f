"""The inference protocol as the client speaks it, without a socket, and with the server's half."""

from __future__ import annotations

import json

import fake_infer
import numpy as np
import pytest
from test_client_codec import STRUCTURED, fields_of, joined, receive

from fastpredict import inference
from fastpredict.client_errors import BadResponse
from fastpredict.client_infer import HEADER_LENGTH, InferReceiver, encode_infer
from fastpredict.datatypes import DATATYPES
from fastpredict.inference import Tensor


def infer_parts(body):
    """What a server reads: the JSON and the bytes behind it."""
    whole = joined(body)
    fields = {name.decode(): value.decode() for name, value in body.fields}
    end = int(fields[HEADER_LENGTH])
    return json.loads(whole[:end]), whole[end:], end


def test_an_infer_request_is_json_and_tensors():
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    said, data, end = infer_parts(
        encode_infer({"image": image, "flag": np.array([True])}, None, parameters={"k": 1})
    )
    assert end % 64 == 0
    assert said["inputs"] == [
        {
            "name": "image",
            "shape": [2, 3],
            "datatype": "FP32",
            "parameters": {"binary_data_size": 24},
        },
        {"name": "flag", "shape": [1], "datatype": "BOOL", "parameters": {"binary_data_size": 1}},
    ]
    assert said["parameters"] == {"k": 1, "binary_data_output": True}
    assert data == image.tobytes() + b"\1"
    said, _, _ = infer_parts(encode_infer({"image": image}, ["a", "b"]))
    assert [each["name"] for each in said["outputs"]] == ["a", "b"]
    assert "parameters" not in said


def test_tensors_are_sent_from_where_they_lie():
    image = np.arange(6, dtype=np.float32)
    pieces = encode_infer({"image": image, "none": np.zeros(0, np.int8)}, None).pieces
    assert len(pieces) == 2
    assert np.shares_memory(np.frombuffer(pieces[1], np.uint8), image)


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [("?", "BOOL"), ("u1", "UINT8"), ("u2", "UINT16"), ("u4", "UINT32"), ("u8", "UINT64"),
     ("i1", "INT8"), ("i2", "INT16"), ("i4", "INT32"), ("i8", "INT64"), ("f2", "FP16"),
     ("f4", "FP32"), ("f8", "FP64"), (">f4", "FP32")],
)  # fmt: skip
def test_every_datatype_goes_there_and_back(dtype, datatype):
    array = np.array([[0, 1], [2, 3]], dtype)
    said, data, _ = infer_parts(encode_infer({"x": array.T}, None))
    assert said["inputs"][0]["datatype"] == datatype
    output = {**said["inputs"][0], "name": "y"}
    answers = receive_infer([output], data)
    np.testing.assert_array_equal(answers["y"], array.T)
    assert answers["y"].dtype == np.dtype(dtype).newbyteorder("=")
    assert answers["y"].flags.writeable


def receive_infer(outputs, data, text=None):
    """A binary answer, received."""
    said = json.dumps({"model_name": "m", "outputs": outputs}).encode() if text is None else text
    fields = {HEADER_LENGTH.lower().replace("-", "_"): str(len(said))}
    return receive(InferReceiver(), said + data, **fields)


def output(name, datatype, shape, size):
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def test_text_and_bytes_are_bytes():
    for values in (["a", "bä", ""], [b"a", b"b\xff", b""]):
        for array in (np.array(values), np.array(values, object)):
            said, data, _ = infer_parts(encode_infer({"x": array}, None))
            assert said["inputs"][0]["datatype"] == "BYTES"
            answer = receive_infer([said["inputs"][0]], data)["x"]
            assert answer.tolist() == [
                each.encode() if isinstance(each, str) else each for each in values
            ]
    with pytest.raises(TypeError, match="bytes or str"):
        encode_infer({"x": np.array([1, None])}, None)


@pytest.mark.parametrize(
    "array", [np.zeros(2, "c8"), np.zeros(2, "M8[s]"), np.zeros(2, STRUCTURED)]
)
def test_what_the_protocol_has_no_name_for_is_refused(array):
    with pytest.raises(TypeError, match="protocol"):
        encode_infer({"x": array}, None)


def test_the_first_tensor_is_aligned_and_later_ones_copied_only_when_they_are_not():
    outputs = [
        output("a", "FP64", [1], 8),
        output("b", "BOOL", [3], 3),
        output("c", "FP64", [1], 8),
    ]
    data = np.float64([1.5]).tobytes() + b"\1\0\1" + np.float64([2.5]).tobytes()
    answers = receive_infer(outputs, data)
    assert answers["a"].ctypes.data % 64 == 0
    assert np.shares_memory(answers["a"].base, answers["b"].base)
    assert not np.shares_memory(answers["a"], answers["c"])
    assert answers["c"].flags.aligned
    assert [each.tolist() for each in answers.values()] == [[1.5], [True, False, True], [2.5]]


def test_tensors_in_json_are_read_flat_and_nested():
    said = {
        "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]},
            {"name": "b", "datatype": "INT8", "shape": [2, 2], "data": [[1, 2], [3, 4]]},
            {"name": "c", "datatype": "BYTES", "shape": [2], "data": ["x", "ä"]},
            {"name": "d", "datatype": "FP32", "shape": [0], "data": []},
            {"name": "e", "datatype": "FP64", "shape": [2], "data": [1.5, None]},
        ]
    }
    answers = receive(InferReceiver(), json.dumps(said).encode(), content_type="application/json")
    assert answers["a"].tolist() == [[1, 2], [3, 4]]
    assert answers["b"].dtype == np.int8
    assert answers["c"].tolist() == [b"x", "ä".encode()]
    assert answers["d"].shape == (0,)
    assert np.isnan(answers["e"][1])


def test_bf16_goes_there_and_back_where_numpy_knows_it():
    dtype = DATATYPES["BF16"]
    answer = receive_infer([output("a", "BF16", [2], 4)], b"\x80\x3f\0\x40")["a"]
    assert answer.dtype == dtype
    assert answer.view(np.uint16).tolist() == [0x3F80, 0x4000]
    said, data, _ = infer_parts(encode_infer({"x": answer}, None))
    assert said["inputs"][0]["datatype"] == ("UINT16" if dtype == np.uint16 else "BF16")
    assert data == answer.tobytes()


@pytest.mark.parametrize("as_json", [False, True])
def test_what_the_client_sends_the_server_reads_and_the_other_way_round(as_json):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([True, False, True]),
        "c": np.array([b"x", b"yz"], object),
        "d": np.arange(3, dtype=np.float64)[::-1],
        "e": np.zeros((0, 2), np.int16),
    }
    tensors = tuple(
        Tensor(name, "BYTES" if array.dtype == object else None, None)
        for name, array in arrays.items()
    )
    body = encode_infer(arrays, ["e", "d", "c", "b", "a"])
    fields = {name.decode().lower(): value.decode() for name, value in body.fields}
    exchange = fake_infer.Exchange(joined(body), fields)
    request = inference.read_request(exchange, tensors, tensors)
    taken: list[np.ndarray] = []
    inference.take_inputs(exchange, request, None, taken)
    given = dict(zip(arrays, taken, strict=True))
    wanted = tuple(each._replace(binary=not as_json) for each in request.outputs)
    payload = [np.array(given[each.tensor.name]) for each in wanted]
    headers = inference.format_answer(payload, "m", "1", request._replace(outputs=wanted), None)
    whole = b"".join(part if isinstance(part, bytes) else part.tobytes() for part in payload)
    answers = receive(InferReceiver(), whole, **fields_of(headers))
    assert list(answers) == ["e", "d", "c", "b", "a"]
    for name, array in arrays.items():
        assert (answers[name].dtype, answers[name].shape) == (array.dtype, array.shape)
        assert answers[name].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("outputs", "data", "text"),
    [
        ([output("a", "FP32", [2], 8)], b"1234", None),
        ([output("a", "FP32", [2], 4)], b"1234", None),
        ([output("a", "FP32", [1], 4)], b"12345", None),
        ([output("a", "FP32", [-1], 4)], b"1234", None),
        ([output("a", "FP32", ["1"], 4)], b"1234", None),
        ([output("a", "FP32", None, 4)], b"1234", None),
        ([output("a", "FP31", [1], 4)], b"1234", None),
        ([output("a", "FP32", [1], "4")], b"1234", None),
        ([output("a", "FP32", [1], -4)], b"1234", None),
        ([output("a", "BYTES", [1], 4)], b"\5\0\0\0", None),
        ([output("a", "BYTES", [1], 3)], b"\0\0\0", None),
        ([output("a", "BYTES", [2], 4)], b"\0\0\0\0", None),
        ([{"name": "a", "datatype": "FP32", "shape": [1]}], b"", None),
        ([{"name": "a", "datatype": "FP32", "shape": [1], "data": ["x"]}], b"", None),
        ([{"name": "a", "datatype": "INT8", "shape": [1], "data": [300]}], b"", None),
        ([{"datatype": "FP32"}], b"", None),
        (["x"], b"", None),
        (None, b"", None),
        (None, b"", b"[]"),
        (None, b"", b"{"),
        (None, b"", b"{}"),
    ],
)
def test_an_infer_answer_that_does_not_fit_together_is_a_bad_response(outputs, data, text):
    with pytest.raises(BadResponse):
        receive_infer(outputs, data, text)


@pytest.mark.parametrize("length", ["x", "-1", "100", ""])
def test_a_wrong_header_length_is_a_bad_response(length):
    fields = {HEADER_LENGTH.lower().replace("-", "_"): length}
    with pytest.raises(BadResponse):
        receive(InferReceiver(), b'{"outputs": []}', **fields)
