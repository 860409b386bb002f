"""The extension: libfastpredict's server under Python. Private; the package's own modules are its only callers."""

import builtins
from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

LIBH2O_VERSION: Final[str]

# What Exchange.kind says of a body; the network thread decides it from Content-Type.
BODY_RAW: Final[int]
BODY_NPY: Final[int]
BODY_JSON: Final[int]

@final
class Route:
    """One predict route, as the network thread needs it to refuse a request at its head. Immutable.

    raw_unit_bytes: a raw body is a whole multiple of this; exactly this when raw_exact. 0: only an empty body.
    raw_allowed: False when raw bytes can't tell the shape (two -1): 400, send .npy.
    npy_max_bytes: the largest .npy body that can suit, header included; 0 for no bound.
    expected: how to say it, e.g. "float32 of shape (3000, 2500), 30000000 bytes".
    """

    def __new__(
        cls,
        path: str,
        *,
        raw_unit_bytes: int,
        raw_exact: bool,
        raw_allowed: bool,
        npy_max_bytes: int,
        expected: str,
    ) -> Route: ...
    @property
    def path(self) -> str: ...

@final
class Server:
    """An HTTP server with its network thread and access-log thread. Sizes in bytes, times in seconds (0 is off).

    Life: listen_*() at least once, start(), set_ready(), then drain() or stop(), join(), and collection.
    Every method may be called from any thread; those that wait release the GIL.
    """

    def __new__(
        cls,
        routes: Sequence[Route],
        *,
        max_request_body_size: int,
        max_inflight_bytes: int,
        max_queued_requests: int,
        limit_concurrency: int,
        timeout_head: float,
        timeout_read: float,
        timeout_write: float,
        min_data_rate: int,
        timeout_keep_alive: float,
        timeout_queue: float,
        timeout_graceful_shutdown: float,
        access_log: bool,
    ) -> Server:
        """Raises ValueError naming the option that is out of range, MemoryError."""
    def listen_tcp(self, host: str, port: int) -> int:
        """Bind and listen; port 0 picks one. Returns the port. Raises OSError, also for a host that has no address."""
    def listen_unix(self, path: str, mode: int) -> None:
        """Bind and listen on a Unix socket. Raises OSError (EADDRINUSE while another server answers there)."""
    def listen_fd(self, fd: int) -> str:
        """Serve an inherited listening stream socket (duplicated). Returns "host:port" or "unix:path". Raises OSError."""
    def start(self) -> None:
        """Start the network thread; /livez answers, predict routes are 503 until set_ready(). Raises OSError."""
    def set_ready(self) -> None: ...
    def take(self) -> Exchange | None:
        """Wait for the next complete request, the GIL released; None once the server takes no more. Predict threads."""
    def reap(self) -> bool:
        """One turn of the control thread: wait, drop what the network thread is done with, trim idle memory.

        Returns False once the server has stopped and nothing is left: end the thread then."""
    def drain(self) -> None:
        """Stop accepting, finish what was accepted, end by itself. Does not wait."""
    def stop(self) -> None:
        """End now: connections are closed, requests that wait are dropped. Does not wait."""
    def join(self, timeout: float | None = None) -> bool:
        """Wait for the network thread to end; False when the timeout passed. Python signal handlers run meanwhile."""
    def watch_signals(self, fd: int, dump_signal: int) -> None:
        """Before start(): let the network thread read signal.set_wakeup_fd bytes from fd.

        The first byte drains; the second ends the process with 128 + signal. When the drain takes longer than
        timeout_graceful_shutdown, dump_signal is raised (faulthandler prints the stacks) and the process exits with 1."""
    def after_fork_in_child(self) -> None:
        """Close every descriptor without a word on any of them; all other methods raise from now on."""
    def stats(self) -> dict[str, int]:
        """Counters and gauges by name: connections, requests, queued, running, charged_bytes, out_slots, idle_slots,
        idle_bytes, accesslog_dropped."""
    @property
    def draining(self) -> bool: ...

@final
class Exchange:
    """One complete request, owned by the thread that took it, until reply().

    Dropped without reply() it answers 500.
    """

    @property
    def route(self) -> int:
        """Index into the routes given to Server."""
    @property
    def kind(self) -> int: ...
    @property
    def nbytes(self) -> int:
        """Length of the body in bytes."""
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str:
        """Percent-decoded, without the query; invalid UTF-8 as surrogate escapes."""
    @property
    def query(self) -> str:
        """Without the "?", still encoded; "" when there is none."""
    @property
    def headers(self) -> list[tuple[str, str]]:
        """Every field in order, names in lower case, values as latin-1."""
    @property
    def client(self) -> str:
        """ "127.0.0.1:53412", "[::1]:53412" or "unix"."""
    def header(self, name: str) -> str | None:
        """The value of a field (lower-case name), several joined with ", "; None when absent."""
    def array(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0, fortran: bool = False
    ) -> npt.NDArray[Any]:
        """An ndarray over the receive buffer from byte offset on: no copy, writable, aligned to 64 when offset is a
        multiple of 64. Copied only when offset leaves it unaligned for dtype. Keeps its memory alive by itself.

        Raises ValueError when it does not fit in the body, TypeError for a dtype that holds objects."""
    def bytes(self) -> builtins.bytes:
        """The body as a bytes object made in place, no copy. Only before array() or body; a copy after them."""
    @property
    def body(self) -> memoryview:
        """The body, writable, no copy; the same memory as array()."""
    def is_disconnected(self) -> bool:
        """Whether the client has left. No system call."""
    def reply(
        self,
        status: int,
        headers: Sequence[tuple[builtins.bytes, builtins.bytes]],
        payload: list[Any],
        borrow: bool = False,
    ) -> None:
        """Send the answer; the exchange is finished. payload: [] for no body, else one bytes-like or C-contiguous
        ndarray, which is taken out of the list. Sent from where it lies when it is bytes, or an ndarray (and its base)
        that nothing else refers to, or borrow is True; copied first otherwise. Content-Length, Date and Connection are
        added. Headers must be checked already (names tokens, values without CR, LF, NUL).

        Raises RuntimeError on a second reply, TypeError/BufferError/ValueError for a payload that can't be sent (the
        exchange is then not finished and the payload is back in the list)."""
