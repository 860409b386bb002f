"""Server and serve(): one app on its addresses, in the background or until a signal."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastpredict import _core, signals
from fastpredict._version import __version__
from fastpredict.app import App, wsgi_app_of
from fastpredict.engine import JOIN_BOUND, Engine, hooks_bound, remember
from fastpredict.log import say, to_stderr
from fastpredict.models import by_name
from fastpredict.options import DEFAULT_HOST, DEFAULT_PORT, ServeOptions, ServerOptions, resolve
from fastpredict.shared_memory import ClientMemory
from fastpredict.worker import Route
from fastpredict.wsgi import Application, Mount, Site

if TYPE_CHECKING:
    from typing_extensions import Unpack

# What goes to the core by its own name; the rest is used here.
_CORE_OPTIONS = (
    "max_request_body_size",
    "max_inflight_bytes",
    "max_queued_requests",
    "limit_concurrency",
    "timeout_head",
    "timeout_read",
    "timeout_write",
    "min_data_rate",
    "timeout_keep_alive",
    "timeout_queue",
    "timeout_graceful_shutdown",
    "access_log",
)


#: How often the main thread looks whether a drain has begun, and when it says that one lasts.
_LOOK_EVERY = 0.5


class StartupError(RuntimeError):
    """A start-up function raised; what it raised is the cause, and in the log."""


class Server:
    """An app served in the background: for notebooks, tests, and beside asyncio.

    Binds when made, serves from ``start()`` (or ``with``) to ``stop()``. Touches no signals.
    Several may run in one process. The app's routes and functions are those it has when the server
    is made.

    Parameters
    ----------
    app
        What to serve: an App, or a WSGI application, such as a Flask app.
    **options
        The command's flags, with underscores: ``port=0``, ``threads=2``, ``uds="/run/p.sock"``,
        ``max_request_body_size="64M"``. None stands for the default. Environment variables are
        not read.

    Raises
    ------
    TypeError
        For what is neither and for unknown options.
    ValueError
        For an option that is out of range.
    OSError
        For an address that can't be served.

    Examples
    --------
    >>> with fastpredict.Server(app, port=0) as server:
    ...     requests.post(server.url + "/predict", data=image.tobytes())
    """

    def __init__(self, app: App | Application, **options: Unpack[ServerOptions]) -> None:
        self._engine: Engine | None = None  # None before start() and once all has ended
        self._started = False
        app = _app_of(app)
        values = resolve(options, "server")
        self._options = values
        self._routes, self._mounts, self._models = app.routes, app.mounts, by_name(app.models)
        _check_v2(self._mounts, self._models)
        core_options = {name: values[name] for name in _CORE_OPTIONS}
        if sys.__stderr__ is None:  # closed at start: descriptor 2 is whatever was opened first
            core_options["access_log"] = False
        routes = [_core.Route(route.path, **route.limits()) for route in self._routes]
        routes += [_core.Route(mount.path, mount=True) for mount in self._mounts]
        for model in self._models.values():
            routes += [_core.Route(path, any_body=True) for path in model.infer_paths()]
        if self._models:
            routes.append(_core.Route("/v2", mount=True, control=True))
        self._core = _core.Server(routes, **core_options)
        remember(self._core)
        self._startup, self._shutdown = app.startup, app.shutdown
        try:
            self._urls = tuple(_listen(self._core, values))
        except BaseException:  # what it listens on already goes now, not with the traceback
            self._core.stop()
            raise

    @property
    def url(self) -> str:
        """Where it serves: "http://127.0.0.1:8000", or "unix:/run/p.sock". The first of several."""
        return self._urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """All the addresses that it serves."""
        return self._urls

    def start(self) -> None:
        """Start serving; returns when every start-up function is done.

        Raises
        ------
        RuntimeError
            It was started before, or stopped meanwhile; or a start-up function raised, which is
            then the cause.
        OSError
            The network thread can't be started.
        """
        engine = self._launch()
        try:
            error = engine.wait_ready()
        except BaseException:  # Ctrl-C while a model loads
            self._abort()
            raise
        if error is not None:
            self._abort()
            raise _startup_error(error) from error
        if not engine.gate.is_open():
            raise RuntimeError("the server was stopped while it started")

    def stop(self) -> None:
        """Stop accepting, finish what was accepted, end. May be called more than once.

        A server that was not started lets go of its addresses, and can't be started any more.

        Waits at most ``timeout_graceful_shutdown``, 0 is no bound; what isn't done by then is
        dropped.

        Raises
        ------
        RuntimeError
            Called inside a handler, which would wait for itself.
        """
        engine = self._engine
        if engine is None and not self._started:
            self._started = True  # never will be
            with contextlib.suppress(RuntimeError):  # in a child of fork()
                self._core.stop()
        if engine is None or engine.forked:
            return
        if engine.is_own_thread():
            raise RuntimeError("stop() inside a handler would wait for the handler itself")
        self._engine = None
        engine.core.drain()
        graceful = self._options["timeout_graceful_shutdown"]
        drained = False
        try:
            drained = engine.core.join(graceful or None)
        finally:  # also when Ctrl-C ends the waiting
            if not drained:
                engine.core.stop()
            # After a drain there are only shut-down functions to wait for.
            engine.join(hooks_bound(graceful) if drained else JOIN_BOUND)

    def stats(self) -> dict[str, int]:
        """Counters and gauges of the moment: connections, requests, queued, running and more."""
        return self._core.stats()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __del__(self) -> None:
        # __init__ may have raised before any of this existed.
        engine: Engine | None = getattr(self, "_engine", None)
        if engine is None or engine.forked:
            return
        warnings.warn(f"{self!r} was not stopped", ResourceWarning, source=self, stacklevel=2)
        # No waiting for predict threads: the collector may be running in one of them.
        engine.core.stop()
        engine.core.join(JOIN_BOUND)

    def __repr__(self) -> str:
        state = "serving" if self._engine else "stopped" if self._started else "not started"
        return f"<fastpredict.Server {getattr(self, '_urls', ('?',))[0]} {state}>"

    def _launch(self) -> Engine:
        """Start all threads, without waiting for the start-up functions."""
        if self._started:
            raise RuntimeError("a Server is started once; make another")
        threads = self._options["threads"]
        sites = [Site(mount, self._urls, threads) for mount in self._mounts]
        # In the order in which the core has them; all others are for the control thread.
        routes: list[Route] = [*self._routes, *sites]
        routes += [model for model in self._models.values() for _ in model.infer_paths()]
        engine = Engine(
            self._core,
            routes,
            self._models,
            self._startup,
            self._shutdown,
            threads,
            ClientMemory(self._options["allow_client_shm"]),
            self._options["copy_client_memory"],
        )
        self._started = True
        self._engine = engine  # stop() may come at any moment
        try:
            engine.start()
        except BaseException:
            self._engine = None
            raise
        return engine

    def _abort(self) -> None:
        """End now, without waiting for start-up functions that still run."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.core.stop()
            engine.join()


def serve(app: App | Application, **options: Unpack[ServeOptions]) -> None:
    """Serve an app until SIGTERM or SIGINT, as the command does. Blocks; main thread only.

    One line on standard error says where. The first signal stops accepting and finishes what was
    accepted; a second one ends the process at once. Signal handlers are as before when this
    returns.

    Parameters
    ----------
    app
        What to serve.
    **options
        The command's flags, with underscores, as for :class:`Server`, and ``log_level``.

    Raises
    ------
    TypeError, ValueError, OSError
        As :class:`Server`.
    RuntimeError
        Not on the main thread; or a start-up function raised, which is then the cause.

    Examples
    --------
    >>> fastpredict.serve(app, port=8000, threads=2)
    """
    values = resolve(options, "serve")
    log_level = values.pop("log_level")
    with to_stderr(log_level):
        server = Server(app, **values)
        _serve(server, lambda: _announce(server))


def _serve(server: Server, ready: Callable[[], None]) -> None:
    with signals.handed_over(server._core.watch_signals):
        try:
            engine = server._launch()
            error = engine.wait_ready()
            if error is not None:
                raise _startup_error(error) from error
            if not engine.core.join(0):
                ready()
            _wait(engine)
            # Drained: what is left are the shut-down functions.
            engine.join(hooks_bound(server._options["timeout_graceful_shutdown"]))
        finally:
            server._abort()


def _wait(engine: Engine) -> None:
    """Wait for the end; where a drain takes a while, say so."""
    while not engine.core.draining:
        if engine.core.join(_LOOK_EVERY):
            return
    if not engine.core.join(_LOOK_EVERY):
        say("fastpredict: finishing what was accepted; a second signal ends at once")
        engine.core.join()


def _app_of(app: App | Application) -> App:
    """Take an App as it is, and a WSGI application by itself. Raises TypeError."""
    if isinstance(app, App):
        return app
    if not callable(app):
        raise TypeError(
            f"expected a fastpredict.App or a WSGI application, got a {type(app).__name__}"
        )
    try:
        return wsgi_app_of(app)
    except TypeError as error:
        raise TypeError(f"expected a fastpredict.App or a WSGI application: {error}") from None


def _check_v2(mounts: Iterable[Mount], models: Container[str]) -> None:
    """Raise ValueError for a mount that the Open Inference Protocol would hide."""
    for mount in mounts:
        if models and (mount.path == "/v2" or mount.path.startswith("/v2/")):
            raise ValueError(
                f"{mount.name} is mounted at {mount.path}, but predict routes are models of the"
                " Open Inference Protocol, whose paths are under /v2; mount it elsewhere"
            )


def _startup_error(error: BaseException) -> StartupError:
    return StartupError(f"a start-up function raised {type(error).__name__}")


def _announce(server: Server) -> None:
    served = [f"POST {route.path}" for route in server._routes]
    served += [f"model {model.name}" for model in server._models.values() if model.by_keyword]
    served += [f"WSGI app {mount.name} at {mount.path}" for mount in server._mounts]
    routes = ", ".join(served) or "nothing"
    where = " and ".join(server.urls)
    say(f"fastpredict {__version__} serving {routes} on {where} (Ctrl-C to stop)")


@contextlib.contextmanager
def _named(address: str) -> Iterator[None]:
    """Let an OSError say which address it is about."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = address
        raise


def _listen(core: _core.Server, values: Mapping[str, Any]) -> list[str]:
    """Bind every address that is asked for; TCP by default, or where it is named beside others."""
    urls = []
    others = values["uds"] is not None or values["fd"] is not None
    if not others or values["host"] is not None or values["port"] is not None:
        host = DEFAULT_HOST if values["host"] is None else values["host"]
        port = DEFAULT_PORT if values["port"] is None else values["port"]
        with _named(f"{host}:{port}"):
            bound = core.listen_tcp(host, port)
        urls.append(f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}")
    if values["uds"] is not None:
        core.listen_unix(values["uds"], values["uds_mode"])
        urls.append(f"unix:{values['uds']}")
    if values["fd"] is not None:
        name = core.listen_fd(values["fd"])
        urls.append(name if name.startswith("unix:") else f"http://{name}")
    return urls
