"""Builds fastpredict._core from pyext/ and csrc/; all else about the package is in pyproject.toml.

Two environment variables, for those who work on it:
    FASTPREDICT_WERROR=1                    a warning ends the build
    FASTPREDICT_SANITIZE=address,undefined  builds with these sanitizers; for the first of them,
                                            start Python with libasan in LD_PRELOAD
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LIBRARY = "libh2o-evloop"
# h2o.h includes OpenSSL's headers, but its package doesn't ask for them.
PACKAGES = "libh2o-evloop-dev libssl-dev"

MACROS = [
    ("_GNU_SOURCE", None),
    ("H2O_USE_EPOLL", "1"),  # as Debian built the library; its .pc file doesn't say so
    ("H2O_USE_LIBUV", "0"),
    ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
]

FLAGS = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-fvisibility=hidden"]


def pkg_config(option: str) -> list[str]:
    """The flags that pkg-config has for libh2o; ends the build where it has none."""
    if shutil.which("pkg-config") is None:
        raise SystemExit("fastpredict needs pkg-config to find libh2o: apt-get install pkg-config")
    command = ["pkg-config", option, LIBRARY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"fastpredict needs libh2o: apt-get install {PACKAGES}")
    return done.stdout.split()


def sanitizers() -> list[str]:
    names = os.environ.get("FASTPREDICT_SANITIZE")
    return [f"-fsanitize={names}", "-fno-omit-frame-pointer"] if names else []


class BuildCore(build_ext):
    """Finds libh2o only when something is compiled: an sdist and the metadata need none."""

    def build_extension(self, ext: Extension) -> None:
        if sys.platform != "linux":
            raise SystemExit(f"fastpredict runs on Linux only, not on {sys.platform}")
        import numpy

        flags = pkg_config("--cflags")
        ext.include_dirs += ["csrc", "pyext", numpy.get_include()]
        ext.extra_compile_args += [*FLAGS, *flags, *sanitizers()]
        # CPython's headers assert too; what they say shall not name a folder of this machine.
        ext.extra_compile_args.append(f"-fmacro-prefix-map={sysconfig.get_path('include')}/=")
        if os.environ.get("FASTPREDICT_WERROR") == "1":
            ext.extra_compile_args.append("-Werror")
        ext.extra_link_args += pkg_config("--libs") + sanitizers()
        self.check_header(flags)
        self.compile_side_by_side()
        super().build_extension(ext)

    def check_header(self, flags: list[str]) -> None:
        """One line about a package is a better answer than a page of errors about a header."""
        macros = [f"-D{name}={value}" for name, value in MACROS[1:3]]
        command = [*self.compiler.compiler_so, *macros, *flags, "-fsyntax-only", "-x", "c", "-"]
        try:
            done = subprocess.run(
                command, input="#include <h2o.h>\n", capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise SystemExit("fastpredict needs gcc: apt-get install gcc libc6-dev") from None
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise SystemExit(
                f"fastpredict needs the headers of libh2o: apt-get install {PACKAGES}"
                f" ({errors[0] if errors else done.stderr.strip()})"
            )

    def compile_side_by_side(self) -> None:
        """Keeps every core at it: setuptools compiles the files of one extension one by one."""
        compile_one = self.compiler.compile

        def compile_all(sources: Iterable[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_one([source], **options), sources)
                return [path for paths in objects for path in paths]

        self.compiler.compile = compile_all


setup(
    ext_modules=[
        Extension(
            "fastpredict._core",
            sources=sorted(glob("pyext/*.c")) + sorted(glob("csrc/*.c")),
            depends=sorted(glob("pyext/*.h")) + sorted(glob("csrc/*.h")),
            define_macros=MACROS,
            # Python's own flags say -DNDEBUG. Our assertions stay: a server that has lost track of
            # who owns some memory must stop there, not answer with it.
            undef_macros=["NDEBUG"],
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
