"""fastpredict.Server, real, between its making and its end."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

import fastpredict


def app_of() -> fastpredict.App:
    app = fastpredict.App()
    app.predict("/length")(len)
    return app


def test_addresses_are_free_again_where_a_server_is_not_started(tmp_path: Path) -> None:
    """Whoever keeps the exception, as a notebook does, keeps no port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    server = fastpredict.Server(app_of(), port=port, uds=str(tmp_path / "socket"))
    server.stop()
    assert not (tmp_path / "socket").exists()
    kept = []
    for _ in range(2):
        with pytest.raises(OSError, match="nowhere") as error:
            fastpredict.Server(app_of(), port=port, uds="/nowhere/at/all")
        kept.append(error)
    with fastpredict.Server(app_of(), port=port, access_log=False):
        assert server.url.endswith(f":{port}")


def test_a_stop_while_it_starts_is_no_start() -> None:
    app, entered, go = app_of(), threading.Event(), threading.Event()

    @app.on_startup
    def load() -> None:
        entered.set()
        go.wait(10)

    server = fastpredict.Server(app, port=0, access_log=False)

    def stop() -> None:
        entered.wait(10)
        server.stop()

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(RuntimeError, match="stopped while it started"):
        server.start()
    go.set()
    stopping.join(10)
