"""A predict function that people have asked about: statistics of an image's rows.

    python -m fastpredict serve examples/row_stats.py:app
    python examples/do_request.py

The body is float32 values in the machine's byte order: a whole image of 3000 x 2500, or one value,
which stands for an image of that brightness. Both do the same work, so the difference in time is
what it costs to send 30 MB.
"""

from typing import Any

import numpy as np

import fastpredict

SHAPE = (3000, 2500)

app = fastpredict.App()


@app.predict("/predict", dtype=np.float32, shape=None)
def predict(values: np.ndarray) -> Any:
    """The standard deviation of the means of the rows, as float32.

    `values` is 1-D and lies where the body was received; reshaping it copies nothing.
    """
    if values.size == 1:
        image = np.zeros(SHAPE, dtype=np.float32) + values[0]
    elif values.size == SHAPE[0] * SHAPE[1]:
        image = values.reshape(SHAPE)
    else:
        return {"error": f"expected 1 or {SHAPE[0] * SHAPE[1]} values, got {values.size}"}, 400
    return image.mean(axis=1).std(axis=0)
