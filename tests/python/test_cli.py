"""The command: its help, its environment variables, its one-line errors and exit statuses."""

from __future__ import annotations

import socket
import sys
import time

import fake_core  # noqa: F401
import numpy as np
import pytest
from click.testing import CliRunner
from process import Processes, wait_until
from rawhttp import request
from soak import FULL

import fastpredict
from fastpredict import cli, reload
from fastpredict.log import logger
from fastpredict.options import OPTIONS
from fastpredict.reload import ReloadError
from fastpredict.server import StartupError

SOURCE = """
import fastpredict
app = fastpredict.App()
@app.predict("/p", dtype="f4")
def predict(array):
    return array
"""

STREAMS = """
import time

def app(environ, start_response):
    start_response("200 OK", [])
    return events() if environ["PATH_INFO"] == "/events" else nap()

def events():
    while True:
        print("event", flush=True)
        yield b"data: x\\n\\n"
        time.sleep(0.1)

def nap():
    print("napping", flush=True)
    time.sleep(1)
    return [b"rested"]
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Run the command with serve() replaced; returns run() and what serve() was given."""
    (tmp_path / "served.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    for option in OPTIONS:
        monkeypatch.delenv(option.env, raising=False)
    calls = []
    monkeypatch.setattr(cli, "serve", lambda app, **options: calls.append((app, options)))

    def run(*args, env=None):
        return CliRunner().invoke(cli.main, ["serve", *args], env=env)

    before = set(sys.modules)
    yield run, calls
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_version_prints_ours_libh2os_and_numpys():
    result = CliRunner().invoke(cli.main, ["--version"])
    assert result.exit_code == 0
    for part in (fastpredict.__version__, f"libh2o {cli._core.LIBH2O_VERSION}", np.__version__):
        assert part in result.output


def test_help_shows_every_option_in_its_group_with_its_variable():
    result = CliRunner().invoke(cli.main, ["serve", "--help"], terminal_width=200)
    assert result.exit_code == 0
    for option in OPTIONS:
        assert option.flag in result.output
        assert option.env in result.output
    positions = [result.output.index(f"\n{option.group}:") for option in OPTIONS]
    assert positions == sorted(positions)


def test_defaults_reach_serve_as_the_table_has_them(served):
    run, calls = served
    assert run("served.py").exit_code == 0
    ((app, options),) = calls
    assert [route.path for route in app.routes] == ["/p"]
    expected = {option.name: option.default for option in OPTIONS if option.audience != "command"}
    assert options == expected


def test_flags_reach_serve(served):
    run, calls = served
    result = run(
        "served.py:predict", "--dtype", "float32", "--shape", "-1,3", "--path", "/x", "--port", "0",
        "--max-request-body-size", "64M", "--no-access-log", "--log-level", "debug",
        "--uds", "/tmp/s", "--uds-mode", "0666", "--timeout-read", "1.5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    app, options = calls[0]
    assert (app.routes[0].path, app.routes[0].shape) == ("/x", (-1, 3))
    assert options["max_request_body_size"] == 64 << 20
    assert (options["port"], options["uds_mode"], options["timeout_read"]) == (0, 0o666, 1.5)
    assert options["access_log"] is False
    assert options["log_level"] == "debug"


def test_a_switch_from_the_environment_can_be_taken_back(served):
    run, calls = served
    env = {"FASTPREDICT_ALLOW_CLIENT_SHM": "1", "FASTPREDICT_COPY_CLIENT_MEMORY": "on"}
    assert run("served.py", env=env).exit_code == 0
    assert run("served.py", "--no-allow-client-shm", env=env).exit_code == 0
    assert run("served.py", "--allow-client-shm").exit_code == 0
    switches = [(each["allow_client_shm"], each["copy_client_memory"]) for _, each in calls]
    assert switches == [(True, True), (False, True), (True, False)]


def test_a_wsgi_application_reaches_serve_as_an_app(served, tmp_path):
    run, calls = served
    (tmp_path / "web.py").write_text("def app(environ, start_response): pass\n")
    assert run("web.py").exit_code == 0
    assert [mount.path for mount in calls[0][0].mounts] == ["/"]
    result = run("web.py", "--dtype", "f4")
    assert result.exit_code == 2
    assert "describes a plain function" in result.output


def test_reload_runs_what_was_typed_and_imports_nothing(served, monkeypatch):
    run, calls = served
    asked = []

    def reload(arguments, target, **options):
        asked.append((arguments, target, options))
        return 143

    monkeypatch.setattr(cli, "serve_reloading", reload)
    typed = ("served.py:predict", "--shape", "-1,3", "--reload", "--fd", "7")
    result = run(*typed, env={"FASTPREDICT_TIMEOUT_GRACEFUL_SHUTDOWN": "4"})
    assert result.exit_code == 143
    assert asked == [(("serve", *typed), "served.py:predict", {"fd": 7, "graceful_s": 4.0})]
    assert run("missing", env={"FASTPREDICT_RELOAD": "1"}).exit_code == 143
    assert asked[1][2] == {"fd": None, "graceful_s": None}
    assert "served" not in sys.modules
    assert not calls


@pytest.mark.parametrize(
    ("graceful", "bound"), [(None, 2.0), (0.3, 2.3), (30.0, 32.0), (0.0, 32.0)]
)
def test_a_restart_waits_for_as_long_as_was_asked_and_else_not_long(monkeypatch, graceful, bound):
    pytest.importorskip("watchfiles")
    bounds = []

    def supervise(child, turns, signals, end_bound):
        bounds.append(end_bound)
        return 0

    monkeypatch.setattr(reload, "_supervise", supervise)
    assert reload.serve_reloading(["serve", "x"], "x", fd=None, graceful_s=graceful) == 0
    assert bounds == [bound]


@pytest.mark.skipif(not FULL, reason="takes seconds; the bound's parts are tested above")
def test_an_open_event_stream_holds_a_restart_up_for_two_seconds(tmp_path):
    pytest.importorskip("watchfiles")
    pytest.importorskip("fastpredict._core")
    file = tmp_path / "web.py"
    file.write_text(STREAMS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Processes() as processes:
        server = processes.serve("web.py", "--reload", "--threads", "2", port=port, cwd=tmp_path)
        with server.connect() as stream, server.connect() as client:
            stream.send(request("GET", "/events"))
            server.out.wait("event")
            client.send(request("GET", "/nap"))
            server.out.wait("napping")
            began = time.monotonic()
            file.write_text(STREAMS + "\n")
            assert client.answer("GET").body == b"rested"
            server.err.wait("it did not end within 2 s; killed")
            wait_until(lambda: server.err.text.count(" serving ") == 2)
            assert time.monotonic() - began < 20  # and not the 30 s that it has by itself
            stream.expect_gone()


@pytest.mark.parametrize("error", [ReloadError("no watchfiles"), OSError(9, "Bad file descriptor")])
def test_reloading_that_cannot_be_is_one_line_and_status_2(served, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(cli, "serve_reloading", fail)
    result = served[0]("served", "--reload", "--fd", "9")
    assert result.exit_code == 2
    assert result.output.startswith("fastpredict: ")
    assert result.output.count("\n") == 1


def test_the_environment_is_read_and_the_flag_wins(served):
    run, calls = served
    env = {
        "FASTPREDICT_THREADS": "3",
        "FASTPREDICT_PORT": "9000",
        "FASTPREDICT_ACCESS_LOG": "0",
        "FASTPREDICT_MAX_INFLIGHT_BYTES": "1G",
    }
    assert run("served", "--port", "9001", env=env).exit_code == 0
    options = calls[0][1]
    assert (options["threads"], options["port"]) == (3, 9001)
    assert options["access_log"] is False
    assert options["max_inflight_bytes"] == 1 << 30


def test_what_kubernetes_sets_for_a_service_is_ignored(served):
    run, calls = served
    assert run("served", env={"FASTPREDICT_PORT": "tcp://10.0.0.1:8000"}).exit_code == 0
    assert calls[0][1]["port"] is None


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["--port", "x"], {}),
        (["--threads", "0"], {}),
        (["--max-inflight-bytes", "lots"], {}),
        (["--shape", "a"], {}),
        (["--interface", "asgi"], {}),
        (["--prot", "1"], {}),
        ([], {"FASTPREDICT_PORT": "x"}),
    ],
)
def test_values_that_cannot_be_are_usage_errors(served, args, env):
    run, calls = served
    result = run("served", *args, env=env)
    assert result.exit_code == 2
    assert not calls
    assert result.output.startswith("fastpredict: ")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("target", ["missing", "served:ap", "missing.py", "json", "os:path"])
def test_a_wrong_target_is_one_line_and_status_2_before_any_socket(served, target):
    run, calls = served
    result = run(target)
    assert result.exit_code == 2
    assert not calls
    assert result.output.startswith("fastpredict: ")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(98, "Address already in use"), 2, "--port 9: Address already in use"),
        (OSError("the host has no address"), 2, "the host has no address"),
        (ValueError("limit_concurrency is out of range"), 2, "limit_concurrency"),
        (StartupError("a start-up function raised OSError"), 3, "raised OSError"),
    ],
)
def test_what_serve_raises_is_one_line_and_a_status(served, monkeypatch, error, status, said):
    def fail(app, **options):
        raise error

    monkeypatch.setattr(cli, "serve", fail)
    result = served[0]("served", "--port", "9")
    assert result.exit_code == status
    assert said in result.output
    assert result.output.count("\n") == 1


def test_the_traceback_of_a_failing_import_comes_with_log_level_debug(
    served, tmp_path, monkeypatch
):
    run, _ = served
    monkeypatch.setattr(logger, "hasHandlers", lambda: False)  # pytest has put some up
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert "Traceback" not in run("broken.py").output
    assert "Traceback" in run("broken.py", "--log-level", "debug").output
