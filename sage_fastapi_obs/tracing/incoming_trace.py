"""Reads the trace of a caller from the headers: with the process's propagator, or faster where that is the default."""

import re
from functools import lru_cache
from typing import TypeAlias

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from sage_fastapi_obs.otel_internals import NO_STATE, SPAN, is_default_propagator, new_context
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.propagation_headers import DroppedHeaders, PropagatedHeaders, is_usual_tracestate

_NOTHING = Context()
_USUAL_TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_NO_TRACE_ID, _NO_SPAN_ID = "0" * 32, "0" * 16
_FLAGS = tuple(map(TraceFlags, range(256)))
_FLAGS_OF = {f"{flags:02x}": flags for flags in range(256)}
_LONGEST_KEPT_STATE = 256
"""Bytes of a `tracestate` that is remembered: services behind one gateway get few different ones."""

IncomingIds: TypeAlias = tuple[str, str, int, TraceState | None]
"""Of the caller's span: 32 hex digits of its trace, 16 of its own, its flags, and its state; None for no state."""


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

    def read_ids(self, _: Exchange) -> IncomingIds | None:
        """Return the caller's ids as they are written, where the headers are usual: cheaper than a context; None elsewhere."""
        return None


class UsualIncomingTrace(IncomingTrace):
    """Reads a usual `traceparent` itself, with at most a short `tracestate`, and leaves all others to the propagator."""

    def read(self, exchange: Exchange) -> Context:
        """Return a context with the caller's span."""
        found = self.read_ids(exchange)
        if found is None:
            return super().read(exchange)
        trace_id, span_id, flags, state = found
        numbers = int(trace_id, 16), int(span_id, 16)
        remote = new_context(SpanContext, (*numbers, True, _FLAGS[flags], NO_STATE if state is None else state, True))
        return Context({SPAN: NonRecordingSpan(remote)})

    def read_ids(self, exchange: Exchange) -> IncomingIds | None:
        """Return the caller's ids."""
        headers, rows = exchange.headers, exchange.scope["headers"]
        header = headers.get(b"traceparent")
        if header is None or _USUAL_TRACEPARENT(header) is None or b"baggage" in headers:
            return None
        if type(rows) is not list or len(rows) != len(headers):
            # Of a repeated header the first may be the one that counts.
            return None
        text = header.decode()
        trace_id, span_id, state = text[3:35], text[36:52], None
        if trace_id == _NO_TRACE_ID or span_id == _NO_SPAN_ID:
            return None
        if b"tracestate" in headers and (state := _state_of(headers[b"tracestate"])) is None:
            return None
        return trace_id, span_id, _FLAGS_OF[text[53:]], state


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
