"""aiohttp: python -m benchmarks.apps.aiohttp_app PORT|/path"""

import sys

from aiohttp import web

from benchmarks.apps.handlers import ANSWER_OBJECTS, HANDLERS, from_bytes

BODY_BYTES_MAX = 1 << 30


async def view(request: web.Request) -> web.Response:
    return web.Response(body=from_bytes(request.path, await request.read()))


async def livez(request: web.Request) -> web.Response:
    return web.Response(text="ok")


def main(address: str) -> None:
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes([web.post(path, view) for path in [*HANDLERS, *ANSWER_OBJECTS]])
    app.add_routes([web.get("/livez", livez)])
    if address.isdigit():
        web.run_app(app, host="127.0.0.1", port=int(address), access_log=None)
    else:
        web.run_app(app, path=address, access_log=None)


if __name__ == "__main__":
    main(sys.argv[1])
