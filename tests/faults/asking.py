"""A client for programs that serve and ask in one process: exiting.py and others."""

from __future__ import annotations

import http.client
import urllib.parse

TIMEOUT_S = 20


def ask(url: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request on a connection of its own; status and body."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def expect(url: str, path: str = "/length", body: bytes = b"12345", answer: bytes = b"5") -> None:
    got = ask(url, path, body)
    if got != (200, answer):
        raise AssertionError(f"{path} answered {got}, not {answer!r}")
