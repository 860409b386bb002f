"""The unmodified tritonclient, blocking and asyncio, against an app's models."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastpredict

triton = pytest.importorskip("tritonclient.http")
triton_aio = pytest.importorskip("tritonclient.http.aio")
ml_dtypes = pytest.importorskip("ml_dtypes")  # tritonclient requires it
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

Array = npt.NDArray[Any]

SHAPE = (3000, 2500)
LARGE = np.random.default_rng(7).random(SHAPE, dtype=np.float32)
SMALL = np.arange(6, dtype=np.float32)
DEADLINE = 30.0

held, let_go = threading.Event(), threading.Event()


def make_app() -> fastpredict.App:
    app = fastpredict.App()

    @app.predict("/predict", name="row_stats", dtype=np.float32, shape=SHAPE)
    def predict(image: Array) -> Array:
        return image.mean(axis=1)

    @app.predict("/echo", dtype=None, shape=None)
    def echo(array: Array) -> Array:
        return array

    @app.predict("/place", dtype=np.float32)
    def place(array: Array) -> int:
        return array.ctypes.data % 64

    @app.predict("/fail", dtype=np.float32)
    def fail(array: Array) -> None:
        raise ValueError("on purpose")

    @app.predict("/hold", dtype=np.float32)
    def hold(array: Array) -> Array:
        held.set()
        assert let_go.wait(DEADLINE)
        return array

    @app.model(
        "add_sub",
        inputs={"INPUT0": ("int32", (-1,)), "INPUT1": ("int32", (-1,))},
        outputs={"OUTPUT0": ("int32", (-1,)), "OUTPUT1": ("int32", (-1,))},
    )
    def add_sub(INPUT0: Array, INPUT1: Array) -> dict[str, Array]:
        return {"OUTPUT0": INPUT0 + INPUT1, "OUTPUT1": INPUT0 - INPUT1}

    @app.model(
        "weigh",
        inputs={"flags": ("uint8", (-1,)), "weights": ("float64", (-1,))},
        outputs={"sum": ("float64", ())},
    )
    def weigh(flags: Array, weights: Array) -> np.float64:
        return weights.sum()

    @app.model("upper", inputs={"text": ("BYTES", -1)}, outputs={"text": ("BYTES", -1)})
    def upper(text: Array) -> Array:
        return np.array([item.upper() for item in text], np.object_)

    return app


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with fastpredict.Server(make_app(), port=0, access_log=False) as server:
        yield server.url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(
        address, concurrency=4, connection_timeout=DEADLINE, network_timeout=DEADLINE
    ) as client:
        yield client


def input_of(array: Array, name: str = "INPUT0", binary: bool = True) -> Any:
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return made.set_data_from_numpy(array, binary_data=binary)


def output_of(name: str = "OUTPUT0", **options: Any) -> Any:
    return triton.InferRequestedOutput(name, **options)


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call(*args, **options)
    return caught.value.status(), caught.value.message()


# ---- blocking ------------------------------------------------------------------------------------


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("row_stats")
    assert client.is_model_ready("row_stats", "1")
    assert not client.is_model_ready("row_stats", "2")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["name"] == "fastpredict"
    metadata = client.get_model_metadata("row_stats")
    assert metadata["inputs"] == [{"name": "INPUT0", "datatype": "FP32", "shape": list(SHAPE)}]
    index = client.get_model_repository_index()
    assert {each["name"]: each["state"] for each in index} == dict.fromkeys(
        ("row_stats", "echo", "place", "fail", "hold", "add_sub", "weigh", "upper"), "READY"
    )


def test_a_large_image_is_answered_and_never_copied(client: Any) -> None:
    before = statistics(client, "row_stats")
    for version in ("", "1"):
        result = client.infer("row_stats", [input_of(LARGE)], model_version=version, request_id="7")
        assert (result.as_numpy("OUTPUT0") == LARGE.mean(axis=1)).all()
        assert result.get_response()["id"] == "7"
    after = statistics(client, "row_stats")
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["input_copies"] == {"count": 0, "bytes": 0}
    assert after["inference_stats"]["compute_infer"]["ns"] > 0


def statistics(client: Any, name: str) -> Any:
    (found,) = client.get_inference_statistics(name)["model_stats"]
    return found


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
)
@pytest.mark.parametrize("shape", [(6,), (2, 3), (0,), (2, 0, 3), (1, 1, 1, 6)])
def test_every_datatype_as_binary_data_and_as_json(
    client: Any, dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    for binary_in in (True, False):
        for binary_out in (True, False):
            result = client.infer(
                "echo",
                [input_of(array, binary=binary_in)],
                outputs=[output_of(binary_data=binary_out)],
            )
            found = result.as_numpy("OUTPUT0")
            assert found.shape == shape
            assert (found == array).all()
            if array.size:
                assert found.dtype == array.dtype


def test_bf16_goes_as_it_is(client: Any) -> None:
    array = np.array([[1.0, -2.5], [0.0, 3e38]], dtype=ml_dtypes.bfloat16)
    for outputs in (None, [output_of(binary_data=False)]):
        found = client.infer("echo", [input_of(array)], outputs=outputs).as_numpy("OUTPUT0")
        assert (found.astype(np.float32) == array.astype(np.float32)).all()


def test_not_a_number_survives_as_binary_data_and_is_null_in_json(client: Any) -> None:
    array = np.array([np.nan, np.inf, 1], np.float32)
    found = client.infer("echo", [input_of(array)]).as_numpy("OUTPUT0")
    assert found.tobytes() == array.tobytes()
    result = client.infer("echo", [input_of(array)], outputs=[output_of(binary_data=False)])
    assert result.get_output("OUTPUT0")["data"] == [None, None, 1]
    status, message = refusal(client.infer, "echo", [input_of(array, binary=False)])
    assert status == "400"
    assert "NaN" in message


@pytest.mark.parametrize("binary", [True, False])
def test_bytes(client: Any, binary: bool) -> None:
    array = np.array([b"abc", "dé".encode(), b""], np.object_)
    result = client.infer(
        "upper",
        [input_of(array, "text", binary)],
        outputs=[output_of("text", binary_data=binary)],
    )
    expected = [b"ABC", "dé".encode().upper(), b""]
    found = [each if binary else each.encode() for each in result.as_numpy("text").tolist()]
    assert found == expected


def test_several_inputs_and_outputs_in_any_order_and_form(client: Any) -> None:
    one, two = np.arange(16, dtype=np.int32), np.ones(16, np.int32)
    inputs = [input_of(two, "INPUT1"), input_of(one, "INPUT0", binary=False)]
    for outputs in (
        None,
        [output_of("OUTPUT1"), output_of("OUTPUT0")],
        [output_of("OUTPUT0", binary_data=False), output_of("OUTPUT1")],
    ):
        result = client.infer("add_sub", inputs, outputs=outputs)
        assert (result.as_numpy("OUTPUT0") == one + two).all()
        assert (result.as_numpy("OUTPUT1") == one - two).all()
    result = client.infer("add_sub", inputs, outputs=[output_of("OUTPUT1")])
    assert (result.as_numpy("OUTPUT1") == one - two).all()
    assert result.as_numpy("OUTPUT0") is None


def test_only_an_input_that_falls_unaligned_is_copied_and_counted(client: Any) -> None:
    weights = np.arange(4, dtype=np.float64)
    for count, copied in ((8, 0), (3, 1)):
        before = statistics(client, "weigh")["input_copies"]["bytes"]
        inputs = [input_of(np.ones(count, np.uint8), "flags"), input_of(weights, "weights")]
        assert client.infer("weigh", inputs).as_numpy("sum").tolist() == weights.sum()
        after = statistics(client, "weigh")["input_copies"]["bytes"]
        assert after - before == copied * weights.nbytes


def test_the_first_tensor_is_aligned_whatever_the_length_of_the_json(client: Any) -> None:
    for length in range(1, 70):
        result = client.infer("place", [input_of(SMALL)], request_id="x" * length)
        assert result.as_numpy("OUTPUT0") == 0
    assert statistics(client, "place")["input_copies"]["count"] == 0


def test_parameters_of_the_client_change_nothing(client: Any) -> None:
    result = client.infer(
        "echo",
        [input_of(SMALL)],
        sequence_id=5,
        sequence_start=True,
        priority=3,
        timeout=1000,
        parameters={"mine": "x"},
        response_compression_algorithm="gzip",
    )
    assert (result.as_numpy("OUTPUT0") == SMALL).all()


def test_what_is_not_served_is_refused_with_a_sentence(client: Any) -> None:
    wrong = input_of(SMALL)
    assert refusal(client.infer, "nothing", [wrong])[0] == "404"
    assert refusal(client.infer, "row_stats", [wrong], model_version="2")[0] == "404"
    assert refusal(client.infer, "nothing", [input_of(LARGE)])[0] == "404", "however large"
    assert "did you mean 'row_stats'" in refusal(client.get_model_metadata, "row_stat")[1]
    status, message = refusal(client.infer, "row_stats", [wrong])
    assert (status, "the model takes (3000, 2500)" in message) == ("400", True)
    for options in (
        {"outputs": [output_of("OUTPUT9")]},
        {"outputs": [output_of(class_count=3)]},
    ):
        assert refusal(client.infer, "echo", [wrong], **options)[0] == "400"
    for coding in ("gzip", "deflate"):
        options = {"request_compression_algorithm": coding}
        assert refusal(client.infer, "echo", [wrong], **options)[0] == "415"
    status, message = refusal(client.infer, "fail", [wrong])
    assert status == "500"
    assert "ValueError" in message
    assert "on purpose" not in message
    assert refusal(client.load_model, "echo")[0] == "400"
    assert client.infer("echo", [wrong]).as_numpy("OUTPUT0").size == 6


def test_shared_memory_that_is_not_allowed_is_refused(client: Any) -> None:
    shared = triton.InferInput("INPUT0", [6], "FP32")
    shared.set_shared_memory("region", 24)
    assert "shared memory" in refusal(client.infer, "echo", [shared])[1]
    wanted = output_of()
    wanted.set_shared_memory("region", 24)
    assert "shared memory" in refusal(client.infer, "echo", [input_of(SMALL)], outputs=[wanted])[1]


def test_requests_side_by_side(client: Any) -> None:
    arrays = [np.full(1000, number, np.float32) for number in range(20)]
    calls = [client.async_infer("echo", [input_of(array)]) for array in arrays]
    for array, call in zip(arrays, calls, strict=True):
        found = call.get_result(timeout=DEADLINE).as_numpy("OUTPUT0")
        assert (found == array).all()


def test_control_answers_while_a_predict_runs(client: Any) -> None:
    call = client.async_infer("hold", [input_of(SMALL)])
    try:
        assert held.wait(DEADLINE)
        assert client.is_server_live()
        assert client.get_model_metadata("hold")["name"] == "hold"
        assert statistics(client, "hold")["inference_count"] == 0
    finally:
        let_go.set()
    assert call.get_result(timeout=DEADLINE).as_numpy("OUTPUT0").size == 6


def test_the_time_in_the_queue_is_counted(client: Any) -> None:
    def queue_ns() -> int:
        return int(statistics(client, "echo")["inference_stats"]["queue"]["ns"])

    held.clear()
    let_go.clear()
    before = queue_ns()
    running = client.async_infer("hold", [input_of(SMALL)])
    try:
        assert held.wait(DEADLINE)
        waiting = client.async_infer("echo", [input_of(SMALL)])
        time.sleep(0.3)
    finally:
        let_go.set()
    assert running.get_result(timeout=DEADLINE).as_numpy("OUTPUT0").size == 6
    assert waiting.get_result(timeout=DEADLINE).as_numpy("OUTPUT0").size == 6
    assert 0.2e9 < queue_ns() - before < DEADLINE * 1e9


def test_the_clients_own_halves_understand_each_other() -> None:
    body, length = triton.InferenceServerClient.generate_request_body([input_of(SMALL)])
    assert body[length:] == SMALL.tobytes()


# ---- asyncio -------------------------------------------------------------------------------------


def test_asyncio(address: str) -> None:
    async def talk() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("echo")
            assert (await client.get_model_metadata("echo"))["versions"] == ["1"]
            assert len(await client.get_model_repository_index()) == 8
            arrays = [np.full((3, number), number, np.int16) for number in range(10)]
            results = await asyncio.gather(
                *(client.infer("echo", [input_of(array)]) for array in arrays)
            )
            for array, result in zip(arrays, results, strict=True):
                assert (result.as_numpy("OUTPUT0") == array).all()
            result = await client.infer("row_stats", [input_of(LARGE)])
            assert (result.as_numpy("OUTPUT0") == LARGE.mean(axis=1)).all()
            result = await client.infer(
                "echo", [input_of(SMALL, binary=False)], outputs=[output_of(binary_data=False)]
            )
            assert (result.as_numpy("OUTPUT0") == SMALL).all()
            with pytest.raises(InferenceServerException, match="404"):
                await client.infer("nothing", [input_of(SMALL)])

    asyncio.run(asyncio.wait_for(talk(), DEADLINE))
