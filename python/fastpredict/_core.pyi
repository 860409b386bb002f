"""The extension: libfastpredict's server under Python. Private; the package's own modules are its only callers."""

import builtins
from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

LIBH2O_VERSION: Final[str]

# What Exchange.kind says of a body; the network thread decides it from Content-Type.
BODY_RAW: Final[int]
BODY_NPY: Final[int]
BODY_JSON: Final[int]

@final
class Route:
    """One route, as the network thread needs it to refuse a request at its head. Immutable.

    mount: path is a prefix of whole segments ("/" of every path), for any method, type and length of body; found after
    every exact path, the longest first.
    any_body: POST, with a body of any type and length.
    control: requests wait for take_control(), even before set_ready(); their bodies have at most 1 MiB.
    What follows is for predict routes only.
    raw_unit_bytes: a raw body is a whole multiple of this; exactly this when raw_exact. 0: only an empty body.
    raw_allowed: False when raw bytes can't tell the shape (two -1): 400, send .npy.
    npy_max_bytes: the largest .npy body that can suit, header included; 0 for no bound.
    expected: how to say it, e.g. "float32 of shape (3000, 2500), 30000000 bytes".
    """

    def __new__(
        cls,
        path: str,
        *,
        mount: bool = False,
        any_body: bool = False,
        control: bool = False,
        raw_unit_bytes: int = 0,
        raw_exact: bool = False,
        raw_allowed: bool = True,
        npy_max_bytes: int = 0,
        expected: str = "",
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
    def take_control(self) -> Exchange | None:
        """The next complete request of a control route; None when none waits. The control thread, after reap()."""
    def reap(self) -> bool:
        """One turn of the control thread: wait, drop what the network thread is done with, trim idle memory. It ends early
        when a control route was asked for.

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
    def is_client_memory(self) -> bool:
        """Whether the body lies in memory that the client lends until the reply (docs/memory.md).

        It may write there next: arrays and body are read-only, and what is kept must be copied."""
    @property
    def queued_ns(self) -> int:
        """When the request was whole and began to wait for a thread, by time.monotonic_ns()."""
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str:
        """Percent-decoded, without the query; invalid UTF-8 as surrogate escapes."""
    @property
    def query(self) -> str:
        """Without the "?", still encoded; "" when there is none."""
    @property
    def target(self) -> str:
        """The request target as it was sent, as latin-1."""
    @property
    def http_version(self) -> str:
        """ "HTTP/1.1" or "HTTP/1.0"."""
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
        multiple of 64; over a client's memory read-only, and aligned as the client has placed it. Copied only when it
        would be unaligned for dtype. Keeps its memory alive by itself.

        Raises ValueError when it does not fit in the body, TypeError for a dtype that holds objects."""
    def bytes(self) -> builtins.bytes:
        """The body as a bytes object made in place, no copy. Only before array() or body; a copy after them, and of a
        client's memory."""
    @property
    def body(self) -> memoryview:
        """The body, no copy; the same memory as array(), and as writable."""
    def is_disconnected(self) -> bool:
        """Whether the client has left. No system call."""
    def reply(
        self,
        status: int,
        headers: Sequence[tuple[builtins.bytes, builtins.bytes]],
        payload: list[Any],
        borrow: bool = False,
        reason: builtins.bytes | None = None,
    ) -> None:
        """Send the answer; the exchange is finished. payload: bytes-likes and C-contiguous ndarrays, sent one
        after another ([] for no body), which are taken out of the list. Each is sent from where it lies when it is bytes,
        or an ndarray (and its base) that nothing else refers to, or borrow is True; copied first otherwise, and always
        where it lies in the request's own memory and that is the client's. Where the client has lent memory for the
        answer and that of a 2xx fits there, all of it is copied there, the GIL released for a large one. Content-Length,
        Connection and, where it is missing, Date are added. Headers must be checked already (names tokens, values
        without CR, LF, NUL).
        reason: the phrase of the status line; None for the standard one.

        Raises RuntimeError on a second reply, TypeError/BufferError/ValueError for a payload that can't be sent (the
        exchange is then not finished and the payload is back in the list)."""
    def begin(
        self,
        status: int,
        headers: Sequence[tuple[builtins.bytes, builtins.bytes]],
        content_length: int | None = None,
        reason: builtins.bytes | None = None,
    ) -> None:
        """Begin an answer in parts; write() and end() follow. Its head goes out with the first of them.

        content_length: of all parts together; None: chunked, or until the connection closes (HTTP/1.0).

        Raises RuntimeError after reply() or another begin(), ValueError for a status or length out of range."""
    def write(self, block: Buffer) -> bool:
        """Send a part from where it lies; returns once the kernel has taken all of it, the GIL released meanwhile.

        False: the client has left, or was put out for reading too slowly; only end() makes sense then. What may have no
        body (HEAD, 204, 304) sends none. An empty block sends the head alone.

        Raises RuntimeError without begin(), ValueError when it passes content_length (nothing of it is sent)."""
    def end(self, whole: bool = True) -> None:
        """The exchange is finished. whole False, or fewer bytes than content_length: the connection is cut, so that the
        client sees that something is missing.

        Raises RuntimeError without begin()."""

@final
class Region(Buffer):
    """Bytes of a file, mapped and shared with whoever else has it mapped: memory of another process.

    Exports the buffer protocol: np.frombuffer(memoryview(region), dtype) makes an array over it without a copy, which
    keeps it mapped. Where the file is cut short, zeros are read, and faulted tells; the process lives on.
    """

    def __new__(cls, fd: int, offset: int, length: int, writable: bool = False) -> Region:
        """offset and length in bytes, of any alignment; fd may be closed afterwards.

        Raises ValueError where they don't lie in the file or length is 0, OSError where it can't be mapped, MemoryError."""
    @property
    def nbytes(self) -> int: ...
    @property
    def writable(self) -> bool: ...
    @property
    def faulted(self) -> bool:
        """Whether zeros stood in for some of it, once at least: what was read or written is not to be believed."""
