"""Datatypes: JSON there and back for each of them, BF16, and what doesn't fit."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from fake_infer import arrays_of, same
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpredict import datatypes
from fastpredict.datatypes import DATATYPES, Misfit, from_json, to_json_values


@pytest.mark.parametrize("datatype", DATATYPES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_json_tensors_come_and_go_exactly(datatype, data):
    array = data.draw(arrays_of(datatype))
    if datatype == "BYTES":
        flat = np.array([item.hex().encode() for item in array.reshape(-1)] + [None], object)[:-1]
        array = flat.reshape(array.shape)
    elif datatype == "BF16":
        wide = datatypes.from_bf16(array)
        array = array if np.isfinite(wide).all() else np.zeros_like(array)
    elif DATATYPES[datatype].kind == "f":
        array = np.nan_to_num(array, posinf=1, neginf=-1)
    values = to_json_values(array, datatype)
    text = json.dumps(values)
    flat = from_json(json.loads(text), datatype, array.shape)
    assert same(flat, array)
    nested = np.array([*values, None], object)[:-1].reshape(array.shape).tolist()
    if array.shape and array.size:
        assert same(from_json(nested, datatype, array.shape), array)


LOW = st.sampled_from((0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)) | st.integers(0, 0xFFFF)


@given(halves=st.lists(st.tuples(st.integers(0, 0xFFFF), LOW), max_size=20))
def test_bf16_is_rounded_to_the_nearest_and_ties_to_even(halves):
    singles = np.array([high << 16 | low for high, low in halves], np.uint32).view(np.float32)
    rounded = datatypes.to_bf16(singles).view(np.uint16).tolist()
    for (high, low), single, found in zip(halves, singles, rounded, strict=True):
        if np.isnan(single):
            assert found & 0x7F80 == 0x7F80
            assert found & 0x7F
        else:
            assert found == high + (low > 0x8000 or (low == 0x8000 and high % 2))


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "sentence"),
    [
        ([1, 2, 3], "FP32", (2, 2), "data of shape (3,); expected (2, 2)"),
        ([[1, 2], [3]], "FP32", (2, 2), "ragged"),
        ([[1, 2], 3], "FP32", (3,), "ragged"),
        ([[[1, 2]]], "FP32", (2,), "shape (1, 1, 2)"),
        (5, "FP32", (1,), "not a list"),
        ({"a": 1}, "FP32", (1,), "not a list"),
        ([300], "UINT8", (1,), "300, which is out of the range of UINT8"),
        ([-1], "UINT64", (1,), "-1, which is out of the range"),
        ([1 << 400], "INT64", (1,), "a number of 401 bits"),
        ([1.5], "INT32", (1,), "1.5, which doesn't fit INT32 without loss"),
        ([True], "INT32", (1,), "isn't INT32: true or false"),
        ([1], "BOOL", (1,), "isn't BOOL: a number"),
        (["1"], "FP32", (1,), "isn't FP32: a string"),
        ([None], "FP32", (1,), "isn't FP32: null"),
        ([1e39], "FP32", (1,), "1e+39, which is out of the range of FP32"),
        ([70000.0], "FP16", (1,), "out of the range of FP16"),
        ([3.4e38], "BF16", (1,), "out of the range of BF16"),
        ([1 << 2000], "FP64", (1,), "out of the range of FP64"),
        ([16777217], "FP32", (1,), "without loss"),
        ([1], "BYTES", (1,), "isn't BYTES: a number"),
        (["\ud800"], "BYTES", (1,), "surrogate"),
    ],
)
def test_json_data_that_does_not_fit_is_refused(data, datatype, shape, sentence):
    with pytest.raises(Misfit) as caught:
        from_json(data, datatype, shape)
    assert sentence in str(caught.value)


def test_json_data_may_be_whole_floats_and_exact_integers():
    assert from_json([3.0, 2], "UINT8", (2,)).tolist() == [3, 2]
    assert from_json([16777216, 0.1], "FP32", (2,)).tolist() == [16777216, np.float32(0.1)]
    assert from_json([], "FP32", (0, 3)).shape == (0, 3)
    assert from_json([[], []], "INT8", (2, 0)).shape == (2, 0)


def test_json_data_nested_too_deep_is_refused():
    data = 1
    for _ in range(40):
        data = [data]
    with pytest.raises(Misfit, match="deeper than 32"):
        from_json(data, "INT8", (1,))


def test_bf16_is_bits_where_ml_dtypes_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert datatypes._bfloat16() == np.dtype("u2")
