"""Each limit has a clear answer when it is passed, and gives everything back."""

from __future__ import annotations

import time

import pytest
from coreserver import CoreServer, Hold, Servers
from rawhttp import CHUNKED, RawClient, chunk, request

from fastpredict import _core

LIVEZ = request("GET", "/livez")
READYZ = request("GET", "/readyz")
MIB = 1 << 20


def retries(answer_error: str, retry_after: str | None) -> bool:
    return "try again" in answer_error and retry_after is not None and int(retry_after) > 0


# ---- body and budget -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1000, 1001, 1 << 40, 2**63, 2**64 - 1])
def test_max_request_body_size_is_judged_at_the_head(core_server: Servers, length: int) -> None:
    server = core_server(max_request_body_size=1000)
    with server.connect() as client:
        client.send(request("POST", "/echo", f"Content-Length: {length}"))
        if length == 1000:
            assert client.ask(b"x" * length).body == b"x" * length
        else:
            answer = client.answer()
            assert answer.status == 413
            assert str(length) in answer.error()
            assert "1000" in answer.error()
    server.wait_idle()


def test_body_that_no_budget_fits_is_413_and_one_for_later_is_503(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, max_inflight_bytes=10 * MIB)
    with server.connect() as first, server.connect() as second:
        answer = second.ask(request("POST", "/echo", f"Content-Length: {11 * MIB}"))
        assert answer.status == 413
        answer.error()
        first.send(request(body=b"x" * 6 * MIB))
        hold.wait_entered()
        second.send(b"x" * 11 * MIB)
        answer = second.ask(request("POST", "/echo", f"Content-Length: {6 * MIB}"))
        assert answer.status == 503
        assert retries(answer.error(), answer.get("retry-after"))
        second.send(b"x" * 6 * MIB)
        second.send(request(body=b"small"))  # there is room for this one
        server.wait(queued=1)
        hold.let(2)
        assert len(first.answer().body) == 6 * MIB
        assert second.answer().body == b"small"
    server.wait_idle()


def test_answers_count_towards_the_budget_until_they_are_read(core_server: Servers) -> None:
    server = core_server(
        lambda exchange: exchange.reply(200, [], [bytes(exchange.nbytes * 8 * MIB)]),
        max_inflight_bytes=10 * MIB,
    )
    with server.connect(rcvbuf=4096) as slow, server.connect() as other:
        slow.send(request(body=b"1"))
        until = time.monotonic() + 10
        while server.stats()["charged_bytes"] < 8 * MIB:
            assert time.monotonic() < until
            time.sleep(0.002)
        assert other.ask(request("POST", "/echo", f"Content-Length: {3 * MIB}")).status == 503
        assert len(slow.answer().body) == 8 * MIB
    server.wait_idle()


def test_chunked_body_that_outgrows_the_rest_of_the_budget_is_503(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, max_inflight_bytes=12 * MIB, max_request_body_size=12 * MIB)
    with server.connect() as first, server.connect() as second:
        first.send(request(body=b"x" * 6 * MIB))
        hold.wait_entered()
        second.send(request("POST", "/echo", CHUNKED) + chunk(b"x" * 7 * MIB) + b"0\r\n\r\n")
        answer = second.answer()
        assert answer.status == 503
        assert retries(answer.error(), answer.get("retry-after"))
        assert second.ask(LIVEZ, method="GET").status == 200
        hold.let()
        assert first.answer().status == 200
        hold.let()
        assert second.ask(request(body=b"a")).body == b"a"
    server.wait_idle()


# ---- the queue -----------------------------------------------------------------------------------


def test_full_queue_is_503_at_the_head_and_readyz_says_so(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, max_queued_requests=2)
    clients = [server.connect() for _ in range(3)]
    for count, client in enumerate(clients):
        client.send(request(body=b"%d" % count))
        if count == 0:
            hold.wait_entered()
    server.wait(queued=2, running=1)
    with server.connect() as late:
        answer = late.ask(request("POST", "/echo", "Content-Length: 5"))
        assert answer.status == 503
        assert retries(answer.error(), answer.get("retry-after"))
        late.send(b"hello")
        answer = late.ask(READYZ, method="GET")
        assert answer.status == 503
        assert answer.get("retry-after") is not None
        answer.error()
        assert late.ask(LIVEZ, method="GET").status == 200
        hold.let(3)
        assert [client.answer().body for client in clients] == [b"0", b"1", b"2"]
        assert late.ask(READYZ, method="GET").status == 200
        hold.let()
        assert late.ask(request(body=b"a")).body == b"a"
    server.wait_idle()


def test_bodies_under_way_may_exceed_the_queue_and_are_served(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, max_queued_requests=1)
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.send(request("POST", "/echo", "Content-Length: 1"))
    server.wait(requests=5)
    for client in clients:
        client.send(b"a")
    server.wait(queued=4, running=1)
    hold.let(5)
    assert [client.answer().body for client in clients] == [b"a"] * 5
    server.wait_idle()


def test_requests_are_served_in_the_order_of_their_ends(core_server: Servers) -> None:
    order: list[bytes] = []
    hold = Hold(lambda exchange: (order.append(exchange.bytes()), exchange.reply(204, [], []))[1])
    server = core_server(hold)
    clients = [server.connect() for _ in range(5)]
    for count, client in enumerate(clients):
        client.send(request(body=b"%d" % count))
        server.wait(requests=count + 1)
        server.wait(queued=count, running=1) if count else hold.wait_entered()
    hold.let(5)
    for client in clients:
        assert client.answer().status == 204
    assert order == [b"0", b"1", b"2", b"3", b"4"]


def test_one_thread_runs_one_handler_at_a_time(core_server: Servers) -> None:
    running, most = 0, 0

    def handler(exchange: _core.Exchange) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.0005)
        running -= 1
        exchange.reply(200, [], [exchange.bytes()])

    server = core_server(handler)
    clients = [server.connect() for _ in range(32)]
    for client in clients:
        client.send(request(body=b"a") * 5)
    for client in clients:
        for _ in range(5):
            assert client.answer().status == 200
    assert most == 1


def test_before_it_is_ready_only_livez_is_200(core_server: Servers) -> None:
    server = core_server(ready=False)
    with server.connect() as client:
        assert client.ask(LIVEZ, method="GET").status == 200
        for data in (READYZ, request(body=b"a")):
            answer = client.ask(data)
            assert answer.status == 503
            assert answer.get("retry-after") is not None
            assert "starting" in answer.error()
        assert client.ask(request("POST", "/nothing", body=b"a")).status == 404
        server.core.set_ready()
        assert client.ask(READYZ, method="GET").status == 200
        assert client.ask(request(body=b"a")).body == b"a"


# ---- connections ---------------------------------------------------------------------------------


def idle(server: CoreServer) -> RawClient:
    client = server.connect()
    assert client.ask(LIVEZ, method="GET").status == 200
    return client


def test_at_the_limit_the_longest_idle_connection_goes(core_server: Servers) -> None:
    server = core_server(limit_concurrency=3)
    first, second, third = idle(server), idle(server), idle(server)
    assert first.ask(LIVEZ, method="GET").status == 200  # now second has been idle longest
    fourth = idle(server)
    second.expect_eof()
    for client in (first, third, fourth):
        assert client.ask(LIVEZ, method="GET").status == 200
    server.wait(connections=3)


def test_new_connection_that_says_nothing_yet_is_kept_at_the_limit(core_server: Servers) -> None:
    server = core_server(limit_concurrency=1)
    with server.connect() as client:
        server.wait(connections=1)
        client.expect_nothing(0.05)
        assert client.ask(LIVEZ, method="GET").status == 200


def test_with_none_idle_new_connections_wait_in_the_backlog(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, limit_concurrency=2)
    busy = [server.connect() for _ in range(2)]
    busy[0].send(request(body=b"a"))
    server.wait(running=1)  # one at a time: what comes together is taken up in any order
    busy[1].send(request(body=b"a"))
    server.wait(queued=1, running=1)
    with server.connect() as waiting:
        waiting.send(LIVEZ)
        waiting.expect_nothing(0.05)
        assert server.stats()["connections"] == 2
        hold.let()
        busy[0].answer()  # and stays open, now idle: it makes room
        assert waiting.answer("GET").status == 200
        busy[0].expect_eof()
    hold.let()
    assert busy[1].answer().status == 200


def test_connection_that_closes_lets_the_next_in(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, limit_concurrency=1)
    with server.connect() as first:
        first.send(request("POST", "/echo", "Connection: close", body=b"a"))
        hold.wait_entered()
        second = server.connect()
        second.send(LIVEZ)
        hold.let()
        assert first.answer().closes
        first.expect_eof()
        first.close()
        assert second.answer("GET").status == 200


def test_many_more_clients_than_connections_are_all_served(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, limit_concurrency=4)
    ask = request("POST", "/echo", "Connection: close", body=b"a")
    clients = []
    for count in range(40):
        clients.append(server.connect())
        clients[-1].send(ask)
        if count < 4:  # those that wait in the backlog have sent all before they are accepted
            server.wait(requests=count + 1)
    hold.let(40)
    for client in clients:
        assert client.answer().body == b"a"
        client.expect_eof()
        client.close()
    server.wait(connections=0)
