"""Trace context in and out, sampling, providers and exporters."""

import asyncio
import json
import logging
import threading

import anyio
import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from receivers import SpanCollector, serving
from starlette.responses import StreamingResponse
from support import LONG_ENOUGH, client, drive, http_scope, times

from sage_fastapi_obs import CurrentSpan, Observability, ObservabilityMiddleware, Settings
from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction

TRACE, PARENT = "a" * 32, "b" * 16


def traceparent(flags: str = "01") -> tuple[bytes, bytes]:
    """Build the header of a caller."""
    return b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode()


def build_app() -> FastAPI:
    """Build an app that shows what it sees of its trace."""
    app = FastAPI()

    @app.get("/sync")
    def sync() -> str:
        return f"{trace.get_current_span().get_span_context().span_id:016x}"

    @app.get("/async")
    async def asynchronous() -> str:
        return f"{trace.get_current_span().get_span_context().span_id:016x}"

    @app.get("/dependency")
    async def dependency(span: CurrentSpan) -> str:
        return f"{span.get_span_context().span_id:016x}"

    @app.get("/baggage")
    async def carried() -> dict[str, object]:
        return dict(baggage.get_all())

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        async def work() -> None:
            trace.get_tracer("test").start_span("x").end()
            await asyncio.sleep(0.015)

        tasks.add_task(work)

    @app.get("/fails-later")
    async def fails_later(tasks: BackgroundTasks) -> None:
        def work() -> None:
            raise ValueError("later")

        tasks.add_task(work)

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("no")

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def chunks():
            while True:
                yield b"x"
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    @app.websocket("/ws/{room}")
    async def socket(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        await websocket.receive_text()

    return app


@pytest.mark.parametrize(
    ("incoming", "trace_id", "parent", "links"),
    [("continue", TRACE, PARENT, []), ("link", None, None, [TRACE]), ("ignore", None, None, [])],
)
async def test_what_a_traceparent_means(watch, incoming, trace_id, parent, links):
    """By the setting it is the parent, a link on a new root, or nothing."""
    watched = watch(tracing={"incoming": incoming})
    app = build_app()
    watched.obs.install(app)
    await drive(app, http_scope("/sync", headers=[traceparent(), (b"tracestate", b"vendor=1")]))
    (span,) = watched.server_spans
    found = f"{span.context.trace_id:032x}"
    assert (found == TRACE) == (trace_id is not None)
    assert (f"{span.parent.span_id:016x}" if span.parent else None) == parent
    assert [f"{link.context.trace_id:032x}" for link in span.links] == links
    if parent:
        assert span.context.trace_state["vendor"] == "1"


@pytest.mark.parametrize(
    ("flags", "rate", "sampled"), [("01", 0.0, True), ("00", 1.0, False), (None, 1.0, True), (None, 0.0, False)]
)
async def test_a_parents_decision_is_followed(watch, flags, rate, sampled):
    """Sampling is the caller's where there is one, and the rate's otherwise; header and line say which."""
    watched = watch(sampler=ParentBased(TraceIdRatioBased(rate)))
    app = build_app()
    watched.obs.install(app)
    driven = await drive(app, http_scope("/sync", headers=[traceparent(flags)] if flags else []))
    assert len(watched.server_spans) == sampled
    assert (
        driven.headers[b"traceresponse"].decode().split("-")[3]
        == ("01" if sampled else "00")
        == watched.access[0]["trace_flags"]
    )


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
async def test_our_own_sampling_is_that_of_the_sdk(rate: float):
    """The SDK's sampler decides alike of the same trace ids; what is passed on has the ids that the client is told."""
    app = FastAPI()

    @app.get("/")
    async def passed_on() -> dict[str, str]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    spans = InMemorySpanExporter()
    sampler = TraceIdRatioBased(rate)
    says_random = getattr(trace.TraceFlags, "RANDOM_TRACE_ID", 0)
    obs = Observability(Settings(tracing={"sample_rate": rate}, logging={"enabled": False}))
    obs.install(app)
    async with obs:
        obs.tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
        for _ in range(100):
            driven = await drive(app, http_scope("/"))
            told = driven.headers[b"traceresponse"].decode()
            passed = json.loads(driven.sent[-1]["body"])["traceparent"]
            sampled = sampler.should_sample(None, int(told[3:35], 16), "GET").decision.is_sampled()
            assert (passed[:-2], int(passed[-2:], 16)) == (told[:-2], says_random | sampled)
            assert told.endswith("-01" if sampled else "-00")
            # A pause of the machine after the last byte looks like background work, which has a span of its own.
            server = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
            assert [f"{span.context.trace_id:032x}" for span in server] == [told[3:35]] * sampled
            spans.clear()


async def test_baggage_in_several_headers(watch):
    """All of it arrives."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)
    async with client(app) as c:
        answer = await c.get("/baggage", headers=[("baggage", "a=1"), ("baggage", "b=2")])
    assert answer.json() == {"a": "1", "b": "2"}


@pytest.mark.parametrize("exported", [True, False])
@pytest.mark.parametrize("mode", ["continue", "link"])
async def test_the_context_of_outer_code_reaches_the_app(watch, mode, exported):
    """What a server or an outer layer has put into OpenTelemetry's context stays there, whatever headers a request has."""
    watched = watch(tracing={"incoming": mode})
    if not exported:
        watched.provider._active_span_processor._span_processors = ()
    app = build_app()
    watched.obs.install(app)
    token = context.attach(baggage.set_baggage("tenant", "outer"))
    try:
        async with client(app) as c:
            answer = await c.get("/baggage", headers=[traceparent()])
    finally:
        context.detach(token)
    assert answer.json() == {"tenant": "outer"}


async def test_a_header_without_a_trace_leaves_the_outer_span_the_parent(watch):
    """Baggage alone, or a trace that cannot be read, does not cut a request off from the span that it is served in."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)
    with watched.provider.get_tracer("outer").start_as_current_span("outer") as outer:
        for headers in ([], [(b"baggage", b"a=1")], [(b"traceparent", b"no trace")]):
            await drive(app, http_scope("/sync", headers=headers))
    assert {span.parent and span.parent.span_id for span in watched.server_spans} == {outer.get_span_context().span_id}


HEADER = st.sampled_from([b"traceparent", b"tracestate", b"baggage", b"user-agent", b"host", b"\xff\\x", b"x-request-id"])
BYTES = st.one_of(st.binary(max_size=80), st.just(rb"\xff\N{"), st.just(rb"\xff\u"), st.just(b"a:\xb2"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=times(80))
@given(st.lists(st.tuples(HEADER, BYTES), max_size=6))
def test_any_bytes_in_headers_are_served(headers):
    """Undecodable or nonsensical headers neither break the request nor any part of ours."""
    obs = Observability(Settings(logging={"output": "/dev/null"}))
    app = build_app()
    obs.install(app)
    driven = asyncio.run(drive(app, http_scope("/sync", headers=headers)))
    asyncio.run(obs.close())
    assert driven.error is None
    assert driven.sent[0]["status"] == 200
    assert obs.internal_errors.counts == {}


@pytest.mark.parametrize("path", ["/sync", "/async", "/dependency"])
async def test_the_span_is_current_in_the_handler(watch, path):
    """Threads and coroutines see it, and the caller does not, before or after."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)
    async with client(app) as c:
        answer = await c.get(path)
    assert answer.json() == watched.access[0]["span_id"]
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("path", ["/async", "/boom"])
def test_nothing_is_left_in_the_callers_context(watch, backend, path):
    """Also after an exception, on either event loop."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)

    async def main() -> bool:
        await drive(app, http_scope(path))
        return trace.get_current_span().get_span_context().is_valid

    assert not anyio.run(main, backend=backend)


async def test_a_cancelled_stream_makes_no_noise(watch, caplog):
    """OpenTelemetry complains about contexts that are detached elsewhere; it has no reason to."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)
    streaming = asyncio.create_task(drive(app, http_scope("/endless"), [{"type": "http.request"}]))
    for _ in range(200):
        await asyncio.sleep(0)
    streaming.cancel()
    await streaming
    assert [
        record for record in caplog.records if record.name.startswith("opentelemetry") and record.levelno >= logging.WARNING
    ] == []
    assert len(watched.server_spans) == 1


async def spans_of_work_after(watch, path):
    """Request a path whose work goes on after the response; return the server span, and the span of that work."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)
    async with client(app) as c:
        await c.get(path)
    (server,) = watched.server_spans
    (background,) = [span for span in watched.spans if span.name == "background"]
    return server, background


async def test_work_after_the_response_has_a_span_of_its_own(watch):
    """In the same trace, from when the response was sent; the server span ends with the response."""
    server, background = await spans_of_work_after(watch, "/background")
    assert background.parent.span_id == server.context.span_id
    assert server.end_time <= background.start_time <= background.end_time


async def test_failed_work_after_the_response_marks_its_own_span(watch):
    """The request stays a success."""
    server, background = await spans_of_work_after(watch, "/fails-later")
    assert server.status.status_code is StatusCode.UNSET
    assert background.status.status_code is StatusCode.ERROR
    assert background.attributes == {"error.type": "ValueError"}
    assert [event.name for event in background.events] == ["exception"]


async def test_a_websockets_span_is_its_handshake(watch):
    """It ends when the connection is accepted, with status 101."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "x"}]
    await drive(app, http_scope("/ws/tea", type="websocket", scheme="ws"), incoming)
    (span,) = watched.server_spans
    assert span.name == "GET /ws/{room}"
    assert span.attributes["http.response.status_code"] == 101
    assert span.attributes["network.protocol.name"] == "websocket"
    assert span.end_time - span.start_time == round(watched.access[0]["handshake_ms"] * 1_000_000)


async def test_an_unhandled_exception_is_recorded_once(watch):
    """One event, with the class as error type."""
    watched = watch()
    app = build_app()
    watched.obs.install(app)
    async with client(app) as c:
        await c.get("/boom")
    (span,) = watched.spans
    assert [event.attributes["exception.message"] for event in span.events] == ["no"]
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")


async def test_switched_off(watch):
    """No span, no trace ids; ids, line and metrics stay."""
    watched = watch(tracing={"enabled": False})
    app = build_app()
    watched.obs.install(app)
    async with client(app) as c:
        answer = await c.get("/async")
    assert "traceresponse" not in answer.headers
    assert "trace_id" not in watched.access[0]
    assert watched.spans == []
    assert watched.value("http_requests_total", method="GET", route="/async", status="200") == 1


def threads() -> set[threading.Thread]:
    """List the threads that run now; those of an earlier test may still be among them, under the same names."""
    return set(threading.enumerate())


async def test_spans_reach_a_collector_over_http():
    """With their resource; the exporter's threads live from start to close, twice."""
    with serving(SpanCollector()) as collector:
        service = {"name": "shop", "version": "7", "environment": "staging"}
        tracing = {"otlp_endpoint": f"{collector.url}/v1/traces", "shutdown_seconds": LONG_ENOUGH}
        obs = Observability(Settings(service=service, logging={"enabled": False}, tracing=tracing))
        app = build_app()
        obs.install(app)
        before = threads()
        for _ in range(2):
            async with obs:
                async with client(app) as c:
                    answer = await c.get("/async")
                assert threads() - before
            assert not any(thread.name.startswith("sage-obs") for thread in threads() - before)
            resource_spans = collector.requests[-1].resource_spans[0]
            resource = {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
            assert (resource["service.name"], resource["service.version"]) == ("shop", "7")
            assert resource["deployment.environment.name"] == "staging"
            (span,) = resource_spans.scope_spans[0].spans
            assert span.name == "GET /async"
            assert span.trace_id.hex() == answer.headers["traceresponse"].split("-")[1]


def test_spans_can_be_printed(capfd):
    """The console exporter is for development."""

    async def main() -> None:
        obs = Observability(Settings(logging={"enabled": False}, tracing={"exporter": "console"}))
        app = build_app()
        obs.install(app)
        async with obs:
            await drive(app, http_scope("/async"))

    asyncio.run(main())
    assert '"name": "GET /async"' in capfd.readouterr().out


async def test_a_given_provider_is_never_shut_down(watch):
    """It is the application's."""
    watched = watch()
    async with watched.obs:
        await drive(ObservabilityMiddleware(build_app(), observability=watched.obs), http_scope("/async"))
    watched.provider.get_tracer("test").start_span("after").end()
    assert [span.name for span in watched.spans if span.name != "background"] == ["GET /async", "after"]
    assert watched.obs.tracer_provider is watched.provider


SENSITIVE = (
    *("x-amz-signature", "x-amz-credential", "x-amz-security-token", "awsaccesskeyid", "signature", "sig", "x-goog-signature"),
    *("token", "access_token", "refresh_token", "id_token", "api_key", "apikey", "key", "secret", "client_secret", "password"),
    *("passwd", "pwd", "pass", "code", "auth", "authorization", "session", "jwt"),
)
NAMES = st.one_of(st.sampled_from(SENSITIVE), st.sampled_from(["page", "q", "Token", "PASSWORD"]))
VALUES = st.text(alphabet="0123456789%+-", min_size=6, max_size=12)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.booleans())
def test_query_values_are_hidden(parameters, keep_values):
    """None is shown unless allowed, and those of sensitive names never are."""
    query = "&".join(f"{name}={value}" for name, value in parameters).encode()
    shown = Redaction(query_values=keep_values).query(query)
    for part, (name, value) in zip(shown.split("&") if shown else [], parameters, strict=True):
        visible = keep_values and name.lower() not in SENSITIVE
        assert part == f"{name}={value if visible else REDACTED}"


async def test_unsampled_requests_cost_no_span(watch):
    """Nothing is exported, and the ids are there all the same."""
    watched = watch(sampler=ALWAYS_OFF)
    app = build_app()
    watched.obs.install(app)
    async with client(app) as c:
        answer = await c.get("/async")
    assert watched.spans == []
    assert answer.headers["traceresponse"].endswith("-00")
    assert watched.access[0]["trace_id"] == answer.headers["traceresponse"].split("-")[1]
