"""Each allocation of Python's fails once, one at a time, in what _core does: run by test_starving.

    starving.py LAST    the first to the LASTth allocation of each operation

An operation must end well or in MemoryError, and what comes after it must work. One thread does all
of it, so that no other Python code can run out of memory.
"""

from __future__ import annotations

import _testcapi
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from coreserver import DEFAULTS, ROUTES, route

from fastpredict import _core

HEADERS = [(b"Content-Type", b"text/plain"), (b"X-Field", b"a value")]
REQUEST = (
    b"POST /echo?a=b HTTP/1.1\r\nHost: t\r\nX-Field: a\r\nX-Field: b\r\nConnection: close\r\n"
    b"Content-Length: 16\r\n\r\n" + b"abcd" * 4
)


def starve(which: int, operation: Callable[[], object]) -> bool:
    """Whether the operation ran out of memory."""
    _testcapi.set_nomemory(which, which + 1)
    try:
        operation()
    except MemoryError:
        return True
    finally:
        _testcapi.remove_mem_hooks()
    return False


def text(exchange: _core.Exchange) -> None:
    exchange.reply(200, HEADERS, [b"text", bytearray(b"more")], reason=b"Well")


def arrays(exchange: _core.Exchange) -> None:
    shifted = exchange.array(np.dtype("f4"), (3,), offset=1)
    exchange.reply(200, [], [exchange.array(np.dtype("f4"), (2, 2)), exchange.body, shifted])


def whole(exchange: _core.Exchange) -> None:
    exchange.reply(200, [], [exchange.bytes()])


def large(exchange: _core.Exchange) -> None:
    lent = np.zeros(5000)
    exchange.reply(200, [], [np.zeros(5000), lent, memoryview(bytes(9000))])


def borrowed(exchange: _core.Exchange) -> None:
    exchange.reply(200, [], [np.zeros(5000), bytearray(9000)], borrow=True)


def parts(exchange: _core.Exchange) -> None:
    exchange.begin(200, HEADERS, content_length=8, reason=b"Well")
    exchange.write(b"four")
    exchange.write(memoryview(b"more"))
    exchange.end()


def ask(exchange: _core.Exchange) -> None:
    for name in ("method", "path", "query", "target", "http_version", "headers", "client"):
        getattr(exchange, name)
    for name in ("x-field", "host", "absent"):
        exchange.header(name)
    exchange.reply(204, [], [])


def finish(exchange: _core.Exchange) -> None:
    """Answers where the operation has not."""
    try:
        exchange.reply(500, [], [b"starved"])
    except RuntimeError:  # answered, or begun
        try:
            exchange.end(False)
        except RuntimeError:
            return


def take_and_starve(server: _core.Server, which: int, operation: Any) -> bool:
    exchange = server.take()
    assert exchange is not None
    starved = starve(which, lambda: operation(exchange))
    finish(exchange)
    return starved


def ask_server(address: tuple[str, int], server: _core.Server, which: int, operation: Any) -> bool:
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(REQUEST)
        starved = take_and_starve(server, which, operation)
        while client.recv(65536):
            pass
    return starved


def starve_exchanges(last: int) -> int:
    server = _core.Server(list(ROUTES), **DEFAULTS)
    address = ("127.0.0.1", server.listen_tcp("127.0.0.1", 0))
    server.start()
    server.set_ready()
    starved = 0
    for operation in (text, arrays, whole, large, borrowed, parts, ask):
        for which in range(last):
            starved += ask_server(address, server, which, operation)
    starved += sum(starve(which, server.stats) for which in range(last))
    server.stop()
    assert server.join(30)
    return starved


def starve_making(last: int) -> int:
    def listen(how: str, *arguments: Any) -> None:
        getattr(_core.Server(list(ROUTES), **DEFAULTS), how)(*arguments)

    bound = socket.create_server(("127.0.0.1", 0))
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "socket")
    making: tuple[Callable[[], object], ...] = (
        lambda: route("/c", unit=4, expected="four"),
        lambda: listen("listen_tcp", "127.0.0.1", 0),
        lambda: listen("listen_unix", path, 0o600),
        lambda: listen("listen_fd", bound.fileno()),
    )
    with bound, folder:
        return sum(starve(which, make) for make in making for which in range(last))


if __name__ == "__main__":
    print(starve_making(int(sys.argv[1])) + starve_exchanges(int(sys.argv[1])))
