"""``python -m fastpredict call URL FILE``: sends an array and shows, or saves, what is answered.

Exit status: 0 for an answer, 1 for a call that failed, 2 for a command that can't be carried out.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final
from urllib.parse import urlsplit
from zipfile import BadZipFile

import click
import numpy as np

from fastpredict.client import Client
from fastpredict.client_codec import Array
from fastpredict.client_core import DEFAULT_RETRIES, DEFAULT_TIMEOUT
from fastpredict.client_errors import ClientError
from fastpredict.client_exchange import Progress

EXIT_FAILED: Final = 1
# A bar is for what takes long enough to look at it.
_BAR_DELAY_S: Final = 0.3


class _Failed(click.ClickException):
    """One line on standard error."""

    exit_code = EXIT_FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"fastpredict: {' '.join(self.message.split())}", file=file, err=file is None)


@click.command("call")
@click.argument("url")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--path", metavar="PATH", help="The route. Default: the URL's path, else /predict.")
@click.option("--model", metavar="NAME", help="Call this model by the Open Inference Protocol.")
@click.option(
    "--input", "input_name", metavar="NAME", help="The model's input. Default: its first."
)
@click.option("--out", metavar="FILE", help="Save the answer (.npy; .npz for several arrays).")
@click.option("--raw", is_flag=True, help="Send raw bytes, without dtype and shape in front.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=DEFAULT_TIMEOUT,
    metavar="S", show_default=True, help="Seconds for the whole call.",
)  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(min=0), default=DEFAULT_RETRIES, metavar="N",
    show_default=True, help="Times to try again when the server is busy.",
)  # fmt: skip
def call(url: str, file: str, path: str | None, model: str | None, **options: Any) -> None:
    """Send the array of a .npy FILE to the server at URL and print what it answers.

    URL is http://host:port, with the route's path or without, or unix:/path of a Unix socket.
    """
    if model is not None and path is not None:
        raise click.UsageError("--path and --model exclude each other")
    if model is None and options["input_name"] is not None:
        raise click.UsageError("--input is for --model")
    try:
        if model is None:
            url, path = _taken_apart(url, path)
        client = Client(url, timeout=options["timeout"], retries=options["retries"])
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with client, _in_one_line():
        array = _load(file)
        if model is None:
            with _bars() as progress:
                answers = {"": client.predict(
                    array, path or "/predict", npy=not options["raw"], progress=progress
                )}  # fmt: skip
        else:
            name = options["input_name"] or _first_input(client, model)
            answers = client.infer(model, {name: array})
        _hand_over(answers, options["out"])


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """What a call can fail with, as one line; a bug of ours keeps its traceback."""
    try:
        yield
    except (ClientError, ValueError, TypeError) as error:
        raise _Failed(str(error)) from None
    except OSError as error:
        raise _Failed(f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")) from None


def _taken_apart(url: str, path: str | None) -> tuple[str, str | None]:
    """Take a route's path out of a URL, where none is given beside it."""
    parts = urlsplit(url)
    if path is not None or parts.scheme != "http" or parts.path in ("", "/") or parts.fragment:
        return url, path
    query = f"?{parts.query}" if parts.query else ""
    return f"http://{parts.netloc}", parts.path + query


def _load(file: str) -> Array:
    """Map the file: what is sent comes from the page cache, and is read once."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:  # not .npy, cut short, or objects
        raise _Failed(f"{file} is no .npy file that can be sent: {error}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise _Failed(f"{file} is a .npz file, which holds several arrays; save one as .npy")
    return array


def _first_input(client: Client, model: str) -> str:
    said = client.model_metadata(model)
    try:
        return str(said["inputs"][0]["name"])
    except (KeyError, IndexError, TypeError):
        raise _Failed(f"the server doesn't say what {model} takes; give --input") from None


def _hand_over(answers: Mapping[str, Array], out: str | None) -> None:
    """Save what came, and print what it is."""
    if out is not None:
        with open(out, "wb") as file:
            if len(answers) == 1:
                np.save(file, next(iter(answers.values())), allow_pickle=True)
            else:
                arrays: dict[str, Any] = dict(answers)
                np.savez(file, **arrays)
    for name, array in answers.items():
        what = f"{name}: {array.dtype} {array.shape}".removeprefix(": ")
        click.echo(f"{what}, saved to {out}" if out is not None else f"{what} {_shown(array)}")


def _shown(array: Array) -> str:
    """The first values, on one line."""
    with np.printoptions(precision=6):
        values = [str(value) for value in array.ravel()[:6]]
    return f"[{' '.join(values)}{' ...' if array.size > 6 else ''}]"


@contextlib.contextmanager
def _bars() -> Iterator[Progress | None]:
    """A progress bar for each direction, where tqdm is installed and somebody looks on."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        yield None
        return
    with contextlib.ExitStack() as stack:
        bars: dict[str, Any] = {}

        def show(direction: str, done: int, total: int | None) -> None:
            if direction not in bars:
                bars[direction] = stack.enter_context(
                    tqdm(
                        desc=direction, total=total, unit="B", unit_scale=True, leave=False,
                        delay=_BAR_DELAY_S, file=sys.stderr,
                    )
                )  # fmt: skip
            bars[direction].update(done - bars[direction].n)

        yield show
