"""One predict route: what its handler takes, what a body must be, and the checks when it is made.

Everything that can be known before the first request is worked out here, once: the worker only
reads it.
"""

from __future__ import annotations

import inspect
import math
import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

Handler: TypeAlias = Callable[..., Any]
#: What a route's ``shape`` may be given as; one integer is a 1-D shape, as NumPy has it.
ShapeLike: TypeAlias = int | Iterable[int] | None
#: How the handler wants its ``request``: not at all, by keyword, or as its first argument.
RequestArgument: TypeAlias = Literal["none", "keyword", "first"]

#: NumPy refuses a longer .npy header by itself; the length field and the magic come on top.
NPY_HEADER_MAX = 10_000
NPY_HEAD_BYTES_MAX = NPY_HEADER_MAX + 12

#: The kinds of dtype whose items are plain memory.
PLAIN_KINDS = "biufcmMSUV"

_MAX_DIMENSIONS = 32
_HEALTH_PATHS = ("/livez", "/readyz", "/v2/health")


class RouteLimits(TypedDict):
    """What the network thread must know of a route: the keywords of ``_core.Route``."""

    raw_unit_bytes: int
    raw_exact: bool
    raw_allowed: bool
    npy_max_bytes: int
    expected: str


@dataclass(frozen=True, slots=True, eq=False)
class PredictRoute:
    """One POST route. Immutable; shared by all threads. Make it with :func:`make_route`.

    Attributes
    ----------
    path
        Matched exactly against the percent-decoded path of a request.
    handler
        The user's function, called with one array, in a predict thread.
    dtype, shape
        As given; ``dtype`` None: the request says, ``shape`` None: 1-D. -1 is any length.
    request
        Whether and how ``handler`` takes a :class:`fastpredict.Request`.
    raw_dtype, raw_shape
        The same for a body that says nothing of itself: uint8 and ``(-1,)`` instead of None.
    free_axes
        How many axes of ``raw_shape`` are -1.
    unit_bytes
        Bytes of an array in which the free axis has length 1; 0 where another axis has length 0.
    expected
        All of that in words, for error messages.
    """

    path: str
    handler: Handler
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None
    request: RequestArgument
    raw_dtype: np.dtype[Any]
    raw_shape: tuple[int, ...]
    free_axes: int
    unit_bytes: int
    expected: str

    @property
    def label(self) -> str:
        """How the log calls the handler."""
        return f"the handler {name_of(self.handler)} of {self.path}"

    @property
    def fault(self) -> str:
        """What clients learn of a result that is no answer."""
        return "can't be sent"

    def limits(self) -> RouteLimits:
        """Return what lets the network thread refuse a body by its length alone."""
        sized = self.dtype is not None and self.free_axes == 0
        return {
            "raw_unit_bytes": self.unit_bytes,
            "raw_exact": self.free_axes == 0,
            "raw_allowed": self.free_axes <= 1,
            "npy_max_bytes": self.unit_bytes + NPY_HEAD_BYTES_MAX if sized else 0,
            "expected": self.expected,
        }


def make_route(
    path: str, handler: Handler, *, dtype: npt.DTypeLike | None, shape: ShapeLike
) -> PredictRoute:
    """Check everything and make a route.

    Raises
    ------
    TypeError
        For a handler, dtype or shape that can't be served; the message names it.
    ValueError
        For a path or a shape that can't be served.
    """
    check_path(path)
    request = request_argument(handler)
    checked_dtype = None if dtype is None else check_dtype(dtype)
    checked_shape = check_shape(shape)
    raw_dtype = np.dtype(np.uint8) if checked_dtype is None else checked_dtype
    raw_shape = (-1,) if checked_shape is None else checked_shape
    free_axes = raw_shape.count(-1)
    unit_bytes = raw_dtype.itemsize * math.prod(length for length in raw_shape if length != -1)
    if unit_bytes > sys.maxsize:
        raise ValueError(f"an array of shape {raw_shape} doesn't fit in memory")
    return PredictRoute(
        path=path,
        handler=handler,
        dtype=checked_dtype,
        shape=checked_shape,
        request=request,
        raw_dtype=raw_dtype,
        raw_shape=raw_shape,
        free_axes=free_axes,
        unit_bytes=unit_bytes,
        expected=_in_words(checked_dtype, raw_dtype, raw_shape, free_axes, unit_bytes),
    )


def check_path(path: str) -> None:
    """Raise ValueError for a path that no request could reach or that health answers own."""
    if not isinstance(path, str):
        raise TypeError(f"a path is a str that starts with '/', not {path!r}")
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} must start with '/'")
    if any(character in "?#" or not character.isprintable() for character in path):
        raise ValueError(
            f"the path {path!r} must be a path alone: no '?', '#' or control character"
        )
    if any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError(f"the path {path!r} has a dot segment; such requests are refused")
    for health in _HEALTH_PATHS:
        if path == health or path.startswith(health + "/"):
            raise ValueError(
                f"the path {path!r} is under {health}, which the server answers itself"
            )


def as_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return numpy.dtype(dtype), or raise TypeError; NumPy raises SyntaxError for some texts."""
    try:
        return np.dtype(dtype)
    except SyntaxError:
        raise TypeError(f"data type {dtype!r} not understood") from None


def check_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the dtype, or raise TypeError for one whose items are not plain bytes."""
    checked = as_dtype(dtype)
    if checked.hasobject or checked.kind not in PLAIN_KINDS:
        raise TypeError(f"dtype {checked} holds objects; a request body can't be made into them")
    if checked.itemsize == 0:
        raise TypeError(f"dtype {checked!r} has items of no bytes; give their size, as in 'S16'")
    if checked.subdtype is not None:
        raise TypeError(f"dtype {checked} has a shape of its own; put it into shape=")
    return checked


def check_shape(shape: ShapeLike) -> tuple[int, ...] | None:
    """Return the shape as a tuple of plain ints, None for None."""
    if shape is None:
        return None
    try:
        given = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        checked = tuple(operator.index(length) for length in given)
    except TypeError:
        raise TypeError(f"shape must be a tuple of integers or None, not {shape!r}") from None
    if any(isinstance(length, bool) for length in given):
        raise TypeError(f"shape must be a tuple of integers or None, not {shape!r}")
    if any(length < -1 for length in checked):
        raise ValueError(f"shape {checked} has a negative length other than -1 (any length)")
    if len(checked) > _MAX_DIMENSIONS:
        raise ValueError(f"shape {checked} has more than {_MAX_DIMENSIONS} axes")
    return checked


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling this gives a coroutine or an async generator instead of a result."""
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, type(function).__call__)
    )


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether calling this runs nothing yet, and gives a generator."""
    return any(inspect.isgeneratorfunction(each) for each in (function, type(function).__call__))


def name_of(function: object) -> str:
    """How messages call a function."""
    return str(getattr(function, "__qualname__", None) or repr(function))


def request_argument(handler: Handler) -> RequestArgument:
    """Tell how a handler takes its request, or raise TypeError where it can't be called by us."""
    name = name_of(handler)
    if not callable(handler):
        raise TypeError(f"a handler must be callable, not {handler!r}")
    if is_async(handler):
        raise TypeError(f"{name} is async; handlers run in threads of their own: use plain def")
    if is_generator(handler):
        raise TypeError(f"{name} is a generator; a handler returns its whole answer")
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except ValueError:
        return "none"  # a builtin that doesn't tell; one array is all that it can be given
    _check_parameters(name, parameters)
    places = [parameter.name for parameter in parameters]
    if "request" not in places:
        return "none"
    kind = parameters[places.index("request")].kind
    if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        return "none"
    if places[0] == "request" and kind != inspect.Parameter.KEYWORD_ONLY:
        return "first"
    return "keyword"


def _check_parameters(name: str, parameters: list[inspect.Parameter]) -> None:
    """Raise TypeError unless one array, and a request where there is one, is a complete call."""
    positional = [
        parameter
        for parameter in parameters
        if parameter.name != "request"
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if not positional:
        raise TypeError(f"{name} has no parameter for the array")
    places = [parameter.name for parameter in parameters]
    if "request" in places[1:]:
        request = parameters[places.index("request")]
        if request.kind == request.POSITIONAL_ONLY:
            raise TypeError(f"{name} takes request by position only, so it must come first")
    beyond = [
        parameter.name
        for parameter in parameters
        if parameter.name != "request"
        and parameter is not positional[0]
        and parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if beyond:
        raise TypeError(
            f"{name} requires {', '.join(beyond)} beside the array;"
            " a handler is called with one array, and with request= if it has that"
        )


def _in_words(
    dtype: np.dtype[Any] | None,
    raw_dtype: np.dtype[Any],
    raw_shape: tuple[int, ...],
    free_axes: int,
    unit_bytes: int,
) -> str:
    if free_axes == 0:
        size = f"{unit_bytes} bytes"
    elif free_axes > 1:
        size = "sent as .npy"
    elif unit_bytes == 0:
        size = "0 bytes"
    elif unit_bytes == 1:
        size = "any number of bytes"
    else:
        size = f"a multiple of {unit_bytes} bytes"
    text = f"{raw_dtype} of shape {raw_shape}, {size}"
    return text if dtype is not None else f"{text}; or a .npy body of another dtype"
