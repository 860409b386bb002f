"""Many connections side by side, each of which sends its bytes in pieces of its own choice.

What is sent is a packet of its own because the server has read it before the next is sent, which it
tells; nobody sleeps. So thousands of cuts a second can be tried, and each is the cut that it says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

from coreserver import CoreServer
from rawhttp import DEADLINE, RawClient, request

ABREAST = 200  # connections at a time
LIVEZ = request("GET", "/livez")
DATE = re.compile(rb"\r\nDate: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\r\n")

Script = Sequence[bytes]


def play(server: CoreServer, scripts: Sequence[Script]) -> list[bytes]:
    """All that each connection was answered until the server closed it; dates masked."""
    return [
        stream
        for start in range(0, len(scripts), ABREAST)
        for stream in _play_batch(server, scripts[start : start + ABREAST])
    ]


def settle(server: CoreServer) -> None:
    """Returns when the server has read all that was sent before.

    It accepts connections in order and reads those first that were ready first, up to so many at
    once; so the second of two requests on a new connection is read when all the others have been.
    """
    with server.connect() as client:
        for _ in range(2):
            assert client.ask(LIVEZ, method="GET").status == 200


def _play_batch(server: CoreServer, scripts: Sequence[Script]) -> Iterator[bytes]:
    clients = [server.connect() for _ in scripts]
    for at in range(max(map(len, scripts))):
        for client, script in zip(clients, scripts, strict=True):
            if at < len(script):
                client.send_if_open(script[at])
        settle(server)
    until = time.monotonic() + DEADLINE
    for client in clients:
        with client:
            client.socket.settimeout(max(0.1, until - time.monotonic()))
            yield _until_closed(client)


def _until_closed(client: RawClient) -> bytes:
    """What comes, and how it ends where that isn't a proper end."""
    got, pieces = b"-", []
    try:
        while got:
            got = client.read_some(1 << 16)
            pieces.append(got)
    except (ConnectionResetError, TimeoutError) as error:
        pieces.append(f"<{type(error).__name__}>".encode())
    return DATE.sub(b"\r\nDate: *\r\n", b"".join(pieces))
