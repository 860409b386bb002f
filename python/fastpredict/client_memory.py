"""An arena of memory that can be lent to a server on the same host: arrays that lie in memfds.

Each memfd is a segment: blocks of one size, sealed against shrinking and growing, and mapped once.
A block belongs to the arrays over it; when the last of them has gone it is idle, and what it holds
of memory stays for the next taker, up to a bound. Segments are few and large, because a server
keeps few mappings for a connection (docs/memory.md).

Any thread. A block may come back in the middle of anything, since garbage may be collected
anywhere: nothing waits for the lock there.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import threading
import time
import weakref
from bisect import bisect_right
from collections import deque
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fastpredict.client_codec import Array

#: Room before each block, for what must precede an array in a body: a header of .npy, or JSON.
#: Whole pages, as blocks are, so that giving one back takes nothing of its neighbours.
LEAD_BYTES: Final = max(4 << 10, mmap.PAGESIZE)
#: Idle blocks keep so much memory, for so long; checked as blocks come and go.
IDLE_BYTES_MAX: Final = 1 << 30
IDLE_SECONDS_MAX: Final = 60.0

_BLOCK_BYTES_MIN: Final = 64 << 10
_SEGMENT_BYTES: Final = 256 << 20
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Segment:
    """A memfd and its mapping; both go with the last reference. Raises OSError, ValueError."""

    __slots__ = (
        "__weakref__", "_map", "address", "arena", "block_bytes", "count", "fd", "lead_users",
        "live", "nbytes", "pid", "retired", "touched",
    )  # fmt: skip

    def __init__(self, arena: Arena, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.count = max(1, _SEGMENT_BYTES // self.stride)
        self.nbytes = self.stride * self.count
        self.arena = weakref.ref(arena)
        self.pid = os.getpid()
        self.live = 0  # blocks that arrays lie in
        self.retired = False
        self.lead_users: set[int] = set()  # blocks whose lead is part of a request
        self.touched = [0] * self.count  # bytes of each block that may hold memory
        self.fd = os.memfd_create("fastpredict", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Not at exit, too: calls may still be made then, and the number be another file's by then.
        weakref.finalize(self, os.close, self.fd).atexit = False
        os.ftruncate(self.fd, self.nbytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._map = mmap.mmap(self.fd, self.nbytes)
        self.address: int = np.frombuffer(self._map, np.uint8).ctypes.data

    @property
    def stride(self) -> int:
        return LEAD_BYTES + self.block_bytes

    def start(self, index: int) -> int:
        """Where a block begins, from the beginning of the segment."""
        return index * self.stride + LEAD_BYTES

    def cool(self, index: int) -> None:
        """Give the memory of a block back to the system; the address range stays."""
        with contextlib.suppress(OSError):  # without it, memory is kept until the segment goes
            self._map.madvise(mmap.MADV_REMOVE, index * self.stride, self.stride)
        self.touched[index] = 0


class _Hold:
    """What arrays over a block have as their base; its end gives the block back."""

    __slots__ = ("__array_interface__", "_index", "_segment")

    def __init__(self, segment: Segment, index: int, nbytes: int) -> None:
        self._segment = segment
        self._index = index
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (nbytes,),
            "data": (segment.address + segment.start(index), False),
        }

    def __del__(self) -> None:
        arena = self._segment.arena()
        if arena is not None:
            arena.give_back(self._segment, self._index)


class Range(NamedTuple):
    """Bytes of a segment."""

    segment: Segment
    offset: int
    nbytes: int

    def overlaps(self, other: Range) -> bool:
        return (
            self.segment is other.segment
            and self.offset < other.offset + other.nbytes
            and other.offset < self.offset + self.nbytes
        )


class Arena:
    """Blocks for arrays, by size: powers of two.

    A forked child begins with none; arrays that it inherited remain memory shared with its parent.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[tuple[Segment, int]]] = {}  # the last is the one used last
        self._idle: dict[tuple[Segment, int], float] = {}  # holding memory; since when, in order
        self._idle_bytes = 0
        self._index: tuple[list[int], list[Segment]] = ([], [])  # by address; replaced, not changed
        self._returned: deque[tuple[Segment, int]] = deque()
        self._pid = os.getpid()
        self._closed = False

    # ---- arrays out and in -----------------------------------------------------------------------

    def octets(self, nbytes: int) -> npt.NDArray[np.uint8] | None:
        """Return uninitialised bytes, aligned to 64; None where there is no such memory."""
        self._check_fork()
        size = max(_BLOCK_BYTES_MIN, 1 << max(nbytes - 1, 0).bit_length())
        try:
            with self._lock:
                segment, index = self._take(size, nbytes)
        except (OSError, OverflowError, ValueError):  # no descriptor, no addresses, too large
            return None
        finally:
            self.settle()
        return np.asarray(_Hold(segment, index, nbytes))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """As numpy.empty, in a block; in plain memory where that can't be."""
        plain = dtype.hasobject or dtype.itemsize == 0 or dtype.subdtype is not None
        if plain or min(shape, default=0) < 0:
            return np.empty(shape, dtype)
        octets = self.octets(math.prod(shape) * dtype.itemsize)
        return np.empty(shape, dtype) if octets is None else octets.view(dtype).reshape(shape)

    def give_back(self, segment: Segment, index: int) -> None:
        """Take a block whose last array has gone. Never waits."""
        if segment.pid != os.getpid():
            return
        self._returned.append((segment, index))
        self.settle()

    def settle(self) -> None:
        """Take in what has come back, unless somebody is at it, who does so in the end."""
        while self._returned and self._lock.acquire(blocking=False):
            try:
                self._take_in()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Let go of idle memory now, and of the rest as its arrays go."""
        self._check_fork()
        with self._lock:
            self._closed = True
            self._trim()
        self.settle()

    # ---- memory in use ---------------------------------------------------------------------------

    def find(self, octets: npt.NDArray[np.uint8]) -> Range | None:
        """Say where in a segment these bytes lie, if they do."""
        self._check_fork()
        bases, segments = self._index
        address: int = octets.__array_interface__["data"][0]
        place = bisect_right(bases, address) - 1
        if place < 0:
            return None
        segment = segments[place]
        offset = address - segment.address
        if offset + octets.nbytes > segment.nbytes:
            return None
        return Range(segment, offset, octets.nbytes)

    def take_lead(self, body: Range, head: bytes) -> Range | None:
        """Write ``head`` directly before bytes that begin a block; None where there is no room.

        It is the caller's until :meth:`give_lead`."""
        segment = body.segment
        index, within = divmod(body.offset, segment.stride)
        if within != LEAD_BYTES or len(head) > LEAD_BYTES:
            return None
        with self._lock:
            if index in segment.lead_users:
                return None
            segment.lead_users.add(index)
        start = body.offset - len(head)
        segment._map[start : body.offset] = head
        self.settle()
        return Range(segment, start, len(head) + body.nbytes)

    def give_lead(self, body: Range) -> None:
        with self._lock:
            body.segment.lead_users.discard(body.offset // body.segment.stride)
        self.settle()

    def retire(self, segment: Segment) -> None:
        """Hand out nothing of it any more: a server may still be reading it, or writing."""
        with self._lock:
            segment.retired = True
            self._forget_free(segment)
            self._drop_unused(segment)
        self.settle()

    # ---- under the lock --------------------------------------------------------------------------

    def _take(self, size: int, nbytes: int) -> tuple[Segment, int]:
        free = self._free.setdefault(size, [])
        if not free:
            segment = Segment(self, size)
            free.extend((segment, index) for index in reversed(range(segment.count)))
            self._reindex([*self._index[1], segment])
        segment, index = free.pop()
        if self._idle.pop((segment, index), None) is not None:
            self._idle_bytes -= segment.touched[index]
        segment.touched[index] = max(segment.touched[index], nbytes, 1)
        segment.live += 1
        return segment, index

    def _take_in(self) -> None:
        now = time.monotonic()
        while self._returned:
            segment, index = self._returned.popleft()
            segment.live -= 1
            if not segment.retired:
                self._free[segment.block_bytes].append((segment, index))
                self._idle[segment, index] = now
                self._idle_bytes += segment.touched[index]
            self._drop_unused(segment)
        self._trim(now)

    def _trim(self, now: float = math.inf) -> None:
        """Keep to the bounds; those idle for longest go first."""
        limit = 0 if self._closed else IDLE_BYTES_MAX
        while self._idle:
            (segment, index), since = next(iter(self._idle.items()))
            if self._idle_bytes <= limit and now - since <= IDLE_SECONDS_MAX:
                break
            del self._idle[segment, index]
            self._idle_bytes -= segment.touched[index]
            segment.cool(index)
            self._drop_unused(segment)

    def _drop_unused(self, segment: Segment) -> None:
        if segment.live or not (segment.retired or not any(segment.touched)):
            return
        self._forget_free(segment)
        self._reindex([each for each in self._index[1] if each is not segment])

    def _forget_free(self, segment: Segment) -> None:
        """Make nothing of it free, and so nothing of it idle."""
        free = self._free[segment.block_bytes]
        for entry in free:
            if entry[0] is segment and self._idle.pop(entry, None) is not None:
                self._idle_bytes -= segment.touched[entry[1]]
        self._free[segment.block_bytes] = [entry for entry in free if entry[0] is not segment]

    def _reindex(self, segments: list[Segment]) -> None:
        segments.sort(key=lambda segment: segment.address)
        self._index = ([segment.address for segment in segments], segments)

    def _check_fork(self) -> None:
        if self._pid != os.getpid():
            closed = self._closed
            self._start()  # the lock may have been held by a thread that the child doesn't have
            self._closed = closed
