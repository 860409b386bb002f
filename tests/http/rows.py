"""The requests of the framing tests: what must be refused, by which rule, and what accepted.

A refused row is sent with a further request behind it, which must never be read as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HOST = b"Host: test\r\n"
GOOD = b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"
SMUGGLED = b"POST /smuggled HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"
LINE = b"POST /echo HTTP/1.1\r\n"


@dataclass(frozen=True)
class Refused:
    """One request that is refused, and the rule that it breaks."""

    name: str
    rule: str
    data: bytes = field(repr=False)
    status: int = 400


@dataclass(frozen=True)
class Accepted:
    """One request that is accepted: status and body of the answer that it gets."""

    name: str
    rule: str
    data: bytes = field(repr=False)
    body: bytes | None = b"hello"
    status: int = 200
    closes: bool = False


def posted(*fields: bytes, body: bytes = b"hello", line: bytes = LINE) -> bytes:
    """A POST with Host and these fields."""
    return line + HOST + b"".join(name + b"\r\n" for name in fields) + b"\r\n" + body


def lengths(*values: bytes) -> bytes:
    return posted(*(b"Content-Length: " + value for value in values))


def coded(*values: bytes, body: bytes = b"5\r\nhello\r\n0\r\n\r\n") -> bytes:
    return posted(*(b"Transfer-Encoding: " + value for value in values), body=body)


def chunks(body: bytes) -> bytes:
    return coded(b"chunked", body=body)


def bare(line: bytes) -> bytes:
    """A request of only a request line and Host."""
    return line + b"\r\n" + HOST + b"\r\n"


def hosted(*hosts: bytes) -> bytes:
    """A request with these Host lines only."""
    return (
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"Host:" + host + b"\r\n" for host in hosts) + b"\r\n"
    )


TE_10 = b"POST /echo HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
BOTH = (b"Content-Length: 5", b"Transfer-Encoding: chunked")

REFUSED_HEADS = [
    # Content-Length
    Refused("length twice, differing", "RFC 9112 6.3", lengths(b"5", b"6")),
    Refused("length twice, the same", "RFC 9112 6.3", lengths(b"5", b"5")),
    Refused("length as a list", "RFC 9110 8.6", lengths(b"5, 5")),
    Refused("length +5", "RFC 9110 8.6", lengths(b"+5")),
    Refused("length -5", "RFC 9110 8.6", lengths(b"-5")),
    Refused("length 0x5", "RFC 9110 8.6", lengths(b"0x5")),
    Refused("length 5.0", "RFC 9110 8.6", lengths(b"5.0")),
    Refused("length 5 0", "RFC 9110 8.6", lengths(b"5 0")),
    Refused("length empty", "RFC 9110 8.6", lengths(b"")),
    Refused("length not ASCII digits", "RFC 9110 8.6", lengths("٥".encode())),
    Refused("length 2^64", "RFC 9110 8.6", lengths(b"18446744073709551616")),
    Refused("length 2^64 + 5", "RFC 9110 8.6", lengths(b"18446744073709551621")),
    Refused("length of 40 digits", "RFC 9110 8.6", lengths(b"9" * 40)),
    # Transfer-Encoding
    Refused("length and coding", "RFC 9112 6.1", posted(*BOTH, body=b"0\r\n\r\n")),
    Refused("coding and length", "RFC 9112 6.1", posted(*BOTH[::-1], body=b"0\r\n\r\n")),
    Refused("coding in 1.0", "RFC 9112 6.1", TE_10),
    Refused("chunked twice, in two fields", "RFC 9112 6.1", coded(b"chunked", b"chunked")),
    Refused("chunked twice, in a list", "RFC 9112 6.1", coded(b"chunked, chunked")),
    Refused("chunked is not last", "RFC 9112 6.3", coded(b"chunked, gzip")),
    Refused("gzip before chunked", "RFC 9112 6.1", coded(b"gzip, chunked"), 501),
    Refused("an unknown coding before chunked", "RFC 9112 6.1", coded(b"x;q=1, chunked"), 501),
    Refused("a last coding that is unknown", "RFC 9112 6.3", coded(b"xchunked")),
    Refused("chunked with a parameter", "RFC 9112 7", coded(b"chunked;q=1")),
    Refused("coding empty", "RFC 9112 6.1", coded(b"")),
    # Lines
    Refused("bare LF ends the request line", "RFC 9112 2.2", GOOD.replace(b"1.1\r\n", b"1.1\n")),
    Refused("bare LF ends a field", "RFC 9112 2.2", GOOD.replace(b"test\r\n", b"test\n")),
    Refused("bare LF ends the head", "RFC 9112 2.2", GOOD.replace(b"\r\n\r\n", b"\r\n\n")),
    Refused("bare CR in a value", "RFC 9112 2.2", posted(b"X: a\rb", b"Content-Length: 5")),
    Refused(
        "bare CR in the request line", "RFC 9112 2.2", b"POST /echo\r HTTP/1.1\r\n" + HOST + b"\r\n"
    ),
    Refused("CR CR LF", "RFC 9112 2.2", GOOD.replace(b"test\r\n", b"test\r\r\n")),
    Refused("folded value", "RFC 9112 5.2", posted(b"X: a", b" b", b"Content-Length: 5")),
    Refused("folded by a tab", "RFC 9112 5.2", posted(b"X: a", b"\tb", b"Content-Length: 5")),
    Refused("space before the first field", "RFC 9112 2.2", LINE + b" " + HOST + b"\r\n"),
    Refused("two empty lines in front", "RFC 9112 2.2", b"\r\n\r\n" + GOOD),
    Refused("LF in front", "RFC 9112 2.2", b"\n" + GOOD),
    # Names and values
    Refused("NUL in a value", "RFC 9110 5.5", posted(b"X: a\0b")),
    Refused("control byte in a value", "RFC 9110 5.5", posted(b"X: a\x01b")),
    Refused("DEL in a value", "RFC 9110 5.5", posted(b"X: a\x7fb")),
    Refused("NUL in a name", "RFC 9110 5.1", posted(b"X\0: a")),
    Refused("space before the colon", "RFC 9112 5.1", posted(b"Content-Length : 5")),
    Refused("tab before the colon", "RFC 9112 5.1", posted(b"Content-Length\t: 5")),
    Refused("space within a name", "RFC 9110 5.1", posted(b"Content Length: 5")),
    Refused("empty name", "RFC 9110 5.1", posted(b": a")),
    Refused("name that is no token", "RFC 9110 5.6.2", posted(b"X(1): a")),
    Refused("name with high bytes", "RFC 9110 5.6.2", posted("Ü: a".encode())),
    Refused("field without a colon", "RFC 9112 5", posted(b"Content-Length")),
    # Method, target, version
    Refused("empty method", "RFC 9110 9.1", bare(b" /echo HTTP/1.1")),
    Refused("method that is no token", "RFC 9110 9.1", bare(b"PO(ST /echo HTTP/1.1")),
    Refused("no target", "RFC 9112 3", bare(b"POST HTTP/1.1")),
    Refused("no version", "RFC 9112 3", bare(b"POST /echo")),
    Refused("two spaces before the target", "RFC 9112 3", bare(b"POST  /echo HTTP/1.1")),
    Refused("two spaces before the version", "RFC 9112 3", bare(b"POST /echo  HTTP/1.1")),
    Refused("space in the target", "RFC 9112 3.2", bare(b"POST /ec ho HTTP/1.1")),
    Refused("space after the version", "RFC 9112 3", bare(b"POST /echo HTTP/1.1 ")),
    Refused("tabs for spaces", "RFC 9112 3", bare(b"POST\t/echo\tHTTP/1.1")),
    Refused("version 0.9", "RFC 9112 2.3", bare(b"POST /echo HTTP/0.9")),
    Refused("version 1.2", "RFC 9112 2.3", bare(b"POST /echo HTTP/1.2")),
    Refused("version 2.0", "RFC 9112 2.3", bare(b"POST /echo HTTP/2.0")),
    Refused("version 1.10", "RFC 9112 2.3", bare(b"POST /echo HTTP/1.10")),
    Refused("version in lower case", "RFC 9112 2.3", bare(b"POST /echo http/1.1")),
    Refused("preface of HTTP/2", "RFC 9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Refused(
        "TLS at a plain port", "RFC 9112 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"
    ),
    Refused("target without a slash", "RFC 9112 3.2", bare(b"POST echo HTTP/1.1")),
    Refused("asterisk for POST", "RFC 9112 3.2.4", bare(b"POST * HTTP/1.1")),
    Refused("authority form", "RFC 9112 3.2.3", bare(b"CONNECT test:80 HTTP/1.1")),
    Refused("fragment in the target", "RFC 9112 3.2", bare(b"POST /echo#a HTTP/1.1")),
    Refused("high bytes in the target", "RFC 3986 3.3", bare("POST /ü HTTP/1.1".encode())),
    Refused("control byte in the target", "RFC 3986 3.3", bare(b"POST /a\x01 HTTP/1.1")),
    Refused("broken percent escape", "RFC 3986 2.1", bare(b"POST /%zz HTTP/1.1")),
    Refused("cut percent escape", "RFC 3986 2.1", bare(b"POST /a%2 HTTP/1.1")),
    Refused("escaped NUL", "contract", bare(b"POST /a%00 HTTP/1.1")),
    Refused("dot segment", "contract", bare(b"POST /a/../echo HTTP/1.1")),
    Refused("escaped dot segment", "contract", bare(b"POST /a/%2e%2e/echo HTTP/1.1")),
    Refused(
        "absolute form with userinfo", "RFC 9110 4.2.4", bare(b"POST http://u@test/echo HTTP/1.1")
    ),
    Refused(
        "absolute form of another scheme", "RFC 9112 3.2.2", bare(b"POST ftp://test/echo HTTP/1.1")
    ),
    # Host
    Refused("no Host in 1.1", "RFC 9112 3.2", hosted()),
    Refused("Host twice", "RFC 9112 3.2", hosted(b" a", b" a")),
    Refused("Host with a slash", "RFC 9112 3.2", hosted(b" a/b")),
    Refused("Host with a space", "RFC 9112 3.2", hosted(b" a b")),
    Refused("Host with userinfo", "RFC 9112 3.2", hosted(b" u@a")),
    Refused("Host as a list", "RFC 9112 3.2", hosted(b" a, b")),
    Refused("Host with a bad port", "RFC 9112 3.2", hosted(b" a:b")),
    Refused(
        "no Host beside an absolute form", "RFC 9112 3.2.2", b"GET http://a/livez HTTP/1.1\r\n\r\n"
    ),
]

REFUSED_CHUNKS = [
    Refused("size is no hex", "RFC 9112 7.1", chunks(b"5g\r\nhello\r\n0\r\n\r\n")),
    Refused("size 0x5", "RFC 9112 7.1", chunks(b"0x5\r\nhello\r\n0\r\n\r\n")),
    Refused("size -5", "RFC 9112 7.1", chunks(b"-5\r\nhello\r\n0\r\n\r\n")),
    Refused("size +5", "RFC 9112 7.1", chunks(b"+5\r\nhello\r\n0\r\n\r\n")),
    Refused("size empty", "RFC 9112 7.1", chunks(b"\r\nhello\r\n0\r\n\r\n")),
    Refused("space before the size", "RFC 9112 7.1", chunks(b" 5\r\nhello\r\n0\r\n\r\n")),
    Refused("size of 17 digits", "RFC 9112 7.1", chunks(b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n")),
    Refused("size of 2^64 - 1", "RFC 9112 7.1", chunks(b"f" * 16 + b"\r\nhello\r\n0\r\n\r\n")),
    Refused("bare LF after the size", "RFC 9112 7.1", chunks(b"5\nhello\r\n0\r\n\r\n")),
    Refused("bare CR after the size", "RFC 9112 7.1", chunks(b"5\rhello\r\n0\r\n\r\n")),
    Refused("space for an extension", "RFC 9112 7.1.1", chunks(b"5 \r\nhello\r\n0\r\n\r\n")),
    Refused("LF in an extension", "RFC 9112 7.1.1", chunks(b"5;a\n\r\nhello\r\n0\r\n\r\n")),
    Refused("NUL in an extension", "RFC 9112 7.1.1", chunks(b"5;a\0\r\nhello\r\n0\r\n\r\n")),
    Refused("chunk longer than its size", "RFC 9112 7.1", chunks(b"4\r\nhello\r\n0\r\n\r\n")),
    Refused("bare LF after a chunk", "RFC 9112 7.1", chunks(b"5\r\nhello\n0\r\n\r\n")),
    Refused("bare LF after the last chunk", "RFC 9112 7.1", chunks(b"5\r\nhello\r\n0\n\r\n")),
    Refused("bare LF ends the trailers", "RFC 9112 7.1.2", chunks(b"5\r\nhello\r\n0\r\n\n")),
    Refused("NUL in a trailer", "RFC 9112 7.1.2", chunks(b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n")),
    Refused("folded trailer", "RFC 9112 7.1.2", chunks(b"5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n")),
]

# Too long to be sent byte by byte.
REFUSED_LARGE = [
    Refused("a field of 64 KiB", "RFC 6585 5", posted(b"X: " + b"a" * 65536), 431),
    Refused("a target of 64 KiB", "RFC 6585 5", bare(b"POST /" + b"a" * 65536 + b" HTTP/1.1"), 431),
    Refused("101 fields", "RFC 6585 5", posted(*[b"X: a"] * 100), 431),
    Refused("65 KiB of name", "RFC 6585 5", posted(b"X" * 66000), 431),
    Refused(
        "an endless extension",
        "RFC 9112 7.1.1",
        chunks(b"5;" + b"a" * 65536 + b"\r\nhello\r\n0\r\n\r\n"),
    ),
    Refused("endless trailers", "RFC 9112 7.1.2", chunks(b"0\r\n" + b"X: a\r\n" * 20000 + b"\r\n")),
]

REFUSED = REFUSED_HEADS + REFUSED_CHUNKS

_line_10 = b"POST /echo HTTP/1.0\r\n"

ACCEPTED = [
    Accepted("plain", "RFC 9112 2.1", GOOD),
    Accepted("one empty line in front", "RFC 9112 2.2", b"\r\n" + GOOD),
    Accepted("no space after the colon", "RFC 9112 5", posted(b"Content-Length:5")),
    Accepted("spaces around a value", "RFC 9112 5.1", posted(b"Content-Length: \t 5 \t ")),
    Accepted("leading zeros of a length", "RFC 9110 8.6", lengths(b"0000000005")),
    Accepted("names in any case", "RFC 9110 5.1", posted(b"cOnTeNt-LeNgTh: 5")),
    Accepted(
        "high bytes in a value", "RFC 9110 5.5", posted("X: ü".encode(), b"Content-Length: 5")
    ),
    Accepted("tab within a value", "RFC 9110 5.5", posted(b"X: a\tb", b"Content-Length: 5")),
    Accepted("empty value", "RFC 9110 5.5", posted(b"X:", b"Content-Length: 5")),
    Accepted("no body", "RFC 9112 6.3", posted(body=b""), b""),
    Accepted("length 0", "RFC 9112 6.3", posted(b"Content-Length: 0", body=b""), b""),
    Accepted("absolute form", "RFC 9112 3.2.2", GOOD.replace(b" /echo", b" http://test/echo")),
    Accepted(
        "absolute form, another Host",
        "RFC 9112 3.2.2",
        GOOD.replace(b" /echo", b" http://a:1/echo"),
    ),
    Accepted("query", "RFC 9112 3.2.1", GOOD.replace(b"/echo", b"/echo?a=b&c=%20/?")),
    Accepted("escaped path", "RFC 3986 2.4", GOOD.replace(b"/echo", b"/%65c%68o")),
    Accepted("Host with a port", "RFC 9110 7.2", GOOD.replace(b"test", b"[::1]:8000")),
    Accepted(
        "h2c ignored",
        "RFC 9110 7.8",
        posted(b"Upgrade: h2c", b"Connection: Upgrade", b"Content-Length: 5"),
    ),
    Accepted("100 fields", "contract", posted(*[b"X: a"] * 98, b"Content-Length: 5")),
    Accepted(
        "1.0 without Host",
        "RFC 9112 3.2",
        _line_10 + b"Content-Length: 5\r\n\r\nhello",
        closes=True,
    ),
    Accepted(
        "1.0 that stays",
        "RFC 9112 9.3",
        _line_10 + b"Connection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
    ),
    Accepted(
        "Connection: close",
        "RFC 9112 9.6",
        posted(b"Connection: close", b"Content-Length: 5"),
        closes=True,
    ),
    Accepted(
        "close in a list",
        "RFC 9112 9.6",
        posted(b"Connection: x, Close", b"Content-Length: 5"),
        closes=True,
    ),
    Accepted("chunked", "RFC 9112 7.1", chunks(b"5\r\nhello\r\n0\r\n\r\n")),
    Accepted("coding in any case", "RFC 9112 7", coded(b"CHUNKed")),
    Accepted("chunks", "RFC 9112 7.1", chunks(b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n")),
    Accepted(
        "sizes of 16 digits",
        "RFC 9112 7.1",
        chunks(b"0" * 15 + b"5\r\nhello\r\n" + b"0" * 16 + b"\r\n\r\n"),
    ),
    Accepted(
        "sizes in any case",
        "RFC 9112 7.1",
        chunks(b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
        b"0123456789" * 2,
    ),
    Accepted("extension", "RFC 9112 7.1.1", chunks(b'5;a=b;c="d;e"\r\nhello\r\n0;f\r\n\r\n')),
    Accepted("space before an extension", "RFC 9112 7.1.1", chunks(b"5 ;a\r\nhello\r\n0\r\n\r\n")),
    Accepted(
        "trailers",
        "RFC 9112 7.1.2",
        chunks(b"5\r\nhello\r\n0\r\nX: a\r\nContent-Length: 9\r\n\r\n"),
    ),
    Accepted("chunked and empty", "RFC 9112 7.1", chunks(b"0\r\n\r\n"), b""),
    Accepted("refused at its length", "contract", GOOD.replace(b"/echo", b"/twelve"), None, 400),
    Accepted(
        "chunked, too short",
        "contract",
        chunks(b"5\r\nhello\r\n0\r\n\r\n").replace(b"/echo", b"/twelve"),
        None,
        400,
    ),
    Accepted(
        "chunked, too long",
        "contract",
        chunks(b"d\r\nhello, world!\r\n0\r\n\r\n").replace(b"/echo", b"/twelve"),
        None,
        413,
    ),
    Accepted("not found", "contract", GOOD.replace(b"/echo", b"/nothing"), None, 404),
    Accepted(
        "unsupported type",
        "contract",
        posted(b"Content-Type: text/html", b"Content-Length: 5"),
        None,
        415,
    ),
]
