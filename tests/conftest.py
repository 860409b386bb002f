"""What holds for every Python test: the world outside the test changes nothing in it."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> Iterator[None]:
    """No option of the command set from outside, and no proxy between a test and its server.

    For servers in processes of their own as well: they inherit it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("FASTPREDICT_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        yield
