"""WSGI applications (PEP 3333): where they are mounted, their environ, and how one is called.

Runs in predict threads, but for :func:`make_mount`. The answer itself is
:mod:`fastpredict.wsgi_response`'s.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from fastpredict._version import __version__
from fastpredict.log import logger
from fastpredict.route import check_path, is_async, name_of
from fastpredict.wsgi_input import Input
from fastpredict.wsgi_response import Answer, FileWrapper

if TYPE_CHECKING:
    from fastpredict._core import Exchange

Environ: TypeAlias = dict[str, Any]
#: ``application(environ, start_response)``.
Application: TypeAlias = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

#: SERVER_NAME and SERVER_PORT where there is no TCP address; PEP 3333 wants them never empty.
LOCAL_SERVER = ("localhost", "80")


# ---- mounts --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Mount:
    """One WSGI application and its place. Immutable. Make it with :func:`make_mount`.

    Attributes
    ----------
    path
        "/", or a prefix of whole segments such as "/api".
    application
        The user's, called in predict threads.
    name
        How messages call it.
    """

    path: str
    application: Application
    name: str


def make_mount(path: str, application: Application) -> Mount:
    """Check everything and make a mount.

    Raises
    ------
    TypeError
        For what is no WSGI application; the message says what it is instead.
    ValueError
        For a path that can't be served.
    """
    check_path(path)
    if path != "/" and (path.endswith("/") or "//" in path):
        raise ValueError(
            f"the path {path!r} has an empty segment; an application is mounted at '/' or '/api'"
        )
    check_application(application)
    return Mount(path, application, application_name(application))


def application_name(application: object) -> str:
    """Return how messages call an application: a Flask app by its name, a function by its own."""
    for attribute in ("__qualname__", "name"):
        name = getattr(application, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(application).__name__


def check_application(application: object) -> None:
    """Raise TypeError for what can't be called as a WSGI application."""
    if not callable(application):
        raise TypeError(f"expected a WSGI application, got a {type(application).__name__}")
    name = name_of(application)
    if _looks_like_asgi(application):
        raise TypeError(f"{name} is an ASGI application; mount() takes WSGI applications")
    if is_async(application):
        raise TypeError(f"{name} is async; a WSGI application is plain def")
    if isinstance(application, type) and any("__call__" in vars(c) for c in application.__mro__):
        raise TypeError(f"{name} is a class whose instances can be called; mount an instance")
    try:
        inspect.signature(application).bind({}, None)
    except TypeError:
        raise TypeError(
            f"{name} can't be called with (environ, start_response), so it is no WSGI application"
        ) from None
    except ValueError:
        pass  # a builtin that doesn't tell


def _looks_like_asgi(application: Callable[..., Any]) -> bool:
    try:
        names = list(inspect.signature(application).parameters)
    except (TypeError, ValueError):
        return False
    return names[:3] == ["scope", "receive", "send"] or names == ["scope"]


# ---- requests ------------------------------------------------------------------------------------


class Site:
    """A mount on one server: all that is the same for each of its requests. All predict threads.

    Parameters
    ----------
    mount
        What to serve.
    urls
        Where the server listens.
    threads
        How many predict threads it has.
    """

    def __init__(self, mount: Mount, urls: Sequence[str], threads: int) -> None:
        self._application = mount.application
        self._name = mount.name
        script_name = "" if mount.path == "/" else as_wsgi(mount.path)
        self._script_length = len(script_name)
        server_name, server_port = _server_of(urls)
        self._base: Environ = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": script_name,
            "SERVER_NAME": server_name,
            "SERVER_PORT": server_port,
            "SERVER_SOFTWARE": f"fastpredict/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.multithread": threads > 1,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }

    def answer(self, exchange: Exchange, process: int) -> None:
        """Call the application and answer, whatever it does. A predict thread.

        Raises nothing; but in a child that the application forked, which isn't ``process`` and
        has nobody to answer, whatever ends it.
        """
        stream, answer = Input(exchange), Answer(exchange)
        environ: Environ = {}
        result: Any = None
        failure: str | None = None
        try:
            environ = self.environ(exchange, stream)
            result = self._application(environ, answer.start_response)
            if type(result) is not list:  # what runs behind the last block may read
                stream.keep()
            answer.send(result)
        except BaseException as error:  # SystemExit and KeyboardInterrupt of an application, too
            if os.getpid() != process:
                raise
            if not (answer.client_left and isinstance(error, BrokenPipeError)):
                self._log(environ, "failed", error)
            failure = type(error).__name__
        if failure is not None:  # not before the frames are gone, and what they hold of the body
            answer.fail(failure)
        if answer.complaint is not None:
            self._log(environ, answer.complaint)
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            if os.getpid() != process:
                raise
            self._log(environ, "failed while its result was closed", error)
        stream.detach()
        _errors.settle()

    def environ(self, exchange: Exchange, stream: Input) -> Environ:
        """Return a new environ for one request."""
        path, client = exchange.path, exchange.client
        if not path.isascii():
            path = as_wsgi(path)
        address, _, port = client.rpartition(":")
        target = exchange.target
        environ: Environ = {
            **self._base,
            "REQUEST_METHOD": exchange.method,
            "PATH_INFO": path[self._script_length :],
            "QUERY_STRING": exchange.query,
            "RAW_URI": target,
            "REQUEST_URI": target,
            "SERVER_PROTOCOL": exchange.http_version,
            "REMOTE_ADDR": address,
            "REMOTE_PORT": port,
            "wsgi.input": stream,
            "wsgi.errors": _errors,
        }
        if address[:1] == "[":
            environ["REMOTE_ADDR"] = address[1:-1]
        elif client == "unix":
            _add_local(environ)
        elif not address:  # gone before it was accepted: nobody whom an application would trust
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = "0.0.0.0", "0"
        _add_fields(environ, exchange.headers)
        if "HTTP_TRANSFER_ENCODING" in environ:  # the body is here, and its length is known
            del environ["HTTP_TRANSFER_ENCODING"]
            environ["CONTENT_LENGTH"] = str(exchange.nbytes)
        if target[:1] != "/":
            _set_host(environ, target)
        return environ

    def _log(self, environ: Environ, what: str, error: BaseException | None = None) -> None:
        """The exchange may be finished, so environ tells what was asked."""
        with contextlib.suppress(BaseException):  # logging that fails must not cost the answer
            # As it was sent: without control characters.
            target = str(environ.get("RAW_URI", "?")).partition("?")[0]
            method = environ.get("REQUEST_METHOD")
            line = "the WSGI application %s %s, at %s %s"
            logger.error(line, self._name, what, method, target, exc_info=error)


def as_wsgi(text: str) -> str:
    """Return text as PEP 3333 has it: each character is one byte of its UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _server_of(urls: Sequence[str]) -> tuple[str, str]:
    for url in urls:
        if url.startswith("http://"):
            name, _, port = url.removeprefix("http://").rpartition(":")
            return name, port
    return LOCAL_SERVER


def _add_local(environ: Environ) -> None:
    """A client on a Unix socket is this machine; some applications want an IP address."""
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = "127.0.0.1", "0"
    environ["SERVER_NAME"], environ["SERVER_PORT"] = LOCAL_SERVER


def _set_host(environ: Environ, target: str) -> None:
    """RFC 9112, section 3.2.2: the authority of an absolute-form target beats Host."""
    _, separator, rest = target.partition("://")
    if separator:
        environ["HTTP_HOST"] = rest.partition("/")[0].partition("?")[0]


# From field names to keys; "" for those that are not passed. Filled as they come, up to a bound:
# clients make names up, and long ones.
_KEYS = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
_KEYS_MAX = 512
_KEPT_NAME_MAX = 64


def _add_fields(environ: Environ, fields: list[tuple[str, str]]) -> None:
    for name, value in fields:
        key = _KEYS.get(name)
        if key is None:
            key = _key_of(name)
        if not key:
            continue
        if key in environ:
            separator = "; " if key == "HTTP_COOKIE" else ","
            environ[key] = f"{environ[key]}{separator}{value}"
        else:
            environ[key] = value


def _key_of(name: str) -> str:
    """X_Foo would pass for X-Foo, which a proxy may have set or removed: not passed."""
    key = "" if "_" in name else "HTTP_" + name.upper().replace("-", "_")
    if len(_KEYS) < _KEYS_MAX and len(name) <= _KEPT_NAME_MAX:
        _KEYS[name] = key
    return key


class _Errors(io.TextIOBase):
    """``wsgi.errors``: standard error, to which each thread writes whole lines.

    print() writes a text and its end apart; what another thread writes between them would stand in
    the same line.
    """

    def __init__(self) -> None:
        self._rest = threading.local()  # its .text is the beginning of a line

    def write(self, text: str) -> int:
        lines, end, rest = (getattr(self._rest, "text", "") + text).rpartition("\n")
        self._rest.text = rest
        if end and sys.stderr is not None:  # None in a process without one
            sys.stderr.write(lines + end)
        return len(text)

    def settle(self) -> None:
        """Let go of the beginning of a line at the end of a request. Raises nothing."""
        if getattr(self._rest, "text", ""):
            # Standard error may be closed, or a pipe that nobody reads: the line is lost then.
            with contextlib.suppress(Exception):
                self.flush()

    def flush(self) -> None:
        rest, self._rest.text = getattr(self._rest, "text", ""), ""
        if sys.stderr is not None:
            sys.stderr.write(rest)
            sys.stderr.flush()


_errors = _Errors()
