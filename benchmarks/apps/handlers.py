"""What the applications do with a body. The same functions behind every server."""

import ctypes
import threading
import time
from collections.abc import Callable

import numpy as np

SHAPE = (3000, 2500)
WORK_S = 0.020
HOLD_S = 10
ANSWER_BYTES = {"/answer/1000000": 1_000_000, "/answer/30000000": 30_000_000}

#: Made once, and sent by every server from where it lies if it can: as an array, and as bytes.
ANSWER_ARRAYS = {path: np.ones(size // 4, dtype=np.float32) for path, size in ANSWER_BYTES.items()}
ANSWER_OBJECTS = {path: array.tobytes() for path, array in ANSWER_ARRAYS.items()}

_one_at_a_time = threading.Lock()


def trivial(values: np.ndarray) -> bytes:
    """How many bytes came: 30 MB are received and not read."""
    return b"%d" % values.nbytes


def seed(values: np.ndarray) -> bytes:
    """The handler of the question that started all this. One value stands for an image of it."""
    image = np.zeros(SHAPE, np.float32) + values[0] if values.size == 1 else values.reshape(SHAPE)
    return image.mean(axis=1).std(axis=0).tobytes()


def sleep(values: np.ndarray) -> bytes:
    """A model that lets go of the GIL: 20 ms, never two calls at once, as with one accelerator."""
    with _one_at_a_time:
        time.sleep(WORK_S)
    return trivial(values)


def busy(values: np.ndarray) -> bytes:
    """A model in Python: 20 ms of bytecode, never two calls at once."""
    with _one_at_a_time:
        end = time.perf_counter() + WORK_S
        while time.perf_counter() < end:
            pass
    return trivial(values)


def hold(values: np.ndarray) -> bytes:
    """One C call that keeps the GIL for 10 s, as careless extensions do."""
    ctypes.PyDLL(None).sleep(HOLD_S)
    return trivial(values)


def timed(values: np.ndarray) -> np.ndarray:
    """How many bytes came, their last value, and the nanoseconds that this took by itself."""
    start = time.perf_counter_ns()
    nbytes, last = values.nbytes, float(values.reshape(-1)[-1])
    return np.array([nbytes, last, time.perf_counter_ns() - start], dtype=np.float64)


#: The handlers, by the path that they are served at.
HANDLERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "/predict": trivial,
    "/seed": seed,
    "/sleep": sleep,
    "/busy": busy,
    "/hold": hold,
}


def from_bytes(path: str, body: bytes) -> bytes:
    """The answer of a server that has the body as bytes."""
    if path in ANSWER_OBJECTS:
        return ANSWER_OBJECTS[path]
    return HANDLERS[path](np.frombuffer(body, dtype=np.float32))
