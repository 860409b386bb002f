"""The clients: build/bench/load, `requests` as the question has it, and those of models."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass

from .servers import Server

LOAD = "build/bench/load"


class LoadError(Exception):
    """The client ended without a result: a wrong answer, no answer, or no time left."""


@dataclass(frozen=True)
class Load:
    """What a client saw: the time of each request in ms, and requests per second."""

    latencies_ms: list[float]
    per_s: float

    @property
    def median_ms(self) -> float:
        return statistics.median(self.latencies_ms)


def load_command(server: Server, address: str, **options: int | str) -> list[str]:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [LOAD, "--to", address, *named, *server.client_options]


def load(server: Server, address: str, **options: int | str) -> Load:
    """Runs the client; `options` are its own, as at the top of load.c."""
    limit_s = int(options.get("time_limit", 60))
    result = json.loads(_output(load_command(server, address, **options), limit_s + 10))
    latencies = [latency / 1000 for latency in result["latencies_us"]]
    return Load(latencies, result["requests"] / result["elapsed_s"])


def post_with_requests(address: str, path: str, body_bytes: int, count: int) -> list[float]:
    """The ms of `count` times requests.post, in a process of its own."""
    url = f"http://127.0.0.1:{address}{path}"
    command = [sys.executable, "-m", "benchmarks.requests_client", url, str(body_bytes), str(count)]
    return json.loads(_output(command, 120))


def call_model(way: str, address: str, nbytes: int, *options: str) -> list[float]:
    """The ms of each call with an array of so many bytes; see call_client.py."""
    command = [sys.executable, "-m", "benchmarks.call_client", way, address, str(nbytes), *options]
    return json.loads(_output(command, 120))


def handler_alone(count: int) -> list[float]:
    """The ms of the seed's handler by itself, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.apps.alone", str(count)]
    return json.loads(_output(command, 60))


def _output(command: list[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoadError(f"no result in {timeout_s:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise LoadError(lines[-1].removeprefix("load: "))
    return done.stdout
