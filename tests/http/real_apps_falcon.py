"""A Falcon application, which knows of no server. Not a test: served by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import falcon
from real_apps_wait import wait_for


class Hello:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.text = "hello from falcon"
        response.content_type = falcon.MEDIA_TEXT


class Upload:
    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        body = request.bounded_stream.read()
        response.media = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


class File:
    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        answer: dict[str, object] = {"fields": {}}
        for part in request.get_media():
            if part.name == "file":
                digest = hashlib.sha256()
                while chunk := part.stream.read(1 << 20):
                    digest.update(chunk)
                answer |= {"name": part.filename, "sha256": digest.hexdigest()}
            else:
                answer["fields"] = {part.name: part.text}
        response.media = answer


class Stream:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        path = request.get_param("until", required=True)

        def parts() -> Iterator[bytes]:
            yield b"one\n"
            wait_for(path)
            yield b"two\n"

        response.stream = parts()
        response.content_type = falcon.MEDIA_TEXT


class Fail:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        raise ValueError("on purpose")


app = falcon.App()
app.add_route("/", Hello())
app.add_route("/upload", Upload())
app.add_route("/file", File())
app.add_route("/stream", Stream())
app.add_route("/fail", Fail())
