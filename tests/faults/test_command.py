"""The command as a user types it: a process, its URL, its one-line errors and its exit status."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from process import COMMAND, HERE, PYTHON, Process, Processes, Served, is_ready, wait_until
from rawhttp import RawClient, request

import fastpredict

IMAGE = np.arange(6, dtype=np.float32).reshape(2, 3)
PLAIN = ("--dtype", "float32", "--shape", "2,3")


def predict(server: Served, path: str = "/predict", body: bytes = IMAGE.tobytes()) -> object:
    with server.connect() as client:
        answer = client.ask(request("POST", path, body=body))
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def refused(process: Process) -> str:
    """It ended with status 2 and one line, no traceback, and said nothing of serving."""
    text = process.ended(2)
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("fastpredict: ")
    assert "Traceback" not in text
    assert process.out.text == ""
    return lines[0]


def interrupted(server: Served) -> str:
    server.signal(signal.SIGINT)
    return server.ended(0)


# ---- targets


@pytest.mark.parametrize(
    "target", ["targets", "targets:app", "targets.py", "targets.py:app", "./targets.py:app"]
)
def test_app(processes: Processes, target: str) -> None:
    server = processes.serve(target)
    assert predict(server, "/length", b"12345") == 5
    text = interrupted(server)
    assert "Traceback" not in text


def test_file_of_another_folder(processes: Processes, tmp_path: Path) -> None:
    server = processes.serve(f"{HERE}/targets.py:app", cwd=tmp_path)
    assert predict(server, "/length", b"12345") == 5


def test_plain_function(processes: Processes) -> None:
    server = processes.serve("targets:plain", *PLAIN, "--path", "/p")
    assert predict(server, "/p") == ["float32", [2, 3], 15.0]


def test_plain_function_with_nothing_said_takes_bytes(processes: Processes) -> None:
    server = processes.serve("targets:plain")
    assert predict(server, body=b"\x01\x02") == ["uint8", [2], 3.0]


def test_factory(processes: Processes) -> None:
    server = processes.serve("targets:factory", "--factory")
    assert predict(server, "/length", b"12345") == 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere:app"], "no module named nowhere"),
        (["nowhere.py:app"], "no file nowhere.py"),
        (["targets:apps"], "did you mean app?"),
        (["targets:number"], "neither an App nor a function"),
        (["targets:wsgi", "--dtype", "u1"], "WSGI application: --dtype"),
        (["targets:asgi"], "ASGI"),
        (["targets:app", "--dtype", "float32"], "describes a plain function"),
        (["targets:plain", "--dtype", "fish"], "targets:plain can't be served"),
        (["targets:app", "--port", "fish"], "--port"),
        (["targets:app", "--timeout-read", "-1"], "--timeout-read"),
        (["targets:app", "--host", "203.0.113.1", "--port", "1"], "can't serve on"),
        (["targets:app", "--fd", "999"], "can't serve on --fd 999"),
        (["targets:app", "--fd", "99999999999"], "from 0 to 2147483647"),
        (["targets:plain", "--dtype", "(2,"], "not understood"),
        (["targets:app", "--uds", "/nowhere/at/all"], "can't serve on --uds /nowhere/at/all"),
        (["targets:app", "--fish"], "--fish"),
        ([], "TARGET"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    processes: Processes, arguments: list[str], expected: str
) -> None:
    assert expected in refused(processes.command("serve", *arguments))


def test_target_that_fails_to_import_is_one_line(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import json\n\n1 / 0\n")
    line = refused(processes.command("serve", "broken.py", cwd=tmp_path))
    assert "ZeroDivisionError" in line
    assert "broken.py:3" in line


def test_wrong_target_opens_no_socket(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    path = tmp_path / "socket"
    refused(processes.command("serve", "broken.py", "--uds", str(path), cwd=tmp_path))
    assert not path.exists()


def test_port_in_use_is_one_line(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused(processes.command("serve", "targets:app", "--port", port))
    assert f"--port {port}" in line
    assert "in use" in line


def test_option_that_cannot_be_read_from_the_environment(processes: Processes) -> None:
    process = processes.command("serve", "targets:app", env={"FASTPREDICT_THREADS": "many"})
    assert "FASTPREDICT_THREADS" in refused(process)


def test_startup_function_that_fails(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(
        "import fastpredict\n"
        "app = fastpredict.App()\n"
        "app.predict('/p')(len)\n"
        "@app.on_startup\n"
        "def load():\n"
        "    raise ValueError('no model')\n"
    )
    text = processes.serve("served.py", cwd=tmp_path).ended(3)
    assert text.count("Traceback") == 1
    assert "ValueError: no model" in text
    assert "a start-up function raised ValueError" in text.splitlines()[-1]
    assert "serving" not in text


LOGGING = """
import logging.config
import fastpredict
app = fastpredict.App()
def configure():
    logging.config.dictConfig({"version": 1})  # disables all loggers that are there
@app.predict("/fail")
def fail(data):
    raise KeyError("in the handler")
"""


@pytest.mark.parametrize("when", ["configure()", "app.on_startup(configure)"])
def test_tracebacks_are_in_the_log_though_logging_is_configured_anew(
    processes: Processes, tmp_path: Path, when: str
) -> None:
    """Loggers that a configuration doesn't name are disabled by default."""
    (tmp_path / "served.py").write_text(f"{LOGGING}\n{when}\n")
    server = processes.serve("served.py", "--no-access-log", cwd=tmp_path)
    with server.connect() as client:
        assert client.ask(request("POST", "/fail", body=b"")).status == 500
    server.err.wait("KeyError: 'in the handler'")
    interrupted(server)


FILE = """
import fastpredict
kept = open("kept", "r+")
app = fastpredict.App()
app.predict("/length")(len)
"""


def test_standard_error_that_is_closed_is_nobodys_file(
    processes: Processes, tmp_path: Path
) -> None:
    """What is opened first gets its number, and would get the access log."""
    (tmp_path / "served.py").write_text(FILE)
    (tmp_path / "kept").write_text("as it was")
    path = tmp_path / "socket"
    server = processes.start(
        "bash", "-c", 'exec "$@" 2>&-', "bash",
        *COMMAND, "serve", "served.py", "--uds", str(path), cwd=tmp_path,
    )  # fmt: skip
    wait_until(lambda: is_ready(str(path)))
    with RawClient(str(path)) as client:
        for _ in range(20):
            assert client.ask(request("POST", "/length", body=b"12345")).body == b"5"
    server.signal(signal.SIGTERM)
    server.ended(0)
    assert (tmp_path / "kept").read_text() == "as it was"


def test_a_socket_that_somebody_shuts_down_costs_no_processor(processes: Processes) -> None:
    """accept() fails for ever then, and polling comes back at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        server = processes.serve("targets:app", "--fd", str(fd), port=None, pass_fds=[fd])
        assert predict(server, "/length", b"12345") == 5
        listening.shutdown(socket.SHUT_RDWR)
        before = server.cpu_seconds()
        time.sleep(1)
        assert server.cpu_seconds() - before < 0.5
        interrupted(server)


# ---- options


def test_environment_sets_options_and_the_flag_wins(processes: Processes) -> None:
    env = {
        "FASTPREDICT_MAX_REQUEST_BODY_SIZE": "10",
        "FASTPREDICT_DTYPE": "uint16",
        "FASTPREDICT_ACCESS_LOG": "0",
        "FASTPREDICT_PORT": "tcp://10.0.0.1:8000",  # from Kubernetes
    }
    server = processes.serve("targets:plain", "--dtype", "uint8", env=env)
    with server.connect() as client:
        assert client.ask(request("POST", "/predict", body=b"x" * 11)).status == 413
    assert predict(server, body=b"\x01" * 10) == ["uint8", [10], 10.0]
    assert "/predict " not in interrupted(server).replace("POST /predict on", "")


def test_port_of_the_environment(processes: Processes) -> None:
    server = processes.serve("targets:app", port=None, env={"FASTPREDICT_PORT": "0"})
    assert not server.url.endswith((":8000", ":0"))
    assert predict(server, "/length", b"12345") == 5


def test_host_of_ipv6(processes: Processes) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    server = processes.serve("targets:app", "--host", "::1")
    assert server.url.startswith("http://[::1]:")
    with socket.create_connection(server.address) as client:  # type: ignore[arg-type]
        client.sendall(request("POST", "/length", body=b"12345"))
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_unix_socket(processes: Processes, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = processes.serve("targets:app", "--uds", str(path), "--uds-mode", "0640", port=None)
    assert server.url == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert predict(server, "/length", b"12345") == 5
    interrupted(server)
    assert not path.exists()


def test_unix_socket_beside_a_port(processes: Processes, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = processes.serve("targets:app", "--uds", str(path))
    assert server.url.startswith("http://")
    assert f" and unix:{path}" in server.err.text
    for address in (server.address, str(path)):
        with RawClient(address) as client:
            assert client.ask(request("POST", "/length", body=b"12345")).body == b"5"


def test_inherited_socket(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        server = processes.serve("targets:app", "--fd", str(fd), port=None, pass_fds=[fd])
        assert server.url == f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert predict(server, "/length", b"12345") == 5
        interrupted(server)


def test_access_log_has_a_line_for_each_request(processes: Processes) -> None:
    server = processes.serve("targets:app")
    with server.connect() as client:
        client.ask(request("POST", "/length?q=1", body=b"12345"))
        client.ask(request("POST", "/nowhere", body=b"12345"))
        client.ask(request("GET", "/livez"), method="GET")
    server.err.wait(r"127\.0\.0\.1:\d+ .*POST /length\?q=1.* 200\b")
    server.err.wait(r"POST /nowhere.* 404\b")
    server.err.wait(r"GET /livez.* 200\b")


def test_no_access_log(processes: Processes) -> None:
    server = processes.serve("targets:app", "--no-access-log")
    assert predict(server, "/length", b"12345") == 5
    assert len(interrupted(server).splitlines()) == 1  # where it serves


# ---- the rest of what is typed


def test_version(processes: Processes) -> None:
    process = processes.command("--version")
    assert process.ended() == ""
    assert process.out.text.startswith(f"fastpredict {fastpredict.__version__}, libh2o 2.2.")
    assert process.out.text.rstrip().endswith(f"NumPy {np.__version__}")


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["-h"]])
def test_help(processes: Processes, arguments: list[str]) -> None:
    process = processes.command(*arguments)
    assert process.ended() == ""
    assert process.out.text.startswith("Usage: python -m fastpredict")


def test_console_script(processes: Processes) -> None:
    script = Path(PYTHON).with_name("fastpredict")
    if not script.exists():
        pytest.skip("not installed: no console script beside the interpreter")
    server = Served(script, "serve", "targets:app", "--port", "0")
    processes.callback(server.end)
    assert predict(server, "/length", b"12345") == 5
    interrupted(server)


def test_curl_as_people_type_it(processes: Processes, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    server = processes.serve("targets:plain", *PLAIN)
    file = tmp_path / "image.raw"
    file.write_bytes(IMAGE.tobytes())
    url = f"{server.url}/predict"
    for flags in (
        ["--data-binary", f"@{file}"],
        ["-T", str(file), "-X", "POST"],
        ["-H", "Content-Type: application/octet-stream", "--data-binary", f"@{file}"],
        ["-H", "Transfer-Encoding: chunked", "--data-binary", f"@{file}"],
        ["-H", "Expect: 100-continue", "--data-binary", f"@{file}"],
        ["--json", json.dumps(IMAGE.tolist())],
    ):
        result = subprocess.run(
            [curl, "-sS", "--noproxy", "*", "--max-time", "10", *flags, url],
            capture_output=True,
            timeout=20,
            check=True,
        )
        assert json.loads(result.stdout) == ["float32", [2, 3], 15.0], flags
