"""Hello, upload, stream: the same of applications of four frameworks, served as they are."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from process import Processes, Served

requests = pytest.importorskip("requests")

HERE = Path(__file__).parent
FRAMEWORKS = ["flask", "django", "falcon", "bottle"]
LARGE = bytes(range(256)) * (30 << 12)  # 30 MiB
HUGE_BYTES = 100_000_000


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module")
def server(framework: str) -> Iterator[Served]:
    with Processes() as processes:
        yield processes.serve(f"real_apps_{framework}.py", cwd=HERE)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def test_hello(server: Served, session: requests.Session, framework: str) -> None:
    for _ in range(3):  # by one connection
        answer = session.get(server.url + "/", timeout=20)
        assert answer.status_code == 200
        assert answer.text == f"hello from {framework}"
    server.err.wait(r'"GET / HTTP/1.1" 200 0 \d+ ')


def test_head_has_the_length_and_no_body(server: Served, session: requests.Session) -> None:
    answer = session.head(server.url + "/", timeout=20)
    assert answer.status_code in (200, 405)  # Falcon and others route it by themselves
    assert answer.content == b""
    assert session.get(server.url + "/", timeout=20).status_code == 200


def test_unknown_path_is_the_applications_404(server: Served, session: requests.Session) -> None:
    answer = session.get(server.url + "/nowhere", timeout=20)
    assert answer.status_code == 404
    assert "no such path" not in answer.text


@pytest.mark.parametrize("size", [0, 1, 4096, len(LARGE)])
def test_upload_arrives_as_it_was_sent(
    server: Served, session: requests.Session, size: int
) -> None:
    body = LARGE[:size]
    answer = session.post(server.url + "/upload", data=body, timeout=60)
    assert answer.json() == {"bytes": size, "sha256": hashlib.sha256(body).hexdigest()}


def test_upload_in_chunks_of_unknown_length(server: Served, session: requests.Session) -> None:
    body = LARGE[:3_000_001]
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    answer = session.post(server.url + "/upload", data=pieces, timeout=60)
    assert answer.json() == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_file_of_a_form_of_100_mb(server: Served, session: requests.Session) -> None:
    content = (LARGE * 4)[:HUGE_BYTES]
    answer = session.post(
        server.url + "/file",
        files={"file": ("scan.bin", io.BytesIO(content))},
        data={"patient": "Ä 1"},
        timeout=90,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "name": "scan.bin",
        "sha256": hashlib.sha256(content).hexdigest(),
        "fields": {"patient": "Ä 1"},
    }


def test_stream_sends_each_part_before_the_next_is_made(
    server: Served, session: requests.Session, tmp_path: Path
) -> None:
    until = tmp_path / "go"
    with session.get(
        server.url + "/stream", params={"until": str(until)}, stream=True, timeout=20
    ) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        lines = answer.iter_lines(chunk_size=1)
        assert next(lines) == b"one"
        until.touch()
        assert list(lines) == [b"two"]
    assert session.get(server.url + "/", timeout=20).status_code == 200


VALIDATED = """
import importlib
from wsgiref.validate import validator

import fastpredict

app = fastpredict.App()
for name in {frameworks}:
    app.mount("/" + name, validator(importlib.import_module("real_apps_" + name).app))
"""


def test_frameworks_find_what_wsgirefs_validator_asks_of_a_server(
    session: requests.Session, tmp_path: Path
) -> None:
    """Small bodies only: what is read of a large one at once isn't of the very type bytes.

    /upload isn't for Flask, which reads by read() without a size: the validator wants one.
    """
    frameworks = [each for each in FRAMEWORKS if importlib.util.find_spec(each)]
    if not frameworks:
        pytest.skip("needs a framework")
    digest = hashlib.sha256(b"abc").hexdigest()
    (tmp_path / "validated.py").write_text(VALIDATED.format(frameworks=frameworks))
    with Processes() as processes:
        server = processes.serve("validated.py", cwd=tmp_path, env={"PYTHONPATH": str(HERE)})
        for framework in frameworks:
            url = f"{server.url}/{framework}"
            assert session.get(f"{url}/", timeout=20).text == f"hello from {framework}"
            streamed = session.get(f"{url}/stream", params={"until": str(tmp_path)}, timeout=20)
            assert streamed.text == "one\ntwo\n"
            sent = session.post(f"{url}/file", files={"file": ("x", b"abc")}, timeout=20)
            assert sent.json()["sha256"] == digest
            if framework != "flask":
                sent = session.post(f"{url}/upload", data=b"abc", timeout=20)
                assert sent.json() == {"bytes": 3, "sha256": digest}
            assert session.get(f"{url}/nowhere", timeout=20).status_code == 404
        server.signal(15)
        log = server.ended(0)
    assert "Traceback" not in log
    assert "without being closed" not in log  # as the validator says it of a result


@pytest.mark.parametrize("framework", ["flask", "falcon", "bottle"])
def test_what_a_handler_raises_is_a_500_with_one_traceback_in_the_log(framework: str) -> None:
    pytest.importorskip(framework)
    with Processes() as processes:
        server = processes.serve(f"real_apps_{framework}.py", cwd=HERE)
        answer = requests.get(server.url + "/fail", timeout=20)
        assert answer.status_code == 500
        assert "Traceback" not in answer.text
        server.err.wait(r'"GET /fail HTTP/1.1" 500 ')
        server.signal(15)
        log = server.ended(0)
    assert log.count("Traceback (most recent call last)") == 1
    assert log.count("ValueError: on purpose") == 1
