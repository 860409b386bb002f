"""FastAPI: python -m uvicorn benchmarks.apps.fastapi_app:app

The handler runs in FastAPI's thread pool, so that a slow one doesn't keep the loop from receiving.
"""

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.apps.handlers import ANSWER_OBJECTS, HANDLERS, from_bytes

app = FastAPI()


async def view(request: Request) -> Response:
    body = await request.body()
    return Response(await run_in_threadpool(from_bytes, request.url.path, body))


for path in [*HANDLERS, *ANSWER_OBJECTS]:
    app.post(path)(view)


@app.get("/livez")
async def livez() -> Response:
    return Response("ok")
