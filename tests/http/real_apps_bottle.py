"""A Bottle application, which knows of no server. Not a test: served by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import bottle
from real_apps_wait import wait_for

app = bottle.Bottle()


@app.get("/")
def hello() -> str:
    bottle.response.content_type = "text/plain"
    return "hello from bottle"


@app.post("/upload")
def upload() -> dict[str, object]:
    body = bottle.request.body.read()
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


@app.post("/file")
def file() -> dict[str, object]:
    sent = bottle.request.files["file"]
    digest = hashlib.file_digest(sent.file, "sha256").hexdigest()
    fields = dict(bottle.request.forms.items())
    return {"name": sent.raw_filename, "sha256": digest, "fields": fields}


@app.get("/stream")
def stream() -> Iterator[bytes]:
    bottle.response.content_type = "text/plain"
    path = bottle.request.query["until"]
    yield b"one\n"
    wait_for(path)
    yield b"two\n"


@app.get("/fail")
def fail() -> None:
    raise ValueError("on purpose")
