"""What all variants share, so that none is favoured: where lines and spans go, and what a variant hands back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry

from benchmarks.drive import ASGIApp

__all__ = ["Place", "Watched", "discarded", "discarding", "discarding_provider"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a variant may put things."""

    lines: Path
    """A file for log lines."""
    otlp_endpoint: str | None = None
    """A collector that takes spans."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A watched app, and how its background threads are made to finish."""

    app: ASGIApp
    flush: Callable[[], object] = lambda: None
    registry: CollectorRegistry | None = None
    """Whose metrics its `/metrics` shows; None: those of the global one."""


discarded = [0]
"""How many spans this process has thrown away."""


class _Discard(SpanExporter):
    """Stands for an exporter that costs nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        discarded[0] += len(spans)
        return SpanExportResult.SUCCESS


def discarding() -> SpanProcessor:
    """Build the processor of every variant with spans: it batches them as in production, and throws the batches away."""
    return BatchSpanProcessor(_Discard())


def discarding_provider(sample_rate: float) -> TracerProvider:
    """Build the provider that every peer with spans gets."""
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample_rate)), shutdown_on_exit=False)
    provider.add_span_processor(discarding())
    return provider
