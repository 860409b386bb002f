"""Addresses, draining, stopping, and many servers in one process."""

from __future__ import annotations

import errno
import gc
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
from coreserver import CoreServer, Hold, Servers, echo
from rawhttp import Ended, RawClient, request

LIVEZ = request("GET", "/livez")
SOON = 4.0


def lives(address: object) -> bool:
    with RawClient(address) as client:  # type: ignore[arg-type]
        return client.ask(LIVEZ, method="GET").status == 200


def wait_refused(server: CoreServer) -> None:
    """Until nobody listens any more."""
    until = time.monotonic() + SOON
    while time.monotonic() < until:
        try:
            server.connect().close()
        except ConnectionError:  # a reset, where it went with the listener's backlog
            return
    raise AssertionError("connections are still accepted")


# ---- draining ------------------------------------------------------------------------------------


def test_drain_finishes_what_was_accepted_and_refuses_the_rest(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold)
    running, queued, uploading, idle = (server.connect() for _ in range(4))
    assert idle.ask(LIVEZ, method="GET").status == 200
    running.send(request(body=b"a"))
    hold.wait_entered()
    queued.send(request(body=b"b"))
    uploading.send(request("POST", "/echo", "Content-Length: 3") + b"c")
    server.wait(queued=1, requests=4)
    start = time.monotonic()
    server.drain()
    idle.expect_eof()
    assert time.monotonic() - start < 1 + SOON / 2
    assert server.core.draining
    with pytest.raises(ConnectionRefusedError):
        server.connect()
    uploading.send(b"cc")
    hold.let(3)
    for client, body in ((running, b"a"), (queued, b"b"), (uploading, b"ccc")):
        answer = client.answer()
        assert (answer.status, answer.body, answer.closes) == (200, body, True)
        client.expect_eof()
        client.close()
    server.join()


def test_drain_answers_what_waits_in_the_backlog_and_on_idle_connections(
    core_server: Servers,
) -> None:
    """A request that was under way when the drain began is answered, if with a 503; not lost."""
    for _ in range(20):
        server = core_server()
        kept = server.connect()
        assert kept.ask(request(body=b"a")).status == 200
        fresh = server.connect()
        fresh.send(request(body=b"b"))
        kept.send(request(body=b"c"))
        server.drain()
        for client in (fresh, kept):
            answer = client.answer()
            assert answer.status in (200, 503)
            client.expect_eof()
            client.close()
        server.join()


def test_readyz_is_503_while_draining(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold)
    with server.connect() as running, server.connect() as health:
        running.send(request(body=b"a"))
        hold.wait_entered()
        health.send(request("GET", "/readyz")[:-1])  # so that it isn't idle when the drain begins
        server.wait(connections=2)
        server.drain()
        wait_refused(server)
        health.send(b"\n")
        answer = health.answer("GET")
        assert answer.status == 503
        assert answer.closes
        assert "shutting down" in answer.error()
        hold.let()
        assert running.answer().status == 200
    server.join()


def test_drain_with_nothing_to_do_ends_at_once(core_server: Servers) -> None:
    server = core_server()
    clients = [server.connect() for _ in range(20)]
    server.wait(connections=20)
    start = time.monotonic()
    server.drain()
    server.join()
    assert time.monotonic() - start < 1 + SOON / 2
    for client in clients:
        client.expect_eof()


def test_drain_that_takes_too_long_stops(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold, timeout_graceful_shutdown=0.2)
    with server.connect() as client:
        client.send(request(body=b"a"))
        hold.wait_entered()
        server.drain()
        assert server.core.join(SOON)
        client.expect_gone()
        hold.let()
    server.join()


def test_stop_drops_everything_at_once(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold)
    clients = [server.connect() for _ in range(3)]
    clients[0].send(request(body=b"a"))
    hold.wait_entered()
    clients[1].send(request(body=b"b"))
    clients[2].send(request("POST", "/echo", "Content-Length: 30000000") + b"c")
    server.wait(queued=1, requests=3)
    server.core.stop()
    assert server.core.join(SOON)
    for client in clients:
        client.expect_gone()
    hold.let(2)
    server.join()
    assert server.stats()["out_slots"] == 0


def test_array_outlives_a_stopped_server_and_its_collection() -> None:
    import numpy as np

    kept = []

    def handler(exchange: object) -> None:
        kept.append(exchange.array(np.dtype(np.uint8), (3_000_000,)))  # type: ignore[attr-defined]
        exchange.reply(204, [], [])  # type: ignore[attr-defined]

    server = CoreServer(handler)
    with server.connect() as client:
        client.ask(request(body=b"\x07" * 3_000_000))
    server.stop()
    del server
    assert (kept[0] == 7).all()
    kept[0][:] = 8
    kept.clear()


# ---- start and stop, many times ------------------------------------------------------------------


def count_of(kind: str) -> int:
    gc.collect()  # the objects of this file's servers, and other tests' sockets, lie in cycles
    return len(os.listdir(f"/proc/self/{kind}"))


def test_100_starts_and_stops_leave_no_descriptor_and_no_thread() -> None:
    def once(count: int) -> None:
        server = CoreServer(access_log=count % 2 == 0)
        with server.connect() as client:
            assert client.ask(request("POST", "/nothing", body=b"a")).status == 404
            client.send(request(body=b"a")[: 10 * (count % 8)])
            server.drain() if count % 3 == 0 else server.core.stop()
            if count % 3 == 0:
                client.close()
        server.join()

    for count in range(8):
        once(count)
    before = count_of("fd"), count_of("task")
    for count in range(100):
        once(count)
    until = time.monotonic() + SOON  # a thread that was joined may still be listed for a moment
    while (count_of("fd"), count_of("task")) != before and time.monotonic() < until:
        time.sleep(0.01)
    assert (count_of("fd"), count_of("task")) == before


def test_server_that_was_never_started_leaves_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    before = count_of("fd")
    server = CoreServer(tcp=False)
    port = server.core.listen_tcp("127.0.0.1", 0)
    server.core.listen_unix(path, 0o600)
    del server
    assert count_of("fd") == before
    assert not os.path.exists(path)
    with pytest.raises(ConnectionRefusedError):
        RawClient(("127.0.0.1", port))


def test_several_servers_at_once(core_server: Servers) -> None:
    servers = [
        core_server(lambda exchange, n=n: exchange.reply(200 + n, [], [exchange.bytes()]))
        for n in range(5, 8)
    ]
    clients = [server.connect() for server in servers]
    for _ in range(20):
        for client in clients:
            client.send(request(body=b"x" * 100_000))
        assert [client.answer().status for client in clients] == [205, 206, 207]
    servers[1].stop()
    assert clients[0].ask(request(body=b"a")).status == 205
    assert clients[2].ask(request(body=b"a")).status == 207


def test_several_addresses_of_one_server(tmp_path: Path) -> None:
    with Servers() as servers:
        server = CoreServer(echo, tcp=False)
        ports = [server.core.listen_tcp(host, 0) for host in ("127.0.0.1", "127.0.0.2")]
        server.core.listen_unix(str(tmp_path / "s"), 0o600)
        server.start()
        servers.callback(server.stop)
        assert lives(("127.0.0.1", ports[0]))
        assert lives(("127.0.0.2", ports[1]))
        assert lives(str(tmp_path / "s"))


# ---- Unix sockets --------------------------------------------------------------------------------


def unix_server(path: Path, mode: int = 0o600) -> CoreServer:
    server = CoreServer(echo, tcp=False)
    server.core.listen_unix(str(path), mode)
    server.start()
    return server


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_unix_socket_has_its_mode_and_serves(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    umask = os.umask(0o077)
    try:
        server = unix_server(path, mode)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    with RawClient(str(path)) as client:
        body = b"x" * 5_000_000
        for _ in range(3):
            assert client.ask(request(body=body)).body == body
    server.stop()
    assert not path.exists()


def test_client_of_a_unix_socket_is_named_so(tmp_path: Path) -> None:
    seen = []
    server = unix_server(tmp_path / "s")
    server.handler = lambda exchange: (seen.append(exchange.client), echo(exchange))[1]
    with RawClient(str(tmp_path / "s")) as client:
        client.ask(request(body=b"a"))
    server.stop()
    assert seen == ["unix"]


def test_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    server = unix_server(path)
    other = CoreServer(echo, tcp=False)
    with pytest.raises(OSError, match=r".") as caught:
        other.core.listen_unix(str(path), 0o600)
    assert caught.value.errno == errno.EADDRINUSE
    assert lives(str(path))
    server.stop()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    path.write_text("precious") if kind == "file" else path.mkdir()
    server = CoreServer(echo, tcp=False)
    with pytest.raises(OSError, match=r"."):
        server.core.listen_unix(str(path), 0o600)
    assert path.exists()


def test_only_our_own_inode_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = unix_server(path)
    path.rename(tmp_path / "moved")
    second = unix_server(path)
    first.stop()
    assert path.exists(), "the first server removed the socket of the second"
    assert lives(str(path))
    second.stop()
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "x" * 200])
def test_path_that_does_not_fit_is_an_error(name: str) -> None:
    server = CoreServer(echo, tcp=False)
    with pytest.raises(OSError, match="107"):
        server.core.listen_unix(name, 0o600)


# ---- TCP and inherited descriptors ---------------------------------------------------------------


def test_port_in_use_is_known_at_once(core_server: Servers) -> None:
    server = core_server()
    other = CoreServer(echo, tcp=False)
    with pytest.raises(OSError, match=r".") as caught:
        other.core.listen_tcp(*server.address)  # type: ignore[arg-type]
    assert caught.value.errno == errno.EADDRINUSE


def test_port_is_free_again_after_a_stop(core_server: Servers) -> None:
    """With connections in TIME_WAIT."""
    server = core_server()
    with server.connect() as client:
        client.ask(request("POST", "/echo", "Connection: close", body=b"a"))
        client.expect_eof()
    server.stop()
    again = CoreServer(echo, tcp=False)
    assert again.core.listen_tcp(*server.address) == server.address[1]  # type: ignore[arg-type,index]


def test_host_without_an_address_is_an_error() -> None:
    server = CoreServer(echo, tcp=False)
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(OSError, match=r"."):
            server.core.listen_tcp(host, 0)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_inherited_listening_socket(tmp_path: Path, family: int) -> None:
    with socket.socket(family) as inherited:
        inherited.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "s"))
        inherited.listen()
        address = inherited.getsockname()
        server = CoreServer(echo, tcp=False)
        name = server.core.listen_fd(inherited.fileno())
        server.start()
        assert name == (
            f"127.0.0.1:{address[1]}" if family == socket.AF_INET else f"unix:{address}"
        )
        assert lives(address)
        server.stop()
        assert inherited.fileno() >= 0
        if family == socket.AF_UNIX:
            assert os.path.exists(address), "a path that somebody else bound is theirs"


def test_other_descriptors_are_refused(tmp_path: Path) -> None:
    server = CoreServer(echo, tcp=False)
    with (
        socket.socket() as not_listening,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        (tmp_path / "f").open("w") as file,
    ):
        for fd in (not_listening.fileno(), datagrams.fileno(), file.fileno(), 9999, -1):
            with pytest.raises((OSError, ValueError)):
                server.core.listen_fd(fd)


# ---- waking and waiting --------------------------------------------------------------------------


def test_take_returns_none_to_every_thread_once_it_ends(core_server: Servers) -> None:
    server = core_server(threads=4)
    server.drain()
    server.join()
    assert server.core.take() is None


def test_join_says_whether_it_ended(core_server: Servers) -> None:
    server = core_server()
    assert not server.core.join(0)
    assert not server.core.join(0.02)
    threading.Timer(0.05, server.core.stop).start()
    assert server.core.join()
    assert server.core.join(0)


def test_reply_after_a_stop_is_dropped(core_server: Servers) -> None:
    hold = Hold()
    server = core_server(hold)
    client = server.connect()
    client.send(request(body=b"x" * 1_000_000))
    hold.wait_entered()
    server.core.stop()
    assert server.core.join(SOON)
    with pytest.raises((Ended, ConnectionResetError)):
        client.answer()
    hold.let()
    server.join()
    assert server.stats()["out_slots"] == 0
