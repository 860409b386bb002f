"""The client of the question: python -m benchmarks.requests_client URL BODY_BYTES COUNT

requests.post, and so a new connection for each; prints the ms of each as JSON.
"""

import json
import sys
import time

import numpy as np
import requests

TIMEOUT_S = 60
WARMUP = 1


def main(url: str, body_bytes: int, count: int) -> None:
    body = np.random.default_rng(0).random(body_bytes // 4, dtype=np.float32).tobytes()
    times = []
    for _ in range(WARMUP + count):
        start = time.perf_counter()
        response = requests.post(url, data=body, timeout=TIMEOUT_S)
        times.append((time.perf_counter() - start) * 1000)
        response.raise_for_status()
        if len(response.content) != 4:
            sys.exit(f"expected one float32, got {len(response.content)} bytes")
    print(json.dumps(times[WARMUP:]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
