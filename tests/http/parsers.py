"""One request as three parsers read it: csrc's through ctypes, h11, and llhttp in httptools."""

from __future__ import annotations

import ctypes
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h11
import httptools

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("head.c", "uri.c", "chunked.c", "status.c")
MAX_FIELDS = 100

State = Literal["refused", "more", "whole"]
Field = tuple[bytes, bytes]
CODING = b"transfer-encoding"


@dataclass(frozen=True)
class Read:
    """The first request in some bytes. What is below state is set where it is whole."""

    state: State
    why: str = ""  # it is refused
    method: bytes = b""
    target: bytes = b""
    version: bytes = b""
    fields: tuple[Field, ...] = ()  # names in lower case
    body: bytes = b""
    used: int = 0  # bytes that belong to it
    keeps: bool = False  # the connection goes on


# ---- ours ----------------------------------------------------------------------------------------


class _Span(ctypes.Structure):
    _fields_ = (("at", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Read(ctypes.Structure):
    _fields_ = (
        ("head", ctypes.c_int32),
        ("body", ctypes.c_int32),
        ("minor_version", ctypes.c_int32),
        ("keep_alive", ctypes.c_int32),
        ("used", ctypes.c_uint64),
        ("payload", ctypes.c_uint64),
        ("field_count", ctypes.c_uint64),
        ("method", _Span),
        ("target", _Span),
        ("fields", _Span * (2 * MAX_FIELDS)),
    )


def build(folder: Path) -> Path:
    """Compiles csrc's parsers and the shim over them into a library."""
    library = folder / "framing.so"
    config = ("pkg-config", "--cflags", "--libs", "libh2o-evloop")
    found = subprocess.run(config, capture_output=True, text=True, check=True, timeout=60)
    sources = [str(ROOT / "csrc" / name) for name in SOURCES]
    command = ["cc", "-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
    command += ["-shared", "-fPIC", f"-I{ROOT / 'csrc'}", "-o", str(library)]
    command += [str(Path(__file__).with_name("framing_shim.c")), *sources]
    subprocess.run([*command, *shlex.split(found.stdout)], check=True, timeout=300)
    return library


class Ours:
    """csrc/head.c and csrc/chunked.c."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._read: Any = loaded.framing_read
        self._read.argtypes = (
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.POINTER(_Read),
        )
        self._read.restype = None
        self._text: Any = loaded.framing_text
        self._text.argtypes, self._text.restype = (ctypes.c_int32,), ctypes.c_char_p
        self._ok, self._more = 0, 1  # enum fpred_status

    def __call__(self, data: bytes) -> Read:
        found, payload = _Read(), ctypes.create_string_buffer(len(data) + 1)
        self._read(data, len(data), payload, found)
        status = found.body if found.head == self._ok else found.head
        if status == self._more:
            return Read("more")
        if status != self._ok:
            return Read("refused", self._text(status).decode())

        def part(span: _Span) -> bytes:
            return data[span.at : span.at + span.len]

        texts = [part(found.fields[at]) for at in range(2 * found.field_count)]
        return Read(
            "whole",
            method=part(found.method),
            target=part(found.target),
            version=b"1.%d" % found.minor_version,
            fields=_normal(zip(texts[::2], texts[1::2], strict=True)),
            body=payload.raw[: found.payload],
            used=found.used,
            keeps=bool(found.keep_alive),
        )


def _normal(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Names in lower case, values without blanks around; h11 writes codings in lower case, too."""
    lower = ((name.lower(), value.strip(b" \t")) for name, value in fields)
    return tuple((name, value.lower() if name == CODING else value) for name, value in lower)


# ---- h11 -----------------------------------------------------------------------------------------


def read_h11(data: bytes) -> Read:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    head: h11.Request | None = None
    body = []
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return Read("more")
    except h11.RemoteProtocolError as error:
        return Read("refused", str(error))
    assert head is not None
    return Read(
        "whole",
        method=head.method,
        target=head.target,
        version=head.http_version,
        fields=_normal(head.headers),
        body=b"".join(body),
        used=len(data) - len(connection.trailing_data[0]),
        keeps=connection.their_state is not h11.MUST_CLOSE,
    )


# ---- llhttp --------------------------------------------------------------------------------------


class _Request:
    """What httptools calls."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.target: list[bytes] = []
        self.fields: list[Field] = []
        self.body: list[bytes] = []
        self.in_head = True
        self.whole = False
        self.keeps = False

    def on_url(self, url: bytes) -> None:
        self.target.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # not a trailer
            self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.whole = True
        self.keeps = self.parser.should_keep_alive()


def read_llhttp(data: bytes) -> Read:
    """Byte by byte, since it doesn't tell where a request ends."""
    request = _Request()
    used = 0
    try:
        while used < len(data) and not request.whole:
            used += 1
            request.parser.feed_data(data[used - 1 : used])
    except httptools.HttpParserUpgrade:
        request.whole = True
    except httptools.HttpParserError as error:
        return Read("refused", str(error))
    if not request.whole:
        return Read("more")
    return Read(
        "whole",
        method=request.parser.get_method(),
        target=b"".join(request.target),
        version=request.parser.get_http_version().encode(),
        fields=_normal(request.fields),
        body=b"".join(request.body),
        used=used,
        keeps=request.keeps,
    )
