"""Response and headers: what can't be sent is refused where it is made."""

from __future__ import annotations

import fake_core  # noqa: F401
import numpy as np
import pytest

from fastpredict import Response


def test_a_response_keeps_what_it_is_given():
    response = Response("x", 201, {"X-A": "1"}, content_type="text/html", borrow=True)
    assert (response.body, response.status, response.borrow) == ("x", 201, True)
    assert response.headers == ((b"X-A", b"1"),)
    assert response.content_type == "text/html"


@pytest.mark.parametrize("status", [99, 100, 101, 199, 600, -1])
def test_statuses_that_are_not_final_are_refused(status):
    with pytest.raises(ValueError, match="200 to 599"):
        Response("x", status)


@pytest.mark.parametrize("status", [True, "200", 200.0, None])
def test_statuses_of_other_types_are_refused(status):
    with pytest.raises(TypeError, match="200 to 599"):
        Response("x", status)


def test_a_numpy_integer_is_a_status():
    assert Response("x", np.int64(404)).status == 404


@pytest.mark.parametrize(
    "name",
    ["Content-Length", "date", "CONNECTION", "Transfer-Encoding", "Upgrade", "TE", "Keep-Alive"],
)
def test_headers_of_the_server_are_refused(name):
    with pytest.raises(ValueError, match="server"):
        Response("x", headers={name: "1"})


@pytest.mark.parametrize("name", ["", "a b", "a:", "é", "a\n", "a\r\nX"])
def test_header_names_that_are_no_tokens_are_refused(name):
    with pytest.raises(ValueError, match="not a header name"):
        Response("x", headers={name: "1"})


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\n", "a\r", "a\0", "€", "\x7f"])
def test_header_values_that_would_split_or_not_encode_are_refused(value):
    with pytest.raises(ValueError, match="X-A"):
        Response("x", headers={"X-A": value})
    with pytest.raises(ValueError, match="Content-Type"):
        Response("x", content_type=value)


@pytest.mark.parametrize("headers", ["abc", b"abc", 3, [("a",)], ["ab"], {"a": 1}, {1: "a"}])
def test_headers_of_other_types_are_refused(headers):
    with pytest.raises(TypeError):
        Response("x", headers=headers)


def test_repeated_headers_stay_repeated():
    pairs = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2\xe9")]
    assert Response("x", headers=pairs).headers == (
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2\xe9"),
    )


def test_a_content_type_among_the_headers_is_the_content_type():
    response = Response("x", headers={"content-type": "text/csv", "X-A": "1"})
    assert response.content_type == "text/csv"
    assert response.headers == ((b"X-A", b"1"),)
    with pytest.raises(ValueError, match="more than once"):
        Response("x", headers={"content-type": "text/csv"}, content_type="text/html")


@pytest.mark.parametrize("status", [204, 205, 304])
def test_statuses_without_a_body_refuse_one(status):
    Response(None, status)
    Response(b"", status)
    with pytest.raises(ValueError, match="no body"):
        Response("x", status)
    with pytest.raises(ValueError, match="no body"):
        Response(np.zeros(0), status)


@pytest.mark.parametrize("body", [Response("x"), ("x", 200)])
def test_answers_in_answers_are_refused(body):
    with pytest.raises(TypeError, match="body"):
        Response(body)
