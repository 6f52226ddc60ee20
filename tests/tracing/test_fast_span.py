"""The fast way to make spans beside the SDK's: whatever is done to both, exporters receive the same."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from sage_fastapi_obs import otel_internals
from sage_fastapi_obs.otel_internals import MOST_ATTRIBUTES, NO_STATE, FastSpan, SplitProcessor
from sage_fastapi_obs.store.exchange_records import stored_span
from sage_fastapi_obs.tracing.fast_span import FastSpanFactory
from sage_fastapi_obs.tracing.held_spans import HeldSpan
from sage_fastapi_obs.tracing.span_encoding import SpanEncoder
from sage_fastapi_obs.tracing.span_factory import SdkSpanFactory, finish_span, span_factory_of

ATTRIBUTES = {"http.request.method": "GET", "url.path": "/items/7", "server.port": 80}
AT_THE_END = {"http.route": "/items/{item}", "http.response.status_code": 200}
REMOTE = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("vendor", "1")]))
RANDOM = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(3))
ANY_VALUE = st.one_of(
    st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.lists(st.text(), max_size=3), st.binary(), st.none()
)
WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("set_attribute"), st.text(max_size=5), ANY_VALUE),
        st.tuples(st.just("set_attributes"), st.dictionaries(st.text(max_size=5), ANY_VALUE, max_size=3)),
        st.tuples(
            st.just("add_event"), st.text(max_size=5), st.dictionaries(st.text(max_size=5), ANY_VALUE, max_size=2), st.just(5)
        ),
        st.tuples(st.just("add_link"), st.just(REMOTE), st.just({"a": 1})),
        st.tuples(st.just("update_name"), st.text(max_size=5)),
        st.tuples(st.just("set_status"), st.sampled_from(list(StatusCode)), st.none()),
    ),
    max_size=6,
)


class Counted(IdGenerator):
    """Ids in order, so that two providers make the same."""

    def __init__(self) -> None:
        self.made = 0

    def generate_trace_id(self) -> int:
        self.made += 1
        return self.made << 64 | self.made

    def generate_span_id(self) -> int:
        self.made += 1
        return self.made


class Both:
    """The same provider twice: once for the SDK's spans, once for lean ones."""

    def __init__(
        self,
        sampler: Sampler = ALWAYS_ON,
        *,
        root_bound: int | None = None,
        limits: SpanLimits | None = None,
        holds: bool = False,
    ) -> None:
        self.exporters = [InMemorySpanExporter(), InMemorySpanExporter()]
        tracers = []
        for exporter, processors in zip(self.exporters, (SynchronousMultiSpanProcessor(), SplitProcessor()), strict=True):
            resource, ids = Resource({"service.name": "x"}), Counted()
            provider = TracerProvider(
                sampler,
                resource,
                shutdown_on_exit=False,
                active_span_processor=processors,
                id_generator=ids,
                span_limits=limits,
            )
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            tracers.append(provider.get_tracer("scope", "1", "https://schema"))
        self.sdk, tracer = tracers
        lean = FastSpanFactory.for_tracer(tracer, dict, root_bound=root_bound, holds=holds)
        assert lean is not None
        self.lean = lean

    def start(self, context: Any = None, links: Any = ()) -> tuple[trace.Span, trace.Span]:
        """Start one span of each."""
        ordinary = self.sdk.start_span("GET", context, SpanKind.SERVER, ATTRIBUTES, links, 100)
        return ordinary, self.lean.start("GET", context, links, 100, ATTRIBUTES)[0]

    @property
    def exported(self) -> list[list[dict[str, Any]]]:
        """What both exporters received, as data."""
        return [[_data(span) for span in exporter.get_finished_spans()] for exporter in self.exporters]


def _data(span: Any) -> dict[str, Any]:
    shown = ("name", "kind", "parent", "start_time", "end_time", "resource", "context", "instrumentation_scope")
    return {
        **{name: getattr(span, name) for name in shown},
        "status": (span.status.status_code, span.status.description),
        "events": [(event.name, event.timestamp, dict(event.attributes)) for event in span.events],
        "links": [(link.context, dict(link.attributes)) for link in span.links],
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "trace_state": span.context.trace_state,
        "attributes": {key: (type(value), value) for key, value in span.attributes.items()},
    }


def finish(ordinary: trace.Span, lean: trace.Span) -> None:
    """End both alike."""
    ordinary.update_name("GET /items/{item}")
    ordinary.set_attributes(AT_THE_END)
    ordinary.end(200)
    assert isinstance(lean, FastSpan)
    lean.finish(lean.name, "GET /items/{item}", AT_THE_END, 200)


def test_an_untouched_span_is_exported_alike():
    """Nobody but us writes to it: the quick way, and the same result."""
    both = Both()
    finish(*both.start())
    assert both.exported[0] == both.exported[1]


@given(WRITES)
def test_whatever_an_application_writes_is_exported_alike(writes: list[tuple[Any, ...]]):
    """Any sequence of writes gives the same span, checked and bounded as the SDK does it."""
    both = Both()
    spans = both.start()
    for span in spans:
        for method, *arguments in writes:
            getattr(span, method)(*arguments)
    finish(*spans)
    assert both.exported[0] == both.exported[1]


@pytest.mark.parametrize("number", range(MOST_ATTRIBUTES - 8, MOST_ATTRIBUTES + 2))
@pytest.mark.parametrize("together", [True, False])
def test_no_more_attributes_are_kept_than_the_sdk_keeps(number: int, together: bool):
    """However many are set, one by one or together, as many are exported and as many dropped."""
    both = Both(limits=SpanLimits(max_span_attributes=MOST_ATTRIBUTES))
    spans = both.start()
    attributes = {f"name.{index}": index for index in range(number)}
    for span in spans:
        for one in [attributes] if together else [{name: value} for name, value in attributes.items()]:
            span.set_attributes(one)
    finish(*spans)
    assert both.exported[0] == both.exported[1]


def test_attributes_that_need_no_check_change_nothing_for_who_reads():
    """Whoever looks at a span while another writes to it sees it as it was, and later as it is."""
    _, lean = Both().start()
    before = lean.attributes
    seen = []
    for name in before:
        lean.set_attribute(f"{name}.again", name)
        seen.append(name)
    assert seen == [*ATTRIBUTES]
    assert lean.attributes == {**ATTRIBUTES, **{f"{name}.again": name for name in ATTRIBUTES}}


@pytest.mark.parametrize(
    ("sampler", "root_bound"),
    [
        (ALWAYS_ON, None),
        (ALWAYS_OFF, None),
        (ParentBased(TraceIdRatioBased(1.0)), None),
        (ParentBased(TraceIdRatioBased(1.0)), TraceIdRatioBased.get_bound_for_rate(1.0)),
        (ParentBased(TraceIdRatioBased(0.0)), None),
        (ParentBased(TraceIdRatioBased(0.0)), TraceIdRatioBased.get_bound_for_rate(0.0)),
    ],
)
@pytest.mark.parametrize("parent", [None, REMOTE, RANDOM, SpanContext(0xABC, 0xDEF, is_remote=True)])
@pytest.mark.parametrize("links", [(), [Link(REMOTE, {"why": "edge"})]])
def test_parents_links_and_sampling_are_followed_alike(sampler, root_bound, parent, links):
    """Ids, flags, state and parent are those the SDK would have given."""
    both = Both(sampler, root_bound=root_bound)
    context = None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent))
    ordinary, lean = both.start(context, links)
    assert lean.get_span_context() == ordinary.get_span_context()
    assert lean.get_span_context().trace_state == ordinary.get_span_context().trace_state
    assert lean.is_recording() == ordinary.is_recording()
    if lean.is_recording():
        finish(ordinary, lean)
        assert both.exported[0] == both.exported[1]


@given(st.floats(0, 1), st.integers(1, (1 << 128) - 1))
def test_a_bound_samples_what_the_sampler_would(rate: float, trace_id: int):
    """Any trace id, at any rate: the bound alone decides as the SDK's sampler does."""
    both = Both(ParentBased(TraceIdRatioBased(rate)), root_bound=TraceIdRatioBased.get_bound_for_rate(rate))
    both.sdk.id_generator.generate_trace_id = lambda: trace_id
    both.lean._new_trace_id = lambda: trace_id
    ordinary, lean = both.start()
    assert lean.get_span_context() == ordinary.get_span_context()
    assert lean.is_recording() == ordinary.is_recording()


def test_a_samplers_attributes_are_on_the_span():
    """A sampler may add attributes, and sees ours."""

    class Adds(Sampler):
        def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, {**attributes, "sampler.rule": "7"})

        def get_description(self):
            return "adds"

    both = Both(Adds())
    finish(*both.start())
    assert both.exported[0] == both.exported[1]
    assert "sampler.rule" in both.exported[1][0]["attributes"]


def test_exceptions_are_recorded_alike():
    """`record_exception` gives the same event."""
    both = Both()
    spans = both.start()
    for span in spans:
        span.record_exception(ValueError("no"), timestamp=7)
    finish(*spans)
    assert both.exported[0] == both.exported[1]


def test_an_ended_span_takes_no_more():
    """Ending twice exports once, and later writes change nothing that was exported."""
    both = Both()
    spans = both.start()
    finish(*spans)
    before = both.exported
    spans[1].set_attribute("late", 1)
    spans[1].finish("GET /items/{item}", "again", {}, 300)
    spans[1].end()
    assert both.exported == before
    assert not spans[1].is_recording()


@pytest.mark.parametrize("processors", [SynchronousMultiSpanProcessor, SplitProcessor])
@pytest.mark.parametrize("how", ["root", "known sampler", "asked sampler"])
def test_processors_are_told_of_every_moment(processors: type[SynchronousMultiSpanProcessor], how: str):
    """In their order, also those that come late; one may write at the start, as baggage processors do."""
    told: list[Any] = []

    class Marks(SpanProcessor):
        def on_start(self, span, parent_context=None):
            span.set_attribute("marked", True)
            told.append("start")

        def _on_ending(self, span):
            told.append("ending")

        def on_end(self, span):
            told.append("end")

    exporter, patched = InMemorySpanExporter(), SimpleSpanProcessor(InMemorySpanExporter())
    patched.on_start = lambda *_, **__: told.append("patched")  # type: ignore[method-assign]
    provider = TracerProvider(active_span_processor=processors(), shutdown_on_exit=False)
    spans = FastSpanFactory.for_tracer(provider.get_tracer("x"), dict, root_bound=None if how == "asked sampler" else 1 << 64)
    for processor in (Marks(), patched, SimpleSpanProcessor(exporter)):
        provider.add_span_processor(processor)
    span = spans.start_root("GET", 1, {})[0] if how == "root" else spans.start("GET", None, (), 1, {})[0]
    span.finish("GET", "GET", {}, 2)
    assert exporter.get_finished_spans()[0].attributes == {"marked": True}
    assert told == ["start", "patched", "ending", "end"]
    provider.get_tracer("x").start_span("ordinary").end()
    assert told[4:] == told[:4]
    assert len(exporter.get_finished_spans()) == 2


def test_processors_that_do_nothing_at_a_moment_are_not_called():
    """The SDK's own only want a span ended."""
    processors = SplitProcessor()
    for processor in (BatchSpanProcessor(InMemorySpanExporter()), SimpleSpanProcessor(InMemorySpanExporter())):
        processors.add_span_processor(processor)
    assert (processors.starting, processors.ending, len(processors.ended)) == ((), (), 2)
    processors.shutdown()


@pytest.mark.parametrize(
    "tracer",
    [
        trace.NoOpTracer(),
        TracerProvider(span_limits=SpanLimits(max_span_attributes=3), shutdown_on_exit=False).get_tracer("x"),
        TracerProvider(span_limits=SpanLimits(max_span_attribute_length=3), shutdown_on_exit=False).get_tracer("x"),
    ],
    ids=["not the SDK's", "few attributes", "short attributes"],
)
def test_tracers_that_need_more_are_not_supported(tracer):
    """Where the SDK would do something that a lean span does not, it is left to the SDK."""
    assert FastSpanFactory.for_tracer(tracer, dict) is None


def test_internal_metrics_of_the_sdk_keep_their_spans(monkeypatch):
    """An SDK that counts its spans goes on counting all of them."""
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    assert FastSpanFactory.for_tracer(TracerProvider(shutdown_on_exit=False).get_tracer("x"), dict) is None


@given(
    st.floats(0, 1),
    st.sampled_from([None, REMOTE, RANDOM, SpanContext(0xABC, 0xDEF, is_remote=True)]),
    st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=MOST_ATTRIBUTES + 1),
    st.booleans(),
)
def test_both_factories_start_and_finish_the_same_span(rate: float, parent: Any, attributes: dict[str, str], linked: bool):
    """At any rate, below any parent, with any attributes: what the SDK's way exports, the fast one exports."""
    both = Both(ParentBased(TraceIdRatioBased(rate)), root_bound=TraceIdRatioBased.get_bound_for_rate(rate))
    context = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
    links = [Link(REMOTE)] if linked else ()
    spans = [
        factory.start("GET", context, links, 100, attributes)[0] for factory in (SdkSpanFactory(both.sdk, dict), both.lean)
    ]
    assert spans[0].get_span_context() == spans[1].get_span_context()
    for span in spans:
        finish_span(span, "GET", "GET /items/{item}", AT_THE_END, 200)
    assert both.exported[0] == both.exported[1]


def below(both: Both, flags: int, state: TraceState, *, is_held: bool) -> tuple[trace.Span, Any]:
    """Start the span of a request below a caller's, of each kind; a held one is kept at once."""
    caller = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(flags), trace_state=state)
    ids = f"{0xABC:032x}", f"{0xDEF:016x}", flags, state
    lean, _, span_id, sampled = both.lean.start_below("GET", ids, Context(), 100, ATTRIBUTES, is_sampled=not is_held)
    assert sampled is not is_held
    both.sdk.id_generator.generate_span_id = lambda: int(span_id, 16)
    parent = trace.set_span_in_context(NonRecordingSpan(caller), Context())
    ordinary = both.sdk.start_span("GET", parent, SpanKind.SERVER, ATTRIBUTES, (), 100)
    return ordinary, lean.keep() if isinstance(lean, HeldSpan) else lean


@given(WRITES, st.sampled_from([1, 3]), st.sampled_from([NO_STATE, REMOTE.trace_state]), st.booleans(), st.booleans())
def test_the_span_of_a_request_below_a_callers_is_exported_alike(
    writes: list[tuple[Any, ...]], flags: int, state: TraceState, is_held: bool, is_asked_early: bool
):
    """Its contexts are made of digits when somebody asks: they, its bytes and its JSON are those of the SDK's span."""
    both = Both(ParentBased(TraceIdRatioBased(1.0)), root_bound=1 << 64, holds=True)
    spans = below(both, flags, state, is_held=is_held)
    if is_asked_early:
        assert spans[1].get_span_context() == spans[0].get_span_context()
    for span in spans:
        for method, *arguments in writes:
            getattr(span, method)(*arguments)
    finish(*spans)
    ended = [exporter.get_finished_spans()[0] for exporter in both.exporters]
    sdk, fast = (SpanEncoder(encode_spans).encode([span]) for span in ended)
    # Before the contexts are made.
    assert fast == sdk
    assert stored_span(ended[1]) == stored_span(ended[0])
    assert both.exported[0] == both.exported[1]
    assert spans[1].get_span_context() == spans[0].get_span_context()


def test_any_flags_of_a_span_are_kept_when_it_becomes_sampled():
    """Also those that no header could carry."""
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0x300))
    span = ReadableSpan("x", context)
    assert not otel_internals.is_sampled(span)
    otel_internals.mark_sampled(span)
    assert (span.context.trace_flags, otel_internals.is_sampled(span)) == (0x301, True)


def test_two_threads_that_ask_at_once_get_the_same_context(monkeypatch: pytest.MonkeyPatch):
    """Also if one makes it while the other is making it."""
    _, span = below(Both(ParentBased(TraceIdRatioBased(1.0)), root_bound=1 << 64), 1, NO_STATE, is_held=False)
    make, seen = otel_internals.new_context, []

    def interrupted(kind: type, values: Any) -> Any:
        if not seen:
            seen.append(None)
            seen.append(span.get_span_context())
        return make(kind, values)

    monkeypatch.setattr(otel_internals, "new_context", interrupted)
    assert span.get_span_context() is seen[1]


@given(st.sampled_from([0.0, 1.0]), st.booleans())
def test_both_factories_begin_a_trace_alike(rate: float, known: bool):
    """Of the span that begins a trace, both return the ids as they are written, and whether it is sampled."""
    both = Both(ParentBased(TraceIdRatioBased(rate)), root_bound=TraceIdRatioBased.get_bound_for_rate(rate) if known else None)
    for factory in (SdkSpanFactory(both.sdk, dict), both.lean):
        span, trace_id, span_id, sampled = factory.start_root("GET", 100, ATTRIBUTES)
        context = span.get_span_context()
        assert (trace_id, span_id) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
        assert sampled == context.trace_flags.sampled == span.is_recording() == bool(rate)
        finish_span(span, "GET", "GET /items/{item}", AT_THE_END, 200)
    shown = [[{**one, "context": None, "trace_state": None} for one in each] for each in both.exported]
    assert shown[0] == shown[1]


def test_without_tracing_a_trace_has_no_ids():
    """The API's own tracer makes spans that are invalid, and so are their ids."""
    factory = span_factory_of(trace.NoOpTracer(), dict)
    assert isinstance(factory, SdkSpanFactory)
    assert factory.start_root("GET", 100, ATTRIBUTES)[1:] == ("", "", False)
