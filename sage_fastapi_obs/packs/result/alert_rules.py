"""Operations that return a `Result`: the rules that are also judged in process, under the names that Prometheus knows."""

from dataclasses import replace

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, alert_from_rule
from sage_fastapi_obs.alert_rules.objectives import BY, HOUR, only_for, rule_test_of_share, service_label, shares_around
from sage_fastapi_obs.alert_rules.rule_test_series import series_giving
from sage_fastapi_obs.alerting.default_rules import (
    EXPORTED_NAMES,
    MANY_FAILURES,
    OPEN_BREAKER,
    SLOW_RESULT,
    SLOW_RESULT_P95,
    SLOW_RESULT_SECONDS,
    VERY_MANY_FAILURES,
)
from sage_fastapi_obs.alerting.expressions import Ratio, Stat, number
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.catalog.services import Services, by_promise, service_name, with_pack

_RESULT = RuleGroup("result", "Results: pack `result`", "result", "result-pattern", weight=50)
_FAILED, _SUCCEEDED = (Stat(f"result_{one}_total", "increase", HOUR) for one in ("failure", "success"))
_FAILED_SHARE = Ratio((_FAILED,), (_FAILED, _SUCCEEDED))
_FAILED_RUNS = "{{ $value | humanize }} operations of {{ $labels.service }} have failed in 5 minutes."


def _exported(rule: AlertRule) -> ExportedRule:
    return alert_from_rule(replace(rule, name=EXPORTED_NAMES[rule.name]), _RESULT, seed=rule.name)


_OF_ALL = (
    _exported(MANY_FAILURES).about("Operations of {{ $labels.service }} fail", _FAILED_RUNS),
    replace(_exported(VERY_MANY_FAILURES), inhibits="ResultHighErrorRate").about(
        "Many operations of {{ $labels.service }} fail", _FAILED_RUNS
    ),
    _exported(replace(SLOW_RESULT, expression=SLOW_RESULT_P95, threshold=SLOW_RESULT_SECONDS)).about(
        "{{ $labels.operation }} of {{ $labels.service }} is slow",
        "One run in twenty takes longer than {{ $value | humanizeDuration }}; the limit is 5 s.",
    ),
    _exported(OPEN_BREAKER).about(
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
