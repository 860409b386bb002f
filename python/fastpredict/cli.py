"""The command line.

Exit status: 0 after a drain, 2 for a command that can't be carried out, 3 when a start-up function
failed. 1 (the drain took too long) and 128 + signal (a second signal) come from the network thread.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click
import numpy as np
from click.core import ParameterSource

from fastpredict import _core
from fastpredict._version import __version__
from fastpredict.app import App
from fastpredict.call import call
from fastpredict.log import to_stderr
from fastpredict.options import OPTIONS, Audience, Option, parse_switch
from fastpredict.reload import ReloadError, serve_reloading
from fastpredict.server import StartupError, serve
from fastpredict.target import TargetError, load_app

EXIT_USAGE = 2
EXIT_STARTUP = 3

_TARGET_NAMES = ("interface", "factory", "path", "dtype", "shape")
_ARGUMENTS = "fastpredict.arguments"  # of click's context: what was typed


# click's types are generic for checkers in newer versions only.
if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType


class _Value(_ParamType):
    """The type of an option of the table, for click."""

    def __init__(self, option: Option) -> None:
        self.name = option.metavar or "switch"
        self._parse = option.parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(f"{error}", param, ctx)


class _Option(click.Option):
    """A click option that knows its group, and is not misled by Kubernetes.

    For a Service named fastpredict, Kubernetes sets FASTPREDICT_PORT=tcp://10.0.0.1:8000.
    """

    def __init__(self, option: Option) -> None:
        if option.parse is parse_switch:
            # A setting may come from the environment, and must then be taken back.
            setting = option.audience != "command"
            flags = f"{option.flag}/--no-{option.flag[2:]}" if setting else option.flag
            kind: dict[str, Any] = {"is_flag": True}
        else:
            flags = option.flag
            kind = {"type": _Value(option), "metavar": option.metavar}
        default = option.default
        says_default = "Default:" in option.help or default is None or isinstance(default, bool)
        text = option.help if says_default else f"{option.help} Default: {_shown(default)}."
        super().__init__(
            [flags, option.name],
            default=default,
            help=text,
            envvar=option.env,
            show_envvar=True,
            **kind,
        )
        self.group = option.group

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        return None if value is not None and value.startswith("tcp://") else value


class _OneLine(click.ClickException):
    """What is wrong with the command line, without the usage that click prints above it."""

    exit_code = EXIT_USAGE

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"fastpredict: {self.message}", file=file, err=file is None)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if error.message.count("\n"):  # the help, for a command line without a command
            raise
        command = error.ctx.command_path if error.ctx else "fastpredict"
        line = f"{error.format_message().rstrip('.')} (see {command} --help)"
        raise _OneLine(line) from None


class Group(click.Group):
    """A group whose errors are one line.

    Its own parsing is done in make_context, that of its commands in invoke.
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        typed = tuple(args)  # parsing takes them out of the list
        with _in_one_line():
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[_ARGUMENTS] = typed
        return context

    def invoke(self, ctx: click.Context) -> Any:
        with _in_one_line():
            return super().invoke(ctx)


class _ServeCommand(click.Command):
    """A command whose --help shows options group by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups.setdefault(getattr(param, "group", "Help"), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)


def _shown(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(
            f"fastpredict {__version__}, libh2o {_core.LIBH2O_VERSION}, NumPy {np.__version__}"
        )
        ctx.exit()


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show our version, libh2o's and NumPy's.",
)
def main() -> None:
    """Serve a predict function over HTTP; bodies are received straight into NumPy arrays."""
    _fill_standard_descriptors()


def _fill_standard_descriptors() -> None:
    """Make 0, 1 and 2 what they are to everybody, for those who start us with one closed.

    What is opened first would get the number, and the access log be written into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _serve_command(target: str, reload: bool, **values: Any) -> None:
    """Serve TARGET: module:attribute or path/to/file.py:attribute.

    TARGET is a fastpredict.App, a WSGI application such as Flask's, or a plain function, which is
    served at POST /predict. The attribute defaults to "app". Each option can be set by the
    environment variable beside it, too; the flag wins.
    """
    if reload:
        _serve_reloading(target, values)
    target_values = {name: values.pop(name) for name in _TARGET_NAMES}
    run(lambda: load_app(target, **target_values), values)


def run(load: Callable[[], App], values: Mapping[str, Any]) -> None:
    """Serve what ``load`` returns until a signal; ends the process where that can't be done.

    ``values`` is what serve() takes. Main thread only; blocks.
    """
    with to_stderr(values["log_level"]):
        try:
            app = load()
        except TargetError as error:
            _end(str(error), EXIT_USAGE)
        try:
            serve(app, **values)
        except StartupError as error:
            _end(f"{error}; the traceback is in the log", EXIT_STARTUP)
        except OSError as error:
            _end(_in_words(error, values), EXIT_USAGE)
        except ValueError as error:
            _end(str(error), EXIT_USAGE)


def _serve_reloading(target: str, values: Mapping[str, Any]) -> NoReturn:
    """Run this command again in a child of its own, and again whenever a file changes."""
    context = click.get_current_context()
    source = context.get_parameter_source("timeout_graceful_shutdown")
    graceful = None if source is ParameterSource.DEFAULT else values["timeout_graceful_shutdown"]
    try:
        status = serve_reloading(
            context.meta[_ARGUMENTS], target, fd=values["fd"], graceful_s=graceful
        )
    except ReloadError as error:
        _end(str(error), EXIT_USAGE)
    except OSError as error:
        _end(_in_words(error, values), EXIT_USAGE)
    sys.exit(status)


def _in_words(error: OSError, values: Mapping[str, Any]) -> str:
    """An address that can't be served, in a line that names it."""
    reason = error.strerror or str(error)
    file = f" ({error.filename})" if error.filename else ""
    given = [
        f"--{name} {values[name]}"
        for name in ("host", "port", "uds", "fd")
        if values[name] is not None
    ]
    return f"can't serve on {' '.join(given) or 'the default address'}: {reason}{file}"


def _end(line: str, status: int) -> NoReturn:
    click.echo(f"fastpredict: {line}", err=True)
    sys.exit(status)


def serve_command(
    callback: Callable[..., None], *audiences: Audience, argument: str | None = None
) -> click.Command:
    """Make a command "serve" with the options that the table has for these audiences.

    ``argument`` is the name of what it takes beside them. The help is the callback's docstring.
    """
    params: list[click.Parameter] = []
    if argument is not None:
        params.append(click.Argument([argument], metavar=argument.upper()))
    params += [_Option(option) for option in OPTIONS if option.audience in audiences]
    return _ServeCommand("serve", callback=callback, params=params, help=callback.__doc__)


main.add_command(call)
main.add_command(serve_command(_serve_command, "server", "serve", "command", argument="target"))
