"""App: predict functions and what they take. It knows no server; serve() and Server take it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy.typing as npt

from fastpredict.route import (
    Handler,
    PredictRoute,
    ShapeLike,
    is_async,
    make_route,
    name_of,
)

_F = TypeVar("_F", bound=Callable[..., Any])


class App:
    """A set of predict routes with the functions to run before and after serving.

    A server takes what the app holds when the server is made; what is added later is not served.

    Examples
    --------
    >>> app = fastpredict.App()
    >>> @app.predict("/predict", dtype=np.float32, shape=(3000, 2500))
    ... def predict(image):
    ...     return image.mean(axis=1).std(axis=0)
    """

    def __init__(self) -> None:
        self._routes: dict[str, PredictRoute] = {}
        self._startup: list[Callable[[], object]] = []
        self._shutdown: list[Callable[[], object]] = []

    def predict(
        self, path: str, *, dtype: npt.DTypeLike | None = None, shape: ShapeLike = None
    ) -> Callable[[_F], _F]:
        """Serve a function at ``POST path``. The function is returned unchanged.

        It is called in a predict thread with one ndarray of this dtype and shape: the memory the
        body was received into, writable, not copied, aligned to 64 bytes (a body sent as JSON, or
        as .npy with an odd header, is copied). The array may be kept, passed to other threads and
        outlive the server. With a parameter named ``request`` the function gets a
        :class:`fastpredict.Request` as well.

        Parameters
        ----------
        path
            Starts with "/"; compared with the percent-decoded path, exactly. Not under /livez or
            /readyz.
        dtype
            Of the array. Raw bodies are in its own byte order. None: the request says (.npy), and
            uint8 where it doesn't.
        shape
            Of the array; -1 stands for any length on an axis, None for 1-D. With two or more -1,
            bodies must be .npy or JSON: raw bytes don't tell the shape. With neither a dtype nor
            a shape, a .npy body may have any.

        Raises
        ------
        TypeError
            The function is async or can't be called with one array; the dtype holds objects or
            has items of no bytes; the shape is not made of integers.
        ValueError
            The path can't be served or has a handler already; the shape is out of range.
        """

        def decorate(handler: _F) -> _F:
            route = make_route(path, handler, dtype=dtype, shape=shape)
            if path in self._routes:
                owner = name_of(self._routes[path].handler)
                raise ValueError(f"the path {path!r} is served by {owner} already")
            self._routes[path] = route
            return handler

        return decorate

    def on_startup(self, function: _F) -> _F:
        """Run this in each predict thread before it takes its first request.

        Load the model here: it is then made by the thread that uses it. Until all are done,
        /readyz and predict routes answer 503. One that raises ends the start. Returns the function
        unchanged.

        Raises
        ------
        TypeError
            It is async or can't be called without arguments.
        """
        self._startup.append(_check_hook(function))
        return function

    def on_shutdown(self, function: _F) -> _F:
        """Run this in each predict thread after its last request. Returns the function unchanged.

        What it raises goes to the log; the others run all the same.

        Raises
        ------
        TypeError
            It is async or can't be called without arguments.
        """
        self._shutdown.append(_check_hook(function))
        return function

    @property
    def routes(self) -> tuple[PredictRoute, ...]:
        """The routes as they are now, in the order in which they were made."""
        return tuple(self._routes.values())

    @property
    def startup(self) -> tuple[Callable[[], object], ...]:
        """The start-up functions as they are now."""
        return tuple(self._startup)

    @property
    def shutdown(self) -> tuple[Callable[[], object], ...]:
        """The shut-down functions as they are now."""
        return tuple(self._shutdown)


def app_of(function: Handler, path: str, dtype: npt.DTypeLike | None, shape: ShapeLike) -> App:
    """Make an app of one plain function. Raises as :meth:`App.predict`."""
    app = App()
    app.predict(path, dtype=dtype, shape=shape)(function)
    return app


def _check_hook(function: _F) -> _F:
    name = name_of(function)
    if not callable(function):
        raise TypeError(f"expected a function, not {function!r}")
    if is_async(function):
        raise TypeError(f"{name} is async; it runs in a predict thread: use plain def")
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise TypeError(f"{name} is called without arguments and requires some") from None
    except ValueError:
        pass  # a builtin that doesn't tell
    return function
