"""`track_dependency`: calls of anything else that an application depends on."""

from typing import Any

from opentelemetry.trace import SpanKind

from sage_fastapi_obs.clients.client_call import CALLS, enable
from sage_fastapi_obs.clients.kafka.messages import PRODUCED
from sage_fastapi_obs.clients.redis import COMMANDS
from sage_fastapi_obs.clients.sql_calls import QUERIES
from sage_fastapi_obs.insight.call_notes import Callee
from sage_fastapi_obs.insight.calls import note_call
from sage_fastapi_obs.operations.operation import Operation
from sage_fastapi_obs.operations.operation_run import OperationRun, RunMetrics

_SYSTEMS_WITH_METRICS: dict[str, tuple[RunMetrics, str, str]] = {
    "redis": (COMMANDS, "command", "db.system.name"),
    "postgresql": (QUERIES, "operation", "db.system.name"),
    "kafka": (PRODUCED, "topic", "messaging.system"),
}
"""Systems with metrics of their own: those, the label that has the operation, and the attribute that has the system."""
_OTHER_NAMES = {"postgres": "postgresql", "pg": "postgresql"}


class _TrackedRun(OperationRun):
    """One call; its request waits for it."""

    __slots__ = ()

    def end(self, error: BaseException | None) -> None:
        """End it."""
        super().end(error)
        # Whether two queries of one kind are the same is not known.
        callee = Callee("database" if self._measures is QUERIES else "call", str(self._name), "")
        note_call(callee, self._started_ns, self.duration_us)


class _Tracked(Operation):
    """An operation that switches on the metrics of dependencies."""

    __slots__ = ()
    run_type = _TrackedRun

    def _run(self) -> OperationRun:
        enable("dependencies")
        return super()._run()


def track_dependency(system: str, operation: str, /, **attributes: Any) -> Operation:
    """Watch a call of something outside the process: as `with`, `async with` or a decorator, like `operation`.

    `with track_dependency("payments", "charge"):` is a CLIENT span, and counts in `dependency_calls_total` and
    `dependency_call_duration_seconds`. For `redis`, `postgresql` and `kafka`, where the operation is a command, one of
    `select`, `insert`, `update`, `delete` and `other`, or a topic, it counts in their own metrics. Both words are labels:
    few, without ids in them.
    """
    system = _OTHER_NAMES.get(system.lower(), system.lower() if system.lower() in _SYSTEMS_WITH_METRICS else system)
    measures, label, attribute = _SYSTEMS_WITH_METRICS.get(system, (CALLS, "operation", "peer.service"))
    return _Tracked(
        f"{system} {operation}",
        kind=SpanKind.PRODUCER if system == "kafka" else SpanKind.CLIENT,
        measures=measures,
        labels={"system": system, label: operation},
        attributes={attribute: system, **attributes},
    )
