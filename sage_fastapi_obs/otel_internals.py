"""All private attributes of OpenTelemetry's API and SDK that are read here. Checked with versions 1.30 and 1.45.

Where a version lacks one, OpenTelemetry's public functions and its own spans are used instead.
"""
# ruff: noqa: SLF001 - reading them is what this module is for

from collections.abc import Callable, Collection, Iterable, Mapping
from contextvars import ContextVar
from functools import cache, partial
from operator import attrgetter
from threading import Lock, RLock
from typing import Any, TypeAlias

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NoOpTracerProvider, SpanContext, SpanKind, TraceFlags, Tracer, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

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
"""The context variable behind OpenTelemetry's functions, whose own work a request would pay for."""

MOST_ATTRIBUTES = 32
"""Upper bound for the attributes of one of our spans."""
_LAST_ATTRIBUTES = 4
"""Upper bound for those that are added at its end."""
NO_STATE = trace.INVALID_SPAN_CONTEXT.trace_state
new_context = tuple.__new__
"""Makes a span context, which is a tuple, of ids that need no check."""
FLAGS = tuple(map(TraceFlags, range(256)))
SpanIds: TypeAlias = tuple[str, str, TraceFlags, TraceState]
"""The hex digits of trace and span id, with flags and state."""
ParentIds: TypeAlias = tuple[str, TraceFlags]
"""The hex digits of the id of a caller's span, and its flags; the trace and its state are those of the span below it."""
_PLAIN = frozenset({str, bool, int, float})
"""Types of values that the SDK takes as they are."""
_NONE_YET: tuple[Any, ...] = ()
_FIELDS_OF_THE_TRACER = frozenset(
    {"_resource", "_sampler", "_span_processor", "_instrumentation_scope", "_instrumentation_info", "_limits"}
)
"""Fields of the SDK's span that are the same for all spans of a tracer."""
_FIELDS_OF_A_SPAN = frozenset({"_name", "_context", "_parent", "_start_time", "_end_time", "_attributes", "_lock"})
_DEFAULTS = frozenset({"_kind", "_events", "_links", "_status"})
_METHODS = ("_new_events", "_new_links")


def processors_of(provider: trace.TracerProvider) -> Callable[[], Collection[object]]:
    """Return what lists the processors of a provider; the list is empty while its spans go nowhere.

    A provider that is not the SDK's is taken to have some, unless it is the API's, which makes no spans.
    """
    if isinstance(provider, NoOpTracerProvider):
        return tuple
    processor = getattr(provider, "_active_span_processor", None)
    if isinstance(getattr(processor, "_span_processors", None), tuple):
        return partial(attrgetter("_span_processors"), processor)
    return lambda: (provider,)


def remove_processor(provider: TracerProvider, processor: SpanProcessor) -> None:
    """Call a processor of a provider no more, which the SDK has no way for; where that cannot be done, leave it."""
    multi = getattr(provider, "_active_span_processor", None)
    if isinstance(multi, SplitProcessor):
        multi.remove_span_processor(processor)
    elif isinstance(found := getattr(multi, "_span_processors", None), tuple):
        # As the SDK adds one: a new tuple, so that a span that is just ending calls those that were there.
        multi._span_processors = tuple(one for one in found if one is not processor)  # type: ignore[union-attr]


def is_default_propagator(propagator: object) -> bool:
    """Tell whether a propagator is the one that a process has unless it sets another: W3C's trace context and baggage."""
    parts = getattr(propagator, "_propagators", ()) if type(propagator) is CompositePropagator else ()
    return [type(part) for part in parts] == [TraceContextTextMapPropagator, W3CBaggagePropagator]


def _on_ending(processor: Any) -> Callable[..., None] | None:
    """Return the method that the SDK calls before a span is closed for writes, since 1.28."""
    method: Callable[..., None] | None = getattr(processor, "_on_ending", None)
    return method


_SDK_PROCESSORS = (SpanProcessor, BatchSpanProcessor, SimpleSpanProcessor)
_IDLE = frozenset({*(kind.on_start for kind in _SDK_PROCESSORS), *map(_on_ending, _SDK_PROCESSORS)})
"""Methods that do nothing."""


def _acting(methods: Iterable[Callable[..., None] | None]) -> tuple[Callable[..., None], ...]:
    return tuple(method for method in methods if method is not None and getattr(method, "__func__", None) not in _IDLE)


class SplitProcessor(SynchronousMultiSpanProcessor):
    """The processors of a provider, and which of their methods a fast span has to call: most only act at the end of a span."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._adding = Lock()
        self._added: tuple[SpanProcessor, ...] = ()
        self.starting: tuple[Callable[..., None], ...] = ()
        self.ending: tuple[Callable[..., None], ...] = ()
        self.ended: tuple[Callable[..., None], ...] = ()
        self._gate: Callable[[Any], None] | None = None

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Call one more, after the others."""
        with self._adding:
            super().add_span_processor(span_processor)
            self._use((*self._added, span_processor))

    def remove_span_processor(self, span_processor: SpanProcessor) -> None:
        """Call one no more."""
        with self._adding:
            self._use(tuple(one for one in self._added if one is not span_processor))
            self._span_processors = self._added

    def _use(self, added: tuple[SpanProcessor, ...]) -> None:
        self._added = added
        self.starting = _acting(one.on_start for one in added)
        self.ending = _acting(map(_on_ending, added))
        if self._gate is None:
            self.ended = tuple(one.on_end for one in added)

    def hold_back(self, gate: Callable[[Any], None]) -> None:
        """Hand ended spans to a gate, which may `pass_on` them to the processors, at once or later."""
        self._gate = gate
        self.ended = (gate,)

    def on_end(self, span: Any) -> None:
        """Hand on a span that was made by the SDK."""
        for on_end in self.ended:
            on_end(span)

    def pass_on(self, span: Any) -> None:
        """Hand an ended span to the processors."""
        for processor in self._added:
            processor.on_end(span)


class _ForeignProcessor:
    """The processor of a provider that is not ours: all its methods are called."""

    def __init__(self, processor: SpanProcessor) -> None:
        self.starting = (processor.on_start,)
        self.ending = tuple(method for method in (_on_ending(processor),) if method is not None)
        self.ended = (processor.on_end,)


class _OnDemand:
    """A private attribute of the SDK's span that is made when it is first read; all threads get the same."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, span: Any, _: type | None = None) -> Any:
        return self if span is None else span.__dict__.setdefault(self._name, self._make(span))


UNCHECKED = RLock()
"""Held while the attributes of a fast span change unchecked: one for all, as few spans have need of their own."""


class FastSpan(SdkSpan):
    """An SDK span that takes its first and last attributes unchecked, which are made here: of the right types, few, and once.

    The SDK checks and copies each. Attributes that are set later stay that cheap while the SDK's checks would change nothing
    about them; from the first other one on, it is an ordinary SDK span. Its contexts and its lock are made when they are first
    asked for, which is rare: until it is exported, each object more is looked at by Python's collector, again and again.
    `fast_span_type` makes a subclass for a tracer, with everything that all its spans share.
    """

    callbacks: SplitProcessor | _ForeignProcessor
    is_fast = True
    """Asked for by name: `isinstance` is slow for types like the SDK's spans."""
    flags: TraceFlags
    _trace_digits: str | None = None
    """Of its trace id; None for a span that was started with its context."""
    _parent_digits: str | None = None

    def begin(
        self, name: str, context: SpanContext, parent: SpanContext | None, started_ns: int, attributes: dict[str, Any]
    ) -> None:
        """Set what the SDK's constructor would set, except for what all spans share."""
        self._name = name
        self._context = context
        self._parent = parent
        self.flags = context.trace_flags
        self._start_time = started_ns
        self._end_time = None
        self._attributes = attributes

    def begin_with_ids(
        self, name: str, ids: SpanIds, parent: ParentIds | None, started_ns: int, attributes: dict[str, Any]
    ) -> None:
        """Set the same for the span of a request, whose parent can only be a caller's."""
        self._name = name
        self._trace_digits, self._span_digits, self.flags, self._state = ids
        if parent is not None:
            self._parent_digits, self._parent_flags = parent
        self._start_time = started_ns
        self._end_time = None
        self._attributes = attributes

    @_OnDemand
    def _context(self) -> SpanContext:
        numbers = int(self._trace_digits or "", 16), int(self._span_digits, 16)
        return new_context(SpanContext, (*numbers, False, self.flags, self._state, True))

    @_OnDemand
    def _parent(self) -> SpanContext | None:
        if self._parent_digits is None:
            return None
        numbers = int(self._trace_digits or "", 16), int(self._parent_digits, 16)
        return new_context(SpanContext, (*numbers, True, self._parent_flags, self._state, True))

    _lock = _OnDemand(lambda _: Lock())

    @property
    def written_ids(self) -> tuple[str, str, TraceState, str | None] | None:
        """Hex digits of trace and span id, the state, and digits of the caller's span; None if only contexts are known."""
        trace_id = self._trace_digits
        return None if trace_id is None else (trace_id, self._span_digits, self._state, self._parent_digits)

    @property
    def has_remote_parent(self) -> bool:
        """Whether it is below a caller's span."""
        if self._trace_digits is not None:
            return self._parent_digits is not None
        return self._parent is not None and self._parent.is_remote

    def become_sampled(self) -> None:
        """Have it exported, although it was not to be."""
        flags = self.flags = FLAGS[self.flags | TraceFlags.SAMPLED]
        if self._trace_digits is None or "_context" in self.__dict__:
            self._context = _with_flags(self._context, flags)

    def begin_with_links(self, links: Iterable[trace.Link]) -> None:
        """Set the links that it starts with."""
        self._links = self._new_links(links)  # type: ignore[arg-type]

    def finish(self, started_as: str, name: str, attributes: Mapping[str, Any], ended_ns: int) -> None:
        """End the span, with its last attributes and its name, unless the application has renamed it."""
        if self._name != started_as:
            name = self._name
        if type(self._attributes) is not dict or len(attributes) > _LAST_ATTRIBUTES:
            self.update_name(name)
            self.set_attributes(attributes)
            self.end(ended_ns)
            return
        with UNCHECKED:
            if self._end_time is not None:
                return
            self._name = name
            self._attributes.update(attributes)
            self._end_time = ended_ns
        # An ended span takes no more writes, so that processors may get it itself.
        callbacks = self.callbacks
        for on_ending in callbacks.ending:
            on_ending(self)
        for on_end in callbacks.ended:
            on_end(self)

    @property
    def has_only_attributes(self) -> bool:
        """Whether it has no events and no links, and has dropped nothing."""
        return type(self._attributes) is dict and self._events is _NONE_YET and self._links is _NONE_YET

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute, checked as the SDK checks it."""
        if type(key) is not str or not self._take({key: value}):
            self.become_ordinary()
            super().set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes, checked as the SDK checks them."""
        if not self._take(attributes):
            self.become_ordinary()
            super().set_attributes(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event."""
        with self._lock:
            if self._events is _NONE_YET:
                self._events = self._new_events()  # type: ignore[no-untyped-call]
        super().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link."""
        with self._lock:
            if self._links is _NONE_YET:
                self._links = self._new_links(())
        super().add_link(context, attributes)

    def end(self, end_time: int | None = None) -> None:
        """End the span."""
        self.become_ordinary()
        super().end(end_time)

    def _take(self, attributes: Mapping[str, Any]) -> bool:
        """Take attributes as they are, unless the SDK might change them, or their number."""
        for key, value in attributes.items():
            if type(value) not in _PLAIN or type(key) is not str or not key:
                return False
        with UNCHECKED:
            known = self._attributes
            if type(known) is not dict or self._end_time is not None:
                return False
            if len(known) + len(attributes) > MOST_ATTRIBUTES - _LAST_ATTRIBUTES:
                return False
            # A new one, because others may be reading the old.
            self._attributes = {**known, **attributes}
        return True

    def become_ordinary(self) -> None:
        """Have the SDK check the attributes from now on, those it has included."""
        with UNCHECKED:
            if type(self._attributes) is not dict or self._end_time is not None:
                return
            limits = self._limits
            self._attributes = BoundedAttributes(
                limits.max_span_attributes, self._attributes, immutable=False, max_value_len=limits.max_span_attribute_length
            )


def is_fast(span: Any) -> bool:
    """Tell whether a span is a fast one."""
    return getattr(span, "is_fast", False)


def is_sampled(span: Any) -> bool:
    """Tell whether a span is to be exported."""
    flags = getattr(span, "flags", None)
    if flags is None:
        flags = 0 if span.context is None else span.context.trace_flags
    return bool(flags & TraceFlags.SAMPLED)


def mark_sampled(span: Any) -> None:
    """Set the flag of a span that was recorded without being sampled, before it is exported."""
    if is_fast(span):
        span.become_sampled()
    elif (context := span.context) is not None and not context.trace_flags & TraceFlags.SAMPLED:
        span._context = _with_flags(context, TraceFlags(context.trace_flags | TraceFlags.SAMPLED))


def _with_flags(context: SpanContext, flags: TraceFlags) -> SpanContext:
    return new_context(SpanContext, (*context[:3], flags, *context[4:]))


def fast_span_type(tracer: Tracer, kind: SpanKind) -> type[FastSpan] | None:
    """Make the type of the fast spans of a tracer; None for a tracer whose spans they could not replace."""
    if not isinstance(tracer, SdkTracer) or not _is_supported(tracer):
        return None
    processor = tracer.span_processor
    shared = {name: _class_value(value) for name, value in vars(_trial_span()).items() if name not in _FIELDS_OF_A_SPAN}
    of_the_tracer = {
        "_resource": tracer.resource,
        "_sampler": tracer.sampler,
        "_span_processor": processor,
        "_instrumentation_scope": tracer._instrumentation_scope,
        "_instrumentation_info": tracer.instrumentation_info,
        "_limits": tracer._span_limits,
        "callbacks": processor if isinstance(processor, SplitProcessor) else _ForeignProcessor(processor),
    }
    own = {"__module__": __name__, "_kind": kind, "_events": _NONE_YET, "_links": _NONE_YET}
    return type("FastSpan", (FastSpan,), {**shared, **of_the_tracer, **own})


def _is_supported(tracer: SdkTracer) -> bool:
    """Tell whether a tracer is the SDK's own, of a version and with settings whose spans `FastSpan` can replace."""
    if type(tracer) is not SdkTracer or not getattr(tracer, "_is_enabled", lambda: True)():
        return False
    if type(getattr(tracer, "_tracer_metrics", None)).__name__ not in ("NoneType", "NoOpTracerMetrics"):
        # The SDK counts its spans, and would miss these.
        return False
    limits = getattr(tracer, "_span_limits", None)
    most = getattr(limits, "max_span_attributes", MOST_ATTRIBUTES)
    if limits is None or limits.max_span_attribute_length is not None or (most is not None and most < MOST_ATTRIBUTES):
        return False
    made = new_context(SpanContext, (1, 2, False, TraceFlags(0), NO_STATE, True))
    expected = SpanContext(1, 2, is_remote=False)
    if tuple(made) != tuple(expected) or made.trace_state is not expected.trace_state:
        return False
    if not hasattr(tracer, "_instrumentation_scope") or not all(hasattr(SdkSpan, method) for method in _METHODS):
        return False
    return set(vars(_trial_span())) >= _FIELDS_OF_A_SPAN | _FIELDS_OF_THE_TRACER | _DEFAULTS


@cache
def _trial_span() -> trace.Span:
    """Make an SDK span that goes nowhere, to see which fields this version's constructor sets; one for the process."""
    # With an empty resource: to detect one takes threads.
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False, resource=Resource.get_empty())
    return provider.get_tracer("trial").start_span("trial")


def _class_value(value: Any) -> Any:
    """Return what a class has to have, so that its instances have this value: a function would become a method."""
    return staticmethod(value) if hasattr(type(value), "__get__") else value
