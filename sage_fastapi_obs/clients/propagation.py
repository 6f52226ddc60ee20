"""Ids in the headers of calls and messages: the trace context as OpenTelemetry's propagators write it, and our own.

Headers that were received are read by their names in lower case.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.operations.correlation_context import CorrelationContext, correlation_header, ids_to_send, is_safe_id
from sage_fastapi_obs.request.correlation import current_correlation_id
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.request.innermost_span import innermost_context, innermost_span

TRACE_HEADER = "traceparent"


def outgoing_headers(span: trace.Span | None, *, traced: bool = True) -> dict[str, str]:
    """Return the headers for a call; `span`: its own, None for the innermost one; without `traced`, only our ids."""
    carrier: dict[str, str] = {}
    if traced:
        propagate.inject(
            carrier, innermost_context(current_exchange.get()) if span is None else trace.set_span_in_context(span)
        )
    return carrier | ids_to_send()


def parent_or_link(carrier: Mapping[str, str]) -> tuple[Context | None, SpanContext | None]:
    """Read the trace of a caller as `tracing.incoming` says: a context to continue, or a span to link to."""
    observability = active_observability()
    how = "continue" if observability is None else observability.settings.tracing.incoming
    context = propagate.extract(carrier)
    sender = trace.get_current_span(context).get_span_context()
    if how == "continue":
        return context, None
    return None, sender if how == "link" and sender.is_valid else None


def _correlation_of(carrier: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Continue the correlation id that a caller has sent; without one there is a new one, unless the work has one already."""
    sent = carrier.get(correlation_header().lower())
    if is_safe_id(sent):
        return CorrelationContext(sent)
    return CorrelationContext() if current_correlation_id() is None else nullcontext()


class CallerContext(AbstractContextManager[None]):
    """The work on a call or a message of others: in the trace of its caller, and with the caller's correlation id."""

    __slots__ = ("_correlation", "_parent", "_token")

    def __init__(self, carrier: Mapping[str, str], parent: Context | None) -> None:
        """`parent`: the context to continue, unless there is a span already."""
        self._correlation = _correlation_of(carrier)
        self._parent = parent
        self._token: Any = None

    def __enter__(self) -> None:
        """Begin."""
        self._correlation.__enter__()
        if self._parent is not None and not innermost_span().get_span_context().is_valid:
            self._token = otel_context.attach(self._parent)

    def __exit__(self, *error: object) -> None:
        """End."""
        # A generator may be closed in another context than it began in.
        if self._token is not None and otel_context.get_current() is self._parent:
            otel_context.detach(self._token)
        self._correlation.__exit__(None, None, None)
