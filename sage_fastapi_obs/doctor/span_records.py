"""Spans as they would be exported, of all tracer providers that there are."""

import gc

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from sage_fastapi_obs.inspection.inspected_app import InspectedApp
from sage_fastapi_obs.otel_internals import processors_of


class SpanRecords(SpanProcessor):
    """Keeps ended spans."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span."""
        self.ended.append(span)

    def watch(self, inspected: InspectedApp) -> None:
        """Take spans from each provider that exports, or would if the app were not only looked at."""
        observability = inspected.observability
        own = None if observability is None else observability.tracer_provider
        exports = observability is not None and bool(observability.settings.declared.tracing.exporters)
        # An instrumentation may have been given any of them.
        for provider in [found for found in gc.get_objects() if isinstance(found, TracerProvider)]:
            if processors_of(provider)() or (provider is own and exports):
                provider.add_span_processor(self)
