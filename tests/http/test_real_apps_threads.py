"""How many calls of an application run at once, and what several of them write to the log."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from process import Processes, Served

requests = pytest.importorskip("requests")
pytest.importorskip("flask")

HERE = Path(__file__).parent


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


def by_many(server: Served, clients: int, count: int, path: str) -> list[requests.Response]:
    """Each client asks so often, by a connection of its own; {} is a number of its own."""
    start = threading.Barrier(clients)

    def ask(client: int) -> list[requests.Response]:
        with requests.Session() as session:
            start.wait(20)
            return [
                session.get(server.url + path.format(client * count + number), timeout=60)
                for number in range(count)
            ]

    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for each in pool.map(ask, range(clients)) for answer in each]
    assert {answer.status_code for answer in answers} == {200}
    return answers


def test_with_one_thread_no_two_calls_run_at_once(processes: Processes) -> None:
    server = processes.serve("real_apps_flask", "--threads", "1", cwd=HERE)
    answers = by_many(server, 16, 15, "/inside")
    assert {answer.json()["most"] for answer in answers} == {1}


def test_with_four_threads_four_calls_run_at_once(processes: Processes) -> None:
    server = processes.serve("real_apps_flask", "--threads", "4", cwd=HERE)
    answers = by_many(server, 4, 5, "/together")
    assert {answer.json()["multithread"] for answer in answers} == {True}
    most = max(answer.json()["most"] for answer in by_many(server, 16, 15, "/inside"))
    assert 1 < most <= 4


LINES = {
    "access": re.compile(r'127\.0\.0\.1:\d+ "GET /chatter/(\d+) HTTP/1\.1" 200 0 0 [0-9.]+m?s'),
    "logged": re.compile(r"\[[^]]+\] INFO in real_apps_flask: logged (\d+) (x*)\."),
    "printed": re.compile(r"printed (\d+) (y*)\."),
}
CLIENTS, COUNT = 4, 300


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("unbuffered", ["", "1"])  # as images of containers have it
def test_lines_of_the_application_and_of_the_access_log_stay_whole(
    processes: Processes, threads: int, unbuffered: str
) -> None:
    env = {"PYTHONUNBUFFERED": unbuffered}
    server = processes.serve("real_apps_flask", "--threads", str(threads), cwd=HERE, env=env)
    by_many(server, CLIENTS, COUNT, "/chatter/{}")
    server.signal(15)
    banner, *lines = server.ended(0).splitlines()
    assert "serving" in banner
    seen: dict[str, list[int]] = {kind: [] for kind in LINES}
    for line in lines:
        for kind, pattern in LINES.items():
            if found := pattern.fullmatch(line):
                seen[kind].append(int(found[1]))
                if kind != "access":
                    assert len(found[2]) == int(found[1]) % 300
                break
        else:
            pytest.fail(f"not a whole line: {line!r}")
    for kind, numbers in seen.items():
        assert sorted(numbers) == list(range(CLIENTS * COUNT)), kind
