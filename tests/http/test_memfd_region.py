"""_core.Region: a file's range as a buffer, kept by what lies over it, and guarded."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lending import Memory, mappings_of, open_descriptors

from fastpredict import _core


def test_it_shows_the_range_read_only() -> None:
    with Memory(10_000, seals=0) as memory:
        memory.map[5000:5005] = b"hello"
        region = _core.Region(memory.fd, 5000, 5)
        assert (region.nbytes, region.writable, region.faulted) == (5, False, False)
        assert bytes(region) == b"hello"
        assert memoryview(region).readonly
        array = np.frombuffer(region, np.uint8)
        assert not array.flags.writeable
        memory.map[5000:5005] = b"HELLO"
        assert array.tobytes() == b"HELLO"


def test_a_writable_one_is_written_through() -> None:
    with Memory(10_000, seals=0) as memory:
        array = np.frombuffer(_core.Region(memory.fd, 4, 8, writable=True), np.int32)
        array[:] = [1, 2]
        assert np.frombuffer(memory.map[4:12], np.int32).tolist() == [1, 2]


def test_arrays_and_views_keep_it_mapped() -> None:
    before = open_descriptors()
    with Memory(10_000) as memory:
        region = _core.Region(memory.fd, 0, 10_000)
        array = np.frombuffer(region, np.uint8)[1:5]
        view = memoryview(region)[:3]
        del region
    gc.collect()
    assert mappings_of() == 1
    assert array.tobytes() + bytes(view) == bytes(7)
    del array
    assert mappings_of() == 1
    del view
    assert mappings_of() == 0
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (0, 5001), (1, 5000), (5000, 1), (-1, 1), (0, -1), (1 << 62, 1 << 62), (2**63 - 1, 1)],
)
def test_a_range_that_is_not_in_the_file_is_refused(offset: int, length: int) -> None:
    with Memory(5000) as memory, pytest.raises(ValueError, match="lie in the file"):
        _core.Region(memory.fd, offset, length)
    assert mappings_of() == 0


def test_what_can_not_be_mapped_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        _core.Region(-1, 0, 1)
    file = tmp_path / "file"
    file.write_bytes(b"hello")
    fd = os.open(file, os.O_RDONLY)
    with pytest.raises(PermissionError):
        _core.Region(fd, 0, 5, writable=True)
    assert bytes(_core.Region(fd, 1, 3)) == b"ell"
    os.close(fd)


def test_it_can_not_be_subclassed() -> None:
    with pytest.raises(TypeError):
        type("Mine", (_core.Region,), {})


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which may die of it; without a core."""
    start = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    start += "import os, sys, mmap, faulthandler, numpy as np\nfrom fastpredict import _core\n"
    return subprocess.run(
        [sys.executable, "-c", start + script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


READ = """
fd = os.open(sys.argv[1], os.O_RDWR)
region = _core.Region(fd, 0, 1 << 24)
array = np.frombuffer(region, np.uint8)
assert int(array.sum(dtype="u8")) == 1 << 24
print("mapped", flush=True)
for turn in range(100000):
    total = int(array.sum(dtype="u8"))
    if region.faulted:
        break
assert total < 1 << 24, total
assert not array[1 << 20:].any() and array[:1000].all()
assert not np.frombuffer(region, np.uint8)[1 << 20:].any()
print("alive")
"""


def shared_file(tmp_path: Path) -> Path:
    folder = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    path = folder / f"fastpredict-test-{os.getpid()}"
    path.write_bytes(b"\1" * (1 << 24))
    return path


@pytest.mark.parametrize("to", [0, 4096, 1 << 20])
def test_a_file_cut_short_during_a_read_gives_zeros(tmp_path: Path, to: int) -> None:
    path = shared_file(tmp_path)
    script = READ if to == 1 << 20 else READ.replace(" and array[:1000].all()", "")
    start = "import os, sys, numpy as np\nfrom fastpredict import _core\n"
    process = subprocess.Popen(
        [sys.executable, "-c", start + script, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        os.truncate(path, to)
        assert process.stdout.read() == "alive\n"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        path.unlink()
        assert process.stdout is not None
        process.stdout.close()


OURS = """
fd = os.memfd_create("x"); os.ftruncate(fd, 1 << 16)
region = _core.Region(fd, 0, 1 << 16)
os.ftruncate(fd, 0)
assert bytes(region) == bytes(1 << 16) and region.faulted
print("alive", flush=True)
"""

FOREIGN = """
fd = os.memfd_create("y"); os.ftruncate(fd, 4096)
other = mmap.mmap(fd, 4096)
os.ftruncate(fd, 0)
other[0]
"""

ENABLE = "faulthandler.enable()\n"
TELLS = "Fatal Python error: Bus error"


def test_a_foreign_fault_still_kills() -> None:
    done = run(OURS + FOREIGN)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGBUS, "alive\n", "")
    done = run(FOREIGN)
    assert done.returncode == -signal.SIGBUS


@pytest.mark.parametrize(
    "script",
    [
        ENABLE + OURS + FOREIGN,
        OURS + ENABLE + OURS + FOREIGN,
        OURS + ENABLE + OURS + "faulthandler.disable()\n" + ENABLE + OURS + FOREIGN,
    ],
    ids=["before", "after", "again"],
)
def test_faulthandler_tells_of_foreign_faults_only(script: str) -> None:
    done = run(script)
    assert done.returncode == -signal.SIGBUS
    assert set(done.stdout.split()) == {"alive"}
    assert done.stderr.count(TELLS) == 1
    # without the foreign one there is nothing to tell
    done = run(script.replace(FOREIGN, ""))
    assert (done.returncode, done.stderr) == (0, "")


def test_faulthandler_enabled_over_a_mapping_that_is_there_already() -> None:
    script = OURS.replace("os.ftruncate(fd, 0)", "faulthandler.enable(); os.ftruncate(fd, 0)")
    done = run(script + FOREIGN)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "alive\n")
    assert done.stderr.count(TELLS) == 1


def test_sent_by_kill_it_kills() -> None:
    done = run(OURS + "import signal; os.kill(os.getpid(), signal.SIGBUS)\n")
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "alive\n")


def test_a_child_of_fork_keeps_it() -> None:
    with Memory(4096, seals=0) as memory:
        region = _core.Region(memory.fd, 0, 4096)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.ftruncate(memory.fd, 0)
                code = 0 if bytes(region) == bytes(4096) and region.faulted else 2
                del region
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not region.faulted
