"""SIGTERM, SIGINT and others: what was accepted is finished, and the process goes when it must."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from load import Crew, steady
from process import COMMAND, FRUGAL, PATIENCE, Level, Processes, Served, is_ready, wait_until
from rawhttp import Ended, RawClient, request
from soak import FACTOR, figure, times

TERMS = times(10, most=200)
TERM_CLIENTS = 8
INTERRUPTS = times(3, most=100)
BODY = 1_000_000

# Bounds of deadlines: what is promised, and room for a busy machine.
IDLE_EXIT_S = 1.0 if FACTOR >= 10 else 2.0


@dataclass
class Loss:
    """A request that was sent whole before the signal, and its answer that didn't come."""

    client: int
    sent_before_s: float
    error: BaseException

    def __str__(self) -> str:
        return f"client {self.client}, sent {self.sent_before_s:.4f} s before: {self.error!r}"


class Besieged:
    """Clients of many kinds, each of which notes what it lost to a signal."""

    def __init__(self, server: Served, crew: Crew) -> None:
        self.answers = [0] * TERM_CLIENTS
        self.lost: list[Loss] = []
        self.signalled_at = float("inf")  # set before the signal is sent
        self._server = server
        self._address = server.address
        for index in range(TERM_CLIENTS):
            crew.start(lambda index=index: self._ask(index))  # type: ignore[misc]

    def _ask(self, index: int) -> None:
        """Until the server is gone. Half keep their connection, a quarter send much."""
        body = b"x" * (BODY if index % 4 == 0 else 100)
        wire = request("POST", "/nap?0.002", body=body)
        keeps = index % 2 == 0
        client: RawClient | None = None
        while True:
            sent_at = float("inf")
            try:
                client = client or RawClient(self._address, deadline=PATIENCE)
                client.send(wire)
                sent_at = time.monotonic()
                answer = client.answer()
                assert answer.status == 200, answer
                assert int(answer.body) == len(body)
                self.answers[index] += 1
            except (OSError, Ended) as error:
                if sent_at < self.signalled_at:
                    self.lost.append(Loss(index, self.signalled_at - sent_at, error))
                return
            if not keeps or answer.closes:
                client.close()
                client = None

    def wait_busy(self) -> None:
        wait_until(lambda: min(self.answers) >= 2, "every client answered twice", pause=0.002)


@figure(f"SIGTERM under load {TERMS} times: no accepted request lost, exit 0")
@pytest.mark.timeout(120 * TERMS)
def test_sigterm_under_load_loses_no_accepted_request(processes: Processes) -> None:
    choose = random.Random(1)
    for _ in range(TERMS):
        server = processes.serve("targets:app", "--no-access-log", "--threads", "2")
        with Crew() as crew:
            besieged = Besieged(server, crew)
            besieged.wait_busy()
            time.sleep(choose.uniform(0, 0.03))  # any moment of a request
            besieged.signalled_at = time.monotonic()
            server.signal(signal.SIGTERM)
            server.ended(0, timeout=30)
        assert not besieged.lost, "; ".join(map(str, besieged.lost))


UNREAD = 20  # of each kind


@figure(f"SIGTERM {TERMS} times with {2 * UNREAD + 3} requests sent and unread: all answered")
@pytest.mark.timeout(60 + 10 * TERMS)
def test_requests_sent_but_unread_when_the_signal_comes_are_answered(
    processes: Processes,
) -> None:
    """The moment before, made wide: a stopped server finds requests and the signal together."""
    small = request("POST", "/length", body=b"12345")
    large = request("POST", "/length", body=b"x" * BODY)
    for _ in range(TERMS):
        server = processes.serve("targets:app", "--no-access-log", "--max-queued-requests", "1000")
        kept = [server.connect() for _ in range(UNREAD)]
        for client in kept:
            assert client.ask(small).body == b"5"
        server.signal(signal.SIGSTOP)
        wait_until(lambda server=server: server.is_stopped(), "it stops")  # type: ignore[misc]
        new = [server.connect() for _ in range(UNREAD)]
        for client in kept + new:
            client.send(small)
        begun = [server.connect() for _ in range(3)]  # more than the kernel takes: unfinished
        for client in begun:
            client.send(large[:50_000])
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        for client in kept + new:
            assert client.answer().body == b"5"
        for client in begun:
            client.send(large[50_000:])
            assert client.answer().body == b"1000000"
        for client in kept + new + begun:
            client.close()
        server.ended(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_and_queued_requests_are_finished(
    processes: Processes, number: signal.Signals
) -> None:
    server = processes.serve("targets:app", "--no-access-log")
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.send(request("POST", "/nap?0.1", body=b"12345"))
    with server.connect() as probe:  # answered behind the five, which are all in by then
        probe.ask(request("POST", "/length", body=b""))
        for client in clients:
            assert client.answer().body == b"5"
            client.send(request("POST", "/nap?0.1", body=b"123456"))
        wait_until(lambda: all_read(server, clients))
        server.signal(number)
        for client in clients:
            answer = client.answer()
            assert answer.body == b"6"
            client.close()
        assert answer.closes  # the first may have been answered before the drain began
    assert "Traceback" not in server.ended(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("bound", ["30", "0"])
def test_a_drain_that_takes_a_while_says_so_and_is_not_ready(
    processes: Processes, number: signal.Signals, bound: str
) -> None:
    """0 is no bound."""
    server = processes.serve("targets:app", "--no-access-log", "--timeout-graceful-shutdown", bound)
    ready = request("GET", "/v2/models/length/ready")
    with server.connect() as client, server.connect() as probe:
        assert probe.ask(ready).status == 200
        client.send(request("POST", "/nap?2", body=b"12345"))
        probe.send(ready[:-2])  # begun, so it is finished, too
        wait_until(lambda: all_read(server, [client, probe]))
        server.signal(number)
        server.err.wait("finishing what was accepted; a second signal ends at once")
        probe.send(ready[-2:])
        answer = probe.answer()
        assert answer.closes
        assert json.loads(answer.body)["ready"] is False
        assert client.answer().body == b"5"
    assert "Traceback" not in server.ended(0)


def serve_into(processes: Processes, redirection: str, *flags: str) -> Served:
    """targets:app with standard error as bash has it."""
    served = Served(
        "bash", "-c", f'exec "$@" {redirection}', "bash", *COMMAND, "serve", "targets:app", *flags
    )
    processes.callback(served.end)
    return served


def test_a_drain_does_not_need_anybody_who_reads_what_it_says(processes: Processes) -> None:
    """As behind `2>&1 | tee log`, where Ctrl-C ends tee first."""
    server = serve_into(processes, "2> >(head -n 1 >&2)", "--port", "0")
    with server.connect() as client:
        client.send(request("POST", "/nap?2", body=b"12345"))
        wait_until(lambda: all_read(server, [client]))
        server.signal(signal.SIGTERM)
        assert client.answer().body == b"5"
    server.ended(0)


def test_a_full_disk_under_standard_error_keeps_nobody_from_serving(
    processes: Processes, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    server = serve_into(processes, "2> /dev/full", "--uds", str(path))
    wait_until(lambda: is_ready(str(path)))
    with RawClient(str(path)) as client:
        assert client.ask(request("POST", "/length", body=b"12345")).body == b"5"
        client.send(request("POST", "/nap?2", body=b"12345"))
        time.sleep(0.2)
        server.signal(signal.SIGTERM)
        assert client.answer().body == b"5"
    server.ended(0)


def all_read(server: Served, clients: list[RawClient]) -> bool:
    """Whether /proc shows nothing waiting in the kernel on the server's side."""
    ports = {f"{client.socket.getsockname()[1]:04X}" for client in clients}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2].rpartition(":")[2] in ports and not fields[4].endswith(":00000000"):
            return False
    return True


def test_idle_connections_do_not_hold_it_up(processes: Processes) -> None:
    server = processes.serve("targets:app", "--no-access-log")
    idle = [server.connect() for _ in range(50)]
    for client in idle[:25]:
        assert client.ask(request("POST", "/length", body=b"12345")).status == 200
    start = time.monotonic()
    server.signal(signal.SIGTERM)
    server.ended(0)
    assert time.monotonic() - start < IDLE_EXIT_S
    for client in idle:
        client.expect_gone()
        client.close()


def test_upload_under_way_is_finished(processes: Processes) -> None:
    server = processes.serve("targets:app", "--no-access-log")
    wire = request("POST", "/length", body=b"x" * 3_000_000)
    with server.connect() as client:
        client.send(wire[:1_000_000])
        wait_until(lambda: all_read(server, [client]))
        server.signal(signal.SIGTERM)
        wait_until(lambda: not accepts(server), "it stops accepting")
        client.send(wire[1_000_000:])
        assert client.answer().body == b"3000000"
    server.ended(0)


def accepts(server: Served) -> bool:
    try:
        server.connect().close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once_while_a_handler_holds_the_gil(
    processes: Processes, number: signal.Signals
) -> None:
    server = processes.serve("targets:app")
    with server.connect() as client:
        client.send(request("POST", "/clutch?60", body=b"x"))
        server.err.wait("clutching")
        server.signal(number)
        wait_until(lambda: not accepts(server), "it drains while the GIL is held")
        server.signal(number)
        server.ended(128 + number, timeout=5)


@pytest.mark.parametrize("path", ["/nap?60", "/clutch?60"])
def test_overdue_drain_shows_the_stacks_and_exits_1(processes: Processes, path: str) -> None:
    server = processes.serve("targets:app", "--timeout-graceful-shutdown", "0.3")
    with server.connect() as client:
        client.send(request("POST", path, body=b"x"))
        wait_until(lambda: all_read(server, [client]))
        server.connect().ask(request("GET", "/livez"), method="GET")
        server.signal(signal.SIGTERM)
        text = server.ended(1, timeout=10)
    handler = path[1:].partition("?")[0]
    assert "most recent call first" in text
    assert f"in {handler}\n" in text


def test_overdue_drain_of_an_unfinished_upload_exits_1(processes: Processes) -> None:
    server = processes.serve("targets:app", "--timeout-graceful-shutdown", "0.3")
    with server.connect() as client:
        client.send(request("POST", "/length", "Content-Length: 10") + b"x")
        wait_until(lambda: all_read(server, [client]))
        server.signal(signal.SIGTERM)
        server.ended(1, timeout=10)


SLOW_START = """
import sys, time
import fastpredict
app = fastpredict.App()
app.predict("/p")(len)
@app.on_startup
def load():
    print("loading", file=sys.stderr, flush=True)
    time.sleep({seconds})
    print("loaded", file=sys.stderr, flush=True)
"""


def slow_start(processes: Processes, folder: Path, seconds: float, *flags: str) -> Served:
    (folder / "served.py").write_text(SLOW_START.format(seconds=seconds))
    server = processes.serve("served.py", *flags, cwd=folder)
    server.err.wait("loading")
    return server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_startup_ends_with_the_start_up_function(
    processes: Processes, tmp_path: Path, number: signal.Signals
) -> None:
    server = slow_start(processes, tmp_path, 0.5)
    server.signal(number)
    text = server.ended(0, timeout=5)
    assert "serving" not in text
    assert "Traceback" not in text


def test_second_signal_during_startup_ends_at_once(processes: Processes, tmp_path: Path) -> None:
    server = slow_start(processes, tmp_path, 60)
    server.signal(signal.SIGTERM)
    time.sleep(0.5)  # as an impatient person: there is nothing to see of the first one
    server.signal(signal.SIGTERM)
    server.ended(128 + signal.SIGTERM, timeout=5)


def test_startup_that_outlasts_the_drain_time_exits_1(processes: Processes, tmp_path: Path) -> None:
    server = slow_start(processes, tmp_path, 60, "--timeout-graceful-shutdown", "0.3")
    server.signal(signal.SIGTERM)
    text = server.ended(1, timeout=10)
    assert "in load\n" in text


SLOW_END = """
import sys, time
import fastpredict
app = fastpredict.App()
app.predict("/p")(len)
@app.on_shutdown
def put_away():
    print("putting away", file=sys.stderr, flush=True)
    time.sleep({seconds})
    print("put away", file=sys.stderr, flush=True)
"""


def slow_end(processes: Processes, folder: Path, seconds: float, *flags: str) -> Served:
    (folder / "served.py").write_text(SLOW_END.format(seconds=seconds))
    server = processes.serve("served.py", *flags, cwd=folder)
    assert server.url
    server.signal(signal.SIGTERM)
    server.err.wait("putting away")
    return server


def test_shutdown_functions_run_to_their_end(processes: Processes, tmp_path: Path) -> None:
    assert "put away" in slow_end(processes, tmp_path, 0.5).ended(0).splitlines()


def test_second_signal_ends_a_shutdown_function(processes: Processes, tmp_path: Path) -> None:
    server = slow_end(processes, tmp_path, 60)
    server.signal(signal.SIGTERM)
    server.ended(128 + signal.SIGTERM, timeout=5)


def test_shutdown_function_that_outlasts_the_drain_time(
    processes: Processes, tmp_path: Path
) -> None:
    server = slow_end(processes, tmp_path, 60, "--timeout-graceful-shutdown", "0.3")
    assert "most recent call first" in server.ended(1, timeout=15)


OWN_HANDLER = """
import signal, sys
import fastpredict
app = fastpredict.App()
app.predict("/p")(len)
signal.signal(signal.SIGUSR1, lambda *_: print("mine", file=sys.stderr, flush=True))
"""


def test_signal_of_the_users_own_does_not_drain(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(OWN_HANDLER)
    server = processes.serve("served.py", cwd=tmp_path)
    with server.connect() as client:
        assert client.ask(request("POST", "/p", body=b"12345")).body == b"5"
        held = server.descriptors(), server.threads()
        for count in range(1, 21):
            server.signal(signal.SIGUSR1)
            wait_until(lambda count=count: server.err.text.count("mine\n") >= count)  # type: ignore[misc]
            assert client.ask(request("POST", "/p", body=b"12345")).body == b"5"
        assert (server.descriptors(), server.threads()) == held
    server.signal(signal.SIGTERM)
    server.ended(0)


@figure(f"Ctrl-C {INTERRUPTS} times")
@pytest.mark.timeout(60 + 5 * INTERRUPTS)
def test_ctrl_c_many_times(processes: Processes) -> None:
    for _ in range(INTERRUPTS):
        server = processes.serve("targets:app", "--no-access-log")
        assert server.url
        server.signal(signal.SIGINT)
        assert len(server.ended(0).splitlines()) == 1


def test_hang_up_ends_it_as_the_system_does(processes: Processes) -> None:
    server = processes.serve("targets:app")
    assert server.url
    server.signal(signal.SIGHUP)
    assert server.wait() == -signal.SIGHUP


STOPS = times(50, most=1000)


@figure(f"{STOPS:,} x SIGSTOP and SIGCONT under load")
@pytest.mark.timeout(60 + STOPS)
def test_stop_and_continue_under_load_change_nothing(processes: Processes) -> None:
    server = processes.host({"env": FRUGAL})
    with steady(server.address, 4) as clients:
        clients.wait_more(1)
    level = Level(server)
    with steady(server.address, 4) as clients:
        for _ in range(STOPS):
            server.signal(signal.SIGSTOP)
            time.sleep(0.005)
            server.signal(signal.SIGCONT)
            clients.wait_more(1)
    level.is_kept(server)
    assert "Traceback" not in server.stopped()
