"""Python's memory runs out, at every allocation that _core makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_no_allocation_that_fails_is_more_than_a_memory_error() -> None:
    pytest.importorskip("_testcapi", reason="this Python can't make its allocations fail")
    folders = [str(HERE), str(HERE.parent / "http"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, HERE / "starving.py", "80"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONDEVMODE": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100  # many did run out
