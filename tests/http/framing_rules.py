"""The grammar of a request as regular expressions, written from the RFCs' ABNF alone.

A third opinion beside the code and the table: each rule says of any bytes whether they break it, in
the words of the answer that they must then get. What we refuse must break the rule that the answer
names; what we accept must break none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import framing_table as says

CRLF, END = b"\r\n", b"\r\n\r\n"
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_unreserved, _sub_delims, _escaped = rb"A-Za-z0-9\-._~", rb"!$&'()*+,;=", rb"%[0-9A-Fa-f]{2}"
_pchar = rb"[" + _unreserved + _sub_delims + rb":@]|" + _escaped
# Beyond RFC 3986: what the URL Standard lets browsers leave as it is, and escapes of a query, which
# are its application's to judge, but for %00.
_path = rb"(?:/(?:" + _pchar + rb"|[\[\]^|])*)*"
_query = rb"(?:\?(?:(?!%00)(?:" + _pchar + rb"|[/?\[\]^|\\`{}%]))*)?"
_host = (
    rb"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?:["
    + _unreserved
    + _sub_delims
    + rb"]|"
    + _escaped
    + rb")+)(?::[0-9]*)?"
)
HOST = re.compile(_host)
REQUEST_LINE = re.compile(rb"(?P<method>[^ ]*) (?P<target>[^ ]*) (?P<version>(?i:HTTP/)[^ ]*)")
TARGET = re.compile(
    rb"(?:(?i:https?)://(?P<authority>[^/?#]*))?(?P<path>"
    + _path
    + rb")(?P<query>"
    + _query
    + rb")"
)
FIELD = re.compile(rb"(?P<name>" + TOKEN + rb"):[ \t]*(?P<value>.*?)[ \t]*", re.DOTALL)
TEXT = rb"[\t -~\x80-\xff]"
CHUNK = re.compile(rb"(?P<size>[0-9A-Fa-f]{1,16})(?:[ \t]*;" + TEXT + rb"*)?\r\n")
CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
BARE = re.compile(rb"\r[^\n]|(?<!\r)\n")


class Request:
    """The lines of a head, whether or not they are lawful."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.start = 2 if data.startswith(CRLF) else 0
        end = data.find(END, self.start)
        self.whole = end >= 0
        self.head_end = end + len(END) if self.whole else len(data)
        self.head = data[self.start : self.head_end]
        self.line, *rest = self.head.split(CRLF)
        self.lines = [each for each in rest if each]
        self.fields = [
            (found["name"].lower(), found["value"])
            for found in map(FIELD.fullmatch, self.lines)
            if found
        ]
        found = REQUEST_LINE.fullmatch(self.line)
        parts = found.groupdict() if found else {}
        self.method, self.target = parts.get("method", b""), parts.get("target", b"")
        self.version = parts.get("version", b"")
        self.is_10 = self.version == b"HTTP/1.0"

    def values(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.fields if each == name]


Breaks = Callable[[Request], bool]


@dataclass(frozen=True)
class Rule:
    rule: str  # as rows of the table name it
    says: str
    breaks: Breaks


# ---- the head ------------------------------------------------------------------------------------


def has_bad_host(request: Request) -> bool:
    hosts = request.values(b"host")
    if len(hosts) != 1:
        return bool(hosts) or not request.is_10
    return not is_authority(hosts[0])


def is_authority(text: bytes) -> bool:
    found = HOST.fullmatch(text)
    if found is None or b"\0" in unquote_to_bytes(text):
        return False
    if found["address"] is None:
        return True
    try:
        ipaddress.IPv6Address(found["address"].decode())
    except ValueError:
        return False
    return True


def has_bad_target(request: Request) -> bool:
    if request.method == b"CONNECT":
        return True
    if request.target == b"*":
        return request.method != b"OPTIONS"
    found = TARGET.fullmatch(request.target)
    if found is None or not found["path"] + (found["authority"] or b""):
        return True
    if found["authority"] is not None and not is_authority(found["authority"]):
        return True
    path = unquote_to_bytes(found["path"])
    dots = {b".", b".."} & set(path.split(b"/"))
    return bool(dots) or b"\0" in unquote_to_bytes(request.target)


def has_bad_length(request: Request) -> bool:
    values = request.values(b"content-length")
    return len(values) > 1 or any(
        not re.fullmatch(rb"[0-9]+", value) or int(value) >= 1 << 64 for value in values
    )


def codings(request: Request) -> list[bytes]:
    """The elements of the one Transfer-Encoding that there is."""
    return [
        each.strip(b" \t").lower() for each in request.values(b"transfer-encoding")[0].split(b",")
    ]


def has_bad_coding(request: Request) -> bool:
    values = request.values(b"transfer-encoding")
    if len(values) != 1:
        return len(values) > 1
    *others, last = codings(request)
    return request.is_10 or last != b"chunked" or not all(map(_is_other_coding, others))


def _is_other_coding(text: bytes) -> bool:
    found = re.fullmatch(rb"(" + TOKEN + rb")([ \t]*;.*)?", text, re.DOTALL)
    return found is not None and found[1] != b"chunked"


def has_unknown_coding(request: Request) -> bool:
    return len(request.values(b"transfer-encoding")) == 1 and len(codings(request)) > 1


def has_both(request: Request) -> bool:
    return bool(request.values(b"content-length") and request.values(b"transfer-encoding"))


def has_bad_version(request: Request) -> bool:
    return request.version not in (b"HTTP/1.0", b"HTTP/1.1")


def has_bad_request_line(request: Request) -> bool:
    return request.head.startswith(b"\r") or REQUEST_LINE.fullmatch(request.line) is None


def has_bad_method(request: Request) -> bool:
    return re.fullmatch(TOKEN, request.line.partition(b" ")[0]) is None


def has_fold(request: Request) -> bool:
    return any(each[:1] in (b" ", b"\t") for each in request.lines)


def has_bad_name(request: Request) -> bool:
    return any(re.match(TOKEN + rb":", each) is None for each in request.lines)


def has_control(request: Request) -> bool:
    return CONTROLS.search(request.head) is not None or b"\t" in request.line


def has_bare_ending(request: Request) -> bool:
    return BARE.search(request.data[: request.head_end]) is not None


def is_too_large(request: Request) -> bool:
    return len(request.lines) > 100 or len(request.data[: request.head_end]) > 65536


def keeps(request: Request) -> bool:
    """Whether the connection goes on behind this request: 9112 9.3, first that which applies."""
    options = {
        each.strip(b" \t").lower()
        for value in request.values(b"connection")
        for each in value.split(b",")
    }
    return b"close" not in options and (not request.is_10 or b"keep-alive" in options)


# ---- chunks --------------------------------------------------------------------------------------


class Trailer(NamedTuple):
    """A line of the trailers, and how one starts."""

    whole: re.Pattern[bytes]
    start: re.Pattern[bytes]


_ANY_LINE = Trailer(
    re.compile(rb"(?![ \t])" + TEXT + rb"+\r\n"), re.compile(rb"(?![ \t])" + TEXT + rb"+\r?")
)
_FIELD_LINE = Trailer(
    re.compile(TOKEN + rb":" + TEXT + rb"*\r\n"), re.compile(TOKEN + rb"(:" + TEXT + rb"*\r?)?")
)


def has_bad_chunk(request: Request) -> bool:
    """Whether the body, as far as it is there, is none that chunks make, whatever its trailers."""
    return _chunks_end(request.data, request.head_end, _ANY_LINE) is None


def has_bad_trailer(request: Request) -> bool:
    return _chunks_end(request.data, request.head_end, _FIELD_LINE) is None


def _chunks_end(data: bytes, at: int, trailer: Trailer) -> int | None:
    """Where the body ends or the bytes do; None where it is wrong before that."""
    while at < len(data):
        found = CHUNK.match(data, at)
        if found is None:
            return len(data) if _may_grow(data[at:]) else None
        size, at = int(found["size"], 16), found.end()
        if size >= 1 << 63:
            return None
        if size == 0:
            return _trailers_end(data, at, trailer)
        if not CRLF.startswith(data[at + size : at + size + 2]):
            return None
        at += size + 2
    return at


def _may_grow(rest: bytes) -> bool:
    """Whether these are the first bytes of a line of a size."""
    start = rb"[0-9A-Fa-f]{0,16}|[0-9A-Fa-f]{1,16}([ \t]*|[ \t]*;" + TEXT + rb"*)|"
    ended = rb"[0-9A-Fa-f]{1,16}([ \t]*;" + TEXT + rb"*)?\r"
    found = re.fullmatch(start + ended, rest)
    return found is not None and not re.match(rb"[89A-Fa-f][0-9A-Fa-f]{15}", rest)


def _trailers_end(data: bytes, at: int, trailer: Trailer) -> int | None:
    while found := trailer.whole.match(data, at):
        at = found.end()
    rest = data[at:]
    if rest.startswith(CRLF):
        return at + 2
    return len(data) if rest in (b"", b"\r") or trailer.start.fullmatch(rest) else None


# ---- all of them ---------------------------------------------------------------------------------

RULES = (
    Rule("9112 2.2 bare LF (a recipient MAY take it)", says.ENDING, has_bare_ending),
    Rule("9110 5.5 other controls (a recipient MAY keep them)", says.CONTROL, has_control),
    Rule("9112 5.2", says.FOLDED, has_fold),
    Rule("9112 5.1", says.NAME, has_bad_name),
    Rule("6585 5", says.TOO_LARGE, is_too_large),
    Rule("9110 9.1", says.METHOD, has_bad_method),
    Rule("9112 3", says.REQUEST_LINE, has_bad_request_line),
    Rule("9112 2.3", says.VERSION, has_bad_version),
    Rule("9112 3.2", says.TARGET, has_bad_target),
    Rule("9112 3.2 Host", says.HOST_WANTED, has_bad_host),
    Rule("9110 8.6 and 9112 6.3 item 5", says.BAD_LENGTH, has_bad_length),
    Rule("9112 6.1 and 6.3 item 3", says.BOTH, has_both),
    Rule("9112 6.3 item 4", says.BAD_CODING, has_bad_coding),
    Rule("9112 6.1 unknown codings", says.UNKNOWN_CODING, has_unknown_coding),
)
BODY_RULES = (
    Rule("9112 7.1 chunk-size", says.CHUNK, has_bad_chunk),
    Rule("9112 7.1.2 trailers are fields", says.CHUNK, has_bad_trailer),
)


def broken(data: bytes) -> list[Rule]:
    """Every rule that these bytes break. Only of a whole head can be told that it breaks none."""
    request = Request(data)
    wrong = [each for each in RULES if each.breaks(request)]
    if request.whole and not wrong and request.values(b"transfer-encoding"):
        wrong = [each for each in BODY_RULES if each.breaks(request)]
    return wrong
