"""WebSockets: every message passes unchanged; one span for the handshake, one line at the end, and a gauge back to 0."""

import asyncio
from typing import Annotated, Any

import anyio
import pytest
from fastapi import FastAPI, Query, WebSocket, WebSocketDisconnect
from opentelemetry.trace import StatusCode
from scripted import (
    BACKENDS,
    FRAMEWORKS,
    OURS,
    WAYS,
    Case,
    add_middleware,
    around,
    assert_counted_once,
    call,
    install,
    run,
    setups_of,
    total,
    websocket_scope,
)
from starlette.applications import Starlette
from starlette.exceptions import WebSocketException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocketDisconnect as StarletteWebSocketDisconnect
from support import Ticking

CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close", "code": 1000}
SOCKET = {"type": "websocket"}


def left(code: int | None = 1006, reason: str = "") -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def denial(status: int = 403, *parts: bytes) -> list[dict[str, Any]]:
    bodies = [{"type": "websocket.http.response.body", "body": part, "more_body": True} for part in parts]
    return [
        {"type": "websocket.http.response.start", "status": status, "headers": [(b"x-why", b"because")]},
        *bodies,
        {"type": "websocket.http.response.body", "body": b"no"},
    ]


def script(*steps: Any) -> Any:
    """Build an app that sends messages, receives at `"receive"`, is cancelled at `"cancel"`, and raises exceptions."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got = scope["state"].setdefault("got", [])
        for step in steps:
            if isinstance(step, dict):
                await send(dict(step))
            elif step == "receive":
                got.append(await receive())
            elif step == "cancel":
                scope["state"]["cancel"]()
                await anyio.sleep_forever()
            else:
                scope["state"]["raised"] = step()
                raise scope["state"]["raised"]

    return app


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send back all messages until the client leaves."""
    assert (await receive())["type"] == "websocket.connect"
    await send(dict(ACCEPT))
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


TEXTS = [{"type": "websocket.receive", "text": f"message {n} ü", "bytes": None} for n in range(500)]
BYTES = [{"type": "websocket.receive", "bytes": b"\xff\x00"}, {"type": "websocket.receive", "bytes": b"", "text": None}]

# The app, what comes in, and then the status, close code, error type and whether the service is to blame.
OUTCOMES: dict[str, tuple[Any, list[Any], int, int | None, str | None, bool]] = {
    "closes": (script("receive", ACCEPT, CLOSE), [CONNECT], 101, 1000, None, False),
    "accept_with_headers": (
        script("receive", {**ACCEPT, "subprotocol": "chat", "headers": [(b"x-a", b"1"), (b"X-Request-ID", b"app's")]}, CLOSE),
        [CONNECT],
        101,
        1000,
        None,
        False,
    ),
    "client_closes": (echo, [CONNECT, left(1000)], 101, 1000, None, False),
    "client_goes_away": (echo, [CONNECT, left(1001)], 101, 1001, None, False),
    "client_closes_without_code": (echo, [CONNECT, {"type": "websocket.disconnect"}], 101, 1005, None, False),
    "client_closes_with_own_code": (echo, [CONNECT, left(4002, "bye")], 101, 4002, None, False),
    "client_closes_with_no_code_at_all": (echo, [CONNECT, left(None)], 101, 1005, None, False),
    "server_restarts": (echo, [CONNECT, left(1012)], 101, 1012, "cancelled", False),
    "server_restart_raised": (
        script("receive", ACCEPT, "receive", lambda: WebSocketDisconnect(1012)),
        [CONNECT, left(1012)],
        101,
        1012,
        "cancelled",
        False,
    ),
    "app_says_restart": (script("receive", ACCEPT, {**CLOSE, "code": 1012}), [CONNECT], 101, 1012, None, False),
    "leaves_after_close": (script("receive", ACCEPT, CLOSE, "receive"), [CONNECT, left(1006)], 101, 1000, None, False),
    "cancelled_after_close": (script("receive", ACCEPT, CLOSE, "cancel"), [CONNECT], 101, 1000, None, False),
    "leaves_after_denial": (script("receive", *denial(), "receive"), [CONNECT, left(1006)], 403, None, None, False),
    "leaves_before_denial_ends": (
        script("receive", denial()[0], "receive", denial()[1]),
        [CONNECT, left(1006)],
        403,
        1006,
        "client_disconnect",
        False,
    ),
    "close_4001": (script("receive", ACCEPT, {**CLOSE, "code": 4001, "reason": "no"}), [CONNECT], 101, 4001, None, False),
    "close_without_code": (script("receive", ACCEPT, {"type": "websocket.close"}), [CONNECT], 101, 1000, None, False),
    "abnormal": (echo, [CONNECT, left(1006)], 101, 1006, "client_disconnect", False),
    "abnormal_raised": (
        script("receive", ACCEPT, "receive", lambda: WebSocketDisconnect(1006)),
        [CONNECT, left(1006)],
        101,
        1006,
        "client_disconnect",
        False,
    ),
    "goodbye_raised": (
        script("receive", ACCEPT, "receive", lambda: WebSocketDisconnect(1005)),
        [CONNECT, left(1005)],
        101,
        1005,
        None,
        False,
    ),
    "messages": (echo, [CONNECT, *TEXTS, *BYTES, left(1000)], 101, 1000, None, False),
    "rejected": (script("receive", {**CLOSE, "code": 1008}), [CONNECT], 403, 1008, None, False),
    "denied": (script("receive", *denial(403, b"part")), [CONNECT], 403, None, None, False),
    "denied_500": (script("receive", *denial(503)), [CONNECT], 503, None, "503", True),
    "denied_half": (script("receive", denial()[0]), [CONNECT], 403, None, "incomplete_response", True),
    "never_answers": (script("receive"), [CONNECT], 500, None, "incomplete_response", True),
    "raises_first": (script("receive", ValueError), [CONNECT], 500, None, "ValueError", True),
    "raises_later": (script("receive", ACCEPT, ValueError), [CONNECT], 101, 1006, "ValueError", True),
    "raises_after_close": (script("receive", ACCEPT, CLOSE, ValueError), [CONNECT], 101, 1000, "ValueError", True),
    "system_exit": (script("receive", ACCEPT, SystemExit), [CONNECT], 101, 1006, "SystemExit", True),
    "cancelled": (script("receive", ACCEPT, "cancel"), [CONNECT], 101, 1006, "cancelled", False),
    "cancelled_first": (script("receive", "cancel"), [CONNECT], 499, None, "cancelled", False),
    "gone_before_accept": (script("receive", "receive"), [CONNECT, left(1006)], 499, 1006, "client_disconnect", False),
    "gone_and_accepted": (script("receive", "receive", ACCEPT), [CONNECT, left(1006)], 499, 1006, "client_disconnect", False),
    "gone_and_cancelled": (
        script("receive", ACCEPT, "receive", "cancel"),
        [CONNECT, left(1006)],
        101,
        1006,
        "client_disconnect",
        False,
    ),
    "accepts_twice": (script("receive", ACCEPT, ACCEPT, CLOSE), [CONNECT], 101, 1000, "invalid_response", True),
    "http_messages": (
        script("receive", {"type": "http.response.start", "status": 200}, {"type": "http.response.body"}),
        [CONNECT],
        500,
        None,
        "incomplete_response",
        True,
    ),
    "unknown_messages": (
        script("receive", {"type": "websocket.x", "a": 1}, {**ACCEPT, "extra": 1}, {"type": "y"}, CLOSE),
        [CONNECT, {"type": "websocket.y"}],
        101,
        1000,
        None,
        False,
    ),
    "disconnect_exception": (script("receive", ACCEPT, ClientDisconnect), [CONNECT], 101, 1006, "client_disconnect", False),
}


@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_same_with_and_without(watch, name, framework):
    """Whatever a WebSocket app does, server and caller see the same with and without us, by every way in."""
    app, incoming, *_ = OUTCOMES[name]
    case = Case(app, incoming, SOCKET)
    for backend, way in setups_of(framework, [*OUTCOMES].index(name) + FRAMEWORKS.index(framework)):
        bare = run(backend, framework(app), case)
        watched = watch()
        seen = run(backend, way(framework(app), watched.obs), case)
        assert seen.sent == bare.sent
        assert seen.server.given == bare.server.given
        assert seen.scope["state"].get("got") == bare.scope["state"].get("got")
        assert type(seen.error) is type(bare.error)
        assert bare.error is not bare.scope["state"].get("raised") or seen.error is seen.scope["state"].get("raised")
        assert_counted_once(watched, "websocket")


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome(watch, name):
    """Each way in which a connection can end has one status, close code and error type, in every signal."""
    app, incoming, status, close_code, error_type, failed = OUTCOMES[name]
    watched = watch()
    run("asyncio", around(app, watched.obs), Case(app, incoming, SOCKET))
    assert_counted_once(watched, "websocket")
    (labels,) = watched.series("websocket_connections_total")
    assert dict(labels) == {"route": "unmatched", "status": str(status), "close_code": str(close_code or "none")}
    line = watched.access[0]
    assert (line["status"], line.get("error_type")) == (status, error_type)
    assert (line["level"] == "error") == failed
    if "close_code" in line:
        assert line["close_code"] == close_code
    span = watched.server_spans[0]
    assert span.attributes["http.response.status_code"] == status
    answered = "handshake_ms" in line
    if status != 101 and name not in ("denied_half", "leaves_before_denial_ends"):
        # The handshake is the span's business, and so is how it failed; what comes later is the line's and the metrics'.
        assert span.attributes.get("error.type") == error_type
        assert (span.status.status_code is StatusCode.ERROR) == failed
    elif answered:
        assert span.status.status_code is StatusCode.UNSET
    errors = watched.series("request_errors_total")
    assert [dict(labels)["error_type"] for labels in errors] == ([error_type] if failed else [])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["closes", "accept_with_headers", "denied", "denied_500"])
def test_ids_on_the_answer_to_the_handshake(watch, name, way):
    """Accept and denial carry each of our headers once, beside the app's own and its subprotocol."""
    app, incoming, *_ = OUTCOMES[name]
    watched = watch()
    seen = run("asyncio", way(Starlette(routes=[Mount("/", app=app)]), watched.obs), Case(app, incoming, SOCKET))
    assert [seen.count(header) for header in OURS] == [1, 1, 1]
    assert dict(seen.headers)[b"x-request-id"].decode() == watched.access[0]["request_id"]


async def test_many_messages_are_one_connection(watch):
    """Five hundred messages make one span without events, one line, and counts of messages and bytes."""
    watched = watch()
    seen = await call(around(echo, watched.obs), Case(echo, [CONNECT, *TEXTS, *BYTES, left(1000)], SOCKET))
    assert len(seen.server.sent) == 503
    assert len(watched.spans) == 1
    assert not watched.spans[0].events
    line = watched.access[0]
    assert (line["messages_received"], line["messages_sent"]) == (502, 502)
    size = sum(len(message["text"].encode()) for message in TEXTS) + 2
    assert (line["request_bytes"], line["response_bytes"]) == (size, size)
    messages = watched.series("websocket_messages_total")
    assert {dict(labels)["direction"]: count for labels, count in messages.items()} == {"received": 502, "sent": 502}
    assert line["close_code"] == 1000


async def test_span_ends_with_the_handshake(watch):
    """The span is over when the handshake is answered; the line and the duration metric come when the socket has ended."""
    clock = Ticking(step_ns=0)
    watched = watch(clock=clock)
    meanwhile: list[Any] = []

    async def app(scope, receive, send):
        clock.now_ns += 2_000_000
        await send(dict(ACCEPT))
        await send({"type": "websocket.send", "text": "x"})
        meanwhile.extend([len(watched.server_spans), len(watched.access), total(watched, "websocket_connections_open")])
        clock.now_ns += 5_000_000_000
        await send(dict(CLOSE))

    await call(around(app, watched.obs), Case(app, [CONNECT], SOCKET))
    assert meanwhile == [1, 0, 1]
    assert_counted_once(watched, "websocket")
    span, line = watched.server_spans[0], watched.access[0]
    assert span.end_time - span.start_time == 2_000_000
    assert (line["handshake_ms"], line["duration_ms"]) == (2.0, 5002.0)
    assert total(watched, "websocket_connection_duration_seconds_sum") == 5.002


@pytest.mark.parametrize("backend", BACKENDS)
def test_open_gauge(watch, backend):
    """Connections are counted open while they are, and none is left after all were cancelled."""
    watched = watch()

    async def app(scope, receive, send):
        await send(dict(ACCEPT))
        await anyio.sleep_forever()

    entry = around(app, watched.obs)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(call, entry, Case(app, [CONNECT], SOCKET))
            while total(watched, "websocket_connections_open") < 20:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert total(watched, "websocket_connections_open") == 0
    assert total(watched, "websocket_connections_total") == 20
    assert total(watched, "http_requests_in_flight") == 0
    assert not watched.series("http_requests_total")
    assert not watched.series("request_errors_total")


def both_ways(app: Any, obs: Any) -> Any:
    return install(add_middleware(app, obs), obs)


def mounted(app: Any, obs: Any) -> Any:
    return install(Starlette(routes=[Mount("/", app=install(app, obs))]), obs)


@pytest.mark.parametrize("way", [*WAYS, both_ways, mounted])
async def test_watched_once_however_often_installed(watch, way):
    """By one way in or several at once, a connection has one span, count and line, and one of each header."""
    watched = watch()
    entry = way(real_app(), watched.obs)
    seen = await call(entry, Case(entry, [CONNECT, left(1000)], {**SOCKET, "path": "/echo/a", "raw_path": b"/echo/a"}))
    assert [seen.count(header) for header in OURS] == [1, 1, 1]
    assert_counted_once(watched, "websocket")
    assert watched.access[0]["route"].endswith("/echo/{room}")


def real_app() -> FastAPI:
    app = FastAPI()

    @app.websocket("/echo/{room}")
    async def talk(socket: WebSocket, room: str) -> None:
        await socket.accept(subprotocol="chat", headers=[(b"x-room", room.encode())])
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect:
            pass

    @app.websocket("/careless")
    async def careless(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.receive_text()

    @app.websocket("/policy")
    async def policy(socket: WebSocket) -> None:
        raise WebSocketException(1008, "no")

    @app.websocket("/validated")
    async def validated(socket: WebSocket, number: Annotated[int, Query()]) -> None:
        await socket.accept()

    @app.websocket("/denied")
    async def denied(socket: WebSocket) -> None:
        await socket.send_denial_response(JSONResponse({"why": "because"}, 401))

    @app.websocket("/fails")
    async def fails(socket: WebSocket) -> None:
        await socket.accept()
        raise ValueError("unhandled")

    return app


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", ["/echo/a", "/careless", "/policy", "/validated", "/denied", "/fails", "/nowhere"])
def test_real_framework(watch, path, way, backend):
    """FastAPI's own handling of WebSockets is the same with and without us."""
    text = {"type": "websocket.receive", "text": "hello"}
    case = Case(real_app, [CONNECT, text, left(1001)], {**SOCKET, "path": path, "raw_path": path.encode()})
    watched = watch()
    bare = run(backend, real_app(), case)
    seen = run(backend, way(real_app(), watched.obs), case)
    assert bare.sent
    assert seen.sent == bare.sent
    assert (type(seen.error), str(seen.error)) == (type(bare.error), str(bare.error))
    assert_counted_once(watched, "websocket")


def test_server_that_finds_the_client_gone(watch):
    """A send that fails since the client has gone is an abnormal end, not an error of the service."""

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.send_text("x")

    watched = watch()
    app = install(Starlette(routes=[WebSocketRoute("/", endpoint)]), watched.obs)
    seen = run("asyncio", app, Case(app, [CONNECT], SOCKET, send_fails_at=3))
    assert isinstance(seen.error, StarletteWebSocketDisconnect)
    assert_counted_once(watched, "websocket")
    assert watched.access[0]["error_type"] == "client_disconnect"
    assert watched.access[0]["close_code"] == 1006
    assert not watched.series("request_errors_total")


@pytest.mark.parametrize("last", [{**CLOSE, "code": 4001}, denial()[1]], ids=["close", "denial"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_disconnect_while_the_last_message_is_taken(watch, last, backend):
    """What the server says while it takes the app's last word changes nothing about it, also if the app then gives up."""
    gone = anyio.Event()
    first = ACCEPT if last["type"] == "websocket.close" else denial()[0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def speak() -> None:
            await send(dict(first))
            await send(dict(last))

        async with anyio.create_task_group() as group:
            group.start_soon(speak)
            while (await receive())["type"] != "websocket.disconnect":
                pass
            group.cancel_scope.cancel()

    async def receive() -> Any:
        await gone.wait()
        return left(1006)

    async def send(message: Any) -> None:
        if message == last:
            gone.set()
            await anyio.sleep_forever()

    watched = watch()
    anyio.run(around(app, watched.obs), websocket_scope(), receive, send, backend=backend)
    assert_counted_once(watched, "websocket")
    line = watched.access[0]
    assert (line["status"], line.get("error_type")) == ((101, None) if first is ACCEPT else (403, None))
    assert line.get("close_code") == last.get("code")


@pytest.mark.parametrize("fails_at", [0, 1, 2])
async def test_a_server_that_cannot_send(watch, fails_at):
    """An `OSError` where a message is sent is a client that left, whichever message it is, and whatever the app makes of it."""
    for error in (OSError, None):
        watched = watch()

        async def app(scope: Any, receive: Any, send: Any, error: Any = error) -> None:
            try:
                for message in (ACCEPT, {"type": "websocket.send", "text": "x"}, {**CLOSE, "code": 4001}):
                    await send(dict(message))
            except OSError:
                if error is not None:
                    raise

        await call(around(app, watched.obs), Case(app, [CONNECT], SOCKET, send_fails_at=fails_at))
        assert_counted_once(watched, "websocket")
        line = watched.access[0]
        assert (line["status"], line["error_type"], line["close_code"]) == (101, "client_disconnect", 1006)
        assert line["messages_sent"] == max(0, fails_at - 1)
        assert not watched.series("request_errors_total")


def test_refused_ids_close_the_handshake(watch):
    """Where unsafe ids are refused, a WebSocket is closed before it is accepted."""
    watched = watch(http={"incoming_ids": "reject"})
    reached: list[Any] = []

    async def app(*arguments: Any) -> None:
        reached.append(arguments)

    seen = run("asyncio", around(app, watched.obs), Case(app, [CONNECT], {**SOCKET, "headers": [(b"x-request-id", b"a b")]}))
    assert not reached
    assert [message["type"] for message in seen.server.sent] == ["websocket.close"]
    assert seen.server.sent[0]["code"] == 1008
    assert_counted_once(watched, "websocket")
    assert watched.access[0]["status"] == 403


ODD_SCOPES = [
    {"client": None},
    {"server": None},
    {"server": ("testserver", None)},
    {"raw_path": None},
    {"path": "/\ud800\n\0"},
    {"headers": [(b"user-agent", b"\xff\\x"), (b"traceparent", b"\xff"), (b"host", b"\xff\\x"), (b"\xff", b"1")]},
    {"extensions": {}},
    {"method": "GET"},
    {"subprotocols": ["\ud800"]},
]


@pytest.mark.parametrize("scope", ODD_SCOPES)
async def test_odd_scopes(watch, scope):
    """Connections with odd addresses, paths and headers are served and counted."""
    watched = watch()
    case = Case(echo, [CONNECT, left(1000)], {**SOCKET, **scope})
    assert (await call(around(echo, watched.obs), case)).sent == (await call(echo, case)).sent
    assert_counted_once(watched, "websocket")


async def test_cancelled_by_hand(watch):
    """A cancellation that the app raises itself comes out as the very object."""
    watched = watch()
    app = script("receive", ACCEPT, lambda: asyncio.CancelledError("by hand"))
    seen = await call(around(app, watched.obs), Case(app, [CONNECT], SOCKET))
    assert seen.error is seen.scope["state"]["raised"]
    assert_counted_once(watched, "websocket")
