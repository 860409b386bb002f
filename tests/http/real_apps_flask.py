"""A Flask application, which knows of no server. Not a test: served by them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import flask
import numpy as np
from flask import Blueprint, Flask, request, session
from real_apps_wait import wait_for
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

app = Flask(__name__)
app.secret_key = "for tests only"
app.logger.setLevel(logging.INFO)


@app.get("/")
def hello() -> str:
    return "hello from flask"


@app.post("/upload")
def upload() -> dict[str, Any]:
    """The raw body."""
    return {"bytes": len(request.data), "sha256": hashlib.sha256(request.data).hexdigest()}


@app.post("/file")
def file() -> dict[str, Any]:
    """A file of a form."""
    sent = request.files["file"]
    digest = hashlib.file_digest(sent.stream, "sha256").hexdigest()
    return {"name": sent.filename, "sha256": digest, "fields": request.form.to_dict()}


@app.get("/stream")
def stream() -> flask.Response:
    path = request.args["until"]

    def parts() -> Iterator[str]:
        yield "one\n"
        wait_for(path)
        yield "two\n"

    return flask.Response(flask.stream_with_context(parts()), mimetype="text/plain")


@app.get("/fail")
def fail() -> None:
    raise ValueError("on purpose")


# ---- what comes in


@app.route("/say", methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
def say() -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.path,
        "url": request.url,
        "args": request.args.to_dict(flat=False),
        "form": request.form.to_dict(flat=False),
        "remote_addr": request.remote_addr,
        "agent": request.headers.get("User-Agent"),
        "length": request.content_length,
    }


@app.get("/named/<name>")
def named(name: str) -> dict[str, str]:
    return {"name": name, "url": flask.url_for("named", name=name, _external=True)}


@app.post("/json")
def echo_json() -> flask.Response:
    return flask.jsonify(request.get_json())


@app.post("/memory")
def memory() -> dict[str, Any]:
    """What request.data is, and where."""
    data = request.data
    address = ctypes.pythonapi.PyBytes_AsString
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object]
    array = np.frombuffer(data, np.uint8)
    return {
        "type": type(data).__name__,
        "is_bytes": isinstance(data, bytes),
        "is_same": request.data is data and request.get_data() is data,
        "bytes_at": address(data) or 0,
        "array_at": array.__array_interface__["data"][0],
        "sha256": hashlib.sha256(data).hexdigest(),
    }


# ---- what goes out


@app.get("/nothing")
def nothing() -> tuple[str, int]:
    return "", 204


@app.get("/elsewhere")
def elsewhere() -> Any:
    return flask.redirect(flask.url_for("named", name="there"))


@app.get("/large")
def large() -> bytes:
    return bytes(range(256)) * int(request.args["blocks"])


@app.get("/sent")
def sent() -> flask.Response:
    return flask.send_file(__file__, mimetype="text/plain", conditional=True)


@app.after_request
def mark(response: flask.Response) -> flask.Response:
    response.headers["X-Marked"] = "yes"
    return response


# ---- sessions, blueprints, errors


@app.get("/visit")
def visit() -> flask.Response:
    session["visits"] = session.get("visits", 0) + 1
    response = flask.make_response({"visits": session["visits"], "seen": request.cookies.get("a")})
    response.set_cookie("a", "b; c=d")
    response.set_cookie("e", "f", httponly=True)
    return response


admin = Blueprint("admin", __name__, url_prefix="/admin")


@admin.get("/home")
def home() -> str:
    return flask.url_for(".home")


@admin.errorhandler(NotFound)
def not_here(error: NotFound) -> tuple[str, int]:
    return "not in admin", 404


@admin.get("/missing")
def missing() -> None:
    flask.abort(404)


class Teapot(Exception):
    pass


@app.get("/tea")
def tea() -> None:
    raise Teapot


@app.errorhandler(Teapot)
def short_and_stout(error: Teapot) -> tuple[dict[str, str], int]:
    return {"error": "short and stout"}, 418


@app.errorhandler(404)
def no_such_page(error: NotFound) -> tuple[dict[str, str], int]:
    return {"error": f"no {request.path} here"}, 404


app.register_blueprint(admin)


# ---- how many at once, and what is logged

_together = threading.Barrier(4)
_inside = 0
_most = 0
_lock = threading.Lock()


@app.get("/inside")
def inside() -> dict[str, int]:
    """The most calls that were ever here at once."""
    global _inside, _most
    with _lock:
        _inside += 1
        _most = max(_most, _inside)
    time.sleep(0.002)  # lets the others in, if they may
    with _lock:
        _inside -= 1
    return {"most": _most}


@app.get("/together")
def together() -> dict[str, bool]:
    """Waits for three others."""
    _together.wait(timeout=20)
    return {"multithread": request.environ["wsgi.multithread"]}


@app.get("/chatter/<int:number>")
def chatter(number: int) -> str:
    """Two lines in the log."""
    app.logger.info("logged %d %s.", number, "x" * (number % 300))
    print(f"printed {number} {'y' * (number % 300)}.", file=request.environ["wsgi.errors"])
    return ""


# ---- the same with a limit of Flask's own

limited = Flask("limited")
limited.config["MAX_CONTENT_LENGTH"] = 1_000_000
limited.add_url_rule("/memory", view_func=memory, methods=["POST"])
limited.add_url_rule("/file", view_func=file, methods=["POST"])


@limited.errorhandler(RequestEntityTooLarge)
def too_large(error: RequestEntityTooLarge) -> tuple[str, int]:
    return "too large for Flask", 413


def create_app() -> Flask:
    """A factory, as Flask's documentation has it."""
    return app
