"""The chart of the README: how long 30 MB and 60 MB take, server by server."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from .results import Results

COLORS = {"ours": "#0b7a75", "stock": "#a7b0b8", "tuned": "#d9dee2", "model": "#a7b0b8"}
RAW_COLOR = "#c8553d"
SIZES = ("30 MB", "60 MB")


def draw(results: Results, path: Path) -> None:
    """Horizontal bars, the fastest on top; the limit of the machine is a line through them."""
    names = [
        name
        for name in results.servers("post")
        if results.kinds.get(name) in COLORS and _all_sizes(results, name)
    ]
    if not names:
        raise ValueError("nothing to draw: the run has no POST of 30 MB and 60 MB")
    names.sort(key=lambda name: results.value("post", SIZES[0], name) or 0, reverse=True)
    height = 1.5 + 0.3 * len(names)
    figure, panels = plt.subplots(1, 2, figsize=(10, height), sharey=True, layout="constrained")
    for panel, size in zip(panels, SIZES, strict=True):
        _panel(panel, results, names, size)
    for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
        label.set_weight("bold" if results.kinds[name] == "ours" else "normal")
    figure.suptitle(
        "One POST to a Python handler, median ms (shorter is better)", fontsize=12, weight="bold"
    )
    versions = results.versions
    figure.supxlabel(
        f"one kept connection over loopback, handler that only takes the array · "
        f"{results.machine.get('cpu', '')}, {results.machine.get('cores', '?')} cores, "
        f"Python {versions.get('python', '?')} · tuned: glibc's malloc told to keep its memory",
        fontsize=7.5,
        color="#555555",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _all_sizes(results: Results, name: str) -> bool:
    return all(results.value("post", size, name) is not None for size in SIZES)


def _panel(panel: plt.Axes, results: Results, names: list[str], size: str) -> None:
    values = [results.value("post", size, name) or 0.0 for name in names]
    colors = [COLORS[results.kinds[name]] for name in names]
    places = range(len(names))
    panel.barh(places, values, color=colors, height=0.72)
    panel.set_yticks(places, [results.labels[name] for name in names])
    room = max(values) * 0.012
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        weight = "bold" if results.kinds[name] == "ours" else "normal"
        text = f"{value:.1f}" if value < 100 else f"{value:.0f}"
        panel.text(value + room, place, text, va="center", fontsize=8.5, weight=weight)
    raw = results.value("post", size, "raw")
    if raw is not None:
        panel.axvline(raw, color=RAW_COLOR, linewidth=1.2, linestyle=(0, (4, 2)))
        panel.annotate(
            f"raw loopback receive: {raw:.1f}",
            (raw, len(names) - 0.4),
            (4, 2),
            textcoords="offset points",
            color=RAW_COLOR,
            fontsize=8,
            annotation_clip=False,
        )
    panel.set_title(size, loc="left", fontsize=11, pad=16)
    panel.set_xlim(0, max(values) * 1.1)
    panel.set_ylim(-0.6, len(names) - 0.4)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelsize=8, colors="#555555")
