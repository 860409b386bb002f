"""App: what is refused when a function is decorated, and what the network thread is told."""

from __future__ import annotations

import functools

import fake_core  # noqa: F401  (first: it makes fastpredict importable)
import numpy as np
import pytest

import fastpredict


def plain(array):
    return array


def test_decorators_return_the_function_unchanged():
    app = fastpredict.App()
    assert app.predict("/predict", dtype="f4")(plain) is plain

    def hook():
        pass

    assert app.on_startup(hook) is hook
    assert app.on_shutdown(hook) is hook
    assert app.startup == app.shutdown == (hook,)


@pytest.mark.parametrize(
    "path", ["predict", "", "/livez", "/readyz", "/readyz/x", "/livez/", "/a?b", "/a/../b", "/a\n"]
)
def test_paths_that_no_request_reaches_or_that_health_owns_are_refused(path):
    with pytest.raises(ValueError, match="path"):
        fastpredict.App().predict(path)(plain)


def test_paths_that_only_resemble_health_are_served():
    fastpredict.App().predict("/livezone")(plain)


def test_a_second_handler_on_a_path_is_refused_and_names_the_first():
    app = fastpredict.App()
    app.predict("/a")(plain)
    with pytest.raises(ValueError, match="plain"):
        app.predict("/a")(lambda x: x)


@pytest.mark.parametrize("dtype", [object, "O", [("a", object)], "S", "V0", "S0", ("f4", (3,))])
def test_dtypes_that_a_body_cannot_be_are_refused(dtype):
    with pytest.raises(TypeError, match="dtype"):
        fastpredict.App().predict("/a", dtype=dtype)(plain)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 2")
def test_string_dtype_which_points_elsewhere_is_refused():
    with pytest.raises(TypeError, match="dtype"):
        fastpredict.App().predict("/a", dtype=np.dtypes.StringDType())(plain)


@pytest.mark.parametrize("shape", ["ab", (1.5,), (True,), object(), None.__class__])
def test_shapes_that_are_not_integers_are_refused(shape):
    with pytest.raises(TypeError, match="shape"):
        fastpredict.App().predict("/a", dtype="f4", shape=shape)(plain)


@pytest.mark.parametrize("shape", [(-2,), (1,) * 33, (2**40, 2**40)])
def test_shapes_out_of_range_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        fastpredict.App().predict("/a", dtype="f4", shape=shape)(plain)


async def async_handler(array):
    return array


async def async_generator(array):
    yield array


def generator(array):
    yield array


class AsyncCall:
    async def __call__(self, array):
        return array


class GeneratorCall:
    def __call__(self, array):
        yield array


def no_parameter():
    pass


def only_request(request):
    pass


def two_arrays(first, second):
    pass


def keyword_only(*, array):
    pass


def required_keyword(array, *, scale):
    pass


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        (async_handler, "async_handler"),
        (async_generator, "async_generator"),
        (generator, "generator"),
        (AsyncCall(), "AsyncCall"),
        (GeneratorCall(), "GeneratorCall"),
        (no_parameter, "no_parameter"),
        (only_request, "only_request"),
        (two_arrays, "second"),
        (keyword_only, "keyword_only"),
        (required_keyword, "scale"),
        (3, "3"),
    ],
)
def test_handlers_that_cannot_be_called_with_one_array_are_refused_by_name(handler, named):
    with pytest.raises(TypeError, match=named):
        fastpredict.App().predict("/a")(handler)


class Model:
    def predict(self, array, request=None):
        return array


@pytest.mark.parametrize(
    ("handler", "request_argument"),
    [
        (plain, "none"),
        (lambda *arrays: arrays, "none"),
        (lambda array, scale=2: array, "none"),
        (lambda array, **more: array, "none"),
        (np.sqrt, "none"),
        (lambda array, request: array, "keyword"),
        (lambda array, *, request: array, "keyword"),
        (lambda request, array: array, "first"),
        (Model().predict, "keyword"),
    ],
)
def test_handlers_with_and_without_request_are_taken(handler, request_argument):
    app = fastpredict.App()
    app.predict("/a")(handler)
    assert app.routes[0].request == request_argument


async def async_hook():
    pass


async def async_generator_hook():
    yield


def generator_hook():
    yield


class GeneratorHook:
    def __call__(self):
        yield


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (async_hook, "async_hook is async"),
        (async_generator_hook, "async_generator_hook is async"),
        (generator_hook, "generator_hook is a generator"),
        (functools.partial(generator_hook), "is a generator"),
        (GeneratorHook(), "is a generator"),
        (plain, "plain is called without arguments"),
        (3, "expected a function"),
    ],
)
def test_hooks_that_would_not_run_are_refused(hook, said):
    with pytest.raises(TypeError, match=said):
        fastpredict.App().on_startup(hook)
    with pytest.raises(TypeError, match=said):
        fastpredict.App().on_shutdown(hook)


def limits(dtype, shape):
    app = fastpredict.App()
    app.predict("/a", dtype=dtype, shape=shape)(plain)
    found = app.routes[0].limits()
    return found, (found["raw_unit_bytes"], found["raw_exact"], found["raw_allowed"])


@pytest.mark.parametrize(
    ("dtype", "shape", "raw", "words"),
    [
        ("f4", (3000, 2500), (30_000_000, True, True), "float32 of shape (3000, 2500), 30000000 b"),
        ("f4", None, (4, False, True), "float32 of shape (-1,), a multiple of 4 bytes"),
        ("f4", 5, (20, True, True), "float32 of shape (5,), 20 bytes"),
        ("f8", (-1, 3), (24, False, True), "a multiple of 24 bytes"),
        ("f8", (), (8, True, True), "float64 of shape (), 8 bytes"),
        ("f8", (0, 3), (0, True, True), "0 bytes"),
        ("f8", (-1, 0), (0, False, True), "0 bytes"),
        ("f8", (-1, -1), (8, False, False), ".npy"),
        (">i2", (2,), (4, True, True), ">i2"),
        (None, None, (1, False, True), "uint8 of shape (-1,), any number of bytes; or a .npy"),
    ],
)
def test_the_network_thread_is_told_what_raw_bodies_may_be(dtype, shape, raw, words):
    found, figures = limits(dtype, shape)
    assert figures == raw
    assert words in found["expected"]


def test_npy_bodies_are_bounded_only_where_their_size_is_known():
    found, _ = limits("f4", (10,))
    assert 40 + 10_000 < found["npy_max_bytes"] < 40 + 10_100
    assert limits("f4", (-1,))[0]["npy_max_bytes"] == 0
    assert limits(None, (10,))[0]["npy_max_bytes"] == 0
