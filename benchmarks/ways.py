"""The groups that call models, with the clients that people have; those are in call_client.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from .bench import Bench, Job
from .client import call_model
from .process import Running
from .servers import INFERENCE_PEERS, OURS, RAW, WAYS, Server

LARGE_BYTES = 30_000_000
SIZES = {"4 KB": 4096, "30 MB": LARGE_BYTES, "1 GB": 1_000_000_000}

#: What is lent and not sent takes no time to speak of, and so many calls.
LENT = {"client-memfd", "triton-shm"}


def inference(bench: Bench) -> None:
    """tritonclient, 30 MB by TCP: raw, fastpredict, and Python servers of the protocol."""
    peers = [server.name for server in INFERENCE_PEERS]
    servers = bench.pick([RAW.name, OURS.name, *peers])

    def median(up: Running) -> float:
        if up.server in INFERENCE_PEERS:  # seconds each
            options = [f"--calls={bench.choose(2, 1)}", "--warmup=1"]
        else:
            options = [f"--calls={bench.choose(30, 10)}", "--warmup=5"]
        options += ["--unchecked"] if up.server is RAW else []
        way = up.server.way or "triton"
        return statistics.median(call_model(way, up.address, LARGE_BYTES, *options))

    def is_fast(server: Server) -> bool:
        return server not in INFERENCE_PEERS

    slow = Job("30 MB", "ms", median, lambda server: not is_fast(server))
    fast = Job("30 MB", "ms", median, is_fast)
    rounds = bench.choose(3, 1)
    bench.interleave("inference", servers, [slow, fast, fast, fast], rounds)


def local(bench: Bench) -> None:
    """Ways to call on the same host, by sockets and by memory, less the handler's own time."""
    jobs = [Job(row, "ms", _median(bench, row), _applies(bench, row)) for row in SIZES]
    ways = bench.pick(server.name for server in WAYS)
    bench.interleave("local", ways, jobs, bench.choose(5, 1))


def _median(bench: Bench, row: str) -> Callable[[Running], float]:
    def median(up: Running) -> float:
        calls, warmup = _calls(bench, row, up.server)
        options = [f"--calls={calls}", f"--warmup={warmup}"]
        return statistics.median(call_model(str(up.server.way), up.address, SIZES[row], *options))

    return median


def _calls(bench: Bench, row: str, server: Server) -> tuple[int, int]:
    """How many calls of a round count, and how many go before."""
    if row == "4 KB" or server.name in LENT:
        return bench.choose(500, 200), 20
    return (bench.choose(10, 5), 3) if row == "30 MB" else (2, 1)


def _applies(bench: Bench, row: str) -> Callable[[Server], bool]:
    """Sending 1 GB takes long, and most of all by tritonclient, which copies it twice before."""
    if row != "1 GB":
        return lambda server: True
    if bench.quick:
        return lambda server: server.name in LENT
    return lambda server: server.name != "triton-tcp"
