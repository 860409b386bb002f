"""fastpredict: python -m fastpredict serve benchmarks/apps/fastpredict_app.py:app"""

import numpy as np

import fastpredict
from benchmarks.apps.handlers import ANSWER_ARRAYS, HANDLERS, timed

app = fastpredict.App()

for path, handler in HANDLERS.items():
    app.predict(path, dtype=np.float32, shape=None)(handler)

# /v2/models/timed as well
app.predict("/timed", name="timed", dtype=np.float32, shape=None)(timed)


@app.predict("/lent", dtype=np.float32, shape=None)
def lent(values: np.ndarray) -> np.ndarray:
    """Whether the array lies in the client's own memory, which is read-only."""
    return np.array([not values.flags.writeable], np.uint8)


def kept(array: np.ndarray):
    """A handler whose result is an array that it keeps, and promises not to touch."""
    return lambda values: fastpredict.Response(array, borrow=True)


def fresh(array: np.ndarray):
    """A handler that makes its result anew, in pages that the system must find first."""
    return lambda values: array + 1


for path, array in ANSWER_ARRAYS.items():
    app.predict(path, dtype=np.float32, shape=None)(kept(array))
    app.predict(f"/fresh{path}", dtype=np.float32, shape=None)(fresh(array))
