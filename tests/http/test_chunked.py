"""Chunked bodies arrive as they were, whatever the chunks and the packets."""

from __future__ import annotations

import time
import zlib

import pytest
from coreserver import CoreServer, Servers, route
from rawhttp import CHUNKED, RawClient, chunk, chunked, request

LIVEZ = request("GET", "/livez")
HEAD = request("POST", "/echo", CHUNKED)


def noise(count: int) -> bytes:
    """Bytes in which every shift shows."""
    block = b"".join(zlib.crc32(b"%d" % at).to_bytes(4, "little") for at in range(16384))
    return (block * (count // len(block) + 1))[:count]


@pytest.fixture
def client(echo_server: CoreServer) -> RawClient:
    return echo_server.connect()


@pytest.mark.parametrize(
    "size", [1, 2, 7, 15, 16, 4095, 4096, 16383, 65535, 65536, 65537, 1 << 20, 3 << 20]
)
def test_any_chunk_size(client: RawClient, size: int) -> None:
    data = noise(min(3 << 20, size * 3000 + 13))
    client.send(HEAD + chunked(data, size) + LIVEZ)
    assert client.answer().body == data
    assert client.answer("GET").status == 200


def test_sizes_that_change(client: RawClient) -> None:
    data, pieces, at = noise(4 << 20), [], 0
    for size in [1, 2, 100_000, 3, 70_000, 1, 1, 1 << 20, 65536, 17] * 5:
        if data[at : at + size]:
            pieces.append(chunk(data[at : at + size], ";a=b" * (size % 3)))
        at += size
    pieces.append(chunk(data[at:]) if data[at:] else b"")
    client.send(HEAD + b"".join(pieces) + b"0;x\r\nX-Trailer: a\r\n\r\n" + LIVEZ)
    assert client.answer().body == data
    assert client.answer("GET").status == 200


def test_one_packet_for_each_of_many_pieces(client: RawClient) -> None:
    data = noise(2000)
    encoded = HEAD + chunked(data, 9) + LIVEZ
    client.send(*(encoded[at : at + 5] for at in range(0, len(encoded), 5)))
    assert client.answer().body == data
    assert client.answer("GET").status == 200


def test_30_mb(client: RawClient) -> None:
    data = noise(30_000_000)
    for size in (30_000_000, 65536, 1_000_003):
        client.send(HEAD + chunked(data, size) + LIVEZ)
        assert client.answer().body == data
        assert client.answer("GET").status == 200


def test_30_mb_into_a_route_of_exactly_that_size(core_server: Servers) -> None:
    data = noise(30_000_000)
    server = core_server(
        routes=[route("/exact", unit=len(data), exact=True)], max_inflight_bytes=90_000_000
    )
    with server.connect() as client:
        for size in (30_000_000, 65536, 131_071):
            client.send(request("POST", "/exact", CHUNKED) + chunked(data, size) + LIVEZ)
            assert client.answer().body == data
            assert client.answer("GET").status == 200
    server.wait_idle()


def test_body_of_exactly_the_limit(core_server: Servers) -> None:
    limit = 100_000
    server = core_server(max_request_body_size=limit)
    with server.connect() as client:
        for size in (1000, limit, 99_999, 7):
            client.send(HEAD + chunked(noise(limit), size) + LIVEZ)
            assert client.answer().body == noise(limit)
            assert client.answer("GET").status == 200


@pytest.mark.parametrize("size", [7, 1000, 65536, 100_001])
@pytest.mark.parametrize("packets", [1, 2, 10])
def test_body_over_the_limit_is_413_and_the_connection_stays(
    core_server: Servers, size: int, packets: int
) -> None:
    server = core_server(max_request_body_size=100_000)
    encoded = chunked(noise(100_001), size) + LIVEZ
    step = -(-len(encoded) // packets)
    with server.connect() as client:
        client.send(HEAD)
        for at in range(0, len(encoded), step):
            time.sleep(0.002)  # so that it is a packet of its own
            client.send(encoded[at : at + step])
        answer = client.answer()
        assert answer.status == 413
        answer.error()
        assert not answer.closes
        assert client.answer("GET").status == 200
    assert server.taken == []
    server.wait_idle()


@pytest.mark.parametrize("length", [0, 1, 11, 13, 100, 70_000])
def test_length_that_does_not_fit_is_refused_and_what_follows_is_read(
    client: RawClient, length: int
) -> None:
    """The length of a chunked body shows only at its end; a request right behind it is not lost."""
    client.send(request("POST", "/twelve", CHUNKED))
    time.sleep(0.002)  # the head alone: the rest is read by the code for bodies
    client.send(chunked(b"x" * length, 1000) + LIVEZ)
    answer = client.answer()
    assert answer.status == (413 if length > 12 else 400)
    answer.error()
    assert client.answer("GET").status == 200


@pytest.mark.parametrize("length", [0, 12, 70_000])
@pytest.mark.parametrize("target", ["/echo", "/twelve", "/empty"])
def test_head_that_fills_the_buffer(client: RawClient, length: int, target: str) -> None:
    """A head of many KiB, then body and next request in packets of their own."""
    for field in (10_000, 16_000, 17_000, 40_000, 65_000):
        client.send(request("POST", target, "X: " + "a" * field, CHUNKED))
        time.sleep(0.002)
        encoded = chunked(noise(length), 70_000)
        client.send(encoded[:-4])
        time.sleep(0.002)
        client.send(encoded[-4:] + LIVEZ)
        fits = {"/echo": True, "/twelve": length == 12, "/empty": length == 0}[target]
        answer = client.answer()
        assert (answer.status == 200) == fits
        assert not fits or answer.body == noise(length)
        assert client.answer("GET").status == 200


def test_full_buffer_of_body_behind_a_large_head(client: RawClient) -> None:
    """Everything that the input buffer can hold comes at once, and the end of the body later."""
    for field in (100, 16_000, 20_000, 64_000):
        data = noise(300_000)
        client.send(request("POST", "/echo", "X: " + "a" * field, CHUNKED)[:-2])
        time.sleep(0.002)
        client.send(b"\r\n" + b"%x\r\n" % len(data) + data)
        time.sleep(0.01)
        client.send(b"\r\n0\r\n\r\n" + LIVEZ * 3)
        assert client.answer().body == data
        for _ in range(3):
            assert client.answer("GET").status == 200


def test_slots_are_charged_as_they_fill(core_server: Servers) -> None:
    """A chunked body that could be 64 MiB but is small takes little of the budget."""
    server = core_server(max_inflight_bytes=8 << 20, max_request_body_size=64 << 20)
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        client.send(HEAD + chunk(b"a"))
    server.wait(connections=3)
    for client in clients:
        assert client.ask(b"0\r\n\r\n").body == b"a"
        client.close()
    server.wait_idle()


def test_body_over_the_budget_is_413_and_gives_it_all_back(core_server: Servers) -> None:
    server = core_server(max_inflight_bytes=8 << 20)
    with server.connect() as client:
        client.send(HEAD + chunked(noise(20 << 20), 1 << 20) + LIVEZ)
        answer = client.answer()
        assert answer.status == 413
        answer.error()
        assert client.answer("GET").status == 200
        server.wait_idle()
        assert client.ask(HEAD + chunked(b"abc", 3)).body == b"abc"
