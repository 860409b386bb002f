"""Clients in threads, whose failures come out where they are joined."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from process import PATIENCE
from rawhttp import Address, RawClient, request
from soak import FULL

SMALL = request("POST", "/length", body=b"x" * 100)

#: Real clients beside slow ones, of which so many must be there while their pace counts, and what
#: they keep of it: a soak has the machine for itself.
REAL = 8 if FULL else 4
PRESENT = 0.8 if FULL else 0.5
KEPT = 0.9 if FULL else 0.3

LINGER_S = 5.0  # an error is said before, to a client that is still sending (contract.md)
BUSY_S = 2.0 if FULL else 5.0  # later than promised, on a machine that is busy


class Crew(contextlib.ExitStack):
    """Threads that run until `stopping` is set; leaving the block joins them and raises."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = threading.Event()
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, timeout: float = PATIENCE) -> None:
        """Until all have ended by themselves, or been told to."""
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            assert not thread.is_alive(), "a client is still waiting"
        if self.errors:
            raise self.errors[0]

    def __exit__(self, *details: object) -> bool:
        self.stopping.set()
        if details[0] is None:
            self.join()
        return False


PACES = 4
HICCUP_S = 1.0  # shorter than this, a slow window may be the machine's doing


class Steady:
    """Clients that ask, one request after the other on one connection each, and count answers."""

    def __init__(self, address: Address, crew: Crew, clients: int) -> None:
        self.answers = [0] * clients
        self._address = address
        self._crew = crew
        for index in range(clients):
            crew.start(lambda index=index: self._ask(index))  # type: ignore[misc]

    def _ask(self, index: int) -> None:
        with RawClient(self._address, deadline=PATIENCE) as client:
            while not self._crew.stopping.is_set():
                answer = client.ask(SMALL)
                assert (answer.status, answer.body) == (200, b"100")
                self.answers[index] += 1

    def wait_more(self, count: int, timeout: float = PATIENCE) -> None:
        """Until each has so many answers more."""
        goals = [have + count for have in self.answers]
        until = time.monotonic() + timeout
        while any(have < goal for have, goal in zip(self.answers, goals, strict=True)):
            assert not self._crew.errors, self._crew.errors
            assert time.monotonic() < until, f"clients don't get on: {self.answers} of {goals}"
            time.sleep(0.005)

    def pace(self, count: int) -> float:
        """Answers of all of them in a second, until each has so many more."""
        before, start = sum(self.answers), time.monotonic()
        self.wait_more(count, PATIENCE + count / 50)
        return (sum(self.answers) - before) / (time.monotonic() - start)

    def best_pace(self, count: int) -> float:
        """The best of some: other work of the machine makes a pace smaller, never greater."""
        return max(self.pace(count) for _ in range(PACES))

    def pace_kept(
        self, count: int, alone: float, due: float, are_there: Callable[[], bool]
    ) -> float:
        """Which share of their best pace alone they have, at best, while the others are there.

        What ends without them doesn't count: they may have gone while nobody was served. More
        often than alone, if it takes that: those who attack share the machine, and are busiest at
        first. But never is it an outage, whatever comes after.
        """
        kept: list[float] = []
        while len(kept) < PACES or (max(kept) < due and len(kept) < 2 * PACES):
            start = time.monotonic()
            share = self.pace(count) / alone
            took = time.monotonic() - start
            assert share >= due / 3 or took < HICCUP_S, f"an outage: {share:.0%} for {took:.1f} s"
            if not are_there():
                break
            kept.append(share)
        assert kept, "they had gone before anything was measured beside them"
        return max(kept)


@contextlib.contextmanager
def steady(address: Address, clients: int) -> Iterator[Steady]:
    """Steady clients while the block runs; any answer but a whole 200 fails it."""
    with Crew() as crew:
        yield Steady(address, crew, clients)
