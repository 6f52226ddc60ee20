"""Spans that end while an app is observed."""

from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from sage_fastapi_obs.otel_internals import remove_processor
from sage_fastapi_obs.tracing.server_span import SCOPE_NAME


class SpanCapture(SpanProcessor):
    """Captures the spans of providers that have been met, as they would be exported."""

    def __init__(self, started: Callable[[Span], None], ended: Callable[[ReadableSpan], None]) -> None:
        self._started, self._ended = started, ended
        self._providers: list[TracerProvider] = []

    def meet(self, provider: trace.TracerProvider | None) -> None:
        """Capture a provider of the SDK from now on, once."""
        if isinstance(provider, TracerProvider) and not any(provider is one for one in self._providers):
            self._providers.append(provider)
            provider.add_span_processor(self)

    def stop(self) -> None:
        """Capture no more, and leave providers as they were."""
        for provider in self._providers:
            remove_processor(provider, self)
        self._providers = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's
        """Note that a span begins."""
        self._started(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        self._ended(span)


def attribute(span: Any, *names: str) -> Any:
    """Return the first of these attributes that a span has: conventions have renamed some."""
    attributes = span.attributes or {}
    return next((attributes[name] for name in names if name in attributes), None)


def is_ours(span: ReadableSpan) -> bool:
    """Tell whether our middleware has opened a span."""
    scope = span.instrumentation_scope
    return scope is not None and scope.name == SCOPE_NAME
