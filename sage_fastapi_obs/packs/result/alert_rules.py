"""Operations that return a `Result`: the rules that are also judged in process, under the names that Prometheus knows."""

from functools import partial

from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Stat
from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.exported_rule import ExportedRule, alert_from_rule, threshold_alert
from sage_fastapi_obs.export.services import Services

__all__ = ["alerts"]

_FAILURES = Stat("result_failure_total", "increase")
_failing = partial(
    threshold_alert,
    expression=_FAILURES,
    group="result",
    system="result",
    minutes=0,
    description="{{ $value | humanize }} operations of {{ $labels.service }} have failed in 5 minutes.",
)
_BREAKER = AlertRule(
    name="CircuitBreakerOpen",
    expression=Stat("circuit_breaker_status", "last", by=("name",)),
    condition=AlertCondition.EQUAL,
    threshold=1,
    severity="critical",
    annotations={"summary": "The circuit breaker {{ $labels.name }} of {{ $labels.service }} is open"},
)
_OF_ALL = (
    _failing(
        "ResultHighErrorRate",
        threshold=50,
        severity="warning",
        summary="Operations of {{ $labels.service }} fail",
        seed="high_error_rate",
    ),
    _failing(
        "ResultCriticalSystemFailure",
        threshold=100,
        severity="critical",
        summary="Many operations of {{ $labels.service }} fail",
        seed="critical_system_failure",
    ),
    threshold_alert(
        "ResultSlowResponse",
        Stat("result_duration_seconds", "p95", by=("operation",)),
        5,
        group="result",
        system="result",
        severity="warning",
        minutes=0,
        summary="{{ $labels.operation }} of {{ $labels.service }} is slow",
        description="One run in twenty takes longer than {{ $value | humanizeDuration }}; the limit is 5 s.",
        seed="slow_api_response",
    ),
    alert_from_rule(
        _BREAKER, "result", "result", "Calls behind it are refused until it closes.", seed="circuit_breaker_activated"
    ),
)


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of services that have the pack `result`."""
    return [*_OF_ALL] if of.with_pack(services, "result") else []
