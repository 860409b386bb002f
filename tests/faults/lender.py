"""Models and clients for tests of memory that clients lend. Not a test.

Served by ``python -m fastpredict serve lender.py --allow-client-shm``. As a program it is a client
that registers a region and asks for the model "double" until it is killed: lender.py ADDRESS NAME.
It says each step.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import fastpredict

app = fastpredict.App()

NBYTES = 4 << 20
SHAPE = (NBYTES // 4,)


@app.predict("/double", dtype=np.float32, shape=(-1,))
def double(array: np.ndarray) -> np.ndarray:
    return array * 2


@app.predict("/first", dtype=np.float32, shape=(-1,))
def first(array: np.ndarray) -> float:
    """Reads one item of each page, over and over, until it has met a cut."""
    until, whole = time.monotonic() + 2, array[::1024].sum()
    while (total := array[::1024].sum()) == whole and time.monotonic() < until:
        pass
    return float(total)


class Lender:
    """A client with one region: an input, and behind it room for the output."""

    def __init__(self, address: str, name: str) -> None:
        import tritonclient.http as triton
        from tritonclient.utils import shared_memory

        self.triton, self.shared_memory = triton, shared_memory
        self.client = triton.InferenceServerClient(
            address, connection_timeout=20.0, network_timeout=20.0
        )
        self.name, self.key = name, f"/fastpredict-{name}"
        self.path = "/dev/shm" + self.key
        self.handle = shared_memory.create_shared_memory_region(name, self.key, 2 * NBYTES)
        self.register()

    def register(self) -> None:
        self.client.unregister_system_shared_memory(self.name)
        self.client.register_system_shared_memory(self.name, self.key, 2 * NBYTES)

    def infer(self, model: str = "double") -> None:
        taken = self.triton.InferInput("INPUT0", list(SHAPE), "FP32")
        taken.set_shared_memory(self.name, NBYTES)
        given = self.triton.InferRequestedOutput("OUTPUT0")
        given.set_shared_memory(self.name, NBYTES, NBYTES)
        self.client.infer(model, [taken], outputs=[given])

    def write(self, value: float) -> None:
        self.shared_memory.set_shared_memory_region(
            self.handle, [np.full(SHAPE, value, np.float32)]
        )

    def output(self) -> np.ndarray:
        """A copy of it."""
        return self.shared_memory.get_contents_as_numpy(
            self.handle, np.float32, SHAPE, NBYTES
        ).copy()

    def close(self) -> None:
        self.client.close()
        self.shared_memory.destroy_shared_memory_region(self.handle)


def main() -> None:
    lender = Lender(*sys.argv[1:3])
    print("registered", flush=True)
    for turn in range(1_000_000):
        lender.write(turn)
        print("written", flush=True)
        lender.infer()
        assert (lender.output() == 2 * turn).all()
        print("answered", flush=True)


if __name__ == "__main__":
    main()
