"""The peers, as their own documentation sets them up; each is imported only in the process that measures it."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from benchmarks.drive import MakeApp
from benchmarks.place import Place, Watched, discarding, discarding_provider

Build = Callable[[MakeApp, Place], Watched]
MakeProvider = Callable[[float, Place], TracerProvider]
"""Builds a provider for a sample rate."""
Line = Mapping[str, Any]


class LinePerRequest:
    """A pure ASGI middleware that times a request and has a line written about it."""

    def __init__(self, app: Any, write: Callable[[Line], None], begin: Callable[[Any], None] = lambda _: None) -> None:
        self.app = app
        self.write = write
        self.begin = begin

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Watch one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.begin(scope)
        try:
            await self.app(scope, receive, watched)
        finally:
            duration_ms = round((time.perf_counter() - started) * 1_000, 3)
            self.write({"method": scope["method"], "path": scope["path"], "status": status, "duration_ms": duration_ms})


def correlation_id(make: MakeApp, _: Place) -> Watched:
    """asgi-correlation-id, by its README."""
    app = make()
    _add_correlation_id(app)
    return Watched(app)


def _add_correlation_id(app: FastAPI) -> None:
    from asgi_correlation_id import CorrelationIdMiddleware

    app.add_middleware(CorrelationIdMiddleware)


def instrumentator(make: MakeApp, _: Place) -> Watched:
    """prometheus-fastapi-instrumentator, by its README."""
    app = make()
    _add_instrumentator(app)
    return Watched(app)


def _add_instrumentator(app: FastAPI) -> None:
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator().instrument(app).expose(app)


def starlette_exporter(make: MakeApp, _: Place) -> Watched:
    """starlette-exporter, by its README."""
    from starlette_exporter import PrometheusMiddleware, handle_metrics

    app = make()
    app.add_middleware(PrometheusMiddleware)
    app.add_route("/metrics", handle_metrics)
    return Watched(app)


def structlog_line(make: MakeApp, place: Place) -> Watched:
    """structlog, by the fastest example of its page on performance, and its page on context variables."""
    import logging
    import uuid

    import orjson
    import structlog

    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        logger_factory=structlog.BytesLoggerFactory(file=place.lines.open("wb")),
    )
    logger = structlog.get_logger()

    def begin(scope: Any) -> None:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(view=scope["path"], request_id=str(uuid.uuid4()), peer=scope["client"][0])

    def write(line: Line) -> None:
        logger.info("request completed", **line)

    app = make()
    app.add_middleware(LinePerRequest, write=write, begin=begin)
    return Watched(app)


def loguru_line(make: MakeApp, place: Place) -> Watched:
    """loguru, by its README: `serialize=True` gives JSON, `bind` gives fields."""
    logger = _loguru_to(place)

    def write(line: Line) -> None:
        logger.bind(**line).info("request completed")

    app = make()
    app.add_middleware(LinePerRequest, write=write)
    return Watched(app, logger.complete)


def _loguru_to(place: Place) -> Any:
    from loguru import logger

    logger.remove()
    logger.add(place.lines, serialize=True)
    return logger


def server_span_only(provider: TracerProvider) -> dict[str, Any]:
    """FastAPI's own telemetry at its cheapest: no spans of operations, no metrics, no logs."""
    return {"tracer_provider": provider, "operation_spans": False, "metrics": False, "logs": False}


def fastapi_span(make: MakeApp, _: Place) -> Watched:
    """FastAPI's own server span."""
    provider = discarding_provider(1.0)
    return Watched(make(telemetry=server_span_only(provider)), provider.force_flush)


def otel_asgi(make: MakeApp, _: Place) -> Watched:
    """opentelemetry-instrumentation-asgi, by its README."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    provider = discarding_provider(1.0)
    app = make()
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=provider)
    return Watched(app, provider.force_flush)


def otel_fastapi(make: MakeApp, _: Place) -> Watched:
    """opentelemetry-instrumentation-fastapi, by its README."""
    app, provider = make(), discarding_provider(1.0)
    _add_otel(app, provider, one_span=False)
    return Watched(app, provider.force_flush)


def otel_fastapi_one_span(make: MakeApp, _: Place) -> Watched:
    """opentelemetry-instrumentation-fastapi, without the spans for each message."""
    app, provider = make(), discarding_provider(1.0)
    _add_otel(app, provider, one_span=True)
    return Watched(app, provider.force_flush)


def _add_otel(app: FastAPI, provider: TracerProvider, *, one_span: bool) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    excluded: Any = ["receive", "send"] if one_span else None
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=excluded)


def logfire(make: MakeApp, _: Place) -> Watched:
    """logfire, by its page on FastAPI, with nothing sent and nothing printed."""
    import logfire as pydantic_logfire

    configured = pydantic_logfire.configure(
        local=True,
        send_to_logfire=False,
        console=False,
        inspect_arguments=False,
        additional_span_processors=[discarding()],
    )
    app = make()
    configured.instrument_fastapi(app)
    return Watched(app, configured.force_flush)


def _discarding(sample_rate: float, _: Place) -> TracerProvider:
    return discarding_provider(sample_rate)


def sending_provider(sample_rate: float, place: Place) -> TracerProvider:
    """Build a provider that sends its spans over OTLP, by the SDK's page on exporters."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample_rate)), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=place.otlp_endpoint)))
    return provider


def usual_stack(sample_rate: float, *, one_span: bool = False, make_provider: MakeProvider = _discarding) -> Build:
    """Four packages for four signals: asgi-correlation-id, OpenTelemetry, the instrumentator, and loguru."""

    def build(make: MakeApp, place: Place) -> Watched:
        from asgi_correlation_id import correlation_id

        logger, provider = _loguru_to(place), make_provider(sample_rate, place)

        def write(line: Line) -> None:
            context = trace.get_current_span().get_span_context()
            ids = {
                "request_id": correlation_id.get(),
                "trace_id": f"{context.trace_id:032x}",
                "span_id": f"{context.span_id:016x}",
            }
            logger.bind(**ids, **line).info("request completed")

        app = make()
        app.add_middleware(LinePerRequest, write=write)
        _add_instrumentator(app)
        _add_correlation_id(app)
        _add_otel(app, provider, one_span=one_span)
        return Watched(app, lambda: (provider.force_flush(), logger.complete()))

    return build


def best_of_today(make: MakeApp, place: Place) -> Watched:
    """FastAPI's own span, the instrumentator, and loguru: the cheapest of each kind, for the four signals."""
    logger, provider = _loguru_to(place), discarding_provider(1.0)

    def write(line: Line) -> None:
        context = trace.get_current_span().get_span_context()
        logger.bind(trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}", **line).info("request completed")

    app = make(telemetry=server_span_only(provider))
    app.add_middleware(LinePerRequest, write=write)
    _add_instrumentator(app)
    return Watched(app, lambda: (provider.force_flush(), logger.complete()))
