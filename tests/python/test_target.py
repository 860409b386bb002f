"""TARGET: what is found, what is told apart, and the one line for everything else."""

from __future__ import annotations

import logging
import sys
import textwrap

import fake_core  # noqa: F401
import pytest

import fastpredict
from fastpredict.target import TargetError, load_app

SOURCE = """
    import fastpredict, functools, numpy as np
    app = fastpredict.App()
    @app.predict("/p", dtype="f4")
    def predict(array):
        return array
    empty = fastpredict.App()
    def make():
        return app
    def make_nothing():
        return None
    def make_badly():
        raise OSError("no model")
    def wsgi(environ, start_response):
        pass
    class Flask:
        def __call__(self, environ, start_response):
            pass
    flask = Flask()
    async def asgi(scope, receive, send):
        pass
    class Starlette:
        async def __call__(self, scope, receive, send):
            pass
    starlette = Starlette()
    async def slow(array):
        pass
    def two(a, b):
        pass
    number = 3
    class space:
        inner = app
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(tmp_path, "served.py", SOURCE)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, name, source):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(source))
    return file


def refusal(target, **options):
    with pytest.raises(TargetError) as caught:
        load_app(target, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line
    return line


@pytest.mark.parametrize(
    "target", ["served", "served:app", "served.py", "./served.py:app", "served:space.inner"]
)
def test_modules_and_files_are_found(target):
    assert [route.path for route in load_app(target).routes] == ["/p"]


def test_a_file_elsewhere_may_import_its_neighbours(folder):
    write(folder, "deep/neighbour.py", "value = 1")
    write(folder, "deep/main.py", "import neighbour\ndef f(array): return neighbour.value")
    assert load_app("deep/main.py:f").routes[0].path == "/predict"


def test_a_file_named_like_a_loaded_module_does_not_take_its_place(folder):
    import json

    write(folder, "json.py", "def f(array): pass")
    load_app("json.py:f")
    assert sys.modules["json"] is json


def test_a_plain_function_is_served_as_described():
    route = load_app("served:predict", path="/x", dtype="float32", shape=(2, -1)).routes[0]
    assert (route.path, route.dtype, route.shape) == ("/x", "float32", (2, -1))
    route = load_app("served:predict").routes[0]
    assert (route.path, route.dtype, route.shape) == ("/predict", None, None)


def test_a_builtin_function_is_a_predict_function():
    assert load_app("numpy:sort").routes
    assert load_app("numpy:sqrt").routes


def test_a_factory_is_called():
    assert load_app("served:make", factory=True).routes[0].path == "/p"
    assert "returned" not in refusal("served:make_nothing", factory=True)
    line = refusal("served:make_badly", factory=True)
    assert "OSError: no model" in line
    assert "served.py:" in line
    assert "not a factory" in refusal("served:number", factory=True)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("missing:app", "no module named missing"),
        ("served.inner:app", "no module named served.inner"),
        ("missing.py", "no file missing.py"),
        ("no/such/file.py:app", "no file"),
        ("served:ap", "did you mean app"),
        ("served:space.zzz", "no attribute space.zzz"),
        (":app", "module:attribute"),
        ("served:", "module:attribute"),
        ("", "module:attribute"),
        ("served:number", "an int"),
        ("served:np", "a module"),
        ("served:Flask", "class Flask"),
        ("served:empty", "without a predict route"),
        ("served:wsgi", "WSGI"),
        ("served:flask", "WSGI.*later"),
        ("served:asgi", "ASGI"),
        ("served:starlette", "ASGI"),
        ("served:slow", "slow is async"),
        ("served:two", "two requires b"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(target, said):
    import re

    assert re.search(said, refusal(target))


def test_interface_settles_a_doubt():
    assert "two" not in refusal("served:predict", interface="wsgi")
    assert "not a WSGI" in refusal("served:app", interface="wsgi")
    assert "requires start_response" in refusal("served:wsgi", interface="predict")
    assert load_app("served:predict", interface="predict").routes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "floaty"}, "floaty"),
        ({"dtype": "O"}, "objects"),
        ({"path": "x"}, "must start"),
        ({"path": "/livez"}, "/livez"),
        ({"shape": (-2,)}, "negative"),
    ],
)
def test_descriptions_that_cannot_be_are_one_line(options, said):
    assert said in refusal("served:predict", **options)


def test_describing_an_app_is_refused():
    assert "--dtype, --shape" in refusal("served:app", dtype="f4", shape=(1,))


def test_a_failing_import_names_its_place_and_keeps_the_traceback_for_debug(folder, caplog):
    write(folder, "broken.py", "import os\n\nimport not_installed_xyz\n")
    for target in ("broken", "broken.py"):
        with caplog.at_level(logging.DEBUG, "fastpredict"):
            line = refusal(target)
        assert "not_installed_xyz" in line
        assert "broken.py:3" in line
        assert "--log-level debug" in line
        assert caplog.records[-1].exc_info
        assert "broken" not in sys.modules


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit(1)", "SystemExit"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise ValueError", "ValueError"),
    ],
)
def test_whatever_an_import_raises_is_one_line(folder, source, said):
    write(folder, "broken.py", source)
    for target in ("broken", "broken.py"):
        line = refusal(target)
        assert said in line
        assert "broken.py" in line


def test_an_app_is_an_app_wherever_it_comes_from():
    assert isinstance(load_app("served:app"), fastpredict.App)
