"""A program: starts and stops a server COUNT times, and says what it held at first and at last."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import targets
from asking import expect

import fastpredict

WARM_UP = 30


def figures() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def settled() -> dict[str, int]:
    """The figures, once a second brings none lower: a thread goes a moment after its join."""
    lowest = figures()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        time.sleep(0.01)
        now = figures()
        if any(now[name] < lowest[name] for name in ("descriptors", "threads")):
            until = time.monotonic() + 1.0
        lowest = {name: min(value, now[name]) for name, value in lowest.items()}
    return lowest


def run(count: int) -> None:
    """Each one serves, most of them a request, some of them a body that is not small."""
    for index in range(count):
        with fastpredict.Server(targets.app, port=0, threads=1 + index % 2) as server:
            if index % 4 == 0:
                expect(server.url, "/length", b"x" * 3_000_000, b"3000000")
            elif index % 4 == 1:
                expect(server.url)


def main() -> None:
    run(WARM_UP)
    first = settled()
    run(int(sys.argv[1]))
    print(json.dumps([first, settled()]))


if __name__ == "__main__":
    main()
