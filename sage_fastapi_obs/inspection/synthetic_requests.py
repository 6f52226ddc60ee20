"""Requests to an app without a server: what a server would call it with, and all that comes out."""

import asyncio
from collections.abc import Iterable, Mapping
from contextvars import Context
from typing import Any, Literal, NamedTuple, TypeAlias

from starlette.types import ASGIApp, Message

from sage_fastapi_obs.inspection.app_loop import end
from sage_fastapi_obs.request.exchange import SCOPE_KEY, Exchange

LONGEST_SECONDS = 10.0
"""Time that an app has for one request."""
_LOCAL = "127.0.0.1"
Header: TypeAlias = tuple[bytes, bytes]


class SyntheticRequest(NamedTuple):
    """One way in which a request can end."""

    kind: str
    method: str
    path: str
    """Below the path of the synthetic routes."""
    expected: int
    """The status, for a WebSocket the code with which it is closed."""
    type: Literal["http", "websocket"] = "http"
    leaves_after: int | None = None
    """Chunks after which the client is gone."""


SYNTHETIC_REQUESTS = (
    SyntheticRequest("ok", "GET", "/ok/1", 200),
    SyntheticRequest("not found", "GET", "/nowhere", 404),
    SyntheticRequest("wrong method", "DELETE", "/ok/1", 405),
    SyntheticRequest("invalid", "GET", "/number/none", 422),
    SyntheticRequest("raise", "GET", "/raise", 500),
    SyntheticRequest("stream", "GET", "/stream", 200),
    SyntheticRequest("disconnect", "GET", "/endless", 200, leaves_after=1),
    SyntheticRequest("websocket", "GET", "/socket", 1000, type="websocket"),
    SyntheticRequest("background", "GET", "/background", 200),
)
"""One for each route, and those that no route takes."""


class SyntheticAnswer:
    """What came of a request."""

    def __init__(self, scope: dict[str, Any], sent: list[Message], error: BaseException | None) -> None:
        self.scope = scope
        self.sent = sent
        """The messages of the app, but for chunks that others follow."""
        self.error = error
        """What left the app; `TimeoutError` where it did not answer in time."""

    @property
    def status(self) -> int | None:
        """The status, for a WebSocket the code with which it was closed; None where there was none."""
        return next((message["status"] for message in self.sent if "status" in message), None) or next(
            (message.get("code", 1000) for message in self.sent if message["type"] == "websocket.close"), None
        )

    @property
    def exchange(self) -> Exchange | None:
        """What was recorded of it; None where nothing watched."""
        return self.scope.get(SCOPE_KEY)


async def ask(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    kind: Literal["http", "websocket"] = "http",
    query: str = "",
    headers: Mapping[str, str] | None = None,
    client: str = _LOCAL,
    host: str = "localhost",
    leaves_after: int | None = None,
    more: Mapping[str, Any] | None = None,
) -> SyntheticAnswer:
    """Ask an app once, in a context of its own; its failures are part of the answer.

    `leaves_after`: chunks after which the client is gone. `more`: what else the scope has.
    """
    given = {"host": host, "user-agent": "sage-obs", **(headers or {})}
    scope = _scope(kind, method, path, query, ((name.encode(), value.encode()) for name, value in given.items()), client)
    scope.update(more or {})
    sent: list[Message] = []
    asking = asyncio.create_task(_call(app, scope, sent, leaves_after), context=Context())
    done, _ = await asyncio.wait([asking], timeout=LONGEST_SECONDS)
    if not done:
        await end(asking)
    return SyntheticAnswer(scope, sent, asking.result() if done else TimeoutError())


def _scope(kind: str, method: str, path: str, query: str, headers: Iterable[Header], client: str) -> dict[str, Any]:
    # As uvicorn says: a client that has gone is heard of by `receive`.
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        # Nobody redirects from there.
        "scheme": "https" if kind == "http" else "wss",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*headers],
        "client": (client, 40000),
        "server": ("localhost", 443),
        "state": {},
    }
    return {**scope, "method": method} if kind == "http" else {**scope, "subprotocols": []}


async def _call(app: ASGIApp, scope: dict[str, Any], sent: list[Message], leaves_after: int | None) -> BaseException | None:
    """Call an app; return what it raises."""
    gone = asyncio.Event()
    chunks = 0

    async def send(message: Message) -> None:
        nonlocal chunks
        if message.get("more_body"):
            # A server writes here. An app that makes chunks without end is no reason to keep them, or to do nothing else.
            await asyncio.sleep(0)
        else:
            sent.append(message)
        chunks += message["type"] == "http.response.body" and bool(message.get("body"))
        if message["type"] == "http.response.body" and (not message.get("more_body") or chunks == leaves_after):
            gone.set()

    is_socket = scope["type"] == "websocket"
    waiting: list[Message] = (
        [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
        if is_socket
        else [{"type": "http.request", "body": b"", "more_body": False}]
    )

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        if is_socket:
            return {"type": "websocket.disconnect", "code": 1000}
        await gone.wait()
        return {"type": "http.disconnect"}

    try:
        await app(scope, receive, send)
    except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and type(error) is not SystemExit:
            # Other exits are those of who asks.
            raise
        return error
    return None


async def ask_synthetic(
    app: ASGIApp, prefix: str, request: SyntheticRequest, *, more: Mapping[str, Any] | None = None
) -> SyntheticAnswer:
    """Ask an app in one of these ways; `prefix`: the path that the synthetic routes are below."""
    kind, path = request.type, prefix + request.path
    return await ask(app, path, method=request.method, kind=kind, leaves_after=request.leaves_after, more=more)
