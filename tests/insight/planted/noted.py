"""Notes what the planted service does, and when, apart from what watches it; times are monotonic, in ns."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
truth: dict[str, Any] = {"served": {}, "blocks": [], "took": {}}
"""When each request was served, what blocked the loop, and how long parts of requests took."""

collection = [0]
"""When the one that runs has begun."""


@contextmanager
def block(place: str, kind: str, owner: str | None = None) -> Iterator[None]:
    """Note that the loop is blocked meanwhile."""
    started = time.monotonic_ns()
    yield
    truth["blocks"].append([owner or request_id.get(), place, kind, started, time.monotonic_ns()])


def note_collection(phase: str, _: object) -> None:
    """Note that the garbage collector blocked everything; for its callbacks."""
    if phase == "start":
        collection[0] = time.monotonic_ns()
    elif (now := time.monotonic_ns()) - collection[0] >= 10_000_000:
        truth["blocks"].append([request_id.get(), "collector", "collect", collection[0], now])


@contextmanager
def taken(part: str) -> Iterator[None]:
    """Note how long a part of the request took."""
    started = time.monotonic_ns()
    yield
    truth["took"].setdefault(request_id.get(), {})[part] = [started, time.monotonic_ns()]


class Stamped:
    """Notes when each request is served, outside of everything that watches."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/truth":
            await answer_truth(send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        sent_id = dict(scope["headers"]).get(b"x-correlation-id", b"").decode()
        request_id.set(sent_id)
        served = truth["served"][sent_id] = [time.monotonic_ns(), 0]

        async def stamped(message: Any) -> None:
            served[1] = time.monotonic_ns()
            await send(message)

        await self._app(scope, receive, stamped)


async def answer_truth(send: Any) -> None:
    body = json.dumps(truth).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
