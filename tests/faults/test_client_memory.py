"""Clients that lend memory are killed, or take it away: the server lives and keeps nothing."""

from __future__ import annotations

import os
import re
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from process import HERE, PYTHON, Processes, Served, wait_until
from soak import times

pytest.importorskip("tritonclient.http")
from lender import NBYTES, Lender
from tritonclient.utils import InferenceServerException

KILLS = times(4, most=200)
CUTS = times(8, most=400)


@pytest.fixture
def server(processes: Processes) -> Served:
    return processes.serve("lender.py", "--allow-client-shm", "--no-access-log")


def name_of_a_region() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def lender(server: Served) -> Iterator[Lender]:
    lender = Lender(server.url.removeprefix("http://"), name_of_a_region())
    yield lender
    lender.close()


def mappings(server: Served) -> list[str]:
    """The objects of clients that it has mapped."""
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    return re.findall(r"/dev/shm/fastpredict-\S+", maps)


def refusal(lender: Lender, model: str) -> str:
    with pytest.raises(InferenceServerException) as caught:
        lender.infer(model)
    assert caught.value.status() == "400"
    return str(caught.value.message())


def test_killed_clients_leave_nothing_behind(
    processes: Processes, server: Served, lender: Lender
) -> None:
    lender.infer()
    descriptors = server.descriptors()
    for step in range(KILLS):
        name = name_of_a_region()
        client = processes.start(
            PYTHON, HERE / "lender.py", server.url.removeprefix("http://"), name
        )
        for _ in range(step % 12 + 1):
            client.out.next_line()
        client.signal(signal.SIGKILL)
        client.wait()
        wait_until(lambda: server.descriptors() <= descriptors, "its connection is closed")
        assert len(mappings(server)) == 2
        lender.client.unregister_system_shared_memory(name)
        wait_until(lambda: len(mappings(server)) == 1, "its memory is unmapped")
    lender.write(3)
    lender.infer()
    assert (lender.output() == 6).all()
    lender.client.unregister_system_shared_memory()
    wait_until(lambda: not mappings(server), "all is unmapped")
    server.signal(signal.SIGTERM)
    assert "Traceback" not in server.ended(0)


@pytest.mark.parametrize("nbytes", [0, 4096, NBYTES, NBYTES + 4096])
def test_memory_that_is_cut_short_fails_its_requests_alone(
    server: Served, lender: Lender, nbytes: int
) -> None:
    """Before the handler reads it, or, from NBYTES on, before the output is written."""
    other = Lender(server.url.removeprefix("http://"), name_of_a_region())
    lender.write(1)
    lender.infer()
    os.truncate(lender.path, nbytes)
    assert "cut short" in refusal(lender, "double")
    os.truncate(lender.path, 2 * NBYTES)
    assert "register it anew" in refusal(lender, "double")
    other.write(2)
    other.infer()
    assert (other.output() == 4).all()
    other.close()
    lender.register()
    lender.write(5)
    lender.infer()
    assert (lender.output() == 10).all()
    server.signal(signal.SIGTERM)
    assert "Traceback" not in server.ended(0)


def test_memory_that_is_cut_short_while_it_is_read(server: Served, lender: Lender) -> None:
    for turn in range(CUTS):
        lender.write(1)
        cut = threading.Timer(0.005 * (turn % 8), os.truncate, (lender.path, 4096))
        cut.start()
        try:
            assert "cut short" in refusal(lender, "first")
        finally:
            cut.join()
        os.truncate(lender.path, 2 * NBYTES)
        lender.register()
        lender.infer("double")
    assert len(mappings(server)) == 1
    server.signal(signal.SIGTERM)
    assert "Traceback" not in server.ended(0)
