"""Server and serve() over a core without sockets: lives, ends, threads and signals."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import fake_core
import pytest

import fastpredict
from fastpredict import engine, signals
from fastpredict import server as server_module


@pytest.fixture(autouse=True)
def core(monkeypatch):
    """The doubles in place of the extension, and a list of the servers that were made."""
    made = []

    def make(routes, **options):
        made.append(fake_core.Server(routes, **options))
        return made[-1]

    monkeypatch.setattr(server_module._core, "Server", make)
    monkeypatch.setattr(server_module._core, "Route", fake_core.Route)
    monkeypatch.setattr(engine, "JOIN_BOUND", 5.0)
    yield made
    for each in made:
        each.stop()


def make_app():
    app = fastpredict.App()
    app.predict("/predict", dtype="f4")(lambda array: array * 2)
    return app


def our_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fastpredict-")]


def test_a_server_serves_in_the_background_and_ends(core):
    with fastpredict.Server(make_app(), port=0, threads=2) as server:
        assert server.url == "http://127.0.0.1:54321"
        assert server.urls == (server.url,)
        assert core[0].ready.is_set()
        assert len(our_threads()) == 3
        assert all(thread.daemon for thread in our_threads())
        exchange = core[0].submit(fake_core.Exchange(b"\0" * 8))
        assert exchange.done.wait(10)
        assert exchange.replies[0][0] == 200
        assert "serving" in repr(server)
    assert not our_threads()
    assert not engine._running
    assert core[0].calls == ["start", "drain", "stop"]
    server.stop()  # again does nothing
    with pytest.raises(RuntimeError, match="once"):
        server.start()


def test_a_server_that_is_not_started_can_be_stopped(core):
    server = fastpredict.Server(make_app(), port=0)
    server.stop()
    assert core[0].calls == ["stop"]
    with pytest.raises(RuntimeError, match="once"):
        server.start()
    server.stop()
    assert core[0].calls == ["stop"]


def test_the_core_gets_routes_and_options_by_name(core):
    fastpredict.Server(make_app(), port=0, max_request_body_size="64M", timeout_queue=2)
    options = core[0].options
    assert options["max_request_body_size"] == 64 << 20
    assert options["timeout_queue"] == 2.0
    assert set(options) == set(server_module._CORE_OPTIONS)
    assert core[0].routes[0].path == "/predict"
    assert core[0].routes[0].limits["raw_unit_bytes"] == 4


@pytest.mark.parametrize(
    ("options", "listening"),
    [
        ({}, [("127.0.0.1", 8000)]),
        ({"port": 0}, [("127.0.0.1", 0)]),
        ({"host": "::1"}, [("::1", 8000)]),
        ({"uds": "/p"}, [("/p", 0o600)]),
        ({"uds": "/p", "uds_mode": "0666", "port": 5}, [("127.0.0.1", 5), ("/p", 0o666)]),
        ({"fd": 3}, [3]),
        ({"fd": 3, "host": "h"}, [("h", 8000), 3]),
    ],
)
def test_tcp_is_the_default_and_beside_others_only_when_named(core, options, listening):
    server = fastpredict.Server(make_app(), **options)
    assert core[0].listening == listening
    assert len(server.urls) == len(listening)


def test_what_cannot_be_served_is_refused_before_anything_is_bound(core):
    with pytest.raises(TypeError, match=r"expected a fastpredict\.App or a WSGI application"):
        fastpredict.Server(lambda array: array)
    with pytest.raises(TypeError, match="got a dict"):
        fastpredict.Server({})
    with pytest.raises(TypeError, match="option"):
        fastpredict.Server(make_app(), prot=1)
    with pytest.raises(ValueError, match="threads"):
        fastpredict.Server(make_app(), threads=0)
    with pytest.raises(ValueError, match="threads"):
        fastpredict.serve(make_app(), threads=0)
    assert not core


def test_hooks_run_in_each_predict_thread_and_ready_comes_after_the_last(core):
    app, seen = make_app(), []

    @app.on_startup
    def load():
        assert not core[0].ready.is_set()
        seen.append(("up", threading.get_ident()))

    @app.on_shutdown
    def fail():
        raise ValueError("must not keep the next one from running")

    @app.on_shutdown
    def unload():
        seen.append(("down", threading.get_ident()))

    with fastpredict.Server(app, port=0, threads=2):
        assert core[0].ready.is_set()
    up = {ident for what, ident in seen if what == "up"}
    down = {ident for what, ident in seen if what == "down"}
    assert len(up) == 2
    assert up == down
    assert threading.get_ident() not in up


@pytest.mark.parametrize("error", [OSError("no model"), SystemExit(1), KeyboardInterrupt()])
def test_a_failing_startup_ends_the_start(core, caplog, error):
    app = make_app()

    @app.on_startup
    def load():
        raise error

    with pytest.raises(RuntimeError, match="start-up") as caught:
        fastpredict.Server(app, port=0, threads=2).start()
    assert caught.value.__cause__ is error
    assert "load" in caplog.text
    assert not core[0].ready.is_set()
    assert not our_threads()


def test_stop_inside_a_handler_is_refused(core):
    app, caught = fastpredict.App(), []

    @app.predict("/predict")
    def predict(array):
        with pytest.raises(RuntimeError, match="handler") as error:
            server.stop()
        caught.append(error)

    with fastpredict.Server(app, port=0) as server:
        assert core[0].submit(fake_core.Exchange(b"x")).done.wait(10)
        assert caught
        assert "drain" not in core[0].calls


def test_a_forgotten_server_warns_and_stops(core):
    server = fastpredict.Server(make_app(), port=0)
    server.start()
    forgotten = [server]
    del server
    with pytest.warns(ResourceWarning, match="not stopped"):
        forgotten.clear()
    assert list(dict.fromkeys(core[0].calls)) == ["start", "stop"]
    for thread in our_threads():
        thread.join(10)
    assert not our_threads()
    assert not engine._running


def test_a_server_that_was_stopped_or_never_started_goes_quietly(core):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fastpredict.Server(make_app(), port=0):
            pass
        fastpredict.Server(make_app(), port=0)
        gc.collect()


def test_servers_run_side_by_side(core):
    with fastpredict.Server(make_app(), port=0), fastpredict.Server(make_app(), port=0):
        for each in core:
            assert each.submit(fake_core.Exchange(b"\0" * 4)).done.wait(10)
    assert not our_threads()


def test_an_overdue_drain_is_stopped(core, monkeypatch):
    monkeypatch.setattr(fake_core.Server, "drain", lambda self: self.calls.append("drain"))
    server = fastpredict.Server(make_app(), port=0, timeout_graceful_shutdown=0.05)
    server.start()
    server.stop()
    assert list(dict.fromkeys(core[0].calls)) == ["start", "drain", "stop"]


def test_the_end_of_the_process_stops_what_runs_within_a_bound(core):
    server = fastpredict.Server(make_app(), port=0)
    server.start()
    engine._at_exit()
    assert list(dict.fromkeys(core[0].calls)) == ["start", "stop"]
    assert not our_threads()
    server.stop()


def test_a_forked_child_lets_go_and_its_exit_stops_nothing(core):
    with fastpredict.Server(make_app(), port=0) as server:
        child = os.fork()
        if child == 0:
            quiet = core[0].calls == ["start", "after_fork_in_child"] and not engine._running
            server.stop()
            server.__del__()
            os._exit(0 if quiet and core[0].calls[-1] == "after_fork_in_child" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert "after_fork_in_child" not in core[0].calls
        assert core[0].submit(fake_core.Exchange(b"\0" * 4)).done.wait(10)


# ---- serve() -------------------------------------------------------------------------------------


def test_serve_prints_where_and_puts_the_signals_back(core, capsys, monkeypatch):
    announce = server_module._announce

    def announce_and_drain(server):
        announce(server)
        core[0].drain()

    monkeypatch.setattr(server_module, "_announce", announce_and_drain)

    def mine(number, frame):
        pass

    old = signal.signal(signal.SIGTERM, mine)
    try:
        fastpredict.serve(make_app(), port=0)
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, old)
    assert core[0].calls[:2] == ["watch_signals", "start"]
    line = "serving POST /predict on http://127.0.0.1:54321 (Ctrl-C to stop)\n"
    assert capsys.readouterr().err == f"fastpredict {fastpredict.__version__} {line}"
    assert not our_threads()


def test_signals_arrive_at_the_descriptor_and_not_as_exceptions():
    watched = []
    with signals.handed_over(lambda fd, dump: watched.extend((fd, dump))):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert os.read(watched[0], 8) == bytes((signal.SIGTERM, signal.SIGINT))
    assert watched[1] == signal.SIGRTMAX - 1
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_serve_off_the_main_thread_is_refused(core):
    caught = []

    def run():
        with pytest.raises(RuntimeError, match="main thread"):
            fastpredict.serve(make_app(), port=0)
        caught.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert caught
    assert "start" not in core[0].calls


def test_a_drain_during_startup_ends_serve_without_a_ready_line(core, capsys):
    app = make_app()

    @app.on_startup
    def load():
        core[0].drain()

    fastpredict.serve(app, port=0)
    assert core[0].ended.is_set()
    assert capsys.readouterr().err == ""


def test_overdue_stacks_are_written_by_the_dump_signal():
    code = (
        "import fake_core, signal, sys, threading\n"
        "from fastpredict import signals\n"
        "def stuck(): threading.Event().wait(0.2)\n"
        "threading.Thread(target=stuck).start()\n"
        "with signals.handed_over(lambda fd, dump: signal.raise_signal(dump)): pass\n"
    )
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "in stuck" in done.stderr
    assert "Current thread" in done.stderr
