"""Models of what pages and dashboards show: what happened over a window, alerts, and rules."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from sage_fastapi_obs.alerting.alerts import timestamp
from sage_fastapi_obs.alerting.label_matchers import Where
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.alerting.window import Group, Window
from sage_fastapi_obs.alerting.window_stats import GaugeStats, HistogramStats
from sage_fastapi_obs.field_descriptions import DescribedFields
from sage_fastapi_obs.settings import Severity

_MOST_ROUTES = 100
_DURATION = "http_request_duration_seconds"
_REQUESTS = "http_requests_total"
_FAILED: Where = {"status": "=~5.."}

Figure: TypeAlias = float | None


class _Model(DescribedFields, BaseModel):
    model_config = ConfigDict(frozen=True)


class HistogramFigures(_Model):
    """A histogram over a window; what was not observed is null."""

    count: float
    sum: Figure
    min: Figure
    """The true one; only of instruments that the application made with the client library, the bound of a bucket."""
    max: Figure
    mean: Figure
    p50: Figure
    """Quantiles are estimated as Prometheus' `histogram_quantile` does, and lie between `min` and `max`."""
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


class SlowOperation(TypedDict):
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
    """Of several series the sum; of shares the mean, and of states the highest."""
    histograms: dict[str, HistogramFigures]
    operations: dict[str, OperationFigures]
    http: RequestFigures
    routes: list[RouteFigures]
    """Those with most requests."""
    routes_total: int
    """How many routes there are."""


class RuleSummary(TypedDict):
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
    problem: str | None
    """Why it can never fire with the metrics that there are."""
    past_firings: int
    """How often it would have fired in the samples that were kept when it was new."""


def summary_of(window: Window) -> Summary:
    """Summarise a window."""
    kinds = window.metrics()

    def names(kind: str) -> list[str]:
        return sorted(name for name, one in kinds.items() if one == kind)

    routes_total, routes = busiest_routes(window, _MOST_ROUTES)
    return Summary(
        time_range_minutes=window.seconds / 60,
        covered_seconds=window.covered_seconds,
        timestamp=timestamp(window.ended_at),
        counters={name: one.increase for name in names("counter") for one in window.counter(name).values()},
        gauges={name: gauge_figure(name, one) for name in names("gauge") for one in window.gauge(name).values()},
        histograms={name: _figures(one) for name in names("histogram") for one in window.histogram(name).values()},
        operations=operations_of(window),
        http=RequestFigures(**_Requests(window).figures([()])[0]),
        routes=routes,
        routes_total=routes_total,
    )


def gauge_figure(name: str, stats: GaugeStats) -> float:
    """Put the newest values of all series together: of shares the mean, of states the highest, of all else the sum."""
    if name.endswith(("_ratio", "_rate")):
        return stats.total / stats.series
    return stats.last if name.endswith("_status") else stats.total


def slow_operations(window: Window, threshold_ms: float) -> list[SlowOperation]:
    """Find the operations whose 95th percentile is above a threshold, slowest first."""
    slow = [
        SlowOperation(operation=name, p95=one.p95 * 1000, max=None if one.max is None else one.max * 1000, count=one.count)
        for name, one in operations_of(window).items()
        if one.p95 is not None and one.p95 * 1000 > threshold_ms
    ]
    return sorted(slow, key=lambda one: -one["p95"])


def rule_summary(rule: AlertRule, problem: str | None, past_firings: int) -> RuleSummary:
    """Describe a rule."""
    return RuleSummary(
        name=rule.name,
        metric_name=rule.metric_label,
        condition=rule.condition.name,
        threshold=rule.threshold,
        statistic=getattr(rule.expression, "statistic", None),
        window_minutes=max(rule.expression.windows()) / 60,
        for_seconds=rule.for_seconds,
        severity=rule.severity,
        callback=[getattr(callback, "__name__", type(callback).__name__) for callback in rule.callbacks],
        problem=problem,
        past_firings=past_firings,
    )


def _figures(stats: HistogramStats | None) -> HistogramFigures:
    if stats is None:
        return HistogramFigures(count=0, sum=0, min=None, max=None, mean=None, p50=None, p95=None, p99=None)
    return HistogramFigures(**{name: stats.figure(name) for name in HistogramFigures.model_fields})


class _Requests:
    """HTTP requests over a window, by some labels."""

    def __init__(self, window: Window, by: tuple[str, ...] = ()) -> None:
        self._window = window
        self._by = by
        self.counts = _increases(window, _REQUESTS, by)
        self._failed = _increases(window, _REQUESTS, by, _FAILED)

    def figures(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """Return the fields of `RequestFigures` for each group."""
        durations = self._window.histogram(_DURATION, by=self._by, only=groups)
        return [self._figures_of(group, durations.get(group)) for group in groups]

    def _figures_of(self, group: Group, durations: HistogramStats | None) -> dict[str, Any]:
        count, failed = self.counts.get(group, 0.0), self._failed.get(group, 0.0)
        return {
            "count": count,
            "rate": count / self._window.seconds,
            "failed": failed,
            "error_ratio": failed / count if count else 0.0,
            "duration": _figures(durations),
        }


def busiest_routes(window: Window, most: int | None) -> tuple[int, list[RouteFigures]]:
    """Count the routes in use, and describe those with most requests; all of them without a limit."""
    requests = _Requests(window, ("method", "route"))
    counts = requests.counts
    busiest = sorted((group for group, count in counts.items() if count), key=lambda group: (-counts[group], group))
    top = busiest[:most]
    figures = requests.figures(top)
    return len(busiest), [
        RouteFigures(method=method, route=route, **one) for (method, route), one in zip(top, figures, strict=True)
    ]


def _increases(window: Window, name: str, by: tuple[str, ...], where: Where | None = None) -> dict[Group, float]:
    return {group: one.increase for group, one in window.counter(name, where, by).items()}


def operations_of(window: Window) -> dict[str, OperationFigures]:
    """Describe the operations by their names."""
    by = ("operation",)
    success, failure = (_increases(window, f"result_{outcome}_total", by) for outcome in ("success", "failure"))
    durations = {
        # Of an operation that is timed twice, the figures of its results win.
        **window.histogram("operation_duration_seconds", by=by),
        **window.histogram("result_duration_seconds", by=by),
    }
    return {
        group[0]: _operation(success.get(group, 0.0), failure.get(group, 0.0), durations.get(group))
        for group in sorted({*success, *failure, *durations})
    }


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
