"""How often, and how long: small by default, for script/test; a soak multiplies the figures.

FASTPREDICT_SOAK is the factor. It is read once, when the tests are collected.
"""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("FASTPREDICT_SOAK", "1"))


def times(count: int, most: int | None = None) -> int:
    """So many, times the factor."""
    scaled = max(1, round(count * FACTOR))
    return scaled if most is None else min(scaled, most)
