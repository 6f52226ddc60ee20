"""One run of an operation, from begin to end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from sage_fastapi_obs.active import ActiveObservability, active_observability, count_internal_error
from sage_fastapi_obs.catalog import OVERFLOW
from sage_fastapi_obs.metrics.instruments import Instruments
from sage_fastapi_obs.otel_internals import SPAN, attach, get_current
from sage_fastapi_obs.privacy.exception_leaves import exception_leaves
from sage_fastapi_obs.privacy.exception_name import exception_name
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.request.innermost_span import RUNNING, innermost_context, innermost_span

Outcome = Literal["success", "failure", "cancelled"]
_COMPONENT = "operation"
"""The `component` of failures in here."""


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The metrics of one kind of run, by their names in the catalog; those of packs that are off do not change.

    Labels come from those of the run. `status` is its outcome, unless the run has a status of its own; `error_type` is
    why it failed.
    """

    started: str | None = None
    """A counter of runs that began."""
    duration: str | None = None
    """A histogram of seconds, however they ended."""
    total: str | None = None
    """A counter of runs that ended; cancelled ones count only if its `status` has that value, or if it has no `status`."""
    errors: str | None = None
    """A counter of runs that failed."""
    error_type: Callable[[BaseException], str] = exception_name
    """How an exception is called in labels."""


class OperationRun:
    """A run of a piece of work: what `with operation(…) as run` gives."""

    __slots__ = (
        "_attributes",
        "_context",
        "_failure",
        "_kind",
        "_measures",
        "_name",
        "_observability",
        "_parent",
        "_span",
        "_started_ns",
        "_wall_ns",
        "duration_us",
        "error_type",
        "fields",
        "labels",
        "outcome",
        "unread",
    )

    def __init__(
        self,
        name: str | None,
        kind: SpanKind,
        measures: RunMetrics,
        labels: Mapping[str, str],
        attributes: Mapping[str, Any],
        fields: Mapping[str, Any],
    ) -> None:
        self._name = name
        self._kind = kind
        self._measures = measures
        self._attributes = attributes
        self.labels = {**labels}
        """Values for the labels of its metrics; may be changed until the end."""
        self.fields = {**fields}
        """On every line that is written in it; those of inner runs are stronger."""
        self.outcome: Outcome | None = None
        """How it ended; None while it runs."""
        self.error_type: str | None = None
        """Why it failed, in few distinct words; None when it did not."""
        self.duration_us = 0
        """How long it took; 0 while it runs."""
        self._failure: BaseException | None = None
        """The exception that it was marked with as failed."""
        self._observability: ActiveObservability | None = None
        self._span: Span | None = None
        self.unread: Span | None = None
        """Its span if it is not exported, and therefore not made current."""
        self._parent: Context | None = None
        self._context: Context | None = None
        self._started_ns = self._wall_ns = 0

    @property
    def span(self) -> Span:
        """Its span; where it has none (an unsampled request, no tracing), the current one."""
        return innermost_span() if self._span is None else self._span

    @property
    def duration_seconds(self) -> float:
        """How long it took; 0 while it runs."""
        return self.duration_us / 1_000_000

    def set(self, **attributes: Any) -> Self:
        """Add attributes to the span, and fields of the same names to the lines that follow."""
        self.fields.update(attributes)
        if self._span is not None:
            self._add_to_span(self._span.set_attributes, attributes)
        return self

    def event(self, name: str, /, **attributes: Any) -> Self:
        """Add an event to the span."""
        span = self._span
        if span is not None:
            self._add_to_span(lambda sanitized: span.add_event(printable(name), sanitized), attributes)
        return self

    def fail(self, error: BaseException | str) -> Self:
        """Mark it as failed although no exception leaves it; a text is the error's type, and an exception is on the span."""
        self.outcome = "failure"
        try:
            self._failure = error if isinstance(error, BaseException) else None
            self.error_type = printable(error) if isinstance(error, str) else self._measures.error_type(error)
        except Exception as fault:
            self.error_type = OVERFLOW
            count_internal_error(_COMPONENT, fault, self._observability)
        return self

    def begin(self) -> None:
        """Open the span, and start the clock."""
        observability = self._observability = active_observability()
        if observability is None:
            return
        try:
            if self._measures.started is not None:
                self._count_start(observability.instruments)
            if self._name is not None:
                self._open(observability, self._name)
        except Exception as error:
            count_internal_error(_COMPONENT, error, observability)
        try:
            # Last, so that our own work is not measured.
            self._started_ns = observability.clock()
        except Exception as error:
            count_internal_error(_COMPONENT, error, observability)

    def end(self, error: BaseException | None) -> None:
        """Set outcome and duration, change the metrics, end the span; `error`: the exception that left the run."""
        observability = self._observability
        if observability is None:
            return
        for step in (self._decide, self._measure, self._close):
            try:
                step(observability, error)
            except Exception as failure:
                count_internal_error(_COMPONENT, failure, observability)
        self._observability = self._span = None

    def attach(self) -> None:
        """Become the innermost run of the context that we are in."""
        if self._observability is None or self._name is None:
            return
        parent = self._parent = get_current()
        outer = parent.get(RUNNING)
        if outer is not None:
            self.fields = {**outer.fields, **self.fields}
        own = {RUNNING: self} if self._span is self.unread else {RUNNING: self, SPAN: self._span}
        self._context = Context({**parent, **own})
        attach(self._context)

    def detach(self) -> None:
        """Restore the outer context, in whatever order runs end.

        Without a token: a token belongs to one context, and generators are resumed in others.
        """
        context, self._context = self._context, None
        if context is None or get_current() is not context:
            return
        parent: Any = self._parent
        while (outer := parent.get(RUNNING)) is not None and not outer.attached:
            # The outer run has ended before this one.
            parent = outer.outer_context
        attach(parent)

    @property
    def attached(self) -> bool:
        """Whether a context has it as its innermost run, or as one outside of that."""
        return self._context is not None

    @property
    def outer_context(self) -> Context:
        """The context in which it was attached."""
        return Context() if self._parent is None else self._parent

    def measure(self, instruments: Instruments) -> None:
        """Change its metrics at the end; subclasses in packs change more."""
        self.measure_as(self._measures, instruments)

    def measure_as(self, measures: RunMetrics, instruments: Instruments) -> None:
        """Change some metrics by its outcome, duration and labels."""
        labels, wanted = self.labels, instruments.get_or_warn
        status = labels.setdefault("status", self.outcome or "success")
        duration, total = wanted(measures.duration), wanted(measures.total)
        if duration is not None:
            instruments.observe(duration, duration.with_labels(labels), self.duration_us / 1_000_000, self._span)
        if total is not None and (status != "cancelled" or status in total.metric.labels.get("status", (status,))):
            total.with_labels(labels).inc()
        if self.outcome == "failure" and (errors := wanted(measures.errors)) is not None:
            labels.setdefault("error_type", self.error_type or OVERFLOW)
            errors.with_labels(labels).inc()

    def _count_start(self, instruments: Instruments) -> None:
        instrument = instruments.get_or_warn(self._measures.started)
        if instrument is not None:
            instrument.with_labels(self.labels).inc()

    def _open(self, observability: ActiveObservability, name: str) -> None:
        children = observability.children
        if children is not None:
            parent = innermost_context(current_exchange.get())
            current: Any = parent.get(SPAN)
            self._wall_ns = observability.wall_clock()
            self._span = children.open(name, self._kind, self._attributes, parent, current, self._wall_ns)
            self.unread = None if children.read else self._span

    def _decide(self, observability: ActiveObservability, error: BaseException | None) -> None:
        if self.outcome is None:
            self.outcome = _outcome_of(error)
        self.duration_us = max(0, (observability.clock() - self._started_ns + 500) // 1_000)
        if self.outcome == "failure" and error is not None and self.error_type is None:
            # The value for the case that the next line raises.
            self.error_type = OVERFLOW
            self.error_type = self._measures.error_type(error)

    def _measure(self, observability: ActiveObservability, _: BaseException | None) -> None:
        self.measure(observability.instruments)

    def _close(self, observability: ActiveObservability, error: BaseException | None) -> None:
        span, children = self._span, observability.children
        if span is None:
            return
        failure = self._failure if error is None else error
        ended_ns = self._wall_ns + self.duration_us * 1_000
        if children is None:
            # The Observability was closed meanwhile: nothing exports this span.
            span.end(ended_ns)
        elif self.outcome == "failure":
            children.end(span, failure, self.error_type if failure is None else exception_name(failure), ended_ns)
        else:
            children.end(span, None, None, ended_ns)

    def _add_to_span(self, add: Callable[[dict[str, Any]], None], attributes: Mapping[str, Any]) -> None:
        observability = self._observability
        if observability is None or observability.children is None:
            return
        try:
            add(observability.children.sanitized(attributes))
        except Exception as error:
            count_internal_error(_COMPONENT, error, observability)


def _outcome_of(error: BaseException | None) -> Outcome:
    # By type: `isinstance` asks an exception for its class, and that may fail.
    if error is None or issubclass(type(error), GeneratorExit):
        return "success"
    return "failure" if any(issubclass(type(leaf), Exception) for leaf in exception_leaves(error)) else "cancelled"
