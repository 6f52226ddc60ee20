"""Runs one ASGI call against a scripted server, with and without an observability in between."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from support import Watched, http_scope

from sage_fastapi_obs import Observability
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware

OURS = (b"x-request-id", b"x-correlation-id", b"traceresponse")
BACKENDS = ("asyncio", "trio")
STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
ASGI = Callable[[Any, Any, Any], Awaitable[None]]
REQUEST = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"http": {"type": "http.disconnect"}, "websocket": {"type": "websocket.disconnect", "code": 1006}}


def websocket_scope(path: str = "/", **more: Any) -> dict[str, Any]:
    """Build a WebSocket scope with the extension for denial responses."""
    scope = http_scope(path, **more)
    del scope["method"]
    return {"subprotocols": [], "extensions": {"websocket.http.response": {}}, **scope, "type": "websocket", "scheme": "ws"}


@dataclass
class Case:
    """What an app does, what its server does, and in which scope."""

    app: ASGI
    incoming: Sequence[dict[str, Any]] = (REQUEST,)
    scope: dict[str, Any] = field(default_factory=dict)
    send_fails_at: int = -1
    """Number of the message on which the server finds that the client has gone."""

    def new_scope(self) -> dict[str, Any]:
        """Build a scope of its own for each run."""
        made = websocket_scope() if self.scope.get("type") == "websocket" else http_scope()
        return {**made, **self.scope, "state": {}}


class Server:
    """Hands out scripted messages and keeps what it is given, in the order in which things happen.

    A strict one refuses messages out of order, as uvicorn does; a lax one takes everything.
    """

    def __init__(self, incoming: Iterable[Any], protocol: str, *, strict: bool = False, send_fails_at: int = -1) -> None:
        self.given: list[Any] = []
        self.sent: list[Any] = []
        self.objects: list[Any] = []
        self.raised: list[BaseException] = []
        self._incoming = iter(incoming)
        self._gone = GONE[protocol]
        self._strict = strict
        self._fails_at = send_fails_at
        self._expected = "http.response.start"

    async def receive(self) -> Any:
        """Give the next message; after the last one the client has gone."""
        await anyio.lowlevel.checkpoint()
        message = next(self._incoming, self._gone)
        self.given.append(message)
        return message

    async def send(self, message: Any) -> None:
        """Take a message, reading the headers as servers do."""
        if len(self.sent) == self._fails_at:
            self._fail(OSError("the client has gone"))
        if self._strict:
            self._check(message)
        self.objects.append(message)
        taken = dict(message)
        if taken.get("type") in STARTS:
            taken["headers"] = list(taken.get("headers", ()))
        await anyio.lowlevel.checkpoint()
        self.sent.append(taken)

    def _check(self, message: Any) -> None:
        kind = message["type"]
        if kind not in ("http.response.start", "http.response.body"):
            return
        if kind != self._expected:
            self._fail(RuntimeError(f"unexpected {kind}"))
        last = kind == "http.response.body" and not message.get("more_body", False)
        self._expected = "nothing" if last else "http.response.body"

    def _fail(self, error: BaseException) -> None:
        self.raised.append(error)
        raise error


@dataclass
class Run:
    """What came of one call."""

    scope: dict[str, Any]
    server: Server
    error: BaseException | None

    @property
    def sent(self) -> list[Any]:
        """What the server got, without the headers that we document."""
        return [_without_ours(message) for message in self.server.sent]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of the first answer."""
        return next(message["headers"] for message in self.server.sent if message["type"] in STARTS)

    def count(self, name: bytes) -> int:
        """Count a header on the first answer."""
        return [bytes(header[0]).lower() for header in self.headers].count(name)


def _without_ours(message: dict[str, Any]) -> dict[str, Any]:
    if message.get("type") not in STARTS:
        return message
    return {**message, "headers": [header for header in message["headers"] if not _is_ours(header)]}


def _is_ours(header: Any) -> bool:
    try:
        return bytes(header[0]).lower() in OURS
    except (TypeError, IndexError):
        return False


async def call(app: ASGI, case: Case, *, strict: bool = False) -> Run:
    """Call an app once; `scope["state"]["cancel"]()` cancels the call."""
    scope = case.new_scope()
    server = Server(case.incoming, scope["type"], strict=strict, send_fails_at=case.send_fails_at)
    error: BaseException | None = None
    with anyio.CancelScope() as cancelling:
        scope["state"]["cancel"] = cancelling.cancel
        try:
            await app(scope, server.receive, server.send)
        except BaseException as raised:
            error = raised
            if cancelling.cancel_called:
                raise
    return Run(scope, server, error)


def run(backend: str, app: ASGI, case: Case, *, strict: bool = False) -> Run:
    """Call an app once in an event loop of its own."""

    async def main() -> Run:
        return await call(app, case, strict=strict)

    return anyio.run(main, backend=backend)


def raw(app: ASGI) -> ASGI:
    """Take an app as it is."""
    return app


def starlette(app: ASGI) -> Starlette:
    """Mount an app in Starlette."""
    return Starlette(routes=[Mount("/", app=app)])


def fastapi(app: ASGI) -> FastAPI:
    """Mount an app in FastAPI."""
    outer = FastAPI(openapi_url=None)
    outer.mount("/", app)
    return outer


def around(app: ASGI, obs: Observability) -> ASGI:
    """Watch from outside."""
    return ObservabilityMiddleware(app, observability=obs)


def add_middleware(app: Any, obs: Observability) -> ASGI:
    """Watch from inside the stack."""
    app.add_middleware(ObservabilityMiddleware, observability=obs)
    return app


def install(app: Any, obs: Observability) -> ASGI:
    """Watch as the stack's outermost layer."""
    obs.install(app)
    return app


FRAMEWORKS = (raw, starlette, fastapi)
WAYS = (around, add_middleware, install)
SETUPS = [(framework, way) for framework in FRAMEWORKS for way in WAYS if framework is not raw or way is around]
SETUP_IDS = [f"{framework.__name__}-{way.__name__}" for framework, way in SETUPS]


def setups_of(framework: Any, turn: int) -> list[tuple[str, Any]]:
    """Choose a way in for each backend; three turns in a row have every way with every backend."""
    ways = (around,) if framework is raw else WAYS
    return [(backend, ways[(turn + place) % len(ways)]) for place, backend in enumerate(BACKENDS)]


def total(watched: Watched, *names: str) -> float:
    """Add up all series of some names."""
    # Only those are collected: reading the process's own numbers each time is what takes long.
    metrics = watched.obs.registry.restricted_registry(names).collect()
    return sum(sample.value for metric in metrics for sample in metric.samples)


def assert_counted_once(watched: Watched, kind: str = "http", *, spans: int = 1) -> None:
    """Hold that one exchange was recorded, once by every signal, and that nothing is left open or broke."""
    if kind == "http":
        assert total(watched, "http_requests_total") == 1
        assert total(watched, "http_request_duration_seconds_count", "http_stream_duration_seconds_count") == 1
    else:
        assert total(watched, "websocket_connections_total") == 1
        assert total(watched, "websocket_connection_duration_seconds_count") == 1
    assert total(watched, "http_requests_in_flight") == 0
    assert total(watched, "websocket_connections_open") == 0
    assert len(watched.server_spans) == spans
    assert len(watched.access) == 1
    assert watched.obs.faults.counts == {}
