"""Starts and stops in one process leave nothing behind."""

from __future__ import annotations

import json

import pytest
from process import FRUGAL, HERE, PYTHON, Processes
from soak import figure, times

RESTARTS = times(200, most=1000)

#: Of a program that has started and stopped 30 servers before: what the allocator may yet take.
SLACK_BYTES = 1_000_000


@figure(f"{RESTARTS:,} starts and stops in one process")
@pytest.mark.timeout(60 + RESTARTS)
def test_starts_and_stops_leave_no_descriptor_thread_or_memory(processes: Processes) -> None:
    process = processes.start(PYTHON, HERE / "restarting.py", str(RESTARTS), env=FRUGAL)
    process.ended(0, timeout=60 + RESTARTS)
    first, last = json.loads(process.out.text)
    assert last["descriptors"] == first["descriptors"]
    assert last["threads"] == first["threads"]
    assert last["resident_bytes"] <= first["resident_bytes"] + SLACK_BYTES, (first, last)
