"""Serves the Flask application: python -m benchmarks.apps.wsgi SERVER PORT|/path

Each server as its documentation starts it, on one process. Access logs are off: that is in their
favour.
"""

import logging
import sys
from collections.abc import Callable

from benchmarks.apps.flask_app import app

HOST = "127.0.0.1"


def flask(address: str) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app.run(HOST, int(address), threaded=False)


def waitress(address: str) -> None:
    import waitress

    if address.isdigit():
        waitress.serve(app, host=HOST, port=int(address))
    else:
        waitress.serve(app, unix_socket=address)


def gevent(address: str) -> None:
    from gevent.pywsgi import WSGIServer

    WSGIServer((HOST, int(address)), app, log=None).serve_forever()


def gevent_nodelay(address: str) -> None:
    import socket

    from gevent.pywsgi import WSGIServer
    from gevent.server import StreamServer

    listener = StreamServer.get_listener((HOST, int(address)), family=socket.AF_INET)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    WSGIServer(listener, app, log=None).serve_forever()


def bjoern(address: str) -> None:
    import bjoern

    if address.isdigit():
        bjoern.run(app, HOST, int(address))
    else:
        bjoern.run(app, f"unix:{address}")


def cheroot(address: str) -> None:
    from cheroot.wsgi import Server

    Server((HOST, int(address)), app).safe_start()


SERVERS: dict[str, Callable[[str], None]] = {
    "flask": flask,
    "waitress": waitress,
    "gevent": gevent,
    "gevent-nodelay": gevent_nodelay,
    "bjoern": bjoern,
    "cheroot": cheroot,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](sys.argv[2])
