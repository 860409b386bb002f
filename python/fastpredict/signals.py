"""Signals while serve() runs on the main thread.

Python's own handlers run only once the main thread gets the GIL, which a handler in a long C call
doesn't give. So the signals go to the network thread: Python's C-level handler writes the signal
number into a socketpair (signal.set_wakeup_fd) that the loop reads.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

WATCHED = (signal.SIGTERM, signal.SIGINT)

#: Raised by the network thread when a drain is overdue: faulthandler writes all stacks then.
DUMP_SIGNAL = signal.SIGRTMAX - 1

_STDERR_FD = 2


@contextlib.contextmanager
def handed_over(watch: Callable[[int, int], None]) -> Iterator[None]:
    """Hand SIGTERM and SIGINT to the network thread while the block runs; then put all back.

    ``watch`` is ``_core.Server.watch_signals``, called once. The network thread must have ended
    when the block is left.

    Raises
    ------
    RuntimeError
        Not on the main thread, the only one that may set signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve() runs on the main thread only; elsewhere use fastpredict.Server")
    reader, writer = socket.socketpair()
    with reader, writer, contextlib.ExitStack() as back:
        writer.setblocking(False)
        reader.setblocking(False)
        old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        back.callback(signal.set_wakeup_fd, old_fd)
        # The descriptor and not sys.stderr, which may be a notebook's and have none.
        faulthandler.register(DUMP_SIGNAL, file=_STDERR_FD, all_threads=True)
        back.callback(faulthandler.unregister, DUMP_SIGNAL)
        watch(reader.fileno(), DUMP_SIGNAL)
        for number in WATCHED:
            old = signal.signal(number, _nothing)
            # None: set by C code, which Python can't put back; the default is the nearest.
            back.callback(signal.signal, number, signal.SIG_DFL if old is None else old)
        _handed_over.append(back)
        back.callback(_handed_over.clear)
        yield


# What a child of fork() puts back: at most one, since only the main thread may hand over.
_handed_over: list[contextlib.ExitStack] = []


def _after_fork_in_child() -> None:
    """A child that kept the descriptor would drain its parent when it is interrupted itself."""
    for back in list(_handed_over):
        # In a child forked by another thread, that thread is the main thread now.
        with contextlib.suppress(ValueError):
            back.close()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler must exist for the wakeup descriptor to be written to; the loop does the work."""
