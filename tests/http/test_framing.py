"""RFC 9112 to the letter: what is refused, what is accepted; and packets make no difference."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
from coreserver import CoreServer
from rawhttp import RawClient
from rows import (
    ACCEPTED,
    GOOD,
    REFUSED,
    REFUSED_LARGE,
    SMUGGLED,
    Accepted,
    Refused,
)

PACKET = 0.002  # seconds in which a server on the same machine has read what was sent
ABREAST = 100  # connections at a time

Row = Refused | Accepted


def check(row: Row, client: RawClient) -> None:
    """The whole answer to a row that was sent with SMUGGLED behind it."""
    answer = client.answer()
    assert answer.status == row.status
    if isinstance(row, Refused):
        answer.error()
        assert answer.closes
        client.expect_eof()
        return
    assert answer.closes == row.closes
    if row.body is None:
        answer.error()
    else:
        assert answer.body == row.body
    if row.closes:
        client.expect_eof()
    else:
        assert client.answer().status == 200  # SMUGGLED, which here is a request like any


def cut_data(row: Row) -> bytes:
    """A row with SMUGGLED behind it; not where the client has said that nothing more will come,
    since the server need not wait for more then."""
    return row.data if isinstance(row, Accepted) and row.closes else row.data + SMUGGLED


def handled(rows: Sequence[Row]) -> int:
    """How many calls of the handler for /smuggled these rows explain."""
    return sum(isinstance(row, Accepted) and not row.closes for row in rows)


@pytest.fixture
def untouched(echo_server: CoreServer) -> Iterator[CoreServer]:
    """The server, with nothing taken yet and nothing left behind."""
    echo_server.taken.clear()
    yield echo_server
    echo_server.wait_idle()


@pytest.mark.parametrize("row", REFUSED + REFUSED_LARGE, ids=lambda row: row.name)
def test_refused_without_handler_and_closed(untouched: CoreServer, row: Refused) -> None:
    with untouched.connect() as client:
        client.send_if_open(row.data + SMUGGLED)
        check(row, client)
    assert untouched.taken == []


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row.name)
def test_accepted_and_what_follows_is_the_next_request(
    untouched: CoreServer, row: Accepted
) -> None:
    with untouched.connect() as client:
        client.send(row.data + SMUGGLED)
        check(row, client)
    assert untouched.taken.count("/smuggled") == handled([row])


@pytest.mark.parametrize(
    "row", [row for row in REFUSED if row.status != 431], ids=lambda row: row.name
)
def test_refused_behind_a_good_request(untouched: CoreServer, row: Refused) -> None:
    """The request before it is answered, as if it had been alone."""
    with untouched.connect() as client:
        client.send_if_open(GOOD + row.data + SMUGGLED)
        assert client.answer().body == b"hello"
        if not row.data.startswith(
            b"\r\n"
        ):  # between requests, one empty line is allowed once more
            check(row, client)
    assert untouched.taken == ["/echo"]


def test_byte_by_byte_makes_no_difference(untouched: CoreServer) -> None:
    """All rows side by side, a byte each in turn."""
    rows: list[Row] = [row for row in [*REFUSED, *ACCEPTED] if len(row.data) < 400]
    clients = [untouched.connect() for _ in rows]
    sent = [cut_data(row) for row in rows]
    for at in range(max(map(len, sent))):
        for client, data in zip(clients, sent, strict=True):
            if at < len(data):
                client.send_if_open(data[at : at + 1])
        time.sleep(PACKET / 4)
    failures = [
        failure
        for row, client in zip(rows, clients, strict=True)
        if (failure := differs(row, client))
    ]
    assert failures == []
    assert untouched.taken.count("/smuggled") == handled(rows)


def differs(row: Row, client: RawClient) -> str | None:
    """Why an answer is not what the row says, or None. Closes the client."""
    with client:
        try:
            check(row, client)
        except Exception as error:
            return f"{row.name}: {type(error).__name__}: {error}"
    return None


CUT_NAMES = {
    "length twice, the same",
    "coding and length",
    "bare LF ends a field",
    "folded value",
    "two empty lines in front",
    "chunk longer than its size",
    "bare LF after the last chunk",
    "one empty line in front",
    "plain",
    "chunks",
    "extension",
    "trailers",
    "refused at its length",
    "chunked, too long",
}
CORPUS: list[Row] = [row for row in [*REFUSED, *ACCEPTED] if row.name in CUT_NAMES]


def differences(server: CoreServer, row: Row, cuts: Sequence[int]) -> list[tuple[int, str]]:
    """Sends a row in two packets, once for each cut; what came of it but for the right answer."""
    data = cut_data(row)
    failures = []
    for start in range(0, len(cuts), ABREAST):
        batch = cuts[start : start + ABREAST]
        clients = [server.connect() for _ in batch]
        for client, cut in zip(clients, batch, strict=True):
            client.send(data[:cut])
        time.sleep(PACKET)
        for client, cut in zip(clients, batch, strict=True):
            client.send_if_open(data[cut:])
        for client, cut in zip(clients, batch, strict=True):
            if failure := differs(row, client):
                failures.append((cut, failure))
        if failures:
            break
    return failures


@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row.name)
def test_each_cut_in_two_makes_no_difference(untouched: CoreServer, row: Row) -> None:
    cuts = range(1, len(cut_data(row)))
    assert differences(untouched, row, cuts) == []
    assert untouched.taken.count("/smuggled") == len(cuts) * handled([row])


@pytest.mark.parametrize(
    "row", [row for row in [*REFUSED, *ACCEPTED] if row not in CORPUS], ids=lambda row: row.name
)
def test_cuts_at_line_ends_make_no_difference(untouched: CoreServer, row: Row) -> None:
    """Every row, cut on either side of the CR, LF and colons that it has."""
    data = cut_data(row)
    cuts = [at for at in range(1, len(data)) if {data[at - 1], data[at]} & set(b"\r\n:")]
    assert differences(untouched, row, cuts[:100]) == []


@pytest.mark.parametrize("extra", [0, 1], ids=["at the limit", "one byte over it"])
def test_head_of_64_kib(untouched: CoreServer, extra: int) -> None:
    start = b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nX: "
    head = start + b"a" * (65536 - len(start) - 4 + extra) + b"\r\n\r\n"
    with untouched.connect() as client:
        client.send_if_open(head + b"hello")
        answer = client.answer()
        assert answer.status == (431 if extra else 200)
        if extra:
            assert "64 KiB" in answer.error()
            client.expect_eof()
        else:
            assert answer.body == b"hello"


def test_nothing_sent_is_no_request(untouched: CoreServer) -> None:
    """A connection that closes without a byte, or in the middle of a head, gets no answer."""
    before = untouched.stats()["requests"]
    for piece in (b"", b"\r", b"\r\n", b"POST", GOOD[:40]):
        with untouched.connect() as client:
            client.send(piece)
            client.socket.shutdown(1)
            client.expect_eof()
    assert untouched.stats()["requests"] == before
    assert untouched.taken == []
