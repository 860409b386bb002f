"""Serve a predict function over HTTP; a request body is received straight into its NumPy array."""

from fastpredict._version import __version__
from fastpredict.app import App
from fastpredict.request import Request
from fastpredict.response import Response
from fastpredict.server import Server, serve

__all__ = ["App", "Request", "Response", "Server", "__version__", "serve"]
