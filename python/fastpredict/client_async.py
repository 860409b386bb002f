"""AsyncClient: the client for asyncio. The same calls as Client's, awaited."""

from __future__ import annotations

import asyncio
import math
import os
import socket
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
    Resolve,
    Steps,
    Wait,
)
from fastpredict.response import HeadersLike

T = TypeVar("T")


class AsyncClient:
    """As :class:`fastpredict.Client`, for one event loop; arguments, results, errors are the same.

    Sockets are read and written in the loop's thread, as much at once as the kernel has or takes.
    A cancelled call closes its connection, and the server sees that its client has left.

    Examples
    --------
    >>> async with fastpredict.AsyncClient("http://127.0.0.1:8000") as client:
    ...     answers = await asyncio.gather(*(client.predict(image) for image in images))
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
        self._slots = asyncio.Semaphore(self._core.pool_size)
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """The URL as it was given."""
        return self._core.address.url

    async def predict(
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
        """Call a predict route; see :meth:`fastpredict.Client.predict`."""
        limits = self._core.limits(timeout, retries, progress)
        return await self._run(self._core.predict(array, path, out, npy, limits), limits)

    async def infer(
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
        """Call a model; see :meth:`fastpredict.Client.infer`."""
        limits = self._core.limits(timeout, retries)
        steps = self._core.infer(name, inputs, outputs, version, parameters, limits)
        return await self._run(steps, limits)

    async def model_metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """What the server says of a model; see :meth:`fastpredict.Client.model_metadata`."""
        limits = self._core.limits("client")
        return await self._run(self._core.metadata(name, version, limits), limits)

    async def is_live(self, *, timeout: float | Literal["client"] | None = "client") -> bool:
        """Whether the server answers (``GET /livez``). False where it can't be reached."""
        limits = self._core.limits(timeout)
        return await self._steps(self._core.is_up("/livez", limits), limits)

    async def is_ready(self, *, timeout: float | Literal["client"] | None = "client") -> bool:
        """Whether it would take a request now (``GET /readyz``). False where it is gone, too."""
        limits = self._core.limits(timeout)
        return await self._steps(self._core.is_up("/readyz", limits), limits)

    def empty(self, shape: int | Iterable[int], dtype: npt.DTypeLike = np.float32) -> Array:
        """Return an array, not initialised; see :meth:`fastpredict.Client.empty`. Not awaited."""
        return self._core.empty(shape, dtype)

    async def close(self) -> None:
        """Close the connections. Calls under way end as they would; later ones are RuntimeError."""
        self._core.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<fastpredict.AsyncClient {self.url}>"

    async def _run(self, steps: Steps[T], limits: Limits) -> T:
        """Run a call as one of ``pool_size``."""
        slots = await self._acquire(limits)
        try:
            return await self._steps(steps, limits)
        finally:
            slots.release()

    async def _steps(self, steps: Steps[T], limits: Limits) -> T:
        """Run a call in this task, awaiting what it wants to wait for."""
        try:
            awaited = next(steps)
            while True:
                if isinstance(awaited, Wait):
                    awaited = steps.send(await _ready(awaited))
                elif isinstance(awaited, Pause):
                    await asyncio.sleep(awaited.seconds)
                    awaited = steps.send(None)
                else:
                    try:
                        found = await _addresses(awaited, limits)
                    except (OSError, UnicodeError) as error:
                        awaited = steps.throw(error)
                    else:
                        awaited = steps.send(found)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            steps.close()

    async def _acquire(self, limits: Limits) -> asyncio.Semaphore:
        if self._pid != os.getpid():  # those of the parent's tasks never end here
            self._start()
        slots = self._slots
        try:
            async with _until(limits):
                await slots.acquire()
        except TimeoutError:
            raise limits.too_late("waiting for a free connection") from None
        return slots


def _until(limits: Limits) -> asyncio.Timeout:
    left = limits.deadline - time.monotonic()
    return asyncio.timeout(None if math.isinf(left) else left)


async def _addresses(host: Resolve, limits: Limits) -> list[Any]:
    loop = asyncio.get_running_loop()
    timeout = _until(limits)
    try:
        async with timeout:
            return await loop.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        if not timeout.expired():  # the resolver's own
            raise
        raise limits.too_late("looking the host up") from None


async def _ready(wait: Wait) -> int:
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[int] = loop.create_future()

    def wake(events: int) -> None:
        if not woken.done():
            woken.set_result(events)

    left = wait.deadline - time.monotonic()
    timer = None if math.isinf(left) else loop.call_later(max(left, 0), wake, 0)
    try:
        if wait.events & READ:
            loop.add_reader(wait.sock, wake, READ)
        if wait.events & WRITE:
            loop.add_writer(wait.sock, wake, WRITE)
        return await woken
    finally:
        loop.remove_reader(wait.sock)
        loop.remove_writer(wait.sock)
        if timer is not None:
            timer.cancel()
