"""Fixtures of the raw HTTP tests."""

from collections.abc import Iterator

import pytest
from coreserver import CoreServer, Servers


@pytest.fixture
def core_server() -> Iterator[Servers]:
    """Makes servers of the test's own: ``core_server(handler, **options)``."""
    with Servers() as servers:
        yield servers


@pytest.fixture(scope="module")
def echo_server() -> Iterator[CoreServer]:
    """One server for all tests of a file, which answers with what it was sent."""
    with Servers() as servers:
        yield servers(max_queued_requests=1024)
