"""Servers as processes: started on a free port, watched through /proc, ended by their own id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .client import LoadError, load
from .servers import Server

WORK = Path("build/bench")
START_S = 60.0
STOP_S = 8.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class CannotStart(Exception):
    """The server ended, or nobody answered at its address; the text says which, and its log."""


class Running:
    """A server that accepts connections at `address`."""

    def __init__(self, server: Server, process: subprocess.Popen[bytes], address: str) -> None:
        self.server = server
        self.process = process
        self.address = address

    def tree(self) -> list[int]:
        """Its processes: itself and those that descend from it."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    stat = (entry / "stat").read_text()
                    parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def cpu_s(self) -> float:
        """User and system seconds of its processes so far, to a hundredth."""
        return sum(ticks for pid in self.tree() for ticks in _ticks(pid)) / _TICKS

    def user_cpu_s(self) -> float:
        return sum(_ticks(pid)[0] for pid in self.tree()) / _TICKS

    def resident_bytes(self, tree: list[int] | None = None) -> int:
        total = 0
        for pid in tree or self.tree():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        return total


def _ticks(pid: int) -> tuple[int, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[11]), int(fields[12])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(address: str, timeout_s: float = 60.0) -> socket.socket:
    if address.isdigit():
        return socket.create_connection(("127.0.0.1", int(address)), timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    connection.connect(address)
    return connection


def _end(process: subprocess.Popen[bytes]) -> None:
    """TERM to the server, and KILL to what is left of its own session."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(process: subprocess.Popen[bytes], server: Server, address: str, log: Path) -> None:
    """Until it answers a small request: some listen before their workers are there."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise CannotStart(f"ended with status {process.returncode}: {_last_line(log)}")
        with contextlib.suppress(OSError, LoadError):
            connect(address, 1.0).close()
            load(server, address, requests=1, warmup=0, time_limit=5, **_first_request(server))
            return
        time.sleep(0.05)
    raise CannotStart(f"did not answer within {START_S:.0f} s: {_last_line(log)}")


def _first_request(server: Server) -> dict[str, int | str]:
    return {"method": "GET", "path": server.ready} if server.ready else {"body": 4}


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "no output"


@contextlib.contextmanager
def running(server: Server, unix: bool = False) -> Iterator[Running]:
    """The server, for as long as the block takes. Its output goes to a file in build/bench."""
    WORK.mkdir(parents=True, exist_ok=True)
    socket_path = WORK / f"{server.name}.sock"
    socket_path.unlink(missing_ok=True)
    address = str(socket_path) if unix else str(free_port())
    log = WORK / f"{server.name}.log"
    env = {name: value for name, value in os.environ.items() if not _is_ours(name)}
    env |= {"PYTHONPATH": ".:python", **server.env}
    with log.open("wb") as output:
        process = subprocess.Popen(
            server.command(address),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        _wait(process, server, address, log)
        yield Running(server, process, address)
    finally:
        _end(process)
        socket_path.unlink(missing_ok=True)


def _is_ours(name: str) -> bool:
    """Variables that would change what is measured."""
    return name.startswith(
        ("FASTPREDICT_", "MALLOC_", "GUNICORN_", "GRANIAN_", "BENTOML_", "MLSERVER_", "KSERVE_")
    )
