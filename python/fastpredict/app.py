"""App: predict functions and models and what they take, and WSGI applications beside them.

It knows no server; serve() and Server take it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy.typing as npt

from fastpredict.models import Model, TensorLike, check_name, make_model, model_of
from fastpredict.route import (
    Handler,
    PredictRoute,
    ShapeLike,
    is_async,
    is_generator,
    make_route,
    name_of,
)
from fastpredict.wsgi import Application, Mount, make_mount

_F = TypeVar("_F", bound=Callable[..., Any])


class App:
    """A set of predict routes, models and mounts, and the functions to run before and after.

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
        self._models: dict[str, Model] = {}
        self._mounts: dict[str, Mount] = {}
        self._startup: list[Callable[[], object]] = []
        self._shutdown: list[Callable[[], object]] = []

    def predict(
        self,
        path: str,
        *,
        dtype: npt.DTypeLike | None = None,
        shape: ShapeLike = None,
        name: str | None = None,
    ) -> Callable[[_F], _F]:
        """Serve a function at ``POST path``. The function is returned unchanged.

        It is a model of the Open Inference Protocol, too: ``POST /v2/models/NAME/infer``, with the
        input INPUT0 and the output OUTPUT0.

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
        name
            Of the model. None: the function's name or, where that is taken or can't be a name,
            the path with "_" for "/"; and no model for a dtype that the protocol doesn't have.

        Raises
        ------
        TypeError
            The function is async or can't be called with one array; the dtype holds objects or
            has items of no bytes; the shape is not made of integers.
        ValueError
            The path can't be served or has a handler already; the shape is out of range; the name
            can't be served or is another model's.
        """

        def decorate(handler: _F) -> _F:
            route = make_route(path, handler, dtype=dtype, shape=shape)
            if path in self._routes:
                owner = name_of(self._routes[path].handler)
                raise ValueError(f"the path {path!r} is served by {owner} already")
            model = model_of(route, name if name is not None else self._free_name(route))
            if model is None and name is not None:
                raise TypeError(f"no model can have the dtype {route.dtype}: leave name= out")
            if model is not None:
                self._add_model(model)
            self._routes[path] = route
            return handler

        return decorate

    def model(
        self, name: str, *, inputs: Mapping[str, TensorLike], outputs: Mapping[str, TensorLike]
    ) -> Callable[[_F], _F]:
        """Serve a function of several arrays at ``POST /v2/models/NAME/infer``.

        The Open Inference Protocol is how several arrays are sent: ``tritonclient``, or
        :meth:`fastpredict.Client.infer`. The function is called with the arrays by name, and
        returns a dict of arrays; where there is one output, the array alone will do. It is returned
        unchanged.

        Parameters
        ----------
        name
            Of the model, in the path.
        inputs, outputs
            By name, a dtype and a shape: -1 for any length, shape None for 1-D; dtype None for any,
            then with shape None for any shape. ``"BF16"`` (uint16 unless ml_dtypes is installed)
            and ``"BYTES"`` (an object array of bytes) are there, too.

        Raises
        ------
        TypeError
            The function is async or can't be called with these inputs; a dtype has no datatype.
        ValueError
            The name can't be served or is another model's; a shape is out of range; there are no
            inputs or no outputs.

        Examples
        --------
        >>> @app.model("scale", inputs={"image": ("float32", (-1, 3000)), "by": ("float32", 1)},
        ...            outputs={"image": ("float32", (-1, 3000))})
        ... def scale(image, by):
        ...     return {"image": image * by}
        """

        def decorate(handler: _F) -> _F:
            self._add_model(make_model(name, handler, inputs=inputs, outputs=outputs))
            return handler

        return decorate

    def mount(self, path: str, wsgi_app: Application) -> None:
        """Serve a WSGI application, such as a Flask app, at a path and all that is under it.

        It gets every method and body; ``wsgi.input.read()`` returns the memory that the body was
        received into as bytes, not copied. Predict routes win over mounts, and of two mounts the
        longer one wins. It is called in the predict threads, one call at a time in each.

        Parameters
        ----------
        path
            "/", or a prefix such as "/api", which is then SCRIPT_NAME. Compared with the
            percent-decoded path, by whole segments. Not under /livez or /readyz.
        wsgi_app
            A callable as in PEP 3333. It may be mounted more than once.

        Raises
        ------
        TypeError
            It is not a WSGI application: not callable, async, ASGI.
        ValueError
            The path can't be served, or an application is mounted there already.

        Examples
        --------
        >>> app.mount("/", flask_app)
        """
        mount = make_mount(path, wsgi_app)
        if path in self._mounts:
            owner = self._mounts[path].name
            raise ValueError(f"the application {owner} is mounted at {path!r} already")
        self._mounts[path] = mount

    def on_startup(self, function: _F) -> _F:
        """Run this in each predict thread before it takes its first request.

        Load the model here: it is then made by the thread that uses it. Until all are done,
        /readyz and predict routes answer 503. One that raises ends the start. Returns the function
        unchanged.

        Raises
        ------
        TypeError
            It is async, a generator, or can't be called without arguments.
        """
        self._startup.append(_check_hook(function))
        return function

    def on_shutdown(self, function: _F) -> _F:
        """Run this in each predict thread after its last request. Returns the function unchanged.

        What it raises goes to the log; the others run all the same.

        Raises
        ------
        TypeError
            It is async, a generator, or can't be called without arguments.
        """
        self._shutdown.append(_check_hook(function))
        return function

    @property
    def routes(self) -> tuple[PredictRoute, ...]:
        """The routes as they are now, in the order in which they were made."""
        return tuple(self._routes.values())

    @property
    def models(self) -> tuple[Model, ...]:
        """The models as they are now, those of predict routes with them."""
        return tuple(self._models.values())

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The mounts as they are now, in the order in which they were made."""
        return tuple(self._mounts.values())

    @property
    def startup(self) -> tuple[Callable[[], object], ...]:
        """The start-up functions as they are now."""
        return tuple(self._startup)

    @property
    def shutdown(self) -> tuple[Callable[[], object], ...]:
        """The shut-down functions as they are now."""
        return tuple(self._shutdown)

    def _add_model(self, model: Model) -> None:
        if model.name in self._models:
            owner = name_of(self._models[model.name].handler)
            raise ValueError(f"the model {model.name!r} is {owner} already; give another name=")
        self._models[model.name] = model

    def _free_name(self, route: PredictRoute) -> str:
        """Return what a route's model is called when nobody says."""
        name = getattr(route.handler, "__name__", "")
        try:
            check_name(name)
        except (TypeError, ValueError):
            name = ""
        if not name.isidentifier() or name in self._models:
            name = route.path.strip("/").replace("/", "_") or "predict"
        free, count = name, 1
        while free in self._models:
            count += 1
            free = f"{name}_{count}"
        return free


def app_of(function: Handler, path: str, dtype: npt.DTypeLike | None, shape: ShapeLike) -> App:
    """Make an app of one plain function. Raises as :meth:`App.predict`."""
    app = App()
    app.predict(path, dtype=dtype, shape=shape)(function)
    return app


def wsgi_app_of(wsgi_app: Application) -> App:
    """Make an app of one WSGI application, mounted at "/". Raises as :meth:`App.mount`."""
    app = App()
    app.mount("/", wsgi_app)
    return app


def _check_hook(function: _F) -> _F:
    name = name_of(function)
    if not callable(function):
        raise TypeError(f"expected a function, not {function!r}")
    if is_async(function):
        raise TypeError(f"{name} is async; it runs in a predict thread: use plain def")
    if is_generator(function):
        raise TypeError(f"{name} is a generator; called as it is, it would run nothing")
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise TypeError(f"{name} is called without arguments and requires some") from None
    except ValueError:
        pass  # a builtin that doesn't tell
    return function
