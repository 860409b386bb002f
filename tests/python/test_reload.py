"""--reload: what is watched, when the server starts anew, and that nothing is left of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_core  # noqa: F401
import pytest
from click.testing import CliRunner
from process import COMMAND, PYTHON, Processes, Served, wait_until
from rawhttp import RawClient, request

from fastpredict import cli, reload

pytest.importorskip("watchfiles")
pytest.importorskip("fastpredict._core")

APP = """
import os, time
import fastpredict
import beside

with open("imported.txt", "a") as file:
    print(os.getpid(), file=file)

app = fastpredict.App()

@app.predict("/version")
def version(data):
    return beside.VERSION

@app.predict("/nap")
def nap(data, request):
    print("napping", flush=True)
    time.sleep(float(request.query))
    return os.getpid()
"""

FLASK_APP = """
import flask
import beside

app = flask.Flask(__name__)

@app.get("/")
def version():
    return f"version {beside.VERSION}"
"""


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(APP)
    set_version(tmp_path, 1)
    return tmp_path


def set_version(folder: Path, version: int) -> None:
    """As editors save: a new file takes the place of the old one."""
    (folder / "new").write_text(f"VERSION = {version}\n")
    (folder / "new").rename(folder / "beside.py")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def serve(processes: Processes, folder: Path, *flags: str, **options: object) -> Served:
    return processes.serve(
        "served.py", "--reload", *flags, cwd=folder, **({"port": free_port()} | options)
    )


def version_of(client: RawClient) -> int:
    return int(client.ask(request("POST", "/version", body=b"")).body)


def restarted(server: Served, times: int) -> None:
    """Until it has said so often where it serves."""
    wait_until(lambda: server.err.text.count(" serving POST ") == times, f"start {times}")


def child_of(server: Served) -> int:
    return int(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- restarts


def test_a_change_restarts_it_on_the_same_port_though_clients_hold_on(
    processes: Processes, folder: Path
) -> None:
    server = serve(processes, folder)
    url = server.url
    with server.connect() as held, server.connect() as idle:
        assert version_of(held) == 1
        for version in (2, 3):
            set_version(folder, version)
            server.err.wait(r"^fastpredict: beside\.py changed, restarting$")
            restarted(server, version)
            with server.connect() as client:
                assert version_of(client) == version
        idle.expect_eof()
    assert server.err.text.count(f" on {url} ") == 3
    server.signal(signal.SIGTERM)
    server.ended(0)


def test_a_flask_application_restarts_with_what_it_imports(
    processes: Processes, folder: Path
) -> None:
    pytest.importorskip("flask")
    (folder / "served.py").write_text(FLASK_APP)
    server = serve(processes, folder)
    with server.connect() as held:
        assert held.ask(request("GET", "/"), method="GET").body == b"version 1"
        set_version(folder, 2)
        server.err.wait(r"^fastpredict: beside\.py changed, restarting$")
        held.expect_eof()
    wait_until(lambda: server.err.text.count("serving WSGI app ") == 2, "the second start")
    with server.connect() as client:
        assert client.ask(request("GET", "/"), method="GET").body == b"version 2"
    server.signal(signal.SIGTERM)
    assert "Traceback" not in server.ended(0)


def test_a_request_that_runs_is_answered_before_the_restart(
    processes: Processes, folder: Path
) -> None:
    server = serve(processes, folder)
    with server.connect() as client:
        client.send(request("POST", "/nap?1", body=b""))
        server.out.wait("napping")
        set_version(folder, 2)
        assert client.answer().status == 200
    restarted(server, 2)


def test_a_request_that_outlasts_the_bound_does_not_hold_it_up(
    processes: Processes, folder: Path
) -> None:
    server = serve(processes, folder, "--timeout-graceful-shutdown", "0.3")
    with server.connect() as client:
        client.send(request("POST", "/nap?100", body=b""))
        server.out.wait("napping")
        set_version(folder, 2)
        restarted(server, 2)
        client.expect_gone()


def test_what_fails_at_its_import_waits_for_the_next_change(
    processes: Processes, folder: Path
) -> None:
    (folder / "beside.py").write_text("VERSION = \n")
    server = serve(processes, folder)
    server.err.wait(r"^fastpredict: importing served\.py failed: SyntaxError")
    server.err.wait(r"^fastpredict: it ended with status 2; waiting for a change$")
    set_version(folder, 5)
    server.err.wait(r"^fastpredict: beside\.py changed, starting$")
    with server.connect() as client:
        assert version_of(client) == 5
    (folder / "beside.py").write_text("1 / 0\n")
    server.err.wait("ZeroDivisionError")
    wait_until(lambda: server.err.text.count("waiting for a change") == 2)
    server.signal(signal.SIGINT)
    server.ended(2)


def test_other_files_restart_nothing(processes: Processes, folder: Path) -> None:
    server = serve(processes, folder)
    assert server.url
    (folder / "notes.txt").write_text("x")
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "x.py").write_text("x")
    set_version(folder, 2)
    server.err.wait(r"^fastpredict: beside\.py changed, ")  # and no more of them
    restarted(server, 2)
    assert len(re.findall("changed", server.err.text)) == 1


def test_a_target_that_lies_elsewhere_is_watched_too(
    processes: Processes, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.mktemp("here")
    port = ("--port", str(free_port()))
    server = Served(*COMMAND, "serve", f"{folder}/served.py", "--reload", *port, cwd=here)
    processes.callback(server.end)
    server.err.wait(re.escape(f"watching {here} and {folder}"))
    assert server.url
    set_version(folder, 2)
    server.err.wait(re.escape(f"{folder}/beside.py changed, restarting"))


@pytest.mark.parametrize(
    ("target", "elsewhere"),
    [
        ("served", None),
        ("served:app", None),
        ("./served.py:app", None),
        ("deep/served.py", None),
        ("nowhere:app", None),
        ("no/such/folder/app.py", None),
        ("inside:app", "library"),
        ("package.deep.module:app", "library/package"),
        ("../library/inside.py", "library"),
    ],
)
def test_folders_are_found_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, elsewhere: str | None
) -> None:
    for name in ("here/served.py", "here/deep/served.py", "library/inside.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise AssertionError")
    (tmp_path / "library/package").mkdir()
    (tmp_path / "library/package/__init__.py").write_text("raise AssertionError")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "library"))
    there = [] if elsewhere is None else [str(tmp_path / elsewhere)]
    assert reload._folders(target) == [str(tmp_path / "here"), *there]


# ---- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_with_what_was_accepted_answered(
    processes: Processes, folder: Path, number: int
) -> None:
    server = serve(processes, folder)
    with server.connect() as client:
        client.send(request("POST", "/nap?0.5", body=b""))
        server.out.wait("napping")
        child = child_of(server)
        server.signal(number)
        assert int(client.answer().body) == child
    text = server.ended(0)
    assert "Traceback" not in text
    assert not is_alive(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_both_at_once(processes: Processes, folder: Path, number: int) -> None:
    server = serve(processes, folder)
    with server.connect() as client, server.connect() as idle:
        assert version_of(idle) == 1
        client.send(request("POST", "/nap?100", body=b""))
        server.out.wait("napping")
        child = child_of(server)
        server.signal(number)
        idle.expect_eof()  # it drains
        server.signal(number)
        server.ended(128 + number)
        assert not is_alive(child)


def test_a_signal_to_the_whole_group_counts_once(processes: Processes, folder: Path) -> None:
    new_group = "import os, sys; os.setpgid(0, 0); os.execv(sys.executable, sys.argv[1:])"
    port = str(free_port())
    serving = ("serve", "served.py", "--reload", "--port", port)
    server = Served(PYTHON, "-c", new_group, *COMMAND, *serving, cwd=folder)
    processes.callback(server.end)
    with server.connect() as client:
        client.send(request("POST", "/nap?0.5", body=b""))
        server.out.wait("napping")
        os.killpg(server.pid, signal.SIGTERM)
        assert client.answer().status == 200
    server.ended(0)


def test_ctrl_c_on_a_terminal_counts_once(processes: Processes, folder: Path) -> None:
    own_terminal = (
        "import fcntl, os, sys, termios\n"
        "os.setsid()\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "fcntl.ioctl(fd, termios.TIOCSCTTY, 0)\n"
        "os.dup2(fd, 0)\n"
        "os.execv(sys.executable, sys.argv[2:])\n"
    )
    master, slave = os.openpty()
    try:
        port = ("--port", str(free_port()))
        serving = ("serve", "served.py", "--reload", *port)
        name = os.ttyname(slave)
        server = Served(PYTHON, "-c", own_terminal, name, *COMMAND, *serving, cwd=folder)
        processes.callback(server.end)
        with server.connect() as client:
            client.send(request("POST", "/nap?0.5", body=b""))
            server.out.wait("napping")
            child = child_of(server)
            assert os.getpgid(child) == os.getpgid(server.pid) == server.pid
            os.write(master, b"\x03")
            assert client.answer().status == 200
        server.ended(0)
        assert not is_alive(child)
    finally:
        os.close(master)
        os.close(slave)


def test_no_child_outlives_a_parent_that_is_killed(processes: Processes, folder: Path) -> None:
    server = serve(processes, folder)
    with server.connect() as client:
        client.send(request("POST", "/nap?100", body=b""))
        server.out.wait("napping")
        child = child_of(server)
        server.signal(signal.SIGKILL)
        try:
            wait_until(lambda: not is_alive(child), "the end of the child", timeout=5)
        finally:
            if is_alive(child):
                os.kill(child, signal.SIGKILL)
        client.expect_gone()


def test_a_child_whose_parent_has_gone_already_does_not_start() -> None:
    process = Served(PYTHON, "-m", "fastpredict.reload", "1", "serve", "nowhere")
    try:
        assert process.ended(1) == ""
    finally:
        process.end()


def test_a_child_that_is_told_by_somebody_else_ends_both(
    processes: Processes, folder: Path
) -> None:
    server = serve(processes, folder)
    assert server.url
    os.kill(child_of(server), signal.SIGTERM)
    server.ended(0)


# ---- the command


def test_the_parent_imports_nothing_of_the_users(processes: Processes, folder: Path) -> None:
    server = serve(processes, folder)
    assert server.url
    set_version(folder, 2)
    restarted(server, 2)
    importers = (folder / "imported.txt").read_text().split()
    assert len(set(importers)) == 2
    assert str(server.pid) not in importers


def test_the_environment_may_ask_for_it(processes: Processes, folder: Path) -> None:
    env = {"FASTPREDICT_RELOAD": "1", "FASTPREDICT_PORT": str(free_port())}
    server = processes.serve("served", cwd=folder, port=None, env=env)
    assert server.url
    set_version(folder, 2)
    restarted(server, 2)
    assert server.err.text.count("watching") == 1


def test_an_inherited_socket_lasts_from_child_to_child(processes: Processes, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        server = serve(processes, folder, "--fd", str(fd), port=None, pass_fds=[fd])
        assert server.url.endswith(f":{listening.getsockname()[1]}")
        set_version(folder, 2)
        restarted(server, 2)
        with server.connect() as client:
            assert version_of(client) == 2
        server.signal(signal.SIGTERM)
        server.ended(0)


def test_a_socket_that_is_not_there_is_one_line(processes: Processes, folder: Path) -> None:
    text = serve(processes, folder, "--fd", "999", port=None).ended(2)
    assert text == "fastpredict: can't serve on --fd 999: Bad file descriptor\n"


def test_pythons_own_flags_reach_the_child(processes: Processes, folder: Path) -> None:
    (folder / "beside.py").write_text("import sys; VERSION = sys.flags.utf8_mode + 10")
    serving = ("serve", "served", "--reload", "--port", str(free_port()))
    server = Served(PYTHON, "-X", "utf8=1", "-m", "fastpredict", *serving, cwd=folder)
    processes.callback(server.end)
    with server.connect() as client:
        assert version_of(client) == 11


def test_without_watchfiles_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    result = CliRunner().invoke(cli.main, ["serve", "nowhere", "--reload"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "fastpredict-h2o[reload]" in result.output


@pytest.mark.parametrize(
    ("orig", "argv", "flags"),
    [
        (["python", "-m", "fastpredict", "serve", "x"], ["m", "serve", "x"], []),
        (["python", "-X", "dev", "-m", "fastpredict", "serve"], ["m", "serve"], ["-X", "dev"]),
        (["python", "-Wd", "-mfastpredict", "serve"], ["m", "serve"], ["-Wd"]),
        (["python", "/bin/fastpredict", "serve"], ["/bin/fastpredict", "serve"], []),
        (["python", "-O", "/bin/fastpredict", "serve"], ["/bin/fastpredict", "serve"], ["-O"]),
    ],
)
def test_flags_of_the_interpreter_are_told_from_the_command(
    monkeypatch: pytest.MonkeyPatch, orig: list[str], argv: list[str], flags: list[str]
) -> None:
    monkeypatch.setattr(sys, "orig_argv", orig)
    monkeypatch.setattr(sys, "argv", argv)
    assert reload._interpreter_flags() == flags
