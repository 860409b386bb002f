"""``python -m fastpredict call``: what it sends, prints, saves, and how it fails."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from client_fake import FakeServer, Peer, answer, once

import fastpredict
from fastpredict.call import call
from fastpredict.client_infer import HEADER_LENGTH

IMAGE = np.arange(12, dtype=np.float32).reshape(3, 4)

app = fastpredict.App()


@app.predict("/predict", dtype=np.float32, shape=(-1, 4))
def double(rows: np.ndarray) -> np.ndarray:
    return rows * 2


@app.predict("/any")
def anything(array: np.ndarray, request: fastpredict.Request) -> np.ndarray:
    return array[::-1] if request.query == "turn" else array


@app.predict("/fail")
def fail(array: np.ndarray) -> None:
    raise RuntimeError


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with fastpredict.Server(app, port=0, access_log=False) as server:
        yield server.url


@pytest.fixture
def save(tmp_path: Path) -> Callable[[np.ndarray], str]:
    def save(array: np.ndarray) -> str:
        np.save(tmp_path / "file.npy", array)
        return str(tmp_path / "file.npy")

    return save


def run(*arguments: str) -> Result:
    return CliRunner().invoke(call, arguments)


def test_the_answer_is_printed_in_short(url: str, save: Callable[[np.ndarray], str]) -> None:
    result = run(url, save(IMAGE))
    assert result.exit_code == 0, result.output
    assert result.stdout == "float32 (3, 4) [0.0 2.0 4.0 6.0 8.0 10.0 ...]\n"
    assert run(url, save(IMAGE), "--raw").stdout == result.stdout
    assert run(url, save(np.array(2.5)), "--path", "/any").stdout == "float64 () [2.5]\n"
    empty = run(url, save(np.zeros((0, 4), np.float32)))
    assert empty.stdout == "float32 (0, 4) []\n", empty.output


def test_the_path_may_be_in_the_url(url: str, save: Callable[[np.ndarray], str]) -> None:
    file = save(np.array([1, 2]))
    assert run(f"{url}/any", file).stdout == "int64 (2,) [1 2]\n"
    assert run(f"{url}/any?turn", file).stdout == "int64 (2,) [2 1]\n"


def test_the_answer_is_saved(url: str, save: Callable[[np.ndarray], str], tmp_path: Path) -> None:
    out = tmp_path / "result"
    result = run(url, save(IMAGE), "--out", str(out))
    assert result.exit_code == 0
    assert str(out) in result.stdout
    np.testing.assert_array_equal(np.load(out), IMAGE * 2)


def test_what_fails_is_one_line_and_status_1(
    url: str, save: Callable[[np.ndarray], str], tmp_path: Path
) -> None:
    (tmp_path / "bad.npy").write_bytes(b"no array at all")
    (tmp_path / "cut.npy").write_bytes(Path(save(IMAGE)).read_bytes()[:-1])
    np.savez(tmp_path / "two.npz", a=IMAGE, b=IMAGE)
    np.save(tmp_path / "object.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "empty.npy").touch()
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
    good = save(IMAGE)
    lines = [
        run(url, str(tmp_path / name))
        for name in ("bad.npy", "cut.npy", "two.npz", "object.npy", "empty.npy", "zip.npy")
    ]
    lines += [
        run(f"{url}/fail", good),
        run(f"{url}/nowhere", good),
        run(url, save(np.zeros(3, np.float32))),
        run("unix:/nowhere", good),
        run(url, good, "--out", str(tmp_path / "none" / "x.npy")),
    ]
    for result in lines:
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("fastpredict: ")
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
    assert "HTTP 404" in lines[7].stderr
    assert "expected float32 of shape (-1, 4)" in lines[8].stderr


def test_what_can_not_be_carried_out_is_status_2(
    url: str, save: Callable[[np.ndarray], str]
) -> None:
    file = save(IMAGE)
    for arguments in (
        [url],
        [url, "/no/such/file"],
        ["https://h", file],
        ["http://[::1", file],
        [url, file, "--timeout", "0"],
        [url, file, "--path", "/x", "--model", "m"],
        [url, file, "--input", "x"],
    ):
        assert run(*arguments).exit_code == 2, arguments


def infer_answer(**arrays: np.ndarray) -> bytes:
    outputs = [
        {
            "name": name,
            "datatype": "FP32",
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    text = json.dumps({"outputs": outputs}).encode()
    body = text + b"".join(array.tobytes() for array in arrays.values())
    return answer(body, "200 OK", f"{HEADER_LENGTH}: {len(text)}")


def test_a_model_is_asked_for_its_input_and_called(
    save: Callable[[np.ndarray], str], tmp_path: Path
) -> None:
    said = []

    def script(peer: Peer) -> None:
        said.append(peer.request())
        peer.send(answer(b'{"name": "m", "inputs": [{"name": "image"}]}'))
        said.append(peer.request())
        peer.send(infer_answer(a=IMAGE, b=IMAGE[0]))

    with FakeServer(script) as server:
        result = run(server.url, save(IMAGE), "--model", "m", "--out", str(tmp_path / "x.npz"))
    assert result.exit_code == 0, result.output
    metadata, infer = said
    assert metadata.line == "GET /v2/models/m HTTP/1.1"
    assert infer.line == "POST /v2/models/m/infer HTTP/1.1"
    assert json.loads(infer.body[: int(infer.fields[HEADER_LENGTH.lower()])])["inputs"] == [
        {
            "name": "image",
            "shape": [3, 4],
            "datatype": "FP32",
            "parameters": {"binary_data_size": 48},
        }
    ]
    assert infer.body.endswith(IMAGE.tobytes())
    assert [line.split(",")[0] for line in result.stdout.splitlines()] == [
        "a: float32 (3",
        "b: float32 (4",
    ]
    with np.load(tmp_path / "x.npz") as saved:
        np.testing.assert_array_equal(saved["a"], IMAGE)
        np.testing.assert_array_equal(saved["b"], IMAGE[0])


def test_a_model_that_does_not_say_its_input_wants_it_named(
    save: Callable[[np.ndarray], str],
) -> None:
    with FakeServer(once(answer(b"{}"))) as server:
        result = run(server.url, save(IMAGE), "--model", "m")
    assert result.exit_code == 1
    assert "--input" in result.stderr
    with FakeServer(once(infer_answer(y=IMAGE))) as server:
        result = run(server.url, save(IMAGE), "--model", "m", "--input", "x")
    assert result.stdout.startswith("y: float32 (3, 4) [0.0 1.0")


PROGRAM = """
import sys
import fastpredict.call as call
call._BAR_DELAY_S = 0
call.call(sys.argv[1:], prog_name="call")
"""


def test_a_bar_is_drawn_where_somebody_looks_on(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "file.npy", np.zeros((500_000, 4), np.float32))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # a terminal of no width has no room for a bar
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, url, str(tmp_path / "file.npy")],
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
            check=True,
        )
        os.set_blocking(ours, False)
        drawn = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout.startswith(b"float32 (500000, 4) [0.0")
    assert "send" in drawn
    assert "receive" in drawn
