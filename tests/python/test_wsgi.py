"""A WSGI application and its answer (PEP 3333), against an exchange that records what is sent.

Applications that keep to the rules run twice: as they are, and under wsgiref.validate, which also
checks our side; it turns lists into iterators, so that both ways of sending are tried.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import logging
import os
import sys
import threading
import warnings
import weakref
from wsgiref.validate import WSGIWarning, validator

import fake_core  # noqa: F401  (first: it makes fastpredict importable)
import pytest
from fake_wsgi import TEXT, Exchange, serve, site_of

from fastpredict import wsgi, wsgi_response
from fastpredict.log import logger

TYPE = ("Content-Type", "text/plain")


@pytest.fixture(params=["plain", "validated"])
def wrap(request):
    """What stands between us and an application."""
    if request.param == "plain":
        yield lambda app: app
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error", WSGIWarning)
        yield validator


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture(autouse=True)
def errors():
    """What was logged; a test that expects an error takes it out."""
    handler = Records()
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)
    assert [record.getMessage() for record in handler.records] == []


def logged(errors):
    """The one entry, taken out of the log."""
    (record,) = errors
    errors.clear()
    return record


def answering(*blocks, status="200 OK", headers=(TYPE,), wrapped=list):
    """An application that answers so, its blocks in a list or what ``wrapped`` makes of them."""

    def app(environ, start_response):
        start_response(status, list(headers))
        return wrapped(blocks)

    return app


class Result:
    """An iterable that counts."""

    def __init__(self, *blocks, close_error=None):
        self.blocks = blocks
        self.close_error = close_error
        self.closed = self.asked = 0

    def __iter__(self):
        for block in self.blocks:
            self.asked += 1
            if isinstance(block, BaseException):
                raise block
            yield block

    def close(self):
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


def of_result(result, status="200 OK", headers=(TYPE,)):
    return answering(status=status, headers=headers, wrapped=lambda blocks: result)


# ---- bodies, and how they are sent ---------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [list, tuple, iter, lambda blocks: (b for b in blocks)])
@pytest.mark.parametrize("blocks", [[], [b""], [b"abc"], [b"a", b"", b"bc"], [b"", b"abc", b""]])
def test_every_kind_of_iterable_is_a_body(wrap, blocks, wrapped):
    exchange = serve(wrap(answering(*blocks, wrapped=wrapped)))
    assert exchange.seen == (200, b"OK", [(b"Content-Type", b"text/plain")], b"".join(blocks))
    assert exchange.whole


@pytest.mark.parametrize("wrapped", [list, tuple])
@pytest.mark.parametrize("blocks", [[], [b""], [b"abc"], [b"a", b"", b"bc"]])
def test_the_length_of_a_list_is_known_before_it_is_sent(blocks, wrapped):
    exchange = serve(answering(*blocks, wrapped=wrapped))
    assert exchange.calls == ["reply"]
    assert exchange.length == sum(map(len, blocks))


def test_little_blocks_are_joined_and_big_ones_sent_from_where_they_lie():
    exchange = serve(answering(b"a", b"b", b"c"))
    assert exchange.payload == [b"abc"]
    big = bytes(100_000)
    exchange = serve(answering(big, b"", b"b"))
    assert exchange.payload == [big, b"b"]
    assert exchange.payload[0] is big


def test_a_list_that_the_application_keeps_is_not_emptied():
    kept = [b"abc"]
    for _ in range(2):
        assert serve(of_result(kept)).seen[3] == b"abc"
    assert kept == [b"abc"]


def test_a_block_that_is_all_of_the_content_length_is_one_reply(wrap):
    block = b"x" * 1000
    result = Result(b"", block, b"")
    exchange = serve(wrap(of_result(result, headers=[TYPE, ("Content-Length", "1000")])))
    assert exchange.calls == ["reply"]
    assert exchange.payload[0] is block
    assert exchange.seen[2] == [(b"Content-Type", b"text/plain")]  # the length is the server's
    assert (result.asked, result.closed) == (3, 1)


def test_blocks_of_a_known_length_are_sent_one_by_one_with_that_length(wrap):
    result = Result(b"ab", b"c")
    exchange = serve(wrap(of_result(result, headers=[TYPE, ("Content-Length", "3")])))
    assert exchange.calls == ["begin", "write", "write", "end"]
    assert exchange.length == 3
    assert exchange.seen[3] == b"abc"
    assert exchange.whole


def test_each_block_is_sent_before_the_next_is_asked_for(wrap):
    exchange = Exchange()

    def stream():
        for number in range(3):
            assert exchange.calls.count("write") == number
            yield b"%d" % number
        assert exchange.calls == ["begin", "write", "write", "write"]

    serve(wrap(of_result(stream())), exchange)
    assert exchange.calls[-1] == "end"
    assert exchange.length is None


def test_empty_blocks_do_not_send_the_head():
    exchange = Exchange()

    def app(environ, start_response):
        start_response("200 OK", [TYPE])
        yield b""
        assert exchange.calls == []
        try:
            raise KeyError
        except KeyError:
            start_response("500 Sorry", [TYPE], sys.exc_info())
        yield b"sorry"

    serve(app, exchange)
    assert exchange.seen[:2] == (500, b"Sorry")


def test_an_application_may_be_a_generator_and_start_when_it_is_iterated():
    def app(environ, start_response):
        start_response("201 Created", [TYPE])
        yield b"ab"
        yield b"c"

    assert serve(app).seen == (201, b"Created", [(b"Content-Type", b"text/plain")], b"abc")


def test_an_application_may_be_a_class_whose_instances_are_the_result():
    class App:
        def __init__(self, environ, start_response):
            self.start_response = start_response

        def __iter__(self):
            self.start_response("200 OK", [TYPE])
            yield b"abc"

    assert serve(App).seen[3] == b"abc"


def test_the_receive_buffer_can_be_sent_back_as_it_is():
    def echo(environ, start_response):
        start_response("200 OK", [TYPE])
        return [environ["wsgi.input"].read()]

    exchange = serve(echo, body=bytes(100_000))
    assert exchange.payload[0] is exchange.body


# ---- answers without a body ----------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [list, iter, lambda blocks: (b for b in blocks)])
@pytest.mark.parametrize("length", [None, 3, 0, 30_000_000])
def test_head_sends_no_body_and_the_content_length_of_the_application(wrap, wrapped, length):
    headers = [TYPE] if length is None else [TYPE, ("Content-Length", str(length))]
    app = answering(b"abc", headers=headers, wrapped=wrapped)
    exchange = serve(wrap(app), method="HEAD")
    assert exchange.calls == ["begin", "end"]
    assert exchange.length == length
    assert exchange.whole


def test_head_of_an_endless_stream_ends(wrap):
    result = Result(*[b"x"] * 1000)
    assert serve(wrap(of_result(result)), method="HEAD").calls == ["begin", "end"]
    assert result.asked <= 1
    assert result.closed == 1


@pytest.mark.parametrize(
    ("status", "length"), [("204 No Content", None), ("304 Not Modified", 3), ("205 Reset", 0)]
)
def test_statuses_without_a_body_send_none(status, length):
    exchange = serve(answering(b"abc", status=status, headers=[("Content-Length", "3")]))
    assert exchange.calls == ["begin", "end"]
    assert exchange.length == length
    assert exchange.whole


def test_head_of_a_generator_that_starts_late_has_its_head():
    def app(environ, start_response):
        start_response("404 Not Found", [TYPE])
        yield b"abc"

    assert serve(app, method="HEAD").seen == (
        404,
        b"Not Found",
        [(b"Content-Type", b"text/plain")],
        b"",
    )


# ---- Content-Length and what is sent -------------------------------------------------------------


@pytest.mark.parametrize("blocks", [[b"abcdef"], [b"ab", b"cdef"], [b"abc", b"def"], [b"abc"] * 9])
@pytest.mark.parametrize("wrapped", [list, iter])
def test_what_is_beyond_the_content_length_is_not_sent_but_logged(blocks, wrapped, errors):
    app = answering(*blocks, headers=[("Content-Length", "3")], wrapped=wrapped)
    exchange = serve(app)
    assert exchange.seen[3] == b"abc"
    assert exchange.length == 3
    assert exchange.whole
    assert "more than the 3 bytes" in logged(errors).getMessage()


def test_nothing_is_asked_for_beyond_the_content_length(errors):
    result = Result(*[b"abc"] * 9)
    serve(of_result(result, headers=[("Content-Length", "3")]))
    assert (result.asked, result.closed) == (2, 1)
    assert "answering" in logged(errors).getMessage()


def test_a_body_in_spite_of_content_length_0_is_not_sent(errors):
    exchange = serve(answering(b"abc", headers=[("Content-Length", "0")], wrapped=iter))
    assert exchange.seen[3] == b""
    logged(errors)


def test_too_little_cuts_the_connection(errors):
    exchange = serve(answering(b"ab", headers=[("Content-Length", "3")], wrapped=iter))
    assert exchange.calls == ["begin", "write", "end"]
    assert not exchange.whole
    assert "sent 2 bytes of the 3" in logged(errors).getMessage()


@pytest.mark.parametrize(
    ("blocks", "wrapped"), [([], list), ([b"ab"], list), ([], iter), ([b""], iter)]
)
def test_too_little_that_is_known_before_the_head_is_a_500(blocks, wrapped, errors):
    exchange = serve(answering(*blocks, headers=[("Content-Length", "3")], wrapped=wrapped))
    assert exchange.seen[0] == 500
    assert "bytes of the 3" in str(logged(errors).exc_info[1])


# ---- start_response ------------------------------------------------------------------------------


def refused(errors, status="200 OK", headers=(TYPE,)):
    """What the log says of a head that start_response refuses; the client gets a 500."""
    given = headers if not isinstance(headers, tuple) else list(headers)

    def app(environ, start_response):
        start_response(status, given)
        return [b"abc"]

    exchange = serve(app)
    assert exchange.calls == ["reply"]
    assert exchange.seen[0] == 500
    return logged(errors).exc_info[1]


@pytest.mark.parametrize(
    "status",
    [
        *("", "OK", "20 OK", "2000 OK", "200OK", " 200 OK", "2x0 OK", "-20 OK", "2e2 OK"),
        *("100 Continue", "101 Switching", "199 x", "600 x", "999 x", "\u0662\u0660\u0660 OK"),
        *("200 O\nK", "200 O\rK", "200 O\0K", "200 OK\r\n", "200 \u20ac"),
    ],
)
def test_statuses_that_are_none_are_refused(status, errors):
    assert isinstance(refused(errors, status=status), ValueError)


@pytest.mark.parametrize("status", [200, b"200 OK", None, ("200 OK",)])
def test_a_status_that_is_no_str_is_refused(status, errors):
    assert isinstance(refused(errors, status=status), TypeError)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        ("200 OK", 200, b"OK"),
        ("200 ", 200, b""),
        ("200", 200, b""),
        ("418 I'm a teapot", 418, b"I'm a teapot"),
        ("299 Va\u00df", 299, b"Va\xdf"),
        ("599 Of  our own", 599, b"Of  our own"),
    ],
)
def test_the_reason_is_the_applications(status, code, reason):
    assert serve(answering(b"abc", status=status)).seen[:2] == (code, reason)


@pytest.mark.parametrize(
    "name",
    ["", "A B", "A:", ":A", "A\n", "A\r\nB", "A\0", "\u00e4", "A\t", "(A)", "A,B", 'A"', "A/B"],
)
def test_names_of_headers_that_are_none_are_refused(name, errors):
    for _ in range(2):  # also the second time, when it may be known
        assert isinstance(refused(errors, headers=((name, "x"),)), ValueError)


@pytest.mark.parametrize(
    "value", ["a\r\nB: c", "a\nb", "a\rb", "\r", "\n", "a\0", "a\x1f", "\x7f", "\u20ac", "\ud800"]
)
def test_values_that_would_split_the_head_are_refused(value, errors):
    assert isinstance(refused(errors, headers=(("X-A", value),)), ValueError)


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding"),
        *("UPGRADE", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection"),
    ],
)
def test_fields_of_the_connection_are_refused(name, errors):
    for _ in range(2):
        assert "connection" in str(refused(errors, headers=((name, "x"),)))


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", " 1", "1 ", "0x1", "\u0661", "9" * 19])
def test_a_content_length_that_is_no_number_is_refused(value, errors):
    assert isinstance(refused(errors, headers=(("content-length", value),)), ValueError)


def test_two_content_lengths_are_refused_even_when_they_agree(errors):
    twice = (("Content-Length", "3"), ("content-length", "3"))
    assert "more than once" in str(refused(errors, headers=twice))


@pytest.mark.parametrize(
    "headers",
    [
        *(None, {"A": "b"}, "ab", iter([TYPE]), [None], ["Ab"], [("A",)], [("A", "b", "c")]),
        *([("A", 1)], [("A", b"b")], [(b"A", "b")], [("A", None)], [(["A"], "b")]),
    ],
    ids=repr,
)
def test_headers_that_are_no_list_of_pairs_of_str_are_refused(headers, errors):
    assert isinstance(refused(errors, headers=headers), TypeError)


def test_headers_are_sent_as_they_are_and_in_order():
    headers = [("Set-Cookie", "a=1"), ("X-Empty", ""), ("set-cookie", "b=2"), ("X-L", "\xe4\t b")]
    exchange = serve(answering(b"", headers=headers))
    assert exchange.seen[2] == [
        (b"Set-Cookie", b"a=1"),
        (b"X-Empty", b""),
        (b"set-cookie", b"b=2"),
        (b"X-L", b"\xe4\t b"),
    ]


def test_headers_that_are_changed_later_are_sent_as_they_were():
    def app(environ, start_response):
        headers = [TYPE]
        start_response("200 OK", headers)
        headers.append(("X-A", "late"))
        yield b"abc"

    assert serve(app).seen[2] == [(b"Content-Type", b"text/plain")]


def test_made_up_names_do_not_fill_the_memory():
    made_up = [f"x-made-up-{number}" for number in range(2000)]
    exchange = serve(
        answering(b"", headers=[(name, "1") for name in made_up]),
        fields=[(name, "1") for name in made_up],
    )
    assert len(exchange.seen[2]) == 2000
    assert len(wsgi._KEYS) <= wsgi._KEYS_MAX
    assert len(wsgi_response._NAMES) <= wsgi_response._NAMES_MAX


def test_a_made_up_name_as_long_as_a_head_is_passed_and_not_kept(monkeypatch):
    monkeypatch.setattr(wsgi, "_KEYS", {})
    seen = []

    def app(environ, start_response):
        seen.append(environ["HTTP_" + "X" * 60_000])
        start_response("200 OK", [TYPE])
        return [b""]

    serve(app, fields=[("x" * 60_000, "1"), ("x-short", "2")])
    assert seen == ["1"]
    assert list(wsgi._KEYS) == ["x-short"]


def test_start_response_is_called_a_second_time_only_with_exc_info(errors):
    def app(environ, start_response):
        start_response("200 OK", [TYPE])
        start_response("201 Created", [TYPE])
        return [b"abc"]

    assert serve(app).seen[0] == 500
    assert "second time" in str(logged(errors).exc_info[1])


def test_a_refused_head_leaves_the_one_before(errors):
    def app(environ, start_response):
        start_response("200 OK", [TYPE])
        try:
            raise KeyError
        except KeyError:
            with pytest.raises(ValueError, match="header name"):
                start_response("500 Sorry", [("A B", "c")], sys.exc_info())
        return [b"abc"]

    assert serve(app).seen[:2] == (200, b"OK")


def test_exc_info_before_the_head_replaces_it_all(wrap):
    def app(environ, start_response):
        start_response("200 OK", [TYPE, ("X-Old", "1"), ("Content-Length", "7")])
        try:
            raise KeyError
        except KeyError:
            start_response("503 Busy", [("Content-Type", "text/html")], sys.exc_info())
        return [b"abc"]

    exchange = serve(wrap(app))
    assert exchange.seen == (503, b"Busy", [(b"Content-Type", b"text/html")], b"abc")


def test_exc_info_after_the_head_raises_it_again_and_cuts(wrap, errors):
    mine = KeyError("mine")

    def app(environ, start_response):
        start_response("200 OK", [TYPE])

        def stream():
            yield b"abc"
            try:
                raise mine
            except KeyError:
                start_response("500 Sorry", [TYPE], sys.exc_info())
            yield b"sorry"

        return stream()

    exchange = serve(wrap(app))
    assert exchange.seen[0] == 200
    assert exchange.seen[3] == b"abc"
    assert not exchange.whole
    assert logged(errors).exc_info[1] is mine


def test_exc_info_that_is_raised_again_leaves_no_ring_of_references(errors, monkeypatch):
    monkeypatch.setattr(logger, "propagate", False)  # pytest keeps what it sees

    class Mine(Exception):
        pass

    kept = []

    def app(environ, start_response):
        start_response("200 OK", [TYPE])
        yield b"abc"
        try:
            error = Mine()
            kept.append(weakref.ref(error))
            raise error
        except Mine:
            del error
            start_response("500 Sorry", [TYPE], sys.exc_info())

    gc.disable()
    try:
        serve(app)
        errors.clear()
        assert kept[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("blocks", [[b"abc"], [], [b""]])
@pytest.mark.parametrize("wrapped", [list, iter])
def test_a_result_without_start_response_is_a_500(blocks, wrapped, errors):
    exchange = serve(lambda environ, start_response: wrapped(blocks))
    assert exchange.seen[0] == 500
    assert "start_response" in str(logged(errors).exc_info[1])


# ---- write() -------------------------------------------------------------------------------------


def test_write_sends_at_once_and_before_the_result(wrap):
    exchange = Exchange()

    def app(environ, start_response):
        write = start_response("200 OK", [TYPE])
        write(b"ab")
        assert exchange.calls == ["begin", "write"]
        write(b"c")
        return [b"de", b"f"]

    serve(wrap(app), exchange)
    assert exchange.seen[3] == b"abcdef"
    assert exchange.calls == ["begin", "write", "write", "write", "write", "end"]
    assert exchange.whole


def test_the_first_write_sends_the_head_even_when_it_is_empty(errors):
    exchange = Exchange()

    def app(environ, start_response):
        start_response("200 OK", [TYPE])(b"")
        assert exchange.calls == ["begin", "write"]
        try:
            raise KeyError("late")
        except KeyError:
            start_response("500 Sorry", [TYPE], sys.exc_info())
        return []

    serve(app, exchange)
    assert not exchange.whole
    assert isinstance(logged(errors).exc_info[1], KeyError)


@pytest.mark.parametrize("pieces", [[b"abcdef"], [b"ab", b"cdef", b"g"]])
def test_write_keeps_to_the_content_length(pieces, errors):
    def app(environ, start_response):
        write = start_response("200 OK", [("Content-Length", "3")])
        for piece in pieces:
            write(piece)
        return []

    exchange = serve(app)
    assert exchange.seen[3] == b"abc"
    assert exchange.whole
    assert "more than the 3" in logged(errors).getMessage()


def test_write_of_too_little_cuts(errors):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])(b"ab")
        return []

    assert not serve(app).whole
    assert "2 bytes of the 3" in logged(errors).getMessage()


@pytest.mark.parametrize("piece", ["abc", None, 3, bytearray(b"abc"), [b"abc"]])
def test_write_takes_bytes_only(piece, errors):
    def app(environ, start_response):
        start_response("200 OK", [TYPE])(piece)
        return []

    assert serve(app).seen[0] == 500
    assert isinstance(logged(errors).exc_info[1], TypeError)


def test_write_to_head_sends_no_body():
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])(b"abc")
        return []

    exchange = serve(app, method="HEAD")
    assert exchange.calls == ["begin", "end"]
    assert exchange.length == 3


def test_write_after_the_answer_is_an_error_where_it_is_called():
    kept = []

    def app(environ, start_response):
        kept.append(start_response("200 OK", [TYPE]))
        return [b"abc"]

    serve(app)
    with pytest.raises(RuntimeError, match="ended"):
        kept[0](b"late")


# ---- failures ------------------------------------------------------------------------------------


class Odd(BaseException):
    pass


ERRORS = [ValueError("secret"), SystemExit(3), KeyboardInterrupt(), MemoryError(), Odd()]
by_type = {"ids": lambda error: type(error).__name__}


@pytest.mark.parametrize("error", [*ERRORS, BrokenPipeError()], **by_type)
def test_an_application_that_raises_is_one_500_and_one_traceback(wrap, error, errors):
    def app(environ, start_response):
        start_response("200 OK", [TYPE])
        raise error

    exchange = serve(wrap(app), path="/a", query="token=1")
    assert exchange.calls == ["reply"]
    status, _, headers, body = exchange.seen
    assert (status, headers) == (500, [(b"Content-Type", b"application/json")])
    said = json.loads(body)["error"]
    assert type(error).__name__ in said
    assert "secret" not in said
    record = logged(errors)
    assert record.exc_info[1] is error
    assert "GET /a" in record.getMessage()
    assert "token" not in record.getMessage()


class BrokenStream(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("closed", [False, True])
def test_the_rest_of_a_line_that_standard_error_does_not_take_is_lost_and_nothing_else(
    closed, monkeypatch
):
    def app(environ, start_response):
        print("no end of line", end="", file=environ["wsgi.errors"])
        return answering(b"abc")(environ, start_response)

    broken = io.StringIO() if closed else BrokenStream()
    if closed:
        broken.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", broken)
        assert serve(app).seen[3] == b"abc"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert serve(answering(b"abc")).seen[3] == b"abc"
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("error", ERRORS, **by_type)
def test_a_result_that_raises_before_its_first_block_is_a_500_and_closed(error, errors):
    result = Result(b"", error, b"abc")
    assert serve(of_result(result)).seen[0] == 500
    assert result.closed == 1
    assert logged(errors).exc_info[1] is error


@pytest.mark.parametrize("error", ERRORS, **by_type)
def test_a_result_that_raises_after_the_head_is_cut_and_closed(wrap, error, errors):
    result = Result(b"abc", error)
    exchange = serve(wrap(of_result(result)))
    assert exchange.calls == ["begin", "write", "end"]
    assert not exchange.whole
    assert result.closed == 1
    assert logged(errors).exc_info[1] is error


def test_an_error_after_the_whole_answer_is_only_logged(errors):
    result = Result(b"abc", ValueError())
    exchange = serve(of_result(result, headers=[("Content-Length", "3")]))
    assert exchange.calls == ["reply"]
    assert exchange.seen[3] == b"abc"
    assert result.closed == 1
    logged(errors)


@pytest.mark.parametrize("error", ERRORS, **by_type)
@pytest.mark.parametrize("blocks", [[], [b"abc"], [b"a", b"b"]])
def test_errors_of_close_only_go_to_the_log(error, blocks, errors):
    result = Result(*blocks, close_error=error)
    exchange = serve(of_result(result))
    assert exchange.seen[3] == b"".join(blocks)
    assert exchange.whole
    assert result.closed == 1
    assert logged(errors).exc_info[1] is error


def test_an_error_and_another_in_close_are_both_logged(errors):
    result = Result(ValueError(), close_error=KeyError())
    assert serve(of_result(result)).seen[0] == 500
    assert [type(record.exc_info[1]) for record in errors] == [ValueError, KeyError]
    errors.clear()


@pytest.mark.parametrize(
    ("blocks", "hint"), [(["abc"], "encode"), ([97], "list"), ([bytearray(b"a")], "bytearray")]
)
@pytest.mark.parametrize("wrapped", [list, iter])
def test_blocks_that_are_not_bytes_are_a_500_that_says_so(blocks, hint, wrapped, errors):
    assert serve(answering(*blocks, wrapped=wrapped)).seen[0] == 500
    error = logged(errors).exc_info[1]
    assert isinstance(error, TypeError)
    assert hint in str(error)


@pytest.mark.parametrize("result", [None, 3, "text", b"bytes", object(), {"a": 1}])
def test_results_that_are_no_iterables_of_bytes_are_a_500(result, errors):
    assert serve(of_result(result)).seen[0] == 500
    assert isinstance(logged(errors).exc_info[1], TypeError)


def test_a_str_after_the_head_cuts(errors):
    exchange = serve(answering(b"abc", "def", wrapped=iter))
    assert exchange.seen[3] == b"abc"
    assert not exchange.whole
    logged(errors)


def test_an_exchange_that_takes_no_reply_at_all_is_dropped_in_peace(errors):
    exchange = Exchange()
    exchange.refusal = MemoryError()
    result = Result(b"abc")
    serve(of_result(result, headers=[("Content-Length", "3")]), exchange)
    assert result.closed == 1
    logged(errors)


def test_logging_that_fails_does_not_cost_the_answer(monkeypatch):
    def broken(*args, **more):
        raise MemoryError

    monkeypatch.setattr(wsgi.logger, "error", broken)
    assert serve(lambda environ, start_response: 1 / 0).seen[0] == 500


# ---- clients that leave --------------------------------------------------------------------------


def test_a_stream_is_closed_when_its_client_has_left(wrap):
    seen = []

    def stream():
        try:
            for number in itertools.count():
                yield b"%d" % number
        except GeneratorExit:
            seen.append("closed")
            raise

    exchange = Exchange()
    exchange.leaves_after = 3
    serve(wrap(of_result(stream())), exchange)
    assert seen == ["closed"]
    assert exchange.calls.count("write") == 3
    assert not exchange.whole


def test_an_application_that_writes_for_ever_is_ended_when_its_client_has_left(wrap):
    seen = []

    def app(environ, start_response):
        write = start_response("200 OK", [TYPE])
        try:
            while True:
                write(b"x")
        except BrokenPipeError:
            seen.append("ended")
            raise

    exchange = Exchange()
    exchange.leaves_after = 3
    serve(wrap(app), exchange)
    assert seen == ["ended"]
    assert exchange.calls == ["begin", "write", "write", "write", "end"]


def test_an_application_that_goes_on_after_its_client_has_left_sends_nothing_more():
    def app(environ, start_response):
        write = start_response("200 OK", [TYPE])
        for _ in range(3):
            with pytest.raises(BrokenPipeError):
                write(b"x")
        return [b"abc"]

    exchange = Exchange()
    exchange.leaves_after = 1
    serve(app, exchange)
    assert exchange.calls == ["begin", "write", "end"]


# ---- close(), files, forks -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", [[TYPE], [TYPE, ("Content-Length", "3")]])
@pytest.mark.parametrize("blocks", [[b"abc"], [b"a", b"bc"]])
def test_every_result_is_closed_once(wrap, method, headers, blocks):
    result = Result(*blocks)
    serve(wrap(of_result(result, headers=headers)), method=method)
    assert result.closed == 1


class File(io.BytesIO):
    """Notes how it is read."""

    def __init__(self, data):
        super().__init__(data)
        self.sizes = []

    def read(self, size=-1):
        self.sizes.append(size)
        return super().read(size)


def sending(file, *headers, block_size=()):
    def app(environ, start_response):
        start_response("200 OK", [TYPE, *headers])
        return environ["wsgi.file_wrapper"](file, *block_size)

    return app


@pytest.mark.parametrize("size", [0, 1, 8192, 300_000])
@pytest.mark.parametrize("headers", [[], ["length"]])
def test_a_file_is_sent_whole_and_closed(wrap, size, headers):
    data = os.urandom(size)
    file = File(data)
    exchange = serve(wrap(sending(file, *[("Content-Length", str(size)) for _ in headers])))
    assert exchange.seen[3] == data
    assert exchange.whole
    assert file.closed


def test_a_file_is_read_in_bigger_blocks_than_it_asks_for():
    file = File(bytes(300_000))
    serve(sending(file, block_size=(8192,)))
    assert file.sizes == [256 << 10] * 3


def test_a_file_is_sent_from_where_it_stands_and_never_read_beyond_the_content_length():
    file = File(bytes(10) + b"abcdef")
    file.seek(10)
    told = []
    file.close = lambda: told.append(file.tell())
    exchange = serve(sending(file, ("Content-Length", "3")))
    assert exchange.seen[3] == b"abc"
    assert exchange.calls == ["reply"]
    assert told == [13]
    assert file.sizes == [3]


def test_a_file_on_disk_is_read_in_bigger_blocks(tmp_path):
    (tmp_path / "file").write_bytes(bytes(300_000))
    exchange = serve(sending((tmp_path / "file").open("rb")))
    assert exchange.blocks == [256 << 10, 300_000 - (256 << 10)]


def test_a_pipe_is_not_read_for_more_than_was_asked_for():
    source, sink = os.pipe()
    with open(sink, "wb", buffering=0) as end:
        end.write(b"abc")
        exchange = Exchange()
        done = threading.Thread(
            target=serve, args=(sending(os.fdopen(source, "rb"), block_size=(3,)), exchange)
        )
        done.start()
        assert exchange.wrote.wait(10)
    done.join(10)
    assert exchange.seen[3] == b"abc"


def test_a_file_of_read_alone_is_enough():
    class Least:
        def __init__(self):
            self.blocks = [b"abc", b"de", b""]

        def read(self, size):
            return self.blocks.pop(0)

    assert serve(sending(Least())).seen[3] == b"abcde"


def test_head_reads_no_file():
    file = File(b"abc")
    exchange = serve(sending(file, ("Content-Length", "3")), method="HEAD")
    assert exchange.length == 3
    assert file.sizes == []
    assert file.closed


def test_a_file_that_fails_is_closed_and_cuts(errors):
    class Failing(File):
        def read(self, size=-1):
            if self.sizes:
                raise OSError("disk")
            return super().read(size)

    file = Failing(bytes(300_000))
    exchange = serve(sending(file))
    assert not exchange.whole
    assert file.closed
    logged(errors)


def test_a_file_with_too_little_cuts(errors):
    assert not serve(sending(File(b"ab"), ("Content-Length", "3"))).whole
    logged(errors)


@pytest.mark.parametrize("where", ["call", "iteration", "close"])
def test_a_child_that_the_application_forked_raises_rather_than_answers(where):
    error = Odd()
    result = {
        "call": None,
        "iteration": Result(error),
        "close": Result(b"abc", close_error=error),
    }[where]

    def app(environ, start_response):
        start_response("200 OK", [TYPE])
        if result is None:
            raise error
        return result

    exchange = Exchange()
    with pytest.raises(Odd):
        site_of(app).answer(exchange, os.getpid() + 1)
    assert exchange.calls == ([] if where != "close" else ["begin", "write", "end"])


def test_what_keeps_environ_does_not_keep_the_body():
    kept = []

    def app(environ, start_response):
        kept.append(environ)
        environ["wsgi.input"].read()
        start_response("200 OK", [TYPE])
        return [b""]

    serve(app, body=TEXT)
    with pytest.raises(ValueError, match="ended"):
        kept[0]["wsgi.input"].read()
