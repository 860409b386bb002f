"""The Open Inference Protocol, version 2: from a request to arrays, from arrays to an answer.

With Triton's binary tensor data extension: the body is a JSON object, whose length the field
Inference-Header-Content-Length tells, and then the tensors one after another, which are used where
they lie. Runs in predict threads and knows no server and no handler; models.py calls it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fastpredict.datatypes import (
    DATATYPES,
    MAX_AXES,
    Misfit,
    from_json,
    pack_bytes,
    settle,
    to_json_values,
    unpack_bytes,
)
from fastpredict.decode import BadInput, suits
from fastpredict.encode import JSON, OCTETS, Headers, to_json
from fastpredict.infer_members import flag_in, member_of, parameters_of, refuse, size_in

if TYPE_CHECKING:
    from fastpredict._core import Exchange

#: Bounds of one input of BYTES: each item becomes an object of its own.
BYTES_MAX_BYTES: Final = 64 << 20
BYTES_MAX_ITEMS: Final = 1 << 20

#: JSON takes 30 times its own size to read; tensors of any size are sent as binary data.
JSON_MAX_BYTES: Final = 16 << 20
#: What metadata says for a tensor whose datatype the model leaves open.
ANY: Final = "ANY"

_HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as its model declares it.

    ``datatype`` None: any but BYTES as an input, any as an output. ``shape`` None: any; -1 in it:
    any length.
    """

    name: str
    datatype: str | None
    shape: tuple[int, ...] | None

    def metadata(self) -> dict[str, Any]:
        """Return it as the protocol's $metadata_tensor, which has no word for an unknown rank."""
        shape = [-1] if self.shape is None else list(self.shape)
        return {"name": self.name, "datatype": self.datatype or ANY, "shape": shape}


class Region(NamedTuple):
    """A piece of a client's shared memory, as the client names it: nothing of it is checked."""

    name: str
    byte_size: int
    offset: int


class SharedMemory(Protocol):
    """One request's use of the regions that clients have registered. A predict thread."""

    def hold(self, region: Region) -> None:
        """Keep it for the others, until the request is answered. Raises BadInput unless all of it
        is registered, and the client may use it."""

    def view(self, region: Region) -> memoryview:
        """Return the region's bytes, read-only, alive and mapped while anything refers to them."""

    def store(self, region: Region, data: npt.NDArray[Any] | bytes) -> None:
        """Copy an output, a C-contiguous array or bytes, to the beginning of the region."""

    def settled(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an output that is sent after ``check``: a copy, where it lies in a region."""

    def check(self) -> None:
        """Raise BadInput where something read or written was not the client's memory any more."""


class Sent(NamedTuple):
    """One input of a request. Its data is in exactly one of three places.

    ``data``: a JSON value. ``region``: shared memory. Else ``nbytes`` of the body, from ``offset``.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    region: Region | None
    offset: int
    nbytes: int


class Wanted(NamedTuple):
    """One output as a request wants it: in a region, as binary data, or else as JSON."""

    tensor: Tensor
    binary: bool
    region: Region | None


class InferRequest(NamedTuple):
    """A request: its inputs in the order of the model, its outputs in the order of the client."""

    id: str | None
    inputs: tuple[Sent, ...]
    outputs: tuple[Wanted, ...]


# ---- the request ---------------------------------------------------------------------------------


def read_request(
    exchange: Exchange,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    memory: SharedMemory | None = None,
) -> InferRequest:
    """Read the JSON of a request and check it against what the model declares.

    Data in the JSON is not looked at yet; :func:`take_inputs` does. Regions are held.

    Raises
    ------
    BadInput
        The request isn't the protocol's, or isn't for this model.
    """
    encoding = exchange.header("content-encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise BadInput(
            415, f"the Content-Encoding {encoding!r:.40} isn't served; send the body as it is"
        )
    nbytes = exchange.nbytes
    field = exchange.header(_HEADER_LENGTH.lower())
    json_bytes = nbytes if field is None else _header_length(field, nbytes)
    if field is not None and json_bytes == 0:
        return _raw_request(nbytes, inputs, outputs)
    if json_bytes > JSON_MAX_BYTES:
        raise BadInput(413, f"the JSON has {json_bytes} bytes; expected at most {JSON_MAX_BYTES}")
    # The view is let go before arrays are made, so that nothing of ours shares their memory.
    with exchange.body as body:
        text = bytes(body[:json_bytes])
    request = parse_request(text, nbytes - json_bytes, inputs, outputs)
    for region in chain((i.region for i in request.inputs), (o.region for o in request.outputs)):
        if region is not None and memory is None:
            refuse("shared memory isn't served; send tensors as binary data")
        if region is not None and memory is not None:
            memory.hold(region)
    return request


def parse_request(
    text: bytes, data_bytes: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> InferRequest:
    """Parse an $inference_request that is followed by so many bytes of tensors. Raises BadInput."""
    document = _load(text)
    identity = member_of(document, "id", str, "the request")
    parameters = parameters_of(document, "the request")
    sent = _read_inputs(document, inputs, len(text), data_bytes)
    return InferRequest(identity, sent, _read_outputs(document, parameters, outputs))


def _load(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        refuse("the JSON is nested too deep")
    except ValueError as error:  # JSONDecodeError, bad UTF-8, integers of thousands of digits
        refuse(f"the body doesn't begin with the JSON of a request: {error}")
    if not isinstance(document, dict):
        refuse("the JSON of a request must be an object")
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is not JSON; send it as binary data")


def _header_length(field: str, nbytes: int) -> int:
    if not (field.isascii() and field.isdigit() and len(field) < 20) or int(field) > nbytes:
        refuse(f"{_HEADER_LENGTH} must be a number up to {nbytes}, the body's length")
    return int(field)


def _raw_request(nbytes: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> InferRequest:
    """The extension's raw binary request: no JSON, the body is the only input's data."""
    tensor = inputs[0]
    shape = (-1,) if tensor.shape is None else tensor.shape
    if len(inputs) != 1 or shape.count(-1) > 1 or tensor.datatype == "BYTES":
        refuse(
            f"{_HEADER_LENGTH} is 0; a body without JSON is for models with one input, not of"
            " BYTES, and at most one free axis"
        )
    datatype = tensor.datatype or "UINT8"
    unit = DATATYPES[datatype].itemsize * math.prod(length for length in shape if length != -1)
    if (nbytes % unit if unit else nbytes) or (-1 not in shape and nbytes != unit):
        refuse(f"the body has {nbytes} bytes, which don't make {datatype} of shape {shape}")
    shape = tuple(nbytes // unit if length == -1 and unit else max(length, 0) for length in shape)
    sent = Sent(tensor.name, datatype, shape, None, None, 0, nbytes)
    return InferRequest(None, (sent,), tuple(Wanted(each, True, None) for each in outputs))


# ---- inputs --------------------------------------------------------------------------------------


def _read_inputs(
    document: dict[str, Any], inputs: Sequence[Tensor], json_bytes: int, data_bytes: int
) -> tuple[Sent, ...]:
    listed = member_of(document, "inputs", list, "the request") or []
    known = {tensor.name: tensor for tensor in inputs}
    found: dict[str, Sent] = {}
    offset = json_bytes
    for entry in listed:
        sent = _read_input(entry, known, offset)
        if sent.name in found:
            refuse(f"the input {sent.name!r} is there twice")
        found[sent.name] = sent
        offset += sent.nbytes
    missing = [name for name in known if name not in found]
    if missing:
        refuse(f"the request lacks the input {missing[0]!r}")
    if offset - json_bytes != data_bytes:
        refuse(
            f"{data_bytes} bytes follow the JSON ({_HEADER_LENGTH} tells where it ends), but"
            f" binary_data_size says {offset - json_bytes} in all"
        )
    return tuple(found[tensor.name] for tensor in inputs)


def _read_input(entry: object, known: Mapping[str, Tensor], offset: int) -> Sent:
    tensor = _named(entry, known, "input")
    assert isinstance(entry, dict)
    what = f"the input {tensor.name!r}"
    datatype, shape = _datatype(entry, tensor, what), _shape(entry, tensor, what)
    parameters = parameters_of(entry, what)
    size = size_in(parameters, "binary_data_size", what)
    region = _region(parameters, what)
    data = entry.get("data")
    if [data is None, size is None, region is None].count(False) != 1:
        refuse(f"{what} needs one of 'data', binary_data_size and shared_memory_region")
    _check_size(size if region is None else region.byte_size, datatype, shape, what)
    return Sent(tensor.name, datatype, shape, data, region, offset, size or 0)


def _check_size(size: int | None, datatype: str, shape: tuple[int, ...], what: str) -> None:
    """Bytes must be those of the shape; of BYTES only the bounds can be known here."""
    count = math.prod(shape)
    if datatype == "BYTES":
        if count > BYTES_MAX_ITEMS or (size or 0) > BYTES_MAX_BYTES:
            raise BadInput(
                413,
                f"{what} is too large for BYTES: at most {BYTES_MAX_ITEMS} items and"
                f" {BYTES_MAX_BYTES} bytes are served",
            )
        return
    needed = count * DATATYPES[datatype].itemsize
    if size is not None and size != needed:
        refuse(f"{what} has {size} bytes of data; {datatype} of shape {shape} has {needed}")


def _datatype(entry: dict[str, Any], tensor: Tensor, what: str) -> str:
    datatype = member_of(entry, "datatype", str, what)
    if datatype not in DATATYPES:
        refuse(f"{what} needs a datatype, one of {', '.join(DATATYPES)}")
    if tensor.datatype is None and datatype == "BYTES":
        refuse(f"{what} can't be BYTES: the model takes numbers")
    if tensor.datatype not in (None, datatype):
        refuse(f"{what} is {datatype}; the model takes {tensor.datatype}")
    return datatype


def _shape(entry: dict[str, Any], tensor: Tensor, what: str) -> tuple[int, ...]:
    listed = member_of(entry, "shape", list, what)
    if listed is None or any(type(length) is not int or length < 0 for length in listed):
        refuse(f"{what} needs a shape, a list of lengths")
    if any(length.bit_length() > 256 for length in listed):  # a sentence can't hold them either
        refuse(f"{what} has a shape that no memory holds")
    shape = tuple(listed)
    if len(shape) > MAX_AXES:
        refuse(f"{what} has {len(shape)} axes; at most {MAX_AXES} are served")
    if tensor.shape is not None and not suits(shape, tensor.shape):
        refuse(f"{what} has the shape {shape!s:.200}; the model takes {tensor.shape}")
    return shape


def take_inputs(
    exchange: Exchange, request: InferRequest, memory: SharedMemory | None, arrays: list[Any]
) -> tuple[int, int]:
    """Append each input's array to ``arrays``, the only place that refers to it.

    Returns how many tensors of the body and of shared memory had to be copied, and their bytes:
    those that lie unaligned for their dtype, and BYTES.

    Raises
    ------
    BadInput
        Data that isn't of its datatype or shape.
    """
    tensors = nbytes = 0
    for sent in request.inputs:
        arrays.append(_take(exchange, sent, memory))
        size = sent.nbytes if sent.region is None else sent.region.byte_size
        if size and (sent.datatype == "BYTES" or arrays[-1].flags.owndata):
            tensors += 1
            nbytes += size
    return tensors, nbytes


def _take(exchange: Exchange, sent: Sent, memory: SharedMemory | None) -> npt.NDArray[Any]:
    try:
        if sent.data is not None:
            return from_json(sent.data, sent.datatype, sent.shape)
        if sent.region is not None and memory is not None:
            return _over(memory.view(sent.region), sent)
        if sent.datatype == "BYTES":
            end = sent.offset + sent.nbytes
            with exchange.body as body, body[sent.offset : end] as data:
                return unpack_bytes(data, sent.shape)
        if sent.nbytes == 0:
            return np.empty(sent.shape, DATATYPES[sent.datatype])
        return exchange.array(DATATYPES[sent.datatype], sent.shape, sent.offset)
    except Misfit as misfit:
        refuse(f"the input {sent.name!r} {misfit}")
    except (ValueError, OverflowError):  # lengths beyond what NumPy can index, beside a 0
        refuse(f"the input {sent.name!r} has a shape that no array can have")


def _over(view: memoryview, sent: Sent) -> npt.NDArray[Any]:
    """An array over shared memory, read-only; it keeps the view, and so the mapping, alive."""
    if sent.datatype == "BYTES":
        return unpack_bytes(view, sent.shape)
    array: npt.NDArray[Any] = np.ndarray(sent.shape, DATATYPES[sent.datatype], view.toreadonly())
    return array if array.flags.aligned else array.copy()


# ---- outputs -------------------------------------------------------------------------------------


def _read_outputs(
    document: dict[str, Any], parameters: dict[str, Any], outputs: Sequence[Tensor]
) -> tuple[Wanted, ...]:
    default = flag_in(parameters, "binary_data_output", False, "the request")
    listed = member_of(document, "outputs", list, "the request")
    if not listed:
        return tuple(Wanted(tensor, default, None) for tensor in outputs)
    known = {tensor.name: tensor for tensor in outputs}
    found: dict[str, Wanted] = {}
    for entry in listed:
        wanted = _read_output(entry, known, default)
        if wanted.tensor.name in found:
            refuse(f"the output {wanted.tensor.name!r} is there twice")
        found[wanted.tensor.name] = wanted
    return tuple(found.values())


def _read_output(entry: object, known: Mapping[str, Tensor], default: bool) -> Wanted:
    tensor = _named(entry, known, "output")
    assert isinstance(entry, dict)
    what = f"the output {tensor.name!r}"
    parameters = parameters_of(entry, what)
    if parameters.get("classification"):
        refuse(f"{what} is wanted as classification, which isn't served")
    binary = flag_in(parameters, "binary_data", default, what)
    return Wanted(tensor, binary, _region(parameters, what))


def format_answer(
    payload: list[Any], model: str, version: str, request: InferRequest, memory: SharedMemory | None
) -> Headers:
    """Turn the results, one for each output that is wanted, into the answer's parts, in place.

    Afterwards the list holds the JSON and then the outputs that follow it as binary data.

    Raises
    ------
    TypeError, ValueError
        For a result that isn't what the model declares.
    BadInput
        For an output that can't be had as the client wants it.
    """
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        answer["id"] = request.id
    answer["outputs"] = [
        _format_output(payload, place, wanted, memory)
        for place, wanted in enumerate(request.outputs)
    ]
    text = to_json(answer)
    payload[:] = [text, *(part for part in payload if part is not None)]
    if not any(wanted.binary and wanted.region is None for wanted in request.outputs):
        return ((b"Content-Type", JSON.encode("ascii")),)
    return (
        (b"Content-Type", OCTETS.encode("ascii")),
        (_HEADER_LENGTH.encode("ascii"), b"%d" % len(text)),
    )


def _format_output(
    payload: list[Any], place: int, wanted: Wanted, memory: SharedMemory | None
) -> dict[str, Any]:
    """Describe one output; its place in the payload is None unless it follows as binary data."""
    name, declared = wanted.tensor.name, wanted.tensor.shape
    try:
        datatype = settle(payload, place, wanted.tensor.datatype)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"output {name!r}: {error}") from None
    shape = payload[place].shape
    if declared is not None and not suits(shape, declared):
        raise ValueError(f"output {name!r}: shape {shape} was returned, {declared} is declared")
    entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(shape)}
    if wanted.region is None and not wanted.binary:
        try:
            entry["data"] = to_json_values(payload[place], datatype)
        except Misfit as misfit:
            refuse(f"the output {name!r} {misfit}")
        payload[place] = None
        return entry
    if datatype == "BYTES":
        payload[place] = pack_bytes(payload[place])
    size = len(payload[place]) if datatype == "BYTES" else payload[place].nbytes
    if wanted.region is None:
        entry["parameters"] = {"binary_data_size": size}
        if memory is not None and datatype != "BYTES":
            payload[place] = memory.settled(payload[place])
        payload[place] = payload[place] if size else None
    elif size > wanted.region.byte_size:
        room = wanted.region.byte_size
        refuse(f"the output {name!r} has {size} bytes; its shared_memory_byte_size is {room}")
    elif memory is not None:
        memory.store(wanted.region, payload[place])
        payload[place] = None
    return entry


# ---- what is named in a request ------------------------------------------------------------------


def _named(entry: object, known: Mapping[str, Tensor], kind: str) -> Tensor:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        refuse(f"every {kind} must be an object with a 'name'")
    if name not in known:
        refuse(f"the model has no {kind} {name!r:.100}; it has {', '.join(known)}")
    return known[name]


def _region(parameters: dict[str, Any], what: str) -> Region | None:
    name = member_of(parameters, "shared_memory_region", str, what)
    if name is None:
        return None
    size = size_in(parameters, "shared_memory_byte_size", what)
    if size is None:
        refuse(f"{what} needs a shared_memory_byte_size")
    return Region(name, size, size_in(parameters, "shared_memory_offset", what) or 0)
