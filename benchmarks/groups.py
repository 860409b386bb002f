"""The groups of rows; each is a name for --only. What the figures ask for is in figures.py."""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from collections.abc import Callable

from .bench import Bench, Job
from .client import LoadError, handler_alone, load, load_command, post_with_requests
from .process import Running, running
from .servers import OURS, OURS_FLASK, OURS_QUIET, RAW, Server
from .ways import inference, local

MB = 1_000_000
LARGE = 30 * MB
HANDLER = "handler"
#: What fastpredict.Client asks for; the group `buffers` has others.
UNIX_SEND_BUFFER = 1 << 20


def _median(**options: int | str) -> Callable[[Running], float]:
    return lambda up: load(up.server, up.address, **options).median_ms


def _rate(**options: int | str) -> Callable[[Running], float]:
    return lambda up: load(up.server, up.address, **options).per_s


def _loud(server: Server) -> bool:
    return server is not OURS_QUIET


def _sizes(bench: Bench, **options: int) -> list[Job]:
    """A body of each size; small ones for a time, large ones by count."""
    small = {"requests": 100_000, "for_ms": bench.choose(400, 150), "warmup": 20, **options}
    few = {"requests": bench.choose(3, 2), "warmup": 1, **options}
    return [
        Job("4 B", "ms", _median(body=4, **small)),
        Job("4 KB", "ms", _median(body=4096, **small), _loud),
        Job("1 MB", "ms", _median(body=MB, requests=bench.choose(20, 10), **options), _loud),
        Job("30 MB", "ms", _median(body=LARGE, requests=bench.choose(8, 7), **options), _loud),
        Job("60 MB", "ms", _median(body=60 * MB, requests=5, **options), _loud),
        Job("200 MB", "ms", _median(body=200 * MB, **few), _loud),
    ]


def _seed_jobs(requests: int) -> list[Job]:
    def seed(up: Running) -> float:
        if up.server is RAW:  # it stands in for the handler by itself, beside it in every round
            return statistics.median(handler_alone(requests))
        options = {"path": "/seed", "body": LARGE, "requests": requests}
        return load(up.server, up.address, **options).median_ms

    return [Job("30 MB seed", "ms", seed, _loud)]


def _move_handler(bench: Bench, group: str) -> None:
    """The handler by itself was measured in raw's turn; it is not raw's."""
    point = bench.results.find(group, "30 MB seed", RAW.name)
    if point is not None:
        point.server = HANDLER


def post(bench: Bench) -> None:
    """POST by one kept connection, all sizes, and the seed's handler at 30 MB."""
    jobs = _sizes(bench) + _seed_jobs(bench.choose(8, 7))
    lives, rounds = bench.choose(3, 1), 3
    bench.interleave("post", bench.pick(), jobs, rounds, lives)
    _move_handler(bench, "post")


def mount(bench: Bench) -> None:
    """30 MB to the native route, and to the Flask app here and at the best stock peers.

    They differ by what Flask itself takes, some 0.3 ms, which is less than what a connection's luck
    is worth (see README.md, "BBR"): so there are many rounds, each with a connection of its own,
    and few servers.
    """
    few = {"body": LARGE, "requests": 12, "warmup": 3}
    jobs = [
        Job("30 MB", "ms", _median(**few)),
        Job("30 MB seed", "ms", _median(path="/seed", **few)),
    ]
    servers = bench.pick({OURS.name, OURS_FLASK.name, "gunicorn", "bjoern"})
    bench.interleave("mount", servers, jobs, bench.choose(16, 4), bench.choose(3, 1))


def unix(bench: Bench) -> None:
    """The same over a Unix socket, for those that serve one."""
    names = {server.name for server in bench.servers if server.unix and not server.is_tuned}
    sizes = _sizes(bench, send_buffer=UNIX_SEND_BUFFER)
    jobs = [job for job in sizes if job.row in ("4 B", "1 MB", "30 MB", "60 MB")]
    bench.interleave("unix", bench.pick(names), jobs, bench.choose(5, 3), unix=True)


def buffers(bench: Bench) -> None:
    """30 MB over a Unix socket with other send buffers of the client: raw and fastpredict."""
    sizes = {"kernel's": 0, "256 KiB": 1 << 18, "512 KiB": 1 << 19}
    sizes |= {f"{mib} MiB": mib << 20 for mib in (1, 2, 4)}
    jobs = [
        Job(row, "ms", _median(body=LARGE, requests=8, send_buffer=size))
        for row, size in sizes.items()
    ]
    servers = bench.pick({RAW.name, OURS.name})
    bench.interleave("buffers", servers, jobs, bench.choose(9, 1), unix=True)


def models(bench: Bench) -> None:
    """Model servers at 30 MB, by themselves: their idle workers would disturb the others."""
    peers = [server for server in bench.servers if server.model]
    if not peers:
        return
    jobs = [job for job in _sizes(bench) if job.row in ("4 B", "30 MB")] + _seed_jobs(5)
    servers = bench.pick({RAW.name, OURS.name}) + peers
    bench.interleave("models", servers, jobs, bench.choose(3, 1))
    _move_handler(bench, "models")


def fresh(bench: Bench) -> None:
    """Eight fresh processes, one after another: does speed hang on how the heap happens to lie?"""
    job = Job("30 MB", "ms", _median(body=LARGE, requests=8))
    for _ in range(8):
        for server in bench.pick({OURS.name, OURS_FLASK.name, "bjoern"}):
            bench.interleave("fresh", [server], [job], rounds=1)


def connections(bench: Bench) -> None:
    """4 B by eight connections at once, requests per second."""
    options = {"connections": 8, "body": 4, "requests": 200_000, "warmup": 50}
    job = Job("4 B x 8", "per s", _rate(for_ms=bench.choose(2000, 800), **options))
    servers = [server for server in bench.pick() if not server.is_tuned]
    bench.interleave("connections", servers, [job], bench.choose(5, 3))


def overlap(bench: Bench) -> None:
    """Four clients with 30 MB each, and a handler that takes 20 ms, one call at a time."""
    options = {"connections": 4, "body": LARGE, "warmup": 3, "requests": bench.choose(40, 12)}
    jobs = [
        Job("sleeps 20 ms", "per s", _rate(path="/sleep", **options)),
        Job("busy 20 ms", "per s", _rate(path="/busy", **options)),
    ]
    ours = [OURS.name, OURS_FLASK.name]
    names = [*ours, "flask", "gunicorn", "gthread", "waitress", "bjoern", "aiohttp", "fastapi"]
    bench.interleave("overlap", bench.pick(names), jobs, bench.choose(3, 1))


def answers(bench: Bench) -> None:
    """Small requests with large answers; user CPU, since a copy in user space would show there."""

    def user_cpu(up: Running) -> float:
        count = bench.choose(100, 50)
        before = up.user_cpu_s()
        load(up.server, up.address, path="/answer/30000000", body=4, requests=count, warmup=0)
        return (up.user_cpu_s() - before) / (count * LARGE / 1e9)

    def answer(size: int, prefix: str = "") -> Callable[[Running], float]:
        path = f"{prefix}/answer/{size}"
        return _median(path=path, body=4, answer=size, requests=bench.choose(20, 10), warmup=3)

    def is_ours(server: Server) -> bool:
        return server is OURS

    jobs = [
        Job("1 MB", "ms", answer(MB)),
        Job("30 MB", "ms", answer(LARGE)),
        Job("30 MB fresh", "ms", answer(LARGE, "/fresh"), is_ours),
        Job("user CPU", "s per GB", user_cpu),
    ]
    names = [RAW.name, OURS.name, "flask", "gunicorn", "waitress", "gevent", "bjoern", "aiohttp"]
    bench.interleave("answers", bench.pick(names), jobs, bench.choose(5, 3))


def memory(bench: Bench) -> None:
    """Eight bodies of 30 MB in flight before a handler of 20 ms: the peak over idle."""

    def peak(up: Running) -> float:
        time.sleep(0.3)
        tree, idle = up.tree(), up.resident_bytes()
        seen, over = [idle], threading.Event()

        def watch() -> None:
            while not over.wait(0.005):
                seen.append(up.resident_bytes(tree))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            options = {"connections": 8, "body": LARGE, "requests": 5, "warmup": 1}
            load(up.server, up.address, path="/sleep", **options)
        finally:
            over.set()
            watcher.join()
        return (max(seen) - idle) / MB

    job = Job("8 x 30 MB", "MB", peak)
    names = [OURS.name, "flask", "gunicorn", "gthread", "waitress", "gevent", "bjoern", "aiohttp"]
    for _ in range(bench.choose(3, 1)):
        for server in bench.pick(names):
            bench.interleave("memory", [server], [job], rounds=1)


def cpu(bench: Bench) -> None:
    """User and system seconds of the server for a GB received by one kept connection."""

    def seconds(up: Running) -> float:
        count, warmup = bench.choose(100, 50), 3
        before = up.cpu_s()
        load(up.server, up.address, body=LARGE, requests=count, warmup=warmup)
        return (up.cpu_s() - before) / ((count + warmup) * LARGE / 1e9)

    job = Job("30 MB", "s per GB", seconds)
    names = [RAW.name, OURS.name, "flask", "gunicorn", "bjoern", "aiohttp", "granian"]
    bench.interleave("cpu", bench.pick(names), [job], bench.choose(4, 3))


def livez(bench: Bench) -> None:
    """GET /livez, one every 2 ms, while a handler keeps the GIL for 10 s in one C call."""
    for server in bench.pick([OURS.name] if bench.quick else [OURS.name, "gthread"]):
        bench.bar.set_description(f"livez: {server.name}")
        with bench.failures("livez", server), running(server) as up:
            times = _livez_times(up, 2000 if server is OURS else 1)
            worst = max(times)
            p99 = sorted(times)[int(len(times) * 0.99)]
            bench.results.add("livez", "max", server.name, "ms", worst)
            bench.results.add("livez", "p99", server.name, "ms", p99)
        bench.bar.update()


def _livez_times(up: Running, count: int) -> list[float]:
    hold = load_command(up.server, up.address, path="/hold", body=4, requests=1, warmup=0)
    load(up.server, up.address, method="GET", path="/livez", requests=1, warmup=0)
    with subprocess.Popen(hold, stdout=subprocess.DEVNULL) as holder:
        try:
            time.sleep(0.5)
            ask = {"method": "GET", "path": "/livez", "requests": count, "warmup": 0}
            times = load(up.server, up.address, pause_us=2000, **ask).latencies_ms
            if up.server is OURS and holder.poll() is not None:
                raise LoadError("the handler was done before the last /livez")
            if holder.wait(30) != 0:
                raise LoadError("the handler that keeps the GIL failed")
        finally:
            holder.kill()
    return times


def seed(bench: Bench) -> None:
    """The question as it was asked: requests.post, 50 times, small and large."""

    def by_requests(size: int) -> Callable[[Running], float]:
        return lambda up: statistics.median(post_with_requests(up.address, "/seed", size, 10))

    jobs = [
        Job("small: 4 B", "ms", by_requests(4)),
        Job("large: 30 MB", "ms", by_requests(LARGE)),
    ]
    names = {server.name for server in bench.servers if server.seed}
    names |= {OURS.name, OURS_FLASK.name, "bjoern"}
    bench.interleave("seed", bench.pick(names), jobs, rounds=5)


GROUPS: dict[str, Callable[[Bench], None]] = {
    group.__name__: group
    for group in (
        post,
        mount,
        seed,
        fresh,
        connections,
        unix,
        buffers,
        inference,
        local,
        overlap,
        answers,
        memory,
        cpu,
        livez,
        models,
    )
}
