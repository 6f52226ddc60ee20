"""What is measured: this package in its settings, and the peers as their own documentation sets them up."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from benchmarks import peers
from benchmarks.drive import MakeApp
from benchmarks.place import Place, Watched, discarding, discarding_provider
from sage_fastapi_obs import Observability, Settings

__all__ = ["VARIANTS", "Variant", "installed"]

Build = Callable[[MakeApp, Place], Watched]
OFF = {"enabled": False}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to watch an app."""

    label: str
    build: Build
    needs: tuple[str, ...] = ()
    """Modules of packages that may be missing."""


def ours(**sections: Any) -> Build:
    """Install everything, or what the sections leave on; spans go where those of the peers go."""

    def build(make: MakeApp, place: Place) -> Watched:
        app = make()
        obs = observability(place, **sections)
        obs.install(app)
        obs.start()
        provider = obs.tracer_provider
        if not isinstance(provider, TracerProvider):
            return Watched(app, registry=obs.registry)
        if obs.settings.tracing.exporter == "none":
            provider.add_span_processor(discarding())
        return Watched(app, provider.force_flush, obs.registry)

    return build


def observability(place: Place, provider: TracerProvider | None = None, **sections: Any) -> Observability:
    """Build ours, with its lines in a file and its pages open."""
    logging = {"output": str(place.lines), **sections.get("logging", {})}
    given = {"monitoring": {"access": "open"}, **sections, "logging": logging}
    return Observability(Settings(**given), tracer_provider=provider)


def ours_otlp(make: MakeApp, place: Place) -> Watched:
    """All four, with the spans sent to a collector."""
    return ours(tracing={"otlp_endpoint": place.otlp_endpoint})(make, place)


def ours_adopting(make: MakeApp, place: Place) -> Watched:
    """All four, on the span that FastAPI has opened."""
    provider = discarding_provider(1.0)
    app = make(telemetry=peers.server_span_only(provider))
    obs = observability(place, provider)
    obs.install(app)
    obs.start()
    return Watched(app, provider.force_flush)


def bare(make: MakeApp, _: Place) -> Watched:
    """Watch nothing: what differs from the bare twin is the noise of the measurement."""
    return Watched(make())


def pass_through(make: MakeApp, _: Place) -> Watched:
    """Wrap send as any middleware must, and do nothing."""
    app = make()

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            await send(message)

        await app(scope, receive, watched)

    return Watched(wrapped)


_USUAL = ("asgi_correlation_id", "opentelemetry.instrumentation.fastapi", "prometheus_fastapi_instrumentator")
VARIANTS: dict[str, Variant] = {
    "bare": Variant("nothing (noise)", bare),
    "pass-through": Variant("a wrapper around send", pass_through),
    "ours-100": Variant("ours, all four, 100 %", ours()),
    "ours-10": Variant("ours, all four, 10 %", ours(tracing={"sample_rate": 0.1})),
    "ours-0": Variant("ours, all four, 0 %", ours(tracing={"sample_rate": 0.0})),
    "ours-otlp": Variant("ours, all four, 100 %, sent by OTLP", ours_otlp, ("opentelemetry.exporter.otlp.proto.http",)),
    "ours-adopting": Variant("ours on FastAPI's own span, 100 %", ours_adopting, ("fastapi.telemetry",)),
    "ours-id": Variant("ours, id", ours(tracing=OFF, metrics=OFF, logging=OFF)),
    "ours-log": Variant("ours, id and log line", ours(tracing=OFF, metrics=OFF)),
    "ours-metrics": Variant("ours, id and metrics", ours(tracing=OFF, logging=OFF)),
    "ours-span": Variant("ours, id and span, 100 %", ours(metrics=OFF, logging=OFF)),
    "correlation-id": Variant("asgi-correlation-id", peers.correlation_id, ("asgi_correlation_id",)),
    "structlog": Variant("structlog JSON line", peers.structlog_line, ("structlog",)),
    "loguru": Variant("loguru JSON line", peers.loguru_line),
    "instrumentator": Variant(
        "prometheus-fastapi-instrumentator", peers.instrumentator, ("prometheus_fastapi_instrumentator",)
    ),
    "starlette-exporter": Variant("starlette-exporter", peers.starlette_exporter, ("starlette_exporter",)),
    "fastapi-span": Variant("FastAPI's own span, 100 %", peers.fastapi_span, ("fastapi.telemetry",)),
    "otel-asgi": Variant("OpenTelemetry for ASGI, 100 %", peers.otel_asgi, ("opentelemetry.instrumentation.asgi",)),
    "otel-fastapi": Variant("OpenTelemetry for FastAPI, 100 %", peers.otel_fastapi, ("opentelemetry.instrumentation.fastapi",)),
    "otel-fastapi-lean": Variant(
        "OpenTelemetry for FastAPI, one span, 100 %",
        peers.otel_fastapi_one_span,
        ("opentelemetry.instrumentation.fastapi",),
    ),
    "logfire": Variant("logfire, 100 %", peers.logfire, ("logfire",)),
    "usual-100": Variant("the usual stack, 100 %", peers.usual_stack(1.0), _USUAL),
    "usual-10": Variant("the usual stack, 10 %", peers.usual_stack(0.1), _USUAL),
    "usual-0": Variant("the usual stack, 0 %", peers.usual_stack(0.0), _USUAL),
    "usual-lean": Variant("the usual stack, one span, 100 %", peers.usual_stack(1.0, one_span=True), _USUAL),
    "best-of-today": Variant(
        "best of today, 100 %", peers.best_of_today, ("fastapi.telemetry", "prometheus_fastapi_instrumentator")
    ),
}


def installed(variant: Variant) -> bool:
    """Tell whether everything is there that a variant needs."""
    try:
        return all(find_spec(module) for module in variant.needs)
    except ModuleNotFoundError:
        return False
