"""The seed's handler with no server: python -m benchmarks.apps.alone COUNT. Prints ms as JSON."""

import json
import sys
import time

import numpy as np

from benchmarks.apps.handlers import SHAPE, seed


def main(count: int) -> None:
    values = np.random.default_rng(0).random(SHAPE[0] * SHAPE[1], dtype=np.float32)
    seed(values)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        seed(values)
        times.append((time.perf_counter() - start) * 1000)
    print(json.dumps(times))


if __name__ == "__main__":
    main(int(sys.argv[1]))
