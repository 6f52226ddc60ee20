"""Spans of ours that nobody reads are nobody's parent, and all that we tell and send on has their ids."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.types import Receive, Scope, Send
from support import Watched, client, drive, http_scope

from sage_fastapi_obs import CurrentSpan, ObservabilityMiddleware, RequestLogger, correlation_hook, create_logger, operation
from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.kafka import process_message
from sage_fastapi_obs.operations.count import add_span_event
from sage_fastapi_obs.request.innermost_span import innermost_span

TRACE, CALLER = "ab" * 16, "cd" * 8
INCOMING = {"traceparent": f"00-{TRACE}-{CALLER}-01", "baggage": "tenant=first"}
log = create_logger("app")


class Theirs:
    """A provider of the application's own, whose spans are read."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("theirs")

    def parent(self, name: str) -> str | None:
        """Tell the id of the span above one of these."""
        (span,) = [span for span in self._exporter.get_finished_spans() if span.name == name]
        return None if span.parent is None else f"{span.parent.span_id:016x}"


@pytest.fixture
def theirs() -> Theirs:
    """Build one."""
    return Theirs()


@pytest.fixture
def unread(watch: Any) -> Watched:
    """Watch with a provider whose spans go nowhere."""
    watched: Watched = watch(metrics={"packs": ["dependencies"]})
    watched.provider._active_span_processor._span_processors = ()
    return watched


def ids(span: trace.Span) -> tuple[str, str]:
    """Write the ids of a span."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


async def sent(**headers: str) -> httpx.Headers:
    """Ask another service through a client that we watch and one with our hook; return the headers of both requests."""
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200)

    hooks: dict[str, Any] = {"request": [correlation_hook]}
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), event_hooks=hooks) as hooked:
        await hooked.get("http://other/", headers=headers)
    async with instrument_httpx(httpx.AsyncClient(transport=httpx.MockTransport(answer))).client as watched:
        await watched.get("http://other/", headers=headers)
    by_hook, by_client = seen
    # The watched call has a span of its own, of the same trace.
    assert by_hook["traceparent"].split("-")[1] == by_client["traceparent"].split("-")[1]
    return by_hook


@pytest.mark.parametrize("incoming", [{}, INCOMING])
async def test_the_app_has_what_it_would_have_without_us(unread: Watched, theirs: Theirs, incoming: dict[str, str]) -> None:
    """Current is what the caller has sent; spans of another provider are below that, also those in an operation of ours."""
    app = FastAPI()

    @app.get("/")
    async def handle() -> str:
        with theirs.tracer.start_as_current_span("plain"):
            pass
        with operation("work"), theirs.tracer.start_as_current_span("in an operation"):
            pass
        return ids(trace.get_current_span())[1]

    @app.get("/baggage")
    async def carried() -> dict[str, object]:
        return dict(baggage.get_all())

    unread.obs.install(app)
    above = CALLER if incoming else None
    async with client(app) as c:
        assert (await c.get("/", headers=incoming)).json() == (above or "0" * 16)
        assert (await c.get("/baggage", headers=incoming)).json() == ({"tenant": "first"} if incoming else {})
    assert [theirs.parent("plain"), theirs.parent("in an operation")] == [above] * 2


@pytest.mark.parametrize("mode", ["ignore", "link"])
async def test_what_is_not_continued_is_not_handed_on(watch: Any, mode: str) -> None:
    """By the setting a caller's trace ends here, for the application, too."""
    watched = watch(tracing={"incoming": mode})
    watched.provider._active_span_processor._span_processors = ()
    app = FastAPI()
    app.add_api_route("/", lambda: ids(trace.get_current_span())[0])
    watched.obs.install(app)
    async with client(app) as c:
        assert (await c.get("/", headers=INCOMING)).json() == "0" * 32


@pytest.mark.parametrize("incoming", [{}, INCOMING])
async def test_what_is_ours_agrees(unread: Watched, incoming: dict[str, str]) -> None:
    """Lines, header, exemplars, dependencies, operations and what is sent on name one trace, but for operations one span."""
    app = FastAPI()
    told: dict[str, Any] = {}

    @app.get("/")
    async def handle(span: CurrentSpan, log_of_the_request: RequestLogger) -> None:
        told["span"], told["sent"] = ids(span), await sent()
        log.info("async")
        log_of_the_request.info("of the request")
        await asyncio.to_thread(log.info, "thread")
        bare = threading.Thread(target=lambda: log_of_the_request.info("bare thread"))
        bare.start()
        bare.join()
        later = log.with_trace()
        with operation("outer") as outer, operation("inner") as inner:
            log.info("in an operation")
            later.info("kept")
            told["operation"], told["sent in"] = ids(inner.span), await sent()
            assert (outer.span.parent.span_id, inner.span.parent.span_id) == (
                span.get_span_context().span_id,
                outer.span.get_span_context().span_id,
            )
            add_span_event("noted")
            assert [event.name for event in inner.span.events] == ["noted"]

    unread.obs.install(app)
    async with client(app) as c:
        answer = await c.get("/", headers=incoming)
    _, trace_id, span_id, _ = answer.headers["traceresponse"].split("-")
    assert (trace_id == TRACE) == bool(incoming)
    assert told["span"] == (trace_id, span_id)
    assert told["sent"]["traceparent"].split("-")[1:3] == [trace_id, span_id]
    assert told["sent in"]["traceparent"].split("-")[1:3] == [*told["operation"]]
    assert told["operation"][0] == trace_id
    lines = {line["message"]: (line["trace_id"], line["span_id"]) for line in unread.lines if line["logger"] == "app"}
    lines |= {line["message"]: (line["trace_id"], line["span_id"]) for line in [*unread.access, *of_requests(unread)]}
    assert lines.pop("in an operation") == told["operation"]
    assert len(lines) >= 5
    assert set(lines.values()) == {(trace_id, span_id)}
    assert {sample.exemplar.labels["trace_id"] for sample in exemplars(unread)} == {trace_id}


def of_requests(watched: Watched) -> list[dict[str, Any]]:
    """Find the lines that loggers of requests have written."""
    return [line for line in watched.lines if line["message"] in ("of the request", "bare thread")]


def exemplars(watched: Watched) -> list[Any]:
    """Find all samples with an exemplar."""
    return [sample for metric in watched.obs.registry.collect() for sample in metric.samples if sample.exemplar]


@pytest.mark.parametrize("incoming", [{}, INCOMING])
async def test_work_that_goes_on_keeps_the_ids(unread: Watched, incoming: dict[str, str]) -> None:
    """Background tasks, and tasks that outlive the request, write and send on its ids."""
    app = FastAPI()
    tasks: list[asyncio.Task[None]] = []
    over = asyncio.Event()
    told: list[str] = []

    async def go_on() -> None:
        await over.wait()
        log.info("after all")
        told.append((await sent())["traceparent"])

    @app.get("/")
    async def handle(background: BackgroundTasks) -> None:
        background.add_task(log.info, "in the background")
        with operation("begun"):
            pass
        tasks.append(asyncio.create_task(go_on()))

    unread.obs.install(app)
    async with client(app) as c:
        answer = await c.get("/", headers=incoming)
    over.set()
    await asyncio.gather(*tasks)
    told.append(answer.headers["traceresponse"])
    lines = [(line["trace_id"], line["span_id"]) for line in unread.lines if line["logger"] == "app"]
    assert len(lines) == 2
    assert {*lines, *[tuple(one.split("-")[1:3]) for one in told]} == {tuple(told[-1].split("-")[1:3])}


async def test_a_span_of_theirs_is_innermost(unread: Watched, theirs: Theirs) -> None:
    """Where the application has opened a span, lines and what is sent on have its ids, and operations are below it."""
    app = FastAPI()
    told: dict[str, Any] = {}

    @app.get("/")
    async def handle() -> None:
        with operation("around"), theirs.tracer.start_as_current_span("theirs") as span:
            log.info("in theirs")
            told["theirs"], told["sent"] = ids(span), (await sent())["traceparent"]
            with operation("below") as run:
                told["below"] = run.span.parent.span_id
                log.info("in ours again")
                told["ours"] = ids(run.span)

    unread.obs.install(app)
    async with client(app) as c:
        await c.get("/")
    lines = {line["message"]: (line["trace_id"], line["span_id"]) for line in unread.lines if line["logger"] == "app"}
    assert lines == {"in theirs": told["theirs"], "in ours again": told["ours"]}
    assert tuple(told["sent"].split("-")[1:3]) == told["theirs"]
    assert f"{told['below']:016x}" == told["theirs"][1]


async def test_a_caller_in_this_process(unread: Watched, theirs: Theirs) -> None:
    """Its span is current in the app, and the parent of ours."""
    app = FastAPI()
    told: list[Any] = []

    @app.get("/")
    async def handle(span: CurrentSpan) -> None:
        told.append(trace.get_current_span())
        told.append(span.parent.span_id)
        log.info("in the app")
        with theirs.tracer.start_as_current_span("plain"):
            pass

    unread.obs.install(app)
    async with client(app) as c:
        with theirs.tracer.start_as_current_span("caller", kind=SpanKind.CLIENT) as caller:
            answer = await c.get("/")
    assert told == [caller, caller.get_span_context().span_id]
    assert theirs.parent("plain") == ids(caller)[1]
    (line,) = [line for line in unread.lines if line["logger"] == "app"]
    assert f"{line['trace_id']}-{line['span_id']}" in answer.headers["traceresponse"]


async def test_a_service_that_calls_itself(unread: Watched) -> None:
    """The inner request is below the outer one, or the operation that it is made in, and its lines are its own."""
    app = FastAPI()
    parents: list[str] = []
    expected: list[str] = []

    @app.get("/inner")
    async def inner(span: CurrentSpan) -> None:
        parents.append(f"{span.parent.span_id:016x}")
        log.info("inner", mine=ids(span))
        with operation("deeper") as run:
            assert run.span.parent.span_id == span.get_span_context().span_id

    @app.get("/outer")
    async def outer(span: CurrentSpan) -> None:
        expected.append(ids(span)[1])
        async with client(app) as c:
            await c.get("/inner")
            with operation("calls") as run:
                expected.append(ids(run.span)[1])
                await c.get("/inner")

    unread.obs.install(app)
    async with client(app) as c:
        answer = await c.get("/outer")
    assert parents == expected
    lines = [line for line in unread.lines if line["logger"] == "app"]
    assert [[line["trace_id"], line["span_id"]] for line in lines] == [line["data"]["mine"] for line in lines]
    assert {line["trace_id"] for line in unread.access} == {answer.headers["traceresponse"].split("-")[1]}


class Leaky:
    """An app that lets go its context, as the transport of a server keeps it."""

    def __init__(self, watched: Watched, theirs: Theirs) -> None:
        self._theirs = theirs
        self.contexts: list[contextvars.Context] = []
        self.seen: list[tuple[str, str, dict[str, object]]] = []
        self.entry = ObservabilityMiddleware(self, observability=watched.obs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append((ids(innermost_span())[0], ids(trace.get_current_span())[0], dict(baggage.get_all())))
        with operation("work"), self._theirs.tracer.start_as_current_span("theirs"):
            self.contexts.append(contextvars.copy_context())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def test_what_is_over_is_nobodys_parent(unread: Watched, theirs: Theirs) -> None:
    """A request in the context of one that is over has nothing of it: neither trace nor baggage nor a current span."""
    app = Leaky(unread, theirs)
    headers = [(name.encode(), value.encode()) for name, value in INCOMING.items()]
    await drive(app.entry, http_scope(headers=headers))
    for _ in range(2):
        driven = await asyncio.create_task(drive(app.entry, http_scope()), context=app.contexts[-1])
        trace_id, current, carried = app.seen[-1]
        assert driven.headers[b"traceresponse"].decode()[3:35] == trace_id
        assert (current, carried) == ("0" * 32, {})
    assert len({trace_id for trace_id, _, _ in app.seen}) == 3
    assert app.seen[0] == (TRACE, TRACE, {"tenant": "first"})


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_reader_may_come_at_any_time(unread: Watched, kind: str) -> None:
    """From the next request and the next operation on, ours are current."""
    told: list[bool] = []
    readers: list[Callable[[], None]] = [lambda: None, lambda: unread.provider.add_span_processor(SpanProcessor())]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        readers.pop(0)() if readers else None
        told.append(trace.get_current_span() is innermost_span())
        with operation("work") as run:
            told.append(trace.get_current_span() is run.span)
            told.append(innermost_span() is run.span)
        start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start if kind == "http" else {"type": "websocket.accept"})
        if kind == "http":
            await send({"type": "http.response.body", "body": b""})

    entry = ObservabilityMiddleware(app, observability=unread.obs)
    for _ in range(3):
        assert (await drive(entry, http_scope(type=kind))).error is None
    assert told == [False, False, True, False, True, True, True, True, True]


async def test_a_message_that_is_processed_in_a_request(unread: Watched) -> None:
    """Its work is below the request, and linked to its sender; outside of any request it is below the sender."""

    class Message:
        topic, partition, offset = "orders", 0, 1
        headers = (("traceparent", INCOMING["traceparent"].encode()),)

    app = FastAPI()
    told: list[Any] = []

    @app.get("/")
    async def handle(span: CurrentSpan) -> None:
        with process_message(Message()) as run:
            told.append(run.span.parent == span.get_span_context())
            told.append(len(run.span.links))

    unread.obs.install(app)
    async with client(app) as c:
        await c.get("/")
    assert told == [True, 1]
    with process_message(Message()) as run:
        assert (ids(run.span)[0], f"{run.span.parent.span_id:016x}") == (TRACE, CALLER)


@pytest.fixture
async def outside(unread: Watched) -> AsyncIterator[Watched]:
    """Start a service whose operations run outside of requests."""
    async with unread.obs:
        yield unread


async def test_operations_outside_of_requests(outside: Watched, theirs: Theirs) -> None:
    """Their lines have their ids, each below the next; spans of others are not below them."""
    with operation("outer") as outer:
        with operation("inner"), theirs.tracer.start_as_current_span("theirs"):
            pass
        log.info("in the outer one")
        assert ids(innermost_span()) == ids(outer.span)
    assert theirs.parent("theirs") is None
    (line,) = [line for line in outside.lines if line["logger"] == "app"]
    assert line["operation"] == "outer"
    assert not innermost_span().get_span_context().is_valid
