"""Requests by the book: keep-alive, pipelining, Expect, HTTP/1.0, methods, refusals at the head."""

from __future__ import annotations

import time

import pytest
from coreserver import OCTETS, CoreServer, Hold, Servers
from rawhttp import CHUNKED, RawClient, chunked, request

LIVEZ = request("GET", "/livez")
CONTINUE = "Expect: 100-continue"


@pytest.fixture
def client(echo_server: CoreServer) -> RawClient:
    return echo_server.connect()


# ---- one connection, many requests ---------------------------------------------------------------


def test_connection_serves_many_requests(client: RawClient) -> None:
    for count in range(100):
        body = b"%d" % count
        answer = client.ask(request(body=body))
        assert (answer.status, answer.body, answer.closes) == (200, body, False)


def test_pipelined_requests_are_answered_in_order(client: RawClient) -> None:
    bodies = [b"%d" % count * (count + 1) for count in range(100)]
    client.send(b"".join(request(body=body) for body in bodies))
    assert [client.answer().body for _ in bodies] == bodies


def test_pipelined_requests_of_all_sorts_are_answered_in_order(client: RawClient) -> None:
    sorts = [
        (request(body=b"a"), "POST", 200),
        (LIVEZ, "GET", 200),
        (request("HEAD", "/livez"), "HEAD", 200),
        (request("OPTIONS", "/echo"), "OPTIONS", 204),
        (request("GET", "/nothing"), "GET", 404),
        (request("POST", "/echo", CHUNKED) + chunked(b"abc", 1), "POST", 200),
        (request("POST", "/twelve", body=b"abc"), "POST", 400),
        (request("GET", "/echo"), "GET", 405),
    ]
    rounds = 20
    client.send(b"".join(data for data, _, _ in sorts) * rounds)
    for _ in range(rounds):
        for _, method, status in sorts:
            assert client.answer(method).status == status


def test_requests_behind_more_than_a_buffer_are_answered(client: RawClient) -> None:
    """More is pipelined than the server keeps: it reads on once there is room."""
    bodies = [bytes([65 + count]) * 50_000 for count in range(8)]
    client.send(b"".join(request(body=body) for body in bodies))
    assert [client.answer().body for _ in bodies] == bodies


def test_request_waits_for_the_one_before_it(core_server: Servers) -> None:
    """Even a health answer comes in its turn, on one connection."""
    hold = Hold()
    server = core_server(hold)
    with server.connect() as client:
        client.send(request(body=b"a") + LIVEZ)
        hold.wait_entered()
        client.expect_nothing(0.05)
        hold.let()
        assert client.answer().body == b"a"
        assert client.answer("GET").status == 200


def test_close_ends_the_connection_and_drops_what_is_behind(client: RawClient) -> None:
    client.send(request("POST", "/echo", "Connection: close", body=b"a") + LIVEZ)
    answer = client.answer()
    assert answer.closes
    assert answer.body == b"a"
    client.expect_eof()


# ---- HTTP/1.0 ------------------------------------------------------------------------------------


def test_http_10_closes_unless_asked(client: RawClient) -> None:
    kept = request("POST", "/echo", "Connection: keep-alive", body=b"a", version="HTTP/1.0")
    for _ in range(3):
        answer = client.ask(kept)
        assert answer.body == b"a"
        assert answer.get("connection") == "keep-alive"  # RFC 9112 C.2.2
    answer = client.ask(request(body=b"b", version="HTTP/1.0"))
    assert answer.body == b"b"
    assert answer.closes
    client.expect_eof()


def test_http_10_never_gets_100(client: RawClient) -> None:
    """RFC 9110 10.1.1: the expectation is ignored."""
    client.send(request("POST", "/echo", CONTINUE, "Content-Length: 1", version="HTTP/1.0"))
    client.expect_nothing(0.05)
    assert client.ask(b"a").body == b"a"


# ---- Expect --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        request("POST", "/echo", CONTINUE, "Content-Length: 5"),
        request("POST", "/echo", CONTINUE, CHUNKED),
    ],
    ids=["length", "chunked"],
)
def test_100_is_sent_before_the_body(client: RawClient, head: bytes) -> None:
    client.send(head)
    assert client.interim() == 100
    client.send(b"hello" if b"Length" in head else chunked(b"hello", 2))
    assert client.answer().body == b"hello"
    assert client.ask(LIVEZ, method="GET").status == 200


def test_100_is_not_sent_where_the_body_is_there_already(client: RawClient) -> None:
    """RFC 9110 10.1.1 lets it go, and a client that didn't wait has no use for it."""
    client.send(request("POST", "/echo", CONTINUE, body=b"hello"))
    assert client.answer().body == b"hello"


def test_100_is_not_sent_without_a_body(client: RawClient) -> None:
    assert client.ask(request("POST", "/echo", CONTINUE, body=b"")).status == 200
    assert client.ask(request("POST", "/echo", CONTINUE)).status == 200


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        ("/nothing", ["Content-Length: 5"], 404),
        ("/livez", ["Content-Length: 5"], 405),
        ("/twelve", ["Content-Length: 5"], 400),
        ("/echo", ["Content-Length: 100000000"], 413),
        ("/echo", ["Content-Length: 5", "Content-Type: text/html"], 415),
    ],
)
def test_100_is_not_sent_when_refused(
    client: RawClient, target: str, fields: list[str], status: int
) -> None:
    """The client learns it before it sends; whether it still will, nobody can tell: the end."""
    answer = client.ask(request("POST", target, CONTINUE, *fields))
    assert answer.status == status
    answer.error()
    assert answer.closes
    client.expect_eof()


def test_another_expectation_is_417(client: RawClient) -> None:
    answer = client.ask(request("POST", "/echo", "Expect: 200-ok", body=b"hello"))
    assert answer.status == 417
    assert "100-continue" in answer.error()
    assert client.ask(LIVEZ, method="GET").status == 200


# ---- methods and paths ---------------------------------------------------------------------------


def test_health_is_answered_without_a_handler(client: RawClient, echo_server: CoreServer) -> None:
    echo_server.taken.clear()
    for path in ("/livez", "/readyz", "/livez?a=b"):
        answer = client.ask(request("GET", path), method="GET")
        assert (answer.status, answer.body) == (200, b"ok\n")
        head = client.ask(request("HEAD", path), method="HEAD")
        assert (head.status, head.fields[1:]) == (200, answer.fields[1:])  # but for Date
    assert echo_server.taken == []


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("GET", "/echo", "POST, OPTIONS"),
        ("HEAD", "/echo", "POST, OPTIONS"),
        ("PUT", "/echo", "POST, OPTIONS"),
        ("post", "/echo", "POST, OPTIONS"),
        ("POST", "/livez", "GET, HEAD, OPTIONS"),
        ("DELETE", "/readyz", "GET, HEAD, OPTIONS"),
    ],
)
def test_method_not_allowed_says_what_is(
    client: RawClient, method: str, target: str, allow: str
) -> None:
    answer = client.ask(request(method, target), method=method)
    assert answer.status == 405
    assert answer.get("allow") == allow
    if method != "HEAD":
        assert method in answer.error()
    assert client.ask(LIVEZ, method="GET").status == 200


@pytest.mark.parametrize(
    ("target", "allow"), [("/echo", "POST, OPTIONS"), ("/livez", "GET, HEAD, OPTIONS"), ("*", None)]
)
def test_options_is_204_with_allow(client: RawClient, target: str, allow: str | None) -> None:
    answer = client.ask(request("OPTIONS", target), method="OPTIONS")
    assert answer.status == 204
    assert answer.get("allow") == allow or (allow is None and answer.get("allow"))
    assert client.ask(LIVEZ, method="GET").status == 200


@pytest.mark.parametrize(
    "target", ["/", "/nothing", "/echo/", "//echo", "/ECHO", "/echo%2f", "/livez/", "/ech"]
)
def test_paths_match_exactly(client: RawClient, target: str) -> None:
    answer = client.ask(request("POST", target, body=b"hello"))
    assert answer.status == 404
    assert target in answer.error()
    assert not answer.closes
    assert client.ask(LIVEZ, method="GET").status == 200


def test_error_quotes_what_json_must_escape(client: RawClient) -> None:
    answer = client.ask(request("GET", "/a'%22%5c", body=b""), method="GET")
    assert answer.status == 404
    assert "%22" in answer.error()


# ---- what a body is said to be -------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "application/octet-stream",
        "Application/Octet-Stream; a=b",
        "application/x-www-form-urlencoded",
        "",
    ],
)
def test_raw_types(client: RawClient, kind: str) -> None:
    answer = client.ask(request("POST", "/echo", f"Content-Type: {kind}", body=b"hello"))
    assert answer.body == b"hello"


@pytest.mark.parametrize(
    "field",
    [
        "Content-Type: text/html",
        "Content-Type: application/x-npyx",
        "Content-Type: multipart/form-data; boundary=a",
        "Content-Encoding: gzip",
    ],
)
def test_other_types_are_415(client: RawClient, field: str) -> None:
    answer = client.ask(request("POST", "/echo", field, body=b"hello"))
    assert answer.status == 415
    assert "expected" in answer.error()
    assert not answer.closes
    assert client.ask(LIVEZ, method="GET").status == 200


@pytest.mark.parametrize(
    ("target", "fields", "length", "said"),
    [
        ("/twelve", [], 11, "float32 of shape (3,), 12 bytes"),
        ("/twelve", [], 13, "13 bytes"),
        ("/twelve", [], 0, "12 bytes"),
        ("/fours", [], 6, "a multiple of 4 bytes"),
        ("/empty", [], 1, "an empty body"),
        ("/npy", [], 4, "x-npy"),
        ("/npy", ["Content-Type: application/x-npy"], 1001, "1001 bytes"),
    ],
)
def test_length_that_does_not_fit_is_400_at_the_head(
    client: RawClient, target: str, fields: list[str], length: int, said: str
) -> None:
    answer = client.ask(request("POST", target, *fields, f"Content-Length: {length}"))
    assert answer.status == 400
    assert said in answer.error()
    assert not answer.closes
    client.send(b"x" * length)
    assert client.ask(LIVEZ, method="GET").status == 200


@pytest.mark.parametrize(
    ("target", "length"), [("/twelve", 12), ("/fours", 0), ("/fours", 8), ("/empty", 0)]
)
def test_length_that_fits_is_taken(client: RawClient, target: str, length: int) -> None:
    assert client.ask(request("POST", target, body=b"x" * length)).body == b"x" * length


def test_json_of_more_than_64_mib_is_413_at_the_head(core_server: Servers) -> None:
    server = core_server(max_request_body_size=1 << 30)
    kind = "Content-Type: application/json"
    with server.connect() as client:
        answer = client.ask(request("POST", "/echo", kind, f"Content-Length: {(64 << 20) + 1}"))
        assert answer.status == 413
        assert "JSON" in answer.error()


# ---- an error while the client is still uploading ------------------------------------------------


def test_error_is_read_while_uploading_and_the_connection_stays(client: RawClient) -> None:
    body = b"x" * (30 << 20)
    client.send(request("POST", "/nothing", f"Content-Length: {len(body)}"))
    assert client.answer().status == 404
    client.send(body + LIVEZ)
    assert client.answer("GET").status == 200


def test_client_that_reads_only_after_its_upload_gets_the_error(client: RawClient) -> None:
    client.send(request("POST", "/nothing", body=b"x" * (30 << 20)))
    answer = client.answer()
    assert answer.status == 404
    assert not answer.closes
    assert client.ask(LIVEZ, method="GET").status == 200


def test_chunked_rest_is_thrown_away_too(client: RawClient) -> None:
    data = chunked(b"x" * (8 << 20), 100_000)
    client.send(request("POST", "/nothing", CHUNKED) + data + LIVEZ)
    assert client.answer().status == 404
    assert client.answer("GET").status == 200


def test_more_than_64_mib_to_come_closes(client: RawClient) -> None:
    """The error is readable all the same."""
    answer = client.ask(request("POST", "/echo", f"Content-Length: {100 << 20}"))
    assert answer.status == 413
    assert str(100 << 20) in answer.error()
    assert answer.closes
    client.expect_eof()


def test_client_that_uploads_100_mib_can_read_the_refusal(client: RawClient) -> None:
    client.send(request("POST", "/echo", f"Content-Length: {100 << 20}"))
    piece = b"x" * (1 << 20)
    for _ in range(60):
        client.send(piece)
    assert client.answer().status == 413
    client.expect_eof()


def test_bad_chunk_in_the_middle_of_an_upload_can_be_read(client: RawClient) -> None:
    client.send(
        request("POST", "/echo", CHUNKED),
        chunked(b"x" * 5_000_000, 100_000)[:-5],
        b"bad\n" + b"x" * 10_000_000,
    )
    assert client.answer().status == 400
    client.expect_eof()


def test_connection_is_closed_5_s_after_an_error_whose_body_never_ends(
    echo_server: CoreServer,
) -> None:
    clients = []
    for head in (
        request("POST", "/nothing", "Content-Length: 1000"),
        request("POST", "/nothing", CHUNKED),
        request("POST", "/echo", f"Content-Length: {100 << 20}"),  # the end of which is waited for
        request("POST", "/echo", "Content-Length: 5, 5"),
    ):
        client = echo_server.connect()
        client.send(head)
        assert client.answer().status in (400, 404, 413)
        clients.append(client)
    start = time.monotonic()
    for client in clients:
        while time.monotonic() < start + 12 and client.send_if_open(b"0"):
            time.sleep(0.1)
    assert time.monotonic() - start < 12
    for client in clients:
        client.close()
    echo_server.wait_idle()


# ---- answers -------------------------------------------------------------------------------------


def test_answers_without_a_body(core_server: Servers) -> None:
    """RFC 9110 8.6 and 15.3.5."""
    statuses = [204, 304, 200]
    server = core_server(lambda exchange: exchange.reply(statuses.pop(0), [], []))
    with server.connect() as client:
        assert client.ask(request(body=b"a")).status == 204
        assert client.ask(request(body=b"a")).status == 304
        answer = client.ask(request(body=b"a"))
        assert (answer.status, answer.get("content-length"), answer.body) == (200, "0", b"")


def test_fields_and_status_are_the_handlers(core_server: Servers) -> None:
    fields = [
        OCTETS,
        (b"X-Dtype", b"float32"),
        (b"set-cookie", b"a"),
        (b"Set-Cookie", b"b"),
        (b"x", b""),
    ]
    server = core_server(lambda exchange: exchange.reply(418, fields, [b"tea"]))
    with server.connect() as client:
        answer = client.ask(request(body=b"a"))
    assert (answer.status, answer.body) == (418, b"tea")
    assert answer.fields[2:] == [(name.decode().lower(), value.decode()) for name, value in fields]


def test_request_reaches_the_handler_as_sent(core_server: Servers) -> None:
    seen: list[object] = []

    def handler(exchange: object) -> None:
        seen.extend(
            (
                exchange.method,
                exchange.path,
                exchange.query,
                exchange.headers,
                exchange.client,
                exchange.nbytes,
            )
        )  # type: ignore[attr-defined]
        seen.append((exchange.header("x-a"), exchange.header("x-b")))  # type: ignore[attr-defined]
        exchange.reply(204, [], [])  # type: ignore[attr-defined]

    server = core_server(handler)
    with server.connect() as client:
        client.ask(request("POST", "/%65cho?a=%20b", "X-A: 1", "x-a:  2 ", body=b"hello"))
        host, port = client.socket.getsockname()
    headers = [("host", "test"), ("x-a", "1"), ("x-a", "2"), ("content-length", "5")]
    assert seen == ["POST", "/echo", "a=%20b", headers, f"{host}:{port}", 5, ("1, 2", None)]


def test_exchange_that_is_dropped_is_500(core_server: Servers) -> None:
    server = core_server(lambda exchange: None)
    with server.connect() as client:
        answer = client.ask(request(body=b"a"))
        assert answer.status == 500
        answer.error()
        assert client.ask(request(body=b"a")).status == 500
    server.wait_idle()
