"""Bodies in memory that a client on the same host lends, and answers written there."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreserver import OCTETS, ROUTES, CoreServer, Handler, Hold, Servers, echo
from lending import (
    SHRINK,
    Memory,
    lend,
    lending,
    mappings_of,
    open_descriptors,
    room,
    send_with,
    until,
)
from rawhttp import RawClient, request

from fastpredict import _core

Serve = Callable[..., tuple[CoreServer, str]]

ANY = (
    *ROUTES,
    _core.Route("/any", any_body=True),
    _core.Route("/mounted", mount=True),
)


@pytest.fixture
def serve(core_server: Servers, tmp_path: Path) -> Iterator[Serve]:
    """A server on a Unix socket, and the path of that."""

    def start(handler: Handler = echo, **options: Any) -> tuple[CoreServer, str]:
        path = str(tmp_path / "socket")
        server = core_server(handler, tcp=False, routes=ANY, **options)
        server.core.listen_unix(path, 0o600)
        server.start()
        return server, path

    return start


def fill(memory: Memory, offset: int, size: int) -> bytes:
    data = random.Random(size).randbytes(size)
    memory.map[offset : offset + size] = data
    return data


def look(exchange: _core.Exchange) -> None:
    """Answers with what it sees, of the body and of what it may do with it."""
    view = exchange.body
    array = exchange.array(np.dtype("u1"), (exchange.nbytes,))
    assert view.readonly == exchange.is_client_memory == (not array.flags.writeable)
    exchange.reply(200, [OCTETS], [bytes(view)])


# ---- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/echo", "/any", "/mounted/x"])
@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (0, 4096), (1, 4095), (64, 100_000), (4097, 8191), (0, 3_000_000), (5, 0)],
)
def test_the_body_is_what_lies_in_the_memory(
    serve: Serve, target: str, offset: int, size: int
) -> None:
    server, path = serve(look)
    with Memory(offset + size + 1000) as memory, RawClient(path) as client:
        data = fill(memory, offset, size)
        for _ in range(3):
            send_with(client, lending(target, lend(offset, size)), [memory.fd])
            assert client.answer().body == data
            data = data[::-1]
            memory.map[offset : offset + size] = data
    server.wait_idle()


def test_arrays_are_read_only_and_bytes_are_a_copy(serve: Serve) -> None:
    kept: list[Any] = []

    def keep(exchange: _core.Exchange) -> None:
        assert exchange.is_client_memory
        first = exchange.bytes()
        assert type(first) is bytes
        array = exchange.array(np.dtype("<i4"), (2,))
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        unaligned = exchange.array(np.dtype("<i2"), (3,), 1)
        assert unaligned.flags.owndata
        kept.extend([first, array, unaligned])
        exchange.reply(200, [], [b"done"])

    server, path = serve(keep)
    with Memory(4096) as memory, RawClient(path) as client:
        memory.map[:8] = bytes(range(8))
        send_with(client, lending("/echo", lend(0, 8)), [memory.fd])
        assert client.answer().body == b"done"
        memory.map[:8] = b"\xff" * 8
        assert kept[0] == bytes(range(8))  # bytes never change
        assert kept[1].tolist() == [-1, -1]  # an array shows what is there now
        assert kept[2].tolist() == [0x0201, 0x0403, 0x0605]
    server.wait(connections=0)
    assert kept[1].tolist() == [-1, -1]  # mapped as long as it lives
    kept.clear()
    until(lambda: mappings_of() == 0)


def test_a_body_over_the_socket_is_no_client_memory(serve: Serve) -> None:
    seen: list[bool] = []

    def note(exchange: _core.Exchange) -> None:
        seen.append(exchange.is_client_memory)
        exchange.reply(200, [], [exchange.bytes()])

    _, path = serve(note)
    with RawClient(path) as client:
        assert client.ask(request(body=b"x" * 70_000)).body == b"x" * 70_000
    assert seen == [False]


def test_the_same_memory_is_mapped_once_and_not_faulted_again(serve: Serve) -> None:
    def total(exchange: _core.Exchange) -> None:
        array = exchange.array(np.dtype("u1"), (exchange.nbytes,))
        exchange.reply(200, [], [b"%d" % int(array[::4096].sum(dtype="u8"))])

    server, path = serve(total)
    size = 8 << 20
    with Memory(size) as memory, RawClient(path) as client:
        data = np.frombuffer(fill(memory, 0, size), "u1")
        expected = b"%d" % int(data[::4096].sum(dtype="u8"))
        ask = lending("/echo", lend(0, size))
        for turn in range(20):
            if turn == 3:
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            send_with(client, ask, [memory.fd])
            assert client.answer().body == expected
        assert mappings_of() == 2  # ours and the server's
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults < 500
    until(lambda: mappings_of() == 0)
    server.wait_idle()


def test_memory_that_has_grown_is_mapped_anew(serve: Serve) -> None:
    _, path = serve()
    with Memory(5000) as memory, RawClient(path) as client:
        for size in (5000, 50_000, 6000, 3_000_000):
            if size > 5000:
                memory.grow(max(size, len(memory.map)))
            data = fill(memory, 0, size)
            send_with(client, lending("/echo", lend(0, size)), [memory.fd])
            assert client.answer().body == data
            until(lambda: mappings_of() == 2)


def test_mappings_are_bounded_and_the_oldest_goes(serve: Serve) -> None:
    _, path = serve()
    memories = [Memory(4096) for _ in range(12)]
    with RawClient(path) as client:
        for _ in range(2):
            for number, memory in enumerate(memories):
                memory.map[:4] = number.to_bytes(4, "little")
                send_with(client, lending("/echo", lend(0, 4)), [memory.fd])
                assert client.answer().body == number.to_bytes(4, "little")
        until(lambda: mappings_of() == 12 + 8)
        for memory in memories:
            memory.__exit__()
        until(lambda: mappings_of() == 8)
    until(lambda: mappings_of() == 0)


def test_a_gigabyte_costs_no_time(serve: Serve) -> None:
    def length(exchange: _core.Exchange) -> None:
        exchange.array(np.dtype("f4"), (exchange.nbytes // 4,))
        exchange.reply(200, [], [b"%d" % exchange.nbytes])

    _, path = serve(length, max_request_body_size=2 << 30, max_inflight_bytes=1 << 20)
    with Memory(1 << 30) as memory, RawClient(path) as client:
        start = time.monotonic()
        for _ in range(50):
            send_with(client, lending("/echo", lend(0, 1 << 30)), [memory.fd])
            assert client.answer().body == b"1073741824"
        assert time.monotonic() - start < 2
        assert os.fstat(memory.fd).st_blocks == 0


def test_the_rules_for_bodies_hold_for_memory(serve: Serve) -> None:
    server, path = serve(max_request_body_size=100_000)
    with Memory(1 << 20) as memory, RawClient(path) as client:

        def status(target: str, *fields: str) -> int:
            send_with(client, lending(target, *fields), [memory.fd])
            return client.answer().status

        assert status("/twelve", lend(0, 12)) == 200
        assert status("/twelve", lend(0, 13)) == 400
        assert status("/echo", lend(0, 100_000)) == 200
        assert status("/echo", lend(0, 100_001)) == 413
        assert status("/any", lend(0, 100_001)) == 413
        assert status("/empty", lend(0, 0)) == 200
        assert status("/empty", lend(0, 1)) == 400
        assert status("/echo", lend(0, 5), "Content-Type: text/html") == 415
        assert status("/npy", lend(0, 500), "Content-Type: application/x-npy") == 200
        assert status("/npy", lend(0, 1001), "Content-Type: application/x-npy") == 400
        assert status("/nowhere", lend(0, 5)) == 404
    server.wait_idle()


# ---- refusals ------------------------------------------------------------------------------------


def refused(client: RawClient, ask: bytes, fds: list[int]) -> str:
    """The sentence of a 400, after which the connection goes on."""
    if fds:
        send_with(client, ask, fds)
    else:
        client.send(ask)
    answer = client.answer()
    assert answer.status == 400
    assert not answer.closes
    return answer.error()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "offset=0",
        "length=5",
        "offset=0;",
        "offset=0; length=",
        "offset=; length=5",
        "offset=-1; length=5",
        "offset=0; length=+5",
        "offset=0, length=5",
        "offset=0; length=5;",
        "offset=0; length=5 5",
        "length=5; offset=0",
        "offset=0x0; length=5",
        "offset=0; length=18446744073709551616",
        "offset=18446744073709551615; length=5",
        "offset=99999999999999999999999; length=5",
    ],
)
def test_a_malformed_range_is_refused(serve: Serve, value: str) -> None:
    _, path = serve()
    with Memory(4096) as memory, RawClient(path) as client:
        for name in ("Fastpredict-Memfd", "fastpredict-answer-memfd"):
            said = refused(client, lending("/echo", f"{name}: {value}"), [memory.fd])
            assert "offset=NUMBER; length=NUMBER" in said
        said = refused(client, lending("/echo", lend(0, 5), lend(0, 5)), [memory.fd])
        assert "once" in said
        send_with(client, lending("/echo", lend(0, 5)), [memory.fd])
        assert client.answer().body == bytes(5)


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 4097, 1 << 40, (1 << 63) - 1, 1 << 63])
def test_a_range_beyond_the_memory_is_refused(serve: Serve, offset: int) -> None:
    _, path = serve()
    with Memory(4096) as memory, RawClient(path) as client:
        for make in (lend, room):
            said = refused(
                client, lending("/echo", make(offset, 4097 - min(offset, 4096))), [memory.fd]
            )
            assert "beyond the end" in said
        send_with(client, lending("/echo", lend(1, 5)), [memory.fd])
        assert client.answer().body == bytes(5)


def test_what_is_no_sealed_memfd_is_refused(serve: Serve, tmp_path: Path) -> None:
    _, path = serve()
    (tmp_path / "file").write_bytes(bytes(5000))
    with RawClient(path) as client, Memory(5000, seals=0) as bare, Memory(5000) as good:
        reader, writer = os.pipe()
        file = os.open(tmp_path / "file", os.O_RDWR)
        wrong = os.open(f"/proc/self/fd/{good.fd}", os.O_WRONLY)
        try:
            for fd in (bare.fd, reader, writer, file, client.socket.fileno()):
                said = refused(client, lending("/echo", lend(0, 5)), [fd])
                assert "F_SEAL_SHRINK" in said
            said = refused(client, lending("/echo", lend(0, 5)), [wrong])
            assert "can not be read" in said
        finally:
            for fd in (reader, writer, file, wrong):
                os.close(fd)
        send_with(client, lending("/echo", lend(0, 5)), [good.fd])
        assert client.answer().body == bytes(5)


def test_sealed_against_writing_serves_a_body_and_no_answer(serve: Serve) -> None:
    _, path = serve()
    with RawClient(path) as client:
        memory = os.memfd_create("frozen", os.MFD_ALLOW_SEALING)
        os.write(memory, b"12345")
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SHRINK | fcntl.F_SEAL_WRITE)
        send_with(client, lending("/echo", lend(0, 5)), [memory])
        assert client.answer().body == b"12345"
        said = refused(client, lending("/echo", room(0, 5)), [memory])
        assert "can not be written" in said
        os.close(memory)


def test_both_a_body_and_memory_is_refused(serve: Serve) -> None:
    server, path = serve()
    with Memory(4096) as memory, RawClient(path) as client:
        ask = request("POST", "/echo", lend(0, 5), body=b"hello")
        assert "both a body and memory" in refused(client, ask, [memory.fd])
        ask = request("POST", "/echo", lend(0, 5), "Transfer-Encoding: chunked")
        assert "both a body" in refused(client, ask + b"5\r\nhello\r\n0\r\n\r\n", [memory.fd])
        send_with(client, request("POST", "/echo", lend(0, 5), body=b""), [memory.fd])
        assert client.answer().body == bytes(5)
    assert server.taken == ["/echo"]


def test_without_a_descriptor_it_is_refused(serve: Serve, echo_server: CoreServer) -> None:
    _, path = serve()
    with RawClient(path) as client:
        for field in (lend(0, 5), room(0, 5), lend(0, 0)):
            if field != lend(0, 0):
                assert "no memory came" in refused(client, lending("/echo", field), [])
        assert client.ask(request(body=b"hello")).body == b"hello"
    with echo_server.connect() as client:
        for field in (lend(0, 5), room(0, 5)):
            assert "Unix socket only" in refused(client, lending("/echo", field), [])
        assert client.ask(request(body=b"hello")).body == b"hello"


# ---- descriptors ---------------------------------------------------------------------------------


def test_descriptors_where_none_is_expected_are_closed(serve: Serve) -> None:
    server, path = serve()
    with Memory(4096) as memory, RawClient(path) as client:
        assert client.ask(request(body=b"first")).body == b"first"
        before = open_descriptors()
        for count in (1, 2, 3, 50, 250):
            send_with(client, request(body=b"head"), [memory.fd] * count)
            assert client.answer().body == b"head"
            client.send(request("POST", "/echo", "Content-Length: 5"))
            send_with(client, b"hello", [memory.fd] * count)
            assert client.answer().body == b"hello"
            send_with(client, request("GET", "/livez"), [memory.fd] * count)
            assert client.answer().status == 200
            send_with(client, request("GET", "/nowhere"), [memory.fd] * count)
            assert client.answer().status == 404
            assert open_descriptors() == before
        for byte in request(body=b"x" * 20):
            send_with(client, bytes([byte]), [memory.fd] * 2)
        assert client.answer().body == b"x" * 20
        until(lambda: open_descriptors() <= before + 2)  # of the last byte of the body
        send_with(client, lending("/echo", lend(0, 5)), [memory.fd])
        assert client.answer().status == 200
        until(lambda: open_descriptors() == before)
    server.wait_idle()


def test_descriptors_of_a_head_that_runs_take_no_place_from_the_next(serve: Serve) -> None:
    hold = Hold()
    _, path = serve(hold)
    with Memory(4096) as memory, RawClient(path) as client:
        memory.map[:3] = b"abc"
        for ask in (request(body=b"xyz"), request(body=b"")):
            send_with(client, ask, [memory.fd] * 2)
            hold.wait_entered()
            send_with(client, lending("/echo", lend(0, 3)), [memory.fd])
            hold.let(2)
            client.answer()
            hold.wait_entered()
            assert client.answer().body == b"abc"


def test_more_than_two_descriptors_are_refused_as_none(serve: Serve) -> None:
    _, path = serve()
    with Memory(4096) as memory, RawClient(path) as client:
        for count in (3, 4, 100):
            assert "no memory came" in refused(
                client, lending("/echo", lend(0, 5)), [memory.fd] * count
            )
        send_with(client, lending("/echo", lend(0, 5)), [memory.fd] * 2)
        assert client.answer().body == bytes(5)


def test_a_flood_of_descriptors_exhausts_nothing(serve: Serve) -> None:
    server, path = serve()
    with Memory(4096) as memory:
        before = open_descriptors()
        for _ in range(20):
            client = RawClient(path)
            for _ in range(30):
                send_with(client, b"P", [memory.fd] * 200)
            until(lambda: server.stats()["connections"] == 1)
            assert open_descriptors() <= before + 1 + 1 + 2
            client.close()
            server.wait(connections=0)
        until(lambda: open_descriptors() == before)


def test_pipelined_heads_have_their_own_descriptors(serve: Serve) -> None:
    _, path = serve()
    with Memory(4096) as one, Memory(4096) as two, RawClient(path) as client:
        one.map[:3], two.map[:3] = b"one", b"two"
        plain = request(body=b"plain")
        for _ in range(20):
            client.send(plain)
            send_with(client, lending("/echo", lend(0, 3)), [one.fd])
            client.send(plain)
            assert [client.answer().body for _ in range(3)] == [b"plain", b"one", b"plain"]
            # the descriptor comes with bytes of both heads, of which the second names it
            send_with(client, plain + lending("/echo", lend(0, 3)) + plain, [two.fd])
            assert [client.answer().body for _ in range(3)] == [b"plain", b"two", b"plain"]
            send_with(client, lending("/echo", lend(0, 3)), [one.fd])
            send_with(client, lending("/echo", lend(0, 3)), [two.fd])
            assert [client.answer().body for _ in range(2)] == [b"one", b"two"]


def test_a_head_in_pieces_keeps_its_descriptor(serve: Serve) -> None:
    _, path = serve()
    with Memory(4096) as memory, RawClient(path) as client:
        memory.map[:3] = b"abc"
        ask = lending("/echo", lend(0, 3))
        for cut in range(1, len(ask) - 1, 3):
            send_with(client, ask[:cut], [memory.fd])
            client.send(ask[cut:])
            assert client.answer().body == b"abc"
            client.send(ask[:cut])
            send_with(client, ask[cut:], [memory.fd])
            assert client.answer().body == b"abc"


# ---- answers -------------------------------------------------------------------------------------


def where(answer: Any) -> tuple[int, int] | None:
    said = answer.get("fastpredict-memfd")
    if said is None:
        return None
    offset, length = (int(part.split("=")[1]) for part in said.split("; "))
    return offset, length


@pytest.mark.parametrize("size", [1, 5000, 300_000, 3_000_000])
@pytest.mark.parametrize("separate", [False, True])
def test_an_answer_that_fits_is_written_to_the_memory(
    serve: Serve, size: int, separate: bool
) -> None:
    server, path = serve()
    start = 8192 if separate else size + 100
    with Memory(size) as body, Memory(4 * size + 10_000) as both, RawClient(path) as client:
        data = fill(body if separate else both, 0, size)
        fds = [body.fd, both.fd] if separate else [both.fd]
        for _ in range(3):
            both.map[start - 1 : start + size + 1] = b"?" * (size + 2)
            send_with(client, lending("/echo", lend(0, size), room(start, size)), fds)
            answer = client.answer()
            assert (answer.status, answer.body) == (200, b"")
            assert where(answer) == (start, size)
            assert both.map[start - 1 : start + size + 1] == b"?" + data + b"?"
    server.wait_idle()
    until(lambda: mappings_of() == 0)


def test_an_answer_that_does_not_fit_comes_over_the_socket(serve: Serve) -> None:
    _, path = serve()
    with Memory(20_000) as memory, RawClient(path) as client:
        data = fill(memory, 0, 5000)
        send_with(client, lending("/echo", lend(0, 5000), room(10_000, 4999)), [memory.fd])
        answer = client.answer()
        assert (answer.body, where(answer)) == (data, None)
        # and so do errors
        send_with(client, lending("/twelve", lend(0, 5000), room(10_000, 5000)), [memory.fd])
        answer = client.answer()
        assert (answer.status, where(answer)) == (400, None)
        assert answer.error()


def test_only_the_answer_goes_through_memory(serve: Serve) -> None:
    _, path = serve()
    data = random.Random(1).randbytes(100_000)
    with Memory(200_000) as memory, RawClient(path) as client:
        ask = request("POST", "/echo", room(3, 150_000), body=data)
        send_with(client, ask, [memory.fd])
        assert where(client.answer()) == (3, len(data))
        assert memory.map[3 : 3 + len(data)] == data
        head, body = ask.split(b"\r\n\r\n", 1)
        send_with(client, head + b"\r\n\r\n", [memory.fd])
        client.send(body)
        assert where(client.answer()) == (3, len(data))


@pytest.mark.parametrize("option", ["SO_PASSCRED", "SO_PASSSEC"])
def test_a_socket_that_asks_for_more_than_descriptors_loses_none(
    core_server: Servers, tmp_path: Path, option: str
) -> None:
    """systemd's PassCredentials=, for one, which connections inherit."""
    path = str(tmp_path / "socket")
    server = core_server(tcp=False, routes=ANY)
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.setsockopt(socket.SOL_SOCKET, getattr(socket, option, 34), 1)
        inherited.bind(path)
        inherited.listen()
        server.core.listen_fd(inherited.fileno())
        server.start()
        with Memory(20_000) as memory, RawClient(path) as client:
            data = fill(memory, 0, 20_000)
            send_with(client, lending("/echo", lend(0, 20_000)), [memory.fd])
            assert client.answer().body == data


def test_overlapping_ranges_of_one_memory_are_refused(serve: Serve) -> None:
    _, path = serve()
    with Memory(20_000) as memory, Memory(20_000) as other, RawClient(path) as client:
        for start in (0, 99, 199):
            ask = lending("/echo", lend(100, 100), room(start, 100))
            if start != 0:
                assert "overlaps" in refused(client, ask, [memory.fd])
                assert "overlaps" in refused(client, ask, [memory.fd, memory.fd])
            send_with(client, ask, [memory.fd, other.fd])
            assert where(client.answer()) == (start, 100)


def kinds_of_reply(exchange: _core.Exchange) -> None:
    size = exchange.nbytes
    kind = exchange.header("kind")
    if kind == "array":
        exchange.reply(200, [], [exchange.array(np.dtype("u1"), (size,))])
    elif kind == "borrow":
        exchange.reply(200, [], [exchange.array(np.dtype("u1"), (size,))], True)
    elif kind == "view":
        exchange.reply(200, [], [exchange.body[: size // 2], exchange.body[size // 2 :]])
    elif kind == "own":
        exchange.reply(200, [], [exchange.array(np.dtype("u1"), (size,)) + np.uint8(0)])
    elif kind == "parts":
        exchange.begin(200, [], size)
        assert exchange.write(exchange.body)
        exchange.end()
    else:
        exchange.reply(200, [], [exchange.bytes()[:7], exchange.bytes()[7:]])


@pytest.mark.parametrize("kind", ["array", "borrow", "view", "own", "parts", "bytes"])
@pytest.mark.parametrize("size", [100, 300_000])
@pytest.mark.parametrize("answered", ["socket", "memory"])
def test_every_kind_of_reply(serve: Serve, kind: str, size: int, answered: str) -> None:
    server, path = serve(kinds_of_reply)
    with Memory(2 * size + 64) as memory, RawClient(path) as client:
        data = fill(memory, 0, size)
        fields = [lend(0, size), f"Kind: {kind}"]
        if answered == "memory":
            fields.append(room(size + 64, size))
        for _ in range(3):
            memory.map[size:] = bytes(len(memory.map) - size)
            send_with(client, lending("/echo", *fields), [memory.fd])
            answer = client.answer()
            if answered == "memory" and kind != "parts":
                assert (answer.body, where(answer)) == (b"", (size + 64, size))
                assert memory.map[size + 64 :] == data
            else:
                assert (answer.body, where(answer)) == (data, None)
    server.wait_idle()
    until(lambda: mappings_of() == 0)


def test_an_echo_is_whole_although_the_client_writes_at_once(serve: Serve) -> None:
    """The client may reuse its memory at the first byte of the answer: the rest must not change."""
    server, path = serve(kinds_of_reply)
    size = 4 << 20
    for kind in ("array", "borrow", "view", "bytes"):
        with Memory(size) as memory, RawClient(path) as client:
            memory.map[:] = b"a" * size
            send_with(client, lending("/echo", lend(0, size), f"Kind: {kind}"), [memory.fd])
            client.unread(client.read_some(10))
            memory.map[:] = b"b" * size
            assert client.answer().body == b"a" * size
    server.wait_idle()


def test_no_body_is_asked_for_by_head(serve: Serve) -> None:
    _, path = serve()
    with Memory(4096) as memory, RawClient(path) as client:
        head = request("HEAD", "/mounted", lend(0, 5), room(100, 5))
        send_with(client, head, [memory.fd])
        answer = client.answer("HEAD")
        assert (answer.status, where(answer), answer.get("content-length")) == (200, None, "5")


def test_the_access_log_shows_the_length_in_memory(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    server, path = serve(access_log=True)
    with Memory(12_345) as memory, RawClient(path) as client:
        send_with(client, lending("/echo", lend(0, 12_345)), [memory.fd])
        assert client.answer().status == 200
    server.stop()
    del server
    until(lambda: '"POST /echo HTTP/1.1" 200 12345 12345 ' in capfd.readouterr().err)
