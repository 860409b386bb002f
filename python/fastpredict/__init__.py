"""Serve Flask apps and predict functions; a request body is received straight into its array."""

from fastpredict._version import __version__
from fastpredict.app import App
from fastpredict.client import Client
from fastpredict.client_async import AsyncClient
from fastpredict.client_errors import (
    BadInput,
    BadResponse,
    ClientConnectionError,
    ClientError,
    ClientTimeoutError,
    HandlerError,
    StatusError,
    Unavailable,
)
from fastpredict.request import Request
from fastpredict.response import Response
from fastpredict.server import Server, serve

__all__ = [
    "App",
    "AsyncClient",
    "BadInput",
    "BadResponse",
    "Client",
    "ClientConnectionError",
    "ClientError",
    "ClientTimeoutError",
    "HandlerError",
    "Request",
    "Response",
    "Server",
    "StatusError",
    "Unavailable",
    "__version__",
    "serve",
]
