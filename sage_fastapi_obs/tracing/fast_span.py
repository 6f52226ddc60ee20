"""The SDK's span, without the part of its cost that spans in general need and ours do not.

The SDK checks and copies every attribute, for the sampler and again for the span, though ours are made here: of the right
types, few, and once. A `FastSpan` takes them as they are. Attributes that are set later stay that cheap while the SDK's checks
would change nothing about them; from the first other one on, it is an ordinary SDK span.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from random import Random
from threading import Lock
from typing import Any, Self, TypeVar

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    get_current_span,
)
from opentelemetry.trace import TracerProvider as ApiProvider

from sage_fastapi_obs.request.random_ids import RandomPool

__all__ = ["NO_READERS", "FastSpan", "FastSpanFactory", "OwnRandomIds", "Processors", "Unsampled", "readers_of"]

_OF_THE_TRACER = frozenset(
    {"_resource", "_sampler", "_span_processor", "_instrumentation_scope", "_instrumentation_info", "_limits"}
)
"""Fields of the SDK's span that are the same for all spans of a tracer."""
_OF_THE_SPAN = frozenset({"_name", "_context", "_parent", "_start_time", "_end_time", "_attributes", "_lock"})
_DEFAULTS = frozenset({"_kind", "_events", "_links", "_status"})
_NOTHING: tuple[Any, ...] = ()
_NO_PARENT = Context()
_NO_STATE = INVALID_SPAN_CONTEXT.trace_state
_allocate = object.__new__
"""Makes a span without the SDK's `__new__`, which only refuses to make a plain `Span`."""
_new_context = tuple.__new__
"""Makes a span context, which is a tuple, of ids that need no check."""
MOST_ATTRIBUTES = 32
"""More than a server span of ours ever starts and ends with."""
LAST_ATTRIBUTES = 4
"""More than it ends with."""
_PLAIN = frozenset({str, bool, int, float})
"""Types of values that the SDK takes as they are."""

_LOW_64_BITS = (1 << 64) - 1
_ids: RandomPool[tuple[str, str]] = RandomPool(48, lambda digits: (digits[:32], digits[32:]))
"""Trace and span ids as they are written. Of 2^64 span ids one is invalid; asking again would cost more than it is worth."""


class Unsampled(NonRecordingSpan):
    """The span of a request that is not sampled: its context is made when somebody asks for it, which few do."""

    def __init__(self, trace_id: str, span_id: str, flags: TraceFlags) -> None:
        self._ids = trace_id, span_id, flags

    @cached_property
    def _context(self) -> SpanContext:  # type: ignore[override]
        trace_id, span_id, flags = self._ids
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=flags)


class FastSpan(SdkSpan):
    """A span that takes its first and last attributes unchecked.

    Made by `FastSpanFactory`, whose subclass for a tracer carries everything that is the same for all its spans.
    """

    _told: "Processors | _Whole"

    def begin(
        self, name: str, context: SpanContext, parent: SpanContext | None, started_ns: int, attributes: dict[str, Any]
    ) -> None:
        """Take the place of the SDK's constructor: what that would set besides is the same for all, and on the class."""
        self._name = name
        self._context = context
        self._parent = parent
        self._start_time = started_ns
        self._end_time = None
        self._attributes = attributes
        self._lock = Lock()

    def finish(self, started_as: str, name: str, attributes: Mapping[str, Any], ended_ns: int) -> None:
        """End the span, with its last attributes and its name, unless somebody has named it otherwise."""
        if self._name != started_as:
            name = self._name
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
        # An ended span takes no more writes, so that it may be handed on as it is.
        told = self._told
        for on_ending in told.ending:
            on_ending(self)
        for on_end in told.ended:
            on_end(self)

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute, checked as the SDK checks it."""
        if type(key) is not str or not self._take({key: value}):
            self._become_ordinary()
            super().set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes, checked as the SDK checks them."""
        if not self._take(attributes):
            self._become_ordinary()
            super().set_attributes(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event."""
        with self._lock:
            if self._events is _NOTHING:
                self._events = self._new_events()  # type: ignore[no-untyped-call]
        super().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link."""
        with self._lock:
            if self._links is _NOTHING:
                self._links = self._new_links(())
        super().add_link(context, attributes)

    def end(self, end_time: int | None = None) -> None:
        """End the span."""
        self._become_ordinary()
        super().end(end_time)

    def _take(self, attributes: Mapping[str, Any]) -> bool:
        """Take attributes as they are, unless the SDK might make something else of them, or of their number."""
        for key, value in attributes.items():
            if type(value) not in _PLAIN or type(key) is not str or not key:
                return False
        with self._lock:
            known = self._attributes
            if type(known) is not dict or self._end_time is not None:
                return False
            if len(known) + len(attributes) > MOST_ATTRIBUTES - LAST_ATTRIBUTES:
                return False
            # A new one, because others may be reading the old.
            self._attributes = {**known, **attributes}
        return True

    def _become_ordinary(self) -> None:
        with self._lock:
            if type(self._attributes) is not dict or self._end_time is not None:
                return
            limits = self._limits
            self._attributes = BoundedAttributes(
                limits.max_span_attributes, self._attributes, immutable=False, max_value_len=limits.max_span_attribute_length
            )


_Described = TypeVar("_Described")


class FastSpanFactory:
    """Opens lean spans of one kind, as one SDK tracer would open ordinary ones."""

    def __init__(self, tracer: SdkTracer, *, root_bound: int | None, kind: SpanKind = SpanKind.SERVER) -> None:
        """Build for a tracer that is supported; see `of`."""
        self._tracer = tracer
        self._kind = kind
        processor = tracer.span_processor
        self._told = processor if isinstance(processor, Processors) else _Whole(processor)
        self._root_bound = root_bound
        self._new_trace_id = tracer.id_generator.generate_trace_id
        self._new_span_id = tracer.id_generator.generate_span_id
        of_the_tracer = {
            "_resource": tracer.resource,
            "_sampler": tracer.sampler,
            "_span_processor": tracer.span_processor,
            "_instrumentation_scope": tracer._instrumentation_scope,  # noqa: SLF001 - read once, here
            "_instrumentation_info": tracer.instrumentation_info,
            "_limits": tracer._span_limits,  # noqa: SLF001 - read once, here
            "_told": self._told,
        }
        shared = {name: _kept(value) for name, value in vars(_pattern_span()).items() if name not in _OF_THE_SPAN}
        lean = {"_kind": kind, "_events": _NOTHING, "_links": _NOTHING}
        self._span: type[FastSpan] = type("FastSpan", (FastSpan,), {**shared, **of_the_tracer, **lean})
        # Newer SDKs pass on whether a trace id's bits are random; older ones know no such flag.
        self._random_mask = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
        makes_random_ids = getattr(tracer.id_generator, "is_trace_id_random", bool)()
        self._root_flags = self._random_mask if makes_random_ids else 0
        bound = 0 if root_bound is None else root_bound
        # As the lower half of a trace id is written; what all are below sorts after every digit.
        self._sampled_below = "g" if bound > _LOW_64_BITS else f"{bound:016x}"
        self._flags = [_flags(self._root_flags), _flags(self._root_flags | TraceFlags.SAMPLED)]

    @classmethod
    def of(cls, tracer: Tracer, *, root_bound: int | None = None, kind: SpanKind = SpanKind.SERVER) -> Self | None:
        """Build for a tracer, or return None when a `FastSpan` cannot stand for the spans it makes.

        `root_bound`: for a sampler known to follow the parent, and without one to sample the trace ids whose lower 64 bits
        are below this bound, as `ParentBased(TraceIdRatioBased(rate))` does; any other sampler is asked each time.
        """
        if not isinstance(tracer, SdkTracer) or not _is_supported(tracer):
            return None
        return cls(tracer, root_bound=root_bound, kind=kind)

    def start(
        self,
        name: str,
        parent_context: Context | None,
        links: Sequence[Link],
        started_ns: int,
        describe: Callable[[_Described], dict[str, Any]],
        described: _Described,
    ) -> tuple[Span, SpanContext]:
        """Open a span, and tell its context; `describe(described)` makes its attributes, when somebody is to read them."""
        parent: SpanContext | None = None
        if parent_context is None or parent_context:
            parent = get_current_span(parent_context).get_span_context()
            if parent is not None and not parent.is_valid:
                parent = None
        if self._root_bound is None or links:
            return self._start_asking(name, parent_context, parent, links, started_ns, describe(described))
        if parent is None:
            new_trace_id, new_span_id = self._new_trace_id, self._new_span_id
            trace_id = new_trace_id()
            sampled = trace_id & _LOW_64_BITS < self._root_bound
            context = _new_context(SpanContext, (trace_id, new_span_id(), False, self._flags[sampled], _NO_STATE, True))
        else:
            sampled = parent.trace_flags.sampled
            flags = _flags(parent.trace_flags & (self._random_mask | TraceFlags.SAMPLED))
            context = SpanContext(parent.trace_id, self._new_span_id(), False, flags, parent.trace_state)
        if not sampled:
            return NonRecordingSpan(context), context
        span = _allocate(self._span)
        span.begin(name, context, parent, started_ns, describe(described))
        for on_start in self._told.starting:
            on_start(span, parent_context)
        return span, context

    def start_root(
        self, name: str, started_ns: int, describe: Callable[[_Described], dict[str, Any]], described: _Described
    ) -> tuple[Span, str, str, bool]:
        """Open a span that begins a trace, where the sampler is known; tell its ids, and whether it is sampled."""
        try:
            trace_id, span_id = _ids.pop()
        except IndexError:
            trace_id, span_id = _ids.more()
        if trace_id[16:] >= self._sampled_below:
            return Unsampled(trace_id, span_id, self._flags[False]), trace_id, span_id, False
        numbers = int(trace_id, 16), int(span_id, 16)
        context = _new_context(SpanContext, (*numbers, False, self._flags[True], _NO_STATE, True))
        span = _allocate(self._span)
        span.begin(name, context, None, started_ns, describe(described))
        for on_start in self._told.starting:
            on_start(span, _NO_PARENT)
        return span, trace_id, span_id, True

    def _start_asking(
        self,
        name: str,
        parent_context: Context | None,
        parent: SpanContext | None,
        links: Sequence[Link],
        started_ns: int,
        attributes: dict[str, Any],
    ) -> tuple[Span, SpanContext]:
        """Open a span when the sampler has a say, which may want to see the attributes, and may change them."""
        tracer = self._tracer
        trace_id = self._new_trace_id() if parent is None else parent.trace_id
        flags = self._root_flags if parent is None else parent.trace_flags & self._random_mask
        result = tracer.sampler.should_sample(parent_context, trace_id, name, self._kind, attributes, links)
        decision = result.decision
        context = SpanContext(
            trace_id,
            self._new_span_id(),
            is_remote=False,
            trace_flags=_flags(flags | decision.is_sampled()),  # type: ignore[no-untyped-call]
            trace_state=result.trace_state,
        )
        if not decision.is_recording():  # type: ignore[no-untyped-call]
            return NonRecordingSpan(context), context
        span = _allocate(self._span)
        span.begin(name, context, parent, started_ns, dict(result.attributes or {}))
        if links:
            span._links = span._new_links(links)  # noqa: SLF001 - completes what the constructor was given
        for on_start in self._told.starting:
            on_start(span, parent_context)
        return span, context


_IDLE = frozenset(
    {
        *(kind.on_start for kind in (SpanProcessor, BatchSpanProcessor, SimpleSpanProcessor)),
        *(kind._on_ending for kind in (SpanProcessor, BatchSpanProcessor, SimpleSpanProcessor)),  # noqa: SLF001 - the SDK's own name
    }
)
"""Methods that do nothing."""


class Processors(SynchronousMultiSpanProcessor):
    """The processors of a provider, and what of them is called at each moment of a lean span; most only want it ended."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._adding = Lock()
        self.starting: tuple[Callable[..., None], ...] = ()
        self.ending: tuple[Callable[..., None], ...] = ()
        self.ended: tuple[Callable[..., None], ...] = ()

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Tell one more, after the others."""
        with self._adding:
            super().add_span_processor(span_processor)
            told = self._span_processors
            self.starting = _acting(one.on_start for one in told)
            self.ending = _acting(one._on_ending for one in told)  # noqa: SLF001 - as the SDK's own does
            self.ended = tuple(one.on_end for one in told)


NO_READERS: Any = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
"""Stands for a provider whose spans go nowhere."""
_UNKNOWN_READERS: Any = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
_UNKNOWN_READERS.add_span_processor(SpanProcessor())


def readers_of(provider: ApiProvider) -> Any:
    """Find what has the processors of a provider, in `_span_processors`: none while its spans go nowhere.

    A provider that is not the SDK's is taken to have some, unless it is the API's, which makes no spans.
    """
    if isinstance(provider, NoOpTracerProvider):
        return NO_READERS
    processor = getattr(provider, "_active_span_processor", None)
    return processor if isinstance(getattr(processor, "_span_processors", None), tuple) else _UNKNOWN_READERS


def _acting(methods: Iterable[Callable[..., None]]) -> tuple[Callable[..., None], ...]:
    return tuple(method for method in methods if getattr(method, "__func__", None) not in _IDLE)


class _Whole:
    """The processor of somebody else's provider, which is always told."""

    def __init__(self, processor: SpanProcessor) -> None:
        self.starting = (processor.on_start,)
        self.ending = (processor._on_ending,)  # noqa: SLF001 - as the SDK's span does
        self.ended = (processor.on_end,)


class OwnRandomIds(RandomIdGenerator):
    """Random ids from a generator of our own: the application may seed the shared one, and expects its numbers from it."""

    def __init__(self) -> None:
        generator = Random()  # noqa: S311 - these ids name things and keep no secret
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=generator.seed)
        # Of 2^64 span ids one is invalid; asking again for that one would cost more than it is worth.
        self.generate_trace_id = partial(generator.getrandbits, 128)  # type: ignore[method-assign]
        self.generate_span_id = partial(generator.getrandbits, 64)  # type: ignore[method-assign]


def _kept(value: Any) -> Any:
    """Make a value what it was on an instance: on a class, a function would become a method."""
    return staticmethod(value) if hasattr(type(value), "__get__") else value


def _flags(flags: int) -> TraceFlags:
    return TraceFlags(flags)


def _pattern_span() -> Span:
    """Make an SDK span that goes nowhere, to see which fields this version's constructor sets."""
    # With an empty resource: to find one out takes threads.
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False, resource=Resource.get_empty())
    return provider.get_tracer("pattern").start_span("pattern")


def _is_supported(tracer: SdkTracer) -> bool:
    """Tell whether a tracer is the SDK's own, of a version and with settings whose spans `FastSpan` can be."""
    if type(tracer) is not SdkTracer or not getattr(tracer, "_is_enabled", lambda: True)():
        return False
    if type(getattr(tracer, "_tracer_metrics", None)).__name__ not in ("NoneType", "NoOpTracerMetrics"):
        # The SDK counts its spans, and would miss these.
        return False
    limits = getattr(tracer, "_span_limits", None)
    most = getattr(limits, "max_span_attributes", MOST_ATTRIBUTES)
    if limits is None or limits.max_span_attribute_length is not None or (most is not None and most < MOST_ATTRIBUTES):
        return False
    made, asked = _new_context(SpanContext, (1, 2, False, _flags(0), _NO_STATE, True)), SpanContext(1, 2, is_remote=False)
    if tuple(made) != tuple(asked) or made.trace_state is not asked.trace_state:
        return False
    return set(vars(_pattern_span())) >= _OF_THE_SPAN | _OF_THE_TRACER | _DEFAULTS
