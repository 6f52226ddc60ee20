"""One call of something outside the process: an operation that is told once, by us or by OpenTelemetry's instrumentation."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics
from sage_fastapi_obs.request.exchange import current_exchange

__all__ = ["CALLS", "OTEL_SCOPE_PREFIX", "Call", "ClientSystem", "enable", "is_instrumented_by_otel"]

OTEL_SCOPE_PREFIX = "opentelemetry.instrumentation."
"""Where OpenTelemetry's instrumentations of clients live, and what the scopes of their spans are called."""
CALLS = RunMetrics(duration="dependency_call_duration_seconds", total="dependency_calls_total")
"""Those of dependencies that have none of their own."""


def _no_code(_: Exception) -> None:
    return None


class ClientSystem:
    """What is called, and what is told of it."""

    __slots__ = ("code_attribute", "code_of", "kind", "measures", "pack", "theirs")

    def __init__(
        self,
        client: str,
        measures: RunMetrics,
        *,
        kind: SpanKind = SpanKind.CLIENT,
        code_of: Callable[[Exception], str | None] = _no_code,
        code_attribute: str = "",
        pack: str = "dependencies",
    ) -> None:
        """Describe it.

        `client`: as OpenTelemetry's instrumentation of it is called. `code_of`: finds what the other side has answered in an
        exception, which is told as `code_attribute`, and as the error's type; else the exception's class is.
        """
        self.theirs = OTEL_SCOPE_PREFIX + client
        self.measures = measures
        self.kind = kind
        self.code_of = code_of
        self.code_attribute = code_attribute
        self.pack = pack


class Call(OperationRun):
    """One call, in a `with` block around it.

    It has no span where there is one already: by OpenTelemetry's instrumentation of the same client. Of an exception only the
    type is told, because the messages of databases and brokers quote what was sent to them.
    """

    __slots__ = ("_target",)

    def __init__(
        self,
        target: ClientSystem,
        name: str,
        labels: Mapping[str, str],
        attributes: Mapping[str, Any],
        *,
        theirs: bool = False,
    ) -> None:
        """Describe a call; `theirs`: whether somebody else's span will tell of it."""
        told = theirs or _is_told(target)
        super().__init__(None if told else name, target.kind, target.measures, labels, attributes, {})
        self._target = target
        enable(target.pack)

    def __enter__(self) -> Self:
        """Begin."""
        self.begin()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End; never keeps an exception."""
        self.over(error)

    @property
    def own_span(self) -> Span | None:
        """Its span; None where somebody else tells of it, or nobody."""
        return self._span

    def tell(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes to its span."""
        if self._span is not None:
            self._span.set_attributes(attributes)

    def over(self, error: BaseException | None) -> None:
        """End the call, with what it has raised."""
        if isinstance(error, Exception):
            code = self._target.code_of(error)
            self.fail(code or error)
            if code and self._target.code_attribute:
                self.tell({self._target.code_attribute: code})
            error = None
        self.end(error)


def enable(pack: str) -> None:
    """Switch a pack on: who watches a client wants its numbers, and need not say so twice."""
    observability = active_observability()
    if observability is not None and pack not in observability.instruments.packs:
        observability.instruments.enable(pack)


def is_instrumented_by_otel(function: Any) -> bool:
    """Tell whether OpenTelemetry's instrumentation is around a function."""
    while function is not None:
        wrapper = getattr(function, "_self_wrapper", None)
        while isinstance(wrapper, partial):
            wrapper = wrapper.func
        if str(getattr(wrapper, "__module__", "")).startswith(OTEL_SCOPE_PREFIX):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _is_told(target: ClientSystem) -> bool:
    exchange = current_exchange.get()
    if exchange is not None and exchange.excluded:
        # What is asked for the monitoring's sake, such as by health checks, has no trace to be part of.
        return True
    scope = getattr(trace.get_current_span(), "instrumentation_scope", None)
    return scope is not None and scope.name.startswith(target.theirs)
