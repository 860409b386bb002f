"""The table that a run ends with, at most 120 columns wide."""

from __future__ import annotations

import textwrap

from .figures import OURS, Figure
from .results import Point, Results

WIDTH = 120

TITLES = {
    "post": "POST by one kept connection, TCP: median ms, and × fastpredict's",
    "unix": "The same by a Unix socket: median ms, and × fastpredict's",
    "buffers": "30 MB by a Unix socket, client's send buffers: median ms, and × fastpredict's",
    "inference": "tritonclient, 30 MB binary, TCP, a kept client: median ms, and × fastpredict's",
    "local": "fastpredict called on the same host, less the handler's own time: median ms",
    "seed": "requests.post with the seed's handler, 50 of each: median ms, and × fastpredict's",
    "models": "Model servers: median ms, and × fastpredict's",
    "fresh": "Fresh processes at 30 MB: median ms of each",
    "connections": "Eight connections at once: requests per second, and × fastpredict's",
    "overlap": "Four clients × 30 MB, one call at a time: calls per second, and × fastpredict's",
    "answers": "Large answers: median ms, user CPU in s per GB, and × fastpredict's",
    "memory": "Resident memory over idle, 8 × 30 MB in flight: MB, and × fastpredict's",
    "cpu": "The server's CPU per GB received: s, and × fastpredict's",
    "livez": "/livez while a handler keeps the GIL for 10 s: ms, and × fastpredict's",
}


def render(results: Results, figures: list[Figure]) -> str:
    parts = [figure_table(figures)] if figures else []
    for group in results.groups():
        body = fresh_lines(results) if group == "fresh" else group_table(results, group)
        parts.append("\n".join([TITLES.get(group, group), *body]))
    if results.failures:
        parts.append("\n".join(["Not measured", *failure_lines(results)]))
    parts.append("\n".join(machine_lines(results)))
    return "\n\n".join(parts)


def figure_table(figures: list[Figure]) -> str:
    met = sum(figure.met for figure in figures)
    head = ("", "measured", "target", "ratio", "met")
    lines = [
        (each.what, each.measured, each.target, f"{each.ratio:.2f}", "yes" if each.met else "NO")
        for each in figures
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in [head, *lines]]
    return "\n".join([f"Figures to reach: {met} of {len(figures)} met", *table])


def number(value: float) -> str:
    """Three digits that count; thousands are whole."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def cell(point: Point | None, ours: Point | None) -> str:
    """A value and how many times ours it is; an em dash where there is none."""
    if point is None:
        return "—"
    if ours is None or ours is point or ours.value == 0:
        return number(point.value)
    ratio = point.value / ours.value
    return f"{number(point.value)} {'×' + (f'{ratio:.2f}' if ratio < 10 else f'{ratio:.0f}'):>5}"


def group_table(results: Results, group: str) -> list[str]:
    """A line for each server, a column for each row of the group."""
    rows = results.rows(group)
    width = min(16, (WIDTH - 24) // len(rows))
    lines = [" " * 24 + "".join(f"{row:>{width}}" for row in rows)]
    for name in results.servers(group):
        cells = [
            cell(results.find(group, row, name), results.find(group, row, OURS)) for row in rows
        ]
        lines.append(f"{results.labels[name]:<24}" + "".join(f"{each:>{width}}" for each in cells))
    return lines


def fresh_lines(results: Results) -> list[str]:
    lines = []
    for name in results.servers("fresh"):
        point = results.find("fresh", "30 MB", name)
        if point is not None:
            times = " ".join(f"{value:>6.1f}" for value in sorted(point.rounds))
            spread = max(point.rounds) / min(point.rounds)
            lines.append(f"{results.labels[name]:<24}{times}   slowest ×{spread:.2f} the fastest")
    return lines


def failure_lines(results: Results) -> list[str]:
    lines = []
    for failure in results.failures:
        label = results.labels.get(failure["server"], failure["server"])
        lines += textwrap.wrap(
            f"{label} ({failure['group']}): {failure['reason']}", WIDTH, subsequent_indent="    "
        )
    return lines


def machine_lines(results: Results) -> list[str]:
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in results.versions.items())
    settings = ", ".join(f"{name} {value}" for name, value in results.settings.items())
    lines = textwrap.wrap(f"Machine: {machine}", WIDTH) + textwrap.wrap(
        f"Versions: {versions}", WIDTH
    )
    return lines + textwrap.wrap(f"Run: {settings}", WIDTH)
