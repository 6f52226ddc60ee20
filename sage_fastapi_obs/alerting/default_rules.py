"""The alert rules that come with the package."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sage_fastapi_obs.alerting.expressions import Values, View, number
from sage_fastapi_obs.alerting.notify import Notifiers
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Ratio, Stat
from sage_fastapi_obs.alerting.sla import ServiceLevels

__all__ = ["SlaViolations", "default_rules"]


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

    def values(self, _view: View, /) -> Values:
        """Count the violations."""
        return {(): (float(len(self.levels.compliance(self.minutes).violations)),)}

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write each target as 0 or 1, and add them up."""
        seconds, targets = self.minutes * 60, self.levels.targets
        failed, requests = (stat.promql(also_by)[0] for stat in _http_failures(seconds))
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
    return [*_http_rules(notifiers), *_result_rules(notifiers), _sla_rule(notifiers, levels)]


def _http_failures(window_seconds: float) -> tuple[Stat, Stat]:
    """Return the rate of failed requests, and of all."""
    failed = Stat("http_requests_total", "rate", window_seconds, {"status": "=~5.."})
    return failed, Stat("http_requests_total", "rate", window_seconds)


def _http_rules(notifiers: Notifiers) -> list[AlertRule]:
    failed, requests = _http_failures(300.0)
    rule = partial(
        AlertRule,
        condition=AlertCondition.GREATER_THAN,
        callbacks=(notifiers.send_slack_alert,),
        resolved_callbacks=(notifiers.send_slack_alert,),
    )
    return [
        rule(
            name="HighErrorRate",
            expression=Ratio((failed,), (requests,)),
            threshold=0.05,
            for_seconds=300.0,
            severity="critical",
            annotations={"summary": "{{ $value | humanizePercentage }} of all requests fail"},
        ),
        rule(
            name="HighResponseTime",
            expression=Stat("http_request_duration_seconds", "p95", 300.0),
            threshold=1.0,
            for_seconds=600.0,
            annotations={"summary": "one request in twenty takes longer than {{ $value | humanizeDuration }}"},
        ),
    ]


def _result_rules(notifiers: Notifiers) -> list[AlertRule]:
    failures = partial(
        AlertRule,
        expression=Stat("result_failure_total", "increase"),
        condition=AlertCondition.GREATER_THAN,
        annotations={"summary": "{{ $value }} operations have failed in 5 minutes"},
    )
    return [
        failures(name="high_error_rate", threshold=50, callbacks=(notifiers.send_slack_notification,)),
        AlertRule(
            name="slow_api_response",
            expression=Stat("result_duration_seconds", "p95", scale=1000.0),
            metric_name="result_duration_ms",
            condition=AlertCondition.GREATER_THAN,
            threshold=5000,
            annotations={"summary": "one operation in twenty takes longer than {{ $value }} ms"},
            callbacks=(notifiers.escalate_to_oncall,),
            resolved_callbacks=(notifiers.escalate_to_oncall,),
        ),
        failures(
            name="critical_system_failure",
            threshold=100,
            severity="critical",
            callbacks=(notifiers.send_email_alert, notifiers.send_slack_alert, notifiers.create_incident_ticket),
        ),
        AlertRule(
            name="circuit_breaker_activated",
            expression=Stat("circuit_breaker_status", "last", by=("name",)),
            condition=AlertCondition.EQUAL,
            threshold=1.0,
            severity="critical",
            annotations={"summary": "the circuit breaker {{ $labels.name }} is open"},
            callbacks=(notifiers.notify_incident_team,),
            resolved_callbacks=(notifiers.notify_incident_team,),
        ),
    ]


def _sla_rule(notifiers: Notifiers, levels: ServiceLevels) -> AlertRule:
    return AlertRule(
        name="sla_violation",
        expression=SlaViolations(levels),
        condition=AlertCondition.GREATER_THAN,
        threshold=0,
        annotations={"summary": "{{ $value }} service levels were not kept in the last hour"},
        callbacks=(notifiers.send_sla_violation_alert,),
    )
