"""The benchmarks' table and figures, on points that were never measured."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.figures import figures
from benchmarks.results import Results, read
from benchmarks.table import WIDTH, number, render

POSTS = {
    "raw": {"4 B": 0.03, "30 MB": 6.0, "60 MB": 12.0, "200 MB": 40.0},
    "fastpredict": {"4 B": 0.04, "30 MB": 6.3, "60 MB": 15.0, "200 MB": 44.0, "30 MB seed": 8.0},
    "bjoern": {"4 B": 0.1, "30 MB": 8.4, "60 MB": 60.0, "200 MB": 240.0, "30 MB seed": 9.0},
    "bjoern-tuned": {"4 B": 0.1, "30 MB": 7.0, "60 MB": 14.0},
    "handler": {"30 MB seed": 1.6},
}


def canned() -> Results:
    results = Results(
        labels={name: name for name in POSTS},
        kinds={"fastpredict": "ours", "bjoern": "stock", "bjoern-tuned": "tuned"},
        machine={"cpu": "a processor of a long name " * 8},
        versions={"python": "3.11"},
    )
    for server, rows in POSTS.items():
        for row, value in rows.items():
            for factor in (0.9, 1.0, 3.0):  # the median counts, not the mean
                results.add("post", row, server, "ms", value * factor)
    for value in (6.0, 6.1, 9.6):
        results.add("fresh", "30 MB", "fastpredict", "ms", value)
    results.fail("installing", "bjoern", "no compiler " * 20)
    return results


def by_name() -> dict[str, tuple[float, bool]]:
    return {each.what: (each.ratio, each.met) for each in figures(canned())}


@pytest.mark.parametrize(
    ("what", "ratio", "met"),
    [
        ("30 MB POST, trivial handler", 6.3 / 6.0, True),
        ("60 MB POST, trivial handler", 15.0 / 12.0, False),
        ("30 MB, the seed's handler", 8.0 / (6.0 + 1.6 + 0.5), True),
        ("30 MB, best stock peer", 8.4 / 6.3, True),
        ("30 MB seed, best stock peer", 9.0 / 8.0, False),
        ("60 MB, best tuned peer", 14.0 / 15.0, False),
        ("4 B, one connection, log on", 0.4, True),
        ("3 fresh processes, 30 MB", 9.6 / 6.0, False),
    ],
)
def test_a_figure_compares_what_its_target_names(what: str, ratio: float, met: bool) -> None:
    assert by_name()[what] == (pytest.approx(ratio), met)


def test_a_figure_without_points_is_left_out() -> None:
    assert "/livez while the GIL is held" not in by_name()
    assert figures(Results()) == []


def test_the_table_is_no_wider_than_it_says() -> None:
    results = canned()
    lines = render(results, figures(results)).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("bjoern ") and "8.40 ×1.33" in line for line in lines)
    assert any("no compiler" in line for line in lines)


def test_results_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    results = canned()
    results.save(tmp_path / "results.json", [])
    assert read(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    ("value", "text"), [(0.0361, "0.036"), (5.678, "5.68"), (12.34, "12.3"), (80123.4, "80,123")]
)
def test_numbers_show_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text
