"""Headers, shapes and paths: what may not be is refused where it is given, by the letter."""

from __future__ import annotations

import math
import re
import string
from typing import Any

import fake_core  # noqa: F401  (first: it makes fastpredict importable)
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis_values import any_text, check_words, dtypes
from soak import times

from fastpredict.request import Headers
from fastpredict.response import check_header, check_headers, check_status
from fastpredict.route import check_path, check_shape, make_route

TOKEN = frozenset("!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters)
SERVERS = {"connection", "content-length", "date", "keep-alive", "proxy-connection"}
SERVERS |= {"te", "trailer", "transfer-encoding", "upgrade"}

latin_text = st.text(st.characters(max_codepoint=0x120), max_size=6)
names = st.text(st.sampled_from(sorted(TOKEN)), min_size=1, max_size=8)
any_names = names | latin_text | st.sampled_from(sorted(SERVERS)).map(str.title) | any_text


@given(any_names, latin_text | any_text)
@example("X", "a\n")
@example("X\n", "a")
@example("X", "\r\nY: b")
@settings(max_examples=times(500), deadline=None)
def test_a_header_is_taken_exactly_where_rfc_9110_allows_it(name: str, value: str) -> None:
    """RFC 9110 5.1, 5.5 and 5.6.2, and the fields that are the server's."""
    is_value = all(c == "\t" or (" " <= c <= "\xff" and c != "\x7f") for c in value)
    is_name = name != "" and set(name) <= TOKEN and name.lower() not in SERVERS
    lawful = is_name and is_value
    try:
        pair = check_header(name, value)
    except ValueError as error:
        assert not lawful
        check_words(error)
    else:
        assert lawful
        assert pair == (name.encode("ascii"), value.encode("latin-1"))
        assert not re.search(rb"[\r\n\0]", b"".join(pair))


odd = st.none() | st.integers() | st.binary(max_size=3) | any_text | st.tuples(names, latin_text)


@given(odd | st.lists(odd | st.lists(names, max_size=3), max_size=3) | st.dictionaries(names, odd))
@settings(max_examples=times(300), deadline=None)
def test_headers_of_any_kind_are_pairs_of_bytes_or_refused(headers: Any) -> None:
    try:
        pairs = check_headers(headers)
    except (TypeError, ValueError) as error:
        check_words(error)
    else:
        assert all(type(part) is bytes for pair in pairs for part in pair)


@given(st.integers() | st.floats() | st.booleans() | any_text | st.none() | st.just(np.int16(404)))
def test_a_status_is_a_final_one(status: Any) -> None:
    is_whole = isinstance(status, (int, np.integer)) and not isinstance(status, bool)
    try:
        assert check_status(status) == status
        assert is_whole
        assert 200 <= status <= 599
    except TypeError:
        assert not is_whole
    except ValueError:
        assert is_whole
        assert not 200 <= status <= 599


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "x-a", "cookie"]), latin_text), max_size=6))
def test_headers_of_a_request_are_a_mapping_in_any_case(fields: list[tuple[str, str]]) -> None:
    """RFC 9110 5.1 and 5.3."""
    headers = Headers(fields)
    different = list(dict.fromkeys(name for name, _ in fields))
    assert list(headers) == different
    assert len(headers) == len(different)
    for name in different:
        values = [value for each, value in fields if each == name]
        assert headers.get_all(name.upper()) == values
        assert headers[name.title()] == ", ".join(values)
        assert name.upper() in headers
    assert headers.get_all("z") == []
    assert headers.get("z") is None
    with pytest.raises(KeyError):
        headers["z"]


# ---- routes --------------------------------------------------------------------------------------

shape_items = st.integers(-3, 5) | st.sampled_from([True, 1.0, "1", None, 2**40, 2**70])
any_shapes = st.none() | shape_items | st.lists(shape_items, max_size=4) | st.just((1,) * 33)


@given(st.none() | dtypes, any_shapes)
@settings(max_examples=times(400), deadline=None)
def test_a_shape_makes_a_route_whose_figures_agree_or_is_refused(dtype: Any, shape: Any) -> None:
    try:
        route = make_route("/predict", lambda array: array, dtype=dtype, shape=shape)
    except (TypeError, ValueError) as error:
        check_words(error)
        return
    assert check_shape(shape) == route.shape
    lengths = [length for length in route.raw_shape if length != -1]
    assert route.unit_bytes == route.raw_dtype.itemsize * math.prod(lengths)
    assert route.free_axes == route.raw_shape.count(-1)
    limits = route.limits()
    assert limits["raw_exact"] == (route.free_axes == 0)
    assert limits["raw_allowed"] == (route.free_axes <= 1)
    assert str(route.raw_shape) in limits["expected"]


path_texts = st.text(st.sampled_from("/.a?#% é\n\0"), max_size=8) | any_text
path_starts = st.sampled_from(["", "/", "/livez", "/readyz", "/livez/"])


@given(path_starts, path_texts)
@settings(max_examples=times(300), deadline=None)
def test_a_path_that_is_taken_is_one_that_a_request_can_reach(start: str, rest: str) -> None:
    path = start + rest
    try:
        check_path(path)
    except ValueError as error:
        check_words(error)
        return
    assert path.startswith("/")
    assert not set(path) & set("?#\r\n\0")
    assert not {".", ".."} & set(path.split("/"))
    assert path.split("/")[1] not in ("livez", "readyz")
