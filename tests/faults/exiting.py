"""Programs that end in every way there is while a server runs in them. `python exiting.py NAME`."""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import targets
from asking import ask, expect

import fastpredict
from fastpredict import _core

#: What outlives everything: arrays over receive buffers in a module's globals.
kept: list[np.ndarray] = []
entered = threading.Event()

targets.app.predict("/keep")(lambda data: kept.append(data))


@targets.app.predict("/enter")
def enter(data: np.ndarray, request: fastpredict.Request) -> int:
    entered.set()
    return targets.nap(data, request)


@targets.app.predict("/enter-clutched")
def enter_clutched(data: np.ndarray, request: fastpredict.Request) -> int:
    entered.set()
    return targets.clutch(data, request)


def start(**options: Any) -> fastpredict.Server:
    server = fastpredict.Server(targets.app, port=0, **options)
    server.start()
    expect(server.url)
    return server


def ask_in_background(url: str, path: str, body: bytes = b"x") -> None:
    def run() -> None:
        with contextlib.suppress(Exception):
            ask(url, path, body)

    threading.Thread(target=run, daemon=True).start()


def keep(server: fastpredict.Server) -> None:
    for size in (0, 10, 100_000, 5_000_000):
        assert ask(server.url, "/keep", b"x" * size) == (204, b"")


# ---- each ends the process, with status 0 unless it says otherwise


def without_stop() -> None:
    globals()["server"] = start()


def with_a_request_running() -> None:
    globals()["server"] = server = start()
    ask_in_background(server.url, "/enter?0.5")
    assert entered.wait(10)


def with_an_endless_request_running() -> None:
    globals()["server"] = server = start()
    ask_in_background(server.url, "/enter?3600")
    assert entered.wait(10)


def with_requests_queued() -> None:
    globals()["server"] = server = start(threads=2)
    for _ in range(8):
        ask_in_background(server.url, "/enter?0.2")
    assert entered.wait(10)


def with_a_request_holding_the_gil() -> None:
    globals()["server"] = server = start()
    ask_in_background(server.url, "/enter-clutched?0.5")
    assert entered.wait(10)


def with_an_upload_under_way() -> None:
    globals()["server"] = server = start()
    split = urllib.parse.urlsplit(server.url)
    globals()["client"] = client = socket.create_connection((split.hostname, split.port))
    client.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
    client.sendall(b"x" * 5_000_000)


def begin_stream(url: str, target: str) -> socket.socket:
    """A client that has the beginning of a stream, and reads no further."""
    split = urllib.parse.urlsplit(url)
    client = socket.create_connection((split.hostname, split.port))
    client.sendall(b"GET " + target.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    return client


def with_a_stream_under_way() -> None:
    globals()["server"] = server = start()
    globals()["client"] = begin_stream(server.url, "/wsgi/slowly?0.01")


def with_a_stream_that_nobody_reads() -> None:
    globals()["server"] = server = start(threads=2)
    globals()["clients"] = [begin_stream(server.url, "/wsgi/stream") for _ in range(2)]


def with_a_stream_that_sleeps() -> None:
    globals()["server"] = server = start()
    globals()["client"] = begin_stream(server.url, "/wsgi/slowly?3600")


def with_arrays_kept() -> None:
    globals()["server"] = server = start()
    keep(server)


def with_arrays_kept_after_a_stop() -> None:
    with fastpredict.Server(targets.app, port=0) as server:
        keep(server)
    assert all((array == 120).all() for array in kept)


def with_arrays_kept_by_a_thread() -> None:
    globals()["server"] = server = start()
    keep(server)

    def hold() -> None:
        mine = list(kept)
        while mine:
            time.sleep(0.01)

    threading.Thread(target=hold, daemon=True).start()


def with_several_servers() -> None:
    globals()["servers"] = [start(), start(threads=3), start()]


def sys_exit() -> NoReturn:
    globals()["server"] = start()
    sys.exit(7)


def sys_exit_inside_with() -> NoReturn:
    with fastpredict.Server(targets.app, port=0) as server:
        expect(server.url)
        sys.exit(7)


def exception_on_the_main_thread() -> NoReturn:
    globals()["server"] = start()
    raise ValueError("meant to be")


def sys_exit_while_a_client_asks() -> NoReturn:
    globals()["server"] = server = start()

    def run() -> None:
        with contextlib.suppress(Exception):
            while True:
                ask(server.url, "/length")

    for _ in range(4):
        threading.Thread(target=run, daemon=True).start()
    time.sleep(0.05)
    sys.exit(7)


def os_exit() -> NoReturn:
    globals()["server"] = server = start()
    ask_in_background(server.url, "/enter?0.5")
    assert entered.wait(10)
    os._exit(7)


def os_exit_in_a_handler() -> None:
    targets.app.predict("/leave")(lambda data: os._exit(7))
    globals()["server"] = server = start()
    ask_in_background(server.url, "/leave")
    time.sleep(20)


def os_exit_in_a_stream() -> None:
    def leaving(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"begun"
        os._exit(7)

    targets.app.mount("/leave", leaving)
    globals()["server"] = server = start()
    begin_stream(server.url, "/leave")
    time.sleep(20)


def interrupted_by_a_handler() -> None:
    targets.app.predict("/interrupt")(lambda data: _thread.interrupt_main())
    with fastpredict.Server(targets.app, port=0) as server:
        ask_in_background(server.url, "/interrupt")
        while True:  # what a handler does so ends no sleep
            time.sleep(0.01)


def interrupted_while_it_streams() -> None:
    with fastpredict.Server(targets.app, port=0, timeout_graceful_shutdown=0.2) as server:
        client = begin_stream(server.url, "/wsgi/stream")
        os.kill(os.getpid(), signal.SIGINT)
        client.recv(1 << 20)
        time.sleep(20)


def collected_without_stop() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        url = start().url
        gc.collect()
    assert [each.category for each in caught] == [ResourceWarning], caught
    try:
        ask(url, "/length")
    except OSError:
        return
    raise AssertionError("it still serves")


def collected_in_a_ring() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ring: list[Any] = [start()]
        ring.append(ring)
        del ring
        gc.collect()
    assert [each.category for each in caught] == [ResourceWarning], caught


def started_from_a_daemon_thread() -> None:
    servers: list[fastpredict.Server] = []
    thread = threading.Thread(target=lambda: servers.append(start()), daemon=True)
    thread.start()
    thread.join(20)
    globals()["servers"] = servers
    expect(servers[0].url)


def stopped_by_atexit() -> None:
    import atexit

    atexit.register(start().stop)


def stopped_by_a_thread_at_exit() -> None:
    globals()["server"] = server = start()
    threading.Thread(target=lambda: (time.sleep(0.05), server.stop())).start()


def imported_by_a_subinterpreter() -> None:
    """It is refused there, and goes on here. NumPy refuses, too: so the extension alone."""
    interpreters: Any
    try:
        import _interpreters as interpreters  # from Python 3.13 on
    except ImportError:
        import _xxsubinterpreters as interpreters
    globals()["server"] = server = start()
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("fastpredict._core", {_core.__file__!r})
try:
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
except ImportError as error:
    assert "does not support subinterpreters" in str(error), error
else:
    raise AssertionError("it was imported")
"""
    failed = interpreters.run_string(interpreters.create(), code)
    assert failed is None, failed
    expect(server.url)


def never_started() -> None:
    globals()["server"] = fastpredict.Server(targets.app, port=0)


def failed_startup() -> None:
    app = fastpredict.App()
    app.predict("/p")(len)
    app.on_startup(lambda: 1 / 0)
    try:
        fastpredict.Server(app, port=0).start()
    except RuntimeError as error:
        if isinstance(error.__cause__, ZeroDivisionError):
            return
        raise
    raise AssertionError("it started")


WAYS: dict[str, tuple[Callable[[], Any], int]] = {
    function.__name__: (function, status)
    for status, functions in {
        0: (
            without_stop,
            with_a_request_running,
            with_an_endless_request_running,
            with_requests_queued,
            with_a_request_holding_the_gil,
            with_an_upload_under_way,
            with_a_stream_under_way,
            with_a_stream_that_nobody_reads,
            with_a_stream_that_sleeps,
            with_arrays_kept,
            with_arrays_kept_after_a_stop,
            with_arrays_kept_by_a_thread,
            with_several_servers,
            collected_without_stop,
            collected_in_a_ring,
            started_from_a_daemon_thread,
            stopped_by_atexit,
            stopped_by_a_thread_at_exit,
            imported_by_a_subinterpreter,
            never_started,
            failed_startup,
        ),
        1: (exception_on_the_main_thread,),
        7: (
            sys_exit,
            sys_exit_inside_with,
            sys_exit_while_a_client_asks,
            os_exit,
            os_exit_in_a_handler,
            os_exit_in_a_stream,
        ),
        -signal.SIGINT: (interrupted_by_a_handler, interrupted_while_it_streams),
    }.items()
    for function in functions
}

if __name__ == "__main__":
    WAYS[sys.argv[1]][0]()
