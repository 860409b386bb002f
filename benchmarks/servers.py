"""The servers: how each is started, where its handlers are, and what it needs installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOM_BYTES = 200_000_000
ANSWER_BYTES = 30_000_000
PYTHON = sys.executable

#: glibc told to keep what it has: no fresh pages for a body above 32 MiB.
TUNED_ENV = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}

BOUNDARY = "benchmark"
FORM = (
    "--header",
    f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
    "--before",
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="image"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n",
    "--after",
    f"\r\n--{BOUNDARY}--\r\n",
)


@dataclass(frozen=True)
class Server:
    """A server to be measured.

    `command` makes its command line from its address: a port in digits, or the path of a Unix
    socket. `seed` marks the four of the question. `form` is a server that takes a body as a file
    of a form only. `flask` is one that serves the Flask app. `helped` is one that is started
    otherwise than its documentation says, to its advantage.

    `way` is the client of call_client.py that it is called with, for those that only the groups in
    ways.py measure; `only_unix` says that it listens on a Unix socket there. `ready` is a path that
    is answered 200 to GET once it can be measured, for those that have no /predict.
    """

    name: str
    label: str
    command: Callable[[str], list[str]]
    package: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    seed: bool = False
    unix: bool = False
    model: bool = False
    form: bool = False
    helped: bool = False
    flask: bool = False
    way: str | None = None
    only_unix: bool = False
    ready: str | None = None

    @property
    def is_peer(self) -> bool:
        return self.package is not None

    @property
    def is_tuned(self) -> bool:
        return self.helped or bool(self.env)

    @property
    def client_options(self) -> tuple[str, ...]:
        return FORM if self.form else ()

    @property
    def is_apart(self) -> bool:
        """Whether it takes part in no group but its own."""
        return self.model or self.way is not None


def _raw(address: str) -> list[str]:
    return ["build/bench/raw", address, str(ROOM_BYTES), str(ANSWER_BYTES)]


def _ours(*options: str) -> Callable[[str], list[str]]:
    def command(address: str) -> list[str]:
        where = ["--port", address] if address.isdigit() else ["--uds", address]
        target = "benchmarks/apps/fastpredict_app.py:app"
        return [PYTHON, "-m", "fastpredict", "serve", target, *where, *options]

    return command


def _ours_flask(address: str) -> list[str]:
    where = ["--port", address] if address.isdigit() else ["--uds", address]
    return [PYTHON, "-m", "fastpredict", "serve", "benchmarks.apps.flask_app:app", *where]


def _wsgi(name: str) -> Callable[[str], list[str]]:
    return lambda address: [PYTHON, "-m", "benchmarks.apps.wsgi", name, address]


def _gunicorn(*options: str) -> Callable[[str], list[str]]:
    def command(address: str) -> list[str]:
        bind = f"127.0.0.1:{address}" if address.isdigit() else f"unix:{address}"
        app = "benchmarks.apps.flask_app:app"
        # its time limit is for a worker's silence, and one of the handlers is silent for 10 s
        return [PYTHON, "-m", "gunicorn", "--bind", bind, "--timeout", "60", *options, app]

    return command


def _granian(address: str) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", address]
    app = "benchmarks.apps.flask_app:app"
    return [PYTHON, "-m", "granian", "--interface", "wsgi", *where, app]


def _module(name: str, *options: str) -> Callable[[str], list[str]]:
    return lambda address: [PYTHON, "-m", f"benchmarks.apps.{name}", *options, address]


def _uvicorn(address: str) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", address] if address.isdigit() else ["--uds", address]
    app = "benchmarks.apps.fastapi_app:app"
    return [PYTHON, "-m", "uvicorn", "--no-access-log", "--log-level", "warning", *where, app]


def _bentoml(address: str) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", address]
    return [PYTHON, "-m", "bentoml", "serve", "benchmarks.apps.bentoml_app:Bench", *where]


RAW = Server("raw", "raw: the limit", _raw, unix=True)
OURS = Server("fastpredict", "fastpredict", _ours("--access-log"), unix=True)
OURS_QUIET = Server("fastpredict-quiet", "fastpredict, no log", _ours("--no-access-log"))
OURS_FLASK = Server(
    "fastpredict-flask", "fastpredict, Flask app", _ours_flask, unix=True, flask=True
)

_BJOERN = Server("bjoern", "bjoern", _wsgi("bjoern"), "bjoern", unix=True, flask=True)
_GUNICORN = Server(
    "gunicorn",
    "gunicorn sync",
    _gunicorn(),
    package="gunicorn",
    seed=True,
    unix=True,
    flask=True,
)
_AIOHTTP = Server("aiohttp", "aiohttp", _module("aiohttp_app"), package="aiohttp", unix=True)
_FASTAPI = Server("fastapi", "FastAPI, uvicorn", _uvicorn, package="fastapi")

PEERS = [
    Server("flask", "Flask's own", _wsgi("flask"), package="flask", seed=True, flask=True),
    _GUNICORN,
    Server("waitress", "waitress", _wsgi("waitress"), package="waitress", seed=True, flask=True),
    Server("gevent", "gevent", _wsgi("gevent"), package="gevent", seed=True, flask=True),
    _BJOERN,
    Server(
        "gthread",
        "gunicorn gthread",
        _gunicorn("--worker-class", "gthread", "--threads", "4"),
        package="gunicorn",
        flask=True,
    ),
    Server("cheroot", "cheroot", _wsgi("cheroot"), package="cheroot", flask=True),
    Server("granian", "granian WSGI", _granian, package="granian", flask=True),
    _AIOHTTP,
    _FASTAPI,
]


def _tuned(server: Server) -> Server:
    name, label = f"{server.name}-tuned", f"{server.label}, tuned"
    return replace(server, name=name, label=label, env=TUNED_ENV, seed=False)


#: Those that were the strongest, with glibc's allocator tuned; and gevent without its delay.
TUNED = [
    *[_tuned(server) for server in (_BJOERN, _GUNICORN, _AIOHTTP, _FASTAPI)],
    # It sends an answer in two parts and doesn't ask for TCP_NODELAY: 40 ms by a kept connection.
    Server(
        "gevent-nodelay",
        "gevent, no delay",
        _wsgi("gevent-nodelay"),
        "gevent",
        helped=True,
        flask=True,
    ),
]

MODEL_PEERS = [
    Server(
        "mosec",
        "mosec",
        _module("mosec_app", "--max-request-size", str(ROOM_BYTES), "--port"),
        package="mosec",
        model=True,
    ),
    Server("bentoml", "BentoML (form)", _bentoml, package="bentoml", model=True, form=True),
    Server(
        "litserve",
        "LitServe (form)",
        _module("litserve_app"),
        package="litserve",
        model=True,
        form=True,
    ),
]


def venv_of(package: str) -> Path:
    """The environment of a peer that can't share one: its pins don't agree with the others'."""
    return Path(f"build/bench-venv-{package}")


def _in_own_venv(name: str) -> Callable[[str], list[str]]:
    python = str(venv_of(name) / "bin/python")
    return lambda address: [python, "-m", f"benchmarks.apps.{name}_app", address]


#: Python servers of the Open Inference Protocol. MLServer knows tensors as JSON only.
INFERENCE_PEERS = [
    Server(
        "kserve",
        "KServe's Python server",
        _in_own_venv("kserve"),
        package="kserve",
        way="triton",
        ready="/v2/models/timed/ready",
    ),
    Server(
        "mlserver",
        "MLServer (JSON)",
        _in_own_venv("mlserver"),
        package="mlserver",
        way="json",
        ready="/v2/models/timed/ready",
    ),
]


def _way(name: str, label: str, way: str, *options: str, unix: bool = False) -> Server:
    """fastpredict with a client of its own."""
    command = _ours("--access-log", *options)
    return Server(name, label, command, way=way, only_unix=unix)


#: Ways to call fastpredict on the same host, each with a server of its own.
WAYS = [
    _way("client-tcp", "Client, TCP", "client-tcp"),
    _way("client-socket", "Client, Unix socket", "client-socket", unix=True),
    _way("client-copy", "Client, memfd, copied", "client-copy", unix=True),
    _way("client-memfd", "Client, memfd", "client-memfd", unix=True),
    _way("triton-tcp", "tritonclient, TCP", "triton"),
    _way("triton-shm", "tritonclient, shm", "triton-shm", "--allow-client-shm"),
]

ALL = [RAW, OURS, OURS_FLASK, OURS_QUIET, *PEERS, *TUNED, *MODEL_PEERS, *INFERENCE_PEERS, *WAYS]
BY_NAME = {server.name: server for server in ALL}

#: What --quick measures: the limit, ours, the four of the question, the fastest of the others, and
#: servers of the protocol where they are installed already.
QUICK = {
    *(server.name for server in (RAW, OURS, OURS_FLASK, OURS_QUIET)),
    *("bjoern", "bjoern-tuned", "gunicorn-tuned", "gevent-nodelay"),
    *(server.name for server in PEERS if server.seed),
    *(server.name for server in WAYS),
    *(server.name for server in INFERENCE_PEERS if venv_of(server.name).exists()),
}
