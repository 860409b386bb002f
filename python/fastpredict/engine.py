"""The threads around one ``_core.Server``: their start, their end, the end of the process, fork.

A thread refers to the core and to what the app held, never to the public Server object, so that
a Server which its owner forgets can be collected.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from fastpredict.log import logger
from fastpredict.models import Model
from fastpredict.route import name_of
from fastpredict.shared_memory import ClientMemory
from fastpredict.worker import Route, run_control, run_predict

if TYPE_CHECKING:
    from fastpredict._core import Server as CoreServer

#: How long the end of the process, or of a stopped server, waits for threads, in seconds.
JOIN_BOUND = 3.0
_YEAR = 365 * 86400.0

Hook = Callable[[], object]


def hooks_bound(graceful: float) -> float:
    """Seconds that shut-down functions have after a drain, by its own time: 0 is no bound."""
    return max(graceful, JOIN_BOUND) if graceful else _YEAR


class Gate:
    """Where the start-up of all predict threads is awaited. Any thread."""

    def __init__(self, count: int, opened: Hook) -> None:
        self._lock = threading.Lock()
        self._left = count  # guarded by _lock
        self._opened = opened
        self._decided = threading.Event()
        self.error: BaseException | None = None  # guarded by _lock; the first one stays

    def passed(self) -> None:
        """One thread is ready; with the last one the gate opens."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._opened()
            self._decided.set()

    def failed(self, error: BaseException) -> None:
        """One thread can't start: the gate will not open."""
        with self._lock:
            if self.error is None:
                self.error = error
        self._decided.set()

    def is_open(self) -> bool:
        """Whether every thread is ready."""
        return self._decided.is_set() and self.error is None

    def wait(self, timeout: float) -> bool:
        """Wait until it is open or has failed; False when the timeout passed. Blocks."""
        return self._decided.wait(timeout)


class Engine:
    """One core server with its predict threads and its control thread."""

    def __init__(
        self,
        core: CoreServer,
        routes: Sequence[Route],
        models: Mapping[str, Model],
        startup: Sequence[Hook],
        shutdown: Sequence[Hook],
        threads: int,
        memory: ClientMemory,
        copies: bool,
    ) -> None:
        self.core = core
        self.models = models
        self.memory = memory
        self.forked = False  # set in the child of a fork: nothing here may be used any more
        self.gate = Gate(threads, core.set_ready)
        self._control = _thread("fastpredict-control", _control, self)
        serve = partial(run_predict, core, routes, memory, copies)
        self._predict = [
            _thread(f"fastpredict-predict-{index}", _predict, serve, startup, shutdown, self.gate)
            for index in range(threads)
        ]

    def start(self) -> None:
        """Start the network thread, then ours. Raises OSError, or RuntimeError for a thread."""
        self.core.start()
        _running.add(self)
        try:
            for thread in (self._control, *self._predict):
                thread.start()
        except BaseException:  # no more threads to be had
            self.core.stop()
            raise

    def wait_ready(self) -> BaseException | None:
        """Wait for all start-up functions, or for an end that comes first. Returns its error."""
        while not self.gate.wait(0.05):
            if self.core.join(0):  # stopped meanwhile
                break
        return self.gate.error

    def is_ready(self) -> bool:
        """Whether requests are answered: start-up is done, and no drain or stop has begun."""
        return self.gate.is_open() and not self.core.draining

    def is_own_thread(self) -> bool:
        """Whether the caller is one of the predict threads or the control thread."""
        return threading.current_thread() in (self._control, *self._predict)

    def join(self, bound: float = JOIN_BOUND) -> bool:
        """Wait for predict threads, end the network thread, wait for the rest. Blocks.

        Until the predict threads are done the network thread goes on: a second signal must be able
        to end what they do. False when the bound passed.
        """
        deadline = time.monotonic() + bound
        ended = self._join_threads(self._predict, deadline)
        self.core.stop()
        ended = self.core.join(max(0.0, deadline - time.monotonic())) and ended
        return self._join_threads((self._control,), deadline) and ended

    @staticmethod
    def _join_threads(threads: Sequence[threading.Thread], deadline: float) -> bool:
        for thread in threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


def _thread(name: str, target: Callable[..., None], *args: object) -> threading.Thread:
    # Daemons, because Python joins the others before atexit runs, and one that waits in take()
    # would hold up the exit for ever.
    return threading.Thread(name=name, target=target, args=args, daemon=True)


def _control(engine: Engine) -> None:
    """The life of the control thread; when it ends, nothing of the server is left."""
    run_control(engine.core, engine.models, engine.is_ready, engine.memory)
    _running.discard(engine)


def _predict(
    serve: Callable[[], None],
    startup: Sequence[Hook],
    shutdown: Sequence[Hook],
    gate: Gate,
) -> None:
    """The life of a predict thread."""
    for hook in startup:
        disabled = logger.disabled
        try:
            hook()
        except BaseException as error:
            logger.disabled = disabled  # logging.config disables all that it doesn't name
            gate.failed(error)
            _log("the start-up function %s failed", hook, error)
            return
        logger.disabled = disabled
    gate.passed()
    serve()
    for hook in shutdown:
        try:
            hook()
        except BaseException as error:
            _log("the shut-down function %s failed", hook, error)


def _log(line: str, hook: Hook, error: BaseException) -> None:
    with contextlib.suppress(BaseException):  # a log that fails ends nothing else
        logger.error(line, name_of(hook), exc_info=error)


# ---- the end of the process, and its children ----------------------------------------------------

_running: set[Engine] = set()  # started and not known to have ended; used under the GIL only
#: Every server that there is: one that has not started has sockets, one that has ended has threads
#: to be joined, and a child of this process has neither.
_cores: weakref.WeakSet[CoreServer] = weakref.WeakSet()


def _at_exit() -> None:
    """Stop what still runs, with a bound: no thread of ours may want the GIL once it is gone."""
    engines = list(_running)
    for engine in engines:
        engine.core.stop()
    deadline = time.monotonic() + JOIN_BOUND
    for engine in engines:
        engine.join(max(0.0, deadline - time.monotonic()))


def remember(core: CoreServer) -> None:
    """Let a child of this process know that this server isn't its own."""
    _cores.add(core)


def _after_fork_in_child() -> None:
    """The parent serves on; here there are no threads, and its sockets are not ours."""
    for engine in _running:
        engine.forked = True
    _running.clear()  # so that the child's exit stops nothing
    for core in _cores:
        core.after_fork_in_child()
    _cores.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
