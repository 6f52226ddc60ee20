"""How ids travel with a call: the trace context as OpenTelemetry's propagators write it, the others in their headers.

What has come is read by names in small letters.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.operations.correlation_context import CorrelationContext, correlation_header, ids_to_send, is_safe_id
from sage_fastapi_obs.request.correlation import current_correlation_id
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.request.innermost_span import innermost_context

__all__ = ["TRACE_HEADER", "correlation_of", "incoming", "outgoing_headers", "parent_or_link"]

TRACE_HEADER = "traceparent"


def outgoing_headers(span: trace.Span | None, *, traced: bool = True) -> dict[str, str]:
    """Return what a call takes along; `span`: its own, None for the innermost here; without `traced`, the ids alone."""
    carrier: dict[str, str] = {}
    if traced:
        propagate.inject(
            carrier, innermost_context(current_exchange.get()) if span is None else trace.set_span_in_context(span)
        )
    return carrier | ids_to_send()


def parent_or_link(carrier: Mapping[str, str]) -> tuple[Context | None, SpanContext | None]:
    """Read what a caller has sent, as `tracing.incoming` has it: a context to go on in, and a span to link to."""
    observability = active_observability()
    how = "continue" if observability is None else observability.settings.tracing.incoming
    context = incoming(carrier)
    sender = trace.get_current_span(context).get_span_context()
    if how == "continue":
        return context, None
    return None, sender if how == "link" and sender.is_valid else None


def incoming(carrier: Mapping[str, str]) -> Context:
    """Read the trace context that a caller has sent."""
    return propagate.extract(carrier)


def correlation_of(carrier: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Continue the correlation id that a caller has sent; without one there is a new one, but for work that has one already."""
    sent = carrier.get(correlation_header().lower())
    if is_safe_id(sent):
        return CorrelationContext(sent)
    return CorrelationContext() if current_correlation_id() is None else nullcontext()
