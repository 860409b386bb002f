"""A Django project in one file, which knows of no server. Not a test: served by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path
from real_apps_wait import wait_for

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests only",
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)
django.setup()


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello from django", content_type="text/plain")


def upload(request: HttpRequest) -> JsonResponse:
    digest = hashlib.sha256(request.body).hexdigest()
    return JsonResponse({"bytes": len(request.body), "sha256": digest})


def file(request: HttpRequest) -> JsonResponse:
    sent = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in sent.chunks():
        digest.update(chunk)
    fields = {name: request.POST[name] for name in request.POST}
    return JsonResponse({"name": sent.name, "sha256": digest.hexdigest(), "fields": fields})


def stream(request: HttpRequest) -> HttpResponseBase:
    def parts() -> Iterator[bytes]:
        yield b"one\n"
        wait_for(request.GET["until"])
        yield b"two\n"

    return StreamingHttpResponse(parts(), content_type="text/plain")


urlpatterns = [
    path("", hello),
    path("upload", upload),
    path("file", file),
    path("stream", stream),
]

app = get_wsgi_application()
