"""The client's half of the Open Inference Protocol v2, with Triton's binary tensor data.

https://github.com/kserve/open-inference-protocol, and Triton's protocol extension "binary tensor
data". The request's JSON is filled up with spaces to a multiple of 64 bytes, so that the first
tensor lies in the stream as it will lie in the server's memory (see client_wire.request_head).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fastpredict.client_codec import Array, Body, Held, Octets, bytes_of, read_json
from fastpredict.client_errors import BadResponse
from fastpredict.client_wire import AnswerHead, Sink
from fastpredict.datatypes import (
    DATATYPES,
    Misfit,
    datatype_of,
    from_json,
    pack_bytes,
    unpack_bytes,
)

HEADER_LENGTH: Final = "Inference-Header-Content-Length"

_NUMBER = re.compile("[0-9]{1,18}")


# ---- the request ---------------------------------------------------------------------------------


def encode_infer(
    inputs: Mapping[str, npt.ArrayLike],
    outputs: Iterable[str] | None,
    request_id: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Body:
    """Make the body of an infer request: JSON, then each tensor from where it lies.

    Raises
    ------
    TypeError
        For an array of a dtype that the protocol has no name for.
    """
    tensors: list[dict[str, Any]] = []
    pieces: list[memoryview] = []
    for name, value in inputs.items():
        datatype, shape, piece = _tensor(name, value)
        size = {"binary_data_size": len(piece)}
        tensors.append(
            {"name": name, "shape": list(shape), "datatype": datatype, "parameters": size}
        )
        pieces.append(piece)
    said: dict[str, Any] = {} if request_id is None else {"id": request_id}
    said["inputs"] = tensors
    said["parameters"] = dict(parameters or {}, binary_data_output=True)
    if outputs is not None:
        names = [outputs] if isinstance(outputs, str) else outputs
        said["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in names]
        del said["parameters"]["binary_data_output"]  # Triton refuses both together
    if not said["parameters"]:
        del said["parameters"]
    text = json.dumps(said, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 64)
    fields = (
        (b"Content-Type", b"application/octet-stream"),
        (HEADER_LENGTH.encode("ascii"), b"%d" % len(text)),
    )
    return Body(fields, (memoryview(text), *(piece for piece in pieces if len(piece))))


def _tensor(name: str, value: npt.ArrayLike) -> tuple[str, tuple[int, ...], memoryview]:
    """Datatype, shape and bytes of one input."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"the input {name!r} is a masked array; send its filled() array")
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        return "BYTES", array.shape, memoryview(pack_bytes(_as_bytes(name, array)))
    # The protocol is little-endian, as is every machine this runs on.
    native = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    datatype = datatype_of(native.dtype)
    if datatype is None:
        raise TypeError(f"the input {name!r} has dtype {array.dtype}; the protocol has none such")
    return datatype, array.shape, bytes_of(native)


def _as_bytes(name: str, array: Array) -> Array:
    """Make text UTF-8; an object array of bytes."""
    items = array.astype(object).ravel()
    for place, item in enumerate(items):
        if not isinstance(item, (bytes, str)):
            raise TypeError(f"the input {name!r} holds a {type(item).__name__}, not bytes or str")
        items[place] = item.encode("utf-8") if isinstance(item, str) else item
    return items


# ---- the answer ----------------------------------------------------------------------------------


class InferReceiver:
    """The answer of an infer request: a dict of arrays over one piece of memory.

    It is placed so that the first binary tensor is aligned to 64; later ones are copied only where
    they lie unaligned for their dtype.
    """

    def __init__(self) -> None:
        self._held = Held()
        self._json_bytes: int | None = None

    def begin(self, head: AnswerHead, lent: Octets | None = None) -> Sink:
        text = head.headers.get(HEADER_LENGTH.lower())
        if head.ok and text is not None:
            if not _NUMBER.fullmatch(text):
                raise BadResponse(f"the answer has the {HEADER_LENGTH} {text[:60]!r}")
            self._json_bytes = int(text)
            length = head.length if lent is None else lent.nbytes
            if length is not None and self._json_bytes > length:
                raise BadResponse(f"the answer's JSON is longer than its {length} bytes")
        return self._held.begin(head, lent, self._json_bytes or 0)

    def finish(self) -> dict[str, Array]:
        body = self._held.finish()
        end = len(body) if self._json_bytes is None else self._json_bytes
        said = read_json(body[:end])
        binary, arrays = body[end:], {}
        try:
            for output in said["outputs"]:
                size = output.get("parameters", {}).get("binary_data_size")
                if size is None:
                    array = _from_data(output)
                else:
                    if type(size) is not int or not 0 <= size <= len(binary):
                        raise ValueError(f"{output['name']!r} has the size {size!r}")
                    array, binary = _from_binary(output, binary[:size]), binary[size:]
                arrays[str(output["name"])] = array
            if len(binary):
                raise ValueError(f"{len(binary)} bytes are left over")
        except (
            AttributeError, KeyError, Misfit, OverflowError, TypeError, ValueError
        ) as error:  # fmt: skip
            raise BadResponse(f"the infer answer doesn't fit together: {error!r}") from None
        return arrays


def _shape_of(output: Mapping[str, Any]) -> tuple[int, ...]:
    shape = tuple(output["shape"])
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"{output['name']!r} has the shape {shape!r}")
    return shape


def _from_binary(output: Mapping[str, Any], data: Octets) -> Array:
    shape, datatype = _shape_of(output), output["datatype"]
    if datatype == "BYTES":
        return unpack_bytes(memoryview(data.tobytes()), shape)
    dtype = DATATYPES[datatype]
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{output['name']!r} has {len(data)} bytes for {dtype} of shape {shape}")
    if not len(data):
        return np.empty(shape, dtype)
    return np.require(data.view(dtype), requirements="A").reshape(shape)


def _from_data(output: Mapping[str, Any]) -> Array:
    """Read a tensor that came as JSON, flat or nested. In floats null is NaN."""
    shape, datatype = _shape_of(output), output["datatype"]
    if datatype in ("FP16", "FP32", "FP64"):
        return np.asarray(output["data"], DATATYPES[datatype]).reshape(shape)
    return from_json(output["data"], datatype, shape)


# ---- other JSON answers --------------------------------------------------------------------------


class JsonReceiver:
    """An answer in JSON, as an object of Python's own."""

    def __init__(self) -> None:
        self._held = Held()

    def begin(self, head: AnswerHead, lent: Octets | None = None) -> Sink:
        return self._held.begin(head, lent)

    def finish(self) -> dict[str, Any]:
        said = read_json(self._held.finish())
        if not isinstance(said, dict):
            raise BadResponse(f"the answer is a JSON {type(said).__name__}, not an object")
        return said


class StatusReceiver:
    """An answer of which only the status counts."""

    def __init__(self) -> None:
        self._held = Held()

    def begin(self, head: AnswerHead, lent: Octets | None = None) -> Sink:
        return self._held.begin(head, lent)

    def finish(self) -> bool:
        self._held.finish()
        return True
