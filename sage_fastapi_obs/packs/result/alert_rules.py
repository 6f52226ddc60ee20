"""Operations that return a `Result`: the rules that are also judged in process, under the names that Prometheus knows."""

from functools import partial

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, alert_from_rule, threshold_alert
from sage_fastapi_obs.alert_rules.objectives import BY, HOUR, only_for, rule_test_of_share, service_label, shares_around
from sage_fastapi_obs.alert_rules.rule_test_series import series_giving
from sage_fastapi_obs.alerting.expressions import Ratio, Stat, number
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.catalog.services import Services, by_promise, service_name, with_pack

_RESULT = RuleGroup("result", "Results: pack `result`", "result", "result-pattern", weight=50)
_FAILURES = Stat("result_failure_total", "increase")
_P95 = Stat("result_duration_seconds", "p95", by=("operation",))
_FAILED, _SUCCEEDED = (Stat(f"result_{one}_total", "increase", HOUR) for one in ("failure", "success"))
_FAILED_SHARE = Ratio((_FAILED,), (_FAILED, _SUCCEEDED))
_threshold = partial(threshold_alert, group=_RESULT)
_FAILED_RUNS = "{{ $value | humanize }} operations of {{ $labels.service }} have failed in 5 minutes."
_BREAKER = AlertRule(
    name="CircuitBreakerOpen",
    expression=Stat("circuit_breaker_status", "last", by=("name",)),
    condition=AlertCondition.EQUAL,
    threshold=1,
    severity="critical",
)
_OF_ALL = (
    _threshold("ResultHighErrorRate", _FAILURES, 50, severity="warning", seed="high_error_rate").about(
        "Operations of {{ $labels.service }} fail", _FAILED_RUNS
    ),
    _threshold(
        "ResultCriticalSystemFailure",
        _FAILURES,
        100,
        severity="critical",
        inhibits="ResultHighErrorRate",
        seed="critical_system_failure",
    ).about("Many operations of {{ $labels.service }} fail", _FAILED_RUNS),
    _threshold("ResultSlowResponse", _P95, 5, severity="warning", seed="slow_api_response").about(
        "{{ $labels.operation }} of {{ $labels.service }} is slow",
        "One run in twenty takes longer than {{ $value | humanizeDuration }}; the limit is 5 s.",
    ),
    alert_from_rule(_BREAKER, _RESULT, seed="circuit_breaker_activated").about(
        "The circuit breaker {{ $labels.name }} of {{ $labels.service }} is open",
        "Calls behind it are refused until it closes.",
    ),
)


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of services that have the pack `result`."""
    returning = with_pack(services, "result")
    promises = by_promise(returning, lambda one: one.sla.error_rate)
    return [*(_OF_ALL if returning else ()), *(_promised(percent / 100, some, returning) for percent, some in promises)]


def _promised(allowed: float, services: Services, returning: Services) -> ExportedRule:
    name = service_name(services[0])
    below, above = (series_giving(_FAILED_SHARE, share, {"service": name}).series for share in shares_around(allowed))
    return ExportedRule(
        name="SlaErrorRateViolation",
        group=_RESULT,
        expr=only_for(f"{_FAILED_SHARE.promql(BY)[0]} > {number(allowed)}", services, returning),
        severity="warning",
        seed="sla_violation",
        summary="More operations of {{ $labels.service }} fail than was promised",
        description="{{ $value | humanizePercentage }} of operations failed in the last hour, where "
        f"{number(round(allowed * 100, 9))}% are allowed.",
        labels=service_label(services, returning),
        test=rule_test_of_share(below, above, name),
    )
