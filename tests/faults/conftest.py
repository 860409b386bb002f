"""Fixtures of the tests that need processes."""

from collections.abc import Iterator

import pytest
from process import Processes


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "figure(what): what a test did, for script/soak's table")
