"""The app that every variant watches, and requests made to it without a server."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse

from benchmarks.asked import Header, Request, plain

__all__ = ["ASGIApp", "Answer", "MakeApp", "Message", "app_maker", "ask", "block", "receive", "scope", "scope_of", "send"]

Message = MutableMapping[str, Any]
ASGIApp = Callable[..., Awaitable[None]]
MakeApp = Callable[..., FastAPI]
"""Builds the app; takes FastAPI's own arguments."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an app has sent."""

    status: int
    body: bytes
    headers: frozenset[bytes] = field(compare=False)
    """Their names; a variant may add some."""


def app_maker(routes: int, *, after: int = 0) -> MakeApp:
    """Return what builds an app of so many routes, of which `/items/{item}` has `after` behind it and all others before."""

    def make(**arguments: Any) -> FastAPI:
        app = FastAPI(openapi_url=None, **arguments)
        for number in range(routes - 1):
            if number == routes - 1 - after:
                app.add_api_route("/items/{item}", _item, methods=["GET"])
            app.add_api_route(f"/other{number}/{{code}}", _status, methods=["GET"])
        if not after:
            app.add_api_route("/items/{item}", _item, methods=["GET"])
        # After the one that is asked for, these cost it nothing.
        app.add_api_route("/status/{code}", _status, methods=["GET"])
        app.add_api_route("/chunks/{count}", _chunks, methods=["GET"])
        app.add_api_route("/walk/{kibibytes}", _walk, methods=["GET"])
        return app

    return make


_MEMORY = bytes(range(256)) * 4096


async def _item(item: int) -> dict[str, int]:
    return {"item": item}


async def _status(code: int) -> Response:
    return Response(status_code=code)


async def _walk(kibibytes: int) -> dict[str, int]:
    """Read so much memory, up to 1 MiB, which puts everything else out of the caches as trying many routes does."""
    return {"found": _MEMORY.count(b"nowhere", 0, kibibytes * 1024)}


async def _chunks(count: int) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"0123456789abcdef"

    return StreamingResponse(body())


def scope(path: str, *headers: Header) -> Message:
    """Build the scope of a request with few headers, and perhaps more."""
    request = plain(path)
    return scope_of(Request(path, (*request.headers, *headers)))


def scope_of(request: Request) -> Message:
    """Build the scope of a request, as a server does."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": [*request.headers],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def receive() -> Message:
    """Send no body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Take the response."""


async def ask(app: ASGIApp, path: str, *headers: Header) -> Answer:
    """Make one request."""
    start: Message = {}
    body = bytearray()

    async def take(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        body.extend(message.get("body", b""))

    await app(scope(path, *headers), receive, take)
    return Answer(start["status"], bytes(body), frozenset(name.lower() for name, _ in start["headers"]))


async def block(app: ASGIApp, flush: Callable[[], object], requests: Sequence[Request]) -> float:
    """Serve requests and finish what they left to background threads; return CPU seconds of the whole process per request."""
    started = time.process_time()
    for request in requests:
        await app(scope_of(request), receive, send)
        # As under a server, the event loop turns between requests: who watches it would see it blocked.
        await asyncio.sleep(0)
    flush()
    return (time.process_time() - started) / len(requests)
