"""Client: calls a predict server and blocks until the answer is there."""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from fastpredict.client_codec import Array
from fastpredict.client_core import (
    DEFAULT_POOL_SIZE,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT,
    Core,
)
from fastpredict.client_exchange import (
    READ,
    WRITE,
    Limits,
    Pause,
    Progress,
    Steps,
    Wait,
)
from fastpredict.response import HeadersLike

T = TypeVar("T")

_POLL_MS_MAX = 3_600_000
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Client:
    """Calls predict routes of one server. Thread-safe; connections are kept and shared.

    An array is sent from its own memory, and the answer is received into the result's, or into
    ``out``: nothing is copied on the way.

    Parameters
    ----------
    url
        ``http://host:port``, ``unix:/path`` or ``unix:///path``; what ``Server.url`` says. A path
        after host and port is put before that of every call.
    timeout
        The most seconds that one call may take, all included: connecting, sending, the handler,
        receiving, and trying again. None is no bound. Only the system's resolver takes the time
        that it takes to look up a host's name.
    retries
        How many times a call is sent again that was answered 503 with a ``Retry-After`` of at most
        30 s; each time after at least so long, and never beyond ``timeout``. 0 is never.
    pool_size
        The most connections at any moment; a call that finds them all in use waits for one. They
        are kept open for the next calls.
    headers
        Sent with every request: a mapping or pairs of str.
    memfd
        Whether large arrays are lent to a server on the same host instead of being sent: by a
        memfd that goes along with the request's head (docs/memory.md). None: over ``unix:``, where
        that is faster and the server can. True: always, and ``BadResponse`` where the server can't.
        False: never.

    Raises
    ------
    TypeError, ValueError
        For an argument that can't be. Nothing is connected before the first call.

    Notes
    -----
    A call that fails raises a :class:`fastpredict.ClientError`: ``ClientConnectionError``,
    ``ClientTimeoutError``, ``BadResponse``, or a ``StatusError`` with ``status`` and ``message``,
    which is ``BadInput`` (4xx), ``Unavailable`` (503, 504) or ``HandlerError`` (other 5xx).

    A request on a kept connection that ends without a byte of an answer is sent once more on a new
    one, so a handler may be called twice where a server dies at it. After the first byte of an
    answer nothing is repeated.

    Forked children may go on using a client: they connect anew. Arrays of :meth:`empty` that they
    inherit stay shared with their parent, though: what one writes the other sees.

    Examples
    --------
    >>> with fastpredict.Client("http://127.0.0.1:8000") as client:
    ...     rows = client.predict(image)
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        retries: int = DEFAULT_RETRIES,
        pool_size: int = DEFAULT_POOL_SIZE,
        headers: HeadersLike | None = None,
        memfd: bool | None = None,
    ) -> None:
        self._core = Core(
            url,
            timeout=timeout,
            retries=retries,
            pool_size=pool_size,
            headers=headers,
            memfd=memfd,
        )
        self._start()

    def _start(self) -> None:
        self._slots = threading.Semaphore(self._core.pool_size)
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """The URL as it was given."""
        return self._core.address.url

    def predict(
        self,
        array: npt.ArrayLike,
        path: str = "/predict",
        out: Array | None = None,
        *,
        npy: bool | None = None,
        timeout: float | Literal["client"] | None = "client",
        retries: int | None = None,
        progress: Progress | None = None,
    ) -> Array:
        """Call a predict route with an array and return the array that it answers.

        Parameters
        ----------
        array
            Any dtype without Python objects, any shape. C-contiguous memory is sent from where it
            lies; anything else is copied once first (with ``npy``, Fortran order is not). Don't
            change it before the call returns. Bytes are uint8; lists and scalars become arrays as
            by ``numpy.asarray``.
        path
            The route, with a query where the handler reads one: ``"/predict?threshold=3"``.
        out
            Memory for the answer: C-contiguous, writable, of its dtype and shape. It is returned.
            Worth it for large answers, since fresh memory costs more than receiving does; an array
            of :meth:`empty` is written by the server itself. After a failed call its contents are
            undefined.
        npy
            How the array is sent. None: as raw bytes, with its dtype and shape beside them, so that
            a route of another dtype or shape refuses it (``BadInput``; ``astype`` is yours to
            call); in .npy form where its byte order is not this machine's. True: in .npy form;
            needed where the route leaves its dtype or more than one axis open. False: raw in any
            case.
        timeout, retries
            In place of the client's own.
        progress
            Called as ``progress("send" or "receive", bytes so far, bytes in all or None)``. Of what
            is lent nothing is sent.

        Returns
        -------
        numpy.ndarray
            Writable, and the caller's alone. Of the dtype and shape that the answer says, by
            ``X-Dtype`` and ``X-Shape``, as .npy or as JSON; other bytes are uint8, 1-D, unless
            ``out`` says what they are.

        Raises
        ------
        ClientError
            See the class. ``BadResponse`` for an answer that is no array, and for one that doesn't
            fit ``out``.
        TypeError, ValueError
            For an argument that can't be sent or received into.
        """
        limits = self._core.limits(timeout, retries, progress)
        return self._run(self._core.predict(array, path, out, npy, limits), limits)

    def infer(
        self,
        name: str,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Iterable[str] | None = None,
        *,
        version: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | Literal["client"] | None = "client",
        retries: int | None = None,
    ) -> dict[str, Array]:
        """Call a model by the Open Inference Protocol v2, tensors in binary; Triton's too.

        Parameters
        ----------
        name, version
            Of the model: ``POST /v2/models/NAME[/versions/VERSION]/infer``.
        inputs
            An array for each input. Sent as by :meth:`predict`; bytes and str in object, S and U
            arrays are BYTES, bfloat16 of ml_dtypes is BF16.
        outputs
            The outputs that are wanted; None for all.
        parameters
            The request's, as the server knows them.

        Returns
        -------
        dict of str to numpy.ndarray
            Parts of one piece of memory, the first aligned to 64. BYTES are arrays of bytes
            objects; BF16 is uint16 where ml_dtypes isn't installed.

        Raises
        ------
        ClientError
            See the class.
        TypeError, ValueError
            For what the protocol can't carry.
        """
        limits = self._core.limits(timeout, retries)
        steps = self._core.infer(name, inputs, outputs, version, parameters, limits)
        return self._run(steps, limits)

    def model_metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """What the server says of a model: ``GET /v2/models/NAME``, as the protocol has it.

        Raises ClientError.
        """
        limits = self._core.limits("client")
        return self._run(self._core.metadata(name, version, limits), limits)

    def is_live(self, *, timeout: float | Literal["client"] | None = "client") -> bool:
        """Whether the server answers (``GET /livez``). False where it can't be reached."""
        limits = self._core.limits(timeout)
        return self._steps(self._core.is_up("/livez", limits))

    def is_ready(self, *, timeout: float | Literal["client"] | None = "client") -> bool:
        """Whether it would take a request now (``GET /readyz``). False where it is gone, too."""
        limits = self._core.limits(timeout)
        return self._steps(self._core.is_up("/readyz", limits))

    def empty(self, shape: int | Iterable[int], dtype: npt.DTypeLike = np.float32) -> Array:
        """Return an array, not initialised, in the memory that this client sends best.

        Over ``unix:`` that is memory which the server can map, so that filling it is the only
        write: :meth:`predict` neither copies nor sends it, nor a contiguous view of it, and
        :meth:`infer` not the array itself where it is the only input. As ``out`` it is where the
        server writes. By TCP, and where the system has no such memory, it is plain memory.

        It is the caller's as any array is, and its memory is used again once it is gone, views and
        all. After a call that timed out or broke the server may still be reading it, and writing
        to what was ``out``: don't expect it to hold still, take another one.

        Examples
        --------
        >>> image = client.empty((3000, 2500))
        >>> camera.read_into(image)
        >>> rows = client.predict(image)
        """
        return self._core.empty(shape, dtype)

    def close(self) -> None:
        """Close the connections. Calls under way end as they would; later ones are RuntimeError."""
        self._core.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<fastpredict.Client {self.url}>"

    def _run(self, steps: Steps[T], limits: Limits) -> T:
        """Run a call as one of ``pool_size``."""
        if self._pid != os.getpid():  # those of the parent's other threads never end here
            self._start()
        slots = self._slots
        if not slots.acquire(blocking=False):
            left = limits.deadline - time.monotonic()
            if not slots.acquire(timeout=None if math.isinf(left) else max(left, 0)):
                raise limits.too_late("waiting for a free connection")
        try:
            return self._steps(steps)
        finally:
            slots.release()

    def _steps(self, steps: Steps[T]) -> T:
        """Run a call on this thread, waiting where it wants to wait."""
        try:
            awaited = next(steps)
            while True:
                if isinstance(awaited, Wait):
                    awaited = steps.send(_poll(awaited))
                elif isinstance(awaited, Pause):
                    time.sleep(awaited.seconds)
                    awaited = steps.send(None)
                else:
                    try:
                        found = socket.getaddrinfo(
                            awaited.host, awaited.port, type=socket.SOCK_STREAM
                        )
                    except (OSError, UnicodeError) as error:
                        awaited = steps.throw(error)
                    else:
                        awaited = steps.send(found)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            steps.close()


def _poll(wait: Wait) -> int:
    poll = select.poll()
    events = (select.POLLIN if wait.events & READ else 0) | (
        select.POLLOUT if wait.events & WRITE else 0
    )
    poll.register(wait.sock, events)
    while True:
        left = wait.deadline - time.monotonic()
        ready = poll.poll(math.ceil(min(max(left * 1000, 0), _POLL_MS_MAX)))
        if ready:
            what = ready[0][1]
            readable = READ if what & (select.POLLIN | _BROKEN) else 0
            return readable | (WRITE if what & (select.POLLOUT | _BROKEN) else 0)
        if time.monotonic() >= wait.deadline:
            return 0
