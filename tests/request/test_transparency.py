"""The same app, bare and watched, in front of the same server: messages, bytes, exceptions and order are equal."""

import asyncio
import contextvars
import copy
from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
import trio
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from scripted import (
    BACKENDS,
    FRAMEWORKS,
    OURS,
    REQUEST,
    SETUP_IDS,
    SETUPS,
    STARTS,
    WAYS,
    Case,
    Server,
    around,
    assert_counted_once,
    call,
    raw,
    run,
    setups_of,
    websocket_scope,
)
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as StarletteRequest
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from support import drive, http_scope, times

from sage_fastapi_obs.request.exchange import current_exchange

OK = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def chunk(body: Any, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def start(status: Any = 200, headers: Any = (), **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def sends(*messages: Any) -> Any:
    """Build an app that sends these messages."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(copy.copy(message))

    return app


def raises(make: Any, *before: Any) -> Any:
    """Build an app that sends some messages and then raises what `make` returns, leaving it in the state."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(dict(message))
        error = scope["state"]["raised"] = make()
        raise error

    return app


def chained() -> ValueError:
    """Build an exception that has everything an exception can have."""
    try:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("outer") from TypeError("cause")
    except ValueError as error:
        error.add_note("note")
        return error


class Odd(BaseException):
    """An exception that frameworks do not know."""


class Unprintable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


async def header_generator(scope, receive, send):
    await send(start(headers=(pair for pair in [(b"a", b"1"), (b"X-Request-ID", b"app's"), (b"b", b"2")])))
    await send(chunk(b"x", more=False))


async def failing_header_generator(scope, receive, send):
    def headers() -> Iterator[Any]:
        yield (b"a", b"1")
        scope["state"]["raised"] = ZeroDivisionError("in the generator")
        raise scope["state"]["raised"]

    await send(start(headers=headers()))
    await send(END)


async def header_view(scope, receive, send):
    await send(start(headers={b"a": b"1", b"b": b"2"}.items()))
    await send(END)


async def upload(scope, receive, send):
    while (message := await receive())["type"] == "http.request":
        scope["state"].setdefault("got", []).append(message)
        if not message.get("more_body"):
            break
    await send(OK)
    await send(chunk(str(message["type"]).encode(), more=False))


async def cancelled_before(scope, receive, send):
    scope["state"]["cancel"]()
    await anyio.sleep_forever()


async def cancelled_while_streaming(scope, receive, send):
    await send(OK)
    await send(chunk(b"one"))
    scope["state"]["cancel"]()
    await anyio.lowlevel.checkpoint()
    await send(chunk(b"two"))


async def cancelled_and_cleaning_up(scope, receive, send):
    scope["state"]["cancel"]()
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await send(OK)
            await send(chunk(b"cleaned up", more=False))


async def cancelled_after_the_end(scope, receive, send):
    await send(OK)
    await send(chunk(b"x", more=False))
    scope["state"]["cancel"]()
    await anyio.sleep_forever()


async def catches_what_the_server_raises(scope, receive, send):
    await send(OK)
    try:
        await send(chunk(b"one"))
    except OSError:
        scope["state"]["caught"] = True
    await send(END)


async def from_two_tasks(scope, receive, send):
    await send(OK)

    async def half(name: bytes) -> None:
        for _ in range(3):
            await send(chunk(name))

    async with anyio.create_task_group() as group:
        group.start_soon(half, b"a")
    await send(END)


async def group_of_tasks_fails(scope, receive, send):
    async def fail() -> None:
        raise ValueError("in a task")

    await send(OK)
    async with anyio.create_task_group() as group:
        group.start_soon(fail)


PATHS = {
    "surrogate": "/\ud800",
    "newline": "/a\nb",
    "nul": "/a\0b",
    "60KB": "/" + "x" * 60_000,
    "format": "/{0.__class__}",
    "double_slash": "//evil/x",
    "empty": "",
    "no_slash": "nothing",
    "percent": "/%s%(x)d",
    "markup": "/<img src=x onerror=alert(1)>",
}
HEADERS = {
    "user_agent": [(b"user-agent", b"\xff\\x")],
    "traceparent": [(b"traceparent", b"\xff\\N{")],
    "tracestate": [(b"traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"), (b"tracestate", b"\xff=\xfe,,=")],
    "baggage": [(b"baggage", b"\xff\\u")],
    "host": [(b"host", b"\xff\\x")],
    "host_port": [(b"host", b"a:99999999999")],
    "host_digits": [(b"host", b"a:\xb2")],
    "name": [(b"\xff\\x", b"1")],
    "request_id": [(b"x-request-id", b"a\r\nb"), (b"x-correlation-id", b"\xff")],
    "content_length": [(b"content-length", b"abc")],
    "cookie": [(b"cookie", b"\xff\xfe;=;")] * 3,
}

MESSAGES = {
    "plain": [OK, chunk(b"hello", more=False)],
    "chunk_by_chunk": [OK, *(chunk(b"%d" % n) for n in range(5)), END],
    "empty_chunks": [OK, chunk(b""), chunk(b""), chunk(b"x"), END],
    "no_body_key": [OK, {"type": "http.response.body"}],
    "body_none": [OK, {"type": "http.response.body", "body": None}],
    "no_headers_key": [{"type": "http.response.start", "status": 200}, END],
    "headers_none": [start(headers=None), END],
    "headers_number": [start(headers=5), END],
    "headers_tuple": [start(headers=((b"a", b"1"),)), END],
    "header_lists": [start(headers=[[b"A", b"1"], [b"X-Request-Id", b"mine"]]), END],
    "header_strings": [start(headers=[("content-type", "text/plain")]), END],
    "header_garbage": [start(headers=[None, (), (b"a",), 3, b"xy"]), END],
    "header_bytearray": [start(headers=[(bytearray(b"A"), memoryview(b"1"))]), END],
    "repeated_headers": [start(headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"Set-Cookie", b"c=3")]), END],
    "204": [start(204), END],
    "304": [start(304, [(b"etag", b'"x"')]), END],
    "status_enum": [start(HTTPStatus.OK), END],
    "status_799": [start(799), END],
    "status_text": [start("200"), END],
    "status_none": [start(None), END],
    "status_infinite": [start(float("inf")), END],
    "status_zero": [start(0), END],
    "status_missing": [{"type": "http.response.start", "headers": []}, END],
    "non_utf8": [start(headers=[(b"x-\xff", b"\xfe\xff"), (b"content-type", b"\xff")]), END],
    "content_length_abc": [start(headers=[(b"content-length", b"abc")]), END],
    "content_length_non_utf8": [start(headers=[(b"content-length", b"\xff")]), END],
    "memoryview": [OK, chunk(memoryview(b"hello"), more=False)],
    "bytearray": [OK, chunk(bytearray(b"hello"), more=False)],
    "body_text": [OK, chunk("hello", more=False)],
    "body_number": [OK, chunk(5, more=False)],
    "trailers": [
        start(trailers=True),
        chunk(b"x", more=False),
        {"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True},
        {"type": "http.response.trailers", "headers": [(b"b", b"2")]},
    ],
    "trailers_unannounced": [OK, chunk(b"x", more=False), {"type": "http.response.trailers", "headers": []}],
    "trailers_alone": [{"type": "http.response.trailers", "headers": []}],
    "trailers_missing": [start(trailers=True), chunk(b"x", more=False)],
    "pathsend": [OK, {"type": "http.response.pathsend", "path": "/file"}],
    "pathsend_trailers": [
        start(trailers=True),
        {"type": "http.response.pathsend", "path": "/file"},
        {"type": "http.response.trailers", "headers": []},
    ],
    "pathsend_alone": [{"type": "http.response.pathsend", "path": "/file"}],
    "pathsend_twice": [OK, *[{"type": "http.response.pathsend", "path": "/file"}] * 2],
    "zerocopysend": [
        OK,
        {"type": "http.response.zerocopysend", "file": 3, "count": 10, "more_body": True},
        {"type": "http.response.zerocopysend", "file": 3, "offset": 10, "count": 5},
    ],
    "zerocopysend_odd": [OK, {"type": "http.response.zerocopysend", "file": 3, "count": "x"}],
    "zerocopysend_alone": [{"type": "http.response.zerocopysend", "file": 3}],
    "early_hint": [{"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}, OK, END],
    "push": [OK, {"type": "http.response.push", "path": "/a", "headers": []}, END],
    "debug": [{"type": "http.response.debug", "info": {"template": "x"}}, OK, END],
    "unknown": [{"type": "x.unknown", "a": object}, OK, {"type": "http.response.future"}, END, {"type": ""}],
    "extra_keys": [start(extra=1, reason=b"Fine"), {**END, "extra": 2}],
    "other_protocol": [
        {"type": "websocket.accept"},
        OK,
        {"type": "websocket.send", "text": "x"},
        END,
        {"type": "websocket.close"},
    ],
    "start_twice": [OK, start(201), END],
    "answers_twice": [OK, END, OK, END],
    "body_before_start": [END, OK, END],
    "body_after_end": [OK, END, chunk(b"more"), END],
    "only_start": [OK],
    "half": [OK, chunk(b"half")],
    "nothing": [],
    "app_sets_our_header": [start(headers=[(b"X-Request-ID", b"mine"), (b"a", b"1")]), END],
    "server_error": [start(503), chunk(b"down", more=False)],
    "without_type": [OK, {"body": b"x"}, END],
    "unhashable_type": [OK, {"type": []}, END],
}
ERRORS: dict[str, Any] = {
    "Exception": chained,
    "BaseException": lambda: Odd("odd"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopAsyncIteration": lambda: StopAsyncIteration(1),
    "ExceptionGroup": lambda: ExceptionGroup("group", [ValueError(1), OSError(2)]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("group", [KeyboardInterrupt(), ValueError(1)]),
    "HTTPException": lambda: StarletteHTTPException(418, "teapot", {"a": "1"}),
    "ClientDisconnect": ClientDisconnect,
    "OSError": lambda: OSError(5, "io"),
    "Unprintable": lambda: Unprintable("x"),
    "TimeoutError": TimeoutError,
    "RecursionError": RecursionError,
    "CancelledError": lambda: asyncio.CancelledError("raised by hand"),
}

CASES = {
    **{name: Case(sends(*messages)) for name, messages in MESSAGES.items()},
    **{f"raises_{name}_before": Case(raises(make)) for name, make in ERRORS.items()},
    **{f"raises_{name}_started": Case(raises(make, OK)) for name, make in ERRORS.items()},
    **{f"raises_{name}_streaming": Case(raises(make, OK, chunk(b"x"))) for name, make in ERRORS.items()},
    **{f"raises_{name}_after_end": Case(raises(make, OK, END)) for name, make in ERRORS.items()},
    "raises_after_500": Case(raises(chained, start(500), END)),
    "header_generator": Case(header_generator),
    "header_generator_fails": Case(failing_header_generator),
    "header_view": Case(header_view),
    "HEAD": Case(sends(start(headers=[(b"content-length", b"5")]), END), scope={"method": "HEAD"}),
    "upload": Case(upload, [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request", "body": b"b"}]),
    "upload_odd": Case(upload, [{"type": "http.request", "body": None, "more_body": True, "x": 1}, {"type": "http.request"}]),
    "gone_while_uploading": Case(upload, [{"type": "http.request", "body": b"a", "more_body": True}]),
    "gone_raises": Case(raises(ClientDisconnect, OK, chunk(b"x"))),
    "server_fails_at_start": Case(sends(OK, END), send_fails_at=0),
    "server_fails_at_chunk": Case(sends(OK, chunk(b"one"), chunk(b"two"), END), send_fails_at=2),
    "server_fails_at_end": Case(sends(OK, chunk(b"one"), END), send_fails_at=2),
    "server_failure_caught": Case(catches_what_the_server_raises, send_fails_at=1),
    "cancelled": Case(cancelled_before),
    "cancelled_while_streaming": Case(cancelled_while_streaming),
    "cancelled_and_cleaning_up": Case(cancelled_and_cleaning_up),
    "cancelled_after_the_end": Case(cancelled_after_the_end),
    "task_group": Case(from_two_tasks),
    "task_group_fails": Case(group_of_tasks_fails),
    "no_server_port": Case(sends(OK, END), scope={"server": ("testserver", None)}),
    "no_server": Case(sends(OK, END), scope={"server": None}),
    "unix_socket": Case(sends(OK, END), scope={"server": ("/run/app.sock", None), "client": ("", 0)}),
    "no_client": Case(sends(OK, END), scope={"client": None}),
    "raw_path_none": Case(sends(OK, END), scope={"raw_path": None}),
    "method_odd": Case(sends(OK, END), scope={"method": "F\0O\n\ud800"}),
    "query_odd": Case(sends(OK, END), scope={"query_string": b"\xff&=&a=\x00&token=x"}),
    "http_2": Case(sends(OK, END), scope={"http_version": "2", "scheme": "https"}),
    "root_path": Case(sends(OK, END), scope={"root_path": "/proxy", "path": "/proxy/x"}),
    "extensions": Case(sends(OK, END), scope={"extensions": {"http.response.trailers": {}, "tls": {"x": 1}}}),
    **{f"path_{name}": Case(sends(OK, END), scope={"path": path}) for name, path in PATHS.items()},
    **{f"header_{name}": Case(sends(OK, END), scope={"headers": headers}) for name, headers in HEADERS.items()},
}
NOT_COUNTED_AS_OURS = {"without_type", "unhashable_type"}
"""Messages that no protocol has; that they could not be read is counted, and nothing else comes of it."""


def anatomy(error: BaseException | None, depth: int = 4) -> Any:
    """Describe an exception by all that should survive."""
    if error is None or depth == 0:
        return None
    inner = [anatomy(one, depth - 1) for one in error.exceptions] if isinstance(error, BaseExceptionGroup) else None
    # A group's arguments are exceptions, and those of a real cancellation name its task.
    comparable = inner is None and not isinstance(error, asyncio.CancelledError | trio.Cancelled)
    linked = anatomy(error.__cause__, depth - 1), anatomy(error.__context__, depth - 1), error.__suppress_context__
    return type(error), error.args if comparable else None, linked, getattr(error, "__notes__", None), inner


def assert_equal_runs(bare: Any, seen: Any) -> None:
    """Hold that two runs differ in nothing that app or server could notice."""
    assert seen.sent == bare.sent
    assert seen.server.given == bare.server.given
    assert anatomy(seen.error) == anatomy(bare.error)
    if bare.error is not None and bare.error is bare.scope["state"].get("raised"):
        assert seen.error is seen.scope["state"]["raised"]
    if bare.error is not None and bare.error in bare.server.raised:
        assert seen.error in seen.server.raised


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", CASES)
def test_same_with_and_without(watch, name, framework):
    """Whatever an app does, server and caller see the same with and without us, by every way in, and it is counted once."""
    case, turn = CASES[name], [*CASES].index(name) + FRAMEWORKS.index(framework)
    for place, (backend, way) in enumerate(setups_of(framework, turn)):
        strict = framework is not raw or (turn + place) % 2 == 0
        bare = run(backend, framework(case.app), case, strict=strict)
        watched = watch()
        seen = run(backend, way(framework(case.app), watched.obs), case, strict=strict)
        assert_equal_runs(bare, seen)
        if name in NOT_COUNTED_AS_OURS:
            watched.obs.internal_errors.counts.clear()
        assert_counted_once(watched)


def test_request_headers_that_can_be_read_once(watch):
    """An app whose server hands over an iterator of headers still gets to read them."""
    seen: list[Any] = []

    async def app(scope, receive, send):
        seen.extend(scope["headers"])

    scope = http_scope(headers=())
    scope["headers"] = iter([(b"a", b"1"), (b"b", b"2")])
    watched = watch()
    run("asyncio", around(app, watched.obs), Case(app, scope={"headers": scope["headers"]}))
    assert seen == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize("name", sorted({*MESSAGES, "header_generator", "header_view"}))
def test_ids_on_every_answer(watch, name):
    """Each answer with readable headers carries each of our headers exactly once, whatever its headers are made of."""
    watched = watch()
    seen = run("asyncio", around(CASES[name].app, watched.obs), CASES[name])
    answers = [message for message in seen.server.sent if message.get("type") == "http.response.start"]
    if not answers:
        return
    first = [_name for header in answers[0]["headers"] if (_name := _readable_name(header)) in OURS]
    assert sorted(first) == sorted(OURS)


def _readable_name(header: Any) -> bytes | None:
    try:
        return bytes(header[0]).lower()
    except (TypeError, IndexError):
        return None


def test_app_messages_are_left_alone(watch):
    """The objects an app sends are not changed, and all but the start reach the server as they are."""
    messages = [start(headers=[(b"a", b"1")]), {"type": "x.unknown"}, chunk(b"x"), {"type": "http.response.push"}, dict(END)]
    before = copy.deepcopy(messages)

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    watched = watch()
    seen = run("asyncio", around(app, watched.obs), Case(app))
    assert messages == before
    assert all(got is sent for got, sent in zip(seen.server.objects[1:], messages[1:], strict=True))


def test_received_messages_are_the_servers(watch):
    """The app receives the very objects that the server gives."""
    got: list[Any] = []

    async def app(scope, receive, send):
        got.extend([await receive() for _ in range(3)])

    incoming = [{"type": "http.request", "body": b"x", "more_body": True, "extra": object()}, {"type": "x.unknown"}]
    seen = run("asyncio", around(app, watch().obs), Case(app, incoming))
    assert [id(message) for message in got] == [id(message) for message in seen.server.given]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("framework", "way"), SETUPS, ids=SETUP_IDS)
def test_same_task_and_context(watch, framework, way, backend):
    """The app runs in its caller's task, and what it sets in the context is there afterwards; nothing of ours is."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("set_by_the_app", default="")
    tasks: list[int] = []

    async def app(scope, receive, send):
        tasks.append(anyio.get_current_task().id)
        variable.set("by the app")
        await send(dict(OK))
        await send(dict(END))

    entry = way(framework(app), watch().obs)

    async def main() -> None:
        before = {key: value for key, value in contextvars.copy_context().items() if key is not variable}
        await call(entry, Case(app))
        assert tasks == [anyio.get_current_task().id]
        assert variable.get() == "by the app"
        after = contextvars.copy_context()
        ours = [key for key in after if "sage" in key.name or key.name == "current_context"]
        assert all(not after[key] for key in ours if key not in before)
        assert all(after[key] == before[key] for key in ours if key in before)

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("way", ["finishes", "raises"])
def test_context_is_given_back(watch, way):
    """After the call, no request is current for the caller, also when the app raised."""

    async def app(scope, receive, send):
        assert current_exchange.get() is not None
        assert trace.get_current_span().get_span_context().is_valid
        if way == "raises":
            raise ValueError

    entry = around(app, watch().obs)

    async def main() -> None:
        await call(entry, Case(app))
        assert current_exchange.get() is None
        assert not trace.get_current_span().get_span_context().is_valid

    anyio.run(main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_back_pressure(watch, backend):
    """Each send returns only when the server's has, for every type of message."""
    events: list[str] = []
    types = [
        "http.response.start",
        "http.response.body",
        "http.response.zerocopysend",
        "http.response.push",
        "x.unknown",
        "http.response.trailers",
    ]

    async def app(scope, receive, send):
        for kind in types:
            more = {"more_body": True, "status": 200, "headers": [], "trailers": True}
            await send({"type": kind, **more})
            events.append(f"returned {kind}")

    async def server_send(message: Any) -> None:
        events.append(f"taking {message['type']}")
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        events.append(f"taken {message['type']}")

    async def receive() -> Any:
        return REQUEST

    entry = around(app, watch().obs)

    async def main() -> None:
        await entry(http_scope(), receive, server_send)

    anyio.run(main, backend=backend)
    assert events == [f"{step} {kind}" for kind in types for step in ("taking", "taken", "returned")]


def test_stream_goes_out_chunk_by_chunk(watch):
    """A chunk is at the server before the app makes the next one."""
    server = Server([], "http")
    at_server: list[int] = []

    async def app(scope, receive, send):
        await send(dict(OK))
        for n in range(4):
            await send(chunk(b"%d" % n))
            at_server.append(len(server.sent) - 1)

    async def main() -> None:
        await around(app, watch().obs)(http_scope(), server.receive, server.send)

    anyio.run(main)
    assert at_server == [1, 2, 3, 4]


@pytest.mark.parametrize(("framework", "way"), SETUPS, ids=SETUP_IDS)
def test_scope_reaches_the_app(watch, framework, way):
    """The app gets the server's own state, extensions and values; what is added are keys of marked names."""
    got: list[Any] = []

    async def app(scope, receive, send):
        got.append(scope)

    extensions = {"http.response.pathsend": {}}
    case = Case(app, scope={"extensions": extensions, "own": object()})
    watched_run = run("asyncio", way(framework(app), watch().obs), case)
    bare_run = run("asyncio", framework(app), case)
    seen, bare = got
    assert seen["state"] is watched_run.scope["state"]
    assert seen["extensions"] is extensions
    assert seen["own"] is case.scope["own"]
    added = set(seen) - set(bare)
    assert added <= {"sage_fastapi_obs.exchange", "starlette.opentelemetry", "fastapi.telemetry"}
    plain = {key for key, value in bare.items() if isinstance(value, str | bytes | tuple | list | type(None))}
    same = ({*plain, "asgi", "path_params"} & set(bare)) - {"starlette.exception_handlers"}
    assert {key: seen[key] for key in same} == {key: bare[key] for key in same}
    assert {type(seen[key]) for key in bare} == {type(value) for value in bare.values()}
    assert bare_run.error is watched_run.error is None


def test_raw_app_scope_is_the_servers_object(watch):
    """Around a raw app, the scope is the server's object, not a copy."""
    got: list[Any] = []

    async def app(scope, receive, send):
        got.append(scope)

    seen = run("asyncio", around(app, watch().obs), Case(app))
    assert got[0] is seen.scope


@pytest.mark.parametrize("scope", [{"type": "mqtt"}, {"type": "tcp", "x": 1}, {"type": "lifespan.x"}])
async def test_other_protocols_pass(watch, scope):
    """A scope of another protocol is handed through with the server's own receive and send."""
    got: list[Any] = []

    async def app(*arguments):
        got.extend(arguments)

    given = [scope, object(), object()]
    await around(app, watch().obs)(*given)
    assert all(a is b for a, b in zip(got, given, strict=True))


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
@pytest.mark.parametrize("way", WAYS)
async def test_disabled_hands_everything_through(watch, kind, way):
    """Disabled by settings, the app gets the server's very objects, and nothing is recorded or started."""
    got: list[Any] = []

    class Bare(Starlette):
        def build_middleware_stack(self):
            async def app(*arguments):
                got.extend(arguments)

            for added in reversed(self.user_middleware):
                app = added.cls(app, *added.args, **added.kwargs)
            return app

    watched = watch(enabled=False)
    entry = way(Bare(), watched.obs)
    scope = {"http": http_scope, "websocket": websocket_scope, "lifespan": lambda: {"type": "lifespan"}}[kind]()
    before = set(scope)

    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    await entry(scope, receive, send)
    assert got[0] is scope
    assert got[1] is receive
    assert got[2] is send
    assert set(scope) - before <= {"app"}
    assert not watched.series("http_requests_total")
    assert not watched.spans
    assert not watched.path.exists()


# Real frameworks' answers, not scripted ones.


def real_fastapi(folder: Any) -> FastAPI:
    app = FastAPI()

    async def resource():
        try:
            yield 1
        finally:
            app.state.cleaned_up = True

    @app.get("/json")
    def as_json(x: int = 1, one: Annotated[int, Depends(resource)] = 0) -> dict[str, int]:
        return {"x": x, "one": one}

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    @app.post("/model")
    def model(body: dict[str, int]) -> int:
        return sum(body.values())

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts():
            for n in range(5):
                yield f"data: {n}\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    @app.get("/stream/fails")
    async def stream_fails() -> StreamingResponse:
        def parts():
            yield b"one"
            raise ValueError("in the stream")

        return StreamingResponse(parts())

    @app.get("/file")
    def file() -> FileResponse:
        return FileResponse(folder / "file.txt")

    @app.get("/empty", status_code=204)
    def empty() -> None: ...

    @app.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418, "teapot", {"x-a": "1"})

    @app.get("/error")
    def error() -> None:
        raise ValueError("unhandled")

    @app.get("/handled")
    def handled() -> None:
        raise KeyError("handled")

    @app.exception_handler(KeyError)
    async def on_key_error(request: Request, exc: KeyError) -> Response:
        return JSONResponse({"handled": str(exc)}, 409)

    @app.get("/background")
    def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(setattr, app.state, "worked", True)
        return "ok"

    @app.get("/background/fails")
    def background_fails(tasks: BackgroundTasks) -> str:
        tasks.add_task(lambda: 1 / 0)
        return "ok"

    return app


def real_starlette(folder: Any) -> Starlette:
    async def stream(request: StarletteRequest) -> Response:
        return StreamingResponse(iter([b"x" * 100] * 20))

    async def error(request: StarletteRequest) -> Response:
        raise ValueError("unhandled")

    async def body(request: StarletteRequest) -> Response:
        return PlainTextResponse(await request.body())

    async def redirect(request: StarletteRequest) -> Response:
        return RedirectResponse("/stream")

    async def tag(request: StarletteRequest, call_next: Any) -> Response:
        response = await call_next(request)
        response.headers["x-tag"] = "1"
        return response

    routes = [Route("/stream", stream), Route("/error", error), Route("/echo", body, methods=["POST"])]
    app = Starlette(routes=[*routes, Route("/old", redirect)], debug=False)
    app.add_middleware(GZipMiddleware, minimum_size=10)
    app.add_middleware(BaseHTTPMiddleware, dispatch=tag)
    return app


REQUESTS = [
    ("GET", "/json", b""),
    ("HEAD", "/json", b""),
    ("GET", "/json?x=oops", b""),
    ("POST", "/json", b""),
    ("OPTIONS", "/json", b""),
    ("GET", "/json/", b""),
    ("GET", "/nowhere", b""),
    ("POST", "/echo", b"payload" * 100),
    ("POST", "/model", b'{"a": 1}'),
    ("POST", "/model", b"{"),
    ("GET", "/stream", b""),
    ("GET", "/stream/fails", b""),
    ("GET", "/file", b""),
    ("HEAD", "/file", b""),
    ("GET", "/empty", b""),
    ("GET", "/teapot", b""),
    ("GET", "/error", b""),
    ("GET", "/handled", b""),
    ("GET", "/background", b""),
    ("GET", "/background/fails", b""),
    ("GET", "/openapi.json", b""),
    ("GET", "/old", b""),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", [real_fastapi, real_starlette])
def test_real_frameworks(watch, tmp_path, build, way, backend):
    """Real routes, responses, handlers, dependencies and middleware answer the same with and without us."""
    (tmp_path / "file.txt").write_text("content")
    for method, target, body in REQUESTS:
        path, _, query = target.partition("?")
        scope = {"method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode()}
        scope["headers"] = [(b"host", b"testserver"), (b"accept-encoding", b"gzip"), (b"content-type", b"application/json")]
        scope["extensions"] = {"http.response.pathsend": {}}
        halves = [{"type": "http.request", "body": body[:3], "more_body": True}, {"type": "http.request", "body": body[3:]}]
        case = Case(build, halves, scope)
        watched = watch(http={"exclude_paths": []})
        bare = run(backend, build(tmp_path), case)
        seen = run(backend, way(build(tmp_path), watched.obs), case)
        for sent in (*bare.sent, *seen.sent):
            # Two responses in two seconds differ in these.
            sent["headers"] = [h for h in sent.get("headers", ()) if h[0] not in (b"date", b"last-modified")]
        assert bare.sent
        assert_equal_runs(bare, seen)
        assert_counted_once(watched)


def test_uncounted_routes_are_transparent_too(watch):
    """A path that is not recorded passes as unchanged as one that is."""
    case = Case(sends(OK, chunk(b"x"), {"type": "x.unknown"}, END), scope={"path": "/quiet"})
    watched = watch(http={"exclude_paths": ["/quiet"]})
    assert_equal_runs(run("asyncio", case.app, case), run("asyncio", around(case.app, watched.obs), case))
    assert not watched.series("http_requests_total")
    assert not watched.spans


# Random apps. They never wait, so that they need no event loop; neither do we.


def finish(running: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        running.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


_binary = st.binary(max_size=8)
_value = st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=5), _binary, st.floats())
_name = st.sampled_from([b"content-length", b"Content-Type", b"x-request-id", b"traceresponse", b"a", b"\xff"])
_header = st.one_of(
    st.tuples(_name, _binary), st.lists(_binary, max_size=3), st.tuples(st.text(max_size=4), st.text(max_size=4))
)
_headers = st.one_of(st.lists(_header, max_size=4), st.lists(_header, max_size=4).map(tuple), st.none(), _value)
_status = st.one_of(st.sampled_from([101, 200, 204, 404, 499, 500, 503, HTTPStatus.OK]), _value)
_type = st.one_of(
    st.sampled_from(["http.response.start", "http.response.body"]),
    st.sampled_from(
        [
            *STARTS,
            "http.response.body",
            "http.response.trailers",
            "http.response.pathsend",
            "http.response.zerocopysend",
            "http.response.early_hint",
            "websocket.send",
            "websocket.close",
            "websocket.http.response.body",
            "x.unknown",
        ]
    ),
    st.text(max_size=5),
)
_optional = {
    "status": _status,
    "headers": _headers,
    "body": st.one_of(_binary, _binary.map(memoryview), _value),
    "more_body": st.one_of(st.booleans(), _value),
    "trailers": st.booleans(),
    "more_trailers": st.booleans(),
    "count": _value,
    "bytes": st.one_of(st.none(), _binary, _value),
    "text": st.one_of(st.none(), st.text(max_size=3), _value),
    "code": st.one_of(st.integers(1000, 4999), _value),
    "other": _value,
}
_outgoing = st.fixed_dictionaries({"type": _type}, optional=_optional)
_incoming = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["http.request", "http.disconnect", "websocket.connect", "websocket.receive", "websocket.disconnect", "x.unknown"]
        )
    },
    optional={key: _optional[key] for key in ("body", "more_body", "bytes", "text", "code", "other")},
)
_error = st.sampled_from([ValueError, OSError, ClientDisconnect, Odd, asyncio.CancelledError, SystemExit])
_step = st.one_of(
    st.tuples(st.just("send"), _outgoing),
    st.tuples(st.just("send"), _outgoing),
    st.tuples(st.just("receive"), st.none()),
    st.tuples(st.just("raise"), _error),
)


def random_app(steps: Any, errors: list[BaseException]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for step, what in steps:
            if step == "send":
                await send(dict(what))
            elif step == "receive":
                await receive()
            else:
                errors.append(what("random"))
                raise errors[-1]

    return app


@settings(
    max_examples=times(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    steps=st.lists(_step, max_size=7),
    incoming=st.lists(_incoming, max_size=4),
    kind=st.sampled_from(["http", "websocket"]),
)
def test_random_apps(watch, steps, incoming, kind):
    """Any sequence of messages, orderly or not, passes unchanged and is one exchange, counted out again."""
    watched = watch()
    scopes = {"http": http_scope, "websocket": websocket_scope}
    errors: list[BaseException] = []
    app = random_app(steps, errors)
    bare = finish(drive(app, scopes[kind](), incoming))
    seen = finish(drive(around(app, watched.obs), scopes[kind](), incoming))
    assert [_comparable(message) for message in seen.sent] == [_comparable(message) for message in bare.sent]
    assert (seen.error is None) == (bare.error is None)
    assert seen.error is None or seen.error is errors[-1]
    assert_counted_once(watched, kind)
    watched.obs.logs.close()


def _comparable(message: dict[str, Any]) -> Any:
    if message["type"] not in STARTS:
        return repr(sorted(message.items()))
    headers = message.get("headers", ())
    if hasattr(headers, "__iter__"):
        headers = [header for header in headers if _readable_name(header) not in OURS]
    return repr([*sorted((key, value) for key, value in message.items() if key != "headers"), headers])
