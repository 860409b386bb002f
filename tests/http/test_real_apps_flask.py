"""What Flask users do, on a Flask application that is served as it is."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process import Processes, Served
from rawhttp import RawClient, request

requests = pytest.importorskip("requests")
pytest.importorskip("flask")

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with Processes() as processes:
        yield processes.serve("real_apps_flask", cwd=HERE)


@pytest.fixture
def ask(server: Served) -> Iterator[Any]:
    """ask(method, path, ...) by one connection, as requests has it; redirects are not followed."""
    with requests.Session() as session:

        def ask(method: str, path: str, **options: Any) -> requests.Response:
            options = {"timeout": 20, "allow_redirects": False} | options
            return session.request(method, server.url + path, **options)

        yield ask


def test_the_questions_application_and_client() -> None:
    with Processes() as processes:
        server = processes.serve("basic_flask_app:app", cwd=EXAMPLES)
        url = f"{server.url}/predict"
        done = subprocess.run(
            [sys.executable, EXAMPLES / "do_request.py", "--requests", "3", "--url", url],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
            ["small", "4", "3"],
            ["large", "30000000", "3"],
        ]
        answer = requests.post(url, data=b"12345678", timeout=20)
        assert answer.status_code == 400
        server.signal(15)
        assert "Traceback" not in server.ended(0)


# ---- what comes in


def test_every_method_reaches_the_application(ask: Any) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        assert ask(method, "/say").json()["method"] == method
    answer = ask("OPTIONS", "/say")
    assert answer.status_code == 200
    assert {"GET", "POST", "HEAD", "OPTIONS"} <= set(answer.headers["Allow"].split(", "))
    assert ask("POST", "/").status_code == 405


def test_the_url_is_what_the_client_typed(ask: Any, server: Served) -> None:
    said = ask("GET", "/say?a=1&a=2&b=%C3%A4+%26&c", headers={"User-Agent": "a test"}).json()
    assert said["args"] == {"a": ["1", "2"], "b": ["ä &"], "c": [""]}
    assert said["url"].startswith(f"{server.url}/say?")
    assert said["remote_addr"] == "127.0.0.1"
    assert said["agent"] == "a test"


@pytest.mark.parametrize("name", ["plain", "ä ö", "日本", "50%", "a+b", "a%2Fb"])
def test_names_in_a_path_arrive_decoded_once(ask: Any, server: Served, name: str) -> None:
    quoted = requests.utils.quote(name, safe="")
    if "/" in requests.utils.unquote(quoted) or name == "a%2Fb":
        quoted = "a%252Fb"
    answer = ask("GET", f"/named/{quoted}").json()
    assert answer["name"] == name
    assert answer["url"] == f"{server.url}/named/{requests.utils.quote(name, safe='+')}"


def test_external_urls_follow_host(ask: Any) -> None:
    answer = ask("GET", "/named/x", headers={"Host": "models.example:81"})
    assert answer.json()["url"] == "http://models.example:81/named/x"


def test_json_goes_both_ways(ask: Any) -> None:
    value = {"a": [1, 2.5, None, True], "ä": "日本", "n": {"m": []}}
    answer = ask("POST", "/json", json=value)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == value
    answer = ask("POST", "/json", data=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert ask("POST", "/json", data=b"{}").status_code == 415


def test_forms_are_read(ask: Any) -> None:
    said = ask("POST", "/say", data={"a": ["1", "2"], "b": "ä &="}).json()
    assert said["form"] == {"a": ["1", "2"], "b": ["ä &="]}


@pytest.mark.parametrize("size", [100_000, 8_000_004])  # less is copied, which costs nothing
def test_request_data_is_the_memory_that_the_body_was_received_into(ask: Any, size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    said = ask("POST", "/memory", data=body[:size]).json()
    assert said["type"] == "BodyBytes"
    assert said["is_bytes"]
    assert said["is_same"]
    assert said["array_at"] == said["bytes_at"]
    assert said["array_at"] % 64 == 0
    assert said["sha256"] == hashlib.sha256(body[:size]).hexdigest()


def test_flasks_own_limit_is_kept_and_changes_no_result() -> None:
    body = bytes(range(250)) * 4000
    with Processes() as processes:
        url = processes.serve("real_apps_flask:limited", cwd=HERE).url
        said = requests.post(f"{url}/memory", data=body, timeout=20).json()
        assert said["sha256"] == hashlib.sha256(body).hexdigest()
        answer = requests.post(f"{url}/memory", data=body + b"x", timeout=20)
        assert (answer.status_code, answer.text) == (413, "too large for Flask")
        parts = (body[at : at + 1000] for at in range(0, len(body), 1000))
        said = requests.post(f"{url}/memory", data=parts, timeout=20).json()
        assert said["sha256"] == hashlib.sha256(body).hexdigest()
        answer = requests.post(f"{url}/file", files={"file": body[:900_000]}, timeout=20)
        assert answer.json()["sha256"] == hashlib.sha256(body[:900_000]).hexdigest()
        answer = requests.post(f"{url}/file", files={"file": body}, timeout=20)
        assert answer.status_code == 413


# ---- what goes out


def test_nothing_is_204_without_a_length(server: Served) -> None:
    with server.connect() as client:
        answer = client.ask(request("GET", "/nothing"), method="GET")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.get("x-marked") == "yes"
        assert client.ask(request("GET", "/"), method="GET").body == b"hello from flask"


def test_head_is_get_without_its_body(server: Served) -> None:
    with server.connect() as client:
        got = client.ask(request("GET", "/large?blocks=300"), method="GET")
        head = client.ask(request("HEAD", "/large?blocks=300"), method="HEAD")
        assert head.body == b""
        assert head.get("content-length") == got.get("content-length") == str(256 * 300)
        streamed = client.ask(request("HEAD", "/sent"), method="HEAD")
        assert streamed.status == 200
        assert client.ask(request("GET", "/"), method="GET").body == b"hello from flask"


def test_head_of_a_stream_leaves_the_connection_in_order(server: Served) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    with contextlib.closing(connection):
        for method, body in (("HEAD", b""), ("GET", b"one\ntwo\n"), ("HEAD", b"")):
            connection.request(method, f"/stream?until={HERE}")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, body)


def test_redirects(ask: Any, server: Served) -> None:
    answer = ask("GET", "/elsewhere")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/named/there")
    followed = ask("GET", "/elsewhere", allow_redirects=True)
    assert followed.json()["name"] == "there"
    assert [each.status_code for each in followed.history] == [302]


def test_large_answers_are_whole(ask: Any) -> None:
    answer = ask("GET", "/large?blocks=40000")
    assert answer.headers["Content-Length"] == str(256 * 40_000)
    assert answer.content == bytes(range(256)) * 40_000


def test_files_are_sent_whole_in_ranges_and_not_again(ask: Any) -> None:
    content = (HERE / "real_apps_flask.py").read_bytes()
    whole = ask("GET", "/sent")
    assert whole.content == content
    assert whole.headers["Content-Length"] == str(len(content))
    datetime.datetime.strptime(whole.headers["Last-Modified"], "%a, %d %b %Y %H:%M:%S GMT")
    part = ask("GET", "/sent", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    unchanged = ask("GET", "/sent", headers={"If-None-Match": whole.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert ask("GET", "/").text == "hello from flask"


# ---- sessions, blueprints, errors


def test_cookies_and_sessions_last_from_request_to_request(ask: Any) -> None:
    assert ask("GET", "/visit").json() == {"visits": 1, "seen": None}
    answer = ask("GET", "/visit")
    assert answer.json() == {"visits": 2, "seen": "b; c=d"}
    assert answer.raw.headers.getlist("Set-Cookie")[1].startswith("e=f; HttpOnly")
    assert len(answer.raw.headers.getlist("Set-Cookie")) == 3  # a, e and the session


def test_blueprints_have_their_own_prefix_and_errors(ask: Any) -> None:
    assert ask("GET", "/admin/home").text == "/admin/home"
    assert ask("GET", "/admin/missing").text == "not in admin"
    answer = ask("GET", "/no/such/page")
    assert answer.json() == {"error": "no /no/such/page here"}
    assert answer.status_code == 404


def test_the_debugger_stays_off_whatever_flask_is_told() -> None:
    """It would let anybody run code."""
    with Processes() as processes:
        env = {"FLASK_DEBUG": "1", "FLASK_ENV": "development"}
        server = processes.serve("real_apps_flask", cwd=HERE, env=env)
        answer = requests.get(f"{server.url}/fail", timeout=20)
        assert answer.status_code == 500
        assert "werkzeug" not in answer.text.lower()
        assert "__debugger__" not in answer.text
        assert requests.get(f"{server.url}/console", timeout=20).status_code == 404


def test_error_handlers_answer_for_what_they_catch(ask: Any, server: Served) -> None:
    answer = ask("GET", "/tea")
    assert (answer.status_code, answer.json()) == (418, {"error": "short and stout"})
    assert "Teapot" not in server.err.text


def test_health_is_answered_beside_the_application(ask: Any) -> None:
    assert ask("GET", "/livez").status_code == 200
    assert ask("GET", "/readyz").status_code == 200


def test_pipelined_requests_are_answered_in_order(server: Served) -> None:
    with RawClient(server.address) as client:
        paths = [f"/named/{number}" for number in range(20)]
        client.send(b"".join(request("GET", path) for path in paths))
        for path in paths:
            assert f'"{path[7:]}"'.encode() in client.answer("GET").body
