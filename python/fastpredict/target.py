"""TARGET of the command line: finding it, and telling what it is. All errors are one line."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

from fastpredict.app import App, app_of, wsgi_app_of
from fastpredict.log import logger
from fastpredict.route import ShapeLike, name_of

DEFAULT_ATTRIBUTE = "app"
DEFAULT_PATH = "/predict"

#: What Flask itself looks for in a module without an app.
_FACTORY_NAMES = ("create_app", "make_app")

Kind: TypeAlias = Literal["app", "wsgi", "function"]


class TargetError(Exception):
    """TARGET can't be served; the message is the one line that the user gets."""


def load_app(
    target: str,
    *,
    interface: str = "auto",
    factory: bool = False,
    path: str | None = None,
    dtype: str | None = None,
    shape: ShapeLike = None,
) -> App:
    """Import TARGET and make an App of it.

    Parameters
    ----------
    target
        ``module:attribute`` or ``path/to/file.py:attribute``; the attribute defaults to ``app``.
    interface
        "auto", "predict" or "wsgi".
    factory
        Whether TARGET is to be called, without arguments, for what is served.
    path, dtype, shape
        For a plain function; None where not given.

    Raises
    ------
    TargetError
        It can't be found, imported or served.
    """
    found = find(target)
    if factory:
        found = _make(found, target)
    elif interface != "predict" and _is_factory(found, _split(target)[1].rpartition(".")[2]):
        raise TargetError(
            f"{target} is a factory by its name: --factory {target} serves what it returns,"
            " --interface predict the function itself"
        )
    kind = classify(found, interface, target)
    given = {"--path": path, "--dtype": dtype, "--shape": shape}
    useless = [flag for flag, value in given.items() if value is not None]
    if useless and kind != "function":
        what = "an App" if kind == "app" else "a WSGI application"
        raise TargetError(f"{target} is {what}: {', '.join(useless)} describes a plain function")
    if kind == "app":
        return _filled(found, target)
    try:
        if kind == "wsgi":
            return wsgi_app_of(found)
        return app_of(found, path or DEFAULT_PATH, dtype, shape)
    except (TypeError, ValueError) as error:
        makes = not _parameters(found) and not factory and not isinstance(found, type)
        hint = "; --factory serves what it returns" if makes else ""
        raise TargetError(f"{target} can't be served: {error}{hint}") from None


def _filled(app: App, target: str) -> App:
    if not (app.routes or app.models or app.mounts):
        raise TargetError(f"{target} is an App without a predict route, a model or a mount")
    return app


def find(target: str) -> Any:
    """Import the module or file and get the attribute. Raises TargetError."""
    _refuse_call(target)
    module_name, attribute = _split(target)
    if not module_name or not attribute:
        raise TargetError(f"{target!r} is not module:attribute or path/to/file.py:attribute")
    if module_name.endswith(".py") or "/" in module_name:
        module = _import_file(module_name)
    else:
        module = _import_module(module_name)
    found: Any = module
    place = f"{module_name}:"
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = _hint(found, part, place)
            raise TargetError(f"{module_name} has no attribute {attribute}{hint}") from None
        place += f"{part}."
    return found


def _split(target: str) -> tuple[str, str]:
    module_name, colon, attribute = target.rpartition(":")
    return (module_name, attribute) if colon else (target, DEFAULT_ATTRIBUTE)


def _refuse_call(target: str) -> None:
    """A factory is written with parentheses for gunicorn."""
    called, opening, arguments = target.partition("(")
    if ":" in called and opening and target.endswith(")"):
        without = "" if arguments == ")" else " without arguments"
        raise TargetError(f"{target} is a call: --factory {called} serves what it returns{without}")


def _hint(owner: Any, missing: str, place: str) -> str:
    """What was meant: a name much like it, or else what there can be served or makes such a thing.

    A module that was named alone was not searched for a name: what it holds comes first.
    """
    members = list(getattr(owner, "__dict__", {}).items())
    names = [
        name
        for name, value in members
        if isinstance(value, App) or (not isinstance(value, type) and _is_wsgi(value))
    ]
    names += [f"--factory {place}{name}" for name, value in members if _is_factory(value, name)]
    like = difflib.get_close_matches(missing, dir(owner), 1)
    names = names + like if missing == DEFAULT_ATTRIBUTE else like + names
    return f"; did you mean {names[0]}?" if names else ""


def _import_module(name: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:  # the console script's path lacks it
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise TargetError(f"there is no module named {error.name} here or installed") from None
        raise failed(f"importing {name}", error) from error
    except (Exception, SystemExit) as error:
        raise failed(f"importing {name}", error) from error


def _import_file(name: str) -> ModuleType:
    file = Path(name)
    if not file.is_file():
        raise TargetError(f"there is no file {name}")
    module_name = file.stem if file.stem not in sys.modules else f"_fastpredict_target_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file.resolve())
    if spec is None or spec.loader is None:
        raise TargetError(f"{name} is not a Python file: its name must end in .py")
    sys.path.insert(0, str(file.resolve().parent))  # as `python file.py` has it
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that its classes can be pickled
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise failed(f"importing {name}", error) from error
    return module


def _make(factory: Any, target: str) -> Any:
    if not callable(factory):
        raise TargetError(f"{target} is {_a(factory)}, not a factory that can be called")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise failed(f"calling the factory {target}", error) from error


def failed(doing: str, error: BaseException) -> TargetError:
    """One line for an exception in the user's code; the traceback is there for who asks."""
    logger.debug("%s failed", doing, exc_info=error)
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return TargetError(
        f"{doing} failed: {what}{_where(error)}; --log-level debug shows the traceback"
    )


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its text says so already
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[:1] != "<"
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


# ---- what it is ----------------------------------------------------------------------------------


def classify(found: Any, interface: str, target: str) -> Kind:
    """Tell what TARGET is; raise TargetError for all that can't be served.

    ``interface`` settles whether a callable is a WSGI application; "auto" asks its signature.
    """
    if isinstance(found, App):
        if interface == "wsgi":
            raise TargetError(f"{target} is a fastpredict.App, not a WSGI application")
        return "app"
    if isinstance(found, ModuleType) or not callable(found):
        raise TargetError(
            f"{target} is {_a(found)}, neither an App nor a function nor a WSGI application"
        )
    if interface != "predict":
        _refuse_asgi(found, target)
        if interface == "wsgi" or _is_wsgi(found):
            return "wsgi"
    if isinstance(found, type):
        raise TargetError(
            f"{target} is the class {name_of(found)}; give an instance, or --factory to make one"
        )
    return "function"


def _is_wsgi(found: Any) -> bool:
    """Whether it takes (environ, start_response), a class by its constructor (PEP 3333).

    The first parameter goes by many names: Falcon's is ``env``. The second one has the name that
    everybody gives it.
    """
    parameters = _parameters(found)
    places = [each for each in parameters if each.kind in _POSITIONAL]
    return (
        len(places) >= 2
        and places[1].name == "start_response"
        and not any(_is_required(each) for each in parameters if each not in places[:2])
    )


def _is_factory(found: Any, name: str) -> bool:
    """Whether a function of this name makes an app, and can be called without arguments."""
    return (
        name in _FACTORY_NAMES
        and callable(found)
        and not any(_is_required(each) for each in _parameters(found))
    )


def _refuse_asgi(found: Any, target: str) -> None:
    names = [each.name for each in _parameters(found) if each.kind in _POSITIONAL]
    if names[:3] == ["scope", "receive", "send"]:
        raise TargetError(
            f"{target} is an ASGI application, which fastpredict doesn't serve; it serves predict"
            " functions and WSGI applications: Django's get_wsgi_application() rather than"
            " get_asgi_application(), Flask rather than Quart, falcon.App rather than"
            " falcon.asgi.App"
        )


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in _VARIABLE


def _parameters(found: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(found).parameters.values())
    except Exception:  # a builtin that doesn't tell, or a proxy outside of what it stands for
        return []


def _a(found: object) -> str:
    kind = "module" if isinstance(found, ModuleType) else type(found).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
