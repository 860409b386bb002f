"""Fixtures of the tests that need processes."""

from collections.abc import Iterator

import pytest
from process import Processes


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started
