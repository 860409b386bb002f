"""Fixtures of the tests that need processes."""

import os
from collections.abc import Iterator

import pytest
from process import Processes


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


@pytest.fixture
def one_core() -> Iterator[None]:
    """This process, and what it starts, run on one core: who wakes another waits for it.

    On which of several the system lets threads wake makes the latency of a small request half as
    long again, for minutes, and of one server more than of another.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "figure(what): what a test did, for script/soak's table")
