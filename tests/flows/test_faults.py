"""Whatever of ours fails, the response is the bare app's, and the failure is counted."""

import asyncio
import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from loguru import logger
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from support import Driven, Watched, counting_ids, drive, http_scope

from sage_fastapi_obs import Observability, ObservabilityMiddleware, RequestLogger, Settings
from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.logs import loguru_bridge
from sage_fastapi_obs.request.recorder import RecorderCallbacks

METRIC = "observability_internal_errors_total"
OURS = {b"x-request-id", b"x-correlation-id", b"traceresponse"}


class Injected(Exception):
    """What the broken parts raise."""


def fail(*_: Any, **__: Any) -> Any:
    raise Injected("broken on purpose")


def build() -> FastAPI:
    """Build an app with an answer of each kind."""
    app = FastAPI()

    @app.get("/plain/{number}")
    async def plain(number: int, log: RequestLogger) -> dict[str, int]:
        log.bind(number=number)
        log.info("said")
        return {"number": number}

    @app.get("/sync")
    def sync(log: RequestLogger) -> str:
        log.info("said")
        return "sync"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> Any:
            for number in range(3):
                yield f"chunk {number}"

        return StreamingResponse(chunks(), headers={"x-own": "1"})

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(asyncio.sleep, 0.015)
        return "ok"

    @app.post("/echo")
    async def echo(body: dict[str, Any]) -> JSONResponse:
        return JSONResponse(body, 201)

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("the app's own")

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close(4001)

    return app


def visits() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return the scopes and messages of one visit to each route, and of some that match none."""
    body = {"type": "http.request", "body": b'{"a": 1}'}
    json_header = [(b"content-type", b"application/json"), (b"x-request-id", b"r-1")]
    parent = [(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    talk = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hi"}]
    return [
        (http_scope("/plain/1"), []),
        (http_scope("/plain/x", headers=parent), []),
        (http_scope("/sync"), []),
        (http_scope("/stream"), []),
        (http_scope("/background"), []),
        (http_scope("/echo", "POST", json_header), [body]),
        (http_scope("/echo", "PURGE"), []),
        (http_scope("/nowhere", query_string=b"a=b"), []),
        (http_scope("/boom"), []),
        (http_scope("/ws", type="websocket", scheme="ws", subprotocols=[]), talk),
    ]


def shown(driven: Driven) -> tuple[list[Any], str]:
    """Describe what came out, without the headers that are ours."""
    messages = []
    for message in driven.sent:
        kept = dict(message)
        if "headers" in kept:
            kept["headers"] = sorted((name, value) for name, value in kept["headers"] if name.lower() not in OURS)
        messages.append(kept)
    return messages, repr(driven.error)


async def tour(app: Any) -> list[tuple[list[Any], str]]:
    """Make all visits."""
    return [shown(await drive(app, scope, incoming)) for scope, incoming in visits()]


class BrokenExporter(SpanExporter):
    def export(self, spans: Any) -> Any:
        fail()


class BrokenProcessor(SpanProcessor):
    on_end = fail


class BrokenSampler(Sampler):
    should_sample = fail

    def get_description(self) -> str:
        return "broken"


Break = Callable[[Watched, pytest.MonkeyPatch], None]


def breaking(path: str) -> Break:
    """Return what makes one attribute of an observability raise when called."""

    def do(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        watched.obs.start()
        *parents, name = path.split(".")
        target: Any = watched.obs
        for parent in parents:
            target = getattr(target, parent)
        monkeypatch.setattr(target, name, fail)

    return do


def breaking_start(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make starting by the first request raise."""
    watched.obs.running = False
    monkeypatch.setattr(watched.obs, "ensure_started", fail)


def breaking_exclusion(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make telling what is excluded raise."""
    monkeypatch.setattr(watched.obs, "excluded", ("",))
    monkeypatch.setattr(watched.obs, "excludes", fail)


def breaking_metric(name: str) -> Break:
    """Return what makes the children of one instrument raise."""

    def do(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        instrument = watched.obs.registry._names_to_collectors[name]
        for method in ("labels", "inc", "dec", "observe"):
            if hasattr(instrument, method):
                monkeypatch.setattr(instrument, method, fail)

    return do


def breaking_recorder(kind: str, moment: str) -> Break:
    """Return what makes one moment of one recorder raise, as the moments have bound it."""

    def do(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder = _recorder(watched, kind)
        monkeypatch.setattr(type(recorder), moment, fail)
        recorders = [_recorder(watched, name) for name in ("Identity", "Tracing", "Metrics", "Logs")]
        monkeypatch.setattr(watched.obs, "callbacks", RecorderCallbacks(recorders, watched.obs.internal_errors))

    return do


def breaking_handover(name: str) -> Break:
    def do(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        watched.obs.start()
        monkeypatch.setattr(loguru_bridge, name, fail)

    return do


def _recorder(watched: Watched, kind: str) -> Any:
    bound = [tell for moment in ("request_started", "request_finished") for tell in getattr(watched.obs.callbacks, moment)]
    return next(tell.__self__ for tell in bound if component_of(tell.__self__) == kind)


FAULTS: dict[str, tuple[dict[str, Any], Break | None, str]] = {
    "id factory": ({"new_id": fail}, None, "Identity"),
    "clock": ({"clock": fail}, None, "ObservabilityMiddleware"),
    "wall clock": ({"wall_clock": fail}, None, "ObservabilityMiddleware"),
    "starting": ({}, breaking_start, "ObservabilityMiddleware"),
    "excluding": ({}, breaking_exclusion, "ObservabilityMiddleware"),
    "span processor": ({"processor": BrokenProcessor}, None, "Tracing"),
    "sampler": ({"sampler": BrokenSampler()}, None, "Tracing"),
    "tracer": ({}, breaking("_tracing._spans.start_root"), "Tracing"),
    "span's end": ({}, breaking("_tracing._end"), "Tracing"),
    "line's layout": ({}, breaking("logs.build"), "Logs"),
    "line's format": ({}, breaking("logs.encode"), "Logs"),
    "output": ({}, breaking("logs.output.write"), "Logs"),
    "emitting": ({}, breaking("logs.emit"), "Logs"),
    "other sinks": ({}, breaking_handover("has_foreign_sinks"), "Logs"),
    "new series": ({}, breaking_recorder("Metrics", "_resolve"), "Metrics"),
    **{
        f"metric {name}": ({}, breaking_metric(name), "Metrics")
        for name in (
            *("request_errors_total", "http_stream_duration_seconds", "http_background_duration_seconds"),
            *("websocket_connections_open", "websocket_messages_total"),
        )
    },
    **{
        f"{kind} {moment}": ({}, breaking_recorder(kind, moment), kind)
        for kind, moments in {
            "Identity": ("request_started", "response_started"),
            "Tracing": ("request_started", "response_started", "request_finished", "app_returned"),
            "Metrics": ("request_started", "request_finished", "background_finished"),
            "Logs": ("request_finished", "background_finished"),
        }.items()
        for moment in moments
    },
}


@pytest.mark.parametrize("way", ["install", "around"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failing_part_never_reaches_the_response(
    fault: str, way: str, watch: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With any one part raising, every answer, message and exception is the bare app's; it is counted, and said once."""
    options, break_it, component = FAULTS[fault]
    watched = watch(**{name: value for name, value in options.items() if name != "processor"})
    if "processor" in options:
        watched.provider.add_span_processor(options["processor"]())
    if break_it is not None:
        break_it(watched, monkeypatch)
    bare, app = build(), build()
    if way == "install":
        watched.obs.install(app)
    served = app if way == "install" else ObservabilityMiddleware(app, observability=watched.obs)
    assert await tour(served) == await tour(bare)
    counted = watched.value(METRIC, component=component)
    assert counted is not None
    assert counted >= 1
    said = capsys.readouterr().err
    assert said.count(f"sage_fastapi_obs: {component} failed") == 1
    assert "broken on purpose" in said
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["ensure_started", "place_pages", "clock"])
async def test_a_failing_start_is_no_part_of_what_the_app_raises(
    name: str, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of the app has no context but its own; an app in which our pages find no place is watched all the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError

    watched = watch()
    monkeypatch.setattr(watched.obs, name, fail)
    error = (await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope())).error
    monkeypatch.undo()
    assert isinstance(error, KeyError)
    assert error.__context__ is None
    assert watched.obs.internal_errors.counts == {"ObservabilityMiddleware": 1}
    assert len(watched.access) == (name == "place_pages")


@pytest.mark.parametrize("fault", [name for name, (options, *_) in FAULTS.items() if set(options) <= {"new_id"}])
async def test_the_other_parts_go_on(fault: str, watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing part takes none of the others with it: what does not depend on it is still recorded."""
    options, break_it, component = FAULTS[fault]
    watched = watch(**options)
    if break_it is not None:
        break_it(watched, monkeypatch)
    app = build()
    driven = await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope("/plain/1"))
    monkeypatch.undo()
    if fault in ("starting", "excluding"):
        return
    if fault != "Identity response_started":
        assert len(driven.headers[b"x-request-id"]) > 0 or fault == "Identity request_started"
    if component != "Logs":
        assert len(watched.access) == 1
    if component != "Tracing":
        assert len(watched.server_spans) == 1
    if component != "Metrics":
        assert watched.value("http_requests_total", method="GET", route="/plain/{number}", status="200") == 1


async def test_a_failing_exporter_does_not_reach_the_response(watch: Any) -> None:
    """An exporter that raises harms neither the response nor the exporters beside it."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(BrokenExporter()))
    watched = watch(provider=provider)
    assert await tour(ObservabilityMiddleware(build(), observability=watched.obs)) == await tour(build())
    assert len(watched.server_spans) == len(visits())


async def test_a_failing_sink_of_the_user_does_not_reach_the_response(watch: Any) -> None:
    """A loguru sink of the application's own that raises on the canonical line is counted, and the request goes on."""
    watched = watch()

    def sink(message: Any) -> None:
        if message.record["name"] == "sage_fastapi_obs.access":
            fail()

    sink_id = logger.add(sink, catch=False)
    assert await tour(ObservabilityMiddleware(build(), observability=watched.obs)) == await tour(build())
    logger.remove(sink_id)
    assert watched.value(METRIC, component="Logs") >= 10


@pytest.mark.parametrize("part", ["logs", "_tracing", "_port"])
@pytest.mark.parametrize("moment", ["start", "close"])
async def test_a_part_that_cannot_start_or_stop_is_counted(
    part: str, moment: str, watch: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the start nor the end of the app fails with a part of ours, and the other parts still start and end."""
    watched = watch(monitoring={"access": "port"}, metrics={"port": 0})
    broken = getattr(watched.obs, part)
    close = broken.close
    monkeypatch.setattr(broken, moment, fail)
    async with watched.obs:
        assert await tour(ObservabilityMiddleware(build(), observability=watched.obs)) == await tour(build())
    close()
    component = {"logs": "Logs", "_tracing": "Tracing", "_port": "MetricsPort"}[part]
    assert sum(watched.obs.internal_errors.counts.values()) >= 1
    assert component in watched.obs.internal_errors.counts or "Observability" in watched.obs.internal_errors.counts
    assert "broken on purpose" in capsys.readouterr().err
    assert watched.obs.metrics_port is None


def test_a_failure_is_said_once_a_minute_per_component(capsys: pytest.CaptureFixture[str]) -> None:
    """However often a part fails, stderr has one notice per minute and part; the count goes on."""
    now = [1_000.0]
    faults = InternalErrors(lambda: now[0])
    for second in range(0, 125, 5):
        now[0] = 1_000.0 + second
        faults.count("Logs", Injected("x"))
        if second in (0, 30):
            faults.count("Tracing", Injected("y"))
    said = capsys.readouterr().err.splitlines()
    assert sum("Logs failed (Injected: x)" in line for line in said) == 3
    assert sum("Tracing failed (Injected: y)" in line for line in said) == 1
    assert faults.counts == {"Logs": 25, "Tracing": 2}


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("stderr", ["closed", "none", "raising"])
def test_counting_never_fails(stderr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a usable stderr, and for an error that cannot be printed, failures are counted all the same."""
    streams: dict[str, Any] = {"closed": io.StringIO(), "none": None, "raising": type("S", (), {"write": fail})()}
    if stderr == "closed":
        streams["closed"].close()
    monkeypatch.setattr(sys, "stderr", streams[stderr])
    faults = InternalErrors()
    faults.count("Logs", Injected("x"))
    faults.count("Tracing", UnprintableError())
    monkeypatch.undo()
    assert faults.counts == {"Logs": 1, "Tracing": 1}


async def test_failures_are_on_the_metrics_page(watch: Any) -> None:
    """The counter is served with the others."""
    watched = watch(new_id=fail)
    app = build()
    watched.obs.install(app)
    await drive(app, http_scope("/plain/1"))
    page = b"".join(message.get("body", b"") for message in (await drive(app, http_scope("/metrics"))).sent)
    assert b'observability_internal_errors_total{component="Identity"} ' in page


async def test_off_is_the_bare_app() -> None:
    """Disabled, an installed app sends exactly what it sends without us, our headers included."""
    obs = Observability(Settings(enabled=False), new_id=counting_ids())
    app = build()
    obs.install(app)
    for served in (app, ObservabilityMiddleware(app, observability=obs)):
        for (scope, incoming), (same, again) in zip(visits(), visits(), strict=True):
            ours, bare = await drive(served, scope, incoming), await drive(build(), same, again)
            assert ours.sent == bare.sent
            assert repr(ours.error) == repr(bare.error)
