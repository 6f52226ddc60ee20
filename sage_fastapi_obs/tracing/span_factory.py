"""How our spans are started and ended: the SDK's way, or the fast one where the tracer allows it. Both make the same spans."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from sage_fastapi_obs.otel_internals import is_fast
from sage_fastapi_obs.tracing.fast_span import CallerIds, Describe, FastSpanFactory

_NO_PARENT = Context()


class SpanFactory(Protocol):
    """Starts the spans of one tracer, of one kind."""

    def start(
        self, name: str, parent_context: Context | None, links: Sequence[Link], started_ns: int, source: Any
    ) -> tuple[Span, SpanContext]:
        """Start a span; return it with its context.

        `parent_context`: None for the current one, an empty one for no parent. `started_ns`: Unix time. `source`: what its
        attributes are made from, if they are needed.
        """
        ...

    def start_root(self, name: str, started_ns: int, source: Any) -> tuple[Span, str, str, bool]:
        """Start a span that begins a trace; return it with its ids, and whether it is sampled."""
        ...

    def start_below(
        self, name: str, caller: CallerIds, parent_context: Context, started_ns: int, source: Any, *, is_sampled: bool
    ) -> tuple[Span, str, str, bool]:
        """Start a span below that of a caller, sampled or not; return it with its ids, and whether it is sampled."""
        ...


class SdkSpanFactory:
    """Starts spans with any tracer, through OpenTelemetry's API."""

    def __init__(self, tracer: Tracer, describe: Describe, kind: SpanKind = SpanKind.SERVER) -> None:
        self._tracer = tracer
        self._describe = describe
        self._kind = kind

    def start(
        self, name: str, parent_context: Context | None, links: Sequence[Link], started_ns: int, source: Any
    ) -> tuple[Span, SpanContext]:
        """Start a span."""
        span = self._tracer.start_span(name, parent_context, self._kind, self._describe(source), links, started_ns)
        return span, span.get_span_context()

    def start_root(self, name: str, started_ns: int, source: Any) -> tuple[Span, str, str, bool]:
        """Start a span that begins a trace; its ids are empty where there is no tracing."""
        span, context = self.start(name, _NO_PARENT, (), started_ns, source)
        if not context.is_valid:
            return span, "", "", False
        return span, f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled

    def start_below(
        self, name: str, caller: CallerIds, parent_context: Context, started_ns: int, source: Any, *, is_sampled: bool
    ) -> tuple[Span, str, str, bool]:
        """Start a span below that of a caller, whose flags say to the sampler whether it is sampled."""
        trace_id, parent_id, flags, state = caller
        flags = flags & ~TraceFlags.SAMPLED | is_sampled
        remote = SpanContext(int(trace_id, 16), int(parent_id, 16), True, TraceFlags(flags), state)
        parent_context = set_span_in_context(NonRecordingSpan(remote), parent_context)
        span, context = self.start(name, parent_context, (), started_ns, source)
        return span, f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled


def span_factory_of(
    tracer: Tracer,
    describe: Describe,
    *,
    root_bound: int | None = None,
    kind: SpanKind = SpanKind.SERVER,
    holds: bool = False,
) -> SpanFactory:
    """Choose the factory for a tracer; `describe`, `root_bound` and `holds` as for `FastSpanFactory.for_tracer`."""
    fast = FastSpanFactory.for_tracer(tracer, describe, root_bound=root_bound, kind=kind, holds=holds)
    return fast or SdkSpanFactory(tracer, describe, kind)


def finish_span(span: Any, started_as: str, name: str, attributes: Mapping[str, Any], ended_ns: int) -> None:
    """End a span of either factory with its last attributes and its name, unless the application has renamed it."""
    if is_fast(span):
        span.finish(started_as, name, attributes, ended_ns)
    elif span.is_recording():
        if getattr(span, "name", started_as) == started_as:
            span.update_name(name)
        span.set_attributes(attributes)
        span.end(ended_ns)
