"""From what a handler returned to a status, headers and one payload.

Runs in predict threads. The result lives in a list, ``payload``, and nowhere else: the extension
sends an array from where it lies only when nobody else refers to it, so functions here look at
``payload[0]`` in passing and never bind it in a frame that is alive when the reply is sent.
"""

from __future__ import annotations

import io
import json
import math
import operator
import re
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.lib.format as npy_format
import numpy.typing as npt

from fastpredict.raw_fields import raw_fields
from fastpredict.response import BODYLESS, Response, is_empty
from fastpredict.route import PLAIN_KINDS

Form: TypeAlias = Literal["raw", "npy", "json"]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

OCTETS, NPY, JSON, TEXT = (
    "application/octet-stream",
    "application/x-npy",
    "application/json",
    "text/plain; charset=utf-8",
)
_FORMS: dict[Form, str] = {"raw": OCTETS, "npy": NPY, "json": JSON}

#: Of an array that the client wants as JSON, values and the lists that hold them. So many take
#: about a second, with the GIL held; the lists of shape (1000000000, 0) would take all memory.
JSON_MAX_ITEMS: Final = 1 << 21

# Kinds of dtype whose items JSON can say: bool, integers, floats, text.
_JSON_KINDS = "biufU"
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")  # RFC 9110, section 12.4.2

MAY_RETURN = (
    "a handler may return an ndarray, a NumPy scalar, bytes, str, dict, list, bool, int, float,"
    " None, a fastpredict.Response, (body, status) or (body, status, headers)"
)


class Head(NamedTuple):
    """What goes with a payload; ``headers`` are checked and ready to be written."""

    status: int
    headers: Headers
    borrow: bool = False


def encode(payload: list[Any], accept: str | None) -> Head:
    """Turn the handler's result, the one item of ``payload``, into what can be sent, in place.

    ``accept`` is the request's Accept field. Afterwards the list is empty for an answer without a
    body, else it holds one bytes-like object or C-contiguous ndarray.

    Raises
    ------
    TypeError, ValueError
        For a result that can't be sent. Other exceptions of NumPy and json pass through.
    """
    if type(payload[0]) is np.ndarray:  # the usual case first
        return Head(200, _encode_array(payload, accept, None))
    if payload[0] is None:
        payload.clear()
        return Head(204, ())
    if type(payload[0]) is tuple:
        payload[0] = _from_tuple(payload)
    if not isinstance(payload[0], Response):
        return Head(200, _encode_body(payload, accept, None))
    status, headers = payload[0].status, payload[0].headers
    content_type, borrow = payload[0].content_type, payload[0].borrow
    # Where nobody kept the Response it goes here, and the body is the list's alone.
    payload[0] = payload[0].body
    if status in BODYLESS or payload[0] is None:
        if not is_empty(payload[0]):
            raise ValueError(f"an answer with status {status} must have no body (None)")
        payload.clear()
        return Head(status, headers)
    automatic = _encode_body(payload, accept, content_type)
    return Head(status, _merged(automatic, headers), borrow)


def error_body(sentence: str) -> bytes:
    """An error as clients get it."""
    return json.dumps({"error": sentence}, ensure_ascii=False).encode("utf-8", "backslashreplace")


def json_head(status: int) -> Head:
    """The head for a JSON body."""
    return Head(status, ((b"Content-Type", b"application/json"),))


def _from_tuple(payload: list[Any]) -> Response:
    if not 2 <= len(payload[0]) <= 3:
        raise TypeError(f"a tuple of {len(payload[0])} items was returned; {MAY_RETURN}")
    return Response(*payload[0])


def _merged(automatic: Headers, given: Headers) -> Headers:
    """The headers that follow from the body, but for those that the handler gives itself."""
    names = {name.lower() for name, _ in given}
    return tuple(pair for pair in automatic if pair[0].lower() not in names) + given


def _encode_body(payload: list[Any], accept: str | None, content_type: str | None) -> Headers:
    # np.str_, np.bytes_ and np.float64 are also str, bytes and float: text and bytes come first,
    # other NumPy scalars before Python's numbers.
    if isinstance(payload[0], str):
        payload[0] = payload[0].encode("utf-8")
        return _content_type(content_type or TEXT)
    if isinstance(payload[0], (bytes, bytearray)):
        return _content_type(content_type or OCTETS)
    if isinstance(payload[0], (np.ndarray, np.generic)):
        return _encode_array(payload, accept, content_type)
    if isinstance(payload[0], (dict, list, bool, int, float)):
        payload[0] = to_json(payload[0])
        return _content_type(content_type or JSON)
    _settle_buffer(payload)
    return _content_type(content_type or OCTETS)


def _settle_buffer(payload: list[Any]) -> None:
    """Take memoryview, array.array, mmap and others with the buffer protocol; one run of bytes."""
    try:
        view = memoryview(payload[0])
    except TypeError:
        raise TypeError(f"a {type(payload[0]).__name__} was returned; {MAY_RETURN}") from None
    with view:
        contiguous = view.c_contiguous
        if not contiguous:
            payload[0] = view.tobytes()


def _content_type(value: str) -> Headers:
    return ((b"Content-Type", value.encode("latin-1")),)


# ---- arrays --------------------------------------------------------------------------------------


def _encode_array(payload: list[Any], accept: str | None, content_type: str | None) -> Headers:
    _settle_array(payload)
    form = _form(accept, content_type, payload[0].dtype, payload[0].shape)
    if form == "raw":
        return _raw_headers(payload[0].dtype, payload[0].shape, content_type or OCTETS)
    payload[0] = _npy_bytes(payload[0]) if form == "npy" else to_json(payload[0])
    return _content_type(content_type or _FORMS[form])


def _settle_array(payload: list[Any]) -> None:
    """Make the array plain, C-contiguous and native; one that is all that stays as it is."""
    if isinstance(payload[0], np.generic):
        payload[0] = np.asarray(payload[0])
    if payload[0].dtype.hasobject or payload[0].dtype.kind not in PLAIN_KINDS:
        raise TypeError(f"an array of dtype {payload[0].dtype} holds objects and can't be sent")
    if type(payload[0]) is not np.ndarray:
        if isinstance(payload[0], np.ma.MaskedArray):
            raise TypeError("a masked array was returned; return its filled() array instead")
        # A memmap's memory is the file's, which others write: a copy, plain, is always right.
        payload[0] = np.array(payload[0], order="C", copy=True, subok=False)
    if not payload[0].dtype.isnative:
        payload[0] = payload[0].astype(payload[0].dtype.newbyteorder("="), order="C")
    elif not payload[0].flags.c_contiguous:
        payload[0] = np.ascontiguousarray(payload[0])


def _form(
    accept: str | None, content_type: str | None, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Form:
    json_able = dtype.kind in _JSON_KINDS
    if content_type is None:
        if not accept:
            return "raw"
        form = negotiate(accept, json_able)
        if form == "json" and sum(accumulate(shape, operator.mul)) > JSON_MAX_ITEMS:
            return negotiate(accept, False)
        return form
    # The handler's own choice, which is not the client's to make large.
    essence = content_type.partition(";")[0].strip().lower()
    if essence == JSON and not json_able:
        raise TypeError("an array of this dtype has no JSON form")
    return "json" if essence == JSON else "npy" if essence == NPY else "raw"


@lru_cache(maxsize=256)
def _raw_headers(dtype: np.dtype[Any], shape: tuple[int, ...], content_type: str) -> Headers:
    return (*_content_type(content_type), *raw_fields(dtype, shape))


def _npy_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | bytes:
    """The array as a .npy file: header and data in one piece, the data copied once."""
    file = io.BytesIO()
    if array.dtype.names is not None:  # may need version 3; NumPy picks
        npy_format.write_array(file, array, allow_pickle=False)
        return file.getvalue()
    npy_format.write_array_header_1_0(
        file,
        {
            "descr": npy_format.dtype_to_descr(array.dtype),
            "fortran_order": False,
            "shape": array.shape,
        },
    )
    header = file.getvalue()
    whole = np.empty(len(header) + array.nbytes, np.uint8)
    whole[: len(header)] = np.frombuffer(header, np.uint8)
    if array.nbytes:
        whole[len(header) :] = array.reshape(-1).view(np.uint8)
    return whole


# ---- Accept --------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def negotiate(accept: str, json_able: bool = True) -> Form:
    """Choose the form that an Accept field likes best (RFC 9110, section 12.5.1).

    Of several liked equally, one named in full goes before one that only a wildcard takes in, and
    raw before .npy before JSON. With none of them acceptable: raw, never 406.
    """
    best: Form = "raw"
    best_rank = (0.0, 0)
    for form, media_type in _FORMS.items():
        if form == "json" and not json_able:
            continue
        rank = _rank(accept, media_type)
        if rank > best_rank and rank[0] > 0:
            best, best_rank = form, rank
    return best


def _rank(accept: str, media_type: str) -> tuple[float, int]:
    """Quality of a type, from the range that names it most closely, and how close that is."""
    closeness = {media_type: 3, "application/*": 2, "*/*": 1}
    found = (0.0, 0)
    for element in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in element.split(";"))
        close = closeness.get(media_range, 0)
        if close <= found[1]:
            continue
        quality = next((each[2:].strip() for each in parameters if each.startswith("q=")), "1")
        if _QUALITY.fullmatch(quality):
            found = (float(quality), close)
    return found


# ---- JSON ----------------------------------------------------------------------------------------


def to_json(value: Any) -> bytes:
    """Write a value as JSON; NumPy values inside are converted, NaN and infinities become null.

    Raises
    ------
    TypeError, ValueError, RecursionError
        For values that JSON has no form for: bytes, complex numbers, dates, cycles and others.
    """
    try:
        text = _dumps(value)
    except (TypeError, ValueError):  # NaN, infinities, or NumPy keys: the thorough way
        text = _dumps(_plain(value))
    return text.encode("utf-8", "backslashreplace")


def _dumps(value: Any) -> str:
    return json.dumps(
        value, allow_nan=False, separators=(",", ":"), ensure_ascii=False, default=_of_numpy
    )


def _of_numpy(value: object) -> Any:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array has no JSON form; use its filled() array")
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in _JSON_KINDS:
            raise TypeError(f"a NumPy value of dtype {value.dtype} has no JSON form")
        if value.dtype.itemsize > 8 and value.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):  # beyond a double: infinity
                value = value.astype(np.float64)  # long double; json knows doubles only
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _plain(value: Any) -> Any:
    """Copy a value in Python's own types, with None for numbers that are not finite."""
    if isinstance(value, (np.ndarray, np.generic)) and not isinstance(value, str):
        return _plain(_of_numpy(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_plain_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _plain_key(key: Any) -> Any:
    key = _of_numpy(key) if isinstance(key, np.generic) and not isinstance(key, str) else key
    if isinstance(key, float) and not math.isfinite(key):
        raise ValueError(f"{key} is a key; JSON has no such key")
    return key
