"""encode and worker: whatever a handler returns or raises is answered once, and by the letter."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import fake_core  # first: it makes fastpredict importable
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_values import Array, accepts, any_text, arrays, check_words, results
from soak import times

import fastpredict
from fastpredict.encode import Head, encode, negotiate, to_json
from fastpredict.route import PredictRoute
from fastpredict.worker import answer

#: What a result that can't be sent may raise; the worker makes a 500 of them.
UNSENDABLE = (TypeError, ValueError, RecursionError)

NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def strict_json(text: bytes) -> Any:
    return json.loads(text, parse_constant=refuse_constant)


def is_one_run(payload: Any) -> bool:
    """An array of dates has no buffer, but the extension sends arrays by themselves."""
    if type(payload) is np.ndarray:
        return bool(payload.flags.c_contiguous) and not payload.dtype.hasobject
    with memoryview(payload) as view:
        return view.c_contiguous


def check_sendable(head: Head, payload: list[Any], is_type_ours: bool = True) -> None:
    """What the extension asks of an answer: see _core.Exchange.reply."""
    assert 200 <= head.status <= 599
    names = [name.lower() for name, _ in head.headers]
    for name, value in head.headers:
        assert NAME.fullmatch(name)
        assert VALUE.fullmatch(value)
    assert names.count(b"content-type") <= 1
    assert len(payload) <= 1
    if payload:
        assert is_one_run(payload[0])
        if is_type_ours and (b"Content-Type", b"application/json") in head.headers:
            strict_json(bytes(payload[0]))
    else:
        assert b"content-type" not in names or head.status not in (204, 304)


@given(results, accepts)
@settings(max_examples=times(500), deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_result_is_sendable_or_a_clear_error(result: Any, accept: str | None) -> None:
    payload = [result]
    try:
        head = encode(payload, accept)
    except UNSENDABLE as error:
        check_words(error)
    else:
        check_sendable(head, payload)


header_values = any_text | st.integers() | st.none()
header_pairs = st.lists(st.tuples(any_text | st.just("X-A"), header_values), max_size=3)
statuses = st.integers(-1, 700) | st.sampled_from([200, 204, 304, 205, "200", None, True, 2.0])


@given(
    body=results,
    status=statuses,
    headers=st.none() | header_pairs | st.dictionaries(any_text, any_text, max_size=2),
    content_type=st.none() | any_text | st.just("application/json"),
    accept=accepts,
    as_tuple=st.booleans(),
)
@settings(max_examples=times(400), deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_response_is_sendable_or_a_clear_error(
    body: Any, status: Any, headers: Any, content_type: Any, accept: str | None, as_tuple: bool
) -> None:
    try:
        if as_tuple:
            payload: list[Any] = [(body, status, headers)]
        else:
            payload = [fastpredict.Response(body, status, headers, content_type)]
        head = encode(payload, accept)
    except UNSENDABLE as error:
        check_words(error)
    else:
        check_sendable(head, payload, is_type_ours=False)


@given(arrays(), accepts)
@settings(max_examples=times(300), deadline=None)
def test_any_array_arrives_as_it_was(array: Array, accept: str | None) -> None:
    payload: list[Any] = [array]
    head = encode(payload, accept)
    check_sendable(head, payload)
    told = dict(head.headers)
    if b"X-Dtype" in told and array.dtype.names is None:
        native = array.astype(array.dtype.newbyteorder("="))
        assert np.dtype(told[b"X-Dtype"].decode()) == native.dtype
        assert told[b"X-Shape"] == b",".join(b"%d" % length for length in array.shape)
        assert payload[0].tobytes() == native.tobytes()


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)


@given(plain)
@settings(max_examples=times(200), deadline=None)
def test_json_says_what_was_returned_surrogates_too(value: Any) -> None:
    assert strict_json(to_json(value)) == value


# ---- Accept --------------------------------------------------------------------------------------

TYPES = {"application/octet-stream": "raw", "application/x-npy": "npy", "application/json": "json"}
ranges = st.sampled_from([*TYPES, "application/*", "*/*", "text/html", "application/xml"])
qualities = st.integers(0, 10).map(lambda tenth: tenth / 10)


@given(st.dictionaries(ranges, qualities, min_size=1, max_size=5))
@settings(max_examples=times(300), deadline=None)
def test_no_form_is_liked_better_than_the_chosen(wanted: dict[str, float]) -> None:
    """RFC 9110 12.5.1: the closest range tells the quality of a type."""

    def quality(media_type: str) -> float:
        for each in (media_type, "application/*", "*/*"):
            if each in wanted:
                return wanted[each]
        return 0.0

    accept = ", ".join(f"{name};q={value}" for name, value in wanted.items())
    chosen = negotiate(accept)
    best = max(map(quality, TYPES))
    if best == 0:
        assert chosen == "raw"
    else:
        assert chosen in {form for name, form in TYPES.items() if quality(name) == best}


# ---- the whole answer ----------------------------------------------------------------------------


class Unspeakable(Exception):
    """Can't even be shown."""

    def __str__(self) -> str:
        raise RuntimeError


raised = st.sampled_from(
    [
        *(
            ValueError("x"),
            KeyError(),
            MemoryError(),
            RecursionError(),
            Unspeakable(),
            Exception("\ud800"),
        ),
        *(SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException(), StopIteration(1)),
        *(ExceptionGroup("x", [OSError(5, "y")]), UnicodeDecodeError("utf-8", b"", 0, 1, "z")),
    ]
)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Tracebacks by the thousand tell nobody anything."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def answered(handler: Any, accept: str | None) -> tuple[int, dict[str, str], Any]:
    app = fastpredict.App()
    app.predict("/predict")(handler)
    route: PredictRoute = app.routes[0]
    exchange: Any = fake_core.Exchange(b"x", headers={} if accept is None else {"accept": accept})
    answer(exchange, route, os.getpid())
    ((status, headers, payload, _),) = exchange.replies  # one, and only one
    return status, headers, payload


@given(results | raised, accepts)
@settings(max_examples=times(300), deadline=None)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quiet")
def test_whatever_a_handler_does_is_answered_once(result: Any, accept: str | None) -> None:
    def handler(array: Array) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    status, headers, payload = answered(handler, accept)
    if isinstance(result, BaseException):
        assert status == 500
    if status == 500 and not isinstance(result, tuple):
        assert headers == {"Content-Type": "application/json"}
        (sentence,) = strict_json(payload).values()
        assert "log" in sentence
        assert "Traceback" not in sentence
