"""The alert rules that come with the package: judged in process, and exported for Prometheus under names of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sage_fastapi_obs.alerting.expressions import Ratio, Stat, Values, View, number
from sage_fastapi_obs.alerting.notify import Notifiers
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Callback
from sage_fastapi_obs.alerting.sla import ServiceLevels
from sage_fastapi_obs.catalog import PACKS
from sage_fastapi_obs.pack_folders import pack_module

_above = partial(AlertRule, condition=AlertCondition.GREATER_THAN)
ERRORS = Ratio((Stat("http_requests_total", "rate", where={"status": "=~5.."}),), (Stat("http_requests_total", "rate"),))
"""Share of requests that are answered 5xx."""
HIGH_ERROR_RATE = _above(
    name="HighErrorRate",
    expression=ERRORS,
    threshold=0.05,
    for_seconds=300.0,
    severity="critical",
    annotations={"summary": "{{ $value | humanizePercentage }} of all requests fail"},
)
HIGH_RESPONSE_TIME = _above(
    name="HighResponseTime",
    expression=Stat("http_request_duration_seconds", "p95"),
    threshold=1.0,
    for_seconds=600.0,
    annotations={"summary": "one request in twenty takes longer than {{ $value | humanizeDuration }}"},
)
MANY_FAILURES = _above(
    name="high_error_rate",
    expression=Stat("result_failure_total", "increase"),
    threshold=50,
    annotations={"summary": "{{ $value }} operations have failed in 5 minutes"},
)
VERY_MANY_FAILURES = replace(MANY_FAILURES, name="critical_system_failure", threshold=100, severity="critical")
SLOW_RESULT_SECONDS = 5
SLOW_RESULT_P95 = Stat("result_duration_seconds", "p95", by=("operation",))
"""By operation: a thousand fast runs of one must not hide the slow ones of another."""
SLOW_RESULT = _above(
    name="slow_api_response",
    expression=replace(SLOW_RESULT_P95, scale=1000.0),
    metric_name="result_duration_ms",
    threshold=SLOW_RESULT_SECONDS * 1000,
    annotations={"summary": "one run in twenty of {{ $labels.operation }} takes longer than {{ $value }} ms"},
)
OPEN_BREAKER = AlertRule(
    name="circuit_breaker_activated",
    expression=Stat("circuit_breaker_status", "last", by=("name",)),
    condition=AlertCondition.EQUAL,
    threshold=1.0,
    severity="critical",
    annotations={"summary": "the circuit breaker {{ $labels.name }} is open"},
)
EXPORTED_NAMES = {
    "high_error_rate": "ResultHighErrorRate",
    "critical_system_failure": "ResultCriticalSystemFailure",
    "slow_api_response": "ResultSlowResponse",
    "circuit_breaker_activated": "CircuitBreakerOpen",
    "sla_violation": "SlaViolation",
}
"""What rules are called where they are exported, and so in their runbooks, if that differs."""


@dataclass(frozen=True, slots=True)
class SlaViolations:
    """How many of the service levels are violated."""

    levels: ServiceLevels
    minutes: float = 60.0

    @property
    def metric(self) -> str:
        """A name for the number of violations, as there are several metrics."""
        return "sla_violations"

    @property
    def by(self) -> tuple[str, ...]:
        """None: service levels are those of the whole service."""
        return ()

    def windows(self) -> tuple[float, ...]:
        """Return the length of the window."""
        return (self.minutes * 60,)

    def values(self, view: View, /) -> Values:
        """Count the violations."""
        return {(): (float(len(self.levels.with_view(view).compliance(self.minutes, as_prometheus=True).violations)),)}

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write each target as 0 or 1, and add them up."""
        seconds, targets = self.minutes * 60, self.levels.targets
        errors = ERRORS.with_window(seconds)
        failed, requests = (stat.promql(also_by)[0] for stat in (*errors.part, *errors.whole))
        p95, mean = (Stat("http_request_duration_seconds", one, seconds).promql(also_by)[0] for one in ("p95", "mean"))
        written = {
            "availability": f"(100 - 100 * {failed} / {requests}) < bool",
            "error_rate": f"(100 * {failed} / {requests}) > bool",
            "response_time_p95_ms": f"(1000 * {p95}) > bool",
            "response_time_mean_ms": f"(1000 * {mean}) > bool",
        }
        parts = [f"({text} {number(targets[name])} or vector(0))" for name, text in written.items() if name in targets]
        return (" + ".join(parts) or "vector(0)",)


def default_rules(notifiers: Notifiers, levels: ServiceLevels) -> list[AlertRule]:
    """Build the rules; each is silent as long as its metrics are not in use."""
    slack, oncall, incident = notifiers.send_slack_alert, notifiers.escalate_to_oncall, notifiers.notify_incident_team
    everybody = (notifiers.send_email_alert, slack, notifiers.create_incident_ticket)
    sla_violation = _above(
        name="sla_violation",
        expression=SlaViolations(levels),
        threshold=0,
        annotations={"summary": "{{ $value }} service levels were not kept in the last hour"},
    )
    return [
        _notifying(HIGH_ERROR_RATE, slack, resolved=slack),
        _notifying(HIGH_RESPONSE_TIME, slack, resolved=slack),
        _notifying(MANY_FAILURES, notifiers.send_slack_notification),
        _notifying(SLOW_RESULT, oncall, resolved=oncall),
        _notifying(VERY_MANY_FAILURES, *everybody),
        _notifying(OPEN_BREAKER, incident, resolved=incident),
        _notifying(sla_violation, notifiers.send_sla_violation_alert),
    ]


def pack_rules(packs: Iterable[str], notifiers: Notifiers) -> Iterator[AlertRule]:
    """Build the rules of packs, as far as their metrics are among those of these packs."""
    incident = notifiers.notify_incident_team
    metrics = {metric.name: metric.pack for pack in packs for metric in PACKS[pack]}
    for pack in dict.fromkeys(metrics.values()):
        for rule in getattr(pack_module(pack, "default_rules"), "RULES", ()):
            if rule.expression.metric in metrics:
                yield _notifying(rule, incident, resolved=incident)


def _notifying(rule: AlertRule, *callbacks: Callback, resolved: Callback | None = None) -> AlertRule:
    return replace(rule, callbacks=callbacks, resolved_callbacks=(resolved,) if resolved else ())
