"""Doubles and a client's half of the Open Inference Protocol, for tests without a server."""

from __future__ import annotations

import json
import sys
from typing import Any

import fake_core
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastpredict.datatypes import DATATYPES

FIELD = "inference-header-content-length"


class Exchange(fake_core.Exchange):
    """A request placed as the core places it: what follows the JSON is aligned to 64 bytes."""

    def __init__(
        self,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        method: str = "POST",
        path: str = "/v2/models/m/infer",
    ) -> None:
        super().__init__(b"", headers=headers)
        self.method, self.path = method, path
        field = (headers or {}).get(FIELD, str(len(body)))
        room = np.zeros(len(body) + 128, np.uint8)
        ahead = int(field) if field.isascii() and field.isdigit() else 0
        start = -(room.ctypes.data + ahead) % 64
        self.slot = room[start : start + len(body)]
        self.slot[:] = np.frombuffer(body, np.uint8)

    @property
    def nbytes(self) -> int:
        return self.slot.nbytes

    def array(self, dtype, shape, offset=0, fortran=False):
        assert not fortran
        assert all(type(length) is int for length in shape)
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
        piece = self.slot[offset : offset + nbytes]
        if piece.nbytes != nbytes:
            raise ValueError("does not fit")
        # Every array its own base, as the core's leases are.
        if piece.ctypes.data % dtype.alignment:
            return np.frombuffer(piece.tobytes(), dtype).reshape(shape).copy()
        return np.ndarray(shape, dtype, memoryview(piece))

    def bytes(self) -> bytes:
        return self.slot.tobytes()

    @property
    def body(self) -> memoryview:
        return memoryview(self.slot)

    def reply(self, status, headers, payload, borrow=False, reason=None):
        if self.refusals:
            raise self.refusals.pop(0)
        assert all(type(name) is bytes and type(value) is bytes for name, value in headers)
        for place in range(len(payload)):
            self.refcounts.append(sys.getrefcount(payload[place]))
            assert not isinstance(payload[place], np.ndarray) or payload[place].flags.c_contiguous
        text = {name.decode(): value.decode("latin-1") for name, value in headers}
        parts = [part if isinstance(part, bytes) else part.tobytes() for part in payload]
        payload.clear()
        self.replies.append((status, text, b"".join(parts), borrow))

    @property
    def status(self) -> int:
        return self.replies[-1][0]

    @property
    def json(self) -> Any:
        """The JSON of the one reply."""
        (reply,) = self.replies
        end = reply[1].get("Inference-Header-Content-Length")
        return json.loads(reply[2][: None if end is None else int(end)])

    @property
    def error(self) -> str:
        assert self.json.keys() == {"error"}
        return self.json["error"]

    @property
    def outputs(self) -> dict[str, list[Any]]:
        """Every output's items in one list; those that were sent as binary data, as bytes."""
        _, headers, body, _ = self.replies[-1]
        offset = int(headers.get("Inference-Header-Content-Length", len(body)))
        found = {}
        for output in self.json["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                found[output["name"]] = output["data"]
            else:
                found[output["name"]] = body[offset : offset + size]
                offset += size
        assert offset == len(body)
        return found


def tensor(name: str, datatype: str, array: np.ndarray[Any, Any], binary: bool = True) -> Any:
    """One input as tritonclient sends it, and its binary data."""
    entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if not binary:
        return {**entry, "data": array.reshape(-1).tolist()}, b""
    data = array.tobytes()
    return {**entry, "parameters": {"binary_data_size": len(data)}}, data


def request(*tensors: Any, **members: Any) -> Exchange:
    """A request of inputs that :func:`tensor` made, and other members of the JSON."""
    text = json.dumps({"inputs": [entry for entry, _ in tensors], **members}).encode()
    data = b"".join(data for _, data in tensors)
    headers = {FIELD: str(len(text))} if data else {}
    return Exchange(text + data, headers)


BINARY = {"binary_data_output": True}


SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def arrays_of(datatype):
    """Arrays of every shape; FP and BF16 with NaN and infinities, BYTES with any bytes."""
    if datatype == "BYTES":
        return hnp.arrays(np.object_, SHAPES, elements=st.binary(max_size=9), fill=st.nothing())
    if datatype == "BF16":
        return hnp.arrays(np.uint16, SHAPES).map(lambda array: array.view(DATATYPES["BF16"]))
    return hnp.arrays(DATATYPES[datatype], SHAPES)


def same(one, other):
    return one.shape == other.shape and (
        one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()
    )
