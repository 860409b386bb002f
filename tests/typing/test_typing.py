"""The package is typed as its users see it: mypy is the judge."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def complaints(file: str) -> set[int]:
    """Lines of the file that mypy finds fault with."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(HERE / file)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, cwd=HERE.parents[1], check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(line) for line in re.findall(rf"{file}:(\d+): error", done.stdout)}


def test_right_use_has_no_complaint() -> None:
    assert complaints("right.py") == set()


def test_each_mistake_is_found() -> None:
    lines = (HERE / "wrong.py").read_text().splitlines()
    assert complaints("wrong.py") == {
        number for number, line in enumerate(lines, 1) if line.endswith("# wrong")
    }
