"""Spans of requests that are not sampled: held until the end of the request says whether it is kept.

Only spans of our own provider can wait so: it records them all the same, unsampled, and they get the flag once they are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sage_fastapi_obs.otel_internals import (
    FLAGS,
    FastSpan,
    ParentIds,
    SpanIds,
    SplitProcessor,
    is_sampled,
    mark_sampled,
    new_context,
)
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.retention_reasons import NOT_KEPT

_SAMPLED = TraceFlags.SAMPLED
_MOST_ATTRIBUTES = 128
"""As many as the SDK keeps by default."""
_NOTHING_SET: dict[str, Any] = {}


def holding_exchange() -> Exchange | None:
    """Return the exchange of the running code, if spans of it are held or kept."""
    exchange = current_exchange.get()
    return None if exchange is None or exchange.kept == NOT_KEPT or exchange.excluded else exchange


class SpanStart(Protocol):
    """Starts a span whose ids are given."""

    def __call__(
        self,
        name: str,
        ids: SpanIds,
        parent: ParentIds | None,
        started_ns: int,
        source: Any,
        parent_context: Context,
        /,
    ) -> FastSpan:
        """Start it."""
        ...


class HeldSpan(Span):
    """Stands for the server span of a request that is not sampled, while it is not known whether it is kept.

    Its attributes are made only if it is, or where the application wants more of its span than to set attributes.
    """

    kind = SpanKind.SERVER
    _span: FastSpan | None = None
    _context: SpanContext | None = None
    _attributes = _NOTHING_SET
    """Those that the application has set."""

    def __init__(
        self,
        start: SpanStart,
        name: str,
        ids: SpanIds,
        parent: ParentIds | None,
        started_ns: int,
        source: Any,
        parent_context: Context,
    ) -> None:
        self._start = start
        self._name = name
        self._ids = ids
        self._parent = parent
        self._started_ns = started_ns
        self._source = source
        """What the attributes are made from; None once the span is there, or will never be."""
        self._parent_context = parent_context

    def keep(self) -> FastSpan:
        """Return the span itself, sampled, to be ended."""
        span = self._realized()
        mark_sampled(span)
        trace_id, span_id, flags, state = self._ids
        self._ids, self._context = (trace_id, span_id, FLAGS[flags | _SAMPLED], state), None
        return span

    def drop(self) -> None:
        """Forget it: what is set from now on goes nowhere."""
        self._source, self._attributes = None, _NOTHING_SET
        self._span = None

    def get_span_context(self) -> SpanContext:
        """Return ids and flags; made when they are first asked for, which is rare."""
        context = self._context
        if context is None:
            trace_id, span_id, flags, state = self._ids
            context = new_context(SpanContext, (int(trace_id, 16), int(span_id, 16), False, flags, state, True))
            self._context = context
        return context

    @property
    def name(self) -> str:
        """The name it has now."""
        return self._name if self._span is None else self._span.name

    @property
    def parent(self) -> SpanContext | None:
        """The caller's span."""
        if self._parent is None:
            return None
        trace_id, _, _, state = self._ids
        parent_id, flags = self._parent
        return new_context(SpanContext, (int(trace_id, 16), int(parent_id, 16), True, flags, state, True))

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Those that the application has set, or all once the span is there."""
        return self._attributes if self._span is None else self._span.attributes or {}

    @property
    def status(self) -> Status:
        """The status set so far."""
        return Status() if self._span is None else self._span.status

    def is_recording(self) -> bool:
        """Tell whether it takes anything: until it is dropped, or has ended."""
        return self._source is not None if self._span is None else self._span.is_recording()

    def set_attribute(self, key: str, value: Any) -> None:
        """Keep an attribute for the case that the span is kept."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Keep attributes for the case that the span is kept."""
        if self._span is not None:
            self._span.set_attributes(attributes)
        elif self._source is not None and len(self._attributes) + len(attributes) <= _MOST_ATTRIBUTES:
            # Copied: the application may go on changing its lists.
            copied = {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}
            self._attributes = {**self._attributes, **copied}
        elif self._source is not None:
            self._realized().set_attributes(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event."""
        if self.is_recording():
            self._realized().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link."""
        if self.is_recording():
            self._realized().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """Rename it."""
        if self.is_recording():
            self._realized().update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status."""
        if self.is_recording():
            self._realized().set_status(status, description)

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """Add an event about an exception."""
        if self.is_recording():
            self._realized().record_exception(exception, attributes, timestamp, escaped)

    def end(self, end_time: int | None = None) -> None:
        """End it early, as the application wants."""
        if self.is_recording():
            self._realized().end(end_time)

    def _realized(self) -> FastSpan:
        """Start the span that this one stands for, as if it had been there all the time."""
        if self._span is None:
            started_ns, source = self._started_ns, self._source
            self._span = self._start(self._name, self._ids, self._parent, started_ns, source, self._parent_context)
            attributes, self._source, self._attributes = self._attributes, None, _NOTHING_SET
            if attributes:
                self._span.set_attributes(attributes)
        return self._span


class OutcomeSampler(Sampler):
    """Has spans inside a request recorded that another sampler drops, so that they are there if the request is kept."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide as the other sampler does, and record what it drops inside a request."""
        result = self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is not Decision.DROP or holding_exchange() is None:
            return result
        return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)

    def get_description(self) -> str:
        """Return its name."""
        return f"OutcomeSampler{{{self._sampler.get_description()}}}"


class SpanGate:
    """Stands before the processors of a provider: what is sampled or kept passes, what is undecided waits."""

    def __init__(self, observer: object, processor: SplitProcessor, lost: Callable[[], None], *, collects: bool) -> None:
        """`lost` counts a span for which an exchange has no room. `collects`: whether the store wants those that pass."""
        self._observer = observer
        self._processor = processor
        self._lost = lost
        self._collects = collects
        processor.hold_back(self.on_end)

    def on_end(self, span: Any) -> None:
        """Let a span pass, hold it, or drop it."""
        exchange = holding_exchange()
        if exchange is None or exchange.observer is not self._observer:
            if is_sampled(span):
                self._processor.pass_on(span)
            return
        passes = is_sampled(span)
        if exchange.is_kept and not passes:
            mark_sampled(span)
            passes = True
        if (self._collects or not passes) and not _is_of(exchange, span) and not exchange.own_story.add_span(span):
            self._lost()
        if passes:
            self._processor.pass_on(span)

    def release(self, exchange: Exchange) -> None:
        """Let the spans pass that an exchange has held, as it is kept."""
        story = exchange.story
        if story is None:
            return
        for span in [*story.spans]:
            if not is_sampled(span):
                mark_sampled(span)
                self._processor.pass_on(span)
        if not self._collects:
            exchange.story = None


def _is_of(exchange: Exchange, span: Any) -> bool:
    """Tell whether a span is the one of the request itself; the SDK hands over a copy of those that it ends its own way."""
    own = exchange.span
    return span is own or span.context.span_id == own.get_span_context().span_id
