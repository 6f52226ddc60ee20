"""The innermost span of the running code: the current one, or one of ours that is not current because it is not exported.

Spans of other libraries below one that goes nowhere would lose their parent. So ours are made current only where the provider
has a processor. Log lines and outgoing calls find the innermost span here.
"""

from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span

from sage_fastapi_obs.otel_internals import SPAN, get_current
from sage_fastapi_obs.request.current_span import span_inside
from sage_fastapi_obs.request.exchange import Exchange, current_exchange

RUNNING = otel_context.create_key("sage_fastapi_obs.operation")
"""The key under which a context has the operation that runs in it: something with `fields` for the lines written there, the
`outer_context` around it, and its span as `unread` where that is not current."""
_NEITHER = (None, None)


def running() -> Any:
    """Return the innermost operation of this context; None outside of any."""
    return get_current().get(RUNNING)


def innermost_span() -> Span:
    """Return the innermost span, or an invalid span."""
    return _span(get_current(), current_exchange.get())


def innermost_context(exchange: Exchange | None) -> Context:
    """Return the current context with the innermost span in it, as code of an exchange sees it."""
    context: Context = get_current()
    span = _span(context, exchange)
    current = context.get(SPAN, INVALID_SPAN)
    return context if span is current else Context({**context, SPAN: span})


def innermost_ids() -> dict[str, str]:
    """Return the ids of the innermost span as lines show them; empty without a span."""
    exchange = current_exchange.get()
    span = _innermost(get_current(), exchange)
    if span is not None and (ids := _ids(span)):
        return ids
    if exchange is None or not exchange.trace_id:
        return {}
    # A thread of the application's own, too, has the exchange, through its logger, and no span.
    flags_shown = "01" if exchange.sampled else "00"
    return {"trace_id": exchange.trace_id, "span_id": exchange.span_id, "trace_flags": flags_shown}


def span_ids(span: Span | None = None) -> tuple[dict[str, str] | None, bool]:
    """Return trace and span id of a span, by default the innermost one, and whether it is sampled; no ids without a span."""
    ids = innermost_ids() if span is None else _ids(span)
    if not ids:
        return None, False
    return {"trace_id": ids["trace_id"], "span_id": ids["span_id"]}, ids["trace_flags"] == "01"


def _ids(span: Span) -> dict[str, str]:
    trace_id, span_id, _, flags, _, is_valid = span.get_span_context()
    if not is_valid:
        return {}
    return {"trace_id": f"{trace_id:032x}", "span_id": f"{span_id:016x}", "trace_flags": f"{flags & 1:02x}"}


def _span(context: Context, exchange: Exchange | None) -> Span:
    span = _innermost(context, exchange)
    if span is not None:
        return span
    return INVALID_SPAN if exchange is None or exchange.app_current is None else span_inside(exchange) or exchange.span


def _innermost(context: Context, exchange: Exchange | None) -> Span | None:
    """Find the innermost span below the exchange's span; None if there is no span below it."""
    current: Span | None = context.get(SPAN)  # type: ignore[assignment]
    run: Any = context.get(RUNNING)
    app_current = None if exchange is None else exchange.app_current
    span_there, run_there = app_current or _NEITHER
    while run is not None and run is not run_there:
        outer = run.outer_context
        if outer.get(SPAN) is not current:
            # Somebody has opened a span in it.
            return current
        if run.unread is not None:
            unread: Span = run.unread
            return unread
        run = outer.get(RUNNING)
    return None if app_current is not None and current is span_there else current
