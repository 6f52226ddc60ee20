"""Whoever opens the server span, there is one per request, and its ids are in the line, the headers and the exemplar."""

import asyncio
import subprocess
import sys
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import NoOpTracerProvider, SpanKind
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware as Starlettes
from starlette.responses import PlainTextResponse
from support import PATIENCE_SECONDS, Watched, client, drive, http_scope

from sage_fastapi_obs import CurrentSpan, Observability, ObservabilityMiddleware, Settings

PATHS = ["/items/4", "/nowhere", "/boom"]


def routed(app: FastAPI) -> FastAPI:
    """Add routes."""

    @app.get("/items/{item}")
    def read(item: int) -> str:
        return f"{trace.get_current_span().get_span_context().trace_id:032x}"

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("no")

    return app


def nobody(watched: Watched):
    """Open none but ours."""
    app = routed(FastAPI(telemetry={"tracing": False}))
    watched.obs.install(app)
    return app


def fastapi_itself(watched: Watched):
    """Let FastAPI's own telemetry open it."""
    app = routed(FastAPI(telemetry={"tracer_provider": watched.provider, "operation_spans": False}))
    watched.obs.install(app)
    return app


def fastapi_with_operations(watched: Watched):
    """Let FastAPI's own telemetry open it, with spans for dependencies and endpoints below."""
    app = routed(FastAPI(telemetry={"tracer_provider": watched.provider}))
    app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
    return app


def middleware_outside(watched: Watched):
    """Wrap everything in OpenTelemetry's middleware."""
    app = routed(FastAPI())
    watched.obs.install(app)
    return OpenTelemetryMiddleware(app, tracer_provider=watched.provider, exclude_spans=["send", "receive"])


def instrumentor_after(watched: Watched):
    """Let the instrumentor follow us."""
    app = routed(FastAPI())
    watched.obs.install(app)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=watched.provider, exclude_spans=["send", "receive"])
    return app


def instrumentor_before(watched: Watched):
    """Let the instrumentor go first."""
    app = routed(FastAPI())
    FastAPIInstrumentor.instrument_app(app, tracer_provider=watched.provider, exclude_spans=["send", "receive"])
    watched.obs.install(app)
    return app


def around_an_instrumented_app(watched: Watched):
    """Wrap an app that has FastAPI's own telemetry on."""
    app = routed(FastAPI(telemetry={"tracer_provider": watched.provider}))
    return ObservabilityMiddleware(app, observability=watched.obs)


def mounted(watched: Watched):
    """Mount an app that has FastAPI's own telemetry on."""
    app = Starlette()
    app.mount("/", routed(FastAPI(telemetry={"tracer_provider": watched.provider})))
    watched.obs.install(app)
    return app


def starlettes_middleware(watched: Watched):
    """Add Starlette's own middleware, which ends up inside."""
    app = routed(FastAPI())
    app.add_middleware(Starlettes, tracer_provider=watched.provider)
    watched.obs.install(app)
    return app


OPENERS = [
    nobody,
    fastapi_itself,
    fastapi_with_operations,
    middleware_outside,
    instrumentor_after,
    instrumentor_before,
    around_an_instrumented_app,
    mounted,
    starlettes_middleware,
]


@pytest.fixture
def uninstrumented():
    """Take the instrumentor's process-wide patches back."""
    yield
    # Any app will do: what it patches is `BackgroundTask` itself.
    FastAPIInstrumentor.uninstrument_app(FastAPI())
    assert BackgroundTask.__call__.__module__ == "starlette.background"


@pytest.mark.usefixtures("uninstrumented")
@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "unsampled"])
@pytest.mark.parametrize("opener", OPENERS)
async def test_one_server_span_and_its_ids_everywhere(watch, opener, sampler):
    """Line, headers and exemplar name the one server span of the request, whoever opened it."""
    watched = watch(sampler=sampler)
    app = opener(watched)
    async with client(app) as c:
        answers = [await c.get(path) for path in PATHS]
    traces = [answer.headers["traceresponse"].split("-")[1:] for answer in answers if "traceresponse" in answer.headers]
    assert [[line["trace_id"], line["span_id"], line["trace_flags"]] for line in watched.access][: len(traces)] == traces
    assert len(traces) >= 2
    assert answers[0].json() == watched.access[0]["trace_id"]
    if sampler is ALWAYS_OFF:
        assert watched.spans == []
        return
    spans = {(f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"): span for span in watched.server_spans}
    assert len(spans) == len(watched.server_spans) == len(PATHS)
    for line in watched.access:
        assert spans[line["trace_id"], line["span_id"]].attributes["sage.request_id"] == line["request_id"]
    exemplars = {
        (sample.exemplar.labels["trace_id"], sample.exemplar.labels["span_id"])
        for metric in watched.obs.registry.collect()
        for sample in metric.samples
        if sample.exemplar
    }
    assert exemplars <= set(spans)
    assert exemplars


def starlettes_inside(provider: TracerProvider, obs: Observability):
    """Add Starlette's own middleware, below ours."""
    app = routed(FastAPI(telemetry={"tracing": False}))
    app.add_middleware(Starlettes, tracer_provider=provider)
    obs.install(app)
    return app, app


def fastapis_inside(provider: TracerProvider, obs: Observability):
    """Wrap an app whose telemetry has a provider of its own."""
    app = routed(FastAPI(telemetry={"tracer_provider": provider}))
    return app, ObservabilityMiddleware(app, observability=obs)


def fastapis_mounted(provider: TracerProvider, obs: Observability):
    """Mount such an app."""
    app = routed(FastAPI(telemetry={"tracer_provider": provider}))
    around = Starlette()
    around.mount("/", app)
    obs.install(around)
    return app, around


@pytest.mark.parametrize("ours", ["none", "no processor", "not yet", "no-op", "rate 0"])
@pytest.mark.parametrize("inside", [starlettes_inside, fastapis_inside, fastapis_mounted])
async def test_theirs_is_the_one_where_ours_goes_nowhere(watch, inside, ours):
    """Spans of others inside of us are all there, and theirs are the ids; ours are, as soon as they are sent somewhere."""
    theirs, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    theirs.add_span_processor(SimpleSpanProcessor(exporter))
    provider = {"no processor": TracerProvider(shutdown_on_exit=False), "no-op": NoOpTracerProvider()}.get(ours)
    settings = Settings(logging={"output": str(watch().path)}, tracing={"sample_rate": 0.0 if ours == "rate 0" else 1.0})
    obs = Observability(settings, tracer_provider=provider)
    app, entry = inside(theirs, obs)

    @app.get("/calls")
    async def calls_itself(span: CurrentSpan) -> str:
        span.set_attribute("of.the.handler", 1)
        async with client(entry) as inner:
            return (await inner.get("/items/4")).headers["traceresponse"]

    paths = ["/items/4", "/nowhere", "/boom", "/calls"]
    incoming = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    async with obs, client(entry) as c:
        answers = [await c.get(path, headers=headers) for headers in ({}, incoming) for path in paths]
        told = [answer.headers["traceresponse"] for answer in answers]
        told += [answer.json() for answer in answers if answer.url.path == "/calls"]
        servers = {traceresponse(span): span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER}
        assert sorted(told) == sorted(servers)
        assert len(servers) == 10
        assert answers[0].json() == told[0][3:35]
        assert all("sage.request_id" in span.attributes for span in servers.values() if span.name != "GET /boom")
        assert [span.name for span in servers.values() if "of.the.handler" in span.attributes] == ["GET /calls"] * 2

        if ours == "not yet":
            read = InMemorySpanExporter()
            obs.tracer_provider.add_span_processor(SimpleSpanProcessor(read))
            exporter.clear()
            answer = await c.get("/items/4")
            assert [traceresponse(span) for span in read.get_finished_spans()] == [answer.headers["traceresponse"]]
            assert exporter.get_finished_spans() == ()


async def test_an_answer_may_be_sent_from_somewhere_else():
    """The span of whoever hands an answer on is not taken for that of the request."""
    waiting: asyncio.Queue[Any] = asyncio.Queue()
    sending: list[asyncio.Task[None]] = []

    async def hand_on() -> None:
        while True:
            send, done = await waiting.get()
            await PlainTextResponse("x")({"type": "http"}, None, send)
            done.set()

    async def app(scope, receive, send):
        if not sending:
            sending.append(asyncio.create_task(hand_on()))
        done = asyncio.Event()
        waiting.put_nowait((send, done))
        await done.wait()

    obs = Observability(Settings(logging={"enabled": False}))
    async with obs:
        entry = ObservabilityMiddleware(app, observability=obs)
        told = [(await drive(entry, http_scope())).headers[b"traceresponse"] for _ in range(3)]
        sending[0].cancel()
    assert len(set(told)) == 3


def traceresponse(span: ReadableSpan) -> str:
    """Write the header that names a span."""
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


async def test_a_service_that_calls_itself_in_process(watch):
    """The inner request is an exchange of its own: other ids, a span below the caller's."""
    watched = watch()
    app = routed(FastAPI())

    @app.get("/outer")
    async def call_itself() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as inner:
            return (await inner.get("/items/4")).headers["x-request-id"]

    watched.obs.install(app)
    async with client(app) as c:
        answer = await c.get("/outer")
    inner, outer = watched.access
    assert (inner["path"], outer["path"]) == ("/items/4", "/outer")
    assert inner["request_id"] == answer.json() != outer["request_id"] == answer.headers["x-request-id"]
    spans = {span.attributes["url.path"]: span for span in watched.server_spans}
    assert spans["/items/4"].parent.span_id == spans["/outer"].context.span_id


async def test_a_span_around_the_client_is_the_parent(watch):
    """A span that is current and no server's is not taken for one."""
    watched = watch()
    app = nobody(watched)
    with watched.provider.get_tracer("test").start_as_current_span("test") as span:
        async with client(app) as c:
            await c.get("/items/4")
    (server,) = watched.server_spans
    assert server.parent.span_id == span.get_span_context().span_id
    assert server.kind is SpanKind.SERVER


async def test_an_unsampled_span_of_somebody_else_is_adopted_too(watch):
    """Its ids are the request's, though it records nothing and does not say what kind it is."""
    watched = watch()
    app = nobody(watched)
    theirs = trace.SpanContext(0xABC, 0xDEF, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(theirs)):
        async with client(app) as c:
            await c.get("/items/4")
    assert watched.access[0]["span_id"] == f"{theirs.span_id:016x}"
    assert watched.spans == []


async def test_a_callers_context_is_no_span_of_this_request(watch):
    """What was extracted from a header and made current is the parent."""
    watched = watch()
    app = nobody(watched)
    remote = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(remote)):
        async with client(app) as c:
            await c.get("/items/4")
    (span,) = watched.server_spans
    assert span.parent.span_id == remote.span_id


GLOBAL = """
import asyncio, httpx
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings

provider, exporter = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

async def ask(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return (await client.get("/items/4")).headers["traceresponse"].split("-")[2]

def build():
    app = FastAPI()
    app.add_api_route("/items/{item}", lambda item: item)
    return app

async def main():
    for around in (False, True):
        obs = Observability(Settings(logging={"enabled": False}))
        app = build()
        if around:
            app = ObservabilityMiddleware(app, observability=obs)
        else:
            obs.install(app)
        exporter.clear()
        span_id = await ask(app)
        servers = [span for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER]
        assert [f"{span.context.span_id:016x}" for span in servers] == [span_id], servers
        assert obs.tracer_provider is provider
        await obs.close()
        assert trace.get_tracer_provider() is provider
        provider.get_tracer("still").start_span("alive").end()
        assert exporter.get_finished_spans()[-1].name == "alive"

asyncio.run(main())
"""


def test_a_global_provider_is_used_and_left_alone():
    """With a global provider FastAPI opens the span, or we do around it: one, and the provider lives on."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GLOBAL], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
