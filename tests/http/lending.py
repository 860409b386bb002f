"""A raw client that lends its memory: memfds, and heads that go out with descriptors."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rawhttp import DEADLINE, RawClient, request

SHRINK = fcntl.F_SEAL_SHRINK


class Memory:
    """A memfd of so many bytes, mapped here."""

    def __init__(self, size: int, *, seals: int = SHRINK) -> None:
        self.fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        if seals:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        self.map = mmap.mmap(self.fd, size)

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.map.close()
        os.close(self.fd)

    def grow(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        self.map.resize(size)


def span(offset: int, length: int) -> str:
    return f"offset={offset}; length={length}"


def lend(offset: int, length: int) -> str:
    """The field that names the body."""
    return f"Fastpredict-Memfd: {span(offset, length)}"


def room(offset: int, length: int) -> str:
    """The field that names where the answer may go."""
    return f"Fastpredict-Answer-Memfd: {span(offset, length)}"


def lending(target: str, *fields: str) -> bytes:
    """The head of a request without a body of its own."""
    return request("POST", target, *fields)


def send_with(client: RawClient, data: bytes, fds: Iterable[int]) -> None:
    """One message, which all of these descriptors go along with."""
    sent = socket.send_fds(client.socket, [data], list(fds))
    client.send(data[sent:])


def mappings_of(name: str = "memfd:test") -> int:
    """How often memory of this name is mapped in this process."""
    return sum(name in line for line in Path("/proc/self/maps").read_text().splitlines())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def until(condition: Callable[[], bool]) -> None:
    """Waits for it, no longer than anything here."""
    over = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < over
        time.sleep(0.002)
