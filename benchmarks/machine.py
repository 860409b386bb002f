"""On what it was measured: the machine, and the version of everything that took part."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from .servers import Server

#: Beside each peer's own: what it stands on.
BESIDE = {"flask": ["werkzeug"], "fastapi": ["uvicorn", "starlette"]}


def describe() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    ram_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": _cpu_model(),
        "cores": str(cores),
        "ram": f"{ram_gib:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "huge pages": _chosen(huge.read_text()) if huge.exists() else "unknown",
        "libc": " ".join(platform.libc_ver()),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def versions(servers: Iterable[Server]) -> dict[str, str]:
    packages = ["numpy", "requests"]
    for server in servers:
        if server.package is not None:
            packages += [server.package, *BESIDE.get(server.package, [])]
    found = {"python": platform.python_version()}
    for package in dict.fromkeys(packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _chosen(text: str) -> str:
    """The word in brackets, as in `always [madvise] never`."""
    return text.partition("[")[2].partition("]")[0] or text.strip()
