"""Tests of the models that an app has: what predict routes are called, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import fastpredict


def names(app: fastpredict.App) -> list[str]:
    return [model.name for model in app.models]


def test_a_route_is_a_model_by_its_functions_name():
    app = fastpredict.App()

    @app.predict("/predict", dtype=np.float32)
    def row_stats(array):
        return array

    assert names(app) == ["row_stats"]
    assert app.models[0].handler is row_stats


def test_a_given_name_wins():
    app = fastpredict.App()
    app.predict("/predict", dtype=np.float32, name="stats")(lambda array: array)
    assert names(app) == ["stats"]


def test_names_that_collide_by_default_fall_back_to_the_path():
    app = fastpredict.App()

    def predict(array):
        return array

    for path in ("/a", "/b/c", "/"):
        app.predict(path)(predict)
    app.predict("/d/e")(lambda array: array)
    app.predict("/d_e")(lambda array: array)
    assert names(app) == ["predict", "b_c", "predict_2", "d_e", "d_e_2"]


def test_a_given_name_that_is_taken_is_refused_and_loses_nothing():
    app = fastpredict.App()
    app.predict("/a", name="x")(lambda array: array)
    with pytest.raises(ValueError, match=r"'x' is .* already; give another name="):
        app.predict("/b", name="x")(lambda array: array)
    assert [route.path for route in app.routes] == ["/a"]
    with pytest.raises(ValueError, match="already"):
        app.model("x", inputs={"a": (None, None)}, outputs={"b": (None, None)})(lambda a: a)
    assert names(app) == ["x"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a?b"])
def test_a_name_that_no_request_reaches_is_refused(name):
    app = fastpredict.App()
    with pytest.raises((TypeError, ValueError)):
        app.predict("/a", name=name)(lambda array: array)
    assert not app.routes


def test_a_dtype_without_a_datatype_is_served_but_no_model():
    app = fastpredict.App()
    app.predict("/a", dtype=np.complex64)(lambda array: array)
    assert [route.path for route in app.routes] == ["/a"]
    assert not names(app)
    with pytest.raises(TypeError, match="leave name= out"):
        app.predict("/b", dtype=np.complex64, name="b")(lambda array: array)


def test_model_returns_the_function_unchanged():
    app = fastpredict.App()

    def add(a, b):
        return a + b

    decorated = app.model(
        "add",
        inputs={"a": ("float32", -1), "b": ("float32", -1)},
        outputs={"sum": ("float32", -1)},
    )(add)
    assert decorated is add
    assert names(app) == ["add"]


def test_an_app_of_models_only_can_be_served():
    app = fastpredict.App()
    app.model("same", inputs={"a": (None, None)}, outputs={"b": (None, None)})(lambda a: a)
    with fastpredict.Server(app, port=0) as server:
        assert server.url.startswith("http://127.0.0.1:")
