"""TARGET: what is found, what is told apart, and the one line for everything else."""

from __future__ import annotations

import logging
import re
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
    def make_wsgi():
        return wsgi
    def make_nothing():
        return None
    def make_badly():
        raise OSError("no model")
    def wsgi(environ, start_response):
        pass
    def short(env, start_response, /):
        pass
    def configured(environ, start_response, *rest, debug=False, **more):
        pass
    @functools.wraps(wsgi)
    def wrapped(*args, **named):
        pass
    def opaque(*args):
        pass
    bound = functools.partial(lambda prefix, environ, start_response: None, "/x")
    class Flask:
        def __call__(self, environ, start_response):
            pass
        def method(self, environ, start_response):
            pass
    flask = Flask()
    method = flask.method
    class Answer:
        def __init__(self, environ, start_response):
            pass
        def __iter__(self):
            return iter(())
    async def slow_wsgi(environ, start_response):
        pass
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
    def odd(array, start_response=None):
        pass
    def three(environ, start_response, tuning):
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
    assert refusal("served:make_wsgi").endswith("; --factory serves what it returns")
    assert "--factory" not in refusal("served:two")
    assert "returned" not in refusal("served:make_nothing", factory=True)
    line = refusal("served:make_badly", factory=True)
    assert "OSError: no model" in line
    assert "served.py:" in line
    assert "not a factory" in refusal("served:number", factory=True)


FACTORIES = """
    import fastpredict
    from flaskish import other
    def create_app(test_config=None, *rest, **more):
        app = fastpredict.App()
        app.predict("/made")(lambda array: array)
        return app
    class space:
        make_app = create_app
"""


@pytest.fixture
def factories(folder):
    write(folder, "flaskish.py", "def other(array=None): return array")
    write(folder, "flaskr.py", FACTORIES)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("flaskr:create_app", "flaskr:create_app"),
        ("flaskr.py:create_app", "flaskr.py:create_app"),
        ("flaskr:space.make_app", "flaskr:space.make_app"),
        ("flaskr:create_app()", "flaskr:create_app"),
        ("flaskr:create_app('x:y', z=(1))", "flaskr:create_app"),
        ("flaskr.py:other()", "flaskr.py:other"),
        ("flaskr", "flaskr:create_app"),
        ("flaskr.py", "flaskr.py:create_app"),
        ("flaskr:app", "flaskr:create_app"),
        ("flaskr:space.app", "flaskr:space.make_app"),
    ],
)
def test_a_factory_named_as_flask_and_gunicorn_have_it_is_told_the_flag(target, meant):
    line = refusal(target)
    assert re.search(rf"--factory {re.escape(meant)}( |\?|$)", line)
    if meant.endswith("_app"):
        assert load_app(meant, factory=True).routes[0].path == "/made"


@pytest.mark.usefixtures("factories")
def test_only_a_function_that_can_be_a_factory_is_taken_for_one(folder):
    assert load_app("flaskr:create_app", interface="predict").routes[0].path == "/predict"
    assert load_app("flaskr:other").routes
    write(folder, "create_app.py", "def app(array=None): return array")
    assert load_app("create_app").routes
    write(folder, "named.py", "def create_app(array): return array\nmake_app = print")
    assert load_app("named:create_app").routes
    assert "create_app" not in refusal("named")
    write(folder, "wsgi.py", "def make_app(environ, start_response): pass")
    assert load_app("wsgi:make_app").mounts
    source = "from flaskr import create_app\napps = 1\napplication = create_app()"
    write(folder, "both.py", source)
    assert refusal("both").endswith("did you mean application?")


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
        ("served:np", "nor a WSGI application"),
        ("served:empty", "without a predict route, a model or a mount"),
        ("served:slow_wsgi", "slow_wsgi is async"),
        ("served:asgi", "ASGI.*get_wsgi_application"),
        ("served:starlette", "ASGI.*Flask rather than Quart"),
        ("served:slow", "slow is async"),
        ("served:two", "two requires b"),
        ("served:three", "three requires start_response, tuning"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(target, said):
    assert re.search(said, refusal(target))


@pytest.mark.parametrize(
    "name",
    [
        "wsgi",
        "short",
        "configured",
        "wrapped",
        "bound",
        "flask",
        "flask.method",
        "method",
        "Answer",
    ],
)
def test_wsgi_applications_are_told_by_their_parameters(name):
    app = load_app(f"served:{name}")
    assert [mount.path for mount in app.mounts] == ["/"]
    assert not app.routes


def test_a_factory_may_make_a_wsgi_application():
    assert load_app("served:make_wsgi", factory=True).mounts
    assert load_app("served:Flask", factory=True).mounts


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("flask", "from flask import Flask; app = Flask(__name__)"),
        ("falcon", "import falcon; app = falcon.App()"),
        ("bottle", "import bottle; app = bottle.Bottle()"),
        ("bottle", "import bottle; app = bottle.default_app()"),
        ("django", "from django.core.handlers.wsgi import WSGIHandler as H; app = H.__new__(H)"),
        ("werkzeug", "from werkzeug.middleware.proxy_fix import ProxyFix as P; app = P(print)"),
    ],
)
def test_the_applications_of_frameworks_are_wsgi(folder, module, source):
    pytest.importorskip(module)
    write(folder, "framework.py", source)
    assert load_app("framework").mounts


def test_interface_settles_a_doubt():
    assert load_app("served:opaque", interface="wsgi").mounts
    assert load_app("served:opaque").routes
    assert load_app("served:two", interface="wsgi").mounts
    assert "environ, start_response" in refusal("served:predict", interface="wsgi")
    assert "not a WSGI" in refusal("served:app", interface="wsgi")
    assert "ASGI" in refusal("served:asgi", interface="wsgi")
    assert "instances" in refusal("served:Flask", interface="wsgi")
    assert "requires start_response" in refusal("served:wsgi", interface="predict")
    assert "class Answer" in refusal("served:Answer", interface="predict")
    assert load_app("served:predict", interface="predict").routes
    assert load_app("served:odd", interface="predict").routes


@pytest.mark.parametrize("missing", ["app", "application"])
def test_a_flask_module_without_app_is_told_what_it_has(folder, missing):
    flask = pytest.importorskip("flask")
    assert flask
    source = "from flask import Flask, request, session\nimport fastpredict\nhttpd = Flask('x')"
    write(folder, "web.py", source)
    assert refusal(f"web:{missing}").endswith("; did you mean httpd?")
    write(folder, "web2.py", "from flask import Flask\napp2 = Flask('x')\nhttpd = 0")
    assert refusal("web2").endswith("; did you mean app2?")
    write(folder, "web3.py", "from flask import Flask, request, g, current_app")
    assert "did you mean" not in refusal("web3:nothing_like_it")


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


def test_describing_an_app_or_a_wsgi_application_is_refused():
    line = refusal("served:app", dtype="f4", shape=(1,))
    assert "an App: --dtype, --shape describes a plain function" in line
    line = refusal("served:flask", path="/x")
    assert "a WSGI application: --path describes a plain function" in line


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
