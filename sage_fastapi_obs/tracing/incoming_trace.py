"""Reads the trace of a caller from the headers: with the process's propagator, or faster where that is the default."""

import re
from functools import lru_cache

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from sage_fastapi_obs.otel_internals import NO_STATE, SPAN, is_default_propagator, new_context
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.propagation_headers import DroppedHeaders, PropagatedHeaders, is_usual_tracestate

_NOTHING = Context()
_USUAL_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_FLAGS = tuple(map(TraceFlags, range(256)))
_LONGEST_KEPT_STATE = 256
"""Bytes of a `tracestate` that is remembered: services behind one gateway get few different ones."""


class IncomingTrace:
    """Reads with the global propagator of the process."""

    def __init__(self, dropped: DroppedHeaders) -> None:
        self._dropped = dropped
        self._headers = PropagatedHeaders(dropped)
        self._propagator = propagate.get_global_textmap()
        self.fields = frozenset(name.lower().encode() for name in self._propagator.fields)
        """Headers that may carry the trace."""

    def read(self, exchange: Exchange) -> Context:
        """Return a context with the caller's span and baggage; what is not valid is left out and counted."""
        extracted = self._propagator.extract(exchange, _NOTHING, self._headers)
        if SPAN not in extracted and b"traceparent" in exchange.headers and b"traceparent" in self.fields:
            self._dropped.count("traceparent")
        return extracted


class UsualIncomingTrace(IncomingTrace):
    """Reads a usual `traceparent` itself, with at most a short `tracestate`, and leaves all others to the propagator."""

    def read(self, exchange: Exchange) -> Context:
        """Return a context with the caller's span."""
        span_context = self._span_context(exchange)
        return super().read(exchange) if span_context is None else Context({SPAN: NonRecordingSpan(span_context)})

    def _span_context(self, exchange: Exchange) -> SpanContext | None:
        headers, rows = exchange.headers, exchange.scope["headers"]
        if b"baggage" in headers or type(rows) is not list or len(rows) != len(headers):
            # Of a repeated header the first may be the one that counts.
            return None
        found = _USUAL_TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
        raw_state = headers.get(b"tracestate")
        state = NO_STATE if raw_state is None else _state_of(raw_state)
        if found is None or state is None:
            return None
        trace_id, span_id, flags = found.groups()
        ids = int(trace_id, 16), int(span_id, 16)
        return new_context(SpanContext, (*ids, True, _FLAGS[int(flags, 16)], state, True)) if all(ids) else None


def incoming_trace(dropped: DroppedHeaders) -> IncomingTrace:
    """Choose the reader for the propagator that the process has now."""
    kind = UsualIncomingTrace if is_default_propagator(propagate.get_global_textmap()) else IncomingTrace
    return kind(dropped)


def _state_of(header: bytes) -> TraceState | None:
    return _kept_state(header) if len(header) <= _LONGEST_KEPT_STATE else None


@lru_cache(maxsize=256)
def _kept_state(header: bytes) -> TraceState | None:
    text = header.decode("latin-1")
    return TraceState.from_header([text]) if is_usual_tracestate(text) else None
