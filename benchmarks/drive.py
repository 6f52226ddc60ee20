"""The app that every variant watches, and requests made to it without a server."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI

__all__ = ["ASGIApp", "MakeApp", "Message", "app_maker", "block", "receive", "scope", "send"]

Message = MutableMapping[str, Any]
ASGIApp = Callable[..., Awaitable[None]]
MakeApp = Callable[..., FastAPI]
"""Builds the app; takes FastAPI's own arguments."""


def app_maker(routes: int) -> MakeApp:
    """Return what builds an app with so many routes; `/items/{item}`, the one that is asked for, is the last."""

    def make(**arguments: Any) -> FastAPI:
        app = FastAPI(openapi_url=None, **arguments)
        for number in range(routes - 1):
            app.add_api_route(f"/other{number}/{{key}}", _other, methods=["GET"])
        app.add_api_route("/items/{item}", _read, methods=["GET"])
        return app

    return make


def _other(key: str) -> str:
    return key


async def _read(item: int) -> dict[str, int]:
    return {"item": item}


def scope(path: str = "/items/42") -> Message:
    """Build the scope of an ordinary request from a browser."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost:8000"), (b"user-agent", b"bench/1.0"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def receive() -> Message:
    """Send no body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Take the response."""


async def block(app: ASGIApp, flush: Callable[[], object], requests: int) -> float:
    """Serve some requests and what they left to background threads; return CPU seconds of the whole process per request."""
    started = time.process_time()
    for _ in range(requests):
        await app(scope(), receive, send)
    flush()
    return (time.process_time() - started) / requests
