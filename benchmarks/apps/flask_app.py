"""The Flask application that every WSGI server is measured with."""

from flask import Flask, Response, request

from benchmarks.apps.handlers import ANSWER_OBJECTS, HANDLERS, from_bytes

app = Flask(__name__)


def view() -> Response:
    return Response(from_bytes(request.path, request.data), mimetype="application/octet-stream")


for path in [*HANDLERS, *ANSWER_OBJECTS]:
    app.add_url_rule(path, path, view, methods=["POST"])


@app.get("/livez")
def livez() -> str:
    return "ok"
