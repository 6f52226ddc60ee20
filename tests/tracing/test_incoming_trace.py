"""The trace of a caller: the fast reader finds what OpenTelemetry's default propagator finds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import SpanContext
from support import http_scope, times

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.propagation_headers import DroppedHeaders
from sage_fastapi_obs.tracing.incoming_trace import IncomingTrace, UsualIncomingTrace, incoming_trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEX = st.sampled_from([*"0123456789abcdefABCDEFg-", " ", "\t", "\xff"])
IDS = st.sampled_from([TRACE, SPAN, "0" * 32, "0" * 16, "f" * 32, TRACE.upper()]) | st.text(HEX, max_size=33)
USUAL = st.builds(
    "00-{}-{}-{:02x}".format, st.sampled_from([TRACE, "0" * 32]), st.sampled_from([SPAN, "0" * 16]), st.integers(0, 255)
)
PARENTS = USUAL | st.lists(IDS | st.sampled_from(["00", "01", "ff", "cc", "3"]), max_size=6).map("-".join)
STATES = st.sampled_from(["a=1", "b=2", "a=1,b=2", "", ",", "a@b=c", "=", "a=\xff", "a=" + "x" * 300, " a=1"])
BAGGAGE = st.sampled_from(["k=v", "", "=", "k=v,k=w"])
ROWS = st.one_of(
    st.tuples(st.just(b"traceparent"), PARENTS),
    st.tuples(st.just(b"tracestate"), st.lists(STATES, max_size=3).map(",".join)),
    st.tuples(st.just(b"baggage"), BAGGAGE),
    st.just((b"accept", "*/*")),
)
USUAL_ROWS = st.lists(ROWS | st.tuples(st.just(b"traceparent"), USUAL), max_size=2)
HEADERS = st.lists(ROWS, max_size=4) | st.builds(lambda parent, rows: [(b"traceparent", parent), *rows], USUAL, USUAL_ROWS)


def read_by(kind: type[IncomingTrace], rows: list[tuple[bytes, str]]) -> tuple[SpanContext, dict[str, object], dict[str, int]]:
    """Return the caller's span and baggage, and which headers were dropped."""
    dropped = DroppedHeaders()
    headers = [(name, value.encode("latin-1")) for name, value in rows]
    context = kind(dropped).read(Exchange(http_scope(headers=headers), 0, 0))
    return trace.get_current_span(context).get_span_context(), dict(baggage.get_all(context)), dropped.counts


@settings(max_examples=times(200))
@given(HEADERS)
def test_the_fast_reader_finds_what_the_propagator_finds(rows: list[tuple[bytes, str]]):
    """With hostile ids, flags, states, repeated headers and baggage; the same headers are counted as dropped."""
    fast, usual = read_by(UsualIncomingTrace, rows), read_by(IncomingTrace, rows)
    assert fast == usual
    assert (fast[0].is_valid, fast[0].is_remote, fast[0].trace_state) == (
        usual[0].is_valid,
        usual[0].is_remote,
        usual[0].trace_state,
    )


@settings(max_examples=times(200))
@given(HEADERS)
def test_the_ids_are_those_of_the_context(rows: list[tuple[bytes, str]]):
    """Where ids are found, the propagator finds the same span; elsewhere a reader that asks it says so, and counts nothing."""
    dropped = DroppedHeaders()
    headers = [(name, value.encode("latin-1")) for name, value in rows]
    exchange = Exchange(http_scope(headers=headers), 0, 0)
    found = UsualIncomingTrace(dropped).read_ids(exchange)
    assert not any(dropped.counts.values())
    assert IncomingTrace(dropped).read_ids(exchange) is None
    usual, _, _ = read_by(IncomingTrace, rows)
    if found is not None:
        trace_id, span_id, flags, state = found
        assert (trace_id, span_id) == (f"{usual.trace_id:032x}", f"{usual.span_id:016x}")
        assert (flags, state or trace.TraceState()) == (usual.trace_flags, usual.trace_state)


@pytest.mark.parametrize("state", [None, "a=1,b=2"])
@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_the_ids_of_a_usual_header_are_found(flags: str, state: str | None):
    """A traceparent alone, or with a short state, needs no context."""
    rows = [
        (b"traceparent", f"00-{TRACE}-{SPAN}-{flags}".encode()),
        *([] if state is None else [(b"tracestate", state.encode())]),
    ]
    found = UsualIncomingTrace(DroppedHeaders()).read_ids(Exchange(http_scope(headers=rows), 0, 0))
    assert found is not None
    assert found[:3] == (TRACE, SPAN, int(flags, 16))
    assert (found[3] and found[3].to_header()) == state


def test_a_usual_header_is_read_here(monkeypatch: pytest.MonkeyPatch):
    """Most requests of most services do not need the propagator."""
    monkeypatch.setattr(IncomingTrace, "read", lambda *_: pytest.fail("the propagator was asked"))
    found, _, _ = read_by(UsualIncomingTrace, [(b"traceparent", f"00-{TRACE}-{SPAN}-01"), (b"tracestate", "a=1")])
    assert (f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_state.to_header()) == (TRACE, SPAN, "a=1")


def test_another_propagator_is_asked():
    """A process that reads other headers, too, or fewer, keeps its own way."""
    own = propagate.get_global_textmap()
    try:
        assert type(incoming_trace(DroppedHeaders())) is UsualIncomingTrace
        propagate.set_global_textmap(CompositePropagator([W3CBaggagePropagator()]))
        assert type(incoming_trace(DroppedHeaders())) is IncomingTrace
    finally:
        propagate.set_global_textmap(own)
