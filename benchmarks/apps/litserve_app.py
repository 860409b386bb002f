"""LitServe: python -m benchmarks.apps.litserve_app PORT

It takes forms and JSON only: the body comes as the file of a form. It has no raw answers either.
"""

import sys
from typing import Any

import litserve
from fastapi import Request, Response

from benchmarks.apps.handlers import from_bytes


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Request) -> bytes:
        return request["file"].file.read()

    def predict(self, body: bytes) -> bytes:
        return from_bytes(self.api_path, body)

    def encode_response(self, output: bytes) -> Any:
        return Response(output)


if __name__ == "__main__":
    apis = [Api(api_path="/predict"), Api(api_path="/seed")]
    server = litserve.LitServer(apis, accelerator="cpu", timeout=60)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
