"""Writes what the fuzzers begin with: the requests of the framing tests, in each target's form.

seeds.py FOLDER    makes FOLDER/head, FOLDER/chunked and FOLDER/conn
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

HTTP = Path(__file__).parent.parent / "http"
sys.path.insert(0, str(HTTP))

import framing_accepted  # noqa: E402
import framing_chunks  # noqa: E402
import framing_refused  # noqa: E402
import framing_table  # noqa: E402

LARGEST = 1500

#: Requests that the framing tables have no reason for: one for each route of conn_fuzz.
ROUTES = (
    *(b"/echo", b"/keep", b"/twelve", b"/fours", b"/empty", b"/npy", b"/any"),
    *(b"/parts", b"/sized", b"/short", b"/bare", b"/v2", b"/v2/health/ready", b"/readyz"),
)
TYPES = (
    *(b"application/octet-stream", b"application/x-npy", b"application/json"),
    *(b"text/plain", b"application/x-www-form-urlencoded; a=b"),
)
FIELDS = (
    *(b"Content-Encoding: gzip", b"Content-Encoding: identity", b"Expect: 100-continue"),
    *(b"Inference-Header-Content-Length: 3", b"Expect: x", b"Connection: close"),
)


def _routes() -> Iterable[bytes]:
    for path in ROUTES:
        good = framing_table.GOOD.replace(b"/echo", path, 1)
        yield good
        yield good.replace(b"POST", b"HEAD", 1)
        yield good.replace(b"POST", b"GET", 1).replace(b"1.1", b"1.0", 1)
        yield framing_table.chunks(b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n", path)
    for field in (*(b"Content-Type: " + kind for kind in TYPES), *FIELDS):
        for path in (b"/echo", b"/npy", b"/any"):
            yield framing_table.posted(b"Content-Length: 5", field, body=b"hello").replace(
                b"/echo", path, 1
            )


def _lent() -> Iterable[bytes]:
    """Requests with memory in each kind of file, which comes with the first byte of the head."""
    body = b"Fastpredict-Memfd: offset=%d; length=%d"
    room = b"Fastpredict-Answer-Memfd: offset=4096; length=%d"
    for path in (b"/echo", b"/keep", b"/any", b"/twelve", b"/parts", b"/bare", b"/v2"):
        for which in (0o1, 0o11, 0o21, 0o2, 0o3, 0o4, 0o5, 0o6, 0o7, 0o71, 0o51, 0o111):
            for fields in ([body % (64, 12)], [body % (0, 12), room % 512], [room % 16]):
                data = framing_table.posted(*fields).replace(b"/echo", path, 1)
                yield b"\xfd" + bytes([which]) + data


def _requests() -> Iterable[bytes]:
    for table in (framing_refused.REFUSED, framing_chunks.TRAILERS, framing_accepted.ACCEPTED):
        yield from (row.data for row in table)


def _bodies(requests: Iterable[bytes]) -> Iterable[bytes]:
    """What comes behind a head that says chunked."""
    for data in requests:
        head, _, body = data.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            yield body


def _streams(requests: list[bytes]) -> Iterable[bytes]:
    """A request alone, and with one behind it, for some of the schemes that conn_fuzz.c has."""
    for number, data in enumerate(requests):
        literal = data.replace(b"\xfe", b"\xfe\0").replace(b"\xfd", b"\xfd\xff")
        yield bytes((number % 4, number % 251, number % 7, 0)) + literal
        yield bytes((number % 256, 7, 5, number % 256)) + literal + framing_table.BEHIND
    for data in _lent():
        yield b"\0\x11\0\0" + data
        yield b"\x02\x05\0\x08" + data + data
    for data in _routes():
        yield b"\0\x11\0\0" + data
        yield b"\x01\x11\x03\x10" + data + data
        yield b"\x02\x25\0\x04" + data.replace(b": 5", b": 2565").replace(
            b"hello", b"hello\xfe\x28"
        )


def _write(folder: Path, inputs: Iterable[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        if len(data) <= LARGEST:
            (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def main(folder: Path) -> None:
    requests = [data for data in _requests() if len(data) <= LARGEST]
    cut = b"\0\x05"
    _write(folder / "head", (cut + data for data in requests))
    _write(folder / "chunked", (cut + data for data in _bodies(requests)))
    _write(folder / "conn", _streams(requests))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
