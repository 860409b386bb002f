"""Where WSGI applications are mounted, what their environ says, and what is refused as none."""

from __future__ import annotations

import functools
import io
import os
import sys

import fake_core
import pytest
from fake_wsgi import Exchange, site_of

import fastpredict
from fastpredict import server as server_module
from fastpredict.app import wsgi_app_of
from fastpredict.worker import run_predict


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


def environ_of(path="/", mounted="/", urls=("http://127.0.0.1:8000",), threads=1, **request):
    """The environ that an application gets for such a request."""
    kept = []

    def keep(environ, start_response):
        kept.append(dict(environ))
        return app(environ, start_response)

    exchange = Exchange(path=path, **request)
    site_of(keep, mounted, urls, threads).answer(exchange, os.getpid())
    return kept[0]


# ---- environ -------------------------------------------------------------------------------------


def test_environ_has_all_that_the_pep_asks_for():
    environ = environ_of("/a/b", query="c=d", method="PUT", body=b"abc", fields=[("host", "h:8")])
    stream, stderr = environ.pop("wsgi.input"), environ.pop("wsgi.errors")
    wrapper = environ.pop("wsgi.file_wrapper")
    assert environ == {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "HTTP_HOST": "h:8",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "c=d",
        "RAW_URI": "/a/b?c=d",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "53412",
        "REQUEST_METHOD": "PUT",
        "REQUEST_URI": "/a/b?c=d",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": f"fastpredict/{fastpredict.__version__}",
        "wsgi.input_terminated": True,
        "wsgi.multiprocess": False,
        "wsgi.multithread": False,
        "wsgi.run_once": False,
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
    }
    assert hasattr(stream, "readline")
    assert all(hasattr(stderr, name) for name in ("write", "writelines", "flush"))
    assert list(wrapper(io.BytesIO(b"abc"), 2)) == [b"ab", b"c"]


def test_environ_is_a_dict_of_each_requests_own():
    kept = []

    def spoiling(environ, start_response):
        assert type(environ) is dict
        assert "spoilt" not in environ
        environ["spoilt"] = environ["SCRIPT_NAME"] = "x"
        kept.append(environ)
        return app(environ, start_response)

    site = site_of(spoiling)
    for _ in range(2):
        site.answer(Exchange(), os.getpid())
    assert kept[0] is not kept[1]


@pytest.mark.parametrize(("threads", "expected"), [(1, False), (2, True)])
def test_multithread_follows_the_number_of_threads(threads, expected):
    assert environ_of(threads=threads)["wsgi.multithread"] is expected


@pytest.mark.parametrize(
    ("mounted", "path", "script_name", "path_info"),
    [
        ("/", "/", "", "/"),
        ("/", "/a%2Fb", "", "/a%2Fb"),
        ("/", "//a//", "", "//a//"),
        ("/api", "/api", "/api", ""),
        ("/api", "/api/", "/api", "/"),
        ("/api", "/api/api/x", "/api", "/api/x"),
        ("/a/b", "/a/b/c", "/a/b", "/c"),
        ("/é", "/é/ü", "/Ã©", "/Ã¼"),
        ("/", "/\udcff\udc80é", "", "/\xff\x80Ã©"),
        ("/", "/€", "", "/\xe2\x82\xac"),
    ],
)
def test_script_name_and_path_info_are_bytes_as_latin_1(mounted, path, script_name, path_info):
    environ = environ_of(path, mounted)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_the_query_and_the_target_stay_encoded():
    environ = environ_of("/a b", query="x=%C3%A9&y=\xe9", target="/a%20b?x=%C3%A9&y=\xe9")
    assert environ["PATH_INFO"] == "/a b"
    assert environ["QUERY_STRING"] == "x=%C3%A9&y=\xe9"
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == "/a%20b?x=%C3%A9&y=\xe9"


@pytest.mark.parametrize(
    ("urls", "client", "expected"),
    [
        (["http://h:80"], "10.0.0.1:5", ("h", "80", "10.0.0.1", "5")),
        (["http://[::1]:80"], "[fe80::1%eth0]:5", ("[::1]", "80", "fe80::1%eth0", "5")),
        (["unix:/s", "http://h:80"], "10.0.0.1:5", ("h", "80", "10.0.0.1", "5")),
        (["unix:/s"], "unix", ("localhost", "80", "127.0.0.1", "0")),
        (["http://h:81", "unix:/s"], "unix", ("localhost", "80", "127.0.0.1", "0")),
        # Gone before it was accepted: it must not pass for this machine.
        (["http://h:80", "unix:/s"], "-", ("h", "80", "0.0.0.0", "0")),
    ],
)
def test_server_and_remote_are_never_empty(urls, client, expected):
    environ = environ_of(urls=urls, client=client)
    names = ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT")
    assert tuple(environ[name] for name in names) == expected


def test_fields_become_keys_and_repeated_ones_are_joined():
    fields = [
        ("x-a", "1"),
        ("cookie", "a=b"),
        ("accept-encoding", "gzip"),
        ("x-a", ""),
        ("cookie", "c=d"),
        ("x-a", "\xe9"),
        ("content-type", "text/html"),
        ("content-length", "3"),
    ]
    environ = environ_of(fields=fields, body=b"abc")
    assert environ["HTTP_X_A"] == "1,,\xe9"
    assert environ["HTTP_COOKIE"] == "a=b; c=d"
    assert environ["HTTP_ACCEPT_ENCODING"] == "gzip"
    assert environ["CONTENT_TYPE"] == "text/html"
    assert environ["CONTENT_LENGTH"] == "3"
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & set(environ)


def test_a_request_without_a_body_has_no_content_length():
    assert not {"CONTENT_LENGTH", "CONTENT_TYPE"} & set(environ_of())


@pytest.mark.parametrize("name", ["x_forwarded_for", "content_length", "x-real_ip", "_", "a_"])
def test_a_field_with_an_underscore_passes_for_no_other(name):
    plain = environ_of(fields=[("x-forwarded-for", "1")])
    both = environ_of(fields=[(name, "spoofed"), ("x-forwarded-for", "1"), (name, "spoofed")])
    assert {k: v for k, v in both.items() if k != "wsgi.input"} == {
        k: v for k, v in plain.items() if k != "wsgi.input"
    }


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_a_chunked_body_has_its_length_and_no_transfer_encoding(body):
    environ = environ_of(body=body, fields=[("transfer-encoding", "chunked")])
    assert environ["CONTENT_LENGTH"] == str(len(body))
    assert "HTTP_TRANSFER_ENCODING" not in environ


@pytest.mark.parametrize(
    ("target", "host"),
    [("/a", "h"), ("http://other:8/a", "other:8"), ("http://other?x", "other"), ("*", "h")],
)
def test_the_authority_of_an_absolute_target_beats_host(target, host):
    assert environ_of("/a", target=target, fields=[("host", "h")])["HTTP_HOST"] == host


def test_errors_is_the_standard_error_of_the_moment(monkeypatch):
    for stream in (io.StringIO(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        environ_of()["wsgi.errors"].write("said\n")
        assert stream.getvalue() == "said\n"


def test_errors_is_there_in_a_process_without_a_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    stream = environ_of()["wsgi.errors"]
    stream.writelines(["a", "b"])
    stream.flush()


# ---- mount() -------------------------------------------------------------------------------------


def test_mounts_are_kept_in_order_beside_routes():
    both = fastpredict.App()
    both.predict("/api", dtype="f4")(lambda array: array)
    both.mount("/", app)
    both.mount("/api", app)
    assert [mount.path for mount in both.mounts] == ["/", "/api"]
    assert [route.path for route in both.routes] == ["/api"]
    assert wsgi_app_of(app).mounts[0].application is app
    assert wsgi_app_of(app).mounts[0].path == "/"


@pytest.mark.parametrize(
    "path",
    ["", "api", "/api/", "//", "/a//b", "/livez", "/readyz/x", "/a/../b", "/.", "/a?b", "/a\n"],
)
def test_paths_that_cannot_be_mounts_are_refused(path):
    with pytest.raises(ValueError, match="path"):
        fastpredict.App().mount(path, app)


def test_two_applications_in_one_place_are_refused_and_the_first_is_named():
    twice = fastpredict.App()
    twice.mount("/a", app)
    with pytest.raises(ValueError, match="app is mounted"):
        twice.mount("/a", lambda environ, start_response: [])


async def async_app(environ, start_response):
    return []


async def asgi_app(scope, receive, send):
    pass


def asgi_2_app(scope):
    pass


class AsgiApp:
    async def __call__(self, scope, receive, send):
        pass


class Callable:
    def __call__(self, environ, start_response):
        return []


class IsResult:
    def __init__(self, environ, start_response):
        pass

    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "NoneType"),
        ("module:app", "str"),
        (sys, "module"),
        (fastpredict.App(), "App"),
        (async_app, "async"),
        (asgi_app, "ASGI"),
        (asgi_2_app, "ASGI"),
        (AsgiApp(), "ASGI"),
        (Callable, "instance"),
        (lambda array: array, "start_response"),
        (lambda a, b, c: a, "start_response"),
        (lambda: None, "start_response"),
    ],
    ids=repr,
)
def test_what_is_no_wsgi_application_is_refused_in_one_line(wrong, said):
    with pytest.raises(TypeError, match=said) as caught:
        fastpredict.App().mount("/", wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "right",
    [
        app,
        Callable(),
        IsResult,
        Callable().__call__,
        functools.partial(lambda extra, environ, start_response: [], 1),
        lambda *args: [],
        lambda environ, start_response, more=None: [],
    ],
    ids=repr,
)
def test_all_that_can_be_called_so_is_a_wsgi_application(right):
    fastpredict.App().mount("/", right)


# ---- on a server ---------------------------------------------------------------------------------


@pytest.fixture
def core(monkeypatch):
    """The doubles in place of the extension, and a list of the servers that were made."""
    made = []

    def make(routes, **options):
        made.append(fake_core.Server(routes, **options))
        return made[-1]

    monkeypatch.setattr(server_module._core, "Server", make)
    monkeypatch.setattr(server_module._core, "Route", fake_core.Route)
    return made


def mixed():
    both = fastpredict.App()
    both.mount("/", app)
    both.predict("/predict", dtype="f4")(lambda array: array)
    both.mount("/api", app)
    return both


def test_the_core_is_told_of_routes_and_of_mounts(core):
    fastpredict.Server(mixed(), port=0)
    told = [(route.path, route.limits.get("mount", False)) for route in core[0].routes]
    assert told[:3] == [("/predict", False), ("/", True), ("/api", True)]
    assert all(path.startswith("/v2") for path, _ in told[3:])


def test_the_line_of_the_start_names_applications(core, capsys):
    class Named(Callable):
        name = "shop"

    both = mixed()
    both.mount("/shop", Named())
    both.mount("/nameless", Callable())
    server_module._announce(fastpredict.Server(both, port=0))
    assert (
        "serving POST /predict, WSGI app app at /, WSGI app app at /api, WSGI app shop at /shop,"
        " WSGI app Callable at /nameless on http" in capsys.readouterr().err
    )


def test_one_thread_answers_for_routes_and_for_mounts():
    core = fake_core.Server([])
    predict = fake_core.Exchange(b"\0" * 4)
    wsgi = Exchange()
    wsgi.route = 1  # type: ignore[attr-defined]
    core.lane.put(predict)
    core.lane.put(wsgi)  # type: ignore[arg-type]
    core.drain()
    run_predict(core, [mixed().routes[0], site_of(app)])  # type: ignore[arg-type]
    assert predict.replies[0][0] == 200
    assert wsgi.seen[0] == 200
