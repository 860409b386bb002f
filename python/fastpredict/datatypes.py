"""Datatypes of the Open Inference Protocol: as NumPy's, as JSON and, for BYTES, on the wire.

Pure functions for any thread. The sources are the protocol's "Tensor Data Types" and, for BYTES and
BF16, Triton's binary tensor data extension.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import struct
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

#: How deep lists may lie in lists; no array has more axes than this on every NumPy that we take.
MAX_AXES: Final = 32

_LENGTH = struct.Struct("<I")  # before each item of BYTES


def _bfloat16() -> np.dtype[Any]:
    """The dtype of ml_dtypes where that is installed; else the bare bits, as uint16."""
    with contextlib.suppress(ImportError):
        bfloat16: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        return bfloat16
    return np.dtype("<u2")


#: The dtype of each datatype. BYTES are an object array of bytes; binary data is little-endian.
DATATYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": _bfloat16(),
    "BYTES": np.dtype(np.object_),
}
# The first name wins: uint16 is UINT16, although BF16 may have the same dtype.
_NAMES: Final = {dtype: name for name, dtype in reversed(DATATYPES.items())}


class Misfit(Exception):
    """Data that isn't of its datatype or shape. The text completes "the input 'x' …"."""


def datatype_of(dtype: np.dtype[Any]) -> str | None:
    """Return the datatype that has exactly this dtype; None for complex, dates, text, records."""
    return _NAMES.get(dtype)


# ---- BF16 ----------------------------------------------------------------------------------------


def to_bf16(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Round floats to the nearest BF16, ties to even, as hardware does. A new array."""
    with np.errstate(over="ignore", under="ignore"):
        singles = np.array(values, np.float32, order="C").reshape(-1)
    bits = singles.view(np.uint32)
    rounded = ((bits + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype("<u2")
    rounded[np.isnan(singles)] = 0x7FC0  # the carry may have run into the sign
    return rounded.view(DATATYPES["BF16"]).reshape(values.shape)


def from_bf16(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Widen BF16 to float32, which has every one of its values. A new array."""
    flat = np.ascontiguousarray(array).reshape(-1).view("<u2")
    return (flat.astype(np.uint32) << 16).view(np.float32).reshape(array.shape)


# ---- JSON ----------------------------------------------------------------------------------------


def from_json(data: object, datatype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Make an array of a JSON value: a flat list of the items, or lists nested as the shape is.

    What fits: true and false in BOOL; in integers, whole numbers in range (3.0 too); in floats, any
    decimal, rounded as usual, that stays finite, and integers that the datatype holds exactly;
    strings in BYTES, as UTF-8.

    Raises
    ------
    Misfit
        For anything else, and for ragged or too deeply nested lists and a wrong count.
    """
    if not isinstance(data, list):
        raise Misfit("has data that is not a list")
    found, items = _flatten(data)
    if found != shape and found != (math.prod(shape),):
        raise Misfit(f"has data of shape {found}; expected {shape}, or all items in one list")
    return _to_datatype(items, datatype).reshape(shape)


def to_json_values(array: npt.NDArray[Any], datatype: str) -> list[Any]:
    """Return the items in one list, in Python's own types; BYTES must be UTF-8, else Misfit."""
    flat = array.reshape(-1)
    if datatype == "BF16":
        flat = from_bf16(flat)
    if datatype != "BYTES":
        return flat.tolist()
    try:
        return [item.decode("utf-8") for item in flat]
    except UnicodeDecodeError:
        raise Misfit("isn't UTF-8 and has no JSON form: ask for it with binary_data") from None


def _flatten(data: list[Any]) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of nested lists and their items in one list, axis by axis."""
    shape = [len(data)]
    level = data
    while True:
        types = set(map(type, level))
        if list not in types:
            return tuple(shape), level
        lengths = set(map(len, level)) if len(types) == 1 else set()
        if len(lengths) != 1:
            raise Misfit("has ragged data: lists of several lengths, or beside other values")
        shape.append(lengths.pop())
        if len(shape) > MAX_AXES:
            raise Misfit(f"has data nested deeper than {MAX_AXES} lists")
        level = list(chain.from_iterable(level))


_JSON_TYPES: Final[dict[str, set[type]]] = {"BOOL": {bool}, "BYTES": {str}}


def _to_datatype(items: list[Any], datatype: str) -> npt.NDArray[Any]:
    types = set(map(type, items))
    fitting = _JSON_TYPES.get(datatype, {int, float})
    if not types <= fitting:
        names = {bool: "true or false", str: "a string", dict: "an object", type(None): "null"}
        came = ", ".join(sorted(names.get(each, "a number") for each in types - fitting))
        raise Misfit(f"has data that isn't {datatype}: {came}")
    if datatype == "BYTES":
        return _object_array(list(_encoded(items)))
    if datatype == "BOOL":
        return np.array(items, np.bool_)
    if DATATYPES[datatype].kind in "iu" and datatype != "BF16":
        return _integers(items, float in types, datatype)
    return _floats(items, int in types, datatype)


def _encoded(items: list[str]) -> Iterator[bytes]:
    try:
        for item in items:
            yield item.encode("utf-8")
    except UnicodeEncodeError:
        raise Misfit("has a string with half a surrogate pair") from None


def _integers(items: list[Any], with_floats: bool, datatype: str) -> npt.NDArray[Any]:
    if with_floats:
        for item in items:
            if type(item) is float and not item.is_integer():
                raise Misfit(f"has {item!r}, which doesn't fit {datatype} without loss")
        items = list(map(int, items))
    limits = np.iinfo(DATATYPES[datatype])
    for extreme in (min(items), max(items)) if items else ():
        if not limits.min <= extreme <= limits.max:
            raise Misfit(f"has {_shown(extreme)}, which is out of the range of {datatype}")
    return np.array(items, DATATYPES[datatype])


def _floats(items: list[Any], with_integers: bool, datatype: str) -> npt.NDArray[Any]:
    try:
        doubles = np.array(items, np.float64)
    except OverflowError:
        raise Misfit(f"has an integer that is out of the range of {datatype}") from None
    with np.errstate(over="ignore", under="ignore"):
        array = to_bf16(doubles) if datatype == "BF16" else doubles.astype(DATATYPES[datatype])
    held = from_bf16(array) if datatype == "BF16" else array
    finite = np.isfinite(held)
    if not finite.all():
        came = doubles[int(np.argmin(finite))]
        raise Misfit(f"has {float(came)!r}, which is out of the range of {datatype}")
    if with_integers:
        for item, value in zip(items, held.tolist(), strict=True):
            if type(item) is int and int(value) != item:
                raise Misfit(f"has {_shown(item)}, which doesn't fit {datatype} without loss")
    return array


def _shown(number: int) -> str:
    """An integer for a message; a very long one only by its size."""
    return str(number) if number.bit_length() <= 128 else f"a number of {number.bit_length()} bits"


# ---- BYTES ---------------------------------------------------------------------------------------


def unpack_bytes(data: memoryview, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Read BYTES from the wire: each item its length, 4 bytes little-endian, then so many bytes.

    A new object array of ``bytes``; nothing of it refers to ``data``. Raises Misfit.
    """
    count = math.prod(shape)
    if count > len(data) // _LENGTH.size:
        raise Misfit(f"has {len(data)} bytes, too few for the {count} items of its shape")
    items: list[bytes] = []
    offset = 0
    for _ in range(count):
        if len(data) - offset < _LENGTH.size:
            raise Misfit(f"is cut short: {len(items)} items of {count}")
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if length > len(data) - offset:
            raise Misfit(f"is cut short: {len(items)} items of {count}")
        items.append(bytes(data[offset : offset + length]))
        offset += length
    if offset != len(data):
        raise Misfit(f"has {len(data) - offset} bytes after the {count} items of its shape")
    return _object_array(items).reshape(shape)


def pack_bytes(array: npt.NDArray[Any]) -> bytes:
    """Write an object array of ``bytes`` as :func:`unpack_bytes` reads it."""
    items = array.reshape(-1).tolist()
    return b"".join(chain.from_iterable((_LENGTH.pack(len(item)), item) for item in items))


def _object_array(items: list[bytes]) -> npt.NDArray[Any]:
    array = np.empty(len(items), np.object_)
    array[:] = items
    return array


# ---- results -------------------------------------------------------------------------------------


def settle(payload: list[Any], place: int, datatype: str | None) -> str:
    """Make ``payload[place]``, a handler's result, a tensor in place, and return its datatype.

    Afterwards it is a plain, native, C-contiguous ndarray. One that is all that stays as it is and
    is never bound here (see worker.py: a result that nobody else has is sent uncopied). Where a
    datatype is declared, numbers of another dtype are converted: integers to any integers that
    hold them all, floats to floats, integers to floats.

    Raises
    ------
    TypeError, ValueError
        For a result that is no tensor, or not of the datatype.
    """
    if type(payload[place]) is not np.ndarray:
        payload[place] = _plain_array(payload[place])
    if datatype is None:
        datatype = _found_datatype(payload[place].dtype)
    if datatype == "BYTES":
        payload[place] = _bytes_array(payload[place])
    elif payload[place].dtype != DATATYPES[datatype]:
        payload[place] = _converted(payload[place], datatype)
    elif not payload[place].flags.c_contiguous:
        payload[place] = np.ascontiguousarray(payload[place])
    return datatype


def _plain_array(value: object) -> npt.NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array was returned; return its filled() array instead")
    if isinstance(value, np.ndarray):
        # A memmap's memory is the file's, which others write: a copy, plain, is always right.
        return np.array(value, order="C", copy=True, subok=False)
    # np.str_ and np.bytes_ are str and bytes, too.
    if isinstance(value, (str, bytes)) or not isinstance(
        value, (np.generic, list, bool, int, float)
    ):
        raise TypeError(
            f"a {type(value).__name__} was returned where a tensor is expected: an ndarray,"
            " a NumPy scalar, a list or a number"
        )
    return np.asarray(value)


def _found_datatype(dtype: np.dtype[Any]) -> str:
    native = dtype if dtype.isnative else dtype.newbyteorder("=")
    datatype = "BYTES" if native.kind in "SU" else datatype_of(native)
    if datatype is None:
        raise TypeError(f"an array of dtype {dtype} was returned, for which there is no datatype")
    return datatype


def _converted(array: npt.NDArray[Any], datatype: str) -> npt.NDArray[Any]:
    wanted = DATATYPES[datatype]
    source, target = array.dtype.kind, "f" if datatype == "BF16" else wanted.kind
    if array.dtype.newbyteorder("=") != wanted and not (
        (source in "biu" and target in "iuf") or (source == target == "f")
    ):
        raise TypeError(f"an array of dtype {array.dtype} was returned, which isn't {datatype}")
    if target in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise ValueError(f"an array of dtype {array.dtype} was returned, beyond {datatype}")
    return to_bf16(array) if datatype == "BF16" else array.astype(wanted, order="C")


def _bytes_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind not in "OSU":
        raise TypeError(f"an array of dtype {array.dtype} was returned, which isn't BYTES")
    items = []
    for item in array.reshape(-1).tolist():
        if not isinstance(item, (bytes, bytearray, str)):
            raise TypeError(f"an array with a {type(item).__name__} was returned, not BYTES")
        items.append(item.encode("utf-8") if isinstance(item, str) else bytes(item))
    return _object_array(items).reshape(array.shape)
