"""A named piece of work: a span, a duration, a count of outcomes, and fields on the lines that are written in it.

Everything else of this kind, such as the calls of clients and the metrics of packs, is a thin name on it.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.trace import SpanKind

from sage_fastapi_obs.logs.context_fields import running
from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics
from sage_fastapi_obs.operations.wrap_callable import Work, around_calls
from sage_fastapi_obs.privacy.printable import printable

__all__ = ["OPERATIONS", "UNMEASURED", "Operation", "OperationRun", "RunMetrics", "operation"]

OPERATIONS = RunMetrics(duration="operation_duration_seconds", total="operations_total")
"""Those of any operation."""
UNMEASURED = RunMetrics()
"""None: a span alone."""
_NONE: Mapping[str, Any] = {}


class Operation:
    """A piece of work that is watched: for `with` and `async with`, or as a decorator of functions of every kind.

    An `Exception` is a failure. Cancellation, and what else ends programs rather than work (`KeyboardInterrupt`), is neither
    failure nor success. A generator that is closed early has done what was wanted of it; its run lasts from its first value
    to its last, and only while its body runs is the span current. Exceptions pass unchanged. Whatever fails in here is
    counted, and the work goes on.
    """

    __slots__ = ("_attributes", "_fields", "_kind", "_labels", "_measures", "_name", "_runs")
    run_type: type[OperationRun] = OperationRun
    """What a run of it is."""

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

        `name`: of the span; None where it is only measured. `labels`: values for the labels of its metrics. `attributes`: of
        the span. `fields`: on every line that is written in it.
        """
        self._name = name
        self._kind = kind
        self._measures = measures
        self._labels = labels
        self._attributes = attributes
        self._fields = fields
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
        return around_calls(work, lambda: _Watched(self._run()), "an operation")

    def _run(self) -> OperationRun:
        return self.run_type(self._name, self._kind, self._measures, self._labels, self._attributes, self._fields)

    def _innermost(self) -> OperationRun:
        """Find the run that ends where several of one object are open: that of this context, else the last."""
        innermost = running()
        return next((run for run in self._runs if run is innermost), self._runs[-1])


class _Watched:
    """One call of a decorated function, as a run."""

    __slots__ = ("_run",)

    def __init__(self, run: OperationRun) -> None:
        self._run = run

    def call(self) -> "_Call":
        return _Call(self._run)

    def iteration(self) -> "_Iteration":
        return _Iteration(self._run)

    def stretch(self) -> "_Stretch":
        return _Stretch(self._run)


class _Part(AbstractContextManager[None]):
    __slots__ = ("_run",)

    def __init__(self, run: OperationRun) -> None:
        self._run = run


class _Call(_Part):
    """A run that is current from its begin to its end."""

    __slots__ = ()

    def __enter__(self) -> None:
        self._run.begin()
        self._run.attach()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._run.end(error)
        self._run.detach()


class _Iteration(_Part):
    """A run that is current in stretches only."""

    __slots__ = ()

    def __enter__(self) -> None:
        self._run.begin()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._run.end(error)


class _Stretch(_Part):
    """One of these stretches."""

    __slots__ = ()

    def __enter__(self) -> None:
        self._run.attach()

    def __exit__(self, *_: object) -> None:
        self._run.detach()


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
