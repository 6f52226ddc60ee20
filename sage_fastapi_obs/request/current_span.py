"""OpenTelemetry's current context, without the detours that its functions take, and the server spans of others."""

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind
from starlette.types import Scope

from sage_fastapi_obs.request.exchange import Exchange, current_exchange

__all__ = ["SPAN", "attach", "detach", "get_current", "native_span", "span_inside"]

SPAN = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
"""The key under which a context has its span."""
_variable: Any = getattr(getattr(otel_context, "_RUNTIME_CONTEXT", None), "_current_context", None)
get_current: Callable[[], Any]
attach: Callable[[Context], Any]
detach: Callable[[Any], None]
get_current, attach, detach = (
    (_variable.get, _variable.set, _variable.reset)
    if type(_variable) is ContextVar
    else (otel_context.get_current, otel_context.attach, otel_context.detach)
)
"""What keeps the current context is a context variable, to which OpenTelemetry's functions only pass on."""


def native_span(scope: Scope) -> Span | None:
    """Find the server span that FastAPI's own telemetry has open for a request."""
    span: Span | None = getattr(scope.get("fastapi.telemetry"), "span", None)
    return span


def span_inside(exchange: Exchange) -> Span | None:
    """Find the server span that somebody inside of us has opened for this request; None where ours is the one.

    FastAPI and Starlette open theirs below the caller's, not below the current one. Where all is known of it is that it is
    of another trace, it may be a span below theirs.
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
