"""HTTP as the client writes and reads it: every cut, every framing, what is refused."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpredict.client_errors import BadResponse, ClientConnectionError
from fastpredict.client_transport import parse_url
from fastpredict.client_wire import (
    HEAD_BYTES_MAX,
    AnswerHead,
    AnswerReader,
    FixedSink,
    GrowingSink,
    Sink,
    parse_head,
    request_head,
)


class Reading:
    """An AnswerReader that is fed from bytes, as a socket would."""

    def __init__(self, room: int | None = None) -> None:
        self._room = None if room is None else bytearray(room)
        self._grown = GrowingSink()
        self.reader = AnswerReader(bytearray(HEAD_BYTES_MAX), self._open)

    def _open(self, head: AnswerHead) -> Sink:
        return self._grown if self._room is None else FixedSink(memoryview(self._room))

    def feed(self, data: bytes) -> bytes:
        """What is left when the answer is whole."""
        while data and not self.reader.done:
            window = self.reader.window()
            assert len(window) > 0
            count = min(len(window), len(data))
            window[:count] = data[:count]
            data = data[count:]
            self.reader.received(count)
        return data

    def feed_slowly(self, data: bytes) -> None:
        for at in range(len(data)):
            self.feed(data[at : at + 1])

    def end(self) -> None:
        self.reader.window()
        self.reader.received(0)

    @property
    def body(self) -> bytes:
        return bytes(self._grown.getvalue() if self._room is None else self._room)


BODY = bytes(range(256)) * 3
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 768\r\nX-A: 1\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"100;name=value\r\n" + BODY[:256] + b"\r\n1FF\r\n" + BODY[256:767] + b"\r\n"
    b"01 \r\n" + BODY[767:] + b"\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, INTERIM], ids=["plain", "chunked", "interim"])
@pytest.mark.parametrize("room", [None, 768], ids=["growing", "fixed"])
def test_every_cut_of_an_answer_reads_the_same(answer, room):
    for cut in range(len(answer) + 1):
        reading = Reading(room)
        assert reading.feed(answer[:cut]) == b""
        assert reading.reader.done == (cut == len(answer))
        assert reading.feed(answer[cut:]) == b""
        assert reading.reader.done
        assert reading.reader.reusable
        assert reading.body == BODY
    reading = Reading(room)
    reading.feed_slowly(answer)
    assert reading.reader.done
    assert reading.body == BODY


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, INTERIM], ids=["plain", "chunked", "interim"])
def test_an_answer_that_ends_anywhere_before_its_end_is_a_lost_connection(answer):
    for cut in range(len(answer)):
        reading = Reading()
        reading.feed(answer[:cut])
        assert reading.reader.started == (cut > 0)
        with pytest.raises(ClientConnectionError):
            reading.end()


def test_a_body_without_length_goes_up_to_the_end_of_the_connection():
    for room in (None, 768):
        reading = Reading(room)
        reading.feed(b"HTTP/1.0 200 OK\r\n\r\n" + BODY)
        assert not reading.reader.done
        reading.end()
        assert reading.reader.done
        assert not reading.reader.reusable
        assert reading.body == BODY


@given(st.lists(st.binary(min_size=1, max_size=30_000), max_size=5), st.integers(1, 40_000))
def test_chunks_of_any_size_are_joined(chunks, step):
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    body = b"".join(chunks)
    for room in (None, len(body)):
        reading = Reading(room)
        for at in range(0, len(data), step):
            reading.feed(data[at : at + step])
        assert reading.reader.done
        assert reading.body == body


def test_large_bodies_go_straight_to_their_place():
    room = bytearray(1 << 20)
    view = memoryview(room)
    reader = AnswerReader(bytearray(HEAD_BYTES_MAX), lambda head: FixedSink(view))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"
    reader.window()[: len(head)] = head
    assert not reader.received(len(head))
    window = reader.window()
    assert len(window) == 1 << 20
    window[:3] = b"abc"
    reader.received(3)
    assert bytes(room[:3]) == b"abc"
    assert len(reader.window()) == (1 << 20) - 3


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSpace : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: x\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: x\nB: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: x\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * HEAD_BYTES_MAX,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5x\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 10_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 10_000,
    ],
)
def test_what_is_no_answer_is_refused_at_once_and_however_it_is_cut(answer):
    with pytest.raises(BadResponse):
        Reading().feed(answer)
    reading = Reading()
    with pytest.raises(BadResponse):
        reading.feed_slowly(answer)


def test_a_hostile_line_takes_no_longer_than_another():
    """A pattern that may match blanks in two ways tries all of them: seconds, with the GIL."""
    for line in (b"a:" + b" " * 40_000 + b"\x01", b"a:" + b" x" * 20_000 + b"\x01"):
        start = time.process_time()
        with pytest.raises(BadResponse, match="header line"):
            parse_head(b"HTTP/1.1 200 OK\r\n" + line)
        assert time.process_time() - start < 0.5


def test_blanks_around_a_value_are_no_part_of_it():
    assert parse_head(b"HTTP/1.1 200 OK\r\na: \t b \tc \t\r\nb:\r\nc: \t ").headers == {
        "a": "b \tc",
        "b": "",
        "c": "",
    }


def test_more_than_the_array_takes_is_refused():
    for head in (
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n300\r\n",
    ):
        with pytest.raises(BadResponse, match="longer"):
            Reading(100).feed(head + BODY)


def test_bytes_after_an_answer_end_the_connection():
    for answer in (PLAIN, CHUNKED):
        reading = Reading()
        reading.feed(answer + b"x")
        assert reading.reader.done
        assert not reading.reader.reusable
        assert reading.body == BODY


@pytest.mark.parametrize(
    ("start", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, CLOSE\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_a_connection_is_kept_as_the_head_says(start, kept):
    reading = Reading()
    reading.feed(start + b"Content-Length: 0\r\n\r\n")
    assert reading.reader.done
    assert reading.reader.reusable == kept


def test_answers_without_a_body_have_none_whatever_their_fields_say():
    for status in (b"204 No Content", b"304 Not Modified"):
        reading = Reading()
        reading.feed(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")
        assert reading.reader.done


def test_a_head_is_taken_apart():
    head = parse_head(
        b"HTTP/1.1 404 \r\nA:  x y \r\na: z\r\nContent-Type: Text/HTML; charset=x\r\nE:"
    )
    assert (head.status, head.reason, head.version, head.ok) == (404, "", 1, False)
    assert head.headers == {"a": "x y, z", "content-type": "Text/HTML; charset=x", "e": ""}
    assert head.content_type == "text/html"
    assert parse_head(b"HTTP/1.1 200").status == 200


def test_retry_after_is_a_number_or_a_date():
    def seconds(value):
        return parse_head(f"HTTP/1.1 503 x\r\nRetry-After: {value}".encode()).retry_after

    assert seconds("7") == 7.0
    assert seconds("0") == 0.0
    soon = datetime.now(UTC) + timedelta(seconds=60)
    assert 50 < seconds(format_datetime(soon, usegmt=True)) < 61
    assert seconds("Mon, 01 Jan 2001 00:00:00 GMT") == 0.0
    for nonsense in ("", "soon", "-1", "1.5", "9" * 40):
        assert seconds(nonsense) is None
    assert parse_head(b"HTTP/1.1 503 x").retry_after is None


@given(st.text("abc/", max_size=200), st.integers(0, 10**9))
def test_a_request_head_is_a_whole_number_of_cache_lines(path, length):
    fields = [(b"Content-Length", b"%d" % length)]
    head = request_head("POST", f"/{path}", "h:1", "agent/1", fields)
    assert len(head) % 64 == 0
    assert head.endswith(b"\r\n\r\n")
    line, *rest = head[:-4].split(b"\r\n")
    assert line == f"POST /{path} HTTP/1.1".encode()
    named = dict(each.split(b":", 1) for each in rest)
    assert named[b"User-Agent"].strip() == b"agent/1"
    assert named[b"Content-Length"] == b" %d" % length


def test_of_a_body_that_is_not_kept_only_the_beginning_remains():
    sink = GrowingSink(keep=1000)
    for number in range(100):
        window = sink.window(1 << 20)
        window[:] = bytes([number]) * len(window)
        sink.advance(len(window))
    kept = sink.getvalue()
    assert 1000 <= len(kept) <= 64 << 10
    assert set(kept) == {0}


def test_host_has_no_zone():
    assert parse_url("http://[fe80::1%eth0]:8000").host_field == "[fe80::1]:8000"
    assert parse_url("http://[::1]:8000").host_field == "[::1]:8000"
