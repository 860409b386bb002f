"""The unmodified tritonclient with its shared memory, against a server that allows it."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rawhttp import RawClient, request

import fastpredict

triton = pytest.importorskip("tritonclient.http")
triton_aio = pytest.importorskip("tritonclient.http.aio")
from tritonclient import utils  # noqa: E402
from tritonclient.utils import shared_memory as shm  # noqa: E402

Array = npt.NDArray[Any]

SHAPE = (3000, 2500)
LARGE = np.random.default_rng(7).random(SHAPE, dtype=np.float32)
SMALL = np.arange(6, dtype=np.float32)
DEADLINE = 30.0

held, let_go = threading.Event(), threading.Event()
kept: list[Array] = []


def make_app() -> fastpredict.App:
    app = fastpredict.App()

    @app.predict("/predict", name="row_stats", dtype=np.float32, shape=SHAPE)
    def predict(image: Array) -> Array:
        return image.mean(axis=1)

    @app.predict("/echo", dtype=None, shape=None)
    def echo(array: Array) -> Array:
        return array

    @app.predict("/place", dtype=np.float32)
    def place(array: Array) -> Array:
        return np.array([array.flags.writeable, array.flags.owndata, array.flags.aligned])

    @app.predict("/hold", dtype=np.float32)
    def hold(array: Array) -> Array:
        held.set()
        assert let_go.wait(DEADLINE)
        return array * 2

    @app.predict("/keep", dtype=np.float32)
    def keep(array: Array) -> int:
        kept.append(array)
        return len(kept)

    @app.model(
        "add_sub",
        inputs={"INPUT0": ("int32", (-1,)), "INPUT1": ("int32", (-1,))},
        outputs={"OUTPUT0": ("int32", (-1,)), "OUTPUT1": ("int32", (-1,))},
    )
    def add_sub(INPUT0: Array, INPUT1: Array) -> dict[str, Array]:
        return {"OUTPUT0": INPUT0 + INPUT1, "OUTPUT1": INPUT0 - INPUT1}

    @app.model("upper", inputs={"text": ("BYTES", -1)}, outputs={"text": ("BYTES", -1)})
    def upper(text: Array) -> Array:
        return np.array([item.upper() for item in text], np.object_)

    return app


@pytest.fixture(scope="module")
def server() -> Iterator[fastpredict.Server]:
    with fastpredict.Server(make_app(), port=0, access_log=False, allow_client_shm=True) as server:
        yield server


def client_of(server: fastpredict.Server) -> Any:
    return triton.InferenceServerClient(
        server.url.removeprefix("http://"),
        concurrency=2,
        connection_timeout=DEADLINE,
        network_timeout=DEADLINE,
    )


@pytest.fixture
def client(server: fastpredict.Server) -> Iterator[Any]:
    with client_of(server) as client:
        yield client
        client.unregister_system_shared_memory()


class Region:
    """A shared memory object that tritonclient makes, registered under its own name."""

    def __init__(self, client: Any, nbytes: int) -> None:
        self.name = uuid.uuid4().hex
        self.key = f"/fastpredict-{self.name}"
        self.nbytes = nbytes
        self.handle = shm.create_shared_memory_region(self.name, self.key, nbytes)
        client.register_system_shared_memory(self.name, self.key, nbytes)

    def write(self, *arrays: Array) -> None:
        shm.set_shared_memory_region(self.handle, list(arrays))

    def read(self, dtype: Any, shape: Any, offset: int = 0) -> Array:
        """A copy: the object can't be closed while there are arrays over it."""
        found: Array = shm.get_contents_as_numpy(self.handle, dtype, shape, offset)
        return found.copy()

    def mapped(self) -> int:
        """How often this process, client and server, has it mapped."""
        return Path("/proc/self/maps").read_text().count(self.key)

    def destroy(self) -> None:
        shm.destroy_shared_memory_region(self.handle)


MakeRegion = Callable[[int], Region]


@pytest.fixture
def make(client: Any) -> Iterator[MakeRegion]:
    made: list[Region] = []

    def make(nbytes: int) -> Region:
        made.append(Region(client, nbytes))
        return made[-1]

    yield make
    for region in made:
        region.destroy()


def input_in(
    region: Region, shape: Any, datatype: str = "FP32", name: str = "INPUT0", offset: int = 0
) -> Any:
    made = triton.InferInput(name, list(shape), datatype)
    count = int(np.prod(shape)) * np.dtype(utils.triton_to_np_dtype(datatype)).itemsize
    made.set_shared_memory(region.name, count, offset)
    return made


def output_in(region: Region, nbytes: int, name: str = "OUTPUT0", offset: int = 0) -> Any:
    made = triton.InferRequestedOutput(name)
    made.set_shared_memory(region.name, nbytes, offset)
    return made


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(utils.InferenceServerException) as caught:
        call(*args, **options)
    return caught.value.status(), caught.value.message()


# ---- inputs and outputs --------------------------------------------------------------------------


def test_a_large_image_and_its_answer_go_through_shared_memory(
    client: Any, make: MakeRegion
) -> None:
    image, means = make(LARGE.nbytes), make(SHAPE[0] * 4)
    for turn in range(20):
        image.write(LARGE * turn)
        result = client.infer(
            "row_stats", [input_in(image, SHAPE)], outputs=[output_in(means, means.nbytes)]
        )
        assert result.get_output("OUTPUT0") == {
            "name": "OUTPUT0",
            "datatype": "FP32",
            "shape": [SHAPE[0]],
        }
        assert (means.read(np.float32, SHAPE[0]) == (LARGE * turn).mean(axis=1)).all()
    (statistics,) = client.get_inference_statistics("row_stats")["model_stats"]
    assert statistics["input_copies"] == {"count": 0, "bytes": 0}
    assert (image.mapped(), means.mapped()) == (2, 2)


def test_several_tensors_in_one_region_as_in_tritons_example(client: Any, make: MakeRegion) -> None:
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    one, two = np.arange(16, dtype=np.int32), np.ones(16, np.int32)
    inputs, outputs = make(128), make(128)
    inputs.write(one, two)
    result = client.infer(
        "add_sub",
        [
            input_in(inputs, [16], "INT32"),
            input_in(inputs, [16], "INT32", "INPUT1", 64),
        ],
        outputs=[output_in(outputs, 64), output_in(outputs, 64, "OUTPUT1", 64)],
    )
    assert (outputs.read(np.int32, [16]) == one + two).all()
    output = result.get_output("OUTPUT1")
    dtype = utils.triton_to_np_dtype(output["datatype"])
    assert (outputs.read(dtype, output["shape"], 64) == one - two).all()


def test_shared_memory_beside_binary_data_and_json(client: Any, make: MakeRegion) -> None:
    region = make(64)
    region.write(SMALL)
    sent = triton.InferInput("INPUT0", [6], "FP32")
    sent.set_data_from_numpy(SMALL + 1)
    for binary in (True, False):
        wanted = triton.InferRequestedOutput("OUTPUT0", binary_data=binary)
        result = client.infer("echo", [input_in(region, [6])], outputs=[wanted])
        assert (result.as_numpy("OUTPUT0") == SMALL).all()
    client.infer("echo", [sent], outputs=[output_in(region, 24, offset=40)])
    assert (region.read(np.float32, [6], 40) == SMALL + 1).all()
    assert (region.read(np.float32, [6]) == SMALL).all()


def test_what_a_client_cut_short_is_not_answered_with_zeros(client: Any, make: MakeRegion) -> None:
    """Though the handler returned its input without looking at it, so that sending reads it."""
    region = make(1 << 16)
    region.write(np.ones(1 << 14, np.float32))
    wanted = triton.InferRequestedOutput("OUTPUT0", binary_data=True)
    result = client.infer("echo", [input_in(region, [1 << 14])], outputs=[wanted])
    assert (result.as_numpy("OUTPUT0") == 1).all()
    with open(f"/dev/shm{region.key}", "r+b") as file:
        file.truncate(4096)
    for _ in range(2):
        status, sentence = refusal(
            client.infer, "echo", [input_in(region, [1 << 14])], outputs=[wanted]
        )
        assert status == "400"
        assert "cut short" in sentence


def test_bytes_go_through_shared_memory(client: Any, make: MakeRegion) -> None:
    texts = np.array([b"abc", "dé".encode(), b""], np.object_)
    data = utils.serialize_byte_tensor(texts)
    size = utils.serialized_byte_size(data)
    taken, given = make(size), make(size + 5)
    taken.write(data)
    made = triton.InferInput("text", [3], "BYTES")
    made.set_shared_memory(taken.name, size)
    client.infer("upper", [made], outputs=[output_in(given, size + 5, "text")])
    found = given.read(np.object_, [3])
    assert found.tolist() == [b"ABC", "dé".encode().upper(), b""]


def test_arrays_are_over_the_clients_memory_and_read_only(client: Any, make: MakeRegion) -> None:
    region = make(64)
    for offset, (owndata, aligned) in {0: (False, True), 8: (False, True), 3: (True, True)}.items():
        result = client.infer("place", [input_in(region, [4], offset=offset)])
        writeable, *found = result.as_numpy("OUTPUT0").tolist()
        assert found == [owndata, aligned]
        assert writeable == owndata


def test_empty_tensors_go_through_shared_memory(client: Any, make: MakeRegion) -> None:
    region = make(16)
    result = client.infer("echo", [input_in(region, [0])], outputs=[output_in(region, 0)])
    assert result.get_output("OUTPUT0")["shape"] == [0]


# ---- regions -------------------------------------------------------------------------------------


def test_status_tells_what_was_registered(client: Any, make: MakeRegion) -> None:
    region = make(64)
    described = {"name": region.name, "key": region.key, "offset": 0, "byte_size": 64}
    assert client.get_system_shared_memory_status() == [described]
    assert client.get_system_shared_memory_status(region.name) == [described]
    client.register_system_shared_memory("part of it", region.key, 8, offset=16)
    assert client.get_system_shared_memory_status("part of it")[0]["offset"] == 16
    client.unregister_system_shared_memory(region.name)
    assert [each["name"] for each in client.get_system_shared_memory_status()] == ["part of it"]
    assert "system_shared_memory" in client.get_server_metadata()["extensions"]


def test_what_cannot_be_is_refused_with_a_sentence(client: Any, make: MakeRegion) -> None:
    region = make(64)
    status, message = refusal(client.register_system_shared_memory, region.name, region.key, 64)
    assert (status, "registered already" in message) == ("400", True)
    for key, size, sentence in (
        (region.key, 65, "go beyond the 64 bytes"),
        ("/../etc/passwd", 1, "expected a name"),
        ("/fastpredict-nothing", 1, "No such file"),
    ):
        assert sentence in refusal(client.register_system_shared_memory, "x", key, size)[1]
    shared = input_in(region, [6])
    small = output_in(region, 23)
    status, message = refusal(client.infer, "echo", [shared], outputs=[small])
    assert (status, "has 24 bytes; its shared_memory_byte_size is 23" in message) == ("400", True)
    beyond = input_in(region, [6], offset=41)
    assert "go beyond the 64 bytes" in refusal(client.infer, "echo", [beyond])[1]
    shared.set_shared_memory("nothing", 24)
    assert "there is no shared memory region" in refusal(client.infer, "echo", [shared])[1]
    assert "CUDA" in refusal(client.register_cuda_shared_memory, "c", b"x", 0, 64)[1]
    assert client.get_cuda_shared_memory_status() == []


def test_a_region_in_use_outlives_its_registration(client: Any, make: MakeRegion) -> None:
    region = make(64)
    region.write(SMALL)
    held.clear()
    let_go.clear()
    call = client.async_infer(
        "hold", [input_in(region, [6])], outputs=[output_in(region, 24, offset=32)]
    )
    try:
        assert held.wait(DEADLINE)
        client.unregister_system_shared_memory(region.name)
        assert region.mapped() == 2
    finally:
        let_go.set()
    call.get_result(timeout=DEADLINE)
    assert (region.read(np.float32, [6], 32) == SMALL * 2).all()
    client.infer("place", [triton.InferInput("INPUT0", [1], "FP32").set_data_from_numpy(SMALL[:1])])
    assert region.mapped() == 1


def test_asyncio(server: fastpredict.Server, make: MakeRegion) -> None:
    async def talk() -> None:
        async with triton_aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
            region = make(64)
            region.write(SMALL)
            assert len(await client.get_system_shared_memory_status(region.name)) == 1
            await client.infer("echo", [input_in(region, [6])], outputs=[output_in(region, 24)])
            await client.unregister_system_shared_memory(region.name)
            assert await client.get_system_shared_memory_status() == []

    asyncio.run(asyncio.wait_for(talk(), DEADLINE))


# ---- who may -------------------------------------------------------------------------------------


def test_it_is_off_unless_it_was_allowed() -> None:
    with (
        fastpredict.Server(make_app(), port=0, access_log=False) as server,
        client_of(server) as client,
    ):
        shared = triton.InferInput("INPUT0", [6], "FP32")
        shared.set_shared_memory("region", 24)
        for call, args in (
            (client.register_system_shared_memory, ("r", "/r", 1)),
            (client.get_system_shared_memory_status, ()),
            (client.unregister_system_shared_memory, ()),
            (client.infer, ("echo", [shared])),
        ):
            status, message = refusal(call, *args)
            assert (status, "--allow-client-shm" in message) == ("403", True)
        assert "system_shared_memory" not in client.get_server_metadata()["extensions"]


def test_a_client_of_the_unix_socket_may(tmp_path: Path, client: Any) -> None:
    path = str(tmp_path / "s")
    local = fastpredict.Server(make_app(), uds=path, access_log=False, allow_client_shm=True)
    region = Region(client, 64)
    with local, RawClient(path) as raw:
        body = json.dumps({"key": region.key, "byte_size": 64}).encode()
        target = "/v2/systemsharedmemory/region/r/register"
        assert raw.ask(request("POST", target, body=body)).status == 200
        assert region.mapped() == 3
    region.destroy()
    assert region.mapped() == 1  # the other server's; this one's went with it


# ---- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [False, True])
def test_a_handler_that_keeps_its_array_is_found_out_by_copies(copies: bool) -> None:
    options = {"allow_client_shm": True, "copy_client_memory": copies}
    with (
        fastpredict.Server(make_app(), port=0, access_log=False, **options) as server,
        client_of(server) as client,
    ):
        region = Region(client, 24)
        region.write(SMALL)
        client.infer("keep", [input_in(region, [6])])
        region.write(SMALL * 0)
        assert (kept[0] == (SMALL if copies else SMALL * 0)).all()
        assert not kept[0].flags.writeable
        client.unregister_system_shared_memory()
        assert region.mapped() == (1 if copies else 2)
        kept.clear()
        assert region.mapped() == 1
        region.destroy()
