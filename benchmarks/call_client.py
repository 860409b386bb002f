"""The clients that people call models with: python -m benchmarks.call_client HOW ADDRESS BYTES

Calls /timed (apps/handlers.py) or the model of that name again and again, and prints the ms of each
call as JSON, less the handler's own time. Before each call another value is put at the end of the
array, and the answer must say it: what the handler saw was of this call. `raw` sees nothing, so its
answers are not checked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

TIMEOUT_S = 60
#: What the array is full of, again and again: short as text, which helps those that get JSON.
BLOCK = np.arange(1000, dtype=np.float32) / 1000
#: What is put at its end; four digits each.
MARK_LEAST, MARK_MOST = 1000, 9999
#: Smaller ones may well be faster through the socket, and the client knows.
LENT_LEAST_BYTES = 1_000_000

Array = npt.NDArray[Any]
#: The array that is sent, and what sends it and returns the answer.
Way = tuple[Array, Callable[[], Array]]


def _fill(array: Array) -> Array:
    whole = array.size // BLOCK.size * BLOCK.size
    array[:whole].reshape(-1, BLOCK.size)[:] = BLOCK
    array[whole:] = BLOCK[: array.size - whole]
    return array


def _socket_url(address: str) -> str:
    return (
        f"http://127.0.0.1:{address}" if address.isdigit() else f"unix://{Path(address).resolve()}"
    )


@contextlib.contextmanager
def _client(address: str, count: int, memfd: bool | None, is_lent: bool) -> Iterator[Way]:
    import fastpredict

    with fastpredict.Client(_socket_url(address), timeout=TIMEOUT_S, memfd=memfd) as ours:
        array = _fill(ours.empty(count, np.float32) if is_lent else np.empty(count, np.float32))
        if is_lent and array.nbytes >= LENT_LEAST_BYTES and not ours.predict(array, "/lent")[0]:
            sys.exit(f"an array of {array.nbytes} bytes was sent, not lent")
        yield array, lambda: ours.predict(array, "/timed")


def client_tcp(address: str, count: int) -> AbstractContextManager[Way]:
    """fastpredict.Client with an array of the caller's own."""
    return _client(address, count, None, False)


def client_socket(address: str, count: int) -> AbstractContextManager[Way]:
    """The same by a Unix socket, and all through it."""
    return _client(address, count, False, False)


def client_copy(address: str, count: int) -> AbstractContextManager[Way]:
    """As it is done by default there: the client copies the array to a memfd."""
    return _client(address, count, None, False)


def client_memfd(address: str, count: int) -> AbstractContextManager[Way]:
    """With an array that lies in a memfd, and isn't copied."""
    return _client(address, count, None, True)


@contextlib.contextmanager
def triton(address: str, count: int) -> Iterator[Way]:
    """tritonclient as it comes: the array goes as binary data."""
    from tritonclient.http import InferenceServerClient, InferInput

    array = _fill(np.empty(count, np.float32))
    theirs = InferenceServerClient(f"127.0.0.1:{address}", network_timeout=TIMEOUT_S)

    def call() -> Array:
        tensor = InferInput("INPUT0", [count], "FP32")
        tensor.set_data_from_numpy(array, binary_data=True)
        return theirs.infer("timed", [tensor]).as_numpy("OUTPUT0")

    with contextlib.closing(theirs):
        yield array, call


@contextlib.contextmanager
def triton_shm(address: str, count: int) -> Iterator[Way]:
    """tritonclient with the array in system shared memory; the answer comes as binary data."""
    from tritonclient.http import InferenceServerClient, InferInput
    from tritonclient.utils import shared_memory

    nbytes, name = count * 4, f"fastpredict-bench-{os.getpid()}"
    room = os.statvfs("/dev/shm")
    if nbytes > room.f_bavail * room.f_frsize:
        sys.exit(f"/dev/shm has no room for {nbytes} bytes")
    region = shared_memory.create_shared_memory_region(name, name, nbytes)
    theirs = InferenceServerClient(f"127.0.0.1:{address}", network_timeout=TIMEOUT_S)

    def call() -> Array:
        tensor = InferInput("INPUT0", [count], "FP32")
        tensor.set_shared_memory(name, nbytes)
        return theirs.infer("timed", [tensor]).as_numpy("OUTPUT0")

    try:
        array = _fill(shared_memory.get_contents_as_numpy(region, np.float32, [count]))
        theirs.register_system_shared_memory(name, f"/{name}", nbytes)
        yield array, call
        theirs.unregister_system_shared_memory(name)
    finally:
        array = None  # it would keep the region from being closed
        theirs.close()
        shared_memory.destroy_shared_memory_region(region)


@contextlib.contextmanager
def json_text(address: str, count: int) -> Iterator[Way]:
    """The protocol without binary data. The text is made once, which no real client could do."""
    tensor = {"name": "INPUT0", "shape": [count], "datatype": "FP32", "data": []}
    head, _, tail = json.dumps({"inputs": [tensor]}).rpartition("]}]")
    block = ",".join(f"{value:g}" for value in BLOCK.tolist()) + ","
    values = (block * (count // BLOCK.size))[: -len(f"{BLOCK[-1]:g},")]
    text = bytearray(f"{head}{values}{MARK_LEAST}]}}]{tail}", "ascii")
    mark_at = len(text) - len(f"{MARK_LEAST}]}}]{tail}")
    array = _fill(np.empty(count, np.float32))
    kept = http.client.HTTPConnection("127.0.0.1", int(address), timeout=TIMEOUT_S)

    def call() -> Array:
        text[mark_at : mark_at + 4] = b"%d" % array[-1]
        kept.request(
            "POST", "/v2/models/timed/infer", text, headers={"Content-Type": "application/json"}
        )
        response = kept.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            sys.exit(f"{response.status}: {answer}")
        return np.array(answer["outputs"][0]["data"])

    with contextlib.closing(kept):
        yield array, call


WAYS = {
    "client-tcp": client_tcp,
    "client-socket": client_socket,
    "client-copy": client_copy,
    "client-memfd": client_memfd,
    "triton": triton,
    "triton-shm": triton_shm,
    "json": json_text,
}


def _times(way: Way, calls: int, checked: bool) -> list[float]:
    array, call = way
    times = []
    for number in range(calls):
        mark = MARK_LEAST + number % (MARK_MOST - MARK_LEAST)
        array[-1] = mark
        start = time.perf_counter_ns()
        answer = call()
        took_ns = time.perf_counter_ns() - start
        nbytes, seen, own_ns = answer.ravel().tolist()
        if checked and (nbytes, seen) != (array.nbytes, mark):
            sys.exit(f"sent {array.nbytes} bytes that end in {mark}; the handler saw {answer}")
        times.append((took_ns - own_ns) / 1e6)
    return times


@click.command()
@click.argument("how", type=click.Choice(list(WAYS)))
@click.argument("address")
@click.argument("nbytes", type=int)
@click.option("--calls", default=10, show_default=True)
@click.option("--warmup", default=2, show_default=True, help="Calls before, not counted.")
@click.option("--unchecked", is_flag=True, help="Whatever the answer says is right.")
def main(how: str, address: str, nbytes: int, calls: int, warmup: int, unchecked: bool) -> None:
    """Prints the ms of each call as JSON."""
    with WAYS[how](address, nbytes // 4) as way:
        times = _times(way, warmup + calls, not unchecked)
    print(json.dumps(times[warmup:]))


if __name__ == "__main__":
    main()
