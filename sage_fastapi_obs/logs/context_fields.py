"""What every line of this moment has: the ids of the request and its span, and the fields that were bound."""

from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace

from sage_fastapi_obs.logs.access_log import add_trace_ids
from sage_fastapi_obs.logs.field_names import (
    FIELD_CORRELATION_ID,
    FIELD_REQUEST_ID,
    FIELD_SPAN_ID,
    TRACE_FLAGS,
    FIELD_TRACE_ID,
)
from sage_fastapi_obs.request.correlation import current_correlation_id
from sage_fastapi_obs.request.exchange import current_exchange

__all__ = ["RUNNING", "add_context", "running", "span_fields"]

RUNNING = otel_context.create_key("sage_fastapi_obs.operation")
"""The key under which a context has the operation that runs in it: something with `fields` for the lines written there."""


def running() -> Any:
    """Return the innermost operation of this context; None outside of any."""
    return otel_context.get_value(RUNNING)


def add_context(fields: dict[str, Any]) -> None:
    """Add ids, which are stronger than what is there, and bound fields, which are weaker."""
    exchange = current_exchange.get()
    if exchange is not None:
        # A copy, because another thread of the request may be binding.
        for name, value in (exchange.bound_fields or {}).copy().items():
            fields.setdefault(name, value)
        fields[FIELD_REQUEST_ID] = exchange.request_id
    correlation_id = current_correlation_id()
    if correlation_id is not None:
        fields[FIELD_CORRELATION_ID] = correlation_id
    operation = running()
    if operation is not None:
        for name, value in operation.fields.copy().items():
            fields.setdefault(name, value)
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        fields.update(span_fields(context))
    elif exchange is not None:
        # A thread of the application's own has the exchange, through its logger, and no span.
        add_trace_ids(fields, exchange)


def span_fields(context: trace.SpanContext) -> dict[str, str]:
    """Return the ids of a span, as lines have them."""
    return {
        FIELD_TRACE_ID: f"{context.trace_id:032x}",
        FIELD_SPAN_ID: f"{context.span_id:016x}",
        TRACE_FLAGS: f"{context.trace_flags & 1:02x}",
    }
