"""The accepted rows of the framing table: see framing_table.py."""

from __future__ import annotations

from dataclasses import replace

from framing_table import (
    CLOSED,
    GOOD,
    HOST,
    LENGTH,
    LINE,
    LINE_10,
    Accepted,
    accepted,
    answer,
    chunks,
    coded,
    error,
    hosted,
    lengths,
    posted,
    target,
)

NOTHING = answer(b"")
TEN = b"0123456789"
KEPT_10 = answer(connection=b"keep-alive")
CLOSED_EMPTY = answer(b"", connection=b"close")
EXPECT = b"Expect: 100-continue"
CHUNKED = b"Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


def sized(*fields: bytes, start: bytes = LINE + HOST) -> bytes:
    """A request with these fields and the body "hello"."""
    return posted(*fields, LENGTH, body=b"hello", start=start)


def at(path: bytes) -> bytes:
    return GOOD.replace(b"/echo", path, 1)


LINES = [
    *accepted("9112 2.1", ("all that it takes", GOOD)),
    *accepted("9112 2.2 one empty line is ignored", ("in front", b"\r\n" + GOOD)),
    *accepted("9112 2.3", ("1.0", sized(start=LINE_10)), gives=CLOSED),
    *accepted(
        "9112 3.2.1",
        ("a query", at(b"/echo?a=b&c=%20/?")),
        ("an empty query", at(b"/echo?")),
        ("dots in a query", at(b"/echo?/../%2e")),
        ("every byte of a query", at(b"/echo?-._~!$&'()*+,;=:@/?%41")),
        ("what browsers leave as it is in a query", at(b"/echo?a[b]={c|d}^`\\&rate=100%&%zz")),
    ),
    *accepted(
        "3986 2.4 and 6.2.2.2",
        ("letters escaped", at(b"/%65c%68o")),
        ("digits of an escape in any case", at(b"/ech%6F")),
    ),
    *accepted(
        "9112 3.2.2",
        ("its host is Host's", at(b"http://t/echo")),
        ("another host wins", at(b"http://u:1/echo")),
        ("an address", at(b"http://[::1]:80/echo")),
        ("a query", at(b"http://t/echo?a")),
        ("a scheme in any case", at(b"hTTp://t/echo")),
        ("https", at(b"https://t/echo")),
    ),
]

HOSTS = [
    *accepted(
        "9110 7.2",
        ("a name", hosted(b" a.b-c_d")),
        ("a port", hosted(b" t:8000")),
        ("an empty port", hosted(b" t:")),
        ("an address", hosted(b" 127.0.0.1:1")),
        ("IPv6", hosted(b" [::1]")),
        ("IPv6 and a port", hosted(b" [fe80::1:ffff]:80")),
        ("IPv6 with IPv4 in it", hosted(b" [::ffff:1.2.3.4]")),
        ("every byte of a name", hosted(b" -._~!$&'()*+,;=%41")),
        ("the name in any case", posted(b"hOsT: t", start=LINE)),
        gives=NOTHING,
    ),
    *accepted("9112 3.2 Host in 1.0", ("none", hosted(request_line=LINE_10)), gives=CLOSED_EMPTY),
]

FIELDS = [
    *accepted(
        "9112 5 and 5.1",
        ("no blank", sized(b"X:a")),
        ("space and tab around a value", lengths(b" \t 5 \t ")),
        ("a colon in a value", sized(b"X: a: b")),
    ),
    *accepted("9110 5.1", ("any case", posted(b"cOnTeNt-LeNgTh: 5", body=b"hello"))),
    *accepted("9110 5.1 any token", ("every byte", sized(b"!#$%&'*+-.^_`|~09azAZ: a"))),
    *accepted("9110 5.3", ("repeated", sized(b"X: a", b"X: b"))),
    *accepted(
        "9110 5.5",
        ("empty", sized(b"X:")),
        ("blank", sized(b"X: \t")),
        ("tab within", sized(b"X: a\tb")),
        ("high bytes", sized(b"X: \x80\xff")),
        ("every visible byte", sized(b"X: " + bytes(range(0x21, 0x7F)))),
    ),
    *accepted("9110 5.4", ("100 fields", sized(*[b"X: a"] * 98))),
    *accepted("9110 7.8", ("h2c", sized(b"Upgrade: h2c", b"Connection: upgrade"))),
    *accepted("9110 10.1.4", ("TE is the client's affair", sized(b"TE: trailers, gzip"))),
]

FRAMING = [
    *accepted("9112 6.3 item 7", ("no body", posted()), gives=NOTHING),
    *accepted("9112 6.3 item 6", ("length 0", posted(b"Content-Length: 0")), gives=NOTHING),
    *accepted(
        "9110 8.6",
        ("zeros in front", lengths(b" 00005")),
        ("zeros in front, 30 digits", lengths(b" " + b"0" * 29 + b"5")),
    ),
    *accepted("9112 6.1", ("chunked", coded(b" chunked")), ("tabs", coded(b"\tchunked\t"))),
    *accepted("9112 7", ("codings in any case", coded(b" CHUNKed"))),
    *accepted(
        "9112 7.1",
        ("two chunks", chunks(b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n")),
        ("16 digits", chunks(b"0" * 15 + b"5\r\nhello\r\n" + b"0" * 16 + b"\r\n\r\n")),
        ("data like framing", chunks(b"5\r\nhello\r\n0\r\n\r\n")),
    ),
    *accepted(
        "9112 7.1",
        ("digits in any case", chunks(b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n")),
        gives=answer(TEN * 2),
    ),
    *accepted(
        "9112 7.1 data is nobody's business",
        ("what looks like an end", chunks(b"9\r\n\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n")),
        gives=answer(b"\r\n0\r\n\r\n\r\n"),
    ),
    *accepted("9112 7.1", ("nothing", chunks(b"0\r\n\r\n")), gives=NOTHING),
    *accepted(
        "9112 7.1.1",
        ("a value", chunks(b"5;a=b\r\nhello\r\n0;f\r\n\r\n")),
        ("a quoted one", chunks(b'5;a="b;c";d\r\nhello\r\n0\r\n\r\n')),
        ("blanks around", chunks(b"5 \t; a = b\r\nhello\r\n0\r\n\r\n")),
        ("high bytes", chunks(b'5;a="\x80\xff"\r\nhello\r\n0\r\n\r\n')),
    ),
    *accepted(
        "9112 7.1.2",
        ("dropped", chunks(b"5\r\nhello\r\n0\r\nX: a\r\n\r\n")),
        ("a length, dropped", chunks(b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n")),
        ("an empty one", chunks(b"5\r\nhello\r\n0\r\nX:\r\n\r\n")),
        ("high bytes", chunks(b"5\r\nhello\r\n0\r\nX:\ta\xff\r\n\r\n")),
    ),
]

CONNECTIONS = [
    *accepted("9112 9.3", ("1.1 stays", sized(b"Connection: x"))),
    *accepted("9112 9.3", ("1.1 asks to stay", sized(b"Connection: keep-alive"))),
    *accepted("9110 7.6.1", ("not a look-alike of close", sized(b"Connection: closed, xclose"))),
    *accepted(
        "9112 9.3",
        ("1.0 asks to stay", sized(b"Connection: Keep-Alive", start=LINE_10)),
        gives=KEPT_10,
    ),
    *accepted(
        "9112 9.6",
        ("close", sized(b"Connection: close")),
        ("in any case", sized(b"Connection: CLOSE")),
        ("in a list", sized(b"Connection: x, close")),
        ("in a list with empty elements", sized(b"Connection: , ,close,")),
        ("in a second field", sized(b"Connection: keep-alive", b"Connection: close")),
        ("beats keep-alive", sized(b"Connection: close, keep-alive")),
        ("beats keep-alive in 1.0", sized(b"Connection: close, keep-alive", start=LINE_10)),
        gives=CLOSED,
    ),
]

EXPECTATIONS = [
    replace(row, may_continue=True)
    for row in accepted(
        "9110 10.1.1",
        ("a length", sized(EXPECT)),
        ("any case", sized(b"eXPect: 100-CONTINUE")),
        ("chunked", posted(EXPECT, CHUNKED, body=HELLO)),
    )
] + [
    *accepted("9110 10.1.1", ("1.0", sized(EXPECT, start=LINE_10)), gives=CLOSED),
    *accepted(
        "9110 10.1.1",
        ("no body", posted(EXPECT)),
        ("an empty body", posted(EXPECT, b"Content-Length: 0")),
        gives=NOTHING,
    ),
]

TEXT = b"Content-Type: text/plain; charset=utf-8"
NOT_FOUND = error(b"404 Not Found", b"nothing is served at /nothing")
NOT_ALLOWED = error(
    b"405 Method Not Allowed",
    b"PUT is not allowed here; this path takes POST, OPTIONS",
    b"Allow: POST, OPTIONS",
)
NOT_TWELVE = error(
    b"400 Bad Request", b"the body has 5 bytes; expected float32 of shape (3,), 12 bytes"
)
NOT_EXPECTED = error(b"417 Expectation Failed", b"unsupported Expect, expected 100-continue")


def options(allow: bytes) -> bytes:
    return b"HTTP/1.1 204 No Content\r\nDate: *\r\nAllow: " + allow + b"\r\n\r\n"


def uncalled(rule: str, gives: bytes, *rows: tuple[str, bytes]) -> list[Accepted]:
    """Rows that are answered without the handler."""
    return [replace(row, calls=False) for row in accepted(rule, *rows, gives=gives)]


#: Well framed and answered by the network thread, errors too; the next request comes all the same.
ANSWERED = [
    *uncalled("9110 9.3.1", answer(b"ok\n", TEXT), ("GET", target(b"/livez", b"GET"))),
    *uncalled(
        "9110 9.3.2", answer(b"ok\n", TEXT)[: -len(b"ok\n")], ("HEAD", target(b"/livez", b"HEAD"))
    ),
    *uncalled(
        "9112 3.2.4", options(b"GET, HEAD, POST, OPTIONS"), ("OPTIONS", target(b"*", b"OPTIONS"))
    ),
    *uncalled("9110 9.3.7", options(b"POST, OPTIONS"), ("OPTIONS", target(b"/echo", b"OPTIONS"))),
    *uncalled(
        "9110 15.5.5",
        NOT_FOUND,
        ("a length", at(b"/nothing")),
        ("chunked", chunks(HELLO, b"/nothing")),
    ),
    *uncalled(
        "9110 15.5.6",
        NOT_ALLOWED,
        ("a length", GOOD.replace(b"POST", b"PUT", 1)),
        ("chunked", chunks(HELLO).replace(b"POST", b"PUT", 1)),
    ),
    *uncalled(
        "9110 10.1.1 another expectation",
        NOT_EXPECTED,
        ("alone", sized(b"Expect: 200-ok")),
        ("beside", sized(b"Expect: 100-continue, x=y")),
        ("in a second field", sized(EXPECT, b"Expect: x")),
    ),
    *uncalled(
        "design: a length must fit the route",
        NOT_TWELVE,
        ("at the head", at(b"/twelve")),
        ("chunked", chunks(HELLO, b"/twelve")),
    ),
    *uncalled(
        "9110 4.2.3 no path is '/'",
        error(b"404 Not Found", b"nothing is served at /"),
        ("", target(b"http://t")),
        ("and a query", target(b"http://t?a")),
    ),
]

#: Too long to be cut everywhere.
LARGE = accepted(
    "6585 5",
    ("65,536 bytes of head", sized(b"X: " + b"a" * (65536 - len(sized(b"X: ")) + 5))),
)

ACCEPTED = LINES + HOSTS + FIELDS + FRAMING + CONNECTIONS + EXPECTATIONS + ANSWERED
