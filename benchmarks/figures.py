"""The figures to reach: what each asks, what came, and whether it was met."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .results import Results

OURS, FLASK, QUIET, RAW = "fastpredict", "fastpredict-flask", "fastpredict-quiet", "raw"
MEMFD, SHM = "client-memfd", "triton-shm"
MEMORY_MB = 8 * 30 * 1.1 + 20


@dataclass(frozen=True)
class Figure:
    """`ratio` is what the target bounds; `met` says whether it does."""

    what: str
    measured: str
    target: str
    ratio: float
    met: bool


def figures(results: Results) -> list[Figure]:
    """Every figure that this run has the points for."""
    makers: list[Callable[[Results], Iterator[Figure]]] = [
        _against_raw,
        _seed_handler,
        _against_stock,
        _against_tuned,
        _flask_stock,
        _flask_tuned,
        _flask_ours,
        _fresh,
        _small,
        _connections,
        _unix,
        _inference,
        _memfd,
        _shared_memory,
        _against_sockets,
        _overlap,
        _answers,
        _memory,
        _cpu,
        _livez,
    ]
    return [figure for maker in makers for figure in maker(results)]


def _at_most(what: str, measured: str, ratio: float, limit: float, of: str) -> Figure:
    return Figure(what, measured, f"at most {limit:.2f} × {of}", ratio, ratio <= limit)


def _at_least(what: str, measured: str, ratio: float, limit: float, of: str) -> Figure:
    return Figure(what, measured, f"at least {limit:.2f} × {of}", ratio, ratio >= limit)


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms"


def _best(
    results: Results, row: str, kind: str, flask: bool = False, group: str = "post"
) -> tuple[str, float] | None:
    """The fastest server of a kind, its label and its time; of those with the Flask app only."""
    times = [
        (value, results.labels[name])
        for name in results.of_kind(kind)
        if (value := results.value(group, row, name)) is not None
        and (not flask or name in results.flask)
    ]
    return (min(times)[1], min(times)[0]) if times else None


def _against_raw(results: Results) -> Iterator[Figure]:
    for row in ("30 MB", "60 MB"):
        ours, raw = results.value("post", row, OURS), results.value("post", row, RAW)
        if ours and raw:
            measured = f"{_ms(ours)}, raw {_ms(raw)}"
            yield _at_most(f"{row} POST, trivial handler", measured, ours / raw, 1.10, "raw")


def _seed_handler(results: Results) -> Iterator[Figure]:
    ours = results.value("post", "30 MB seed", OURS)
    raw = results.value("post", "30 MB", RAW)
    handler = results.value("post", "30 MB seed", "handler")
    if ours and raw and handler:
        measured = f"{_ms(ours)}, raw {_ms(raw)} + {_ms(handler)}"
        limit = raw + handler + 0.5
        target = "at most raw + own + 0.5 ms"
        yield Figure("30 MB, the seed's handler", measured, target, ours / limit, ours <= limit)


def _against_stock(results: Results) -> Iterator[Figure]:
    for row, factor in (("30 MB", 1.3), ("30 MB seed", 1.2), ("60 MB", 3.0), ("200 MB", 2.2)):
        ours, best = results.value("post", row, OURS), _best(results, row, "stock")
        if ours and best:
            measured = f"{_ms(ours)}, {best[0]} {_ms(best[1])}"
            what = f"{row}, best stock peer"
            yield _at_least(what, measured, best[1] / ours, factor, "ours")


def _against_tuned(results: Results) -> Iterator[Figure]:
    for row in ("4 B", "30 MB", "30 MB seed", "60 MB", "200 MB"):
        ours, best = results.value("post", row, OURS), _best(results, row, "tuned")
        if ours and best:
            measured = f"{_ms(ours)}, {best[0]} {_ms(best[1])}"
            what = f"{row}, best tuned peer"
            yield _at_least(what, measured, best[1] / ours, 1.0, "ours")


def _flask_stock(results: Results) -> Iterator[Figure]:
    rows = (("post", "30 MB", 1.2), ("post", "60 MB", 3.0), ("post", "200 MB", 2.2))
    for group, row, factor in (*rows, ("mount", "30 MB seed", 1.2)):
        ours, best = results.value(group, row, FLASK), _best(results, row, "stock", True, group)
        if ours and best:
            measured = f"{_ms(ours)}, {best[0]} {_ms(best[1])}"
            what = f"Flask app, {row}, best stock peer"
            yield _at_least(what, measured, best[1] / ours, factor, "ours")


def _flask_tuned(results: Results) -> Iterator[Figure]:
    for row in ("4 B", "1 MB", "30 MB", "60 MB", "200 MB"):
        ours, best = results.value("post", row, FLASK), _best(results, row, "tuned", flask=True)
        if ours and best:
            measured = f"{_ms(ours)}, {best[0]} {_ms(best[1])}"
            what = f"Flask app, {row}, best tuned peer"
            yield _at_least(what, measured, best[1] / ours, 1.0, "ours")


def _flask_ours(results: Results) -> Iterator[Figure]:
    ours, native = (results.value("mount", "30 MB", name) for name in (FLASK, OURS))
    if ours and native:
        measured = f"{_ms(ours)}, {_ms(native)}"
        yield _at_most("Flask app, 30 MB", measured, ours / native, 1.05, "the native route")
    ours, bjoern = (results.value("post", "4 B", name) for name in (FLASK, "bjoern"))
    if ours and bjoern:
        measured = f"{_ms(ours)}, bjoern {_ms(bjoern)}"
        yield _at_most("Flask app, 4 B, one connection", measured, ours / bjoern, 1.0, "bjoern")


def _fresh(results: Results) -> Iterator[Figure]:
    point = results.find("fresh", "30 MB", OURS)
    if point:
        slowest, fastest = max(point.rounds), min(point.rounds)
        measured = f"{_ms(slowest)}, {_ms(fastest)}"
        what = f"{len(point.rounds)} fresh processes, 30 MB"
        yield _at_most(what, measured, slowest / fastest, 1.5, "the fastest")


def _small(results: Results) -> Iterator[Figure]:
    for name, log in ((OURS, "log on"), (QUIET, "log off")):
        ours, bjoern = results.value("post", "4 B", name), results.value("post", "4 B", "bjoern")
        if ours and bjoern:
            measured = f"{_ms(ours)}, bjoern {_ms(bjoern)}"
            yield _at_most(f"4 B, one connection, {log}", measured, ours / bjoern, 0.6, "bjoern")


def _connections(results: Results) -> Iterator[Figure]:
    for name, log in ((OURS, "log on"), (QUIET, "log off")):
        ours = results.value("connections", "4 B x 8", name)
        bjoern = results.value("connections", "4 B x 8", "bjoern")
        if ours and bjoern:
            measured = f"{ours:,.0f}, bjoern {bjoern:,.0f} per s"
            yield _at_least(f"4 B, 8 connections, {log}", measured, ours / bjoern, 4.0, "bjoern")


def _unix(results: Results) -> Iterator[Figure]:
    ours, raw = (results.value("unix", "30 MB", name) for name in (OURS, RAW))
    if ours and raw:
        measured = f"{_ms(ours)}, raw {_ms(raw)}"
        yield _at_most("30 MB POST, Unix socket", measured, ours / raw, 1.15, "raw")


def _inference(results: Results) -> Iterator[Figure]:
    ours, raw = (results.value("inference", "30 MB", name) for name in (OURS, RAW))
    if ours and raw:
        measured = f"{_ms(ours)}, raw {_ms(raw)}"
        yield _at_most("tritonclient, 30 MB, TCP", measured, ours / raw, 1.30, "raw")


def _memfd(results: Results) -> Iterator[Figure]:
    small = results.value("local", "4 KB", MEMFD)
    for row in ("30 MB", "1 GB"):
        large = results.value("local", row, MEMFD)
        if large:
            yield _at_most(f"Client, memfd, {row}", _ms(large), large / 0.2, 1.0, "200 µs")
        if large and small:
            measured = f"{_ms(large)}, {_ms(small)}"
            yield _at_most(f"Client, memfd, {row}", measured, large / small, 2.0, "its 4 KB")


def _shared_memory(results: Results) -> Iterator[Figure]:
    small = results.value("local", "4 KB", SHM)
    for row in ("30 MB", "1 GB"):
        large = results.value("local", row, SHM)
        if large and small:
            measured = f"{_ms(large)}, {_ms(small)}"
            what = f"tritonclient, shm, {row}"
            yield _at_most(what, measured, large / small, 1.5, "its 4 KB")


def _against_sockets(results: Results) -> Iterator[Figure]:
    """Memory against the fastest 30 MB POST of any peer, and of those tritonclient can call."""
    known = [
        (value, results.labels[name])
        for name in results.of_kind("inference")
        if (value := results.value("inference", "30 MB", name)) is not None
    ]
    for name, what in ((MEMFD, "Client, memfd"), (SHM, "tritonclient, shm")):
        ours, best = results.value("local", "30 MB", name), _best(results, "30 MB", "stock")
        if ours and best:
            measured = f"{_ms(ours)}, {best[0]} {_ms(best[1])}"
            yield _at_least(
                f"{what}, 30 MB, best stock peer", measured, best[1] / ours, 50.0, "ours"
            )
        if ours and known and name == SHM:
            value, label = min(known)
            measured = f"{_ms(ours)}, {label} {_ms(value)}"
            yield _at_least(f"{what}, 30 MB, best v2 peer", measured, value / ours, 50.0, "ours")


def _overlap(results: Results) -> Iterator[Figure]:
    for row, limit in (("sleeps 20 ms", 0.95), ("busy 20 ms", 0.9)):
        ours = results.value("overlap", row, OURS)
        if ours:
            what = f"4 clients × 30 MB, handler {row}"
            yield _at_least(what, f"{ours:.1f} calls per s", ours / 50, limit, "50 per s")


def _answers(results: Results) -> Iterator[Figure]:
    ours, raw = (results.value("answers", "30 MB", name) for name in (OURS, RAW))
    if ours and raw:
        measured = f"{_ms(ours)}, raw {_ms(raw)}"
        yield _at_most("30 MB ndarray answer", measured, ours / raw, 1.05, "raw")
    ours, raw = (results.value("answers", "user CPU", name) for name in (OURS, RAW))
    if ours is not None and raw is not None:
        # An assumed bound, not a calibrated one: a copy of a GB should take longer (README.md).
        measured = f"{ours:.3f}, raw {raw:.3f} s of user CPU per GB"
        target, limit = "at most raw + 0.03 s: no copy", raw + 0.03
        yield Figure("30 MB ndarray answer, copies", measured, target, ours / limit, ours <= limit)


def _memory(results: Results) -> Iterator[Figure]:
    ours = results.value("memory", "8 x 30 MB", OURS)
    if ours:
        measured = f"{ours:.0f} MB over idle"
        yield _at_most(
            "8 × 30 MB in flight", measured, ours / MEMORY_MB, 1.0, f"{MEMORY_MB:.0f} MB"
        )


def _cpu(results: Results) -> Iterator[Figure]:
    ours, raw = (results.value("cpu", "30 MB", name) for name in (OURS, RAW))
    if ours and raw:
        measured = f"{ours:.3f}, raw {raw:.3f} s"
        yield _at_most("server's CPU per GB received", measured, ours / raw, 1.25, "raw")


def _livez(results: Results) -> Iterator[Figure]:
    worst, p99 = results.value("livez", "max", OURS), results.value("livez", "p99", OURS)
    if worst and p99:
        measured = f"slowest {_ms(worst)}, p99 {_ms(p99)}"
        yield _at_most("/livez while the GIL is held", measured, worst / 5, 1.0, "5 ms")
