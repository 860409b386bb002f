"""Programs that fork while a server runs in them. `python forking.py NAME`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import targets
from asking import ask, expect

import fastpredict

WAIT_S = 20
REQUESTS = 100


def start(**options: Any) -> fastpredict.Server:
    server = fastpredict.Server(targets.app, **({"port": 0, "access_log": False} | options))
    server.start()
    expect(server.url)
    return server


def fork(child: Callable[[], Any]) -> int:
    """The child runs the function and ends by sys.exit(0); 1 where the function raises."""
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)
    return pid


def status_of(pid: int) -> int:
    """Waits for a child: its exit status, or minus its signal."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


@contextlib.contextmanager
def sleeping_child() -> Iterator[int]:
    """A forked child that lives while the block runs, and has got through os.fork() before."""
    reader, writer = os.pipe()

    def live() -> None:
        os.write(writer, b"x")
        time.sleep(WAIT_S)

    pid = fork(live)
    try:
        os.read(reader, 1)
        os.close(reader)
        os.close(writer)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def undisturbed(server: fastpredict.Server) -> Iterator[None]:
    """REQUESTS requests while the block runs, all of them right, and the server right after it."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(REQUESTS):
                expect(server.url)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(WAIT_S)
    assert not thread.is_alive(), "a request hangs"
    assert not errors, errors
    expect(server.url)


def only_parent_answers(server: fastpredict.Server) -> None:
    for _ in range(20):
        expect(server.url, "/pid", b"", str(os.getpid()).encode())


# ---- each ends with status 0 where all is well


def children_end_by_sys_exit() -> None:
    server = start()
    with undisturbed(server):
        for _ in range(10):
            assert status_of(fork(lambda: None)) == 0
    server.stop()


def children_end_by_os_exit() -> None:
    server = start()
    with undisturbed(server):
        for _ in range(10):
            assert status_of(fork(lambda: os._exit(7))) == 7
    server.stop()


def children_all_at_once() -> None:
    server = start(threads=2)
    with undisturbed(server):
        pids = [fork(lambda: time.sleep(0.05)) for _ in range(10)]
        only_parent_answers(server)
        assert [status_of(pid) for pid in pids] == [0] * 10
    server.stop()


def child_stops_its_copy() -> None:
    server = start()

    def stop() -> None:
        server.stop()
        repr(server)
        with contextlib.suppress(RuntimeError):
            server.stats()

    with undisturbed(server):
        assert status_of(fork(stop)) == 0
    server.stop()


def child_collects_its_copy() -> None:
    server = start()

    def forget() -> None:
        nonlocal server
        del server

    with undisturbed(server):
        assert status_of(fork(forget)) == 0
    server.stop()


def child_of_servers_that_have_ended() -> None:
    """Their threads are not in the child, and it must not wait for them, whenever they go there."""
    servers = [start(access_log=True) for _ in range(4)]
    for server in servers:
        server.stop()
    before = time.monotonic()
    assert status_of(fork(lambda: None)) == 0
    assert status_of(fork(servers.clear)) == 0
    assert time.monotonic() - before < 1
    server = start()
    with undisturbed(server):
        assert status_of(fork(lambda: None)) == 0
    server.stop()


def child_of_a_server_that_has_not_started() -> None:
    """It takes neither the socket's path nor its port from the parent."""
    path = Path(tempfile.mkdtemp(), "socket")  # a context would end in the child, too
    server = fastpredict.Server(targets.app, uds=str(path), port=0, access_log=False)
    url = next(url for url in server.urls if url.startswith("http"))
    assert status_of(fork(lambda: None)) == 0
    assert path.exists()
    with sleeping_child():
        server.start()
        expect(url)
        server.stop()
        with contextlib.suppress(OSError):
            ask(url, "/length")
            raise AssertionError("the child accepts")
    path.parent.rmdir()


def child_serves_itself() -> None:
    server = start()

    def serve() -> None:
        with fastpredict.Server(targets.app, port=0) as own:
            only_parent_answers(own)
            only = str(os.getppid()).encode()
            expect(server.url, "/pid", b"", only)

    with undisturbed(server):
        assert status_of(fork(serve)) == 0
    server.stop()


def child_holds_no_descriptor() -> None:
    """An open connection ends for the client when the parent closes it, child or not."""
    server = start()
    split = urllib.parse.urlsplit(server.url)
    with socket.create_connection((split.hostname, split.port), timeout=WAIT_S) as client:
        client.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        with sleeping_child():
            server.stop()
            assert client.recv(4096) == b""
            with contextlib.suppress(OSError):
                ask(server.url, "/length")
                raise AssertionError("the child accepts")


def parent_starts_again_on_its_port() -> None:
    server = start()
    port = int(urllib.parse.urlsplit(server.url).port or 0)
    with sleeping_child():
        for _ in range(5):
            server.stop()
            server = start(port=port)
            only_parent_answers(server)
        server.stop()


def arrays_in_child_are_its_own() -> None:
    kept: list[Any] = []
    targets.app.predict("/keep")(lambda data: kept.append(data))
    server = start()
    assert ask(server.url, "/keep", b"x" * 5_000_000)[0] == 204

    def look() -> None:
        assert (kept[0] == 120).all()
        kept[0][:] = 0
        kept.clear()

    with undisturbed(server):
        assert status_of(fork(look)) == 0
    assert (kept[0] == 120).all()
    server.stop()


def fork_in_a_handler() -> None:
    def forked(data: Any) -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return status_of(pid)

    targets.app.predict("/fork")(forked)
    server = start()
    with undisturbed(server):
        for _ in range(10):
            expect(server.url, "/fork", b"x", b"0")
    server.stop()


def child_of_a_handler_exits_as_python_does() -> None:
    """Its predict thread is the main thread of the child, and ends by SystemExit there."""

    def forked(data: Any) -> int:
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        return status_of(pid)

    targets.app.predict("/fork")(forked)
    server = start()
    with undisturbed(server):
        expect(server.url, "/fork", b"x", b"0")
    server.stop()


def fork_in_a_stream(child: Callable[[], Any]) -> None:
    """The client gets each block once, whatever the child does."""
    statuses: list[int] = []

    def streaming(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"12345"
        pid = os.fork()
        if pid == 0:
            child()
        else:
            statuses.append(status_of(pid))
        yield b"67890"

    targets.app.mount("/fork", streaming)
    server = start()
    with undisturbed(server):
        for _ in range(10):
            expect(server.url, "/fork", b"x", b"1234567890")
    assert len(statuses) == 10
    server.stop()


def child_of_a_stream_ends_by_os_exit() -> None:
    fork_in_a_stream(lambda: os._exit(0))


def child_of_a_stream_ends_by_sys_exit() -> None:
    fork_in_a_stream(lambda: sys.exit(0))


def child_of_a_stream_goes_on() -> None:
    """It comes to send its block, which it must not."""
    fork_in_a_stream(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))  # for its traceback


def _square(number: int) -> int:
    return number * number


def multiprocessing_fork() -> None:
    server = start()
    with undisturbed(server), multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(_square, range(100)) == [n * n for n in range(100)]
        only_parent_answers(server)
    server.stop()


def multiprocessing_spawn() -> None:
    server = start()
    with undisturbed(server), multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_square, range(10)) == [n * n for n in range(10)]
    server.stop()


def subprocesses() -> None:
    server = start()
    with undisturbed(server):
        for _ in range(5):
            subprocess.run(["true"], check=True, timeout=WAIT_S)
            subprocess.run(["true"], check=True, timeout=WAIT_S, preexec_fn=lambda: None)
    server.stop()


def subprocess_holds_no_descriptor() -> None:
    server = start()
    split = urllib.parse.urlsplit(server.url)
    code = "import os; print(*[os.readlink(f'/proc/self/fd/{n}') for n in (3, 4, 5, 6, 7, 8, 9, 10)"
    code += " if os.path.exists(f'/proc/self/fd/{n}')])"
    with socket.create_connection((split.hostname, split.port)):
        expect(server.url)
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=WAIT_S,
            close_fds=False,
        )
    assert "socket:" not in result.stdout, result.stdout
    assert "eventpoll" not in result.stdout, result.stdout
    server.stop()


def exit_without_stop_beside_a_child() -> None:
    globals()["server"] = server = start()
    pid = fork(lambda: time.sleep(0.3))
    with undisturbed(server):
        pass
    assert status_of(pid) == 0


WAYS = {
    function.__name__: function
    for function in (
        children_end_by_sys_exit,
        children_end_by_os_exit,
        children_all_at_once,
        child_stops_its_copy,
        child_collects_its_copy,
        child_of_servers_that_have_ended,
        child_of_a_server_that_has_not_started,
        child_serves_itself,
        child_holds_no_descriptor,
        parent_starts_again_on_its_port,
        arrays_in_child_are_its_own,
        fork_in_a_handler,
        child_of_a_handler_exits_as_python_does,
        child_of_a_stream_ends_by_os_exit,
        child_of_a_stream_ends_by_sys_exit,
        child_of_a_stream_goes_on,
        multiprocessing_fork,
        multiprocessing_spawn,
        subprocesses,
        subprocess_holds_no_descriptor,
        exit_without_stop_beside_a_child,
    )
}

if __name__ == "__main__":
    WAYS[sys.argv[1]]()
