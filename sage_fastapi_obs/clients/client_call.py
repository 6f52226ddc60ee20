"""`Call`: one call of something outside the process, with one span, ours or that of OpenTelemetry's instrumentation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.insight.call_notes import Callee
from sage_fastapi_obs.insight.calls import note_call
from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics
from sage_fastapi_obs.privacy.exception_name import exception_name
from sage_fastapi_obs.request.exchange import current_exchange

OTEL_SCOPE_PREFIX = "opentelemetry.instrumentation."
"""How the modules of OpenTelemetry's instrumentations begin, and the scopes of their spans."""
CALLS = RunMetrics(duration="dependency_call_duration_seconds", total="dependency_calls_total")
"""The metrics of dependencies that have none of their own."""


def _no_code(_: Exception) -> None:
    return None


@dataclass(frozen=True, slots=True)
class ClientSystem:
    """The kind of system that is called, and its metrics."""

    otel_scope: str
    """OpenTelemetry's instrumentation of the client."""
    measures: RunMetrics
    kind: SpanKind = SpanKind.CLIENT
    code_of: Callable[[Exception], str | None] = _no_code
    """Finds the system's own code in an exception, which becomes the error's type; otherwise that is the exception's class."""
    code_attribute: str = ""
    """The attribute that has this code, too."""
    pack: str = "dependencies"


class Call(OperationRun):
    """One call, in a `with` block around it.

    It has no span if OpenTelemetry's instrumentation of the same client opens one. Of an exception only the type is recorded,
    because the messages of databases and brokers quote what was sent to them.
    """

    __slots__ = ("_callee", "_system")

    def __init__(
        self,
        system: ClientSystem,
        name: str,
        labels: Mapping[str, str],
        attributes: Mapping[str, Any],
        callee: Callee | None = None,
        *,
        otel_traced: bool = False,
    ) -> None:
        """Describe a call.

        `callee`: what a request waits for; None where it does not wait. `otel_traced`: whether OpenTelemetry's
        instrumentation opens a span inside of ours.
        """
        has_span = otel_traced or _has_span(system)
        super().__init__(None if has_span else name, system.kind, system.measures, labels, attributes, {})
        self._system = system
        self._callee = callee
        enable(system.pack)

    def __enter__(self) -> Self:
        """Begin."""
        self.begin()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End; never keeps an exception."""
        self.finish(error)

    @property
    def own_span(self) -> Span | None:
        """Its span; None if it has none, or OpenTelemetry's instrumentation has it."""
        return self._span

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes to its span."""
        if self._span is not None:
            self._span.set_attributes(attributes)

    def finish(self, error: BaseException | None) -> None:
        """End the call, with what it has raised."""
        if isinstance(error, Exception):
            code = self._system.code_of(error)
            self.fail(code or exception_name(error))
            if code and self._system.code_attribute:
                self.set_attributes({self._system.code_attribute: code})
            error = None
        self.end(error)
        if self._callee is not None:
            note_call(self._callee, self._started_ns, self.duration_us)


def enable(pack: str) -> None:
    """Switch a pack on: a watched client needs no setting for its metrics."""
    observability = active_observability()
    if observability is not None and pack not in observability.instruments.packs:
        observability.instruments.enable(pack)


def is_instrumented_by_otel(function: Any) -> bool:
    """Return whether OpenTelemetry's instrumentation is around a function."""
    while function is not None:
        wrapper = getattr(function, "_self_wrapper", None)
        while isinstance(wrapper, partial):
            wrapper = wrapper.func
        if str(getattr(wrapper, "__module__", "")).startswith(OTEL_SCOPE_PREFIX):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _has_span(system: ClientSystem) -> bool:
    exchange = current_exchange.get()
    if exchange is not None and exchange.excluded:
        # Requests for our own pages, such as health checks, have no trace.
        return True
    scope = getattr(trace.get_current_span(), "instrumentation_scope", None)
    return scope is not None and scope.name.startswith(system.otel_scope)
