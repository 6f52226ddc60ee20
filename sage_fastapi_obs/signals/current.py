"""OpenTelemetry's current context, without the detours that its functions take."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

__all__ = ["SPAN", "attach", "detach", "get_current"]

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
