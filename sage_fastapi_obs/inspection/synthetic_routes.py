"""Routes that are added to an app for as long as it is looked at, one for each way in which a request can end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from secrets import token_hex

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from sage_fastapi_obs.logs.loggers import create_logger

_CHUNKS = 5
"""Of the stream."""
_LOGGER = "sage_fastapi_obs.inspection"
"""Logger of the lines that these routes write."""


class SyntheticError(Exception):
    """Raised by a route that was added to see what becomes of it."""


@contextmanager
def synthetic_routes(app: Starlette) -> Iterator[str]:
    """Let an app have these routes, before all of its own; yield the path that they are below, which no other route has."""
    prefix = f"/sage-obs-{token_hex(4)}"
    added = _routes(prefix, is_fastapi=isinstance(app, FastAPI))
    app.router.routes[:0] = added
    try:
        yield prefix
    finally:
        app.router.routes[:] = [route for route in app.router.routes if route not in added]


def _routes(prefix: str, *, is_fastapi: bool) -> Sequence[BaseRoute]:
    number = _number if is_fastapi else _number_by_hand
    endpoints: dict[str, Callable[..., Awaitable[Response]]] = {
        "/ok/{item}": _ok,
        "/number/{number}": number,
        "/raise": _raise,
        "/stream": _stream,
        "/endless": _endless,
        "/background": _background,
    }
    if not is_fastapi:
        return [
            *(Route(prefix + path, endpoint) for path, endpoint in endpoints.items()),
            WebSocketRoute(f"{prefix}/socket", _socket),
        ]
    router = APIRouter()
    for path, endpoint in endpoints.items():
        router.add_api_route(prefix + path, endpoint, include_in_schema=False)
    router.add_api_websocket_route(f"{prefix}/socket", _socket)
    return router.routes


async def _ok(request: Request) -> Response:
    create_logger(_LOGGER).info("a synthetic request", **dict(request.query_params))
    return JSONResponse({"item": request.path_params["item"]})


async def _number(number: int) -> Response:
    return JSONResponse({"number": number})


async def _number_by_hand(_: Request) -> Response:
    raise HTTPException(422)


async def _raise(_: Request) -> Response:
    raise SyntheticError("a synthetic failure")


async def _stream(_: Request) -> Response:
    return StreamingResponse(_chunks(_CHUNKS))


async def _endless(_: Request) -> Response:
    return StreamingResponse(_chunks(None))


async def _chunks(most: int | None) -> AsyncIterator[bytes]:
    sent = 0
    while sent != most:
        yield b"chunk"
        sent += 1
        await asyncio.sleep(0.001)


async def _background(_: Request) -> Response:
    return JSONResponse({}, background=BackgroundTask(asyncio.sleep, 0))


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()
