"""What the processes of these tests serve. Not a test: `python -m fastpredict serve targets.py`."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fastpredict

app = fastpredict.App()

#: Handlers of /hold wait for this; the process that hosts them lets them go.
let = threading.Semaphore(0)
held = 0  # calls of it, of servers with one predict thread


def number_of(request: fastpredict.Request) -> float:
    return float(request.query or 0)


@app.predict("/echo")
def echo(data: np.ndarray) -> np.ndarray:
    return data


@app.predict("/length")
def length(data: np.ndarray) -> int:
    return data.nbytes


@app.predict("/nap")
def nap(data: np.ndarray, request: fastpredict.Request) -> int:
    """Sleeps ?SECONDS with the GIL released."""
    time.sleep(number_of(request))
    return data.nbytes


@app.predict("/clutch")
def clutch(data: np.ndarray, request: fastpredict.Request) -> int:
    """Sleeps ?SECONDS in C with the GIL held; says so first."""
    print("clutching", file=sys.stderr, flush=True)
    ctypes.PyDLL(None).usleep(int(number_of(request) * 1e6))
    return data.nbytes


@app.predict("/hold")
def hold(data: np.ndarray) -> int:
    """Waits until it is let."""
    global held
    held += 1
    let.acquire(timeout=60)
    return data.nbytes


@app.predict("/large")
def large(data: np.ndarray, request: fastpredict.Request) -> np.ndarray:
    """?BYTES of an answer."""
    return np.full(int(number_of(request)), 120, np.uint8)


@app.predict("/pid")
def pid(data: np.ndarray) -> int:
    return os.getpid()


#: Words of 8 bytes that /sums adds up, each time.
ROW = 3000


@app.predict("/sums", dtype=np.uint64, shape=(-1, ROW))
def sums(data: np.ndarray) -> int:
    """A checksum of a large body in little time: of the sums of its rows."""
    return zlib.crc32(data.sum(axis=1, dtype=np.uint64).tobytes())


@app.predict("/crc")
def crc(data: np.ndarray) -> int:
    return zlib.crc32(data)


# ---- concurrency: how many calls run at once


class Peak:
    """Counts who is inside, and the most that ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1


peak = Peak()


@app.predict("/peak")
def peaked(data: np.ndarray) -> int:
    with peak:
        time.sleep(0.0005)  # lets the others in, if they may
    return peak.most


# ---- answers: one array for all of them

STATE_BYTES = 2_000_000
state = np.zeros(STATE_BYTES, np.uint8)
borrowed = np.zeros(20_000_000, np.uint8)  # more than the kernel keeps for a connection
_turn = 0


@app.predict("/state")
def turned(data: np.ndarray) -> np.ndarray:
    """The same array every time, filled with the number of the call."""
    global _turn
    _turn = _turn % 255 + 1
    state[:] = _turn
    return state


@app.predict("/borrowed")
def lend(data: np.ndarray) -> fastpredict.Response:
    return fastpredict.Response(borrowed, borrow=True)


# ---- failures


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("an exception that can't be shown")


class Bare(BaseException):
    pass


def _raiser(error: type[BaseException]) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


FAILURES: dict[str, Callable[[], Any]] = {
    "exception": _raiser(ValueError),
    "base": _raiser(Bare),
    "memory": _raiser(MemoryError),
    "interrupt": _raiser(KeyboardInterrupt),
    "generator-exit": _raiser(GeneratorExit),
    "stop-iteration": _raiser(StopIteration),
    "sys-exit": lambda: sys.exit(7),
    "unprintable": _raiser(Unprintable),
    "system-error": _raiser(SystemError),
    "recursion": lambda: FAILURES["recursion"](),
    "wrong-type": object,
    "wrong-tuple": lambda: (1, 2, 3, 4),
    "wrong-status": lambda: ("x", 99),
    "wrong-header": lambda: ("x", 200, {"X": "a\r\nb"}),
    "objects": lambda: np.array([object()]),
    "set": lambda: {1, 2},
}


@app.predict("/fail")
def fail(data: np.ndarray, request: fastpredict.Request) -> Any:
    return FAILURES[request.query]()


# ---- a WSGI application, at /wsgi

Start = Callable[..., Callable[[bytes], None]]

BLOCK = bytes(range(256)) * 256


class Stream:
    """A streamed answer that counts how many of its kind have begun and been closed."""

    begun = closed = 0

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        Stream.begun += 1

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def close(self) -> None:
        Stream.closed += 1


def _raising(error: Callable[[], Any], after: int) -> Iterator[bytes]:
    yield from itertools.repeat(b"block", after)
    error()


class FailingToClose:
    def __init__(self, error: Callable[[], Any]) -> None:
        self.close = error

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"whole"])


def slowly(pause_s: float) -> Iterator[bytes]:
    for number in itertools.count():
        yield b"%d\n" % number
        time.sleep(pause_s)


def mounted(environ: dict[str, Any], start_response: Start) -> Any:
    """What is at /wsgi.

    /length, /parts (the same, chunked), /large?BYTES, /stream[?BLOCKS], /slowly?SECONDS between
    blocks, /fail?KIND.PLACE
    """
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/fail":
        return failing(query, environ, start_response)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if path == "/length":
        return [b"%d" % len(environ["wsgi.input"].read())]
    if path == "/parts":
        return iter([b"%d" % len(environ["wsgi.input"].read())])
    if path == "/large":
        return [BLOCK] * (int(query) // len(BLOCK))
    if path == "/slowly":
        return Stream(slowly(float(query)))
    blocks = itertools.repeat(BLOCK, int(query)) if query else itertools.repeat(BLOCK)
    return Stream(iter(blocks))


def failing(what: str, environ: dict[str, Any], start_response: Start) -> Any:
    """Fails as /fail does: before the head, before or after the first block, or in close().

    At "read", before the head with the whole body in a variable.
    """
    kind, _, place = what.partition(".")
    error = FAILURES[kind]
    if place == "read":
        body = environ["wsgi.input"].read()
        return error(), body
    if place == "call":
        return error()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return FailingToClose(error) if place == "close" else _raising(error, int(place == "later"))


app.mount("/wsgi", mounted)


# ---- other targets of the command


def plain(image: np.ndarray) -> list[Any]:
    """A plain function: says what it was given."""
    return [str(image.dtype), list(image.shape), float(image.sum())]


def factory() -> fastpredict.App:
    return app


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    return []


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    pass


number = 5
