"""decode and encode: the tables "in" and "out" of the contract."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import math

import fake_core
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpredict
from fastpredict.decode import BadInput, decode
from fastpredict.encode import encode, negotiate, to_json

core = fake_core.core()


def route_of(dtype=None, shape=None):
    app = fastpredict.App()
    app.predict("/predict", dtype=dtype, shape=shape)(lambda array: array)
    return app.routes[0]


def raw(body, dtype=None, shape=None):
    return decode(fake_core.Exchange(body), route_of(dtype, shape))


def npy(body, dtype=None, shape=None):
    return decode(fake_core.Exchange(body, core.BODY_NPY), route_of(dtype, shape))


def from_json(text, dtype=None, shape=None):
    body = text if isinstance(text, bytes) else text.encode()
    return decode(fake_core.Exchange(body, core.BODY_JSON), route_of(dtype, shape))


def npy_of(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


def npy_with(header, version=1, data=b""):
    text = header.encode("utf-8" if version == 3 else "latin-1")
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + length + text + data


# ---- raw -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "dtype", "shape", "found"),
    [
        (24, "f4", (2, 3), (2, 3)),
        (24, "f4", (-1, 3), (2, 3)),
        (24, "f4", (2, -1), (2, 3)),
        (24, "f4", None, (6,)),
        (24, None, None, (24,)),
        (24, None, (-1, 6), (4, 6)),
        (4, "f4", (), ()),
        (0, "f4", (0, 3), (0, 3)),
        (0, "f4", (-1, 0), (0, 0)),
        (0, "f4", None, (0,)),
        (0, "f4", (-1, 3), (0, 3)),
    ],
)
def test_raw_bytes_have_the_routes_shape(nbytes, dtype, shape, found):
    array = raw(b"\0" * nbytes, dtype, shape)
    assert array.shape == found
    assert array.dtype == np.dtype(dtype or "u1")


@pytest.mark.parametrize(
    ("nbytes", "shape"),
    [
        (23, (2, 3)),
        (28, (2, 3)),
        (20, (-1, 3)),
        (5, None),
        (4, (0, 3)),
        (4, (-1, 0)),
        (8, (-1, -1)),
    ],
)
def test_raw_bytes_of_another_length_are_refused(nbytes, shape):
    with pytest.raises(BadInput) as caught:
        raw(b"\0" * nbytes, "f4", shape)
    assert caught.value.status == 400
    assert f"got {nbytes}" in str(caught.value)
    assert "expected float32" in str(caught.value)


def test_raw_bytes_are_in_the_dtypes_own_byte_order():
    assert raw(b"\0\1", ">i2", (1,)).tolist() == [1]


# ---- what is said of raw bytes -------------------------------------------------------------------

FIELDS = "[('a', '<f4'), ('b', '<i2')]"


def said(dtype, shape, route_dtype, route_shape=None, nbytes=24):
    headers = {"x-dtype": dtype} if shape is None else {"x-dtype": dtype, "x-shape": shape}
    exchange = fake_core.Exchange(b"\0" * nbytes, headers=headers)
    return decode(exchange, route_of(route_dtype, route_shape))


@pytest.mark.parametrize(
    ("dtype", "shape", "route_dtype", "route_shape"),
    [
        ("<f4", "2,3", "f4", (2, 3)),
        ("=f4", "2,3", "f4", (2, 3)),
        ("float32", None, "<f4", (2, 3)),
        ("<f4", "2,3", "f4", (-1, 3)),
        ("<f4", "6", "f4", (2, 3)),
        ("<f4", "2,3", "f4", None),
        ("<f4", "1,2,3", "f4", (2, 3)),
        ("<f4", "", "f4", None),
        ("|u1", "24", "u1", None),
        ("u1", "24", np.uint8, None),
        (">i4", "6", ">i4", None),
        (FIELDS, "4", [("a", "f4"), ("b", "i2")], None),
        (FIELDS.replace("'", '"').replace(" ", ""), "4", [("a", "<f4"), ("b", "<i2")], None),
        ("<M8[us]", "3", "datetime64[us]", None),
        ("<f4", "6", None, None),
        ("no dtype at all", "6", None, None),
    ],
)
def test_raw_bytes_that_are_said_to_be_what_the_route_takes_are_taken(
    dtype, shape, route_dtype, route_shape
):
    assert said(dtype, shape, route_dtype, route_shape).nbytes == 24
    assert said("<f4", "", "f4", (), nbytes=4).shape == ()


@pytest.mark.parametrize(
    ("dtype", "shape", "route_dtype", "route_shape", "what"),
    [
        ("<i4", "2,3", "f4", (2, 3), "another dtype.* float32 of shape .* got int32, as X-Dtype"),
        (">f4", "2,3", "f4", (2, 3), "another dtype"),
        ("<f4", "6", ">f4", None, "another dtype"),
        ("<f8", "3", "f4", None, "another dtype"),
        ("|i1", "24", "u1", None, "another dtype"),
        ("|V6", "4", [("a", "f4"), ("b", "i2")], None, "another dtype"),
        (FIELDS.replace("b", "c"), "4", [("a", "f4"), ("b", "i2")], None, "another dtype"),
        ("<M8[ms]", "3", "datetime64[us]", None, "another dtype"),
        ("<f4", "3,2", "f4", (2, 3), r"another shape.* got shape \(3, 2\), as X-Shape"),
        ("<f4", "3,2", "f4", (-1, 3), "another shape"),
        ("|u1", "4,6", None, (-1, 4), "another shape"),
        ("<i4, <f4", "3", "f4", None, "another dtype"),
    ],
)
def test_raw_bytes_that_are_said_to_be_another_array_are_refused(
    dtype, shape, route_dtype, route_shape, what
):
    with pytest.raises(BadInput, match=what) as caught:
        said(dtype, shape, route_dtype, route_shape)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("", None),
        ("nonsense", None),
        ("|O", None),
        ("[('a', '|O')]", None),
        ("[", None),
        ("[" * 20_000, None),
        ("[('a', '<f4'), " * 300 + ")]" * 300, None),
        ("[" + "('a', '<f4'), " * 1000 + "]", None),
        ("[__import__('os').abort()]", None),
        ("é", None),
        ("<f4", ","),
        ("<f4", "2,x"),
        ("<f4", "-1"),
        ("<f4", "2, 3"),
        ("<f4", "²"),
        ("<f4", "9" * 5000),
        ("<f4", "1," * 5000 + "1"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_fields_that_say_nothing_of_raw_bytes_are_the_clients_mistake(dtype, shape):
    with pytest.raises(BadInput, match=r"fields that can't be read.* expected float32") as caught:
        said(dtype, shape, "f4", (2, 3))
    assert caught.value.status == 400
    assert len(str(caught.value)) < 400


@given(st.text(st.characters(max_codepoint=255), max_size=40), st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_whatever_is_said_of_raw_bytes_is_the_routes_array_or_the_clients_mistake(dtype, shape):
    for given_dtype, given_shape in ((dtype, shape), ("[" + dtype, None), ("<f4", shape)):
        with contextlib.suppress(BadInput):
            assert said(given_dtype, given_shape, "f4", (2, 3)).shape == (2, 3)


# ---- .npy ----------------------------------------------------------------------------------------

NPY_DTYPES = ["?", "i1", "u2", "<i4", "f2", "f4", "f8", "c8", "M8[ms]", "S3", "U2", [("a", "f4")]]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_npy_round_trips_whatever_numpy_writes(data):
    dtype = np.dtype(data.draw(st.sampled_from(NPY_DTYPES)))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=4)))
    size = math.prod(shape) * dtype.itemsize
    order = data.draw(st.sampled_from("CF"))
    version = data.draw(st.sampled_from([None, (1, 0), (2, 0), (3, 0)]))
    array = np.ndarray(
        shape, dtype, data.draw(st.binary(min_size=size, max_size=size)), order=order
    )
    if dtype.kind == "U":
        array = np.full(shape, "aé", dtype, order=order)
    free = tuple(-1 if data.draw(st.booleans()) else length for length in shape)
    for want_dtype, want_shape in ((dtype, shape), (dtype, free), (None, shape), (None, None)):
        found = npy(npy_of(array, version), want_dtype, want_shape)
        assert found.dtype == dtype
        assert found.shape == shape
        assert found.tobytes() == array.tobytes()


def test_npy_data_is_used_where_it_lies():
    exchange = fake_core.Exchange(npy_of(np.zeros((2, 3), "f4", order="F")), core.BODY_NPY)
    array = decode(exchange, route_of("f4", (2, 3)))
    array[1, 2] = 7
    assert array.flags.f_contiguous
    assert not array.flags.c_contiguous
    assert exchange.memory[-4:] == np.float32(7).tobytes()


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_npy_field_names_beyond_latin_1_are_read():
    dtype = np.dtype([("größe", "f4"), ("大小", "i2"), ("a'\\é", "i2")])
    assert npy(npy_of(np.zeros(2, dtype)), dtype, (2,)).dtype == dtype


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (npy_of(np.zeros((2, 3), "f8")), "another dtype"),
        (npy_of(np.zeros((2, 3), ">f4")), "another dtype"),
        (npy_of(np.zeros((2, 3), "i4")), "another dtype"),
        (npy_of(np.zeros((3, 2), "f4")), "another shape"),
        (npy_of(np.zeros((2, 3, 1), "f4")), "another shape"),
        (npy_of(np.zeros((2, 3), "f4")) + b"\0", "trailing"),
        (npy_of(np.zeros((2, 3), "f4"))[:-1], "cut short"),
        (npy_of(np.zeros((2, 3), "f4"))[:50], "header"),
        (npy_of(np.zeros((2, 3), "f4"))[:9], "header"),
        (npy_of(np.array([[1, "a", None]] * 2)), "unpickled"),
        (b"", "header"),
        (b"not npy at all", "header"),
        (npy_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", 4), "header"),
        (npy_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}"), "negative"),
        (npy_with("{'descr': '<f4', 'fortran_order': False}"), "header"),
        (npy_with("__import__('os').abort()"), "header"),
        (npy_with("(" * 3000), "header"),
        (npy_with("[" * 9000 + "]" * 900), "header"),
        (
            npy_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}" + " " * 12000),
            "head",
        ),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff{}", "header"),
        (b"\x93NUMPY\3\0\xff\xff\xff\xff{}", "header"),
        (npy_with("{'descr': 'é", 3), "header"),
    ],
)
def test_npy_that_does_not_suit_is_refused_in_words(body, said):
    with pytest.raises(BadInput, match=said) as caught:
        npy(body, "f4", (2, 3))
    assert caught.value.status == 400
    assert "expected" in str(caught.value)
    assert "got" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_npy_of_a_foreign_byte_order_is_refused_where_it_chooses_the_dtype():
    foreign = npy_of(np.zeros(2, np.dtype("f4").newbyteorder()))
    with pytest.raises(BadInput, match="byte order"):
        npy(foreign)
    with pytest.raises(BadInput, match="dtype"):
        npy(npy_with("{'descr': '|S0', 'fortran_order': False, 'shape': (2,)}"))


def test_npy_chooses_within_the_routes_shape():
    assert npy(npy_of(np.zeros((2, 3), "f8"))).shape == (2, 3)
    assert npy(npy_of(np.zeros((2, 3), "f8")), None, (-1, 3)).dtype == "f8"
    with pytest.raises(BadInput, match="another shape"):
        npy(npy_of(np.zeros((2, 3), "f8")), None, (-1,))
    with pytest.raises(BadInput, match="another shape"):
        npy(npy_of(np.zeros((2, 3), "f8")), "f8", None)


def test_npy_of_a_big_endian_route_is_taken():
    assert npy(npy_of(np.ones(2, ">f4")), ">f4", (2,)).tolist() == [1, 1]


@pytest.mark.parametrize("shape", ["(0, 2**70)", "(0, 9223372036854775807, 9)", f"{(0,) * 70}"])
def test_npy_shapes_beyond_numpy_are_the_clients_mistake(shape):
    shape = shape.replace("2**70", str(2**70))
    with pytest.raises(BadInput):
        npy(npy_with(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"))


@pytest.mark.parametrize(
    "shape",
    [
        f"({'9' * 4300},)",
        f"(0, -{'9' * 4300})",
        f"(0x{'f' * 9000},)",
        f"({', '.join(['9' * 70] * 120)})",
    ],
    ids=["digits", "negative", "hexadecimal", "product"],
)
def test_npy_lengths_that_python_would_not_print_are_the_clients_mistake(shape):
    body = npy_with(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")
    for dtype, route_shape in ((None, None), ("f4", None), ("f4", (2, 3))):
        with pytest.raises(BadInput, match="no memory holds") as caught:
            npy(body, dtype, route_shape)
        assert len(str(caught.value)) < 400


@given(st.binary(max_size=200), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_npy_bytes_of_any_kind_are_an_array_or_the_clients_mistake(tail, version):
    for body in (tail, b"\x93NUMPY" + bytes((version, 0)) + tail):
        with contextlib.suppress(BadInput):
            assert isinstance(npy(body), np.ndarray)


# ---- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "found"),
    [
        ("[[1,2],[3,4]]", "f4", (2, 2), [[1, 2], [3, 4]]),
        ("[1.5,2]", "f8", None, [1.5, 2]),
        ("[1,2.0,-3]", "i2", None, [1, 2, -3]),
        ("[0,255]", None, None, [0, 255]),
        ("5", "i8", (), 5),
        ("true", "?", (), True),
        ("[true,false]", "?", None, [True, False]),
        ("[]", "f4", None, []),
        ("[]", "f4", (-1, 3), []),
        ("[[],[]]", "f4", (2, 0), [[], []]),
        ("[18446744073709551615]", "u8", None, [2**64 - 1]),
        ("[-9223372036854775808]", "i8", None, [-(2**63)]),
        ("[16777216, 33554432]", "f4", None, [2**24, 2**25]),
        ("[0.1]", "f4", None, [float(np.float32(0.1))]),
        ("[1]", ">i4", None, [1]),
        ("[1e-400]", "f8", None, [0]),
        ("[65504]", "f2", None, [65504]),
        (b"\xef\xbb\xbf[1]", "f4", None, [1]),
    ],
)
def test_json_that_fits_is_read(text, dtype, shape, found):
    array = from_json(text, dtype, shape)
    assert array.tolist() == found
    assert array.dtype == np.dtype(dtype or "u1")


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "said"),
    [
        ("[1,", "f4", None, "not JSON"),
        (b"\xff\xfe\xff", "f4", None, "not JSON"),
        (b"[\xff]", "f4", None, "not JSON"),
        ("[NaN]", "f4", None, "NaN"),
        ("[-Infinity]", "f4", None, "Infinity"),
        ("[1e999]", "f8", None, "range"),
        ("[1e39]", "f4", None, "range"),
        ("[65520]", "f2", None, "without loss"),
        ("[65520.0]", "f2", None, "range"),
        ("[16777217]", "f4", None, "without loss"),
        ("[9007199254740993]", "f8", None, "without loss"),
        ("[" + "9" * 400 + "]", "f8", None, "without loss"),
        ("[" + "9" * 5000 + "]", "f8", None, "not JSON"),
        ("[256]", "u1", None, "range"),
        ("[-1]", "u1", None, "range"),
        ("[1e300]", "i8", None, "range"),
        ("[1e999]", "i8", None, "without loss"),
        ("[1.5]", "i8", None, "without loss"),
        ("[1, true]", "i8", None, "true or false"),
        ("[1]", "?", None, "number"),
        ("[null]", "f4", None, "null"),
        ('["1"]', "f4", None, "string"),
        ('{"a": 1}', "f4", None, "object"),
        ("[[1],[1,2]]", "f4", (2, -1), "ragged"),
        ("[[1],1]", "f4", (2, -1), "ragged"),
        ("[[1]]", "f4", None, "another shape"),
        ("5", "f4", None, "another shape"),
        ("[5]", "f4", (), "another shape"),
        ("[1,2]", "f4", (3,), "another shape"),
        ("[" * 33 + "]" * 33, "f4", None, "too deep"),
        ("[" * 100_000, "f4", None, "too deep|not JSON"),
        ("[1]", "c8", None, "no JSON form"),
        ('["a"]', "S3", None, "no JSON form"),
        ("[1]", "M8[s]", None, "no JSON form"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_json_that_does_not_fit_is_refused_in_words(text, dtype, shape, said):
    with pytest.raises(BadInput, match=said) as caught:
        from_json(text, dtype, shape)
    assert caught.value.status == 400
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_json_over_64_mib_is_413(monkeypatch):
    monkeypatch.setattr(fastpredict.decode, "JSON_MAX_BYTES", 4)
    with pytest.raises(BadInput, match="at most") as caught:
        from_json("[1,2,3]", "f4")
    assert caught.value.status == 413


INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, max_size=5), st.sampled_from(INTEGERS))
@settings(max_examples=300, deadline=None)
def test_json_fits_integers_exactly_or_not_at_all(values, dtype):
    limits = np.iinfo(dtype)
    fits = all(value == int(value) and limits.min <= value <= limits.max for value in values)
    try:
        assert from_json(json.dumps(values), dtype).tolist() == values
        assert fits
    except BadInput:
        assert not fits


@given(st.lists(st.integers(-(2**130), 2**130), max_size=5), st.sampled_from(["f2", "f4", "f8"]))
@settings(max_examples=300, deadline=None)
def test_json_integers_fit_floats_exactly_or_not_at_all(values, dtype):
    with np.errstate(over="ignore"):
        kept = [float(np.dtype(dtype).type(float(value))) for value in values]
    fits = all(
        math.isfinite(got) and int(got) == value for got, value in zip(kept, values, strict=True)
    )
    try:
        assert [int(item) for item in from_json(json.dumps(values), dtype).tolist()] == values
        assert fits
    except BadInput:
        assert not fits


@given(st.recursive(numbers | st.booleans() | st.none() | st.text(), st.lists, max_leaves=12))
@settings(max_examples=200, deadline=None)
def test_json_of_any_kind_is_an_array_or_the_clients_mistake(value):
    for dtype in ("f4", "i2", "?", None):
        with contextlib.suppress(BadInput):
            assert from_json(json.dumps(value), dtype, (-1, -1)).ndim == 2


# ---- out -----------------------------------------------------------------------------------------


def sent(result, accept=None):
    payload = [result]
    head = encode(payload, accept)
    headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    return head.status, headers, payload[0] if payload else None


def test_an_array_is_raw_by_default_and_tells_dtype_and_shape():
    array = np.arange(6, dtype="f4").reshape(2, 3)
    status, headers, payload = sent(array)
    assert status == 200
    assert payload is array
    assert headers == {
        "Content-Type": "application/octet-stream",
        "X-Dtype": "<f4",
        "X-Shape": "2,3",
    }


def test_a_numpy_scalar_is_an_array_without_axes():
    _, headers, payload = sent(np.float64(1.5))
    assert headers["X-Shape"] == ""
    assert headers["X-Dtype"] == "<f8"
    assert payload.tobytes() == np.float64(1.5).tobytes()
    assert sent(np.float32(0.5), "application/json")[2] == b"0.5"
    assert sent(np.bool_(True), "application/json")[2] == b"true"
    assert np.load(io.BytesIO(bytes(sent(np.int64(3), "application/x-npy")[2]))) == 3


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6.0)[::2],
        np.arange(6, dtype=">i4"),
        np.arange(6.0).view(np.matrix),
        np.zeros((0, 3)),
        np.array(5.0),
        np.array(["a", "bé"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("größe", ">f4"), ("b", "i2")]),
        np.zeros(2, [("a\r\nX: y", "f4")]),
        np.array([True]),
        np.array([1j]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_any_array_can_be_put_together_again(array):
    _, headers, payload = sent(array)
    assert payload.flags.c_contiguous
    assert payload.dtype.isnative
    assert type(payload) is np.ndarray
    said = headers["X-Dtype"]
    assert said.isprintable()
    dtype = np.dtype(ast.literal_eval(said) if said.startswith("[") else said)
    shape = tuple(int(length) for length in headers["X-Shape"].split(",") if length)
    assert shape == array.shape
    again = np.frombuffer(payload.tobytes(), dtype).reshape(shape)
    assert (again == np.asarray(array)).all()
    _, headers, payload = sent(array, "application/x-npy")
    assert headers == {"Content-Type": "application/x-npy"}
    loaded = np.load(io.BytesIO(bytes(payload)))
    assert loaded.shape == array.shape
    assert (loaded == np.asarray(array)).all()


def test_a_memmap_is_copied_for_its_file_may_change(tmp_path):
    mapped = np.memmap(tmp_path / "m", "f4", "w+", shape=(4,))
    _, _, payload = sent(mapped)
    mapped[:] = 9
    assert payload.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "octet-stream"),
        ("", "octet-stream"),
        ("*/*", "octet-stream"),
        ("application/*", "octet-stream"),
        ("application/json", "json"),
        ("APPLICATION/JSON ; charset=utf-8", "json"),
        ("application/x-npy", "x-npy"),
        ("application/json, */*", "json"),
        ("application/json;q=0.5, application/x-npy;q=0.9", "x-npy"),
        ("application/json;q=0.5, */*;q=0.1", "json"),
        ("application/json;q=0.1, */*", "octet-stream"),
        ("application/octet-stream;q=0, */*", "x-npy"),
        ("text/html, image/png", "octet-stream"),
        ("application/json;q=0", "octet-stream"),
        ("application/json;q=x, application/x-npy;q=0.1", "x-npy"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "octet-stream"),
        (", ,;;q=,", "octet-stream"),
    ],
)
def test_accept_chooses_the_form_of_an_array(accept, form):
    assert sent(np.zeros(2), accept)[1]["Content-Type"] == f"application/{form}"


@given(st.text(st.characters(max_codepoint=255), max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_accept_gives_some_form(accept):
    assert negotiate(accept) in ("raw", "npy", "json")


@pytest.mark.parametrize(
    ("shape", "is_json"),
    [
        ((1024, 1024), True),
        ((0, 3000, 2500), True),
        ((0, 10**9), True),
        (((1 << 21) + 1,), False),
        ((1 << 11, 1 << 10), False),  # with its rows
        ((10**9, 0), False),
        ((1 << 20, 1), True),
        (((1 << 20) + 1, 1), False),
        ((70_000, *(1,) * 30), False),
        ((4, 10**6, 0), False),
    ],
)
def test_an_array_that_would_be_too_much_as_json_is_sent_raw(shape, is_json):
    _, headers, payload = sent(np.zeros(shape, "u1"), "application/json")
    if is_json:
        assert headers == {"Content-Type": "application/json"}
    else:
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["X-Shape"] == ",".join(map(str, shape))
        assert payload.shape == shape
        liked = "application/json, application/x-npy;q=0.1"
        assert sent(np.zeros(shape, "u1"), liked)[1] == {"Content-Type": "application/x-npy"}


def test_the_size_of_json_that_a_handler_chooses_is_its_own(monkeypatch):
    monkeypatch.setattr(fastpredict.encode, "JSON_MAX_ITEMS", 1)
    own = fastpredict.Response(np.zeros(3), content_type="application/json")
    assert sent(own)[2] == b"[0.0,0.0,0.0]"
    assert sent(np.zeros(3).tolist())[2] == b"[0.0,0.0,0.0]"


def test_json_is_not_chosen_for_what_it_cannot_say():
    assert sent(np.array([1j]), "application/json")[1]["Content-Type"].endswith("octet-stream")
    assert sent(np.array([1j]), "application/json, application/x-npy;q=0.1")[1] == {
        "Content-Type": "application/x-npy"
    }


@pytest.mark.parametrize(
    ("result", "content_type", "payload"),
    [
        (b"x", "application/octet-stream", b"x"),
        (bytearray(b"x"), "application/octet-stream", b"x"),
        (memoryview(b"xy"), "application/octet-stream", b"xy"),
        (memoryview(b"xayb")[::2], "application/octet-stream", b"xy"),
        (np.bytes_(b"x"), "application/octet-stream", b"x"),
        ("é", "text/plain; charset=utf-8", "é".encode()),
        (np.str_("é"), "text/plain; charset=utf-8", "é".encode()),
        ({"a": 1}, "application/json", b'{"a":1}'),
        ([1, "é"], "application/json", '[1,"é"]'.encode()),
        (True, "application/json", b"true"),
        (3, "application/json", b"3"),
        (1.5, "application/json", b"1.5"),
        (math.nan, "application/json", b"null"),
    ],
)
def test_other_results_go_by_their_type(result, content_type, payload):
    assert sent(result, "application/x-npy") == (200, {"Content-Type": content_type}, payload)


def test_tuples_and_responses_set_status_and_headers():
    assert sent(("x", 201))[0] == 201
    status, headers, payload = sent(({"a": 1}, 422, {"X-A": "b", "Content-Type": "a/b"}))
    assert (status, headers, payload) == (422, {"Content-Type": "a/b", "X-A": "b"}, b'{"a":1}')
    assert sent((None, 304, {"ETag": '"a"'})) == (304, {"ETag": '"a"'}, None)
    assert sent(fastpredict.Response(None)) == (200, {}, None)
    assert sent(fastpredict.Response(np.zeros(1, "f4"), headers={"x-shape": "?"}))[1] == {
        "Content-Type": "application/octet-stream",
        "X-Dtype": "<f4",
        "x-shape": "?",
    }


def test_a_content_type_of_ours_says_how_an_array_is_written():
    for content_type, start in (
        ("application/json; charset=utf-8", b"[0.0]"),
        ("application/x-npy", b"\x93NUMPY"),
        ("image/x-raw", b"\0\0\0\0"),
    ):
        response = fastpredict.Response(np.zeros(1, "f4"), content_type=content_type)
        _, headers, payload = sent(response, "application/json")
        assert headers["Content-Type"] == content_type
        assert bytes(memoryview(payload).cast("B")).startswith(start)


def test_numpy_values_in_json_are_converted_and_what_is_not_finite_is_null():
    value = {
        "array": np.array([[1.0, np.nan], [np.inf, -np.inf]]),
        "scalars": (np.int64(1), np.float32(0.5), np.bool_(True), np.str_("é"), np.float64("nan")),
        "nested": [{"a": math.inf}],
        "long": np.longdouble(1.5),
        np.int64(3): np.array([True]),
        4: None,
    }
    assert json.loads(to_json(value)) == {
        "array": [[1.0, None], [None, None]],
        "scalars": [1, 0.5, True, "é", None],
        "nested": [{"a": None}],
        "long": 1.5,
        "3": [True],
        "4": None,
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_json_written_is_json_that_says_the_same(value):
    def clean(item):
        if isinstance(item, float) and not math.isfinite(item):
            return None
        if isinstance(item, list):
            return [clean(each) for each in item]
        if isinstance(item, dict):
            return {key: clean(each) for key, each in item.items()}
        return item

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(to_json(value), parse_constant=refuse) == clean(value)
