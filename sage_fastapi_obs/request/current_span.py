"""The server spans that others have opened for a request, inside of us."""

import sys

from opentelemetry.trace import Span, SpanKind

from sage_fastapi_obs.otel_internals import SPAN, get_current
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.fastapi_internals import native_span

__all__ = ["span_inside"]


def span_inside(exchange: Exchange) -> Span | None:
    """Find the server span that the framework has started inside of us for this request; None if it has not.

    FastAPI and Starlette start it below the span of the caller, not below the current one. A current span of another trace may
    also be one below theirs.
    """
    native = native_span(exchange.scope)
    if native is not None:
        return native
    current, instead = get_current().get(SPAN), exchange.app_current
    if current is (exchange.span if instead is None else instead[0]):
        return _span_left(sys.exception()) if exchange.status >= 500 else None
    if current is None or current_exchange.get() is not exchange:
        # Sent from somewhere else, and the span there is none of this request.
        return None
    of_another_trace = f"{current.get_span_context().trace_id:032x}" != exchange.trace_id
    return current if of_another_trace or getattr(current, "kind", None) is SpanKind.SERVER else None


def _span_left(error: BaseException | None) -> Span | None:
    """Find the span of Starlette's middleware that an exception has left, and that is being answered outside of it."""
    traceback = None if error is None else error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__") == "starlette.middleware.opentelemetry":
            span = frame.f_locals.get("span")
            return span if isinstance(span, Span) else None
        traceback = traceback.tb_next
    return None
