"""Every way for a process to end while it serves: no hang, no core, no fatal error."""

from __future__ import annotations

import time

import pytest
from exiting import WAYS
from load import SMALL
from process import FRUGAL, HERE, PYTHON, Hosted, Level, Processes
from rawhttp import request
from soak import figure, times
from targets import FAILURES

EXITS = times(3, most=35)  # of each way: 1,000 in all
BATCH = 3  # processes at a time

# The end waits this long for a handler that runs, and no longer (engine.JOIN_BOUND), and then some.
EXIT_BOUND_S = 3.0 + 7.0

# Ways whose server says something of a failure that is meant.
MAY_TRACE = {
    "exception_on_the_main_thread",
    "failed_startup",
    "interrupted_by_a_handler",
    "interrupted_while_it_streams",
}


@figure(f"{EXITS * len(WAYS):,} processes that end in {len(WAYS)} ways while they serve")
@pytest.mark.timeout(60 + 10 * EXITS)
@pytest.mark.parametrize("way", WAYS)
def test_process_ends_by_itself(processes: Processes, way: str) -> None:
    status = WAYS[way][1]
    for first in range(0, EXITS, BATCH):
        batch = [
            processes.start(PYTHON, HERE / "exiting.py", way)
            for _ in range(min(BATCH, EXITS - first))
        ]
        for process in batch:
            text = process.ended(status, timeout=20 + EXIT_BOUND_S)
            assert ("Traceback" in text) == (way in MAY_TRACE), text
            assert "Exception ignored" not in text
            process.end()


def test_exit_waits_for_a_running_handler_with_a_bound(processes: Processes) -> None:
    process = processes.start(PYTHON, HERE / "exiting.py", "with_an_endless_request_running")
    start = time.monotonic()
    process.ended(0)
    assert time.monotonic() - start < EXIT_BOUND_S


RAISES = times(300, most=10_000)
TRACEBACK = "Traceback (most recent call last)"


@figure(
    f"{RAISES:,} failures of a handler, {len(FAILURES)} kinds: each a 500 and one traceback in the"
    " log, no slot, descriptor or memory lost"
)
@pytest.mark.timeout(120 + RAISES // 10)
def test_failing_handlers_are_500_each_and_leave_nothing(processes: Processes) -> None:
    server = processes.host({"env": FRUGAL})
    fail(server, len(FAILURES))  # the first traceback reads the sources
    level = Level(server)
    fail(server, RAISES)
    level.is_kept(server)
    assert server.stats()["idle_slots"] == 1
    text = server.stopped()
    assert text.count("the handler fail of /fail ") == len(FAILURES) + RAISES
    assert text.count(TRACEBACK) == len(FAILURES) + RAISES


def fail(server: Hosted, count: int) -> None:
    """So many failures, of each kind in turn, on one connection."""
    kinds = list(FAILURES)
    with server.connect() as client:
        for index in range(count):
            kind = kinds[index % len(kinds)]
            answer = client.ask(request("POST", f"/fail?{kind}", body=b"x"))
            assert answer.status == 500, kind
            assert answer.error()
            assert not answer.closes
            if index % 50 == 0:
                assert client.ask(SMALL).body == b"100"
        assert client.ask(SMALL).body == b"100"


@figure(f"{len(FAILURES)} kinds of failure, one traceback each")
@pytest.mark.parametrize("kind", FAILURES)
def test_failure_has_one_traceback_in_the_log(processes: Processes, kind: str) -> None:
    server = processes.serve("targets:app", "--no-access-log")
    with server.connect() as client:
        assert client.ask(request("POST", f"/fail?{kind}", body=b"x")).status == 500
    server.signal(15)
    text = server.ended(0)
    assert text.count(" ERROR the handler fail of /fail ") == 1
    assert text.count(TRACEBACK) == 1
    assert text.count("\n") < 60 or kind == "recursion"
