"""For applications that stream: a part that is made only when a test says so."""

from __future__ import annotations

import os
import time


def wait_for(path: str) -> None:
    """Until a test has made this file."""
    until = time.monotonic() + 20
    while not os.path.exists(path) and time.monotonic() < until:
        time.sleep(0.005)
