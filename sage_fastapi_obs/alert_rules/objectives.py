"""What was promised: service levels, and error budgets that are used up too fast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, RuleTest
from sage_fastapi_obs.alert_rules.rule_test_series import SeriesShape, TestSeries, series, series_giving
from sage_fastapi_obs.alerting.default_rules import ERRORS, SlaViolations
from sage_fastapi_obs.alerting.expressions import BurnRate, Stat, duration, number
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.alerting.sla import ServiceLevels
from sage_fastapi_obs.catalog.services import Services, by_promise, service_name, with_pack
from sage_fastapi_obs.settings import Settings, Severity

SLO = RuleGroup("slo", "What was promised: pack `http` and the settings `sla.*`", "http", interval="30s", weight=60)
HOUR = 3600.0
BY = ("service",)
_WINDOWS = (300, 1800, HOUR, 2 * HOUR, 6 * HOUR, 24 * HOUR, 72 * HOUR)
_RECORDED = "service:http_request_errors:ratio_rate"
"""How recorded shares of failed requests are called; their window follows."""


@dataclass(frozen=True, slots=True)
class _Burn:
    """How many times too fast a budget is used up, over a long window, which shows that it matters, and a short one."""

    alert: str
    severity: Severity
    rate: float
    long_seconds: float
    short_seconds: float


_BURNS = (
    # Two percent of the budget of 30 days, five and ten percent, and ten percent again.
    _Burn("ErrorBudgetBurnFast", "critical", 14.4, HOUR, 300),
    _Burn("ErrorBudgetBurnFast", "critical", 6.0, 6 * HOUR, 1800),
    _Burn("ErrorBudgetBurnSlow", "warning", 3.0, 24 * HOUR, 2 * HOUR),
    _Burn("ErrorBudgetBurnSlow", "warning", 1.0, 72 * HOUR, 6 * HOUR),
)
"""The rates of Google's workbook on site reliability."""


def recordings(services: Services) -> list[dict[str, str]]:
    """Return the recording rules: what alerts over days, and dashboards, would otherwise compute again and again."""
    if not with_pack(services, "http"):
        return []
    rate, p95 = Stat("http_requests_total", "rate"), Stat("http_request_duration_seconds", "p95")
    return [
        {"record": "service:http_requests:rate5m", "expr": rate.promql(BY)[0]},
        {"record": "service:http_request_duration_seconds:p95_5m", "expr": p95.promql(BY)[0]},
        *({"record": f"{_RECORDED}{duration(one)}", "expr": ERRORS.with_window(one).promql(BY)[0]} for one in _WINDOWS),
    ]


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of services that promise something."""
    served = with_pack(services, "http")
    burning = [
        _burning(burn, 1 - promised / 100, some, served)
        for promised, some in by_promise(served, lambda one: one.sla.availability)
        # A promise of 100 % has no budget that could be used up.
        if 0 < promised < 100
        for burn in _BURNS
    ]
    return [*burning, *(_violated(some, served) for _, some in by_promise(served, _targets))]


def only_for(expr: str, services: Services, all_of_them: Services) -> str:
    """Limit an expression to some services, unless they are all that have the numbers."""
    if len(services) == len(all_of_them):
        return expr
    return f"({expr}) and on (service) count by (service) ({series('up', {'service': service_name(services[0])})})"


def service_label(services: Services, all_of_them: Services) -> dict[str, str]:
    """Return the label of a rule that is about one of several services, so that rules of one name differ."""
    return {} if len(services) == len(all_of_them) else {"service": service_name(services[0])}


def rule_test_of_share(below: TestSeries, above: TestSeries, service: str) -> RuleTest:
    """Return the test of a rule about a share of the last hour, with the target that such rules ask for."""
    up = {series("up", {"job": service, "service": service, "instance": "one:8000"}): SeriesShape(level=1)}
    return RuleTest({**below, **up}, {**above, **up}, HOUR, {"service": service})


def shares_around(allowed: float) -> tuple[float, float]:
    """Return a share just below what is allowed, and one just above."""
    return allowed * 0.98, min(allowed * 1.02 or 0.01, 1.0)


def _targets(service: Settings) -> tuple[Any, ...] | None:
    judged = ("availability", "error_rate", "response_time_p95_ms", "response_time_mean_ms")
    promised = tuple(getattr(service.sla, name) for name in judged)
    return promised if any(one is not None for one in promised) else None


def _burning(burn: _Burn, budget: float, services: Services, served: Services) -> ExportedRule:
    labels = {"service": service_name(services[0])}
    chosen = "" if len(services) == len(served) else series("", labels)
    threshold = burn.rate * budget
    below, above, after = (series_giving(ERRORS, min(threshold * times, 1.0), labels).series for times in (0.98, 1.02, 0))
    windows = (duration(burn.long_seconds), duration(burn.short_seconds))
    return ExportedRule(
        name=burn.alert,
        group=SLO,
        expr=" and ".join(f"{_RECORDED}{window}{chosen} > {number(round(threshold, 12))}" for window in windows),
        severity=burn.severity,
        inhibits="ErrorBudgetBurnSlow" if burn.severity == "critical" else "",
        summary="{{ $labels.service }} uses its error budget up too fast",
        description=f"{{{{ $value | humanizePercentage }}}} of its requests failed in {windows[0]}, "
        f"{number(burn.rate)} times what is allowed in the long run.",
        labels={**service_label(services, served), "window": windows[0]},
        test=RuleTest(below, above, burn.long_seconds, labels, after, burn.short_seconds),
        rule=AlertRule(
            name=burn.alert,
            expression=BurnRate(ERRORS, 1 - budget, burn.long_seconds, burn.short_seconds),
            condition=AlertCondition.GREATER_THAN,
            threshold=burn.rate,
            severity=burn.severity,
        ),
    )


def _violated(services: Services, served: Services) -> ExportedRule:
    levels = ServiceLevels(services[0].sla, _no_window)
    return ExportedRule(
        name="SlaViolation",
        group=SLO,
        expr=only_for(f"({SlaViolations(levels).promql(BY)[0]}) > 0", services, served),
        severity="warning",
        seed="sla_violation",
        summary="{{ $labels.service }} does not keep what was promised",
        description="{{ $value }} of its service levels were not kept in the last hour.",
        labels=service_label(services, served),
        test=_violation_test(levels.targets, service_name(services[0])),
    )


def _violation_test(targets: Mapping[str, float], service: str) -> RuleTest:
    allowed = [100 - targets["availability"]] if "availability" in targets else []
    allowed += [targets["error_rate"]] if "error_rate" in targets else []
    limits = [targets[name] / 1000 for name in ("response_time_p95_ms", "response_time_mean_ms") if name in targets]
    few, many = shares_around(min(allowed) / 100) if allowed else (0.0, 0.0)
    seconds = min(limits, default=1.0)
    # Where no share is promised, the requests are too slow.
    return rule_test_of_share(
        _served(few, seconds * 0.5, service), _served(many, seconds * (0.5 if allowed else 4), service), service
    )


def _served(failed: float, seconds: float, service: str) -> TestSeries:
    """Serve requests of which a share fails, and which take so long."""
    labels = {"service": service}
    p95, mean = (series_giving(Stat("http_request_duration_seconds", one), seconds, labels).series for one in ("p95", "mean"))
    return series_giving(ERRORS, failed, labels).series | p95 | mean


def _no_window(_seconds: float) -> Any:
    raise AssertionError("nothing is judged here")
