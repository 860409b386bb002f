"""How often, and how long: small by default, for script/test; script/soak multiplies the figures.

FASTPREDICT_SOAK is the factor. It is read once, when the tests are collected.
"""

from __future__ import annotations

import os

import pytest

FACTOR = float(os.environ.get("FASTPREDICT_SOAK", "1"))

#: With this factor every figure that has a full number has reached it.
FULL = FACTOR >= 1000


def times(count: int, most: int | None = None) -> int:
    """So many, times the factor; no more than the full number."""
    scaled = max(1, round(count * FACTOR))
    return scaled if most is None else min(scaled, most)


def seconds(few: float, most: float) -> float:
    """As times(), of a time."""
    return min(few * FACTOR, most)


def figure(what: str) -> pytest.MarkDecorator:
    """Marks a test with what it did, with its numbers: a line of script/soak's table."""
    return pytest.mark.figure(what)
