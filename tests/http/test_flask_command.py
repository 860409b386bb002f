"""flask fastpredict serve: the plugin of Flask's own command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from process import PYTHON, Processes, Served

requests = pytest.importorskip("requests")
pytest.importorskip("flask")

HERE = Path(__file__).parent
FLASK = (PYTHON, "-m", "flask")
APP = """
from flask import Flask

def create_app(name="made"):
    app = Flask("served")
    app.get("/")(lambda: f"hello from {name}")
    return app
"""


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "factory.py").write_text(APP)
    return tmp_path


def serve(processes: Processes, *arguments: str, **options: object) -> Served:
    server = Served(*FLASK, *arguments, **options)
    processes.callback(server.end)
    return server


def hello(server: Served) -> str:
    answer = requests.get(server.url + "/", timeout=20)
    assert answer.status_code == 200
    server.signal(2)
    server.ended(0)
    return str(answer.text)


def test_the_app_is_named_as_flask_has_it(processes: Processes, folder: Path) -> None:
    serving = ("fastpredict", "serve", "--port", "0")
    server = serve(processes, "--app", "real_apps_flask", *serving, cwd=HERE)
    assert hello(server) == "hello from flask"
    server = serve(processes, "--app", "factory", *serving, cwd=folder)
    assert hello(server) == "hello from made"
    server = serve(processes, "--app", "factory:create_app('me')", *serving, cwd=folder)
    assert hello(server) == "hello from me"
    env = {"FLASK_APP": "factory", "FASTPREDICT_PORT": "0"}
    assert hello(serve(processes, "fastpredict", "serve", cwd=folder, env=env)) == "hello from made"


def test_options_are_the_commands_own(processes: Processes, folder: Path) -> None:
    process = processes.start(*FLASK, "fastpredict", "serve", "--help", cwd=folder)
    process.ended(0)
    for flag in ("--port", "--uds", "--threads", "--max-request-body-size", "--log-level"):
        assert flag in process.out.text
    for flag in ("TARGET", "--factory", "--interface", "--path", "--dtype", "--shape", "--reload "):
        assert flag not in process.out.text
    assert "FASTPREDICT_PORT" in process.out.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--app", "factory", "fastpredict", "serve", "--prot", "1"], "--prot"),
        (["--app", "factory", "fastpredict", "serve", "--threads", "0"], "--threads"),
        (
            ["--app", "factory", "fastpredict", "serve", "--reload"],
            "python -m fastpredict serve --reload",
        ),
        (["--app", "factory", "fastpredict", "serve", "--fd", "999"], "can't serve on --fd 999"),
        (["fastpredict", "serve"], "Could not locate a Flask application"),
        (["--app", "nowhere", "fastpredict", "serve"], "nowhere"),
        (["--app", "broken", "fastpredict", "serve"], "ZeroDivisionError"),
        (["--app", "missing", "fastpredict", "serve"], "No module named 'not_installed_xyz'"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_status_2(
    processes: Processes, folder: Path, arguments: list[str], said: str
) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "missing.py").write_text("import not_installed_xyz\n")
    process = processes.start(*FLASK, *arguments, cwd=folder)
    lines = process.ended(2).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fastpredict: ")
    assert said in lines[0]
    assert process.out.text == ""


def test_other_commands_of_flask_are_as_before(processes: Processes, folder: Path) -> None:
    process = processes.start(*FLASK, "--app", "factory", "routes", cwd=folder)
    process.ended(0)
    assert "/static/<path:filename>" in process.out.text
    process = processes.start(*FLASK, "fastpredict", cwd=folder)
    process.wait()
    assert "serve" in process.out.text + process.err.text
