"""--reload: the command in a child of its own, started again whenever a Python file changes.

The parent imports nothing of the user's. It has one thread, which looks about ten times a second at
what changed, at the signals that came, and at the child. It ends as the child does.

The child asks the kernel to be killed when its parent dies, whatever the parent died of. It does so
at its start, before anything of the user's runs, and not between fork and exec, where a parent with
threads may do next to nothing.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

from fastpredict.log import say

if TYPE_CHECKING:
    from watchfiles.main import FileChange

#: What changed since the last turn: pairs of what happened and a path.
Changes: TypeAlias = "set[FileChange]"

TURN_S = 0.1
#: For the child to end before a restart where nothing else was said: somebody waits for it, and an
#: event stream that a browser keeps open would take all of the command's own default.
RESTART_S = 2.0
#: Beyond its own bound, to end after SIGTERM; and that bound where it has none.
GRACE_S = 2.0
UNBOUNDED_S = 30.0

_FLAG, _VARIABLE = "--reload", "FASTPREDICT_RELOAD"
_PR_SET_PDEATHSIG = 1
_STDIN_FD = 0
_TOLD = 0  # in place of a signal that the child need not be told of: no signal


class ReloadError(Exception):
    """There can be no reloading; the message is the one line that the user gets."""


def serve_reloading(
    arguments: Sequence[str], target: str, *, fd: int | None, graceful_s: float | None
) -> int:
    """Run ``python -m fastpredict`` with these arguments until a signal; return its exit status.

    Main thread only; blocks. SIGTERM and SIGINT end the child, and with it this.

    Parameters
    ----------
    arguments
        All that was typed after the command's name, ``--reload`` included.
    target
        TARGET among them: where it lies is watched beside the working directory.
    fd
        A descriptor that the child inherits, or None.
    graceful_s
        ``--timeout-graceful-shutdown``: how long the child may take to end before a restart. None
        where it wasn't given: ``RESTART_S`` then.

    Raises
    ------
    ReloadError
        watchfiles isn't installed, or the folders can't be watched.
    OSError
        There is no such ``fd``.
    """
    if fd is not None:
        os.fstat(fd)
    folders = _folders(target)
    turns = _turns(folders)
    command = [sys.executable, *_interpreter_flags(), "-m", __name__, str(os.getpid())]
    child = _Child([*command, *_without_reload(arguments)], () if fd is None else (fd,))
    say(f"fastpredict: watching {' and '.join(folders)}")
    with _signals_kept() as signals:
        try:
            return _supervise(child, turns, signals, _end_bound_s(graceful_s))
        finally:
            child.kill()


def _end_bound_s(graceful_s: float | None) -> float:
    return RESTART_S if graceful_s is None else (graceful_s or UNBOUNDED_S) + GRACE_S


# ---- what is watched -----------------------------------------------------------------------------


def _folders(target: str) -> list[str]:
    """The working directory, and the folder of a target that lies elsewhere. Imports nothing."""
    here = os.getcwd()
    name = target.rpartition(":")[0] or target
    if name.endswith(".py") or "/" in name:
        there = os.path.dirname(os.path.realpath(name))
    else:
        spec = PathFinder.find_spec(name.partition(".")[0], [here, *sys.path])
        origin = spec.origin if spec is not None and spec.has_location else None
        there = os.path.dirname(os.path.realpath(origin)) if origin else here
    inside = os.path.commonpath([os.path.realpath(here), there]) == os.path.realpath(here)
    return [here] if inside or not os.path.isdir(there) else [here, there]


def _turns(folders: Sequence[str]) -> Iterator[Changes]:
    """Changes as they come, and an empty set when for a turn none did. From the first turn on."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise ReloadError(
            "--reload needs watchfiles, which isn't installed: it comes with the extra"
            " fastpredict-h2o[reload]"
        ) from None

    def turns() -> Iterator[Changes]:
        try:
            yield from watch(
                *folders,
                watch_filter=PythonFilter(),
                rust_timeout=int(TURN_S * 1000),
                yield_on_timeout=True,
                ignore_permission_denied=True,
            )
        except (OSError, RuntimeError) as error:  # so many folders that the kernel gives up
            raise ReloadError(f"--reload can't watch {' and '.join(folders)}: {error}") from None

    return turns()


def _names(changes: Changes) -> str:
    """Which files changed, in a few words."""
    paths = sorted({Path(path) for _, path in changes})
    here = Path.cwd()
    first = paths[0].relative_to(here) if paths[0].is_relative_to(here) else paths[0]
    return f"{first} and {len(paths) - 1} more" if len(paths) > 1 else str(first)


# ---- the parent ----------------------------------------------------------------------------------


class _Child:
    """The command as a child process, one after the other."""

    def __init__(self, command: Sequence[str], fds: Sequence[int]) -> None:
        self._command = command
        self._fds = fds
        self._env = {name: text for name, text in os.environ.items() if name != _VARIABLE}
        self._process: subprocess.Popen[bytes] | None = None
        # On a terminal it shares our group, so that a debugger in it can read what is typed.
        # Elsewhere it has its own: who signals our whole group then means us alone, and the child
        # is told once. Twice would end it at once.
        self._shares_group = os.isatty(_STDIN_FD)

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._env,
            pass_fds=self._fds,
            process_group=None if self._shares_group else 0,
        )

    @property
    def is_started(self) -> bool:
        return self._process is not None

    def status(self) -> int | None:
        """Its exit status as a shell has it, None while it runs."""
        assert self._process is not None
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def tell(self) -> None:
        """Ask it to end. A second time makes it end at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def pass_on(self, number: int) -> None:
        """Tell it of a signal that we got, unless the terminal has told it already."""
        on_terminal = (
            self._shares_group
            and number == signal.SIGINT
            and os.isatty(_STDIN_FD)
            and os.tcgetpgrp(_STDIN_FD) == os.getpgrp()
        )
        if self._process is not None and not on_terminal:
            self._process.send_signal(number)

    def kill(self) -> None:
        """No more of it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


Signals: TypeAlias = "collections.deque[int]"


def _supervise(
    child: _Child, turns: Iterator[Changes], signals: Signals, end_bound_s: float
) -> int:
    """Start the child, and start it anew, until a signal or its own end; return its status."""
    waits = False
    for changes in turns:
        if not child.is_started:  # by now whatever changes is seen
            child.start()
        elif changes and not signals:
            _restart(child, changes, signals, end_bound_s)
            waits = False
        status = child.status()  # before the signals: one that ended it has reached us, too
        if signals:
            return _pass_on(child, signals)
        if status == 0:
            return 0
        if status is not None and not waits:
            say(f"fastpredict: it ended with status {status}; waiting for a change")
            waits = True
    raise AssertionError("watching ended by itself")


def _restart(child: _Child, changes: Changes, signals: Signals, end_bound_s: float) -> None:
    """End what still runs within the bound and start anew; a signal that comes meanwhile stays."""
    running = child.status() is None
    say(f"fastpredict: {_names(changes)} changed, {'restarting' if running else 'starting'}")
    if running:
        child.tell()
    deadline = time.monotonic() + end_bound_s
    while child.status() is None:
        if signals:
            signals[0] = _TOLD
            return
        if time.monotonic() > deadline:
            say(f"fastpredict: it did not end within {end_bound_s:g} s; killed")
            child.kill()
        time.sleep(TURN_S / 4)
    child.start()


def _pass_on(child: _Child, signals: Signals) -> int:
    """Pass signals on until the child has ended; return its status."""
    while True:
        while signals:
            child.pass_on(signals.popleft())
        status = child.status()
        if status is not None:
            return status
        time.sleep(TURN_S / 4)


@contextlib.contextmanager
def _signals_kept() -> Iterator[Signals]:
    """Collect SIGTERM and SIGINT while the block runs."""
    if threading.current_thread() is not threading.main_thread():
        raise ReloadError("--reload works on the main thread only")
    came: Signals = collections.deque()

    def keep(number: int, frame: FrameType | None) -> None:
        came.append(number)

    with contextlib.ExitStack() as back:
        for number in (signal.SIGTERM, signal.SIGINT):
            old = signal.signal(number, keep)
            back.callback(signal.signal, number, signal.SIG_DFL if old is None else old)
        yield came


# ---- the child -----------------------------------------------------------------------------------


def _without_reload(arguments: Sequence[str]) -> list[str]:
    return [argument for argument in arguments if argument != _FLAG]


def _interpreter_flags() -> list[str]:
    """What was said to Python itself: ``-X dev`` and the like."""
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]
    # They end with the script, with -m and the module, or with both in one.
    return before[:-2] if before[-2:-1] == ["-m"] else before[:-1]


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the parent is gone, or do so if it is already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl: {os.strerror(error)}")
    if os.getppid() != parent:
        os._exit(1)


def _main(parent: str, *arguments: str) -> None:
    """The child's start: ``python -m fastpredict.reload PARENT ARGUMENTS``."""
    _die_with(int(parent))
    from fastpredict.cli import main

    sys.argv[1:] = arguments
    main(arguments, prog_name="python -m fastpredict")


if __name__ == "__main__":
    _main(*sys.argv[1:])
