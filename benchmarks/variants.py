"""What is measured: this package in its settings, and the peers as their own documentation sets them up."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider

from benchmarks import peers
from benchmarks.drive import MakeApp
from benchmarks.place import Place, Watched, discarding, discarding_provider
from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings

__all__ = ["AS_RUN", "VARIANTS", "Variant", "installed", "variant_of"]

Build = Callable[[MakeApp, Place], Watched]
OFF = {"enabled": False}
_FLUSH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to watch an app."""

    label: str
    build: Build
    gives: frozenset[str]
    """The signals that it is measured for; a process that measures proves them first."""
    needs: tuple[str, ...]
    """Modules of packages that may be missing."""


def ours(*, as_middleware: bool = False, is_stored: bool = False, **sections: Any) -> Build:
    """Install everything, or what the sections leave on; spans go where those of the peers go."""

    def build(make: MakeApp, place: Place) -> Watched:
        app = make()
        obs = observability(place, is_stored=is_stored, **sections)
        if as_middleware:
            app.add_middleware(ObservabilityMiddleware, observability=obs)
            app.include_router(obs.router)
        else:
            obs.install(app)
        obs.start()
        if isinstance(obs.tracer_provider, TracerProvider) and obs.settings.tracing.exporter == "none":
            obs.tracer_provider.add_span_processor(discarding())
        return _watched(app, obs)

    return build


def observability(
    place: Place, provider: TracerProvider | None = None, *, is_stored: bool = False, **sections: Any
) -> Observability:
    """Build ours, with its lines in a file and its pages open; with a store of its own if it has one."""
    logging = {"output": str(place.lines), **sections.get("logging", {})}
    store = {"path": str(place.lines.with_suffix(".store"))} if is_stored else OFF
    given = {"monitoring": {"access": "open"}, "store": store, **sections, "logging": logging}
    return Observability(Settings(**given), tracer_provider=provider)


def _watched(app: FastAPI, obs: Observability) -> Watched:
    def flush() -> None:
        # What has gathered belongs to the block that made it.
        obs.flush(_FLUSH_SECONDS)

    return Watched(app, flush, obs.registry)


def ours_sent(tracing: dict[str, Any] | None = None, **how: bool) -> Build:
    """All four, with the spans sent to a collector."""

    def build(make: MakeApp, place: Place) -> Watched:
        return ours(tracing={**(tracing or {}), "otlp_endpoint": place.otlp_endpoint}, **how)(make, place)

    return build


def ours_adopting(make: MakeApp, place: Place) -> Watched:
    """All four, on the span that FastAPI has opened."""
    provider = discarding_provider(1.0)
    app = make(telemetry=peers.server_span_only(provider))
    obs = observability(place, provider)
    obs.install(app)
    obs.start()
    return _watched(app, obs)


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


ID, LINE, METRICS, SPAN, COLLECTED = "id", "line", "metrics", "span", "collected"
ALL = frozenset({ID, LINE, METRICS, SPAN})
ALL_SENT = frozenset({ID, LINE, METRICS, COLLECTED})
OTLP = ("opentelemetry.exporter.otlp.proto.common",)
OTEL = ("opentelemetry.instrumentation.fastapi",)
USUAL = ("asgi_correlation_id", "prometheus_fastapi_instrumentator", *OTEL)
NATIVE = ("fastapi.telemetry",)


def _variant(label: str, build: Build, *gives: str, needs: tuple[str, ...] = ()) -> Variant:
    return Variant(label, build, frozenset(gives), needs)


VARIANTS: dict[str, Variant] = {
    "bare": _variant("nothing (noise)", bare),
    "pass-through": _variant("a wrapper around send", pass_through),
    "ours-100": _variant("ours, all four, 100 %", ours(), *ALL),
    "ours-10": _variant("ours, all four, 10 %", ours(tracing={"sample_rate": 0.1}), *ALL),
    "ours-0": _variant("ours, all four, 0 %", ours(tracing={"sample_rate": 0.0}), ID, LINE, METRICS),
    "ours-otlp": _variant(
        *("ours, all four, 100 %, sent by OTLP", ours_sent(), ID, LINE, METRICS, COLLECTED),
        needs=OTLP,
    ),
    "ours-adopting": _variant("ours on FastAPI's own span, 100 %", ours_adopting, *ALL, needs=NATIVE),
    "ours-id": _variant("ours, id", ours(tracing=OFF, metrics=OFF, logging=OFF), ID),
    "ours-log": _variant("ours, id and log line", ours(tracing=OFF, metrics=OFF), ID, LINE),
    "ours-log-at-once": _variant(
        "ours, id and log line, each written at once",
        ours(tracing=OFF, metrics=OFF, logging={"gather_seconds": 0.0}),
        *(ID, LINE),
    ),
    "ours-metrics": _variant("ours, id and metrics", ours(tracing=OFF, logging=OFF), ID, METRICS),
    "ours-span": _variant("ours, id and span, 100 %", ours(metrics=OFF, logging=OFF), ID, SPAN),
    "correlation-id": _variant("asgi-correlation-id", peers.correlation_id, ID, needs=("asgi_correlation_id",)),
    "structlog": _variant("structlog JSON line", peers.structlog_line, LINE, needs=("structlog",)),
    "loguru": _variant("loguru JSON line", peers.loguru_line, LINE),
    "instrumentator": _variant(
        "prometheus-fastapi-instrumentator", peers.instrumentator, METRICS, needs=("prometheus_fastapi_instrumentator",)
    ),
    "starlette-exporter": _variant("starlette-exporter", peers.starlette_exporter, METRICS, needs=("starlette_exporter",)),
    "fastapi-span": _variant("FastAPI's own span, 100 %", peers.fastapi_span, SPAN, needs=NATIVE),
    "otel-asgi": _variant(
        "OpenTelemetry for ASGI, 100 %", peers.otel_asgi, SPAN, needs=("opentelemetry.instrumentation.asgi",)
    ),
    "otel-fastapi": _variant("OpenTelemetry for FastAPI, 100 %", peers.otel_fastapi, SPAN, needs=OTEL),
    "otel-fastapi-lean": _variant("OpenTelemetry for FastAPI, one span, 100 %", peers.otel_fastapi_one_span, SPAN, needs=OTEL),
    "logfire": _variant("logfire, 100 %", peers.logfire, SPAN, needs=("logfire",)),
    "usual-100": _variant("the usual stack, 100 %", peers.usual_stack(1.0), *ALL, needs=USUAL),
    "usual-10": _variant("the usual stack, 10 %", peers.usual_stack(0.1), *ALL, needs=USUAL),
    "usual-0": _variant("the usual stack, 0 %", peers.usual_stack(0.0), ID, LINE, METRICS, needs=USUAL),
    "usual-lean": _variant("the usual stack, one span, 100 %", peers.usual_stack(1.0, one_span=True), *ALL, needs=USUAL),
    "best-of-today": _variant("best of today, 100 %", peers.best_of_today, LINE, METRICS, SPAN, needs=(*NATIVE, USUAL[1])),
}


_TENTH = {"sample_rate": 0.1, "retention": "outcome"}
_AS_RUN = {"as_middleware": True, "is_stored": True}
AS_RUN: dict[str, Variant] = {
    "added": _variant("ours, spans not sent, 100 %", ours(**_AS_RUN), *ALL),
    "added-unexplained": _variant("ours, spans not sent, no insight, 100 %", ours(insight=OFF, **_AS_RUN), *ALL),
    "added-10": _variant("ours, spans not sent, 10 %", ours(tracing=_TENTH, **_AS_RUN), *ALL),
    "added-otlp": _variant("ours, sent by OTLP, 100 %", ours_sent(None, **_AS_RUN), *ALL_SENT, needs=OTLP),
    "added-otlp-10": _variant("ours, sent by OTLP, 10 %", ours_sent(_TENTH, **_AS_RUN), *ALL_SENT, needs=OTLP),
    "installed": _variant("ours, spans not sent, 100 %, install", ours(is_stored=True), *ALL),
    "usual-otlp": _variant(
        "the usual stack, sent by OTLP, 100 %",
        peers.usual_stack(1.0, make_provider=peers.sending_provider),
        *ALL_SENT,
        needs=(*USUAL, "opentelemetry.exporter.otlp.proto.http"),
    ),
}
"""What only the case `as-run` measures: added with `add_middleware`, and with the store."""


def variant_of(name: str) -> Variant:
    """Find a variant by its name."""
    return VARIANTS.get(name) or AS_RUN[name]


def installed(variant: Variant) -> bool:
    """Tell whether everything is there that a variant needs."""
    try:
        return all(find_spec(module) for module in variant.needs)
    except ModuleNotFoundError:
        return False
