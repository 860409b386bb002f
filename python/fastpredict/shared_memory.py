"""Memory that clients on this host lend: Triton's system shared memory extension.

A client makes a shared memory object, registers a part of it as a region, and names regions in its
inference requests in place of sending tensors: an input is an array over the region, an output is
written there. A region is mapped once, when it is registered, and stays mapped while a request or
an array uses it, whatever is unregistered meanwhile.

The memory stays the client's. It may write there again as soon as it has the answer, so arrays over
it are read-only and valid until then: a handler that keeps one keeps a copy. It may also cut the
object short at any time; zeros are read from then on, requests fail with a sentence, and the region
must be registered anew.

Who may connect from this host can have any shared memory object of the server's user read and
written. So it is off unless the server was started with ``--allow-client-shm``.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from fastpredict import _core
from fastpredict.decode import BadInput

if TYPE_CHECKING:
    from fastpredict.inference import Region

#: Regions that may be registered at a time, of all clients together.
MAX_REGIONS: Final = 256
#: Characters of a region's name.
MAX_NAME: Final = 255

#: Where shm_open() has its objects on Linux.
FOLDER: Final = b"/dev/shm/"

# Without O_NONBLOCK, a lease on the file (fcntl F_SETLEASE) would hold up the control thread.
_OPEN_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

# Addresses as Exchange.client has them; a host on the network can't have one of these.
_LOCAL: Final = ("127.", "[::1]:", "[::ffff:127.")
# Who sends one of these passes on what somebody else asked for: a proxy, a browser's page.
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "via", "origin")


class Registered(NamedTuple):
    """A region that can be used: what the client said of it, and its memory."""

    key: str
    offset: int
    memory: _core.Region


class ClientMemory:
    """The regions of one server, and whether there may be any.

    The control thread registers and unregisters; predict threads look regions up, which needs no
    lock: each is one operation on a dict.
    """

    def __init__(self, allowed: bool = False) -> None:
        self.allowed: Final = allowed
        self._regions: dict[str, Registered] = {}  # changed by the control thread alone

    def check(self, exchange: _core.Exchange) -> None:
        """Raise BadInput, 403, unless the client may use shared memory. Any thread."""
        if not self.allowed:
            raise BadInput(
                403, "shared memory isn't served: the server runs without --allow-client-shm"
            )
        client = exchange.client
        if client != "unix" and not client.startswith(_LOCAL):
            raise BadInput(403, f"shared memory is for clients on this host; you are {client}")
        if any(exchange.header(name) is not None for name in _FORWARDED):
            raise BadInput(
                403, "shared memory isn't for requests that a proxy or browser passes on"
            )

    def lend(self, exchange: _core.Exchange) -> Loan:
        """Begin one request's use of the regions. A predict thread."""
        return Loan(self, exchange)

    def find(self, name: str) -> Registered:
        """Return a region that is registered and whole; else raise BadInput. Any thread."""
        registered = self._regions.get(name)
        if registered is None:
            raise BadInput(400, f"there is no shared memory region {name!r:.100}: register it")
        if registered.memory.faulted:
            raise _cut_short(name)
        return registered

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Map a part of a shared memory object as a region. The control thread.

        Parameters
        ----------
        name
            Of the region; free, or that of one that was cut short.
        key
            Of the object, as shm_open() takes it: a name, with or without a slash before it.
        offset, byte_size
            The part, in bytes: ``byte_size`` 1 or more.

        Raises
        ------
        BadInput
            The name is taken; there are too many regions; there is no such object, it isn't of the
            server's user, or isn't that large.
        """
        taken = self._regions.get(name)
        if taken is not None and not taken.memory.faulted:
            raise BadInput(400, f"the region {name!r:.100} is registered already; unregister it")
        if len(name) > MAX_NAME or not name.isprintable():
            raise BadInput(400, f"a region's name is printable, at most {MAX_NAME} characters")
        if taken is None and len(self._regions) >= MAX_REGIONS:
            raise BadInput(400, f"{MAX_REGIONS} regions are registered already; unregister some")
        self._regions[name] = Registered(key, offset, _map(key, offset, byte_size))

    def unregister(self, name: str | None = None) -> None:
        """Forget a region, or all; one that isn't there is no error, as in Triton.

        The memory stays mapped while requests and arrays use it. The control thread.
        """
        if name is None:
            self._regions.clear()
        else:
            self._regions.pop(name, None)

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """Describe a region, or all, as the protocol does. The control thread.

        Raises BadInput for a name that isn't registered.
        """
        if name is not None and name not in self._regions:
            raise BadInput(400, f"there is no shared memory region {name!r:.100}")
        return [
            {"name": each, "key": key, "offset": offset, "byte_size": memory.nbytes}
            for each, (key, offset, memory) in self._regions.items()
            if name in (None, each)
        ]


#: The memory of clients for who has no server with the option.
NOT_ALLOWED: Final = ClientMemory()


class Loan:
    """One request's use of regions: inference.SharedMemory. One predict thread, one request."""

    __slots__ = ("_exchange", "_held", "_memory")

    def __init__(self, memory: ClientMemory, exchange: _core.Exchange) -> None:
        self._memory = memory
        self._exchange = exchange
        self._held: dict[str, _core.Region] = {}

    def hold(self, region: Region) -> None:
        """Look a region up and keep it. Raises BadInput unless the client may use this piece."""
        if not self._held:
            self._memory.check(self._exchange)
        if region.name not in self._held:
            self._held[region.name] = self._memory.find(region.name).memory
        nbytes = self._held[region.name].nbytes
        if region.byte_size > nbytes - region.offset:
            raise BadInput(
                400,
                f"{region.byte_size} bytes from offset {region.offset} go beyond the {nbytes} bytes"
                f" of the shared memory region {region.name!r:.100}",
            )

    def view(self, region: Region) -> memoryview:
        """Return the bytes of a region that is held, read-only."""
        end = region.offset + region.byte_size
        return memoryview(self._held[region.name])[region.offset : end].toreadonly()

    def store(self, region: Region, data: npt.NDArray[Any] | bytes) -> None:
        """Copy a C-contiguous array, or bytes, to the beginning of a region that is held.

        NumPy does it, which lets go of the GIL, and minds a result that lies in the same memory.
        """
        source = (
            np.frombuffer(data, np.uint8)
            if isinstance(data, bytes)
            else data.reshape(-1).view(np.uint8)
        )
        if source.size:
            memory = memoryview(self._held[region.name])
            room = np.frombuffer(memory, np.uint8, source.size, region.offset)
            np.copyto(room, source)

    def settled(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a C-contiguous array, copied where it may lie in a region: those are read-only.

        The network thread would read it after the check, and send zeros for what is cut short.
        """
        return output.copy() if self._held and not output.flags.writeable else output

    def check(self) -> None:
        """Raise BadInput where zeros stood in for what a client cut short, in any use so far."""
        for name, memory in self._held.items():
            if memory.faulted:
                raise _cut_short(name)


def copied(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a copy of an array over a client's memory, read-only as well; others as they are.

    For ``--copy-client-memory``: where a handler's results change with it, the handler keeps an
    array that it ought to copy. Arrays over anything but a client's memory are writable.
    """
    if array.flags.writeable:
        return array
    copy = array.copy("K")
    copy.flags.writeable = False
    return copy


def _cut_short(name: str) -> BadInput:
    return BadInput(
        400,
        f"the memory of the shared memory region {name!r:.100} can't be had any more: its object"
        " was cut short, or there was no room for it; register it anew",
    )


# ---- mapping -------------------------------------------------------------------------------------


def _map(key: str, offset: int, byte_size: int) -> _core.Region:
    fd = _open(key)
    try:
        file = os.fstat(fd)
        if not stat.S_ISREG(file.st_mode):
            raise BadInput(400, f"{key!r:.100} is no shared memory object")
        if file.st_uid != os.geteuid():
            raise BadInput(403, f"{key!r:.100} belongs to another user than the server's")
        if byte_size > file.st_size - offset:
            raise BadInput(
                400,
                f"{byte_size} bytes from offset {offset} go beyond the {file.st_size} bytes of"
                f" {key!r:.100}",
            )
        return _core.Region(fd, offset, byte_size, writable=True)
    except (OSError, ValueError) as error:  # ValueError: cut short since
        raise BadInput(400, f"{key!r:.100} can't be mapped: {error}") from None
    except MemoryError:
        raise BadInput(503, f"there is no room to map {byte_size} bytes of {key!r:.100}") from None
    finally:
        os.close(fd)


def _open(key: str) -> int:
    """Open an object as shm_open() does: no folders, no links, leading slashes don't count."""
    name = key.lstrip("/")
    if not name.isprintable() or "/" in name or name in ("", ".", ".."):
        raise BadInput(400, f"the key {key!r:.100} can't be; expected a name such as '/input'")
    try:
        return os.open(FOLDER + name.encode("utf-8"), _OPEN_FLAGS)
    except OSError as error:
        raise BadInput(400, f"{key!r:.100} can't be opened: {error.strerror}") from None


# ---- control requests ----------------------------------------------------------------------------

_Action: TypeAlias = Literal["status", "register", "unregister"]


def find_answer(
    exchange: _core.Exchange, path: list[str], memory: ClientMemory
) -> tuple[str, Callable[[], tuple[int, Any]]] | None:
    """Return the methods of a path and what answers it: status and JSON. The control thread.

    ``path`` is what follows "/v2", in segments. None where nothing is served. What answers raises
    BadInput.
    """
    match path:
        case ["systemsharedmemory" | "cudasharedmemory", "status" | "unregister"]:
            name = None
        case [
            "systemsharedmemory" | "cudasharedmemory",
            "region",
            name,
            "status" | "register" | "unregister",
        ] if name:
            pass
        case _:
            return None
    action = cast("_Action", path[-1])
    methods = "GET, HEAD" if action == "status" else "POST"
    if path[0] == "cudasharedmemory":
        return methods, lambda: _answer_cuda(action, name)
    return methods, lambda: _answer(exchange, action, name, memory)


def _answer(
    exchange: _core.Exchange, action: _Action, name: str | None, memory: ClientMemory
) -> tuple[int, Any]:
    memory.check(exchange)
    if action == "status":
        return 200, memory.status(name)
    if action == "unregister":
        memory.unregister(name)
    else:
        assert name is not None
        memory.register(name, *_read_registration(exchange))
    return 200, {}


def _read_registration(exchange: _core.Exchange) -> tuple[str, int, int]:
    """Return the key, the offset and the size. Raises BadInput."""
    try:
        asked = json.loads(exchange.bytes())
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise BadInput(400, "the body must be JSON, an object with key, offset and byte_size")
    key, offset, byte_size = asked.get("key"), asked.get("offset", 0), asked.get("byte_size")
    if not isinstance(key, str):
        raise BadInput(400, "'key' must be a string, the name of a shared memory object")
    if type(offset) is not int or offset < 0:
        raise BadInput(400, "'offset' must be a number of bytes")
    if type(byte_size) is not int or byte_size < 1:
        raise BadInput(400, "'byte_size' must be a number of bytes, 1 or more")
    return key, offset, byte_size


def _answer_cuda(action: _Action, name: str | None) -> tuple[int, Any]:
    """There are never any regions of CUDA; so to unregister all of them, as clients do, is easy."""
    if action == "register" or (action == "status" and name is not None):
        raise BadInput(400, "CUDA shared memory isn't served; expected system shared memory")
    return 200, [] if action == "status" else {}
