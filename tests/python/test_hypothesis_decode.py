"""decode: whatever the bytes are, an array that suits the route or a refusal in words."""

from __future__ import annotations

import io
import json
import math
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import fake_core  # first: it makes fastpredict importable
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_values import Array, arrays, dtypes, mutations, npy_of, shapes
from soak import times

import fastpredict
from fastpredict.decode import BadInput, decode, suits
from fastpredict.route import PLAIN_KINDS, PredictRoute

core = fake_core.core()


def route_of(dtype: Any, shape: Any) -> PredictRoute:
    app = fastpredict.App()
    app.predict("/predict", dtype=dtype, shape=shape)(lambda array: array)
    return app.routes[0]


def check_refusal(refusal: BadInput) -> None:
    assert refusal.status == 400
    assert "expected" in str(refusal)
    assert "got" in str(refusal)
    assert len(str(refusal)) < 1000


def decoded(body: bytes, kind: int, route: PredictRoute) -> Array | BadInput:
    """The array, checked against the route; or the refusal, whose words are checked."""
    exchange: Any = fake_core.Exchange(body, kind)
    try:
        array = decode(exchange, route)
    except BadInput as refusal:
        check_refusal(refusal)
        return refusal
    assert type(array) is np.ndarray
    assert array.dtype.kind in PLAIN_KINDS
    assert not array.dtype.hasobject
    assert array.flags.writeable
    assert route.dtype is None or array.dtype == route.dtype
    if route.dtype is not None or route.shape is not None:
        assert suits(array.shape, route.raw_shape)
    return array


# ---- raw bytes -----------------------------------------------------------------------------------


@given(st.none() | dtypes, shapes, st.integers(0, 400), st.integers(0, 5))
@settings(max_examples=times(400), deadline=None)
def test_raw_bytes_are_taken_exactly_where_the_network_thread_takes_them(
    dtype: Any, shape: Any, nbytes: int, items: int
) -> None:
    route = route_of(dtype, shape)
    limits = route.limits()
    unit = limits["raw_unit_bytes"]
    for length in (nbytes, unit, unit * items, unit + 1):
        is_one = limits["raw_exact"] or unit == 0
        fits = length == unit if is_one else length % unit == 0
        found = decoded(bytes(length), core.BODY_RAW, route)
        assert isinstance(found, np.ndarray) == (fits and limits["raw_allowed"])
        if isinstance(found, np.ndarray):
            assert found.nbytes == length
            assert found.dtype == route.raw_dtype


# ---- .npy ----------------------------------------------------------------------------------------


def check_npy(body: bytes, route: PredictRoute) -> None:
    """What is taken is what NumPy itself reads there."""
    found = decoded(body, core.BODY_NPY, route)
    if isinstance(found, np.ndarray):
        try:
            right = np.load(io.BytesIO(body), allow_pickle=False)
        except TypeError:
            assert b"True" in body  # 1, for us
            return
        assert (found.dtype, found.shape) == (right.dtype, right.shape)
        assert found.tobytes() == right.tobytes()


versions = st.sampled_from([None, (1, 0), (2, 0), (3, 0)])


@given(data=st.data(), array=arrays(), version=versions)
@settings(max_examples=times(400), deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_mutated_npy_is_read_as_numpy_does_or_refused(
    data: st.DataObject, array: Array, version: tuple[int, int] | None
) -> None:
    body = data.draw(mutations(npy_of(array, version)))
    check_npy(body, route_of(None, None))
    check_npy(body, route_of(array.dtype, (-1,) * array.ndim))
    check_npy(body, route_of(None, array.shape))


descrs = st.sampled_from(
    [
        *(
            "'<f4'",
            "'|u1'",
            "'>i8'",
            "'|O'",
            "'O'",
            "'|S0'",
            "'|V0'",
            "'<U1'",
            "'<M8[s]'",
            "''",
            "b'f'",
        ),
        *("'f4,f4'", "[('a', '<f4')]", "[('a', '|O')]", "[('a', '<f4', (2,))]", "('<f4', (2,))"),
        *("[('a', [('b', '|O')])]", "[('', '<f4')]", "[]", "None", "7", "'float32'", "{'a': 1}"),
    ]
)
integers = st.integers(-2, 4).map(str) | st.sampled_from(
    ["True", "2**3", "1.0", "'1'", "None", "1_0", "9223372036854775807", "99999999999999999999"]
)
literals = st.lists(integers, max_size=4).map(lambda items: f"({''.join(i + ',' for i in items)})")


@st.composite
def headers(draw: st.DrawFn) -> str:
    """A literal that is nearly a header."""
    shape = draw(literals | integers | st.just("[2, 3]"))
    order = draw(st.sampled_from(["False", "True", "0", "1", "None", "'C'"]))
    pairs = [f"'descr': {draw(descrs)}", f"'fortran_order': {order}", f"'shape': {shape}"]
    pairs += draw(st.lists(st.sampled_from(["'more': 1", "'shape': (1,)", "1: 2"]), max_size=1))
    text = "{" + ", ".join(draw(st.permutations(pairs))) + "}"
    ends = ["", "\n", "  \n", "#", "\0", "()", "\\", "é", " " * 200]
    return text + draw(st.sampled_from(ends))


@given(headers(), st.sampled_from([1, 2, 3]), st.integers(0, 120), dtypes, shapes)
@settings(max_examples=times(400), deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_npy_header_is_read_as_numpy_does_or_refused(
    header: str, version: int, nbytes: int, dtype: Any, shape: Any
) -> None:
    text = header.encode("utf-8" if version == 3 else "latin-1")
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    start = b"\x93NUMPY" + bytes((version, 0)) + length + text
    body = start + bytes(nbytes)
    check_npy(body, route_of(None, None))
    check_npy(body, route_of(dtype, shape))


unpickled: list[str] = []
_is_watching = False


def _audit(event: str, _: object) -> None:
    if _is_watching and event == "pickle.find_class":
        unpickled.append(event)


sys.addaudithook(_audit)  # there is no way to take one away


@pytest.fixture
def watched() -> Iterator[None]:
    """Notices whoever unpickles anything."""
    global _is_watching
    unpickled.clear()
    _is_watching = True
    yield
    _is_watching = False
    assert unpickled == []


def test_unpickling_would_be_noticed() -> None:
    global _is_watching
    _is_watching = True
    pickle.loads(pickle.dumps(Bomb()))
    _is_watching = False
    assert unpickled
    unpickled.clear()


class Bomb:
    """Loaded, it would be noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


BOMBS = [
    npy_of(np.array([Bomb()], object)),
    npy_of(np.array([[Bomb()] * 2] * 2, object), (2, 0)),
    npy_of(np.array([(1, Bomb())], [("a", "<f4"), ("b", "O")])),
    pickle.dumps(Bomb()),
    pickle.dumps(np.array([Bomb()], object)),
]


@given(data=st.data(), bomb=st.sampled_from(BOMBS))
@settings(max_examples=times(300), deadline=None)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("watched")
def test_nothing_is_ever_unpickled(data: st.DataObject, bomb: bytes) -> None:
    body = data.draw(mutations(bomb, most=2))
    for route in (route_of(None, None), route_of("u1", (-1,)), route_of(None, (-1, -1))):
        for kind in (core.BODY_NPY, core.BODY_JSON):
            decoded(body, kind, route)


# ---- JSON ----------------------------------------------------------------------------------------

JSON_SEEDS = [
    *(b"[[1,2],[3.5,-4e2]]", b"[true,false]", b"[]", b"[[],[]]", b"0", b"[18446744073709551615]"),
    *(b'[{"a":[1]},"x",null]', b"[1e400,-0.0,1E-400]", "[1]".encode("utf-16"), b"\xef\xbb\xbf[1]"),
]
json_shapes = st.none() | st.lists(st.integers(-1, 3), max_size=3).map(tuple)


@given(data=st.data(), seed=st.sampled_from(JSON_SEEDS), dtype=dtypes, shape=json_shapes)
@settings(max_examples=times(400), deadline=None)
def test_json_bytes_of_any_kind_are_an_array_or_refused(
    data: st.DataObject, seed: bytes, dtype: Any, shape: Any
) -> None:
    body = data.draw(
        mutations(seed) | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)
    )
    found = decoded(body, core.BODY_JSON, route_of(dtype, shape))
    if isinstance(found, np.ndarray):
        assert json.loads(body) is not None
        assert found.dtype.kind in "biuf"
        assert np.isfinite(found).all()


@given(st.data(), st.sampled_from(["i2", "u8", "f4", "f8", "?", ">i4"]))
@settings(max_examples=times(200), deadline=None)
def test_json_of_a_lawful_array_is_that_array(data: st.DataObject, dtype: str) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3)))
    info = np.dtype(dtype)
    item: st.SearchStrategy[Any] = st.booleans()
    if info.kind in "iu":
        item = st.integers(int(np.iinfo(info).min), int(np.iinfo(info).max))
    elif info.kind == "f":
        item = st.floats(width=32, allow_nan=False, allow_infinity=False)
    count = math.prod(shape)
    flat = data.draw(st.lists(item, min_size=count, max_size=count))
    array = np.array(flat, info).reshape(shape)
    found = decoded(json.dumps(array.tolist()).encode(), core.BODY_JSON, route_of(dtype, shape))
    assert isinstance(found, np.ndarray)
    assert found.tobytes() == array.tobytes()
