"""The Flask application of the question that this project answers, as one writes it for any server.

    python -m fastpredict serve examples/basic_flask_app.py
    python examples/do_request.py

The body is float32 values in the machine's byte order: a whole image of 3000 x 2500, or one value,
which stands for an image of that brightness. Nothing here knows of fastpredict, and under it
request.data is the memory that the body was received into.
"""

import numpy as np
from flask import Flask, request

SHAPE = (3000, 2500)

app = Flask(__name__)


@app.post("/predict")
def predict():
    """The standard deviation of the means of the rows, as the 4 bytes of a float32."""
    values = np.frombuffer(request.data, dtype=np.float32)
    if values.size == 1:
        image = np.zeros(SHAPE, dtype=np.float32) + values[0]
    elif values.size == SHAPE[0] * SHAPE[1]:
        image = values.reshape(SHAPE)
    else:
        return {"error": f"expected 1 or {SHAPE[0] * SHAPE[1]} values, got {values.size}"}, 400
    return image.mean(axis=1).std(axis=0).tobytes()


if __name__ == "__main__":
    app.run(port=8000)
