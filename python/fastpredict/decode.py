"""From a request body to the handler's array: raw bytes, .npy, JSON.

Runs in predict threads. Raw and .npy bodies are used where they lie; JSON is the slow road.
Nothing here binds the array for longer than it takes to return it (see worker.py).
"""

from __future__ import annotations

import io
import json
import math
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.lib.format as npy_format
import numpy.typing as npt

from fastpredict import _core
from fastpredict.raw_fields import read_dtype, read_shape
from fastpredict.route import NPY_HEAD_BYTES_MAX, NPY_HEADER_MAX, PLAIN_KINDS, PredictRoute

if TYPE_CHECKING:
    from fastpredict._core import Exchange

JSON_MAX_BYTES = 64 << 20
JSON_MAX_DEPTH = 32


class BadInput(Exception):
    """The client's mistake: answered with this status and sentence, not logged."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def decode(exchange: Exchange, route: PredictRoute) -> npt.NDArray[Any]:
    """Return the body as the route's array.

    Raises
    ------
    BadInput
        The body doesn't suit the route. The sentence says what was wrong, what was expected and
        what came.
    """
    kind = exchange.kind
    if kind == _core.BODY_RAW:
        said = exchange.header("x-dtype")
        if said is not None:
            _check_said(said, exchange.header("x-shape"), route)
        return exchange.array(route.raw_dtype, raw_shape(route, exchange.nbytes))
    if kind == _core.BODY_NPY:
        return _decode_npy(exchange, route)
    return _decode_json(exchange, route)


def suits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape is one of those that a route's shape, with -1 for any length, allows."""
    return len(shape) == len(wanted) and all(
        want in (-1, length) for length, want in zip(shape, wanted, strict=True)
    )


# ---- raw bytes -----------------------------------------------------------------------------------


def raw_shape(route: PredictRoute, nbytes: int) -> tuple[int, ...]:
    """Return the shape of a raw body of so many bytes; one -1 is worked out from the length.

    The network thread has refused most of what doesn't fit already, by the same figures.
    """
    if route.free_axes == 0 and nbytes == route.unit_bytes:
        return route.raw_shape
    if route.free_axes > 1:
        raise BadInput(
            400,
            f"raw bytes don't tell a shape with several free axes; expected {route.expected};"
            f" got {nbytes} raw bytes: send application/x-npy",
        )
    unit = route.unit_bytes
    if route.free_axes == 0 or (nbytes % unit if unit else nbytes):
        raise _raw_error("has the wrong length", route, f"{nbytes} bytes")
    free = nbytes // unit if unit else 0
    return tuple(free if length == -1 else length for length in route.raw_shape)


def _check_said(dtype_said: str, shape_said: str | None, route: PredictRoute) -> None:
    """Refuse raw bytes of which the client says that they are another array.

    :class:`fastpredict.Client` always says: int32 for a float32 route has the right length, and the
    handler would compute with numbers that nobody sent. Another number of axes passes, since flat
    bodies for shaped routes and images for flat ones are in use.
    """
    try:
        dtype = None if route.dtype is None else read_dtype(dtype_said)
        shape = None if shape_said is None else read_shape(shape_said)
    except ValueError as error:
        raise _raw_error("has fields that can't be read", route, f"{error}") from None
    if dtype != route.dtype:
        raise _raw_error("has another dtype", route, f"{dtype!s:.200}, as X-Dtype says")
    wanted = route.raw_shape
    if shape is not None and len(shape) == len(wanted) and not suits(shape, wanted):
        raise _raw_error("has another shape", route, f"shape {shape}, as X-Shape says")


def _raw_error(what: str, route: PredictRoute, came: str) -> BadInput:
    return BadInput(400, f"the body {what}; expected {route.expected}; got {came}")


# ---- .npy ----------------------------------------------------------------------------------------


def _decode_npy(exchange: Exchange, route: PredictRoute) -> npt.NDArray[Any]:
    # The view is let go before array() is called, so that nothing of ours shares its memory.
    with exchange.body as body:
        head = bytes(body[:NPY_HEAD_BYTES_MAX])
    shape, fortran, dtype, offset = _read_npy_head(head, route)
    shape = tuple(map(int, shape))  # the literal may say True for 1
    bits = max(length.bit_length() for length in (*shape, math.prod(shape)))
    if bits > 256:  # Python writes no number of thousands of digits into a sentence
        raise _npy_error("has a shape that no memory holds", route, f"lengths of {bits} bits")
    _check_npy(shape, dtype, route)
    data_bytes = exchange.nbytes - offset
    needed = dtype.itemsize * math.prod(shape)
    if data_bytes != needed:
        what = "is cut short" if data_bytes < needed else "has trailing bytes"
        raise BadInput(
            400,
            f"the .npy body {what}; expected {needed} bytes of data for its header's"
            f" {dtype} of shape {shape}; got {data_bytes}",
        )
    try:
        return exchange.array(dtype, shape, offset, fortran)
    except (ValueError, OverflowError):  # lengths beyond what NumPy can index, beside a 0
        raise _npy_error("has a shape that no array can have", route, f"{shape}") from None


def _read_npy_head(
    head: bytes, route: PredictRoute
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether Fortran order, dtype, and where the data begins.

    The header is a Python literal and is read as one, by NumPy; nothing in it is run.
    """
    file = io.BytesIO(head)
    try:
        version = npy_format.read_magic(file)
        if version == (1, 0):
            read = npy_format.read_array_header_1_0(file, max_header_size=NPY_HEADER_MAX)
            return (*read, file.tell())
        if version == (3, 0):
            offset = 12 + int.from_bytes(head[8:12], "little")
            file = io.BytesIO(_as_version_2(head, offset))
            file.seek(8)
        elif version == (2, 0):
            offset = 12 + int.from_bytes(head[8:12], "little")
        else:
            raise ValueError(version)
        return (*npy_format.read_array_header_2_0(file, max_header_size=NPY_HEADER_MAX), offset)
    except Exception:
        # Not only ValueError: a hostile literal makes Python's parser raise RecursionError,
        # MemoryError and tokenizer errors too.
        raise _npy_error("has no header that can be read", route, f"{head[:16]!r}…") from None


def _as_version_2(head: bytes, end: int) -> bytes:
    """Turn a version 3 head (UTF-8) into a version 2 head with escapes.

    NumPy's public readers know no version 3, and inside the literal's strings both mean the same.
    """
    if len(head) < end:
        raise ValueError("cut short")
    text = head[12:end].decode("utf-8").encode("ascii", "backslashreplace")
    return npy_format.magic(2, 0) + len(text).to_bytes(4, "little") + text


def _check_npy(shape: tuple[int, ...], dtype: np.dtype[Any], route: PredictRoute) -> None:
    if dtype.hasobject or dtype.kind not in PLAIN_KINDS:
        raise _npy_error("holds objects, which are never unpickled", route, f"dtype {dtype}")
    if route.dtype is None:
        if not dtype.isnative:
            raise _npy_error("is in another byte order", route, f"dtype {dtype.str}")
        if dtype.itemsize == 0 or dtype.subdtype is not None:
            raise _npy_error("has a dtype that can't be served", route, f"dtype {dtype}")
    elif dtype != route.dtype:
        raise _npy_error("has another dtype", route, f"dtype {dtype}")
    if any(length < 0 for length in shape):
        raise _npy_error("has a negative length", route, f"shape {shape}")
    anything_goes = route.dtype is None and route.shape is None
    if not anything_goes and not suits(shape, route.raw_shape):
        raise _npy_error("has another shape", route, f"shape {shape}")


def _npy_error(what: str, route: PredictRoute, came: str) -> BadInput:
    return BadInput(400, f"the .npy body {what}; expected {route.expected}; got {came}")


# ---- JSON ----------------------------------------------------------------------------------------


def _decode_json(exchange: Exchange, route: PredictRoute) -> npt.NDArray[Any]:
    if exchange.nbytes > JSON_MAX_BYTES:
        raise BadInput(
            413,
            f"the JSON body is too large; expected at most {JSON_MAX_BYTES} bytes;"
            f" got {exchange.nbytes}: send raw bytes or application/x-npy",
        )
    return json_to_array(exchange.bytes(), route)


def json_to_array(text: bytes, route: PredictRoute) -> npt.NDArray[Any]:
    """Read a (nested) list of numbers, or a bare number for shape (), into the route's dtype.

    What fits: true and false in bool; in integers, whole numbers in range (3.0 too); in floats,
    any decimal, rounded as usual, that stays finite, and integers that the dtype holds exactly
    (read through a double, long double too). Other dtypes have no JSON form.

    Raises
    ------
    BadInput
        For anything else, and for ragged or too deeply nested lists and other shapes.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep(route) from None
    except ValueError as error:  # JSONDecodeError, bad UTF-8, integers of thousands of digits
        raise BadInput(
            400, f"the body is not JSON; expected (nested) lists of numbers; got: {error}"
        ) from None
    shape, numbers = _flatten(value, route)
    if route.raw_dtype.kind not in "biuf":
        raise BadInput(
            400,
            f"{route.raw_dtype} has no JSON form; expected application/x-npy or raw bytes;"
            " got application/json",
        )
    array = _to_dtype(numbers, route)
    return array.reshape(_json_shape(shape, route))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is not JSON")


def _flatten(value: object, route: PredictRoute) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of nested lists and their items in one list, axis by axis."""
    shape: list[int] = []
    level: list[Any] = [value]
    while True:
        types = set(map(type, level))
        if list not in types:
            return tuple(shape), level
        if len(types) > 1:
            raise _json_error("is ragged", route, "lists beside other values")
        lengths = set(map(len, level))
        if len(lengths) > 1:
            came = f"lists of {min(lengths)} and of {max(lengths)} items side by side"
            raise _json_error("is ragged", route, came)
        shape.append(lengths.pop())
        if len(shape) > JSON_MAX_DEPTH:
            raise _too_deep(route)
        level = list(chain.from_iterable(level))


def _json_shape(shape: tuple[int, ...], route: PredictRoute) -> tuple[int, ...]:
    wanted = route.raw_shape
    if shape and shape[-1] == 0 and len(shape) < len(wanted):
        # An empty list can't show the axes below it; they are the route's.
        shape += tuple(max(length, 0) for length in wanted[len(shape) :])
    if not suits(shape, wanted):
        raise _json_error("has another shape", route, f"shape {shape}")
    return shape


def _to_dtype(numbers: list[Any], route: PredictRoute) -> npt.NDArray[Any]:
    dtype = route.raw_dtype
    types = set(map(type, numbers))
    fitting: set[type] = {bool} if dtype.kind == "b" else {int, float}
    if not types <= fitting:
        names = {bool: "true or false", str: "a string", dict: "an object", type(None): "null"}
        came = ", ".join(sorted(names.get(each, "a number") for each in types - fitting))
        raise _json_error(f"holds what isn't {dtype}", route, came)
    if dtype.kind == "b":
        return np.array(numbers, dtype)
    if dtype.kind in "iu":
        return _to_integers(numbers, route)
    return _to_floats(numbers, route)


def _to_integers(numbers: list[Any], route: PredictRoute) -> npt.NDArray[Any]:
    for number in numbers:
        if type(number) is float and not number.is_integer():
            raise _json_error(f"doesn't fit {route.raw_dtype} without loss", route, f"{number!r}")
    whole = list(map(int, numbers))
    limits = np.iinfo(route.raw_dtype)
    if whole and (min(whole) < limits.min or max(whole) > limits.max):
        came = min(whole) if min(whole) < limits.min else max(whole)
        raise _json_error(f"is out of the range of {route.raw_dtype}", route, _shown(came))
    return np.array(whole, route.raw_dtype)


def _to_floats(numbers: list[Any], route: PredictRoute) -> npt.NDArray[Any]:
    dtype = route.raw_dtype
    exact = 1 << (min(np.finfo(dtype).nmant, 52) + 1)  # every integer up to here has a float
    for number in numbers:
        if type(number) is int and not -exact <= number <= exact and not _holds(number, dtype):
            raise _json_error(f"doesn't fit {dtype} without loss", route, _shown(number))
    with np.errstate(over="ignore", under="ignore"):
        array = np.array(numbers, np.float64).astype(dtype)
    if not np.isfinite(array).all():
        came = numbers[int(np.argmin(np.isfinite(array)))]
        raise _json_error(f"is out of the range of {dtype}", route, f"{came!r}")
    return array


def _holds(number: int, dtype: np.dtype[Any]) -> bool:
    """Whether a float dtype has exactly this integer."""
    try:
        double = float(number)
    except OverflowError:
        return False
    with np.errstate(over="ignore"):
        rounded = float(dtype.type(double))
    return math.isfinite(rounded) and int(rounded) == number


def _shown(number: int) -> str:
    """An integer for a message; a very long one only by its size."""
    return str(number) if number.bit_length() <= 128 else f"one of {number.bit_length()} bits"


def _too_deep(route: PredictRoute) -> BadInput:
    return _json_error("is nested too deep", route, f"more than {JSON_MAX_DEPTH} levels")


def _json_error(what: str, route: PredictRoute, came: str) -> BadInput:
    return BadInput(400, f"the JSON body {what}; expected {route.expected}; got {came}")
