"""`operation()`: a named piece of work, with a span, a duration, a count of outcomes, and fields on its log lines.

Calls of clients and the functions of packs are built on it.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry.trace import SpanKind

from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics
from sage_fastapi_obs.operations.wrap_callable import Work, around_calls
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.request.innermost_span import running

OPERATIONS = RunMetrics(duration="operation_duration_seconds", total="operations_total")
"""The metrics of `operation()`."""
UNMEASURED = RunMetrics()
"""No metrics: only a span."""
_NONE: Mapping[str, Any] = {}


class Operation:
    """A piece of work that is watched: for `with` and `async with`, or as a decorator of functions of every kind.

    An `Exception` is a failure. Cancellation and other ends of a program (`KeyboardInterrupt`) are neither failure nor
    success. A generator that is closed early is a success; its run lasts from its first value to its last, and its span is
    current only while its body runs. Exceptions pass unchanged. Internal errors are counted, and the work goes on.
    """

    __slots__ = ("_described", "_runs")
    run_type: type[OperationRun] = OperationRun
    """The class of its runs."""

    def __init__(
        self,
        name: str | None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        measures: RunMetrics = OPERATIONS,
        labels: Mapping[str, str] = _NONE,
        attributes: Mapping[str, Any] = _NONE,
        fields: Mapping[str, Any] = _NONE,
    ) -> None:
        """Describe the work.

        `name`: of the span; None for no span. `labels`: values for the labels of its metrics. `attributes`: of the span.
        `fields`: on every line that is written in it.
        """
        self._described = (name, kind, measures, labels, attributes, fields)
        self._runs: tuple[OperationRun, ...] = ()

    def __enter__(self) -> OperationRun:
        """Begin a run, and return it."""
        run = self._run()
        # More than one only by recursion, or where tasks share this object.
        self._runs = (*self._runs, run)
        run.begin()
        run.attach()
        return run

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End the run; never keeps an exception."""
        run = self._runs[-1] if len(self._runs) == 1 else self._innermost()
        self._runs = tuple([other for other in self._runs if other is not run])
        run.end(error)
        run.detach()

    async def __aenter__(self) -> OperationRun:
        """Begin a run, and return it."""
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the run; never keeps an exception."""
        self.__exit__(kind, error, traceback)

    def __call__(self, work: Work) -> Work:
        """Return the function, of the same kind, with each call as a run."""
        return around_calls(work, self._run, "an operation")

    def _run(self) -> OperationRun:
        return self.run_type(*self._described)

    def _innermost(self) -> OperationRun:
        """Return the run that ends when several are open: that of this context, else the last."""
        innermost = running()
        return next((run for run in self._runs if run is innermost), self._runs[-1])


def operation(name: str, /, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Any) -> Operation:
    """Name a piece of work.

    `with operation("charge", order_id=7) as run:`, `async with` the same, or `@operation("charge")` above a function: a span
    below the current one, `operation_duration_seconds` and `operations_total` by this name, and `operation` and the
    attributes as fields of every line written in it. The name is a label: one of few, without ids in it, cut to 128 characters
    that can be printed.
    """
    name = printable(name)
    fields = {**attributes, "operation": name}
    return Operation(name, kind=kind, labels={"operation": name}, attributes=attributes, fields=fields)
