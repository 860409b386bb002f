"""What users write; mypy --strict must have nothing to say about it (see test_typing.py)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import fastpredict

app = fastpredict.App()
Image = npt.NDArray[np.float32]


@app.on_startup
def load() -> None: ...


@app.predict("/predict", dtype=np.float32, shape=(3000, 2500))
def predict(image: Image) -> Image:
    result: Image = image.mean(axis=1).std(axis=0)
    return result


@app.predict("/rows", dtype="float32", shape=(-1, 3))
def rows(image: Image, request: fastpredict.Request) -> fastpredict.Response:
    gone: bool = request.is_disconnected()
    body: memoryview = request.body
    return fastpredict.Response(image, 200, {"X-Gone": str(gone), "X-Bytes": str(body.nbytes)})


@app.predict("/any")
def anything(array: npt.NDArray[np.generic]) -> tuple[dict[str, int], int]:
    return {"size": array.size}, 200


direct: Image = predict(np.zeros((3000, 2500), np.float32))  # decorators change nothing


def main() -> None:
    with fastpredict.Server(app, port=0, threads=2, max_request_body_size="64M") as server:
        url: str = server.url
        print(url, server.stats()["queued"])
    fastpredict.serve(app, host="127.0.0.1", timeout_queue=2.5, log_level="info")
