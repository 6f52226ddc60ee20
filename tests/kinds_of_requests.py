"""An app with every kind of route, and a request for each way in which one can be answered."""

import asyncio

from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse

KINDS = [
    ("GET", "/sync/1"),
    ("GET", "/async/1"),
    ("GET", "/v1/shop/items/9"),
    ("GET", "/sub/leaf/4"),
    ("GET", "/async/x"),
    ("GET", "/nowhere"),
    ("DELETE", "/sync/1"),
    ("HEAD", "/sync/1"),
    ("BREW", "/sync/1"),
    ("GET", "/teapot"),
    ("GET", "/unavailable"),
    ("GET", "/boom"),
    ("GET", "/stream"),
    ("GET", "/broken-stream"),
    ("GET", "/events"),
    ("GET", "/file"),
    ("GET", "/redirect"),
    ("DELETE", "/empty"),
    ("POST", "/upload"),
    ("GET", "/background"),
    ("GET", "/broken-background"),
]


def build_app() -> FastAPI:
    """Build an app with every kind of route."""
    app = FastAPI()
    items = APIRouter(prefix="/items")
    items.add_api_route("/{item}", lambda item: item)
    shop = APIRouter(prefix="/shop")
    shop.include_router(items)
    app.include_router(shop, prefix="/v1")
    sub = FastAPI()
    sub.add_api_route("/leaf/{n}", lambda n: n)
    app.mount("/sub", sub)

    @app.get("/sync/{n}")
    def sync(n: int) -> int:
        return n

    @app.get("/async/{n}")
    async def asynchronous(n: int) -> int:
        await asyncio.sleep(0.001)
        return n

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout")

    @app.get("/unavailable")
    async def unavailable() -> None:
        raise HTTPException(503)

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("no")

    async def chunks(*, fails: bool = False):
        for number in range(3):
            yield f"{number}\n"
            await asyncio.sleep(0)
            if fails:
                raise ValueError("midway")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(chunks())

    @app.get("/broken-stream")
    async def broken_stream() -> StreamingResponse:
        return StreamingResponse(chunks(fails=True))

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(chunks(), media_type="text/event-stream")

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(__file__)

    @app.get("/redirect")
    async def redirect() -> RedirectResponse:
        return RedirectResponse("/sync/1")

    @app.delete("/empty", status_code=204)
    async def empty() -> Response:
        return Response(status_code=204)

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(asyncio.sleep, 0.02)
        return "later"

    @app.get("/broken-background")
    async def broken_background(tasks: BackgroundTasks) -> str:
        def fail() -> None:
            raise ValueError("later")

        tasks.add_task(fail)
        return "later"

    return app
