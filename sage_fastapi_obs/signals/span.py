"""The SDK's server span, without the part of its cost that spans in general need and ours do not.

The SDK checks and copies every attribute, for the sampler and again for the span, though ours are made here: of the right
types, few, and once. A `LeanSpan` takes them as they are. As soon as anybody else writes to it, it is an ordinary SDK span.
"""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Self

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer, get_current_span

__all__ = ["LeanSpan", "LeanSpans"]

_FILLED_IN = frozenset({"_name", "_context", "_parent", "_kind", "_start_time", "_attributes", "_events", "_links", "_lock"})
_PASSED_ON = frozenset(
    {"_resource", "_sampler", "_span_processor", "_instrumentation_scope", "_instrumentation_info", "_limits"}
)
_NOTHING: tuple[Any, ...] = ()
MOST_ATTRIBUTES = 32
"""More than a server span of ours ever starts and ends with."""


class LeanSpan(SdkSpan):
    """A server span that takes its first and last attributes unchecked."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        # Deliberately without the SDK's constructor: the fields are those it has set on a span like this one.
        self.__dict__.update(fields)

    def finish(self, name: str, attributes: Mapping[str, Any], ended_ns: int) -> None:
        """End the span, with its name and last attributes."""
        if type(self._attributes) is not dict:
            self.update_name(name)
            self.set_attributes(attributes)
            self.end(ended_ns)
            return
        with self._lock:
            if self._end_time is not None:
                return
            self._name = name
            self._attributes.update(attributes)
            self._end_time = ended_ns
        on_ending = getattr(self._span_processor, "_on_ending", None)
        if on_ending is not None:
            on_ending(self)
        self._span_processor.on_end(self._readable_span())

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute, checked as the SDK checks it."""
        self._become_ordinary()
        super().set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes, checked as the SDK checks them."""
        self._become_ordinary()
        super().set_attributes(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event."""
        self._become_ordinary()
        super().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link."""
        self._become_ordinary()
        super().add_link(context, attributes)

    def end(self, end_time: int | None = None) -> None:
        """End the span."""
        self._become_ordinary()
        super().end(end_time)

    def _become_ordinary(self) -> None:
        with self._lock:
            if type(self._attributes) is not dict or self._end_time is not None:
                return
            limits = self._limits
            self._attributes = BoundedAttributes(
                limits.max_span_attributes, self._attributes, immutable=False, max_value_len=limits.max_span_attribute_length
            )
            if self._events is _NOTHING:
                self._events = self._new_events()  # type: ignore[no-untyped-call]
            if self._links is _NOTHING:
                self._links = self._new_links(())


class LeanSpans:
    """Opens lean server spans, as one SDK tracer would open ordinary ones."""

    def __init__(self, tracer: SdkTracer, *, sampler_reads_attributes: bool) -> None:
        """Build for a tracer that is supported; see `of`."""
        self._tracer = tracer
        self._sampler_reads_attributes = sampler_reads_attributes
        pattern = vars(_pattern_span())
        passed_on = {
            "_resource": tracer.resource,
            "_sampler": tracer.sampler,
            "_span_processor": tracer.span_processor,
            "_instrumentation_scope": tracer._instrumentation_scope,  # noqa: SLF001 - read once, here
            "_instrumentation_info": tracer.instrumentation_info,
            "_limits": tracer._span_limits,  # noqa: SLF001 - read once, here
        }
        self._fields = {**pattern, **passed_on, "_kind": SpanKind.SERVER, "_events": _NOTHING, "_links": _NOTHING}
        # Newer SDKs pass on whether a trace id's bits are random; older ones know no such flag.
        self._random_mask = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
        makes_random_ids = getattr(tracer.id_generator, "is_trace_id_random", bool)()
        self._random_flag = self._random_mask if makes_random_ids else 0

    @classmethod
    def of(cls, tracer: Tracer, *, sampler_reads_attributes: bool) -> Self | None:
        """Build for a tracer, or return None when a `LeanSpan` cannot stand for the spans it makes.

        `sampler_reads_attributes`: False for a sampler known to decide by the trace id alone, so that the attributes of
        unsampled requests need not be made.
        """
        if isinstance(tracer, SdkTracer) and _is_supported(tracer):
            return cls(tracer, sampler_reads_attributes=sampler_reads_attributes)
        return None

    def start(
        self,
        name: str,
        parent_context: Context | None,
        links: Sequence[Link],
        started_ns: int,
        describe: Callable[[], dict[str, Any]],
    ) -> Span:
        """Open a span; `describe` makes its attributes, when somebody is to read them."""
        tracer = self._tracer
        parent: SpanContext | None = get_current_span(parent_context).get_span_context()
        if parent is None or not parent.is_valid:
            parent = None
            trace_id = tracer.id_generator.generate_trace_id()
            flags = self._random_flag
        else:
            trace_id = parent.trace_id
            flags = parent.trace_flags & self._random_mask
        attributes = describe() if self._sampler_reads_attributes else None
        sampled = tracer.sampler.should_sample(parent_context, trace_id, name, SpanKind.SERVER, attributes, links)
        decision = sampled.decision
        context = SpanContext(
            trace_id,
            tracer.id_generator.generate_span_id(),
            is_remote=False,
            trace_flags=TraceFlags(flags | decision.is_sampled()),  # type: ignore[no-untyped-call]
            trace_state=sampled.trace_state,
        )
        if not decision.is_recording():  # type: ignore[no-untyped-call]
            return NonRecordingSpan(context)
        span = LeanSpan(self._fields)
        span._name = name  # noqa: SLF001 - these complete what the constructor was given
        span._context = context  # noqa: SLF001
        span._parent = parent  # noqa: SLF001
        span._start_time = started_ns  # noqa: SLF001
        span._attributes = describe() if attributes is None else dict(sampled.attributes or {})  # noqa: SLF001
        span._lock = Lock()  # noqa: SLF001
        if links:
            span._links = span._new_links(links)  # noqa: SLF001
        tracer.span_processor.on_start(span, parent_context)
        return span


def _pattern_span() -> Span:
    """Make an SDK span that goes nowhere, to see which fields this version's constructor sets."""
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    return provider.get_tracer("pattern").start_span("pattern")


def _is_supported(tracer: SdkTracer) -> bool:
    """Tell whether a tracer is the SDK's own, of a version and with settings whose spans `LeanSpan` can be."""
    if type(tracer) is not SdkTracer or not getattr(tracer, "_is_enabled", lambda: True)():
        return False
    if type(getattr(tracer, "_tracer_metrics", None)).__name__ not in ("NoneType", "NoOpTracerMetrics"):
        # The SDK counts its spans, and would miss these.
        return False
    limits = getattr(tracer, "_span_limits", None)
    most = getattr(limits, "max_span_attributes", MOST_ATTRIBUTES)
    if limits is None or limits.max_span_attribute_length is not None or (most is not None and most < MOST_ATTRIBUTES):
        return False
    return set(vars(_pattern_span())) >= _FILLED_IN | _PASSED_ON
