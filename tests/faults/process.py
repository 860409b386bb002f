"""Servers and programs in processes of their own: started, watched, and ended whatever happens.

What a process says is collected while it runs, so that a full pipe never holds it up. Everything
that waits has a bound; what is still alive at the end of a test is killed by its id.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rawhttp import Address, RawClient, request

HERE = Path(__file__).parent
PYTHON = sys.executable
COMMAND = (PYTHON, "-m", "fastpredict")

#: For what happens at once on a machine that has nothing else to do.
PATIENCE = 20.0

#: The C library keeps no freed memory of ours or NumPy's: what is resident is in use.
FRUGAL = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_ARENA_MAX": "1",
}

#: What the allocator may yet take after a first round. script/asan's keeps what was freed: inf.
SLACK_BYTES = float(os.environ.get("FASTPREDICT_SLACK_BYTES", "8e6"))


class Said:
    """One stream of a process, read by a thread of its own until it ends."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._taken = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """The first line that has this in it, from the whole of what was and will be said."""
        seen = 0

        def found() -> re.Match[str] | None:
            nonlocal seen
            for line in self._lines[seen:]:
                if match := re.search(pattern, line):
                    return match
            seen = len(self._lines)
            return None

        until = time.monotonic() + timeout
        with self._changed:
            while (match := found()) is None:
                left = until - time.monotonic()
                assert left > 0, f"{pattern!r} didn't come: {''.join(self._lines)}"
                assert not self._ended, f"it ended without {pattern!r}: {''.join(self._lines)}"
                self._changed.wait(left)
        return match

    def next_line(self, timeout: float = PATIENCE) -> str:
        """The line after the one this returned last."""
        until = time.monotonic() + timeout
        with self._changed:
            while len(self._lines) <= self._taken:
                left = until - time.monotonic()
                assert left > 0, "no further line"
                assert not self._ended, "it ended where a line was expected"
                self._changed.wait(left)
            self._taken += 1
            return self._lines[self._taken - 1]

    def join(self, timeout: float) -> None:
        """Until it has ended; a child that holds the pipe open is not waited for beyond this."""
        self._thread.join(timeout)


class Process:
    """One process. Leads no group: signals go to it alone."""

    def __init__(
        self,
        *argv: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        limits: Mapping[int, int] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for kind, value in (limits or {}).items():
                resource.setrlimit(kind, (value, value))

        self._process = subprocess.Popen(
            [str(each) for each in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | dict(env or {}),
            cwd=cwd or HERE,
            preexec_fn=limit,
            pass_fds=pass_fds,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.out = Said(self._process.stdout)
        self.err = Said(self._process.stderr)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def tell(self, line: str) -> None:
        """One line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, or minus the signal that ended it. It must end in time."""
        status = self._process.wait(timeout)
        self.out.join(2.0)
        self.err.join(2.0)
        return status

    def ended(self, status: int = 0, timeout: float = PATIENCE) -> str:
        """It ends by itself with this status; what it wrote to standard error."""
        got = self.wait(timeout)
        text = self.err.text
        assert got == status, f"exit status {got}, expected {status}: {text}"
        assert "Fatal Python error" not in text
        return text

    def end(self) -> None:
        """Kills what is left of it."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
                self._process.kill()
            self._process.wait(PATIENCE)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            self.out.join(0.5)
            self.err.join(0.5)
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    # ---- what the kernel says of it

    def resident_bytes(self) -> int:
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def is_stopped(self) -> bool:
        """Whether SIGSTOP has reached it."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Served(Process):
    """The command ``serve``, or a program that says where it serves as the command does."""

    def __init__(self, *argv: str | Path, **options: Any) -> None:
        super().__init__(*argv, **options)
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Waits until it serves."""
        if self._url is None:
            self._url = self.err.wait(r"serving .* on (\S+)")[1]
        return self._url

    @property
    def address(self) -> Address:
        return address_of(self.url)

    def connect(self, **options: Any) -> RawClient:
        return RawClient(self.address, **options)


class Hosted(Process):
    """hosted.py: the routes of targets.py on a background Server, which does what it is told."""

    def __init__(self, options: Mapping[str, Any], **process_options: Any) -> None:
        super().__init__(PYTHON, HERE / "hosted.py", json.dumps(dict(options)), **process_options)
        self.url: str = json.loads(self.out.next_line())
        self.address = address_of(self.url)
        self._asking = threading.Lock()

    def connect(self, **options: Any) -> RawClient:
        return RawClient(self.address, **options)

    def do(self, command: str, *arguments: Any) -> Any:
        """One of hosted.py's commands, carried out; what it returns. Any thread."""
        with self._asking:
            self.tell(json.dumps([command, *arguments]))
            return json.loads(self.out.next_line())

    def stats(self) -> dict[str, int]:
        stats: dict[str, int] = self.do("stats")
        return stats

    def wait_stats(self, **figures: int) -> None:
        """Until the gauges have these values."""
        wait_until(lambda: figures.items() <= self.stats().items(), figures)

    def wait_idle(self) -> None:
        """Until nothing is left of any request or connection, those in the backlog included."""
        nothing = {"connections": 0, "queued": 0, "running": 0, "charged_bytes": 0, "out_slots": 0}
        self.wait_stats(**nothing)  # by itself, without an event that the next one would bring
        with self.connect() as last:  # an answer to it: those who came before have been accepted
            assert last.ask(request("GET", "/livez")).status == 200
        self.wait_stats(**nothing)

    def held(self) -> tuple[int, int, int]:
        """Descriptors, threads, and resident bytes without what it keeps warm in idle slots."""
        resident = self.resident_bytes() - self.stats()["idle_bytes"]
        return self.descriptors(), self.threads(), resident

    def stopped(self, timeout: float = PATIENCE) -> str:
        """Stops it as its input's end does; what it wrote to standard error."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.ended(0, timeout)


class Level:
    """What a server holds when it is idle; taken twice, the two must agree."""

    def __init__(self, server: Hosted) -> None:
        server.wait_idle()
        self._descriptors, self._threads, self._resident_bytes = server.held()

    def is_kept(self, server: Hosted) -> None:
        now = Level(server)
        assert now._descriptors == self._descriptors
        assert now._threads == self._threads
        grown = now._resident_bytes - self._resident_bytes
        assert grown <= SLACK_BYTES, f"{grown} bytes more"


def address_of(url: str) -> Address:
    if url.startswith("unix:"):
        return url.removeprefix("unix:")
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host.strip("[]"), int(port)


def is_ready(address: Address) -> bool:
    """Whether predict routes are answered there."""
    try:
        with RawClient(address) as client:
            return client.ask(request("GET", "/readyz")).status == 200
    except OSError:
        return False


def wait_until(
    holds: Callable[[], bool], what: object = "it", timeout: float = PATIENCE, pause: float = 0.01
) -> None:
    until = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < until, f"{what} didn't come true in {timeout} s"
        time.sleep(pause)


class Processes(contextlib.ExitStack):
    """Starts processes and ends them all."""

    def start(self, *argv: str | Path, **options: Any) -> Process:
        process = Process(*argv, **options)
        self.callback(process.end)
        return process

    def command(self, *arguments: str, **options: Any) -> Process:
        """``python -m fastpredict`` with these arguments."""
        return self.start(*COMMAND, *arguments, **options)

    def serve(self, target: str, *flags: str, port: int | None = 0, **options: Any) -> Served:
        """``python -m fastpredict serve``, on a free port."""
        address = () if port is None else ("--port", str(port))
        process = Served(*COMMAND, "serve", target, *address, *flags, **options)
        self.callback(process.end)
        return process

    def host(self, process_options: Mapping[str, Any] | None = None, **options: Any) -> Hosted:
        """hosted.py, with these options of Server."""
        process = Hosted({"port": 0, "access_log": False} | options, **(process_options or {}))
        self.callback(process.end)
        return process
