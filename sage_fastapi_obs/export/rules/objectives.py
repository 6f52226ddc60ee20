"""What was promised: service levels, and error budgets that are used up too fast."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sage_fastapi_obs.alerting.default_rules import SlaViolations
from sage_fastapi_obs.alerting.expressions import duration, number
from sage_fastapi_obs.alerting.rules import Ratio, Stat
from sage_fastapi_obs.alerting.sla import ServiceLevels
from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.exported_rule import ExportedRule, RuleTest
from sage_fastapi_obs.export.rule_test_series import SeriesShape, TestSeries, scene, series
from sage_fastapi_obs.export.rules.http import ERRORS
from sage_fastapi_obs.export.services import Services
from sage_fastapi_obs.settings import Settings, Severity

__all__ = ["RECORDED", "alerts", "recordings"]

_HOUR = 3600.0
_BY = ("service",)
_WINDOWS = (300, 1800, _HOUR, 2 * _HOUR, 6 * _HOUR, 24 * _HOUR, 72 * _HOUR)
RECORDED = "service:http_request_errors:ratio_rate"
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
    _Burn("ErrorBudgetBurnFast", "critical", 14.4, _HOUR, 300),
    _Burn("ErrorBudgetBurnFast", "critical", 6.0, 6 * _HOUR, 1800),
    _Burn("ErrorBudgetBurnSlow", "warning", 3.0, 24 * _HOUR, 2 * _HOUR),
    _Burn("ErrorBudgetBurnSlow", "warning", 1.0, 72 * _HOUR, 6 * _HOUR),
)
"""Those of Google's workbook on site reliability."""
_FAILED, _DONE = (Stat(f"result_{one}_total", "increase", _HOUR) for one in ("failure", "success"))
_RESULTS = Ratio((_FAILED,), (_FAILED, _DONE))


def recordings(services: Services) -> list[dict[str, str]]:
    """Return the recording rules: what alerts over days, and dashboards, would otherwise compute again and again."""
    if not of.with_pack(services, "http"):
        return []
    rate, p95 = Stat("http_requests_total", "rate"), Stat("http_request_duration_seconds", "p95")
    return [
        {"record": "service:http_requests:rate5m", "expr": rate.promql(_BY)[0]},
        {"record": "service:http_request_duration_seconds:p95_5m", "expr": p95.promql(_BY)[0]},
        *({"record": f"{RECORDED}{duration(one)}", "expr": ERRORS.over(one).promql(_BY)[0]} for one in _WINDOWS),
    ]


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of services that promise something."""
    served, returning = of.with_pack(services, "http"), of.with_pack(services, "result")
    found: list[ExportedRule] = []
    for promised, some in of.by_promise(served, lambda one: one.sla.availability):
        # A promise of 100 % has no budget that could be used up.
        found += [_burning(burn, 1 - promised / 100, some, served) for burn in _BURNS if 0 < promised < 100]
    for promised, some in of.by_promise(returning, lambda one: one.sla.error_rate):
        found.append(_results(promised / 100, some, returning))
    for _, some in of.by_promise(served, _targets):
        found.append(_violated(some, served))
    return found


def _targets(service: Settings) -> tuple[Any, ...] | None:
    judged = ("availability", "error_rate", "response_time_p95_ms", "response_time_mean_ms")
    promised = tuple(getattr(service.sla, name) for name in judged)
    return promised if any(one is not None for one in promised) else None


def _burning(burn: _Burn, budget: float, services: Services, served: Services) -> ExportedRule:
    labels = {"service": of.name(services[0])}
    chosen = "" if len(services) == len(served) else series("", labels)
    threshold = burn.rate * budget
    quiet, loud, well = (scene(ERRORS, min(threshold * times, 1.0), labels).series for times in (0.98, 1.02, 0))
    over = (duration(burn.long_seconds), duration(burn.short_seconds))
    return ExportedRule(
        name=burn.alert,
        group="slo",
        system="http",
        expr=" and ".join(f"{RECORDED}{window}{chosen} > {number(round(threshold, 12))}" for window in over),
        severity=burn.severity,
        summary="{{ $labels.service }} uses its error budget up too fast",
        description=f"{{{{ $value | humanizePercentage }}}} of its requests failed in {over[0]}, "
        f"{number(burn.rate)} times what is allowed in the long run.",
        labels={**_one(services, served), "window": over[0]},
        story=RuleTest(quiet, loud, burn.long_seconds, labels, well, burn.short_seconds),
    )


def _results(allowed: float, services: Services, returning: Services) -> ExportedRule:
    labels = {"service": of.name(services[0])}
    written = f"{_RESULTS.promql(_BY)[0]} > {number(allowed)}"
    quiet, loud = (scene(_RESULTS, share, labels).series for share in (allowed * 0.98, min(allowed * 1.02 or 0.01, 1.0)))
    return ExportedRule(
        name="SlaErrorRateViolation",
        group="result",
        system="result",
        expr=_only(written, services, returning),
        severity="warning",
        seed="sla_violation",
        summary="More operations of {{ $labels.service }} fail than was promised",
        description="{{ $value | humanizePercentage }} of operations failed in the last hour, where "
        f"{number(round(allowed * 100, 9))}% are allowed.",
        labels=_one(services, returning),
        story=_with_up(RuleTest(quiet, loud, _HOUR, labels), labels["service"]),
    )


def _violated(services: Services, served: Services) -> ExportedRule:
    levels = ServiceLevels(services[0].sla, _no_window)
    labels = {"service": of.name(services[0])}
    return ExportedRule(
        name="SlaViolation",
        group="slo",
        system="http",
        expr=_only(f"({SlaViolations(levels).promql(_BY)[0]}) > 0", services, served),
        severity="warning",
        seed="sla_violation",
        summary="{{ $labels.service }} does not keep what was promised",
        description="{{ $value }} of its service levels were not kept in the last hour.",
        labels=_one(services, served),
        story=_with_up(_sla_story(levels.targets, labels), labels["service"]),
    )


def _sla_story(targets: Mapping[str, float], labels: Mapping[str, str]) -> RuleTest:
    allowed = [100 - targets["availability"]] if "availability" in targets else []
    allowed += [targets["error_rate"]] if "error_rate" in targets else []
    limits = [targets[name] / 1000 for name in ("response_time_p95_ms", "response_time_mean_ms") if name in targets]
    share, seconds = min(allowed, default=1.0) / 100, min(limits, default=1.0)
    quiet = _served(share * 0.98 if allowed else 0.0, seconds * 0.5, labels)
    loud = _served(min(share * 1.02 or 0.01, 1.0), seconds * 0.5, labels) if allowed else _served(0.0, seconds * 4, labels)
    return RuleTest(quiet, loud, _HOUR, labels)


def _served(failed: float, seconds: float, labels: Mapping[str, str]) -> TestSeries:
    """Serve requests of which a share fails, and which take so long."""
    timed = (scene(Stat("http_request_duration_seconds", one), seconds, labels).series for one in ("p95", "mean"))
    return scene(ERRORS, failed, labels).series | next(timed) | next(timed)


def _only(expr: str, services: Services, all_of_them: Services) -> str:
    """Limit an expression to some services, unless they are all that have the numbers."""
    if len(services) == len(all_of_them):
        return expr
    return f"({expr}) and on (service) count by (service) ({series('up', {'service': of.name(services[0])})})"


def _one(services: Services, all_of_them: Services) -> dict[str, str]:
    """Label a rule that is about one of several services, so that rules of one name differ."""
    return {} if len(services) == len(all_of_them) else {"service": of.name(services[0])}


def _with_up(story: RuleTest, service: str) -> RuleTest:
    up = {series("up", {"job": service, "service": service, "instance": "one:8000"}): SeriesShape(level=1)}
    return replace(story, quiet={**story.quiet, **up}, loud={**story.loud, **up})


def _no_window(_seconds: float) -> Any:
    raise AssertionError("nothing is judged here")
