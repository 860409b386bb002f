"""From an array to a request's body, and from an answer to an array. No socket, no waiting."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.lib.format as npy_format
import numpy.typing as npt

from fastpredict.client_errors import (
    BadInput,
    BadResponse,
    HandlerError,
    StatusError,
    Unavailable,
)
from fastpredict.client_wire import AnswerHead, FixedSink, GrowingSink, Sink
from fastpredict.encode import JSON, NPY, OCTETS
from fastpredict.raw_fields import raw_fields, read_dtype, read_shape
from fastpredict.route import NPY_HEADER_MAX, PLAIN_KINDS

Array: TypeAlias = npt.NDArray[Any]
Octets: TypeAlias = npt.NDArray[np.uint8]
Field: TypeAlias = tuple[bytes, bytes]
#: Makes the array that an answer is received into.
Allocate: TypeAlias = Callable[[tuple[int, ...], np.dtype[Any]], Array]

T_co = TypeVar("T_co", covariant=True)

# Of an error answer so much is kept; the rest is read and dropped.
_ERROR_BYTES_KEPT: Final = 64 << 10
_MESSAGE_CHARACTERS: Final = 500


class Body(NamedTuple):
    """What a request carries: its own fields, and memory that is sent from where it lies."""

    fields: tuple[Field, ...]
    pieces: tuple[memoryview, ...]

    @property
    def nbytes(self) -> int:
        return sum(len(piece) for piece in self.pieces)


class Receiver(Protocol[T_co]):
    """One answer's way from its head to what the caller gets."""

    def begin(self, head: AnswerHead, lent: Octets | None = None) -> Sink:
        """Say where the body goes; ``lent`` is the body, where it has come in memory already.

        Raises BadResponse where the head can't be right."""

    def finish(self) -> T_co:
        """Return the result, once the body is whole. Raises StatusError for an error answer."""


def bytes_of(array: Array) -> memoryview:
    """The memory of a C-contiguous array, byte by byte; of any dtype, zero-size too."""
    if array.nbytes == 0:
        return memoryview(b"")
    octets: Any = np.asarray(array).reshape(-1).view(np.uint8)  # a matrix stays one otherwise
    return memoryview(octets)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Plain memory."""
    return np.empty(shape, dtype)


# ---- arrays to bodies ----------------------------------------------------------------------------


def plain_array(value: npt.ArrayLike) -> Array:
    """Take what may be sent, as an ndarray without a copy where it is one.

    Raises
    ------
    TypeError
        It holds Python objects, or is a masked array, whose mask has no place in a body.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array can't be sent; send its filled() array")
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.kind not in PLAIN_KINDS:
        raise TypeError(f"an array of dtype {array.dtype} holds objects and can't be sent")
    return array


def encode_array(value: npt.ArrayLike, npy: bool | None) -> Body:
    """Make the body of a predict request; see :meth:`fastpredict.Client.predict` for ``npy``."""
    # Bytes are text to NumPy; whoever sends the contents of a file means its bytes.
    array = plain_array(np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value)
    if npy or (npy is None and not array.dtype.isnative):
        return _npy_body(array)
    # Not ascontiguousarray, which turns a scalar into an array of one axis.
    array = np.asarray(array, order="C")
    return Body(_raw_fields(array.dtype, array.shape), (bytes_of(array),))


@lru_cache(maxsize=256)
def _raw_fields(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[Field, ...]:
    """Say what raw bytes are, as the server does of its answers.

    It refuses an array of another dtype or shape that only has the right length (decode.py).
    """
    return ((b"Content-Type", OCTETS.encode("ascii")), *raw_fields(dtype, shape))


def _npy_body(array: Array) -> Body:
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.asarray(array, order="C")
    file = io.BytesIO()
    header = npy_format.header_data_from_array_1_0(array)
    fields = ((b"Content-Type", NPY.encode("ascii")),)
    try:
        npy_format.write_array_header_1_0(file, header)
    except (ValueError, UnicodeEncodeError):  # many fields, or names beyond latin-1
        file = io.BytesIO()
        npy_format.write_array(file, array, allow_pickle=False)
        return Body(fields, (memoryview(file.getvalue()),))
    data = array.T if header["fortran_order"] else array
    return Body(fields, (memoryview(file.getvalue()), bytes_of(data)))


# ---- answers to arrays ---------------------------------------------------------------------------


def check_out(out: Array | None) -> None:
    """Raise for memory that nothing can be received into.

    Raises
    ------
    TypeError
        Not an ndarray, or one of objects.
    ValueError
        Read-only, or not C-contiguous.
    """
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, not a {type(out).__name__}")
    if out.dtype.hasobject:
        raise TypeError(f"out has dtype {out.dtype}, which holds objects")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if not out.flags.c_contiguous:
        raise ValueError("out must be C-contiguous")


class ArrayReceiver:
    """The answer of a predict route, as an array: received into its own memory when it is raw."""

    def __init__(self, out: Array | None = None, allocate: Allocate = empty) -> None:
        self._out = out
        self._allocate = allocate
        self._head: AnswerHead | None = None
        self._raw: tuple[FixedSink, Array] | None = None
        self._held = Held()

    def begin(self, head: AnswerHead, lent: Octets | None = None) -> Sink:
        self._head = head
        out, length = self._out, head.length if lent is None else lent.nbytes
        if not head.ok or head.content_type != OCTETS:
            return self._held.begin(head, lent)
        if "x-dtype" not in head.headers:
            # Bytes that don't say what they are: what the caller says, or else bytes.
            if out is not None and length == out.nbytes:
                return self._receive(out, lent)
            return self._held.begin(head, lent)
        try:
            dtype = read_dtype(head.headers["x-dtype"])
            shape = read_shape(head.headers.get("x-shape", ""))
        except ValueError as error:
            raise BadResponse(f"the answer has fields that can't be read: {error}") from None
        nbytes = math.prod(shape) * dtype.itemsize
        if length is not None and length != nbytes:
            raise BadResponse(
                f"the answer says that it is {dtype} of shape {shape}, {nbytes} bytes,"
                f" but comes with {length}"
            )
        if lent is not None and out is None:
            return self._receive(lent.view(dtype).reshape(shape), lent)
        return self._receive(self._array(dtype, shape), lent)

    def _receive(self, array: Array, lent: Octets | None) -> Sink:
        if lent is None:
            sink = FixedSink(bytes_of(array))
        else:
            sink = FixedSink(memoryview(b""))
            octets = np.frombuffer(bytes_of(array), np.uint8)
            if octets.ctypes.data != lent.ctypes.data:
                octets[:] = lent
        self._raw = sink, array
        return sink

    def finish(self) -> Array:
        head = self._head
        assert head is not None
        if self._raw is not None:
            sink, array = self._raw
            if not sink.full:
                raise BadResponse(f"the answer is shorter than its {array.nbytes} bytes of array")
            return array
        body = self._held.finish()
        if head.content_type == NPY:
            return self._settled(read_npy(body))
        if head.content_type == JSON:
            return self._settled(_from_json(body))
        if head.content_type in (OCTETS, "") and head.status != 204:
            return self._settled(body)
        what = head.content_type or f"empty (HTTP {head.status})"
        raise BadResponse(f"the answer is {what}, not an array: {_beginning(body)!r}")

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        out = self._out
        if out is None:
            try:
                return self._allocate(shape, dtype)
            except (ValueError, MemoryError) as error:
                raise BadResponse(f"no array of {dtype} and shape {shape}: {error}") from None
        if out.dtype != dtype or out.shape != shape:
            raise BadResponse(
                f"the answer is {dtype} of shape {shape}; out is {out.dtype} of shape {out.shape}"
            )
        return out

    def _settled(self, array: Array) -> Array:
        """Put what came in another form into ``out``, where there is one."""
        if self._out is None:
            return array
        out = self._array(array.dtype, array.shape)
        out[...] = array
        return out


class Held:
    """The whole body in memory of its own, as bytes in an array; errors become StatusError.

    With a known length it lies so that what begins at ``offset`` is aligned to 64.
    """

    def __init__(self) -> None:
        self.head: AnswerHead | None = None
        self._array: Array | None = None
        self._sink: Sink | None = None

    def begin(self, head: AnswerHead, lent: Octets | None = None, offset: int = 0) -> Sink:
        self.head = head
        if lent is not None:
            self._array = lent
            self._sink = FixedSink(memoryview(b""))
        elif not head.ok:
            self._sink = GrowingSink(_ERROR_BYTES_KEPT)
        elif head.length is None:
            self._sink = GrowingSink()
        else:
            self._array = aligned_bytes(head.length, offset)
            self._sink = FixedSink(bytes_of(self._array))
        return self._sink

    def finish(self) -> Octets:
        assert self.head is not None
        if self._array is not None:
            return self._array
        assert isinstance(self._sink, GrowingSink)
        body = self._sink.getvalue()
        if not self.head.ok:
            raise status_error(self.head, bytes(body))
        return np.frombuffer(body, np.uint8)


def aligned_bytes(nbytes: int, offset: int = 0) -> Octets:
    """Memory whose byte number ``offset`` lies at a multiple of 64."""
    try:
        room = np.empty(nbytes + 63, np.uint8)
    except (ValueError, MemoryError):
        raise BadResponse(f"there is no memory for an answer of {nbytes} bytes") from None
    start = -(room.ctypes.data + offset) % 64
    return room[start : start + nbytes]


def read_npy(body: Octets) -> Array:
    """Read a .npy file; its data stays where it is, where that is aligned. Nothing is unpickled."""
    file = io.BytesIO(body[: NPY_HEADER_MAX + 12].tobytes())
    try:
        version = npy_format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            whole: Array = npy_format.read_array(io.BytesIO(body.tobytes()), allow_pickle=False)
            return whole
        read = (
            npy_format.read_array_header_1_0
            if version == (1, 0)
            else npy_format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file, max_header_size=NPY_HEADER_MAX)
        if dtype.hasobject or body.nbytes - file.tell() != math.prod(shape) * dtype.itemsize:
            raise ValueError("objects, or another length than its header says")
        if body.nbytes == file.tell():
            return np.empty(shape, dtype, order="F" if fortran else "C")
        data = np.require(body[file.tell() :].view(dtype), requirements="A")
        return data.reshape(shape[::-1]).T if fortran else data.reshape(shape)
    except Exception as error:  # a stranger's literal raises whatever Python's parser and NumPy do
        raise BadResponse(f"the answer is no .npy file that can be read: {error}") from None


def _from_json(body: Octets) -> Array:
    value = read_json(body)
    try:
        array = np.asarray(value)
        if array.dtype == object and isinstance(value, (list, type(None))):
            # null is what the server writes for NaN and the infinities
            array = np.asarray(value, np.float64)
        if array.dtype.kind in "biufU" and not isinstance(value, str):
            return array
    except (ValueError, TypeError, OverflowError):
        pass
    raise BadResponse(f"the answer is JSON, but not an array: {_beginning(body)!r}")


def read_json(body: Octets) -> Any:
    """Read a body as JSON. Raises BadResponse."""
    try:
        return json.loads(body.tobytes())
    except (ValueError, RecursionError) as error:
        raise BadResponse(f"the answer is not JSON: {error}") from None


# ---- errors --------------------------------------------------------------------------------------


def status_error(head: AnswerHead, body: bytes) -> StatusError:
    """Make the exception for an answer that is an error."""
    message = _message(body) or head.reason or "no reason given"
    if head.status in (503, 504):
        return Unavailable(head.status, message, head.headers, head.retry_after)
    kind = {4: BadInput, 5: HandlerError}.get(head.status // 100, StatusError)
    return kind(head.status, message, head.headers)


def _message(body: bytes) -> str:
    try:
        said = json.loads(body)
        if isinstance(said, dict) and isinstance(said.get("error"), str):
            return str(said["error"])
    except (ValueError, RecursionError):
        pass
    return body.decode("utf-8", "replace")[:_MESSAGE_CHARACTERS].strip()


def _beginning(body: Octets) -> str:
    return body[:100].tobytes().decode("utf-8", "replace")
