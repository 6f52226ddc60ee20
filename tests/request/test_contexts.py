"""Whose context a request starts in: a caller's, or what a server kept of one that is over; and what a context keeps."""

import asyncio
import contextvars
import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from hypercorn.middleware import ProxyFixMiddleware
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from starlette.types import ASGIApp, Receive, Scope, Send
from support import PATIENCE_SECONDS, Watched, client, drive, http_scope

from sage_fastapi_obs import CorrelationContext, ObservabilityMiddleware, get_correlation_id
from sage_fastapi_obs.packs.result.logging import create_logging_mono, log_result_operation
from sage_fastapi_obs.packs.result.results import Result, Success
from sage_fastapi_obs.request.exchange import Exchange, current_exchange, exchange_of

TRACE = "a" * 32
CALLER = [
    (b"traceparent", f"00-{TRACE}-{'b' * 16}-00".encode()),
    (b"baggage", b"tenant=first"),
    (b"x-correlation-id", b"first"),
]


class Kept:
    """Something that a request has in its hands, and nobody else."""


class App:
    """An app whose handler lets go its context, as the transport of a server or a pool of connections may keep it."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.contexts: list[contextvars.Context] = []
        self.seen: list[tuple[str, dict[str, object], str | None]] = []
        self.kept: list[weakref.ref[Kept]] = []
        self.entry = ObservabilityMiddleware(self, observability=watched.obs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace_id = f"{trace.get_current_span().get_span_context().trace_id:032x}"
        self.seen.append((trace_id, dict(baggage.get_all()), get_correlation_id()))
        with CorrelationContext("block"), self.watched.provider.get_tracer("app").start_as_current_span("work"):
            self.contexts.append(contextvars.copy_context())
        if scope["path"] == "/calls":
            await drive(self.entry, http_scope("/"))
        kept = Kept()
        self.kept.append(weakref.ref(kept))
        if scope["path"] == "/boom":
            raise ValueError("no")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        if scope["path"] == "/later":
            raise ValueError("later")

    async def ask(self, path: str, headers: Any = (), context: contextvars.Context | None = None) -> dict[bytes, bytes]:
        """Ask in a context, by default in one of its own."""
        driven = await asyncio.create_task(drive(self.entry, http_scope(path, headers=headers)), context=context)
        return driven.headers if driven.error is None else {}


@pytest.mark.parametrize("incoming", ["continue", "ignore"])
async def test_what_is_over_is_nobodys_parent(watch: Any, incoming: str) -> None:
    """A request that starts in the context of one that is over has a trace, a sampling, baggage and ids of its own."""
    app = App(watch(tracing={"incoming": incoming}))
    await app.ask("/", CALLER)
    answers = [await app.ask("/", context=app.contexts[-1]) for _ in range(3)]
    traces = [trace_id for trace_id, _, _ in app.seen]
    assert len(set(traces)) == 4
    assert [answer[b"traceresponse"].decode()[3:35] for answer in answers] == traces[1:]
    assert all(answer[b"traceresponse"].endswith(b"-01") for answer in answers)
    assert [carried for _, carried, _ in app.seen[1:]] == [{}] * 3
    assert [correlation_id for _, _, correlation_id in app.seen[1:]] == [line["request_id"] for line in app.watched.access[1:]]
    assert all(span.parent is None for span in app.watched.server_spans if f"{span.context.trace_id:032x}" != TRACE)


async def test_work_that_goes_on_is_a_parent(watch: Any) -> None:
    """A task that outlives its request and calls the service within a span of its own has that span continued."""
    app = App(watch())
    await app.ask("/")
    with app.watched.provider.get_tracer("app").start_as_current_span("going on") as span:
        context = app.contexts[-1]
        context.run(otel_context.attach, trace.set_span_in_context(span))
        await app.ask("/", context=context)
    assert app.watched.server_spans[-1].parent.span_id == span.get_span_context().span_id


@pytest.mark.parametrize("path", ["/", "/boom", "/later", "/calls"])
async def test_a_context_keeps_nothing_of_what_is_over(watch: Any, path: str) -> None:
    """However long a context lives: no earlier exchange, none of the headers, no exception with the frames it came through."""
    app = App(watch())
    context: contextvars.Context | None = None
    for _ in range(20):
        await app.ask(path, [(b"x-large", b"x" * 1000)], context)
        context = app.contexts.pop()
        app.contexts.clear()
    # Until it is written, the store has what it keeps.
    assert app.watched.obs.store is not None
    assert app.watched.obs.store.flush(PATIENCE_SECONDS)
    gc.collect()
    alive = [one for one in gc.get_objects() if type(one) is Exchange and one.observer is app.watched.obs]
    # The loop still knows the task of the last.
    assert len(alive) <= 3
    assert [exchange.headers for exchange in alive] == [{}] * len(alive)
    assert {kept() for kept in app.kept[:-2]} == {None}
    assert context is not None


async def test_calls_from_within_have_their_caller_as_parent(watch: Any) -> None:
    """From a handler, from a task of it, from a background task and from one below it, however deep."""
    watched = watch()
    app = FastAPI()

    async def call(path: str) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as http:
            await http.get(path)

    @app.get("/outer")
    async def outer(request: Request) -> None:
        await asyncio.create_task(call("/middle"))
        assert request.scope

    @app.get("/middle")
    async def middle() -> None:
        with CorrelationContext("middle"):
            await call("/inner")
            assert get_correlation_id() == "middle"

    @app.get("/inner")
    async def inner() -> None:
        with CorrelationContext("inner"), CorrelationContext("innermost"):
            pass
        assert get_correlation_id() != "middle"

    watched.obs.install(app)
    async with client(app) as c:
        await c.get("/outer")
    spans = {span.attributes["url.path"]: span for span in watched.server_spans}
    assert spans["/inner"].parent.span_id == spans["/middle"].context.span_id
    assert spans["/middle"].parent.span_id == spans["/outer"].context.span_id


async def test_an_operation_is_of_its_own_request(watch: Any) -> None:
    """Steps of a request that starts in the context of another's operation are not told as steps of that."""
    watched = watch()
    contexts: list[contextvars.Context] = []

    async def value() -> Result[int, Exception]:
        return Success(1)

    @log_result_operation("first")
    async def first() -> Result[int, Exception]:
        contexts.append(contextvars.copy_context())
        return await create_logging_mono(value).log_step("of the first").to_result()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (create_logging_mono(value).log_step("of the next").to_result() if contexts else first())

    entry = ObservabilityMiddleware(app, observability=watched.obs)
    async with watched.obs:
        await drive(entry, http_scope())
        await asyncio.create_task(drive(entry, http_scope()), context=contexts[0])
    told = {line["step"]: line.get("operation") for line in watched.lines if line.get("step_status") == "completed"}
    assert told == {"of the first": "first", "of the next": None}


def copied_by(copying: Callable[[Scope], Scope]) -> Callable[[ASGIApp], ASGIApp]:
    """Build a middleware that hands on a copy of the scope."""

    def around(app: ASGIApp) -> ASGIApp:
        async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
            await app(copying(scope), receive, send)

        return middleware

    return around


COPIES = {
    "copy": copied_by(copy.copy),
    "deepcopy": copied_by(copy.deepcopy),
    "each value": copied_by(lambda scope: {name: copy.copy(value) for name, value in scope.items()}),
    "hypercorn's ProxyFix": ProxyFixMiddleware,
}


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("name", COPIES)
async def test_a_scope_may_be_copied(watch: Any, name: str, twice: bool) -> None:
    """The copy is of the same request: one line, and the same ids within."""
    watched = watch()
    within: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        within.append(exchange_of(scope))
        assert exchange_of(scope) is current_exchange.get()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    inner = ObservabilityMiddleware(app, observability=watched.obs) if twice else app
    driven = await drive(ObservabilityMiddleware(COPIES[name](inner), observability=watched.obs), http_scope())
    assert (driven.error, len(within), len(watched.access)) == (None, 1, 1)
    assert watched.obs.internal_errors.counts == {}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
async def test_a_scope_may_be_pickled(watch: Any, protocol: int) -> None:
    """Where it is read, perhaps in another process, there is no exchange; and an app may be called with it, and is watched."""
    watched = watch()
    read: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        read.append(pickle.loads(pickle.dumps(scope, protocol)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    entry = ObservabilityMiddleware(app, observability=watched.obs)
    await drive(entry, http_scope("/first"))
    assert exchange_of(read[0]) is None
    driven = await drive(entry, read[0])
    assert driven.error is None
    assert [line["path"] for line in watched.access] == ["/first", "/first"]
