"""Starts the spans of one SDK tracer as the tracer would, without the part of the cost that only spans in general need."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Self, TypeAlias

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    TraceState,
    get_current_span,
)

from sage_fastapi_obs.otel_internals import (
    FLAGS,
    MOST_ATTRIBUTES,
    NO_STATE,
    SPAN,
    UNCHECKED,
    FastSpan,
    ParentIds,
    SpanIds,
    fast_span_type,
    new_context,
)
from sage_fastapi_obs.processes import hold_at_fork
from sage_fastapi_obs.request.random_ids import RandomPool
from sage_fastapi_obs.tracing.held_spans import HeldSpan, holding_exchange

hold_at_fork(UNCHECKED)
_NO_PARENT = Context()
_LOW_64_BITS = (1 << 64) - 1
_allocate = object.__new__
"""Makes a span without the SDK's `__new__`, which only refuses to make a plain `Span`."""
_random_ids: RandomPool[tuple[str, str]] = RandomPool(48, lambda digits: (digits[:32], digits[32:]))
"""Trace and span ids as they are written. One of 2^64 span ids is invalid, which is too rare to be checked."""
CallerIds: TypeAlias = tuple[str, str, int, TraceState]
"""Of a caller's span: the hex digits of trace and span id, the flags, and the state."""
Describe: TypeAlias = Callable[[Any], dict[str, Any]]
"""Makes the attributes of a span from its source, which whoever starts it hands over."""


class UnsampledSpan(NonRecordingSpan):
    """The span of a request that is not sampled: its context is made on demand, which is rare."""

    is_remote = False

    def __init__(self, trace_id: str, span_id: str, flags: TraceFlags, state: TraceState = NO_STATE) -> None:
        self._ids = trace_id, span_id, flags, state

    @cached_property
    def _context(self) -> SpanContext:  # type: ignore[override]
        trace_id, span_id, flags, state = self._ids
        return SpanContext(int(trace_id, 16), int(span_id, 16), self.is_remote, flags, state)


class RemoteSpan(UnsampledSpan):
    """The span of a caller, sampled or not."""

    is_remote = True


class FastSpanFactory:
    """Starts fast spans of one kind."""

    def __init__(
        self,
        tracer: SdkTracer,
        describe: Describe,
        span: type[FastSpan],
        root_bound: int | None,
        kind: SpanKind,
        *,
        holds: bool,
    ) -> None:
        self._tracer = tracer
        self._holds = holds
        self._describe = describe
        self._span = span
        self._kind = kind
        self._callbacks = span.callbacks
        self._root_bound = root_bound
        self._new_trace_id = tracer.id_generator.generate_trace_id
        self._new_span_id = tracer.id_generator.generate_span_id
        # Newer SDKs pass on whether a trace id's bits are random; older ones know no such flag.
        self._random_mask = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
        makes_random_ids = getattr(tracer.id_generator, "is_trace_id_random", bool)()
        self._root_flags = self._random_mask if makes_random_ids else 0
        # As the lower half of a trace id is written; "g" sorts after every digit.
        self._sampled_below = None if root_bound is None else "g" if root_bound > _LOW_64_BITS else f"{root_bound:016x}"
        self._flags_below = [TraceFlags(flags & (self._random_mask | TraceFlags.SAMPLED)) for flags in range(4)]
        """Of a span whose parent's flags end in these two bits."""
        self._flags = [TraceFlags(self._root_flags), TraceFlags(self._root_flags | TraceFlags.SAMPLED)]

    @classmethod
    def for_tracer(
        cls,
        tracer: Tracer,
        describe: Describe,
        *,
        root_bound: int | None = None,
        kind: SpanKind = SpanKind.SERVER,
        holds: bool = False,
    ) -> Self | None:
        """Build for a tracer; None if a fast span cannot replace the spans that it makes.

        `describe` is called for spans that are recorded, and for a sampler that is asked. `root_bound`: for a sampler that
        follows the parent and, without one, samples the trace ids whose lower 64 bits are below this bound, as
        `ParentBased(TraceIdRatioBased(rate))` does. Any other sampler is asked each time. `holds`: spans of requests that are
        not sampled are recorded too, as the outcome may still decide to keep them.
        """
        span = fast_span_type(tracer, kind)
        return None if span is None else cls(tracer, describe, span, root_bound, kind, holds=holds)  # type: ignore[arg-type]

    def start(
        self, name: str, parent_context: Context | None, links: Sequence[Link], started_ns: int, source: Any
    ) -> tuple[Span, SpanContext]:
        """Start a span; return it with its context."""
        parent: SpanContext | None = None
        if parent_context is None or parent_context:
            parent = get_current_span(parent_context).get_span_context()
            if parent is not None and not parent.is_valid:
                parent = None
        if self._root_bound is None or links:
            return self._start_asking(name, parent_context, parent, links, started_ns, self._describe(source))
        if parent is None:
            new_trace_id, new_span_id = self._new_trace_id, self._new_span_id
            trace_id = new_trace_id()
            sampled = trace_id & _LOW_64_BITS < self._root_bound
            context = new_context(SpanContext, (trace_id, new_span_id(), False, self._flags[sampled], NO_STATE, True))
        else:
            sampled = parent.trace_flags.sampled
            flags = self._flags_below[parent.trace_flags & 3]
            context = new_context(SpanContext, (parent.trace_id, self._new_span_id(), False, flags, parent.trace_state, True))
        if not sampled and (not self._holds or holding_exchange() is None):
            return NonRecordingSpan(context), context
        attributes = self._describe(source)
        fast: FastSpan = _allocate(self._span)
        fast.begin(name, context, parent, started_ns, attributes)
        self._announce(fast, attributes, parent_context)
        return fast, context

    def start_root(self, name: str, started_ns: int, source: Any) -> tuple[Span, str, str, bool]:
        """Start a span that begins a trace; return it with its ids, and whether it is sampled."""
        sampled_below = self._sampled_below
        if sampled_below is None:
            span, context = self.start(name, _NO_PARENT, (), started_ns, source)
            return span, f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled
        try:
            trace_id, span_id = _random_ids.pop()
        except IndexError:
            trace_id, span_id = _random_ids.refill_and_take()
        if trace_id[16:] >= sampled_below:
            flags = self._flags[False]
            if not self._holds:
                return UnsampledSpan(trace_id, span_id, flags), trace_id, span_id, False
            held = HeldSpan(self._begin, name, (trace_id, span_id, flags, NO_STATE), None, started_ns, source, _NO_PARENT)
            return held, trace_id, span_id, False
        ids = trace_id, span_id, self._flags[True], NO_STATE
        return self._begin(name, ids, None, started_ns, source, _NO_PARENT), trace_id, span_id, True

    def start_below(
        self, name: str, caller: CallerIds, parent_context: Context, started_ns: int, source: Any, *, is_sampled: bool
    ) -> tuple[Span, str, str, bool]:
        """Start a span below that of a caller; return it with its ids, and whether it is sampled."""
        trace_id, parent_id, parent_flags, state = caller
        try:
            _, span_id = _random_ids.pop()
        except IndexError:
            _, span_id = _random_ids.refill_and_take()
        flags = self._flags_below[parent_flags & self._random_mask | is_sampled]
        ids, parent = (trace_id, span_id, flags, state), (parent_id, FLAGS[parent_flags])
        if is_sampled:
            if self._callbacks.starting and SPAN not in parent_context:
                remote = RemoteSpan(trace_id, parent_id, FLAGS[parent_flags], state)
                parent_context = Context({**parent_context, SPAN: remote})
            return self._begin(name, ids, parent, started_ns, source, parent_context), trace_id, span_id, True
        if self._holds:
            held = HeldSpan(self._begin, name, ids, parent, started_ns, source, parent_context)
            return held, trace_id, span_id, False
        return UnsampledSpan(trace_id, span_id, flags, state), trace_id, span_id, False

    def _begin(
        self,
        name: str,
        ids: SpanIds,
        parent: ParentIds | None,
        started_ns: int,
        source: Any,
        parent_context: Context,
    ) -> FastSpan:
        """Start the span of a request with all ids known."""
        attributes = self._describe(source)
        fast: FastSpan = _allocate(self._span)
        fast.begin_with_ids(name, ids, parent, started_ns, attributes)
        if self._callbacks.starting or len(attributes) >= MOST_ATTRIBUTES:
            self._announce(fast, attributes, parent_context)
        return fast

    def _announce(self, fast: FastSpan, attributes: dict[str, Any], parent_context: Context | None) -> None:
        if len(attributes) >= MOST_ATTRIBUTES:
            # The SDK may have to drop some.
            fast.become_ordinary()
        for on_start in self._callbacks.starting:
            on_start(fast, parent_context)

    def _start_asking(
        self,
        name: str,
        parent_context: Context | None,
        parent: SpanContext | None,
        links: Sequence[Link],
        started_ns: int,
        attributes: dict[str, Any],
    ) -> tuple[Span, SpanContext]:
        """Start a span that the sampler decides on: it may want to see the attributes, and may change them."""
        tracer = self._tracer
        trace_id = self._new_trace_id() if parent is None else parent.trace_id
        flags = self._root_flags if parent is None else parent.trace_flags & self._random_mask
        result = tracer.sampler.should_sample(parent_context, trace_id, name, self._kind, attributes, links)
        decision = result.decision
        flags |= decision.is_sampled()  # type: ignore[no-untyped-call]
        context = SpanContext(trace_id, self._new_span_id(), False, TraceFlags(flags), result.trace_state)
        if not decision.is_recording():  # type: ignore[no-untyped-call]
            return NonRecordingSpan(context), context
        fast: FastSpan = _allocate(self._span)
        fast.begin(name, context, parent, started_ns, dict(result.attributes or {}))
        if links:
            fast.begin_with_links(links)
        self._announce(fast, attributes, parent_context)
        return fast, context
