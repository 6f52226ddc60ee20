"""Spans as OTLP protobuf: the bytes of the SDK's encoder, for any span."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from support import times

from sage_fastapi_obs.tracing.fast_span import FastSpanFactory
from sage_fastapi_obs.tracing.span_encoding import SpanEncoder, UnusualSpanError, encode_span

TEXTS = st.text(max_size=300) | st.text(st.characters(codec=None), max_size=8)
NUMBERS = st.integers() | st.floats() | st.booleans() | st.sampled_from([0, 0.0, -0.0, False, 1, 1.0, True, -1, math.nan])
PLAIN = TEXTS | NUMBERS
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.tuples(PLAIN, PLAIN) | st.binary(max_size=4) | st.none() | st.just(object())
ATTRIBUTES = st.dictionaries(TEXTS, VALUES, max_size=6) | st.none()
TIMES = st.integers(0, 2**64 - 1)
STATES = st.sampled_from([None, TraceState([("a", "1"), ("b", "2")])])
CONTEXTS = st.builds(
    SpanContext, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans(), st.just(TraceFlags(1)), STATES
)
STATUSES = st.builds(Status, st.just(StatusCode.ERROR), TEXTS | st.none()) | st.builds(Status, st.sampled_from(StatusCode))
EVENTS = st.builds(Event, TEXTS, ATTRIBUTES, TIMES)
RESOURCES = st.sampled_from([Resource({"service.name": "one"}), Resource({"service.name": "two"}, "https://schema.example")])
RESOURCE = Resource({})
SCOPES = st.sampled_from([InstrumentationScope("one", "1"), InstrumentationScope("two", schema_url="https://schema.example")])
SPANS = st.builds(
    ReadableSpan,
    name=TEXTS,
    context=CONTEXTS,
    parent=CONTEXTS | st.none(),
    resource=RESOURCES,
    attributes=ATTRIBUTES,
    events=st.lists(EVENTS, max_size=2),
    links=st.lists(st.builds(Link, CONTEXTS, ATTRIBUTES), max_size=1),
    kind=st.sampled_from(SpanKind),
    status=STATUSES,
    start_time=TIMES | st.none(),
    end_time=TIMES | st.none(),
    instrumentation_scope=SCOPES,
)


def encodable(spans: list[ReadableSpan]) -> list[ReadableSpan]:
    """Leave out what the SDK cannot encode, as a lone surrogate in a name."""

    def is_encodable(span: ReadableSpan) -> bool:
        try:
            encode_spans([span])
        except Exception:
            return False
        return True

    return [span for span in spans if is_encodable(span)]


@settings(max_examples=times(200))
@given(st.lists(SPANS, max_size=5))
def test_any_batch_has_the_bytes_that_the_sdk_writes(spans: list[ReadableSpan]):
    """Whatever spans are made of: hostile texts, numbers of any size, and values that no attribute may have."""
    expected = encodable(spans)
    assert SpanEncoder(encode_spans).encode(spans) == (encode_spans(expected).SerializeToString(), len(expected))


FAST = st.sampled_from(["", "x" * 127, "x" * 128, "é" * 64, "\x00", "%s %%"]) | TEXTS


@settings(max_examples=times(200))
@given(
    name=FAST,
    attributes=st.dictionaries(TEXTS, FAST | st.integers(-(2**63), 2**63 - 1), max_size=6),
    later=st.dictionaries(TEXTS, PLAIN, max_size=2),
    event=st.none() | ATTRIBUTES,
    kind=st.sampled_from(SpanKind),
)
def test_a_fast_span_has_the_bytes_that_the_sdk_writes(name: str, attributes: Any, later: Any, event: Any, kind: SpanKind):
    """Our own spans take a shorter way while they have only attributes, and the long one from the first event on."""
    provider = TracerProvider(shutdown_on_exit=False, resource=RESOURCE)
    factory = FastSpanFactory.for_tracer(provider.get_tracer("ours"), lambda _: dict(attributes), kind=kind)
    assert factory is not None
    fast, _ = factory.start(name, None, (), 5, None)
    fast.set_attributes(later)
    if event is not None:
        fast.add_event("event", event, 6)
    fast.finish(name, name, {}, 7)
    expected = encodable([fast])
    assert SpanEncoder(encode_spans).encode([fast]) == (encode_spans(expected).SerializeToString(), len(expected))


@pytest.mark.parametrize(("span_us", "spans", "pauses"), [(10, 512, 512 // 26), (100, 512, 512 // 4), (1_000, 512, 511)])
def test_others_get_the_interpreter_while_a_batch_is_encoded(span_us: int, spans: int, pauses: int):
    """After each quarter of a millisecond, or after each span that takes longer: a whole batch would hold the app up."""
    now_us, paused = itertools.count(step=span_us), itertools.count()
    encoder = SpanEncoder(encode_spans, lambda: next(now_us) * 1_000, lambda _: next(paused))  # type: ignore[arg-type, return-value]
    encoder.encode([span()] * spans)
    assert next(paused) == pytest.approx(pauses, abs=pauses / 3)


def span(**changes: Any) -> ReadableSpan:
    context = SpanContext(0xA, 0xB, is_remote=False)
    usual = {"name": "GET /", "context": context, "start_time": 1, "end_time": 2, "resource": RESOURCE}
    return ReadableSpan(**{**usual, **changes})


def test_a_usual_span_is_encoded_here():
    """Attributes, a failure's event, a parent and a trace state do not need the SDK's encoder."""
    state = TraceState([("a", "1")])
    usual = span(
        parent=SpanContext(0xA, 0xC, is_remote=True, trace_state=state),
        attributes={"http.route": "/a", "http.response.status_code": 500, "list": ("a", "b"), "share": 0.5, "is": True},
        events=[Event("exception", {"exception.type": "ValueError"}, 3)],
        status=Status(StatusCode.ERROR, "broken"),
    )
    written = encode_spans([usual]).resource_spans[0].scope_spans[0].SerializeToString()
    assert encode_span(usual) in written


def test_a_span_with_links_is_left_to_the_sdk():
    """What is rare has no code of its own here."""
    with pytest.raises(UnusualSpanError):
        encode_span(span(links=[Link(SpanContext(1, 2, is_remote=True))]))


@pytest.mark.parametrize(
    "values",
    [(0, 0.0, -0.0, False), (1, 1.0, True), (-1, 2**63 - 1, -(2**63)), (2**63, 1), ("a\ud800", "b"), ("é" * 64, "x" * 2_000)],
)
def test_values_that_are_easily_taken_for_others(values: tuple[Any, ...]):
    """Equal keys of a cache, numbers with a sign or too large for 64 bits, and texts that are no Unicode or longer in bytes."""
    spans = [span(attributes={"value": value, "all": values}) for value in values]
    assert SpanEncoder(encode_spans).encode(spans) == (encode_spans(spans).SerializeToString(), len(spans))
