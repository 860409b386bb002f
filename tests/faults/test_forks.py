"""fork() while a server runs: the parent is undisturbed, the child is no server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from forking import WAYS
from load import steady
from process import HERE, PYTHON, Processes, wait_until
from rawhttp import request
from soak import figure, times

FORKS = times(1, most=8)  # of each way
SIGNALS = times(3, most=50)


@figure(f"{FORKS} x {len(WAYS)} ways to fork while serving")
@pytest.mark.timeout(60 + 15 * FORKS)
@pytest.mark.parametrize("way", WAYS)
def test_forked(processes: Processes, way: str) -> None:
    for _ in range(FORKS):
        process = processes.start(PYTHON, HERE / "forking.py", way)
        text = process.ended(0, timeout=60)
        assert "Traceback" not in text
        assert "Exception ignored" not in text


FORKS_WHEN_ASKED = r"""
import os, signal, sys, time
import fastpredict
import targets
app = targets.app
@app.predict("/fork")
def fork(data, request):
    pid = os.fork()
    if pid == 0:
        os.write(2, b"forked %d\n" % os.getpid())  # whole, beside the parent's access log
        for _ in range(6000):  # one long sleep misses a signal that comes just before it
            time.sleep(0.01)
        os._exit(0)
    return pid
@app.predict("/reap")
def reap(data, request):
    _, status = os.waitpid(int(request.query), 0)
    return os.waitstatus_to_exitcode(status)
"""


@figure(f"{SIGNALS} signals to a forked child, beside load on the parent")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_a_child_ends_it_and_does_not_drain_the_parent(
    processes: Processes, tmp_path: Path, number: signal.Signals
) -> None:
    """The command's wakeup descriptor is inherited; what the child writes to it drains us."""
    (tmp_path / "forks.py").write_text(FORKS_WHEN_ASKED)
    env = {"PYTHONPATH": str(HERE)}
    server = processes.serve("forks.py", "--no-access-log", cwd=tmp_path, env=env)
    with server.connect() as client, steady(server.address, 2) as clients:
        for _ in range(SIGNALS):
            pid = int(client.ask(request("POST", "/fork", body=b"")).body)
            server.err.wait(f"forked {pid}")
            os.kill(pid, number)
            wait_until(lambda pid=pid: is_dead(pid), "the child dies")  # type: ignore[misc]
            assert client.ask(request("POST", f"/reap?{pid}", body=b"")).status == 200
            clients.wait_more(5)
    server.signal(signal.SIGTERM)
    server.ended(0)


def test_command_starts_again_on_its_port_while_a_child_lives(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "forks.py").write_text(FORKS_WHEN_ASKED)
    env = {"PYTHONPATH": str(HERE)}
    server = processes.serve("forks.py", cwd=tmp_path, env=env)
    with server.connect() as client:
        pid = int(client.ask(request("POST", "/fork", body=b"")).body)
    try:
        server.err.wait(f"forked {pid}")
        port = server.address[1]
        assert isinstance(port, int)
        server.signal(signal.SIGTERM)
        wait_until(lambda: not server.is_alive, "the parent ends")  # its pipes are the child's too
        again = processes.serve("forks.py", port=port, cwd=tmp_path, env=env)
        with again.connect() as client:
            assert client.ask(request("POST", "/length", body=b"12345")).body == b"5"
    finally:
        os.kill(pid, signal.SIGKILL)


def is_dead(pid: int) -> bool:
    """Gone, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] == "Z"
