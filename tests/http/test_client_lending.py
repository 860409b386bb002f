"""The clients and memory that they lend, against fastpredict's server in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_both import Kind, both
from process import PYTHON, Process, wait_until

from fastpredict.client import Client
from fastpredict.client_async import AsyncClient
from fastpredict.client_errors import (
    BadInput,
    ClientConnectionError,
    ClientTimeoutError,
    HandlerError,
)

SERVER = Path(__file__).with_name("lent_server.py")
ROWS = 800  # of 4000 bytes: 3.2 MB
RANDOM = np.random.default_rng(20).random((ROWS, 1000), dtype=np.float32)


def mappings_of(name: str) -> int:
    return sum(name in line for line in Path("/proc/self/maps").read_text().splitlines())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Peer(Process):
    """The server's process."""

    def __init__(self, path: Path) -> None:
        super().__init__(PYTHON, SERVER, path)
        self.tcp, self.unix = self.says().split()

    def says(self) -> str:
        return self.out.next_line().strip()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    process = Peer(tmp_path_factory.mktemp("lent") / "socket")
    yield process
    process.end()


@pytest.fixture
def own_peer(tmp_path: Path) -> Iterator[Peer]:
    """One that a test may kill."""
    process = Peer(tmp_path / "socket")
    yield process
    process.end()


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """No memory stays mapped and no descriptor open once clients and arrays have gone."""
    descriptors = open_descriptors()
    yield
    gc.collect()
    assert mappings_of("memfd:fastpredict") == 0
    assert open_descriptors() <= descriptors


def filled(client: Any, array: np.ndarray = RANDOM) -> np.ndarray:
    lent: np.ndarray = client.empty(array.shape, array.dtype)
    lent[...] = array
    return lent


def live(client: Any) -> int:
    """Blocks in use; an exception that a task has raised is in a cycle, with all its frames."""
    gc.collect()
    core = getattr(client, "_client", client)._core
    return sum(segment.live for segment in core.lender.arena._index[1])


# ---- what comes there and back -------------------------------------------------------------------


@both
def test_arrays_come_there_and_back_whatever_memory_they_lie_in(kind: Kind, peer: Peer) -> None:
    with kind(peer.unix) as client:
        lent = filled(client)
        for array in (RANDOM, lent, lent[100:700], lent[::-1], lent.T[:, :0], lent[:, 5:-5]):
            for _ in range(3):
                answer = client.predict(array, "/lent")
                octets = np.ascontiguousarray(array)
                assert answer[1] == zlib.crc32(octets)
                assert answer[0] == (array.nbytes > 0)
                back = client.predict(array, "/echo")
                assert back.flags.writeable
                assert back.tobytes() == octets.tobytes()
        del lent, array, back
        assert live(client) == 0


@both
def test_small_arrays_and_those_of_clients_that_dont_want_it_are_sent(
    kind: Kind, peer: Peer
) -> None:
    for url, options in (
        (peer.unix, {"memfd": False}),
        (peer.tcp, {}),
        (peer.tcp, {"memfd": False}),
    ):
        with kind(url, **options) as client:
            lent = filled(client)
            assert client.predict(lent, "/lent").tolist() == [0, zlib.crc32(RANDOM)]
            assert client.predict(lent, "/double").tobytes() == (RANDOM * 2).tobytes()
    with kind(peer.unix) as client:
        lent = filled(client, RANDOM[:10])
        assert client.predict(lent, "/lent")[0] == 0
    with kind(peer.unix, memfd=True) as client:
        lent = filled(client, RANDOM[:10])
        assert client.predict(lent, "/lent")[0] == 1
        assert client.predict(RANDOM[:1], "/lent")[0] == 1
        assert client.predict(RANDOM[:0], "/lent")[0] == 0


def test_memfd_can_only_be_insisted_on_where_it_is_possible(peer: Peer) -> None:
    with pytest.raises(ValueError, match="unix"):
        Client(peer.tcp, memfd=True)
    with pytest.raises(TypeError, match="memfd"):
        Client(peer.unix, memfd="yes")  # type: ignore[arg-type]


@both
def test_results_are_the_callers_alone(kind: Kind, peer: Peer) -> None:
    with kind(peer.unix) as client:
        lent = filled(client)
        first = client.predict(lent, "/double")
        second = client.predict(lent[: ROWS // 2], "/double")
        third = client.predict(lent, "/double")
        first[...] = 0
        np.testing.assert_array_equal(third, RANDOM * 2)
        np.testing.assert_array_equal(second, RANDOM[: ROWS // 2] * 2)
        assert first.ctypes.data % 64 == 0
    np.testing.assert_array_equal(third, RANDOM * 2)  # after the client has been closed, too


@both
def test_out_takes_the_answer_in_any_memory(kind: Kind, peer: Peer) -> None:
    with kind(peer.unix) as client:
        lent = filled(client)
        for out in (
            np.zeros_like(RANDOM),
            client.empty(RANDOM.shape),
            client.empty((ROWS + 1, 1000))[1:],
        ):
            for _ in range(2):
                out[...] = 0
                assert client.predict(lent, "/double", out=out) is out
                np.testing.assert_array_equal(out, RANDOM * 2)
        assert client.predict(lent, "/double", out=lent) is lent
        np.testing.assert_array_equal(lent, RANDOM * 2)
        assert client.predict(RANDOM[:1], "/double", out=lent[:1]).base is not None


@both
def test_npy_and_json_answers_and_errors_come_as_ever(kind: Kind, peer: Peer) -> None:
    with kind(peer.unix) as client:
        lent = filled(client)
        for _ in range(2):
            back = client.predict(lent, "/echo", npy=True)
            np.testing.assert_array_equal(back.reshape(RANDOM.shape), RANDOM)
            assert client.predict(lent, "/text").tolist() == [1, 2, RANDOM.nbytes]
            with pytest.raises(HandlerError):
                client.predict(lent, "/fail")
            with pytest.raises(BadInput, match="nothing is served"):
                client.predict(lent, "/nowhere")
        del lent, back
        assert live(client) == 0


@both
def test_models_are_called_with_tensors_in_memory(kind: Kind, peer: Peer) -> None:
    flat = RANDOM.ravel()
    with kind(peer.unix) as client:
        lent = filled(client, flat)
        for array in (lent, flat, lent[1000:], lent[:500_000]):
            for _ in range(2):
                answers = client.infer("negate", {"a": array})
                np.testing.assert_array_equal(answers["b"], -array)
                assert answers["lent"].tolist() == [True]
        for _ in range(2):
            np.testing.assert_array_equal(
                client.infer("add", {"a": lent, "b": flat})["sum"], flat * 2
            )
        assert getattr(client, "_client", client)._core.lender.arena.find(
            answers["b"].view(np.uint8)
        ), "the tensor was copied out of its room"
        del lent, array, answers
        assert live(client) == 0


def test_one_array_goes_to_a_model_from_many_threads(peer: Peer) -> None:
    flat = RANDOM.ravel()
    with Client(peer.unix) as client, ThreadPoolExecutor(6) as threads:
        lent = filled(client, flat)

        def call(number: int) -> None:
            name = "x" * number  # JSON of another length
            answers = client.infer("negate", {"a": lent}, parameters={"p": name})
            np.testing.assert_array_equal(answers["b"], -flat)

        list(threads.map(call, range(60)))


def test_a_gigabyte_of_holes_is_a_call_like_any_other(peer: Peer) -> None:
    with Client(peer.unix) as client:
        sparse = client.empty(1 << 28)
        sparse[:3] = [1, 2, 3]
        for _ in range(3):
            assert client.predict(sparse, "/first").tolist() == [1, 2, 3]


# ---- what it costs -------------------------------------------------------------------------------


@both
def test_in_steady_state_nothing_is_mapped_or_faulted(kind: Kind, peer: Peer) -> None:
    with kind(peer.unix) as client:
        lent = filled(client)
        out = client.empty(RANDOM.shape)
        for _ in range(5):
            client.predict(lent, "/double", out=out)
            client.predict(lent, "/first")
            client.predict(RANDOM, "/costs")
        before = client.predict(lent, "/costs")
        descriptors, mappings = open_descriptors(), mappings_of("memfd:fastpredict")
        for _ in range(20):
            client.predict(lent, "/first")
            client.predict(RANDOM, "/first")
        after = client.predict(lent, "/costs")
        assert after[0] == before[0]
        assert after[1] == before[1]
        assert after[2] - before[2] < RANDOM.nbytes // 4096
        assert (descriptors, mappings) == (open_descriptors(), mappings_of("memfd:fastpredict"))


def test_arrays_of_the_same_size_lie_in_the_same_memory(peer: Peer) -> None:
    with Client(peer.unix) as client:
        arrays = [client.empty(1_000_000) for _ in range(20)]
        assert mappings_of("memfd:fastpredict") == 1
        where = arrays.pop().ctypes.data
        assert client.empty(1_000_000).ctypes.data == where
        arrays.append(client.empty(900_000))
        assert arrays[-1].ctypes.data == where


# ---- many at once --------------------------------------------------------------------------------


def test_many_threads_lend_at_once(peer: Peer) -> None:
    def call(number: int) -> None:
        lent = client.empty((100 + number, 1000))
        for turn in range(10):
            lent[...] = number * 100 + turn
            result = client.predict(lent, "/double")
            assert (result == 2 * (number * 100 + turn)).all()
            assert result.shape == lent.shape

    with Client(peer.unix, pool_size=4) as client:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(call, range(16)))
        assert live(client) == 0


def test_many_tasks_lend_at_once(peer: Peer) -> None:
    async def call(client: AsyncClient, number: int) -> None:
        lent = client.empty((100 + number, 1000))
        for turn in range(5):
            lent[...] = number + turn
            assert (await client.predict(lent, "/double") == 2 * (number + turn)).all()

    async def main() -> None:
        async with AsyncClient(peer.unix, pool_size=4) as client:
            await asyncio.gather(*(call(client, number) for number in range(12)))

    asyncio.run(main())


# ---- failures ------------------------------------------------------------------------------------


def give_up(client: Client, path: str, array: np.ndarray) -> None:
    with pytest.raises(ClientTimeoutError):
        client.predict(array, path, timeout=0.3)


@pytest.mark.parametrize("in_arena", [True, False])
def test_memory_that_a_handler_still_reads_is_not_used_again(
    own_peer: Peer, in_arena: bool
) -> None:
    with Client(own_peer.unix) as client:
        lent = filled(client)
        client.predict(RANDOM, "/first")
        give_up(client, "/hold", lent if in_arena else RANDOM)
        assert own_peer.says() == "holding"
        del lent
        others = [filled(client, RANDOM * 3) for _ in range(20)]
        own_peer.tell("go on")
        assert int(own_peer.says()) == zlib.crc32(RANDOM)
        np.testing.assert_array_equal(client.predict(others[0], "/double"), RANDOM * 6)
        assert all((each == RANDOM * 3).all() for each in others)


def test_what_a_handler_still_answers_is_written_to_nobodys_memory(own_peer: Peer) -> None:
    with Client(own_peer.unix) as client:
        client.predict(RANDOM, "/echo")  # room is warm
        give_up(client, "/hold", RANDOM)
        assert own_peer.says() == "holding"
        results = [client.empty(RANDOM.shape) for _ in range(20)]
        for each in results:
            each[...] = 7
        own_peer.tell("go on")
        assert int(own_peer.says()) == zlib.crc32(RANDOM)
        client.predict(RANDOM, "/first")
        assert all((each == 7).all() for each in results)


def test_a_cancelled_task_retires_its_memory(own_peer: Peer) -> None:
    async def main() -> None:
        async with AsyncClient(own_peer.unix) as client:
            lent = filled(client)
            task = asyncio.create_task(client.predict(lent, "/hold"))
            assert await asyncio.to_thread(own_peer.says) == "holding"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del lent, task
            others = [filled(client, RANDOM + 1) for _ in range(20)]
            own_peer.tell("go on")
            said = await asyncio.to_thread(own_peer.says)
            assert int(said) == zlib.crc32(RANDOM)
            del others

    asyncio.run(main())


@both
@pytest.mark.parametrize("step", ["before", "idle", "handler", "stopped"])
def test_a_server_that_is_killed_costs_one_call(kind: Kind, tmp_path: Path, step: str) -> None:
    path = tmp_path / "socket"
    peer = Peer(path)
    try:
        with kind(peer.unix, timeout=10) as client:
            lent = filled(client)
            if step != "before":
                client.predict(lent, "/double")
            if step == "stopped":  # the request lies in its socket, and its memory with it
                peer.signal(signal.SIGSTOP)
                wait_until(lambda: peer.is_stopped())
            killer = threading.Timer(0 if step in ("before", "idle") else 0.5, peer.end)
            killer.start()
            if step in ("before", "idle"):
                killer.join()
            with pytest.raises(ClientConnectionError):
                client.predict(lent, "/hold")
            killer.join()
            np.testing.assert_array_equal(lent, RANDOM)
            path.unlink(missing_ok=True)
            peer = Peer(path)
            np.testing.assert_array_equal(client.predict(lent, "/double"), RANDOM * 2)
            del lent
            assert live(client) == 0
    finally:
        peer.end()


def test_a_server_forgets_a_client_that_is_killed(own_peer: Peer) -> None:
    program = (
        "import sys, numpy as np; from fastpredict import Client\n"
        "client = Client(sys.argv[1]); array = client.empty(1_000_000); array[:] = 1\n"
        "print(client.predict(array, '/first'), flush=True); client.predict(array, '/hold')\n"
    )
    with Client(own_peer.unix, memfd=False) as client:
        before = client.predict(RANDOM, "/costs")
        other = Process(PYTHON, "-c", program, own_peer.unix)
        try:
            assert own_peer.says() == "holding"
        finally:
            other.end()
        own_peer.tell("go on")
        own_peer.says()
        wait_until(lambda: (client.predict(RANDOM, "/costs")[:2] == before[:2]).all())


# ---- forks ---------------------------------------------------------------------------------------


def in_child(check: Any) -> int:
    """Exit status of a forked child that runs this."""
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_has_an_arena_of_its_own(peer: Peer) -> None:
    with Client(peer.unix) as client:
        lent = filled(client)
        spare = client.empty(RANDOM.shape)
        where = spare.ctypes.data
        client.predict(lent, "/double")

        def check() -> None:
            nonlocal spare
            np.testing.assert_array_equal(client.predict(lent, "/double"), RANDOM * 2)
            del spare  # the parent's, not ours to give away
            mine = [client.empty(RANDOM.shape) for _ in range(3)]
            assert where not in [each.ctypes.data for each in mine]
            for each in mine:
                each[...] = 5
            np.testing.assert_array_equal(
                client.predict(mine[0], "/echo"), mine[0].ravel().view(np.uint8)
            )

        assert in_child(check) == 0
        np.testing.assert_array_equal(lent, RANDOM)
        np.testing.assert_array_equal(client.predict(lent, "/double"), RANDOM * 2)
        assert live(client) == 2


def test_a_client_that_is_forgotten_leaves_nothing(peer: Peer) -> None:
    gc.collect()
    before = open_descriptors()
    client = Client(peer.unix)
    lent = filled(client)
    result = client.predict(lent, "/double")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.predict(lent, "/double")
    del client
    lent[...] = 1
    np.testing.assert_array_equal(result, RANDOM * 2)
    del lent, result
    gc.collect()
    assert open_descriptors() <= before
    assert mappings_of("memfd:fastpredict") == 0
