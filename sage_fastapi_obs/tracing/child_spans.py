"""Spans below the current one, in a request or outside of any."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import ReferenceType, ref

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode

from sage_fastapi_obs.privacy.exception_text import exception_event
from sage_fastapi_obs.privacy.printable import LONGEST, printable
from sage_fastapi_obs.privacy.quoted_data import exception_text
from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction
from sage_fastapi_obs.tracing.span_factory import finish_span, span_factory_of

_MOST_ITEMS = 64
"""Items of a list that is an attribute."""
_INTEGERS = range(-(1 << 63), 1 << 63)
"""What exporters can write as a number."""


class CachedAttributes(dict[str, Any]):
    """Constant attributes of many spans: they are sanitized once."""

    __slots__ = ("_sanitized",)

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__(attributes)
        # Weak, because these often live longer than an `Observability`.
        self._sanitized: tuple[ReferenceType[ChildSpans], dict[str, Any]] | None = None

    def sanitized_by(self, spans: "ChildSpans") -> dict[str, Any]:
        """Return them sanitized by the settings of `spans`."""
        known = self._sanitized
        if known is None or known[0]() is not spans:
            known = self._sanitized = ref(spans), spans.sanitized(self)
        return known[1]


class ChildSpans:
    """Starts and ends spans of one tracer, with sanitized attributes."""

    def __init__(
        self,
        tracer: trace.Tracer,
        redaction: Redaction,
        *,
        processors: Callable[[], Collection[object]],
        root_bound: int | None,
        holds: bool = False,
    ) -> None:
        """`processors`: of the tracer's provider, see `processors_of`. The others as for `FastSpanFactory.for_tracer`."""
        self._processors = processors
        self._redaction = redaction
        self._factories = {
            kind: span_factory_of(tracer, dict, root_bound=root_bound, kind=kind, holds=holds) for kind in SpanKind
        }
        self._follows_parent = _follows_parent(getattr(tracer, "sampler", None))
        # Names are few, and the same for every span.
        self._short_name = lru_cache(maxsize=4096)(self._sanitized_name)

    @property
    def read(self) -> bool:
        """Whether anybody reads these spans, which may change at any time."""
        return bool(self._processors())

    def open(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Any], parent: Context, current: Span | None, started_ns: int
    ) -> Span | None:
        """Start a span below that of a context; None below an unsampled one.

        `current`: the span of `parent`, or None. `started_ns`: Unix time.
        """
        if current is not None and self._follows_parent and not current.is_recording():
            context = current.get_span_context()
            if context.is_valid and not context.trace_flags.sampled:
                return None
        name = printable(name)
        sanitized = attributes.sanitized_by(self) if type(attributes) is CachedAttributes else self.sanitized(attributes)
        span, _ = self._factories[kind].start(name, parent, (), started_ns, sanitized)
        return span

    def end(self, span: Span, error: BaseException | None, error_type: str | None, ended_ns: int) -> None:
        """End a span; `error_type`: why it failed, None if it did not."""
        attributes: dict[str, Any] = {}
        if error_type is not None:
            attributes["error.type"] = printable(error_type)
            mark_failed(span, error, self._redaction, ended_ns)
        name = getattr(span, "name", "")
        finish_span(span, name, name, attributes, ended_ns)

    def sanitized(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes without secrets and None, of bounded length, and of types that exporters know."""
        return {
            self._short_name(name) if len(name) <= LONGEST else self._sanitized_name(name): self._value(name, value)
            for name, value in attributes.items()
            if value is not None
        }

    def _sanitized_name(self, name: str) -> str:
        return printable(name if self._redaction.is_plain_name(name) else self._redaction.readable(name))

    def _value(self, name: str, value: Any) -> Any:
        hides = self._redaction.hides
        if hides(name) or ("." in name and hides(name.rpartition(".")[2])):
            return REDACTED
        kind = type(value)
        if kind is str:
            return self._redaction.readable(value)
        if kind is bool or kind is float:
            return value
        return self._number(value) if kind is int else self._other(value)

    def _number(self, value: int) -> int | str:
        # Python refuses to write numbers of some thousand digits.
        return self._redaction.number(value) if value in _INTEGERS else self._text(value)[:_MOST_ITEMS]

    def _other(self, value: Any) -> Any:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
            items = list(value[:_MOST_ITEMS])
            # OpenTelemetry has lists of one type only.
            alike = len({*map(type, items)}) == 1 and type(items[0]) in (str, bool, int, float)
            return tuple([self._value("", item if alike else self._text(item)) for item in items])
        return self._text(value)

    def _text(self, value: Any) -> str:
        if isinstance(value, bytes | bytearray | memoryview):
            return f"{len(value)} bytes"
        try:
            if isinstance(value, BaseException):
                return self._redaction.readable(exception_text(value))
            return self._redaction.readable(str.__str__(value) if isinstance(value, str) else str(value))
        except Exception:
            return f"<{type(value).__name__}>"


def mark_failed(span: Span, error: BaseException | None, redaction: Redaction, at_ns: int) -> None:
    """Set the status of a failed span, and add an event for the exception if there is one, at a Unix time."""
    status = getattr(span, "status", None)
    if status is None or status.status_code is not StatusCode.ERROR:
        # A status that the application has set keeps its description.
        span.set_status(StatusCode.ERROR)
    if error is not None:
        # Not `record_exception`, which does not redact the message and the stack.
        span.add_event("exception", exception_event(error, redaction), at_ns)


def _follows_parent(sampler: Sampler | None) -> bool:
    """Tell whether a sampler never samples a span below an unsampled one."""
    if not isinstance(sampler, ParentBased):
        return False
    unsampled = NonRecordingSpan(SpanContext(1, 1, is_remote=False))
    decision = sampler.should_sample(trace.set_span_in_context(unsampled, Context()), 1, "").decision
    return not decision.is_recording()  # type: ignore[no-untyped-call]
