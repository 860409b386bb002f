"""The one table of options: the command line, serve() and Server all read it."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, TypeAlias, TypedDict

from fastpredict.log import LEVELS
from fastpredict.route import ShapeLike

Parser: TypeAlias = Callable[[object], Any]
Audience: TypeAlias = Literal["server", "serve", "command"]

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000


class ServerOptions(TypedDict, total=False):
    """What Server takes by keyword. Sizes are bytes or "64M"; times are seconds."""

    host: str | None
    port: int | None
    uds: str | os.PathLike[str] | None
    uds_mode: int | str
    fd: int | None
    threads: int
    max_request_body_size: int | str
    max_inflight_bytes: int | str | None
    max_queued_requests: int
    limit_concurrency: int
    timeout_head: float
    timeout_read: float
    timeout_write: float
    min_data_rate: int | str
    timeout_keep_alive: float
    timeout_queue: float
    timeout_graceful_shutdown: float
    allow_client_shm: bool
    copy_client_memory: bool
    access_log: bool


class ServeOptions(ServerOptions, total=False):
    """What serve() takes by keyword: the server's options and the log's."""

    log_level: str


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    ``parse`` turns what a flag, an environment variable or a keyword holds into the value, or
    raises ValueError with a sentence that says what was expected. ``audience`` says who has it:
    "server": Server, serve() and the command; "serve": the last two; "command": the last.
    """

    name: str
    parse: Parser
    default: Any
    metavar: str | None
    group: str
    help: str
    audience: Audience = "server"

    @property
    def flag(self) -> str:
        """As the command line has it."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable that the command reads where the flag isn't given."""
        return "FASTPREDICT_" + self.name.upper()


# ---- parsers -------------------------------------------------------------------------------------

_SIZE = re.compile(r"([0-9]{1,18})([KMG]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SWITCH = {"1": True, "true": True, "on": True, "yes": True}
_SWITCH |= {"0": False, "false": False, "off": False, "no": False}


def parse_size(value: object) -> int:
    """Bytes: an int, or digits with K, M or G (powers of 1024)."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is not None:
            return int(match[1]) * _FACTORS[match[2].upper()]
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"expected a size such as 1048576, 64K, 30M or 1G, got {value!r}")


def parse_count(least: int, most: int | None = None) -> Parser:
    """Make a parser for whole numbers from ``least`` to ``most``."""
    upper = "up" if most is None else str(most)

    def parse(value: object) -> int:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = int(value) if isinstance(value, str) else operator.index(value)  # type: ignore[arg-type]
            if number < least or (most is not None and number > most):
                raise ValueError
        except (ValueError, TypeError):
            raise ValueError(
                f"expected a whole number from {least} to {upper}, got {value!r}"
                if most is not None
                else f"expected a whole number of {least} or more, got {value!r}"
            ) from None
        return number

    return parse


def parse_seconds(value: object) -> float:
    """Seconds: a finite number, 0 or more."""
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        seconds = float(value)
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"expected a number of seconds, 0 or more, got {value!r}") from None
    return seconds


def parse_timeout(value: object) -> float:
    """Seconds of a timeout that can't be off: a millisecond or more."""
    seconds = parse_seconds(value)
    if seconds < 0.001:
        raise ValueError(f"expected a number of seconds, 0.001 or more, got {value!r}")
    return seconds


def parse_mode(value: object) -> int:
    """A file mode: octal digits, or an int from Python."""
    try:
        mode = int(value, 8) if isinstance(value, str) else operator.index(value)  # type: ignore[arg-type]
        if isinstance(value, bool) or not 0 <= mode <= 0o777:
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(f"expected a file mode such as 0660, got {value!r}") from None
    return mode


def parse_switch(value: object) -> bool:
    """On or off."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _SWITCH:
        return _SWITCH[value.strip().lower()]
    raise ValueError(f"expected true or false, got {value!r}")


def parse_text(value: object) -> str:
    """Any text but none, and no NUL."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"expected some text, got {value!r}")
    return text


def parse_choice(*choices: str) -> Parser:
    """Make a parser for one of a few words."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value.lower() in choices:
            return value.lower()
        raise ValueError(f"expected one of {', '.join(choices)}, got {value!r}")

    return parse


def parse_shape(value: object) -> ShapeLike:
    """A shape as text: "3000,2500", "-1,3", "()" for a scalar."""
    if not isinstance(value, str):
        raise ValueError(f"expected a shape such as 3000,2500, got {value!r}")
    inner = value.strip().removeprefix("(").removesuffix(")").removesuffix(",").strip()
    if not inner and value.strip() == "()":
        return ()
    try:
        return tuple(int(length) for length in inner.split(","))
    except ValueError:
        raise ValueError(f"expected a shape such as 3000,2500 or -1,3, got {value!r}") from None


# ---- the table -----------------------------------------------------------------------------------

_FUNCTION = "Plain functions"
_ADDRESS = "Address"
_LIMITS = "Limits"
_TIMEOUTS = "Timeouts, in seconds"
_MEMORY = "Memory of clients on this host"
_LOG = "Log"
_DEVELOPMENT = "Development"

OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "interface", parse_choice("auto", "predict", "wsgi"), "auto", "auto|predict|wsgi",
        "Target", "What TARGET is, where that is in doubt.", "command",
    ),
    Option(
        "factory", parse_switch, False, None,
        "Target", "TARGET is a callable that returns what is to be served.", "command",
    ),
    Option(
        "path", parse_text, None, "PATH",
        _FUNCTION, "Where a plain function is served. Default: /predict.", "command",
    ),
    Option(
        "dtype", parse_text, None, "DTYPE",
        _FUNCTION, "dtype of its array, such as float32. Default: the request says, else uint8.",
        "command",
    ),
    Option(
        "shape", parse_shape, None, "SHAPE",
        _FUNCTION, "Shape of its array, such as 3000,2500; -1 is any length. Default: 1-D.",
        "command",
    ),
    Option("host", parse_text, None, "HOST", _ADDRESS, f"TCP address. Default: {DEFAULT_HOST}."),
    Option(
        "port", parse_count(0, 65535), None, "PORT",
        _ADDRESS, f"TCP port; 0 picks a free one. Default: {DEFAULT_PORT}.",
    ),
    Option(
        "uds", parse_text, None, "PATH",
        _ADDRESS, "Unix socket, in place of TCP unless --host or --port is given too.",
    ),
    Option("uds_mode", parse_mode, 0o600, "MODE", _ADDRESS, "Its mode. Default: 0600."),
    Option(
        "fd", parse_count(0, 2**31 - 1), None, "N",
        _ADDRESS, "An inherited listening stream socket, in place of TCP likewise.",
    ),
    Option(
        "threads", parse_count(1, 1024), 1, "N",
        _LIMITS, "Predict threads. With 1 exactly one call runs at any moment.",
    ),
    Option(
        "max_request_body_size", parse_size, 1 << 30, "SIZE",
        _LIMITS, "A larger body is answered 413. SIZE takes K, M, G. Default: 1G.",
    ),
    Option(
        "max_inflight_bytes", parse_size, None, "SIZE",
        _LIMITS, "Memory of all requests under way; over it 503. Default: a quarter of RAM.",
    ),
    Option(
        "max_queued_requests", parse_count(1), 64, "N",
        _LIMITS, "Complete requests that wait for a predict thread; over it 503.",
    ),
    Option("limit_concurrency", parse_count(1), 1024, "N", _LIMITS, "Open connections."),
    Option(
        "min_data_rate", parse_size, 1 << 10, "SIZE",
        _LIMITS, "Bytes per second that a body or reply must average after 5 s. Default: 1K.",
    ),
    Option(
        "timeout_head", parse_timeout, 30.0, "S",
        _TIMEOUTS, "From the first byte to the complete head.",
    ),
    Option(
        "timeout_read", parse_timeout, 30.0, "S", _TIMEOUTS, "No byte of a body for so long: 408.",
    ),
    Option(
        "timeout_write", parse_timeout, 30.0, "S",
        _TIMEOUTS, "A client that takes no byte for so long is dropped.",
    ),
    Option("timeout_keep_alive", parse_timeout, 75.0, "S", _TIMEOUTS, "Idle between requests."),
    Option(
        "timeout_queue", parse_seconds, 0.0, "S",
        _TIMEOUTS, "Waited so long without starting: 504. 0 is off.",
    ),
    Option(
        "timeout_graceful_shutdown", parse_seconds, 30.0, "S",
        _TIMEOUTS, "To finish what was accepted, after SIGTERM or SIGINT. 0: no bound.",
    ),
    Option(
        "allow_client_shm", parse_switch, False, None,
        _MEMORY, "Serve Triton's system shared memory, to clients on this host. Default: not.",
    ),
    Option(
        "copy_client_memory", parse_switch, False, None,
        _MEMORY, "Hand out copies of clients' memory: shows whether a handler keeps such arrays.",
    ),
    Option(
        "access_log", parse_switch, True, None, _LOG, "A line to standard error for each request.",
    ),
    Option(
        "log_level", parse_choice(*LEVELS), "info", "LEVEL",
        _LOG, f"One of {', '.join(LEVELS)}.", "serve",
    ),
    Option(
        "reload", parse_switch, False, None,
        _DEVELOPMENT, "Start again whenever a Python file here changes. What runs then has 2 s"
        " to end, or --timeout-graceful-shutdown where given. Needs watchfiles.",
        "command",
    ),
)  # fmt: skip

BY_NAME: Final[Mapping[str, Option]] = {option.name: option for option in OPTIONS}


def resolve(given: Mapping[str, Any], audience: Audience) -> dict[str, Any]:
    """Check keywords and fill in defaults, for Server ("server") or serve() ("serve").

    None stands for the default where an option has no other meaning for it.

    Raises
    ------
    TypeError
        For a keyword that is no option.
    ValueError
        For a value that can't be; the message names the option.
    """
    audiences = {"server"} if audience == "server" else {"server", "serve"}
    known = {option.name: option for option in OPTIONS if option.audience in audiences}
    for name in given:
        if name not in known:
            raise TypeError(f"{name!r} is not an option; there are {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, option in known.items():
        value = given.get(name)
        try:
            values[name] = option.default if value is None else option.parse(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if values["max_inflight_bytes"] is None:
        values["max_inflight_bytes"] = default_max_inflight_bytes()
    return values


# ---- memory --------------------------------------------------------------------------------------


def default_max_inflight_bytes(root: Path = Path("/")) -> int:
    """A quarter of the memory this process may have: the smaller of RAM and its cgroups' limits.

    ``root`` is where /proc and /sys are, for tests.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_cgroup_limits(root)]) // 4


def _cgroup_limits(root: Path) -> list[int]:
    """Every memory limit from this process's cgroups up to their mounts, v1 and v2.

    In a container the path in /proc may be the host's, not to be found under the mount; the
    mount's own top is then the container's cgroup, and is always read.
    """
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            text = _read(mount / folder / name).strip()
            if text.isdecimal() and int(text) > 0:  # v2 says "max" for none
                limits.append(int(text))
    return limits


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
