"""The alert rules that come with the package."""

from collections.abc import Sequence
from dataclasses import dataclass

from sage_fastapi_obs.alerting.expressions import Values, View, number
from sage_fastapi_obs.alerting.notify import Notifiers
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Ratio, Stat
from sage_fastapi_obs.alerting.sla import ServiceLevels

__all__ = ["SlaViolations", "default_rules"]

_MORE = AlertCondition.GREATER_THAN


@dataclass(frozen=True, slots=True)
class SlaViolations:
    """How many of the service levels are violated."""

    levels: ServiceLevels
    minutes: float = 60.0

    @property
    def metric(self) -> str:
        """Several, so none by name."""
        return "sla_violations"

    @property
    def by(self) -> tuple[str, ...]:
        """Return no labels: the service has kept its promises, or has not."""
        return ()

    def windows(self) -> tuple[float, ...]:
        """Return the length of the window."""
        return (self.minutes * 60,)

    def values(self, _view: View, /) -> Values:
        """Count the violations."""
        return {(): (float(len(self.levels.compliance(self.minutes).violations)),)}

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Add up what is violated, each target as 0 or 1."""
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
    """Return the figures of failed requests, and of all."""
    failed = Stat("http_requests_total", "rate", window_seconds, {"status": "=~5.."})
    return failed, Stat("http_requests_total", "rate", window_seconds)


def _http_rules(notifiers: Notifiers) -> list[AlertRule]:
    failed, requests = _http_failures(300.0)
    return [
        AlertRule(
            name="HighErrorRate",
            expression=Ratio((failed,), (requests,)),
            condition=_MORE,
            threshold=0.05,
            for_seconds=300.0,
            severity="critical",
            annotations={"summary": "{{ $value | humanizePercentage }} of all requests fail"},
            callbacks=(notifiers.send_slack_alert,),
            resolved_callbacks=(notifiers.send_slack_alert,),
        ),
        AlertRule(
            name="HighResponseTime",
            expression=Stat("http_request_duration_seconds", "p95", 300.0),
            condition=_MORE,
            threshold=1.0,
            for_seconds=600.0,
            annotations={"summary": "one request in twenty takes longer than {{ $value | humanizeDuration }}"},
            callbacks=(notifiers.send_slack_alert,),
            resolved_callbacks=(notifiers.send_slack_alert,),
        ),
    ]


def _result_rules(notifiers: Notifiers) -> list[AlertRule]:
    return [
        AlertRule(
            name="high_error_rate",
            expression=Stat("result_failure_total", "increase"),
            condition=_MORE,
            threshold=50,
            annotations={"summary": "{{ $value }} operations have failed in 5 minutes"},
            callbacks=(notifiers.send_slack_notification,),
        ),
        AlertRule(
            name="slow_api_response",
            expression=Stat("result_duration_seconds", "p95", scale=1000.0),
            metric_name="result_duration_ms",
            condition=_MORE,
            threshold=5000,
            annotations={"summary": "one operation in twenty takes longer than {{ $value }} ms"},
            callbacks=(notifiers.escalate_to_oncall,),
            resolved_callbacks=(notifiers.escalate_to_oncall,),
        ),
        AlertRule(
            name="critical_system_failure",
            expression=Stat("result_failure_total", "increase"),
            condition=_MORE,
            threshold=100,
            severity="critical",
            annotations={"summary": "{{ $value }} operations have failed in 5 minutes"},
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
        condition=_MORE,
        threshold=0,
        annotations={"summary": "{{ $value }} service levels were not kept in the last hour"},
        callbacks=(notifiers.send_sla_violation_alert,),
    )
