"""wsgi.input: everything that a file does, as a file does it, and the whole body without a copy."""

from __future__ import annotations

import io
import sys

import pytest

from fastpredict.wsgi_input import Input

TEXT = b"one\ntwo\n\nno end"


class InPlace(bytes):
    """What stands for the receive buffer: bytes, but not of the very type."""


class Exchange:
    def __init__(self, body: bytes, content_type: str | None = None) -> None:
        self.body, self.nbytes = body, len(body)
        self.content_type = content_type
        self.fetched = 0

    def header(self, name: str) -> str | None:
        assert name == "content-type"
        return self.content_type

    def bytes(self) -> bytes:
        self.fetched += 1
        return self.body


def input_of(body: bytes, content_type: str | None = None) -> Input:
    return Input(Exchange(body, content_type))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(), (None,), (-1,), (100_000,), (100_001,)], ids=str)
def test_reading_the_whole_body_gives_the_receive_buffer_itself(size):
    body = InPlace(100_000)
    stream = input_of(body)
    assert stream.read(*size) is body
    assert stream.read() == b""
    assert stream.read(5) == b""


READS = {
    "read": lambda stream: stream.read(),
    "read parts": lambda stream: [stream.read(999) for _ in range(101)],
    "readinto": lambda stream: stream.readinto(bytearray(200_000)),
    "readline": lambda stream: stream.readline(),
    "lines": lambda stream: list(stream),
}


@pytest.mark.parametrize("how", READS)
def test_once_read_to_its_end_the_body_is_the_applications_alone(how):
    body = InPlace(100_000)
    exchange = Exchange(body)
    stream = Input(exchange)  # type: ignore[arg-type]
    assert stream.read(1) == b"\0"
    held = sys.getrefcount(body)
    READS[how](stream)
    assert sys.getrefcount(body) == held - 1
    assert stream.read() == stream.readline() == b""
    assert stream.readinto(bytearray(1)) == 0
    assert exchange.fetched == 1


def test_the_body_is_not_fetched_before_it_is_read_and_then_once():
    exchange = Exchange(TEXT)
    stream = Input(exchange)  # type: ignore[arg-type]
    assert exchange.fetched == 0
    stream.read(1), stream.readline(), list(stream)
    assert exchange.fetched == 1


@pytest.mark.parametrize("content_type", [None, "application/x-npy", "application/json"])
@pytest.mark.parametrize("body", [b"x" * 100, b"x" * 16384], ids=len)
def test_little_bodies_are_bytes_of_the_very_type(body, content_type):
    assert type(input_of(InPlace(body), content_type).read()) is bytes


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"],
)
def test_json_is_bytes_of_the_very_type_at_any_size(content_type):
    assert type(input_of(InPlace(100_000), content_type).read()) is bytes


@pytest.mark.parametrize("content_type", ["application/octet-stream", "image/png", ""])
def test_other_large_bodies_are_not_copied(content_type):
    body = InPlace(100_000)
    assert input_of(body, content_type).read() is body


# Each is done to a file and to our input; the results must be the same, step by step.
SCRIPTS = {
    "read": [("read",), ("read",)],
    "read_none": [("read", None)],
    "read_zero": [("read", 0), ("read", 4), ("read", 0), ("read",)],
    "read_pieces": [("read", 5)] * 5,
    "read_past_the_end": [("read", 10), ("read", 10), ("read", 10)],
    "read_negative_after_some": [("read", 3), ("read", -1), ("read", -1)],
    "read1": [("read1", 3), ("read1", 100), ("read1",)],
    "readline": [("readline",)] * 6,
    "readline_size": [("readline", 2), ("readline", 2), ("readline", 4), ("readline", 0)] * 3,
    "readline_none": [("readline", None), ("readline", -1)],
    "readlines": [("readlines",), ("readlines",)],
    "readlines_hint": [("readlines", 1), ("readlines", 5), ("readlines", 0)],
    "readlines_none": [("read", 2), ("readlines", None)],
    "mixed": [("read", 1), ("readline",), ("readlines", 1), ("readline", 1), ("read",)],
    "questions": [("readable",), ("writable",), ("flush",)],
}


@pytest.mark.parametrize("body", [TEXT, b"", b"\n", b"\r\n\n", b"a" * 40], ids=repr)
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_it_reads_as_a_file_does(script, body):
    file, stream = io.BufferedReader(io.BytesIO(body)), input_of(body)  # type: ignore[arg-type]
    for name, *args in script:
        expected = getattr(file, name)(*args)
        assert getattr(stream, name)(*args) == expected, (name, args)


@pytest.mark.parametrize("body", [TEXT, b"", b"\n"], ids=repr)
def test_it_is_iterated_by_lines_as_a_file_is(body):
    assert list(input_of(body)) == list(io.BytesIO(body))
    stream = input_of(body)
    stream.read(2)
    assert list(stream) == body[2:].splitlines(keepends=True)


@pytest.mark.parametrize("name", ["readinto", "readinto1"])
def test_readinto_fills_what_there_is_room_for(name):
    stream, target = input_of(TEXT), bytearray(b"." * 6)
    assert getattr(stream, name)(target) == 6
    assert target == TEXT[:6]
    big = bytearray(b"." * 20)
    assert getattr(stream, name)(memoryview(big)) == len(TEXT) - 6
    assert big == TEXT[6:].ljust(20, b".")
    assert getattr(stream, name)(big) == 0
    assert getattr(stream, name)(bytearray()) == 0


def test_readinto_counts_bytes_not_items():
    numbers = memoryview(bytearray(8)).cast("I")
    stream = input_of(b"abcdefghij")
    assert stream.readinto(numbers) == 8
    assert bytes(numbers) == b"abcdefgh"
    assert stream.read() == b"ij"


def test_readinto_refuses_what_cannot_be_written():
    with pytest.raises(TypeError):
        input_of(TEXT).readinto(b"fixed")  # type: ignore[arg-type]


def test_the_standard_wrappers_take_it():
    assert io.BufferedReader(input_of(TEXT)).read() == TEXT  # type: ignore[arg-type]
    text = io.TextIOWrapper(input_of(TEXT), "ascii")  # type: ignore[arg-type]
    assert text.readlines() == TEXT.decode().splitlines(keepends=True)


def test_a_wrapper_that_is_dropped_closes_nothing():
    stream = input_of(TEXT)
    wrapper = io.BufferedReader(stream)  # type: ignore[arg-type]
    wrapper.close()
    del wrapper
    stream.close()
    assert stream.read() == TEXT


def test_it_says_that_it_cannot_be_sought_in():
    stream = input_of(TEXT)
    assert not stream.seekable()
    assert not stream.writable()
    assert not hasattr(stream, "seek")


def test_reading_after_the_request_has_ended_is_an_error_and_keeps_no_buffer():
    stream = input_of(TEXT)
    assert stream.read() == TEXT
    stream.detach()
    for read in (stream.read, stream.readline, stream.readlines, lambda: next(iter(stream))):
        with pytest.raises(ValueError, match="ended"):
            read()
