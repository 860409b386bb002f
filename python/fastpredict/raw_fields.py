"""X-Dtype and X-Shape: the fields that say what raw bytes are, of answers and of requests.

Pure functions for any thread, on both sides of a connection. X-Dtype is what numpy.dtype() takes
("<f4"); for a structured dtype, the list of its fields as a Python literal with ASCII escapes.
X-Shape is "3000,2500"; empty for a scalar.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.lib.format as npy_format

from fastpredict.route import PLAIN_KINDS

# A literal that says more is not read: ast.literal_eval is no place for a stranger's megabyte.
_DTYPE_CHARACTERS: Final = 10_000


def raw_fields(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """Return both fields."""
    descr = npy_format.dtype_to_descr(dtype)
    return (
        (b"X-Dtype", (descr if isinstance(descr, str) else ascii(descr)).encode("ascii")),
        (b"X-Shape", ",".join(map(str, shape)).encode("ascii")),
    )


@lru_cache(maxsize=256)
def read_dtype(text: str) -> np.dtype[Any]:
    """Read X-Dtype. Raises ValueError for what is none, or holds objects."""
    try:
        if len(text) > _DTYPE_CHARACTERS:
            raise ValueError("too long")
        descr: Any = ast.literal_eval(text) if text.startswith("[") else text
        dtype: np.dtype[Any] = npy_format.descr_to_dtype(descr)
        if dtype.hasobject or dtype.kind not in PLAIN_KINDS:
            raise ValueError("holds objects")
    except Exception:  # a stranger's literal raises whatever Python's parser and NumPy do
        raise ValueError(f"{text[:60]!r} is no X-Dtype") from None
    return dtype


@lru_cache(maxsize=256)
def read_shape(text: str) -> tuple[int, ...]:
    """Read X-Shape. Raises ValueError for what is none."""
    lengths = text.split(",") if text else []
    if len(lengths) > 64 or not all(
        each.isascii() and each.isdecimal() and len(each) < 19 for each in lengths
    ):
        raise ValueError(f"{text[:60]!r} is no X-Shape")
    return tuple(map(int, lengths))
