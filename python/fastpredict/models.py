"""Models: what the Open Inference Protocol calls a predict route, and the answers that it asks for.

A model is a handler with named, typed inputs and outputs. ``answer_control`` answers all under /v2
that runs no handler: metadata, health, index, statistics, shared memory. It runs in the control
thread, and so while a predict runs. infer_worker.py runs models.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy.typing as npt

from fastpredict._version import __version__
from fastpredict.datatypes import DATATYPES, datatype_of
from fastpredict.decode import BadInput
from fastpredict.encode import error_body, json_head, to_json
from fastpredict.inference import Tensor
from fastpredict.log import logger
from fastpredict.route import (
    Handler,
    PredictRoute,
    RequestArgument,
    ShapeLike,
    as_dtype,
    check_path,
    check_shape,
    is_async,
    is_generator,
    name_of,
)
from fastpredict.shared_memory import NOT_ALLOWED, ClientMemory, find_answer

if TYPE_CHECKING:
    from fastpredict._core import Exchange

#: dtype and shape of one tensor: ``("float32", (-1, 3000))``, ``("BYTES", -1)``.
TensorLike: TypeAlias = tuple[npt.DTypeLike | None, ShapeLike]

#: Every model has this one version.
VERSION: Final = "1"

#: What the one input and the one output of a predict route are called: as in Triton's examples.
INPUT, OUTPUT = "INPUT0", "OUTPUT0"

_EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics")
_SHARED_MEMORY = "system_shared_memory"
_STAGES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


class Statistics:
    """What has happened to one model. Any thread."""

    __slots__ = ("_copied_bytes", "_copied_tensors", "_counts", "_last_ms", "_lock", "_ns")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(_STAGES, 0)
        self._ns = dict.fromkeys(_STAGES, 0)
        self._copied_tensors = self._copied_bytes = self._last_ms = 0

    def record(self, *, copied: tuple[int, int] = (0, 0), **stages_ns: int) -> None:
        """Count one request: the nanoseconds of each of its stages, tensors and bytes copied."""
        now_ms = time.time_ns() // 1_000_000
        with self._lock:
            self._last_ms = now_ms
            self._copied_tensors += copied[0]
            self._copied_bytes += copied[1]
            for stage, ns in stages_ns.items():
                self._counts[stage] += 1
                self._ns[stage] += ns

    def snapshot(self) -> dict[str, Any]:
        """Return them as the statistics extension has them, with ``input_copies`` as our own.

        Requests are not batched: an inference is an execution. ``input_copies`` counts tensors that
        could not be used where they lay.
        """
        with self._lock:
            stages = {
                stage: {"count": self._counts[stage], "ns": self._ns[stage]} for stage in _STAGES
            }
            executed = self._counts["success"]
            return {
                "last_inference": self._last_ms,
                "inference_count": executed,
                "execution_count": executed,
                "inference_stats": stages,
                "batch_stats": [],
                "input_copies": {"count": self._copied_tensors, "bytes": self._copied_bytes},
            }


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A handler under the protocol. Make it with :func:`model_of` or :func:`make_model`.

    ``request``: whether and how the handler takes a :class:`fastpredict.Request`. ``by_keyword``:
    it gets its arrays by the names of the inputs, and may return a dict; else one array, by place.
    """

    name: str
    handler: Handler
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    request: RequestArgument
    by_keyword: bool
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def label(self) -> str:
        """How the log calls the handler."""
        return f"the handler {name_of(self.handler)} of the model {self.name}"

    @property
    def fault(self) -> str:
        """What clients learn of a result that is no answer."""
        return "isn't what the model declares"

    def infer_paths(self) -> tuple[str, str]:
        """The paths of its inference requests, percent-decoded."""
        path = f"/v2/models/{self.name}"
        return f"{path}/infer", f"{path}/versions/{VERSION}/infer"

    def metadata(self) -> dict[str, Any]:
        """Return it as the protocol's $metadata_model_response."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "fastpredict_python",
            "inputs": [tensor.metadata() for tensor in self.inputs],
            "outputs": [tensor.metadata() for tensor in self.outputs],
        }


# ---- making models -------------------------------------------------------------------------------


def model_of(route: PredictRoute, name: str) -> Model | None:
    """Return the model that a predict route is; None for a dtype that has no datatype.

    Its input INPUT0 is of the route's dtype and shape (dtype None: any datatype but BYTES; with
    shape None, too: any shape), its output OUTPUT0 whatever the handler returns. Complex numbers,
    dates, text, records and the other byte order have no datatype.

    Raises
    ------
    TypeError, ValueError
        For a name that no request could reach.
    """
    check_name(name)
    datatype = None
    if route.dtype is not None:
        datatype = datatype_of(route.dtype)
        if datatype is None:
            return None
    shape = None if route.dtype is None and route.shape is None else route.raw_shape
    return Model(
        name=name,
        handler=route.handler,
        inputs=(Tensor(INPUT, datatype, shape),),
        outputs=(Tensor(OUTPUT, None, None),),
        request=route.request,
        by_keyword=False,
    )


def make_model(
    name: str,
    handler: Handler,
    *,
    inputs: Mapping[str, TensorLike],
    outputs: Mapping[str, TensorLike],
) -> Model:
    """Check everything and make a model of several inputs and outputs.

    The handler is called with one array for each input, by keyword, and returns a dict with an
    array for each output; where there is one output, the array alone will do.

    Parameters
    ----------
    name
        In the path: no "/", "?" or "#".
    inputs, outputs
        By name, a dtype and a shape, as :meth:`fastpredict.App.predict` has them: -1 for any
        length, None for 1-D; dtype None for any, then with shape None for any shape. A dtype may be
        a datatype of the protocol: ``"BF16"`` (uint16 unless ml_dtypes is installed), ``"BYTES"``
        (an object array of bytes).

    Raises
    ------
    TypeError
        The handler is async or can't be called with these inputs; a dtype has no datatype.
    ValueError
        The name can't be served, a shape is out of range, or inputs or outputs are empty.

    Examples
    --------
    >>> make_model("scale", scale, inputs={"image": ("float32", (-1, 3000)), "by": ("float32", 1)},
    ...            outputs={"image": ("float32", (-1, 3000))})
    """
    check_name(name)
    taken = _tensors(inputs, "inputs")
    return Model(
        name=name,
        handler=handler,
        inputs=taken,
        outputs=_tensors(outputs, "outputs"),
        request=_keyword_request(handler, [tensor.name for tensor in taken]),
        by_keyword=True,
    )


def by_name(models: Iterable[Model]) -> dict[str, Model]:
    """Return models as one server has them: by name, with statistics of its own.

    Raises ValueError where two have the same name.
    """
    served: dict[str, Model] = {}
    for model in models:
        if model.name in served:
            owner = name_of(served[model.name].handler)
            raise ValueError(f"the model {model.name!r} is {owner} already; give another name=")
        served[model.name] = replace(model, statistics=Statistics())
    return served


def check_name(name: str) -> None:
    """Raise for a model name that can't be one segment of a path."""
    if not isinstance(name, str):
        raise TypeError(f"a model's name is a str, not {name!r}")
    if not name or "/" in name:
        raise ValueError(f"the model name {name!r} must be one segment of a path")
    check_path(f"/v2/models/{name}")


def _tensors(given: Mapping[str, TensorLike], what: str) -> tuple[Tensor, ...]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} is a dict of name: (dtype, shape), not {given!r}")
    if not given:
        raise ValueError(f"{what} is empty; a model has at least one")
    return tuple(_tensor(name, pair) for name, pair in given.items())


def _tensor(name: str, pair: TensorLike) -> Tensor:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise TypeError(f"a tensor's name is a printable str, not {name!r}")
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"{name!r} is declared as (dtype, shape), not {pair!r}")
    dtype, shape = pair[0], check_shape(pair[1])
    if dtype is None:
        return Tensor(name, None, shape)
    if isinstance(dtype, str) and dtype in DATATYPES:
        datatype: str | None = dtype
    else:
        datatype = datatype_of(as_dtype(dtype))
    if datatype is None:
        raise TypeError(f"{name!r}: no datatype for {dtype!r}; there are {', '.join(DATATYPES)}")
    return Tensor(name, datatype, (-1,) if shape is None else shape)


def _keyword_request(handler: Handler, names: list[str]) -> RequestArgument:
    """Tell whether a handler takes a request, or raise where it can't be called by these names."""
    name = name_of(handler)
    if not callable(handler):
        raise TypeError(f"a handler must be callable, not {handler!r}")
    if is_async(handler):
        raise TypeError(f"{name} is async; handlers run in threads of their own: use plain def")
    if is_generator(handler):
        raise TypeError(f"{name} is a generator; a handler returns its whole answer")
    if "request" in names:
        raise ValueError("an input can't be named 'request': so the handler gets its Request")
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return "none"  # a builtin that doesn't tell
    parameter = signature.parameters.get("request")
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    with_request = parameter is not None and parameter.kind in keywords
    given = [*names, "request"] if with_request else names
    try:
        signature.bind(**dict.fromkeys(given))
    except TypeError as error:
        raise TypeError(f"{name} can't be called with {', '.join(given)}: {error}") from None
    return "keyword" if with_request else "none"


# ---- control -------------------------------------------------------------------------------------

_READ = "GET, HEAD"

#: Status and JSON value of an answer.
Answer: TypeAlias = tuple[int, Any]


def answer_control(
    exchange: Exchange,
    models: Mapping[str, Model],
    ready: Callable[[], bool],
    memory: ClientMemory = NOT_ALLOWED,
) -> None:
    """Answer a request under /v2 that runs no handler. The control thread. Raises nothing."""
    headers = json_head(200).headers
    try:
        methods, answer = _find(exchange, models, ready, memory)
        allow = ((b"Allow", methods.encode("ascii")),)
        if exchange.method == "OPTIONS":
            status, body = 204, []
            headers = allow
        elif exchange.method in methods.split(", "):
            status, value = answer()
            body = [to_json(value)]
        else:
            status, headers = 405, headers + allow
            body = [error_body(f"{exchange.method:.20} isn't served here; expected {methods}")]
    except BadInput as error:
        status, body = error.status, [error_body(str(error))]
    except Exception as error:
        status, body = 500, [error_body("the server failed; the traceback is in its log")]
        with contextlib.suppress(Exception):
            logger.error("no answer for %s", exchange.path, exc_info=error)
    with contextlib.suppress(Exception):  # the client has left; or dropping it answers 500
        exchange.reply(status, headers, body)


def _find(
    exchange: Exchange,
    models: Mapping[str, Model],
    ready: Callable[[], bool],
    memory: ClientMemory,
) -> tuple[str, Callable[[], Answer]]:
    """Return the methods that a path has, and what answers them. Raises BadInput: 404."""
    match exchange.path.removeprefix("/").split("/"):
        case ["v2"]:
            return _READ, lambda: (200, _server_metadata(memory))
        case ["v2", "health", "live"]:
            return _READ, lambda: (200, {"live": True})
        case ["v2", "health", "ready"]:
            return _READ, lambda: _readiness({}, ready())
        case ["v2", "repository", "index"]:
            return "POST", lambda: _index(exchange, models, ready())
        case ["v2", "repository", "models", _, "load" | "unload"]:
            return "POST", _no_loading
        # A model of that name wins: the others' statistics are to be had one by one.
        case ["v2", "models", "stats"] if "stats" not in models:
            return _READ, lambda: _statistics(models.values())
        case ["v2", "models", name, "versions", version, *rest] if name:
            return _find_in(_model(models, name, version), rest, exchange, ready)
        case ["v2", "models", name, *rest] if name:
            return _find_in(_model(models, name), rest, exchange, ready)
        case ["v2", *rest] if (found := find_answer(exchange, rest, memory)) is not None:
            return found
    raise _nothing_at(exchange)


def _server_metadata(memory: ClientMemory) -> dict[str, Any]:
    extensions = [*_EXTENSIONS, _SHARED_MEMORY] if memory.allowed else list(_EXTENSIONS)
    return {"name": "fastpredict", "version": __version__, "extensions": extensions}


def _find_in(
    model: Model, rest: list[str], exchange: Exchange, ready: Callable[[], bool]
) -> tuple[str, Callable[[], Answer]]:
    match rest:
        case []:
            return _READ, lambda: (200, model.metadata())
        case ["ready"]:
            return _READ, lambda: _readiness({"name": model.name}, ready())
        case ["stats"]:
            return _READ, lambda: _statistics([model])
    raise _nothing_at(exchange)


def _nothing_at(exchange: Exchange) -> BadInput:
    return BadInput(404, f"nothing is served at {exchange.path!r:.200}")


def _model(models: Mapping[str, Model], name: str, version: str = VERSION) -> Model:
    if name in models:
        if version != VERSION:
            raise BadInput(404, f"the model {name!r} has no version {version!r:.40}, only 1")
        return models[name]
    close = get_close_matches(name, models, 1) if len(name) <= 100 else []
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise BadInput(404, f"there is no model {name!r:.100}{hint}")


def _readiness(answer: dict[str, Any], ready: bool) -> Answer:
    if ready:
        return 200, {**answer, "ready": True}
    return 503, {**answer, "ready": False, "error": "the server is not ready"}


def _statistics(models: Iterable[Model]) -> Answer:
    return 200, {
        "model_stats": [
            {"name": model.name, "version": VERSION, **model.statistics.snapshot()}
            for model in models
        ]
    }


def _index(exchange: Exchange, models: Mapping[str, Model], ready: bool) -> Answer:
    try:
        asked = json.loads(exchange.bytes()) if exchange.nbytes else {}
    except (ValueError, RecursionError):
        raise BadInput(400, "the body isn't JSON; expected an object or nothing") from None
    only_ready = asked.get("ready", False) if isinstance(asked, dict) else None
    if not isinstance(only_ready, bool):
        raise BadInput(400, "the body must be an object, and its 'ready' true or false")
    if only_ready and not ready:
        return 200, []
    state, reason = ("READY", "") if ready else ("UNAVAILABLE", "the server is not ready")
    return 200, [
        {"name": name, "version": VERSION, "state": state, "reason": reason} for name in models
    ]


def _no_loading() -> Answer:
    raise BadInput(400, "models can't be loaded or unloaded: all are there while the server runs")
