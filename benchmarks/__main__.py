"""The command behind script/bench."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from . import machine
from .bench import Bench
from .figures import figures
from .groups import GROUPS
from .results import Results, read
from .servers import ALL, BY_NAME, INFERENCE_PEERS, OURS, OURS_FLASK, QUICK, RAW, Server
from .table import render

INSTALL_FAILURES = Path("build/bench-venv/failed")


def _kind(server: Server) -> str:
    if server.is_tuned:
        return "tuned"
    if server.model:
        return "model"
    if server in INFERENCE_PEERS:
        return "inference"
    return "stock" if server.is_peer else "ours" if server in (OURS, OURS_FLASK) else "aside"


def _chosen(only: tuple[str, ...], quick: bool) -> tuple[list[str], list[Server]]:
    """The groups and servers of this run; raw and ours are always there to compare with."""
    if unknown := [name for name in only if name not in GROUPS and name not in BY_NAME]:
        raise click.UsageError(f"unknown: {', '.join(unknown)}; --list says what there is")
    groups = [name for name in only if name in GROUPS] or list(GROUPS)
    named = {name for name in only if name in BY_NAME}
    wanted = named or (QUICK if quick else set(BY_NAME))
    wanted |= {RAW.name, OURS.name}
    return groups, [server for server in ALL if server.name in wanted]


def _not_installed(results: Results, servers: list[Server]) -> list[Server]:
    """Those that pip could not install go into the table with its reason."""
    there = []
    for server in servers:
        reason = INSTALL_FAILURES / (server.package or "-")
        if reason.exists():
            results.fail("installing", server.name, reason.read_text().strip())
        else:
            there.append(server)
    return there


def _measure(only: tuple[str, ...], quick: bool) -> Results:
    groups, servers = _chosen(only, quick)
    results = Results(machine=machine.describe(), versions=machine.versions(servers))
    servers = _not_installed(results, servers)
    results.labels = {server.name: server.label for server in servers}
    results.labels["handler"] = "the handler alone"
    results.kinds = {server.name: _kind(server) for server in servers}
    results.flask = [server.name for server in servers if server.flask]
    start, began = time.monotonic(), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    bench = Bench(results, servers, quick)
    try:
        for group in groups:
            GROUPS[group](bench)
    except KeyboardInterrupt:
        bench.bar.write("interrupted: what is there so far follows")
    bench.bar.close()
    results.settings = {
        "began": began,
        "kind": "quick" if quick else "full",
        "groups": "all" if groups == list(GROUPS) else " ".join(groups),
        "seconds": round(time.monotonic() - start),
    }
    return results


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds and servers: within five minutes.")
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="This group of rows or this server only; may be given again. See --list.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("build/bench/results.json"),
    show_default=True,
    help="Where the results are kept as JSON.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draws the chart to this PNG."
)
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measures nothing: prints, and draws, what this JSON holds.",
)
@click.option("--list", "listing", is_flag=True, help="Names the groups and servers, and ends.")
def main(
    quick: bool,
    only: tuple[str, ...],
    out: Path,
    plot: Path | None,
    source: Path | None,
    listing: bool,
) -> None:
    """Measures fastpredict beside other servers and beside the least that a server can do."""
    if listing:
        for name, group in GROUPS.items():
            click.echo(f"{name:<20} {(group.__doc__ or '').splitlines()[0]}")
        for server in ALL:
            click.echo(f"{server.name:<20} {server.label}")
        return
    results = read(source) if source else _measure(only, quick)
    reached = figures(results)
    if not source:
        results.save(out, [asdict(figure) for figure in reached])
    click.echo(render(results, reached))
    if plot:
        from .chart import draw

        draw(results, plot)


if __name__ == "__main__":
    main()
