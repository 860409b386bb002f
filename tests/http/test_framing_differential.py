"""The same bytes to our parsers, to h11 and to llhttp, which others before us may be built on.

Every difference has a name. Where we refuse what another accepts, the answer names a rule of the
table and the bytes break it, as a grammar written apart from the code says. Where another refuses
what we accept, NARROWER says why it needn't. What two accept, they read alike: method, target,
fields, body, where the request ends and whether the connection goes on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from framing_chunks import TRAILERS
from framing_inputs import inputs
from framing_refused import LARGE, REFUSED
from framing_rules import BODY_RULES, RULES, Request, Rule, broken, keeps
from parsers import Ours, Read, build, read_h11, read_llhttp
from soak import times

COUNT = times(12_000)  # soak: 1,000,000
SEED = 9112

Parser = Callable[[bytes], Read]
OTHERS: dict[str, Parser] = {"h11": read_h11, "llhttp": read_llhttp}


@dataclass(frozen=True)
class Narrower:
    """Why another parser refuses what is lawful, or what we let pass on purpose."""

    parser: str
    says: str  # its message
    rule: str  # by which it needn't
    holds: Callable[[Request], bool] = lambda request: True


def has_upgrade(request: Request) -> bool:
    return bool(request.values(b"upgrade"))


def has_long_length(request: Request) -> bool:
    return any(len(value) > 20 for value in request.values(b"content-length"))


def has_other_method(request: Request) -> bool:
    return request.method.decode("latin-1") not in LLHTTP_METHODS


def has_blank_behind_coding(request: Request) -> bool:
    return any(re.match(rb"(?i)transfer-encoding:.*[ \t]$", each) for each in request.lines)


def is_chunked(request: Request) -> bool:
    return bool(request.values(b"transfer-encoding"))


def has_extension(request: Request) -> bool:
    return is_chunked(request) and b";" in request.data[request.head_end :]


def has_trailer(request: Request) -> bool:
    return is_chunked(request) and re.search(rb"0[^\n]*\r\n[^\r]", request.data) is not None


def is_10_with_both(request: Request) -> bool:
    options = b",".join(request.values(b"connection")).lower()
    return request.is_10 and b"close" in options and b"keep-alive" in options


LLHTTP_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"]
NARROWER = (
    Narrower(
        "h11",
        "no request line received",
        "9112 2.2: SHOULD ignore an empty line",
        lambda request: request.start == 2,
    ),
    Narrower("h11", "bad Content-Length", "9110 8.6: 1*DIGIT", has_long_length),
    *(
        Narrower("h11", each, "9112 7.1.2: trailers are dropped", has_trailer)
        for each in ("bad Content-Length", "conflicting Content-Length", "Transfer-Encoding")
    ),
    Narrower("h11", "illegal chunk header", "9112 7.1.1: BWS before ';'", has_extension),
    Narrower("llhttp", "method", "9110 9.1: any token", has_other_method),
    Narrower(
        "llhttp", "invalid `Transfer-Encoding`", "9112 5.1: blanks behind", has_blank_behind_coding
    ),
    Narrower("llhttp", "in chunk extensions", "9112 7.1.1: ignored, so unread", has_extension),
    Narrower("llhttp", "in chunk size", "9112 7.1.1: BWS before ';'", has_extension),
    Narrower("llhttp", "Transfer-Encoding", "9112 7.1.2: trailers are dropped", has_trailer),
)


@dataclass(frozen=True)
class Otherwise:
    """Why another parser may read differently what it accepts as we do."""

    parser: str
    part: str
    rule: str
    holds: Callable[[Request], bool]


OTHERWISE = (
    Otherwise("h11", "keeps", "9112 9.3: it keeps no 1.0", lambda request: request.is_10),
    Otherwise("h11", "keeps", "9110 7.8: might switch to the other protocol", has_upgrade),
    Otherwise("llhttp", "keeps", "9112 9.3: close counts first", is_10_with_both),
    Otherwise("llhttp", "keeps", "9112 7.1.2: trailers are dropped", has_trailer),
    Otherwise("llhttp", "body", "9110 7.8: leaves the rest to the other protocol", has_upgrade),
    Otherwise("llhttp", "used", "9110 7.8: leaves the rest to the other protocol", has_upgrade),
    Otherwise("llhttp", "keeps", "9110 7.8: leaves the rest to the other protocol", has_upgrade),
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return Ours(build(tmp_path_factory.mktemp("framing")))


# ---- one input -----------------------------------------------------------------------------------


def unnamed(data: bytes, ours: Ours) -> Iterator[str]:
    """The differences that have no name."""
    mine, wrong = ours(data), broken(data)
    yield from against_grammar(mine, wrong, data)
    for name, read in OTHERS.items():
        yield from against_other(mine, name, read(data), data)


def against_grammar(mine: Read, wrong: list[Rule], data: bytes) -> Iterator[str]:
    if mine.state == "refused" and not any(rule.says in mine.why for rule in wrong):
        yield f"refused for {mine.why!r}, which the grammar allows"
    if mine.state == "whole" and wrong:
        yield f"accepted against {[rule.rule for rule in wrong]}"
    if mine.state == "more" and wrong and Request(data).whole:
        yield f"waits for more, against {[rule.rule for rule in wrong]}"
    if mine.state == "whole" and mine.keeps != keeps(Request(data)):
        yield f"keeps the connection: {mine.keeps}, against 9112 9.3"


def against_other(mine: Read, name: str, theirs: Read, data: bytes) -> Iterator[str]:
    if mine.state == "refused":
        return  # rightly, by against_grammar
    if mine.state == "more":
        if theirs.state == "whole":
            yield f"{name} sees a whole request of {theirs.used} bytes where we wait for more"
    elif theirs.state == "refused":
        if not is_narrower(name, theirs.why, Request(data)):
            yield f"{name} refuses what we accept: {theirs.why}"
    elif theirs.state == "more":
        yield f"{name} waits for more where we see a whole request of {mine.used} bytes"
    else:
        yield from misread(mine, name, theirs, Request(data))


def is_narrower(name: str, why: str, request: Request) -> bool:
    return any(
        each.parser == name and each.says in why and each.holds(request) for each in NARROWER
    )


PARTS = ("method", "target", "version", "fields", "body", "used", "keeps")


def misread(mine: Read, name: str, theirs: Read, request: Request) -> Iterator[str]:
    for part in PARTS:
        if getattr(mine, part) == getattr(theirs, part):
            continue
        if not any(
            (each.parser, each.part) == (name, part) and each.holds(request) for each in OTHERWISE
        ):
            yield f"{part}: {getattr(mine, part)!r}, for {name} {getattr(theirs, part)!r}"


def shortest(data: bytes, wrong: Callable[[bytes], bool]) -> bytes:
    """The same fault in fewer bytes: what can go without mending it, goes."""
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data):
            less = data[:at] + data[at + size :]
            data, at = (less, at) if wrong(less) else (data, at + size)
        size //= 2
    return data


# ---- tests ---------------------------------------------------------------------------------------


def has_fault(ours: Ours, fault: str, data: bytes) -> bool:
    return fault in unnamed(data, ours)


def test_every_difference_has_a_name(ours: Ours) -> None:
    faults: dict[str, bytes] = {}
    for data in inputs(SEED, COUNT):
        for fault in unnamed(data, ours):
            kind = re.sub(r"[0-9]+|b?'[^']*'|b?\"[^\"]*\"", "_", fault)
            if kind not in faults:
                faults[kind] = shortest(data, partial(has_fault, ours, fault))
    assert faults == {}


def test_inputs_reach_what_they_are_for(ours: Ours) -> None:
    """Each state is reached often, by each parser, and each rule is broken."""
    states: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    sample = 4000
    for data in inputs(SEED + 1, sample):
        mine = ours(data)
        reasons[mine.why] += 1
        states["ours", mine.state] += 1
        for name, read in OTHERS.items():
            states[name, read(data).state] += 1
    for name in ("ours", *OTHERS):
        assert states[name, "whole"] > sample / 5, states
        assert states[name, "refused"] > sample / 10, states
    rare = [
        rule.rule
        for rule in (*RULES, *BODY_RULES)
        if rule.rule != "6585 5" and not any(rule.says in why for why in reasons)
    ]
    assert rare == []


def test_rules_are_rows_of_the_table() -> None:
    rows = {row.rule for row in (*REFUSED, *LARGE, *TRAILERS)}
    assert [rule.rule for rule in (*RULES, *BODY_RULES) if rule.rule not in rows] == []
