"""What the hypothesis tests of the package generate: dtypes, arrays, mutated bytes, results."""

from __future__ import annotations

import datetime
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[Any]

DTYPES = [
    *("?", "i1", "u1", "<i2", ">u2", "<i4", "<u8", "f2", "<f4", ">f8", "g", "c8", "c16"),
    *("M8[s]", "m8[D]", "S3", "U2", "V5"),
]
STRUCTURED = [("a", "<f4"), ("b", ">i2", (2,))]

dtypes: st.SearchStrategy[np.dtype[Any]] = st.sampled_from(
    [*map(np.dtype, DTYPES), np.dtype(STRUCTURED)]
)
shapes = st.none() | st.lists(st.integers(-1, 4), max_size=4).map(tuple)
lengths = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any bytes as any dtype, contiguous in C's order, in Fortran's, or not at all."""
    dtype, shape = draw(dtypes), draw(lengths)
    if dtype.kind in "U?":  # not every byte is one of theirs
        return np.zeros(shape, dtype)
    size = dtype.itemsize * math.prod(shape)
    array: Array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8).copy()
    array = array.view(dtype).reshape(shape)
    return draw(st.sampled_from([array, np.asfortranarray(array), array.T]))


def check_words(error: Exception) -> None:
    """Somebody has to read it."""
    assert str(error)


def npy_of(array: Array, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


@st.composite
def mutations(draw: st.DrawFn, of: bytes, most: int = 4) -> bytes:
    """Some bytes with a few places changed, cut out or put in, most of them near the front."""
    data = of
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, min(len(data), draw(st.sampled_from([12, 130, len(data)])))))
        end = start + draw(st.sampled_from([0, 1, 1, 2, 8, 1000]))
        data = data[:start] + draw(st.binary(max_size=3)) + data[end:]
    return data


# ---- what handlers return ------------------------------------------------------------------------

numpy_scalars = st.sampled_from(
    [
        *(
            np.float32(0.5),
            np.float64("nan"),
            np.longdouble(1.5),
            np.int8(-1),
            np.uint64(2**64 - 1),
        ),
        *(np.bool_(True), np.str_("é"), np.bytes_(b"x"), np.complex64(1j), np.float16("inf")),
        *(np.datetime64("2020-01-01"), np.timedelta64(1, "s"), np.zeros(1, STRUCTURED)[0]),
    ]
)
any_text = st.text() | st.text(st.characters(), max_size=5)  # the second with surrogates, too
good_leaves = st.none() | st.booleans() | st.integers() | st.floats() | any_text
bad_leaves = st.sampled_from(
    [
        *(object(), 1j, {1}, datetime.date(2020, 1, 1), range(3), np.ma.masked_array([1], [True])),
        *(
            np.array([None, "a"]),
            iter(()),
            type,
            ...,
            NotImplemented,
            np.array([1j]),
            np.ones(1).view(np.matrix),
        ),
    ]
)
leaves = good_leaves | numpy_scalars | arrays() | st.binary(max_size=4) | bad_leaves
keys = any_text | st.integers() | st.floats() | st.booleans() | st.none() | st.binary(max_size=2)
numpy_keys = st.sampled_from([np.int64(3), np.str_("k"), np.float64("nan"), np.bool_(False)])


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys | numpy_keys, inner, max_size=3)
    )


results: st.SearchStrategy[Any] = st.recursive(leaves, nested, max_leaves=10)

accepts = st.none() | st.sampled_from(
    [
        *("*/*", "application/json", "application/x-npy", "text/html", "application/json;q=0"),
        *("application/octet-stream;q=0.1, application/x-npy", "é;=,;", ""),
    ]
)
