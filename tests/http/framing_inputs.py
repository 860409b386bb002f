"""Requests without end for the differential test: mutations of the table's rows, and lawful ones
written by RFC 9112's grammar. The same seed gives the same ones on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from framing_accepted import ACCEPTED
from framing_chunks import TRAILERS
from framing_refused import REFUSED
from framing_table import BEHIND, Accepted, Refused

_ROWS: list[Refused | Accepted] = [*REFUSED, *TRAILERS, *ACCEPTED]
CORPUS = [row.data + BEHIND for row in _ROWS if len(row.data) < 400]

#: What is likely to matter where it lands.
SPICE = [bytes([byte]) for byte in b"\r\n\t :;,=/?%#*@[]\"'()\\0159aFx\0\x0b\x7f\x80\xff-+_."]
SPICE += [
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\n\n",
    b"0\r\n",
    b"0\r\n\r\n",
    b"chunked",
    b"close",
    b"gzip",
]
SPICE += [b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"]
SPICE += [b"Host: t\r\n", b"X: a\r\n", b"Connection: ", b"Upgrade: x\r\n", b"HTTP/1.0", b"HTTP/1.1"]
SPICE += [b"POST ", b"http://", b"5;a\r\n", b"%41", b"%2e", b"%00", b", ", b"; ", b"keep-alive"]


# ---- mutations -----------------------------------------------------------------------------------

Mutation = Callable[[Random, bytes], bytes]


def _place(choose: Random, data: bytes) -> int:
    return choose.randrange(len(data) + 1)


def _span(choose: Random, data: bytes) -> tuple[int, int]:
    start = _place(choose, data)
    return start, min(len(data), start + choose.choice((1, 1, 1, 2, 4, 8, 20)))


def _insert(choose: Random, data: bytes) -> bytes:
    at = _place(choose, data)
    return data[:at] + choose.choice(SPICE) + data[at:]


def _replace(choose: Random, data: bytes) -> bytes:
    start, end = _span(choose, data)
    return data[:start] + choose.choice(SPICE) + data[end:]


def _delete(choose: Random, data: bytes) -> bytes:
    start, end = _span(choose, data)
    return data[:start] + data[end:]


def _double(choose: Random, data: bytes) -> bytes:
    start, end = _span(choose, data)
    return data[:end] + data[start:]


def _any_byte(choose: Random, data: bytes) -> bytes:
    at = _place(choose, data)
    return data[:at] + bytes([choose.randrange(256)]) + data[at + 1 :]


def _splice(choose: Random, data: bytes) -> bytes:
    """Goes on as another row does."""
    other = choose.choice(CORPUS)
    return data[: _place(choose, data)] + other[_place(choose, other) :]


def _double_line(choose: Random, data: bytes) -> bytes:
    """A line of this one, once more somewhere else: a repeated field."""
    lines = data.split(b"\r\n")
    lines.insert(choose.randrange(1, len(lines) + 1), choose.choice(lines))
    return b"\r\n".join(lines)


MUTATIONS: Sequence[Mutation] = (
    *(_insert, _replace, _delete, _double, _any_byte, _splice, _double_line),
)


def mutated(choose: Random, data: bytes) -> bytes:
    for _ in range(choose.choice((1, 1, 2, 3))):
        data = choose.choice(MUTATIONS)(choose, data)
    return data


# ---- grammar -------------------------------------------------------------------------------------

_TOKEN = b"!#$%&'*+-.^_`|~09azAZ"
_PCHARS = [bytes([byte]) for byte in b"az09AZ-._~!$&'()*+,;=:@"] + [b"%41", b"%C3%A9"]


def _repeat(choose: Random, parts: Sequence[bytes], least: int = 0, most: int = 6) -> bytes:
    return b"".join(choose.choice(parts) for _ in range(choose.randint(least, most)))


def _token(choose: Random) -> bytes:
    return bytes(choose.choice(_TOKEN) for _ in range(choose.randint(1, 6)))


def _ows(choose: Random) -> bytes:
    return choose.choice((b"", b"", b" ", b" ", b"\t", b" \t "))


def _any_case(choose: Random, text: bytes) -> bytes:
    return choose.choice((text, text, text.lower(), text.upper(), text.swapcase()))


def _authority(choose: Random) -> bytes:
    hosts = (b"t", b"a.b-c", b"127.0.0.1", b"[::1]", b"[fe80::1:ffff]", b"t%41", b"_~!$&'()*+,;=")
    return choose.choice(hosts) + choose.choice((b"", b"", b":", b":80"))


def _target(choose: Random) -> bytes:
    path = b"".join(
        b"/" + _repeat(choose, _PCHARS) + b"a" for _ in range(choose.randint(1, 3))
    )  # "a": no dot segment
    query = b"?" + _repeat(choose, [*_PCHARS, b"/", b"?"]) if choose.random() < 0.3 else b""
    start = _any_case(choose, b"http") + b"://" + _authority(choose)
    return (start if choose.random() < 0.2 else b"") + path + query


def _field(choose: Random, name: bytes, value: bytes) -> bytes:
    return _any_case(choose, name) + b":" + _ows(choose) + value + _ows(choose) + b"\r\n"


def _other_fields(choose: Random) -> list[bytes]:
    value = [b"a", b"b ", b"\t", b"\xff", b"\x80", b":", b",", b'"', b"(", b"\\"]
    others = [
        _field(choose, b"X-" + _token(choose), (_repeat(choose, value)).strip(b" \t")),
        _field(choose, b"Connection", choose.choice((b"close", b"keep-alive", b"x, close", b"x"))),
        _field(choose, b"Accept", b"*/*;q=0.5, text/html"),
        _field(choose, b"Expect", b"100-continue"),
        _field(choose, b"TE", b"trailers"),
    ]
    return choose.sample(others, choose.randint(0, 3))


def _chunk_extension(choose: Random) -> bytes:
    if choose.random() < 0.7:
        return b""
    value = choose.choice((b"", b"=" + _token(choose), b'="a;b"', b'="\\""'))
    return b";" + _token(choose) + value


def _chunked(choose: Random, body: bytes) -> bytes:
    pieces, at = [], 0
    while at < len(body):
        size = choose.randint(1, len(body) - at)
        number = b"0" * choose.choice((0, 0, 0, 1, 14)) + choose.choice((b"%x", b"%X")) % size
        data = body[at : at + size]
        pieces.append(number + _chunk_extension(choose) + b"\r\n" + data + b"\r\n")
        at += size
    trailers = [
        _field(choose, b"X-" + _token(choose), b"a") for _ in range(choose.choice((0, 0, 2)))
    ]
    return b"".join([*pieces, b"0", _chunk_extension(choose), b"\r\n", *trailers, b"\r\n"])


def lawful(choose: Random) -> bytes:
    """A request by the grammar, with another behind it."""
    version = choose.choice((b"1.1", b"1.1", b"1.1", b"1.0"))
    method = choose.choice((b"POST", b"GET", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS"))
    body = _repeat(choose, [b"hello", b"\r\n", b"0\r\n\r\n", b"\0", b"\xff"])
    fields = _other_fields(choose)
    if version == b"1.1" or choose.random() < 0.5:
        fields.append(_field(choose, b"Host", _authority(choose)))
    kind = choose.choice(("none", "length", "chunked" if version == b"1.1" else "length"))
    if kind == "length":
        fields.append(_field(choose, b"Content-Length", b"%d" % len(body)))
    elif kind == "chunked":
        fields.append(_field(choose, b"Transfer-Encoding", _any_case(choose, b"chunked")))
        body = _chunked(choose, body)
    else:
        body = b""
    choose.shuffle(fields)
    start = method + b" " + _target(choose) + b" HTTP/" + version + b"\r\n"
    return b"".join([start, *fields, b"\r\n", body, BEHIND])


def inputs(seed: int, count: int) -> Iterator[bytes]:
    """The rows; then mutations of rows, half of the rest, lawful ones, and mutations of those."""
    choose = Random(seed)
    yield from CORPUS
    for _ in range(count):
        kind = choose.random()
        if kind < 0.5:
            yield mutated(choose, choose.choice(CORPUS))
        elif kind < 0.75:
            yield lawful(choose)
        else:
            yield mutated(choose, lawful(choose))
