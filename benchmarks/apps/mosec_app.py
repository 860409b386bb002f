"""mosec: python -m benchmarks.apps.mosec_app --port PORT. Bytes in, bytes out, one worker each."""

from mosec import Runtime, Server, Worker

from benchmarks.apps.handlers import from_bytes


class Plain(Worker):
    """A worker that is sent bytes, not JSON."""

    path = "/predict"

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> bytes:
        return from_bytes(self.path, data)


class Seed(Plain):
    path = "/seed"


if __name__ == "__main__":
    server = Server()
    server.register_runtime({worker.path: [Runtime(worker)] for worker in (Plain, Seed)})
    server.run()
