"""Arrays to bodies and answers to arrays, without a socket; the inference protocol's too."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from fastpredict.client_codec import ArrayReceiver, bytes_of, check_out, encode_array
from fastpredict.client_errors import (
    BadInput,
    BadResponse,
    ClientError,
    HandlerError,
    StatusError,
    Unavailable,
)
from fastpredict.client_infer import InferReceiver, JsonReceiver
from fastpredict.client_wire import AnswerHead
from fastpredict.encode import encode

STRUCTURED = np.dtype([("ä", "<i2"), ("b", "<f8", (2,)), ("c", "S3")])
ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.float16([1, 2.5, -3]),
    np.array([True, False, True]),
    np.array(7.5),
    np.empty((3, 0, 5), np.int16),
    np.zeros(0),
    np.array([(1, (2, 3), b"x"), (4, (5, 6), b"yz")], STRUCTURED),
    np.array(["2020-01-01", "NaT"], "M8[D]"),
    np.array([1, 2], "m8[us]"),
    np.array(["a", "bcd"]),
    np.array([b"a", b"bcd"]),
    np.array([1 + 2j], np.complex64),
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[::-1, :, ::2],
]
NAMES = [f"{each.dtype.str}{each.shape}" for each in ARRAYS]


def joined(body):
    return b"".join(body.pieces)


def receive(receiver, body=b"", status=200, length=True, **fields):
    """Hands an answer over to a receiver, as the reader does."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    head = AnswerHead(1, status, "Reason", headers, len(body) if length else None)
    sink = receiver.begin(head)
    at = 0
    while at < len(body):
        window = sink.window(len(body) - at)
        window[:] = body[at : at + len(window)]
        sink.advance(len(window))
        at += len(window)
    return receiver.finish()


def fields_of(headers):
    return {name.decode().lower().replace("-", "_"): value.decode() for name, value in headers}


# ---- what is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize("array", ARRAYS, ids=NAMES)
def test_raw_bodies_are_the_arrays_bytes_and_say_what_they_are(array):
    body = encode_array(array, None)
    assert joined(body) == array.tobytes()
    fields = fields_of(body.fields)
    assert fields["content_type"] == "application/octet-stream"
    again = receive(ArrayReceiver(), joined(body), **fields)
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()


def test_contiguous_arrays_are_sent_from_where_they_lie():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    (piece,) = encode_array(array, None).pieces
    assert np.shares_memory(np.frombuffer(piece, np.uint8), array)
    header, data = encode_array(array, True).pieces
    assert len(header) % 64 == 0
    assert np.shares_memory(np.frombuffer(data, np.uint8), array)
    _, data = encode_array(array.T, True).pieces
    assert np.shares_memory(np.frombuffer(data, np.uint8), array)


@pytest.mark.parametrize("array", [*ARRAYS, ARRAYS[0].T], ids=[*NAMES, "fortran"])
def test_npy_bodies_are_files_that_numpy_reads(array):
    body = encode_array(array, True)
    assert fields_of(body.fields)["content_type"] == "application/x-npy"
    again = np.load(io.BytesIO(joined(body)), allow_pickle=False)
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()


def test_an_array_of_another_byte_order_says_so():
    array = np.arange(3, dtype=">i4")
    assert fields_of(encode_array(array, None).fields)["content_type"] == "application/x-npy"
    assert joined(encode_array(array, False)) == array.tobytes()


def test_what_holds_objects_or_a_mask_is_not_sent():
    for value in ([object()], np.array([None]), np.ma.array([1, 2], mask=[0, 1])):
        with pytest.raises(TypeError):
            encode_array(value, None)
    assert joined(encode_array([1.5, 2.5], None)) == np.array([1.5, 2.5]).tobytes()


# ---- what is answered ----------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [None, "application/x-npy", "application/json"])
@pytest.mark.parametrize("array", ARRAYS, ids=NAMES)
def test_what_the_server_encodes_is_read_back(array, accept):
    payload = [array.copy()]
    head = encode(payload, accept)
    fields = fields_of(head.headers)
    as_json = fields["content_type"] == "application/json"
    body = payload[0] if isinstance(payload[0], bytes) else bytes(bytes_of(payload[0]))
    for length in (True, False):
        again = receive(ArrayReceiver(), body, length=length, **fields)
        if as_json:
            assert again.tolist() == array.tolist()
        else:
            assert (again.dtype, again.shape) == (array.dtype, array.shape)
            assert again.tobytes() == array.tobytes()
            assert again.flags.writeable
            assert again.flags.aligned


def test_out_is_filled_and_returned_whatever_form_the_answer_has():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for accept in (None, "application/x-npy"):
        out = np.zeros_like(array)
        payload = [array.copy()]
        head = encode(payload, accept)
        body = payload[0].tobytes()
        assert receive(ArrayReceiver(out), body, **fields_of(head.headers)) is out
        assert (out == array).all()
    plain = np.zeros_like(array)
    said = {"content_type": "application/octet-stream"}
    assert receive(ArrayReceiver(plain), array.tobytes(), **said) is plain
    assert (plain == array).all()


def test_bytes_that_say_nothing_of_themselves_are_uint8():
    array = receive(ArrayReceiver(), b"abc", content_type="application/octet-stream")
    assert array.tobytes() == b"abc"
    assert array.dtype == np.uint8
    assert receive(ArrayReceiver(), b"").shape == (0,)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"[[1,2],[3,4]]", [[1, 2], [3, 4]]),
        (b"[1.5,null]", [1.5, None]),
        (b"2", 2),
        (b"true", True),
        (b"[]", []),
    ],
)
def test_json_is_read_and_null_is_nan(text, values):
    array = receive(ArrayReceiver(), text, content_type="application/json; charset=utf-8")
    wanted = np.asarray(values, np.float64 if None in np.ravel(values) else None)
    np.testing.assert_array_equal(array, wanted)
    assert array.dtype == wanted.dtype


OCTETS = {"content_type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"hello", {"content_type": "text/plain"}),
        (b"<html>", {"content_type": "text/html"}),
        (b'{"a": 1}', {"content_type": "application/json"}),
        (b'"text"', {"content_type": "application/json"}),
        (b"[[1],[2,3]]", {"content_type": "application/json"}),
        (b"[1", {"content_type": "application/json"}),
        (b"[" * 100_000, {"content_type": "application/json"}),
        (b"\x93NUMPY", {"content_type": "application/x-npy"}),
        (b"nonsense" * 100, {"content_type": "application/x-npy"}),
        (b"12345678", {**OCTETS, "x_dtype": "<f4", "x_shape": "3"}),
        (b"12345678", {**OCTETS, "x_dtype": "<f4", "x_shape": "1"}),
        (b"12345678", {**OCTETS, "x_dtype": "<f4", "x_shape": "-2,-1"}),
        (b"12345678", {**OCTETS, "x_dtype": "<f4", "x_shape": "2,"}),
        (b"12345678", {**OCTETS, "x_dtype": "<f4", "x_shape": "9" * 30}),
        (b"12345678", {**OCTETS, "x_dtype": "O", "x_shape": "1"}),
        (b"12345678", {**OCTETS, "x_dtype": "[('a', 'O')]", "x_shape": "1"}),
        (b"12345678", {**OCTETS, "x_dtype": "[" * 5000, "x_shape": "1"}),
        (b"12345678", {**OCTETS, "x_dtype": "nonsense", "x_shape": "1"}),
        (b"12345678", {**OCTETS, "x_dtype": "", "x_shape": "1"}),
    ],
)
def test_what_is_no_array_is_a_bad_response(body, fields):
    for length in (True, False):
        with pytest.raises(BadResponse):
            receive(ArrayReceiver(), body, length=length, **fields)


def test_an_answer_without_a_body_is_no_array():
    with pytest.raises(BadResponse, match="204"):
        receive(ArrayReceiver(), b"", status=204)


def test_an_npy_answer_of_objects_is_never_unpickled():
    file = io.BytesIO()
    np.save(file, np.array([{}]), allow_pickle=True)
    with pytest.raises(BadResponse):
        receive(ArrayReceiver(), file.getvalue(), content_type="application/x-npy")


def test_an_array_that_no_memory_holds_is_a_bad_response():
    fields = {**OCTETS, "x_dtype": "<f4", "x_shape": str(1 << 58)}
    with pytest.raises(BadResponse, match="no array"):
        receive(ArrayReceiver(), b"", length=False, **fields)


def test_an_answer_that_does_not_fit_out_is_a_bad_response():
    fields = {**OCTETS, "x_dtype": "<f4", "x_shape": "2"}
    for out in (np.zeros(2), np.zeros(3, np.float32), np.zeros((1, 2), np.float32)):
        with pytest.raises(BadResponse, match="out is"):
            receive(ArrayReceiver(out), b"12345678", **fields)


def test_out_is_checked_before_anything_is_sent():
    check_out(None)
    check_out(np.zeros(3))
    readonly = np.zeros(3)
    readonly.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        check_out(readonly)
    with pytest.raises(ValueError, match="contiguous"):
        check_out(np.zeros((3, 4))[:, ::2])
    for wrong in ([1.0], bytearray(8), np.array([None])):
        with pytest.raises(TypeError):
            check_out(wrong)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadInput), (404, BadInput), (413, BadInput), (500, HandlerError), (501, HandlerError),
     (503, Unavailable), (504, Unavailable), (302, StatusError)],
)  # fmt: skip
def test_each_kind_of_status_is_an_exception_of_its_own(status, kind):
    body = json.dumps({"error": "what was wrong"}).encode()
    for receiver in (ArrayReceiver(), InferReceiver(), JsonReceiver()):
        with pytest.raises(ClientError) as caught:
            receive(receiver, body, status=status, retry_after="3")
        assert type(caught.value) is kind
        assert caught.value.status == status
        assert caught.value.message == "what was wrong"
        assert caught.value.headers["retry-after"] == "3"
        assert str(status) in str(caught.value)
        if isinstance(caught.value, Unavailable):
            assert caught.value.retry_after == 3.0


def test_an_error_that_is_no_json_is_shown_as_it_is():
    for body, message in (
        (b"plain", "plain"),
        (b"\xff", "\ufffd"),
        (b"", "Reason"),
        (b"[1]", "[1]"),
    ):
        with pytest.raises(BadInput) as caught:
            receive(ArrayReceiver(), body, status=400)
        assert caught.value.message == message
