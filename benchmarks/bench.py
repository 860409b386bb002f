"""How it is measured: all servers of a group up at once, and round after round through them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tqdm import tqdm

from .client import LoadError, load
from .process import CannotStart, Running, running
from .results import Results
from .servers import RAW, Server


@dataclass(frozen=True)
class Job:
    """One measurement: its row, its unit, how it is made, and the servers that can do it."""

    row: str
    unit: str
    measure: Callable[[Running], float]
    applies: Callable[[Server], bool] = lambda server: True


class Bench:
    """One run: what is asked for, what came of it, and the bar that shows where it is."""

    def __init__(self, results: Results, servers: list[Server], quick: bool) -> None:
        self.results = results
        self.servers = servers
        self.quick = quick
        self.bar = tqdm(unit=" measurements", dynamic_ncols=True, disable=None)  # a terminal's

    def pick(self, names: Iterable[str] | None = None) -> list[Server]:
        """The servers of this run among `names`; without, all but those of a group of their own."""
        if names is None:
            return [server for server in self.servers if not server.is_apart]
        wanted = set(names)
        return [server for server in self.servers if server.name in wanted]

    def choose(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def interleave(
        self,
        group: str,
        servers: list[Server],
        jobs: list[Job],
        rounds: int,
        lives: int = 1,
        unix: bool = False,
    ) -> None:
        """Every job on every server, `rounds` times in each of `lives`, server by server.

        In each life the servers are started anew, since some are fast or slow by how their heap
        happens to lie. The order is drawn anew for each row of each round, the same in every run,
        so that none always follows the same.
        """
        order = random.Random(group)
        for _ in range(lives):
            with contextlib.ExitStack() as stack:
                up = self._start(group, servers, stack, unix)
                if not up:
                    return
                for _ in range(rounds):
                    for job in jobs:
                        self._round(group, job, order.sample(up, len(up)))

    def _start(
        self, group: str, servers: list[Server], stack: contextlib.ExitStack, unix: bool
    ) -> list[Running]:
        up = []
        for server in servers:
            self.bar.set_description(f"{group}: starting {server.name}")
            with self.failures(group, server):
                up.append(stack.enter_context(running(server, unix or server.only_unix)))
        for each in up:
            if each.server is RAW:  # the first run after a pause is slow everywhere
                load(RAW, each.address, body=RAW_WARMUP_BYTES, requests=30)
        return up

    def _round(self, group: str, job: Job, up: list[Running]) -> None:
        for each in up:
            if job.applies(each.server):
                self.bar.set_description(f"{group}: {job.row}, {each.server.name}")
                with self.failures(f"{group}, {job.row}", each.server):
                    value = job.measure(each)
                    self.results.add(group, job.row, each.server.name, job.unit, value)
                self.bar.update()

    @contextlib.contextmanager
    def failures(self, where: str, server: Server):
        """What goes wrong with one server goes into the table, and the rest goes on."""
        try:
            yield
        except (LoadError, CannotStart, OSError) as error:
            self.results.fail(where, server.name, str(error))
            self.bar.write(f"{server.name}, {where}: {error}")


RAW_WARMUP_BYTES = 30_000_000
