"""MLServer: python -m benchmarks.apps.mlserver_app PORT. The model `timed`."""

import asyncio
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.apps.handlers import timed


class Timed(MLModel):
    """The same handler as everywhere, with the array as MLServer has it."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        result = timed(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("OUTPUT0", result)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main(port: int) -> None:
    # No process for the model: what comes would have to be sent on to it. Any port for gRPC.
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=0,
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
    )
    implementation = "benchmarks.apps.mlserver_app.Timed"
    await MLServer(settings).start([ModelSettings(name="timed", implementation=implementation)])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
