"""What people install: the sdist, and the wheel that brings libh2o with it, by script/wheel.

The wheel is installed with pip alone, and serves from there: no test imports the checkout.
"""

from __future__ import annotations

import base64
import email.message
import email.parser
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CARRIED = ("libh2o-evloop", "libwslay")
SYSTEMS = {"libssl.so.3", "libcrypto.so.3", "libz.so.1", "libc.so.6", "ld-linux-x86-64.so.2"}
#: What serves the repository alone; an sdist doesn't hold it.
LEFT_OUT = re.compile(r"\.ci/|\.git(ignore|attributes|hub/)|.*/\.gitignore$")
SERVED = """
import numpy as np
import fastpredict

app = fastpredict.App()


@app.predict("/predict", dtype=np.float32, shape=(-1, 2500))
def predict(rows):
    return rows.sum(axis=1)
"""


@pytest.fixture(scope="session")
def made() -> tuple[Path, set[str]]:
    """The wheel for the Python that runs the tests, and what script/wheel says that it requires."""
    done = subprocess.run(
        [ROOT / "script/wheel", sys.executable], stdout=subprocess.PIPE, text=True, check=True
    )
    wheel, *required = done.stdout.splitlines()
    return ROOT / wheel, set(required)


@pytest.fixture(scope="session")
def wheel(made: tuple[Path, set[str]]) -> Path:
    return made[0]


@pytest.fixture(scope="session")
def sdist(wheel: Path) -> Path:
    """Made together with the wheel, and of the same version."""
    return wheel.with_name("-".join(wheel.name.split("-")[:2]) + ".tar.gz")


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment into which pip put the wheel and what it asks for, and nothing else."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--only-binary=:all:", wheel], check=True)
    return environment


class Server:
    """`fastpredict serve` from an environment, for as long as the block lasts."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def post(self, body: bytes) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", "/predict", body)
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer
            return answer
        finally:
            connection.close()

    def mapped(self) -> set[Path]:
        """The libraries in its memory."""
        lines = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
        paths = {Path(line.split(maxsplit=5)[5]) for line in lines if line.count("/")}
        return {path for path in paths if ".so" in path.name}


@contextmanager
def serving(environment: Path, folder: Path, *before: str) -> Iterator[Server]:
    """`before` are words of the command line ahead of it."""
    (folder / "served.py").write_text(SERVED)
    command = [*before, str(environment / "bin/fastpredict"), "serve", "served.py:app"]
    process = subprocess.Popen(
        [*command, "--port", "0"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", first)
        if found is None:
            process.kill()
            pytest.fail(first + process.stderr.read())
        yield Server(process, int(found[1]))
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def assert_it_answers(server: Server) -> None:
    """Bodies that lie in a bytes object and in a slot of their own."""
    for rows in (1, 3000):
        values = np.arange(rows * 2500, dtype=np.float32).reshape(rows, 2500) % 7
        answer = np.frombuffer(server.post(values.tobytes()), np.float32)
        np.testing.assert_array_equal(answer, values.sum(axis=1))


def system_copies() -> list[Path]:
    """The files that the dynamic linker would find for what the wheel carries."""
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    paths = (line.rpartition(" => ")[2] for line in known.stdout.splitlines())
    return sorted({Path(path).resolve() for path in paths if Path(path).name.startswith(CARRIED)})


def hidden() -> list[str]:
    """Words that run a command where an empty file lies over each of the system's copies."""
    covers = [f"mount --bind /dev/null '{path}'" for path in system_copies()]
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = " && ".join(["set -e", *covers, 'exec "$@"'])
    return ["unshare", "--mount", *as_root, "sh", "-c", script, "sh"]


def can_hide() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*hidden(), "true"], capture_output=True, check=False).returncode == 0


def test_the_sdist_holds_what_the_repository_holds_and_nothing_else(sdist: Path) -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    ours = {
        name
        for name in listed.stdout.splitlines()
        if not LEFT_OUT.match(name) and (ROOT / name).is_file()
    }
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made_for_it = {"PKG-INFO", "setup.cfg"}
    held = {name for name in held if name not in made_for_it and ".egg-info/" not in name}
    assert held == ours


def test_the_wheel_carries_libh2o_and_wslay_and_leaves_openssl_and_zlib_to_the_system(
    made: tuple[Path, set[str]],
) -> None:
    path, required = made
    with zipfile.ZipFile(path) as archive:
        names = [Path(name) for name in archive.namelist()]
    carried = {name.name.split("-")[0] for name in names if name.parent.name.endswith(".libs")}
    assert carried == {"libh2o", "libwslay"}
    assert required == SYSTEMS


def test_the_wheel_is_typed_and_holds_no_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"fastpredict/py.typed", "fastpredict/_core.pyi"} <= set(names)
    folders = {name.split("/")[0] for name in names}
    assert {re.sub(r"-[\d.]+\w*\.", ".", name) for name in folders} == {
        "fastpredict",
        "fastpredict_h2o.libs",
        "fastpredict_h2o.dist-info",
    }
    assert not [name for name in names if name.endswith((".c", ".h"))]


def test_the_wheel_has_the_notice_of_each_library_that_it_carries(
    wheel: Path, metadata: email.message.Message
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        notices = {
            name.partition(".dist-info/licenses/")[2]: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/licenses/" in name
        }
    assert set(notices) == set(metadata.get_all("License-File"))
    for library, holder in (("libh2o-evloop", "Kazuho Oku"), ("libwslay", "Tatsuhiro Tsujikawa")):
        (notice,) = (text for name, text in notices.items() if name.startswith(library))
        assert holder in notice
        assert "Permission is hereby granted, free of charge" in notice
    assert metadata["License-Expression"] == "MIT AND BSD-2-Clause"


def test_the_record_tells_the_truth_about_every_file(wheel: Path) -> None:
    """The wheel was opened and closed again twice after it was built."""
    with zipfile.ZipFile(wheel) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        rows = [line.rsplit(",", 2) for line in archive.read(record).decode().splitlines()]
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, digest, _ in rows:
            if name != record:
                found = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest())
                assert digest == "sha256=" + found.rstrip(b"=").decode(), name


def test_nothing_in_the_wheel_names_a_folder_of_the_machine_that_built_it(wheel: Path) -> None:
    folders = [str(ROOT), str(Path.home()), sys.base_prefix if sys.base_prefix != "/usr" else None]
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not [f for f in folders if f and (f + "/").encode() in content], name


def test_the_metadata_names_the_distribution_its_requirements_and_extras(
    metadata: email.message.Message,
) -> None:
    assert metadata["Name"] == "fastpredict-h2o"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"client", "dev"} <= set(metadata.get_all("Provides-Extra"))
    plain = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    assert {re.split(r"[<>=]", text)[0] for text in plain} == {"numpy", "click"}
    labels = {text.split(",")[0] for text in metadata.get_all("Project-URL")}
    assert {"Homepage", "Source", "Issues", "Changelog", "Documentation"} <= labels
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_installed_with_pip_alone_it_serves_with_the_libraries_it_brought(
    installed: Path, tmp_path: Path
) -> None:
    with serving(installed, tmp_path) as server:
        assert_it_answers(server)
        loaded = {path for path in server.mapped() if path.name.startswith(CARRIED)}
        assert {path.name.split("-")[0] for path in loaded} == {"libh2o", "libwslay"}
        assert all(path.is_relative_to(installed.resolve()) for path in loaded), loaded


def test_it_serves_on_a_machine_that_has_no_libh2o(installed: Path, tmp_path: Path) -> None:
    if not can_hide():
        pytest.skip("a mount namespace is not permitted here")
    find = "import ctypes; ctypes.CDLL('libh2o-evloop.so.0.13')"
    gone = subprocess.run([*hidden(), sys.executable, "-c", find], capture_output=True, check=False)
    assert b"OSError" in gone.stderr
    with serving(installed, tmp_path, *hidden()) as server:
        assert_it_answers(server)


def test_a_build_without_libh2o_says_in_one_line_which_package_to_install(
    sdist: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w"]
    nowhere = {**os.environ, "PKG_CONFIG_LIBDIR": str(tmp_path), "PKG_CONFIG_PATH": ""}
    done = subprocess.run(
        [*command, tmp_path, sdist], env=nowhere, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "fastpredict needs libh2o: apt-get install libh2o-evloop-dev" in said
    assert "Traceback" not in said
