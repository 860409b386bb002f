"""``flask fastpredict serve``, which Flask finds by the entry point group ``flask.commands``.

Flask says which app: ``flask --app x``, FLASK_APP, app.py or wsgi.py, factories. Nothing else of
the package imports Flask, and this module only when the command runs: Flask imports it for each of
its own commands, too.
"""

from __future__ import annotations

from typing import Any

import click

from fastpredict.app import App, wsgi_app_of
from fastpredict.cli import Group, run, serve_command
from fastpredict.target import TargetError, failed


@click.group(cls=Group)
def group() -> None:
    """Serve the app with fastpredict."""


def _serve_flask(**values: Any) -> None:
    """Serve the Flask app with fastpredict: request.data is where the body was received.

    Each option can be set by the environment variable beside it, too; the flag wins. To start again
    when a Python file changes: python -m fastpredict serve --reload.
    """
    run(_load, values)


def _refuse_reload(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    """Say where it is to those who know ``flask run --reload``."""
    if wanted:
        raise click.UsageError(
            "--reload is not this command's: python -m fastpredict serve --reload module:app"
            " has it, with --factory module:create_app for a factory",
            ctx,
        )


def _load() -> App:
    """The app that Flask's own options name. Raises TargetError."""
    from flask.cli import NoAppException, ScriptInfo

    info = click.get_current_context().ensure_object(ScriptInfo)
    try:
        app = info.load_app()
    except NoAppException as error:
        lines = error.message.strip().splitlines()  # a traceback may be among them
        raise TargetError(" ".join(lines if len(lines) < 3 else (lines[0], lines[-1]))) from error
    except (Exception, SystemExit) as error:
        raise failed("loading the Flask app", error) from error
    return wsgi_app_of(app)


_serve = serve_command(_serve_flask, "server", "serve")
_serve.params.append(
    click.Option(
        ["--reload"], is_flag=True, hidden=True, expose_value=False, callback=_refuse_reload
    )
)
group.add_command(_serve)
