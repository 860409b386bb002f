"""KServe's server: python -m benchmarks.apps.kserve_app PORT. The model `timed`, REST only."""

import sys

import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.apps.handlers import timed

# It listens on all addresses, and has no option for another.
_Config = uvicorn.Config
uvicorn.Config = lambda *args, **options: _Config(*args, **{**options, "host": "127.0.0.1"})


class Timed(Model):
    """The same handler as everywhere, with the array as KServe has it."""

    def __init__(self) -> None:
        super().__init__("timed")
        self.ready = True

    def predict(self, payload: InferRequest, *_: object, **__: object) -> InferResponse:
        result = timed(payload.inputs[0].as_numpy())
        output = InferOutput("OUTPUT0", list(result.shape), "FP64")
        output.set_data_from_numpy(result, binary_data=False)
        return InferResponse("1", self.name, [output])


if __name__ == "__main__":
    server = ModelServer(
        http_port=int(sys.argv[1]), enable_grpc=False, enable_latency_logging=False
    )
    server.start([Timed()])
