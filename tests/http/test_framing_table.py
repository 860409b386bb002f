"""Every row of the framing table: whole, behind another request, cut everywhere, byte by byte.

Refused rows are checked three ways: the status (and that it is for this rule), that the connection
closes without another word, and that no handler was called. Accepted ones by every byte of the
answer and of that to the request behind them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import framing_accepted
import framing_refused
import pytest
from abreast import play
from coreserver import ROUTES, CoreServer, Servers, route
from framing_accepted import ACCEPTED
from framing_chunks import TRAILERS
from framing_refused import REFUSED
from framing_table import BEHIND, BEHIND_ANSWER, GOOD, Accepted, Refused, answer, chunks

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSAL = re.compile(
    rb"HTTP/1\.1 (?P<status>[0-9]{3}) [A-Za-z ]+\r\n"
    rb"Date: \*\r\nContent-Length: (?P<length>[0-9]+)\r\nConnection: close\r\n"
    rb"Content-Type: application/json\r\n\r\n"
    rb'(?P<body>\{"error": "(?P<sentence>[^"\\]+)"\}\n)'
)


@pytest.fixture(scope="module")
def server() -> Iterator[CoreServer]:
    with Servers() as servers:
        yield servers(routes=[*ROUTES, route("/behind")], max_queued_requests=1024)


@pytest.fixture(autouse=True)
def idle(server: CoreServer) -> Iterator[None]:
    """Nothing is taken at the start, and nothing left behind at the end."""
    server.taken.clear()
    yield
    server.wait_idle()


def check_refusal(row: Refused, stream: bytes) -> None:
    """One whole answer, for the right reason, that closes; and nothing after it."""
    found = REFUSAL.fullmatch(stream)
    assert found is not None, stream
    assert int(found["status"]) == row.status, stream
    assert row.says in found["sentence"].decode(), stream
    assert int(found["length"]) == len(found["body"])


def wire(row: Refused | Accepted) -> bytes:
    """A row with a request behind it, but where the client has said that none comes."""
    return row.data if isinstance(row, Accepted) and row.closes else row.data + BEHIND


def wanted(row: Accepted) -> bytes:
    return row.answer if row.closes else row.answer + BEHIND_ANSWER


def calls(row: Accepted) -> Counter[str]:
    return Counter({"/echo": int(row.calls), "/behind": int(not row.closes)})


def times(calls: Counter[str], count: int) -> Counter[str]:
    return Counter({path: number * count for path, number in calls.items() if number})


def said(row: Accepted, stream: bytes) -> bytes:
    return stream.removeprefix(CONTINUE) if row.may_continue else stream


def cuts(data: bytes, end: int) -> list[list[bytes]]:
    """Cut in two everywhere up to end."""
    return [[data[:at], data[at:]] for at in range(1, end + 1) if data[at:]]


def differing(streams: Sequence[bytes], right: bytes) -> dict[int, bytes]:
    """By the place of the cut, what is another answer."""
    return {at: stream for at, stream in enumerate(streams, start=1) if stream != right}


@pytest.mark.parametrize("row", [*REFUSED, *TRAILERS], ids=str)
def test_refused_however_it_comes(server: CoreServer, row: Refused) -> None:
    data = wire(row)
    whole, behind, *cut = play(server, [[data], [GOOD + data], *cuts(data, len(row.data))])
    check_refusal(row, whole)
    assert behind == answer() + whole, "the request before it is answered as if it were alone"
    assert differing(cut, whole) == {}
    assert server.taken == ["/echo"]  # the good request before it


@pytest.mark.parametrize("row", ACCEPTED, ids=str)
def test_accepted_however_it_comes(server: CoreServer, row: Accepted) -> None:
    data, right = wire(row), wanted(row)
    scripts = [[data], [GOOD + data], *cuts(data, len(row.data))]
    whole, behind, *cut = (said(row, stream) for stream in play(server, scripts))
    assert whole == right
    assert behind == answer() + right
    assert differing(cut, right) == {}
    assert Counter(server.taken) == times(calls(row), len(scripts)) + Counter({"/echo": 1})


def test_byte_by_byte_makes_no_difference(server: CoreServer) -> None:
    """All rows side by side, a byte of each in turn."""
    rows: list[Refused | Accepted] = [*REFUSED, *TRAILERS, *ACCEPTED]
    streams = play(server, [[bytes([byte]) for byte in wire(row)] for row in rows])
    right = play(server, [[wire(row)] for row in (*REFUSED, *TRAILERS)])
    right += [wanted(row) for row in ACCEPTED]
    wrong = {
        str(row): stream
        for row, stream, answered in zip(rows, streams, right, strict=True)
        if (said(row, stream) if isinstance(row, Accepted) else stream) != answered
    }
    assert wrong == {}
    assert Counter(server.taken) == sum(map(calls, ACCEPTED), Counter())


STAY = [row for row in ACCEPTED if not row.closes and not row.may_continue]


@pytest.mark.parametrize("order", ["as they are", "backwards", "at random"])
def test_accepted_rows_behind_each_other_on_one_connection(server: CoreServer, order: str) -> None:
    rows = list(STAY)
    choose = random.Random(1)
    if order == "backwards":
        rows.reverse()
    elif order == "at random":
        choose.shuffle(rows)
    data = b"".join(row.data for row in rows) + BEHIND
    right = b"".join(row.answer for row in rows) + BEHIND_ANSWER
    sevens = [data[at : at + 7] for at in range(0, len(data), 7)]
    ends = sorted(choose.sample(range(1, len(data)), 50))
    random_pieces = [
        data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)
    ]
    assert play(server, [[data], sevens, random_pieces]) == [right] * 3
    assert Counter(server.taken) == times(
        sum((Counter({"/echo": int(row.calls)}) for row in rows), Counter({"/behind": 1})), 3
    )


# ---- rows of many bytes --------------------------------------------------------------------------


def some_cuts(data: bytes, end: int) -> list[list[bytes]]:
    """Whole, in two at 60 places, and in pieces of 5,000 bytes."""
    places = sorted({*range(1, end, max(1, end // 50)), *range(end - 8, end)})
    pieces = [data[at : at + 5000] for at in range(0, len(data), 5000)]
    return [[data], pieces, *([data[:at], data[at:]] for at in places)]


@pytest.mark.parametrize("row", framing_refused.LARGE, ids=str)
def test_large_ones_are_refused(server: CoreServer, row: Refused) -> None:
    data = wire(row)
    whole, *cut = play(server, some_cuts(data, len(row.data)))
    check_refusal(row, whole)
    assert differing(cut, whole) == {}
    assert server.taken == []


@pytest.mark.parametrize("row", framing_accepted.LARGE, ids=str)
def test_large_ones_are_accepted(server: CoreServer, row: Accepted) -> None:
    data, right = wire(row), wanted(row)
    scripts = some_cuts(data, len(row.data))
    assert differing(play(server, scripts), right) == {}
    assert Counter(server.taken) == times(calls(row), len(scripts))


# ---- what is no request --------------------------------------------------------------------------


def test_nothing_sent_is_no_request(server: CoreServer) -> None:
    """A connection that ends without a byte, or in the middle of a head, gets no answer."""
    before = server.stats()["requests"]
    for piece in (b"", b"\r", b"\r\n", b"POST", GOOD[:40]):
        with server.connect() as client:
            client.send(piece)
            client.socket.shutdown(1)
            client.expect_eof()
    assert server.stats()["requests"] == before
    assert server.taken == []


@pytest.mark.parametrize(
    "data", [GOOD, chunks(b"5\r\nhello\r\n0\r\nX: a\r\n\r\n")], ids=["length", "chunked"]
)
def test_body_that_is_cut_short_reaches_no_handler(server: CoreServer, data: bytes) -> None:
    """RFC 9112 8: the end of the connection doesn't end a request."""
    for end in range(data.index(b"\r\n\r\n"), len(data)):
        with server.connect() as client:
            client.send(data[:end])
            client.socket.shutdown(1)
            client.expect_eof()
    assert server.taken == []


# ---- the table itself ----------------------------------------------------------------------------

#: Every section that says how a request is to be read; the others: see framing_table.py.
SECTIONS = {
    *("9112 2.1", "9112 2.2", "9112 2.3", "9112 3", "9112 3.2", "9112 3.2.1", "9112 3.2.2"),
    *("9112 3.2.3", "9112 3.2.4", "9112 3.3", "9112 5", "9112 5.1", "9112 5.2", "9112 6.1"),
    *("9112 6.3", "9112 7", "9112 7.1", "9112 7.1.1", "9112 7.1.2", "9112 9.3", "9112 9.6"),
    *("9110 4.2.1", "9110 4.2.3", "9110 4.2.4", "9110 5.1", "9110 5.3", "9110 5.4", "9110 5.5"),
    *("9110 7.2", "9110 7.6.1", "9110 7.8", "9110 8.6", "9110 9.1", "9110 10.1.1", "9110 15.5.5"),
    *("3986 2", "3986 2.1", "3986 2.4", "3986 3.2.2", "3986 7.3", "6585 5", "9113 3.4"),
}

ROWS: list[Refused | Accepted] = [
    *REFUSED,
    *TRAILERS,
    *framing_refused.LARGE,
    *ACCEPTED,
    *framing_accepted.LARGE,
]


def test_every_section_has_a_row() -> None:
    sections = {" ".join(row.rule.split()[:2]) for row in ROWS}
    assert SECTIONS - sections == set()


def test_every_row_has_a_name_of_its_own() -> None:
    kinds = Counter((type(row), str(row)) for row in ROWS)
    assert [name for name, count in kinds.items() if count > 1] == []
