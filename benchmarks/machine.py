"""On what it was measured: the machine, and the version of everything that took part."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from .servers import Server, venv_of

#: Beside each peer's own: what it stands on.
BESIDE = {"flask": ["werkzeug"], "fastapi": ["uvicorn", "starlette"]}


def describe() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    ram_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "cpu": _cpu_model(),
        "cores": str(cores),
        "ram": f"{ram_gib:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "huge pages": _chosen(huge.read_text()) if huge.exists() else "unknown",
        "congestion control": control.read_text().strip() if control.exists() else "unknown",
        "libc": " ".join(platform.libc_ver()),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def versions(servers: Iterable[Server]) -> dict[str, str]:
    packages = ["numpy", "requests", "tritonclient"]
    for server in servers:
        if server.package is not None:
            packages += [server.package, *BESIDE.get(server.package, [])]
    found = {"python": platform.python_version()}
    for package in dict.fromkeys(packages):
        found[package] = _version(package)
    return found


def _version(package: str) -> str:
    """In this environment, or else in its own."""
    own = [str(path) for path in venv_of(package).glob("lib/python*/site-packages")]
    for where in ({}, {"path": own}):
        for distribution in metadata.distributions(name=package, **where):
            return distribution.version
    return "not installed"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _chosen(text: str) -> str:
    """The word in brackets, as in `always [madvise] never`."""
    return text.partition("[")[2].partition("]")[0] or text.strip()
