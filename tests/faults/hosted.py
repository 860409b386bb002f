"""A program: serves targets.py in the background, and does what its standard input says.

``python hosted.py OPTIONS`` with Server's options in JSON. It writes the URL, then one line for
each command, a list in JSON. It stops when the input ends.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import targets

import fastpredict

server: fastpredict.Server


def stats() -> dict[str, int]:
    return server.stats()


def let(calls: int) -> None:
    targets.let.release(calls)


def held() -> int:
    return targets.held


def peak() -> int:
    return targets.peak.most


def fill_borrowed(value: int) -> None:
    targets.borrowed[:] = value


def streams() -> list[int]:
    """How many streamed answers have begun and been closed."""
    return [targets.Stream.begun, targets.Stream.closed]


def trace() -> None:
    tracemalloc.start()


def figures() -> dict[str, int]:
    """What Python holds, after a collection."""
    gc.collect()
    traced = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
    return {"objects": len(gc.get_objects()), "traced_bytes": traced}


def default_sigpipe() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


COMMANDS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        stats,
        let,
        held,
        peak,
        fill_borrowed,
        streams,
        trace,
        figures,
        default_sigpipe,
    )
}


def main() -> None:
    global server
    with fastpredict.Server(targets.app, **json.loads(sys.argv[1])) as server:
        print(json.dumps(server.url), flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(COMMANDS[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
