"""The ladder of the sources: nothing points back, and each outside world has its own door.

A grep, on purpose: it needs no compiler, sees files that are not built yet, and fails with the line
to look at.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC, PYEXT, PACKAGE = ROOT / "csrc", ROOT / "pyext", ROOT / "python" / "fastpredict"

# A module includes headers of its own rung and of those below. `fastpredict` is the public header:
# its types are what exchange and all above it speak, and it needs the lowest rung only.
LADDER = [
    ["server"],
    ["loop", "listener"],
    ["http1", "conn", "input", "response", "admit", "health"],
    ["body", "memfd", "routes", "accesslog", "chunked"],
    ["exchange", "lane", "mailbox"],
    ["fastpredict"],
    ["head", "uri", "slab", "region", "guard", "clock", "fdset", "config", "status"],
]
RUNG = {module: depth for depth, modules in enumerate(LADDER) for module in modules}

# Where a header of libh2o may be included. Elsewhere its types would spread.
KNOWS_H2O = {
    "http1", "conn", "response", "admit", "body", "health", "listener", "loop", "mailbox",
}  # fmt: skip

# What only pyext may include in C, and what the package may not import: csrc serves sockets.
PYTHON_HEADER = re.compile(r"Python\.h|structmember\.h|cpython/|numpy/")
H2O_HEADER = re.compile(r"h2o\.h|h2o/|picohttpparser\.h")
SOCKET_MODULES = {"socket", "socketserver", "selectors", "ssl", "http.server", "asyncio"}
# A socketpair for signal.set_wakeup_fd, and the client: nothing that listens.
MAY_IMPORT_SOCKET = {
    "signals.py": {"socket"},
    "client.py": {"socket"},
    "client_exchange.py": {"socket"},
    "client_lending.py": {"socket"},
    "client_transport.py": {"socket"},
    "client_async.py": {"socket", "asyncio"},
}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


class Include(NamedTuple):
    file: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: includes {self.name}"


def c_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.[ch]"))


def includes(folder: Path) -> Iterator[Include]:
    for path in c_files(folder):
        for number, text in enumerate(path.read_text().splitlines(), start=1):
            if found := re.match(r'\s*#\s*include\s*["<]([^">]+)[">]', text):
                yield Include(path, number, found[1])


def own_headers(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.h")}


def assert_none(wrong: list[str]) -> None:
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_csrc_file_has_a_rung() -> None:
    strangers = [path.name for path in c_files(CSRC) if path.stem not in RUNG]
    assert_none([f"csrc/{name}: give it a place in LADDER" for name in strangers])


def test_no_csrc_file_includes_upwards() -> None:
    ours = own_headers(CSRC)
    assert_none(
        [
            f"{include}, which stands above it"
            for include in includes(CSRC)
            if include.name in ours
            and RUNG.get(Path(include.name).stem, 0) < RUNG.get(include.file.stem, 0)
        ]
    )


def test_no_headers_of_csrc_include_each_other_in_a_ring() -> None:
    edges: dict[str, list[str]] = {name: [] for name in own_headers(CSRC)}
    for include in includes(CSRC):
        if include.file.suffix == ".h" and include.name in edges:
            edges[include.file.name].append(include.name)

    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in edges[name]:
                walk(target, [*path, name])
            done.add(name)

    for name in sorted(edges):
        walk(name, [])


def test_h2o_headers_stay_behind_their_doors() -> None:
    assert_none(
        [
            str(include)
            for include in includes(CSRC)
            if H2O_HEADER.match(include.name) and include.file.stem not in KNOWS_H2O
        ]
    )


def test_csrc_knows_no_python() -> None:
    assert_none([str(include) for include in includes(CSRC) if PYTHON_HEADER.match(include.name)])


def test_pyext_knows_only_the_public_header_of_csrc() -> None:
    private = own_headers(CSRC) - {"fastpredict.h"}
    assert_none(
        [
            str(include)
            for include in includes(PYEXT)
            if Path(include.name).name in private or H2O_HEADER.match(include.name)
        ]
    )


def test_pyext_and_csrc_share_no_header_name() -> None:
    assert own_headers(PYEXT) & own_headers(CSRC) == set()


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_package_has_no_socket_code() -> None:
    assert_none(
        [
            f"{path.relative_to(ROOT)}:{line}: imports {name}"
            for path in sorted(PACKAGE.rglob("*.py"))
            for line, name in imported_modules(path)
            if name in SOCKET_MODULES - MAY_IMPORT_SOCKET.get(path.name, set())
        ]
    )


def functions(path: Path) -> Iterator[tuple[int, int]]:
    """(line of the opening brace, lines between the braces) of each C function: braces in column 0,
    as .clang-format lays them out."""
    opened = 0
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        if text == "{":
            opened = number
        elif text == "}" and opened:
            yield opened, number - opened - 1
            opened = 0


@pytest.mark.parametrize("folder", [CSRC, PYEXT], ids=lambda folder: folder.name)
def test_c_files_and_functions_stay_short(folder: Path) -> None:
    wrong = []
    for path in c_files(folder):
        count = len(path.read_text().splitlines())
        if count >= MAX_FILE_LINES:
            wrong.append(f"{path.relative_to(ROOT)}: {count} lines; split it")
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: a function of {length} lines; split it"
            for line, length in functions(path)
            if length > MAX_FUNCTION_LINES
        ]
    assert_none(wrong)
