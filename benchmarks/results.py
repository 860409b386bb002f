"""What was measured: points, and what could not be, kept in one JSON file."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Point:
    """One row of one server: a value for each round, in the order of the rounds."""

    group: str
    row: str
    server: str
    unit: str
    rounds: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)


@dataclass
class Results:
    """All of a run.

    `labels` are the servers' names for people, in the order of the tables; `flask` are those that
    serve the Flask app.
    """

    points: list[Point] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    flask: list[str] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, group: str, row: str, server: str, unit: str, value: float) -> None:
        point = self.find(group, row, server)
        if point is None:
            point = Point(group, row, server, unit)
            self.points.append(point)
        point.rounds.append(value)

    def find(self, group: str, row: str, server: str) -> Point | None:
        wanted = (group, row, server)
        found = (p for p in self.points if (p.group, p.row, p.server) == wanted)
        return next(found, None)

    def value(self, group: str, row: str, server: str) -> float | None:
        point = self.find(group, row, server)
        return None if point is None else point.value

    def fail(self, group: str, server: str, reason: str) -> None:
        failure = {"group": group, "server": server, "reason": reason}
        if failure not in self.failures:
            self.failures.append(failure)

    def rows(self, group: str) -> list[str]:
        return list(dict.fromkeys(p.row for p in self.points if p.group == group))

    def servers(self, group: str) -> list[str]:
        there = {p.server for p in self.points if p.group == group}
        return [name for name in self.labels if name in there]

    def groups(self) -> list[str]:
        return list(dict.fromkeys(p.group for p in self.points))

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, its in self.kinds.items() if its == kind]

    def save(self, path: Path, figures: list[dict[str, Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = {"figures": figures, **asdict(self)}
        path.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Results:
    kept = json.loads(path.read_text())
    kept.pop("figures", None)
    kept["points"] = [Point(**point) for point in kept["points"]]
    return Results(**kept)
