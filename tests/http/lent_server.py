"""What the tests of lending call, in a process of its own: ``python lent_server.py SOCKET``."""

from __future__ import annotations

import resource
import sys
import threading
import zlib
from pathlib import Path

import numpy as np

import fastpredict

app = fastpredict.App()
go_on = threading.Semaphore(0)


@app.predict("/echo")
def echo(array: np.ndarray) -> np.ndarray:
    return array


@app.predict("/double", dtype=np.float32, shape=(-1, 1000))
def double(array: np.ndarray) -> np.ndarray:
    return array * 2


@app.predict("/lent")
def lent(array: np.ndarray) -> np.ndarray:
    """Whether it lies in the client's memory, and its checksum."""
    return np.array([not array.flags.writeable, zlib.crc32(array)], np.int64)


@app.predict("/first", dtype=np.float32, shape=(-1,))
def first(array: np.ndarray) -> np.ndarray:
    return array[:3].copy()


@app.predict("/fail")
def fail(array: np.ndarray) -> None:
    raise RuntimeError("no")


@app.predict("/text")
def text(array: np.ndarray) -> list[int]:
    return [1, 2, array.nbytes]


@app.predict("/hold")
def hold(array: np.ndarray) -> np.ndarray:
    """Rests until it is told to go on, and then says what it reads."""
    print("holding", flush=True)
    go_on.acquire()
    print(zlib.crc32(array), flush=True)
    return array


@app.predict("/costs")
def costs(array: np.ndarray) -> np.ndarray:
    """Mappings of memfds, descriptors and page faults of the server so far."""
    maps = Path("/proc/self/maps").read_text().count("memfd:fastpredict")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return np.array([maps, descriptors, faults, not array.flags.writeable], np.int64)


@app.model(
    "add",
    inputs={"a": ("float32", (-1,)), "b": ("float32", (-1,))},
    outputs={"sum": ("float32", (-1,))},
)
def add(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    return {"sum": a + b}


@app.model(
    "negate",
    inputs={"a": ("float32", (-1,))},
    outputs={"b": ("float32", (-1,)), "lent": ("bool", (1,))},
)
def negate(a: np.ndarray) -> dict[str, np.ndarray]:
    return {"b": -a, "lent": np.array([not a.flags.writeable])}


if __name__ == "__main__":
    options = {"port": 0, "uds": sys.argv[1], "access_log": False, "max_request_body_size": "2G"}
    with fastpredict.Server(app, **options) as server:
        print(*server.urls, flush=True)
        for _ in sys.stdin:
            go_on.release()
