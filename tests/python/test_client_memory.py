"""The arena: blocks out, blocks back, bounds, and what is told of an address."""

from __future__ import annotations

import fcntl
import gc
import itertools
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastpredict
from fastpredict import client_memory
from fastpredict.client_memory import LEAD_BYTES, Arena

F4 = np.dtype(np.float32)
MIB = 1 << 20


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:fastpredict")


@pytest.fixture
def arena() -> Iterator[Arena]:
    """One that leaves nothing."""
    gc.collect()  # what other tests have left
    descriptors = len(os.listdir("/proc/self/fd"))
    made = Arena()
    yield made
    made.close()
    gc.collect()
    assert mapped() == 0
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def resident(arena: Arena) -> int:
    """Bytes of memory that the segments hold."""
    return sum(os.fstat(segment.fd).st_blocks * 512 for segment in arena._index[1])


@pytest.mark.parametrize("shape", [(), (0,), (3,), (1000, 1000), (2, 0, 5)])
@pytest.mark.parametrize("dtype", ["f4", ">i2", "S3", "U7", [("a", "i1"), ("b", "f8")], "c16"])
def test_arrays_are_of_the_shape_and_dtype_that_was_asked(
    arena: Arena, shape: tuple[int, ...], dtype: object
) -> None:
    array = arena.empty(shape, np.dtype(dtype))
    assert array.shape == shape
    assert array.dtype == np.dtype(dtype)
    assert array.flags.writeable
    assert array.flags.c_contiguous
    assert array.ctypes.data % 64 == 0


def test_what_is_given_back_is_nothing_of_its_neighbours() -> None:
    """Memory goes back in whole pages, which are 16 or 64 KiB on other machines."""
    segment = client_memory.Segment(Arena(), client_memory._BLOCK_BYTES_MIN)
    assert segment.stride % mmap.PAGESIZE == 0
    assert segment.start(1) % mmap.PAGESIZE == 0
    with_larger_pages = """
import mmap
mmap.PAGESIZE = 1 << 16
from fastpredict import client_memory
segment = client_memory.Segment(client_memory.Arena(), client_memory._BLOCK_BYTES_MIN)
assert segment.stride % mmap.PAGESIZE == segment.start(1) % mmap.PAGESIZE == 0
"""
    subprocess.run([sys.executable, "-c", with_larger_pages], check=True, timeout=60)


LAST_CALL = """
import atexit, os
atexit.register(lambda: os._exit(look()))

from fastpredict.client_memory import Arena
import numpy as np

arena = Arena()
kept = arena.octets(1 << 16)

def look():
    segment = arena.find(kept).segment
    return 0 if os.readlink(f"/proc/self/fd/{segment.fd}").startswith("/memfd:") else 1
"""


def test_memory_can_be_lent_by_functions_that_run_at_exit() -> None:
    """atexit runs them last that were registered first; what has been closed may be another's."""
    subprocess.run([sys.executable, "-c", LAST_CALL], check=True, timeout=60)


def test_empty_takes_what_numpy_takes_for_a_shape() -> None:
    for url in ("unix:/nowhere", "http://127.0.0.1:1"):
        client = fastpredict.Client(url)
        for shape, whole in ((3, (3,)), (np.int64(3), (3,)), ([2, 3], (2, 3)), ((), ())):
            assert client.empty(shape).shape == whole
        with pytest.raises(TypeError):
            client.empty(3.5)  # type: ignore[arg-type]


def test_what_cant_lie_there_is_as_numpy_has_it(arena: Arena) -> None:
    assert arena.empty((2,), np.dtype(object)).tolist() == [None, None]
    assert arena.empty((2,), np.dtype("S")).dtype == "S1"
    assert arena.empty((3,), np.dtype(("f4", (2,)))).shape == (3, 2)
    with pytest.raises(ValueError, match="negative"):
        arena.empty((-1,), F4)
    with pytest.raises((MemoryError, ValueError)):
        arena.empty((1 << 60,), F4)


def test_memory_is_sealed_as_servers_want_it(arena: Arena) -> None:
    array = arena.empty((5,), F4)
    fd = arena.find(array.view(np.uint8)).segment.fd  # type: ignore[union-attr]
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK
    assert seals & fcntl.F_SEAL_GROW
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)


def test_addresses_are_found_and_others_are_not(arena: Arena) -> None:
    array = arena.empty((1000, 1000), F4)
    array[...] = 7
    part = arena.find(array[3].view(np.uint8))
    assert part is not None
    data = os.pread(part.segment.fd, part.nbytes, part.offset)
    assert data == array[3].tobytes()
    for other in (np.zeros(10, np.uint8), np.zeros(10 * MIB, np.uint8)):
        assert arena.find(other) is None


def test_a_block_comes_back_when_the_last_view_has_gone(arena: Arena) -> None:
    array = arena.empty((1000, 1000), F4)
    where = array.ctypes.data
    view = array[5:].reshape(-1)[3:].view(np.int32)
    del array
    assert arena.empty((1000, 1000), F4).ctypes.data != where
    del view
    assert arena.empty((1000, 1000), F4).ctypes.data == where


def test_blocks_of_one_size_never_overlap(arena: Arena) -> None:
    arrays = [arena.empty((100_000,), F4) for _ in range(3000)]
    starts = sorted(each.ctypes.data for each in arrays)
    assert all(b - a >= 400_000 + LEAD_BYTES for a, b in itertools.pairwise(starts))
    assert mapped() < 10


def test_idle_memory_is_bounded_by_size(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_memory, "IDLE_BYTES_MAX", 3 * MIB)
    arrays = [arena.empty((MIB,), np.dtype(np.uint8)) for _ in range(8)]
    for each in arrays:
        each[:] = 1
    assert resident(arena) >= 8 * MIB
    del arrays, each
    assert resident(arena) <= 3 * MIB + 8 * LEAD_BYTES


def test_idle_memory_is_bounded_in_time(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("fastpredict.client_memory.time.monotonic", lambda: now)
    first, second = (arena.empty((MIB,), np.dtype(np.uint8)) for _ in range(2))
    first[:] = second[:] = 1
    del first
    now += client_memory.IDLE_SECONDS_MAX + 1
    assert resident(arena) >= 2 * MIB
    del second
    assert resident(arena) <= MIB + LEAD_BYTES


def test_a_retired_segment_hands_out_nothing_and_goes_with_its_last_array(arena: Arena) -> None:
    kept, idle = arena.empty((MIB,), F4), arena.empty((MIB,), F4)
    kept[:] = 1
    del idle
    segment = arena.find(kept.view(np.uint8)).segment  # type: ignore[union-attr]
    arena.retire(segment)
    other = arena.find(arena.empty((MIB,), F4).view(np.uint8))
    assert other is not None
    assert other.segment is not segment
    assert (kept == 1).all()
    assert arena.find(kept.view(np.uint8)) is not None
    del kept
    assert segment not in arena._index[1]


def test_what_precedes_an_array_is_written_once_at_a_time(arena: Arena) -> None:
    array = arena.empty((1000,), np.dtype(np.uint8))
    array[:] = 5
    body = arena.find(array)
    assert body is not None
    whole = arena.take_lead(body, b"head")
    assert whole is not None
    assert os.pread(body.segment.fd, 1004, whole.offset) == b"head" + array.tobytes()
    assert arena.take_lead(body, b"other") is None
    arena.give_lead(body)
    assert arena.take_lead(body, b"x" * LEAD_BYTES) is not None
    arena.give_lead(body)
    assert arena.take_lead(body, b"x" * (LEAD_BYTES + 1)) is None
    within = arena.find(array[64:])
    assert within is not None
    assert arena.take_lead(within, b"head") is None


def test_arrays_outlive_their_arena() -> None:
    arena = Arena()
    array = arena.empty((MIB,), F4)
    array[:] = 3
    arena.close()
    assert (array == 3).all()
    del arena
    gc.collect()
    array[:] = 4
    assert (array == 4).all()
    del array
    gc.collect()
    assert mapped() == 0


def test_blocks_come_and_go_in_many_threads(arena: Arena) -> None:
    failures = []

    def work(number: int) -> None:
        try:
            for turn in range(200):
                array = arena.empty((20_000 + turn,), F4)
                array[:] = number
                other = arena.empty((10,), F4)
                other[:] = number
                assert (array == number).all()
                assert (other == number).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    arena.settle()
    assert sum(segment.live for segment in arena._index[1]) == 0
