"""What happened over a window, in the shapes that people and programs read."""

from collections.abc import Mapping
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict

from sage_fastapi_obs.alerting.alerts import Alert, State, timestamp
from sage_fastapi_obs.alerting.rules import AlertRule, Severity
from sage_fastapi_obs.alerting.window_stats import HistogramStats
from sage_fastapi_obs.alerting.windows import Group, Where, Window

__all__ = [
    "ActiveAlert",
    "HistogramFigures",
    "OperationFigures",
    "RequestFigures",
    "RouteFigures",
    "RuleShown",
    "SlowOperation",
    "Summary",
    "shown_alert",
    "shown_rule",
    "slow_operations",
    "summary_of",
]

MOST_ROUTES = 100
DURATION = "http_request_duration_seconds"
REQUESTS = "http_requests_total"
_OPERATION_DURATIONS = ("result_duration_seconds", "operation_duration_seconds")
_FAILED: Where = {"status": "=~5.."}

Figure: TypeAlias = float | None


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class HistogramFigures(_Model):
    """A histogram over a window; what was not observed is null."""

    count: float
    sum: Figure
    min: Figure
    """The true one of HTTP requests; of others the bound of a bucket."""
    max: Figure
    mean: Figure
    p50: Figure
    """Quantiles are estimated as Prometheus' `histogram_quantile` does."""
    p95: Figure
    p99: Figure


class RequestFigures(_Model):
    """HTTP requests over a window; durations in seconds."""

    count: float
    rate: float
    """Requests per second of the whole window."""
    failed: float
    """Those answered 5xx."""
    error_ratio: float
    """Their share, 0 to 1."""
    duration: HistogramFigures


class RouteFigures(RequestFigures):
    """HTTP requests of one method and route template."""

    method: str
    route: str


class OperationFigures(_Model):
    """An operation over a window; durations in seconds."""

    success: float
    failure: float
    failure_rate: float
    """Share of failures, 0 to 1."""
    mean: Figure
    p95: Figure
    max: Figure
    count: float


class SlowOperation(_Model):
    """An operation of which one call in twenty is slow; durations in milliseconds."""

    operation: str
    p95: float
    max: Figure
    count: float


class Summary(_Model):
    """Everything over a window: rises of counters, newest values of gauges, histograms; label sets are added up."""

    time_range_minutes: float
    covered_seconds: float
    """How much of the window this process has been watched for."""
    timestamp: str
    """End of the window."""
    counters: dict[str, float]
    gauges: dict[str, Figure]
    """Of several series the sum."""
    histograms: dict[str, HistogramFigures]
    operations: dict[str, OperationFigures]
    http: RequestFigures
    routes: list[RouteFigures]
    """Those with most requests."""
    routes_total: int
    """How many routes there are."""


class ActiveAlert(_Model):
    """An alert that is not inactive."""

    name: str
    metric_name: str
    condition: str
    threshold: float
    current_value: Figure
    severity: Severity
    state: State
    since: str
    labels: dict[str, str]


class RuleShown(_Model):
    """An alert rule; callbacks by their names."""

    name: str
    metric_name: str
    condition: str
    threshold: float
    statistic: str | None
    window_minutes: float
    for_seconds: float
    severity: Severity
    callback: list[str]


def summary_of(window: Window) -> Summary:
    """Summarise a window."""
    kinds = window.metrics()

    def names(kind: str) -> list[str]:
        return sorted(name for name, one in kinds.items() if one == kind)

    routes_total, routes = _routes(window)
    return Summary(
        time_range_minutes=window.seconds / 60,
        covered_seconds=window.covered_seconds,
        timestamp=timestamp(window.ended_at),
        counters={name: one.increase for name in names("counter") for one in window.counted(name).values()},
        gauges={name: one.total for name in names("gauge") for one in window.measured(name).values()},
        histograms={name: _figures(one) for name in names("histogram") for one in window.observed(name).values()},
        operations=_operations(window),
        http=_requests(window),
        routes=routes,
        routes_total=routes_total,
    )


def slow_operations(window: Window, threshold_ms: float) -> list[SlowOperation]:
    """Find the operations of which the 95th percentile is above a threshold, slowest first."""
    found = [
        SlowOperation(
            operation=name, p95=figures.p95 * 1000, max=None if figures.max is None else figures.max * 1000, count=figures.count
        )
        for name, figures in _operations(window).items()
        if figures.p95 is not None and figures.p95 * 1000 > threshold_ms
    ]
    return sorted(found, key=lambda one: -one.p95)


def shown_alert(alert: Alert) -> ActiveAlert:
    """Show an alert."""
    rule = alert.rule
    return ActiveAlert(
        name=rule.name,
        metric_name=rule.shown_metric,
        condition=rule.condition.name,
        threshold=rule.threshold,
        current_value=alert.value,
        severity=rule.severity,
        state=alert.state,
        since=timestamp(alert.since),
        labels=dict(alert.labels),
    )


def shown_rule(rule: AlertRule) -> RuleShown:
    """Show a rule."""
    return RuleShown(
        name=rule.name,
        metric_name=rule.shown_metric,
        condition=rule.condition.name,
        threshold=rule.threshold,
        statistic=getattr(rule.expression, "statistic", None),
        window_minutes=max(rule.expression.windows()) / 60,
        for_seconds=rule.for_seconds,
        severity=rule.severity,
        callback=[getattr(callback, "__name__", type(callback).__name__) for callback in rule.callbacks],
    )


def _figures(one: HistogramStats | None) -> HistogramFigures:
    if one is None:
        return HistogramFigures(count=0, sum=0, min=None, max=None, mean=None, p50=None, p95=None, p99=None)
    p50, p95, p99 = map(one.quantile, (0.5, 0.95, 0.99))
    return HistogramFigures(count=one.count, sum=one.sum, min=one.min, max=one.max, mean=one.mean, p50=p50, p95=p95, p99=p99)


def _requests(window: Window) -> RequestFigures:
    return RequestFigures(**_of_requests(window, *_counts(window, ()), window.observed(DURATION).get(()), ()))


def _routes(window: Window) -> tuple[int, list[RouteFigures]]:
    """Count the routes in use, and tell of those with most requests."""
    by = ("method", "route")
    counts, failed = _counts(window, by)
    busiest = sorted((group for group, count in counts.items() if count), key=lambda group: (-counts[group], group))
    shown = busiest[:MOST_ROUTES]
    durations = window.observed(DURATION, by=by, only=shown)
    return len(busiest), [
        RouteFigures(method=group[0], route=group[1], **_of_requests(window, counts, failed, durations.get(group), group))
        for group in shown
    ]


def _counts(window: Window, by: tuple[str, ...]) -> tuple[Mapping[Group, float], Mapping[Group, float]]:
    """Count requests, and those that failed."""
    all_, failed = (window.counted(REQUESTS, where, by) for where in ({}, _FAILED))
    return {group: one.increase for group, one in all_.items()}, {group: one.increase for group, one in failed.items()}


def _of_requests(
    window: Window, counts: Mapping[Group, float], failed: Mapping[Group, float], durations: HistogramStats | None, group: Group
) -> dict[str, object]:
    count, failures = counts.get(group, 0.0), failed.get(group, 0.0)
    return {
        "count": count,
        "rate": count / window.seconds,
        "failed": failures,
        "error_ratio": failures / count if count else 0.0,
        "duration": _figures(durations),
    }


def _operations(window: Window) -> dict[str, OperationFigures]:
    success, failure = (_by_operation(window, name) for name in ("result_success_total", "result_failure_total"))
    durations: dict[str, HistogramStats] = {}
    for name in _OPERATION_DURATIONS:
        for group, one in window.observed(name, by=("operation",)).items():
            durations.setdefault(group[0], one)
    return {
        operation: _operation(success.get(operation, 0.0), failure.get(operation, 0.0), durations.get(operation))
        for operation in sorted({*success, *failure, *durations})
    }


def _by_operation(window: Window, name: str) -> dict[str, float]:
    return {group[0]: one.increase for group, one in window.counted(name, by=("operation",)).items()}


def _operation(success: float, failure: float, durations: HistogramStats | None) -> OperationFigures:
    figures = _figures(durations)
    total = success + failure
    return OperationFigures(
        success=success,
        failure=failure,
        failure_rate=failure / total if total else 0.0,
        mean=figures.mean,
        p95=figures.p95,
        max=figures.max,
        count=figures.count if durations is not None else total,
    )
