"""script/soak's table: a line for each test, with what it did, what it measured and how it ended.

A plugin of pytest (-p tests.faults.soak_table) that writes the JSON file whose name is in
FASTPREDICT_SOAK_TABLE; as a program it prints such files. A figure that was skipped is a failure
there: nobody has measured it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

PLACE = os.environ.get("FASTPREDICT_SOAK_TABLE")  # before a fixture takes it out


@dataclass
class Line:
    """One test function, all its parameters together."""

    test: str
    figure: str
    cases: int = 0
    seconds: float = 0.0
    measured: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def result(self) -> str:
        if self.failed:
            return f"FAILED {len(self.failed)} of {self.cases}"
        if self.skipped:
            word = "SKIPPED" if self.figure else "skipped"
            return f"{word} {len(self.skipped)} of {self.cases}"
        return "ok"


lines: dict[str, Line] = {}


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    why = report.longrepr
    return why[2] if isinstance(why, tuple) else str(why)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that is skipped as a whole doesn't say which figures it has."""
    if report.skipped:
        line = Line(report.nodeid, "all that is in this file", cases=1, skipped=[reason(report)])
        lines[report.nodeid] = line


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    test = item.nodeid.partition("[")[0]
    mark = item.get_closest_marker("figure")
    line = lines.setdefault(test, Line(test, mark.args[0] if mark else ""))
    line.seconds += report.duration
    line.cases += report.when == "setup"
    if report.failed:
        line.failed.append(item.name)
    elif report.skipped:
        line.skipped.append(reason(report))
    if report.when == "teardown":
        line.measured += [f"{name}: {value}" for name, value in report.user_properties]
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if PLACE is None:
        return
    rows = [{"result": line.result} | asdict(line) for line in lines.values()]
    Path(PLACE).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    unmeasured = any(line.figure and line.skipped for line in lines.values())
    if unmeasured and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def show(file: Path) -> None:
    print(f"\n{file.stem}")
    for row in json.loads(file.read_text()):
        name = row["test"].rpartition("::")[2]
        print(f"{row['seconds']:8.1f} s  {row['result']:18}  {name}")
        for text in (row["figure"], *row["measured"], *dict.fromkeys(row["skipped"])):
            if text:
                print(f"{'':12}{text}")


if __name__ == "__main__":
    for place in sys.argv[1:]:
        if Path(place).exists():
            show(Path(place))
