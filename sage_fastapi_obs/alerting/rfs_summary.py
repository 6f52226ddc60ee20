"""Windows under the names and in the units that metrics were collected in: milliseconds, mebibytes, percent, dotted names."""

from collections.abc import Iterator, Mapping

from typing_extensions import TypedDict

from sage_fastapi_obs.alerting.alerts import AlertSummary, timestamp
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.summary import (
    OperationFigures,
    RuleSummary,
    gauge_figure,
    operations_of,
    rule_summary,
)
from sage_fastapi_obs.alerting.window import Window
from sage_fastapi_obs.alerting.window_stats import HistogramStats
from sage_fastapi_obs.catalog import CATALOG, PACKS
from sage_fastapi_obs.legacy.metric_names import MEBIBYTE, ResolvedName, resolve_name


class HistogramSummary(TypedDict):
    """A histogram over a window, in the unit of its name; what was not observed is 0."""

    count: float
    sum: float
    min: float
    max: float
    mean: float
    p50: float
    p95: float
    p99: float


class OperationSummary(TypedDict):
    """An operation over a window; times in milliseconds."""

    success: float
    failure: float
    failure_rate: float
    """Share of failures, 0 to 1."""
    mean: float
    p95: float
    max: float
    count: float


class MetricsSummary(TypedDict):
    """A window: what counters have risen by, last values of gauges, histograms, operations; label sets are put together."""

    time_range_minutes: float
    timestamp: str
    """Its end."""
    counters: dict[str, float]
    gauges: dict[str, float]
    histograms: dict[str, HistogramSummary]
    operations: dict[str, OperationSummary]


class SystemStatus(TypedDict):
    """About the monitoring itself."""

    monitoring_active: bool
    total_metrics: int
    """Series that are watched."""
    left_out_series: int
    """Series that there was no room for."""
    timestamp: str


class DashboardData(TypedDict):
    """Everything that a dashboard shows."""

    metrics_summary: MetricsSummary
    active_alerts: list[AlertSummary]
    alert_rules: list[RuleSummary]
    system_status: SystemStatus


_SHOWN_UNITS = {"_seconds": ("_ms", 1000.0), "_bytes": ("_mb", 1 / MEBIBYTE)}
_OF_OPERATIONS = {
    "operation_duration_seconds": (".duration_ms", 1000.0),
    "operation_memory_change_bytes": (".memory_usage_mb", 1 / MEBIBYTE),
}
"""Histograms that are shown by operation: the ending of their names here, and what their values are multiplied by."""


def dashboard_data(status: ServiceStatus) -> DashboardData:
    """Describe a service: the last hour, the alerts that fire, all rules, and the monitoring itself."""
    return {
        "metrics_summary": rfs_summary(status, 3600),
        "active_alerts": [alert.summary() for alert in status.alerts.alerts("firing")],
        "alert_rules": rule_summaries(status),
        "system_status": {
            "monitoring_active": status.is_active,
            "total_metrics": status.windows.series,
            "left_out_series": status.windows.left_out,
            "timestamp": timestamp(status.wall_clock()),
        },
    }


def rfs_summary(status: ServiceStatus, seconds: float) -> MetricsSummary:
    """Summarise the last seconds before the last sample."""
    window, names = status.view(seconds), status.review.collected_names()
    older = {name: resolve_name(name) for name, (_, alias) in CATALOG.by_alias.items() if alias.group == "result"}
    named = _Named(window, {**older, **names})
    return {
        "time_range_minutes": window.seconds / 60,
        "timestamp": timestamp(window.ended_at),
        "counters": dict.fromkeys(_of_results("counter"), 0.0) | dict(named.counters()),
        "gauges": dict(named.gauges()),
        "histograms": dict(named.histograms()),
        "operations": {name: _operation(one) for name, one in operations_of(window).items()},
    }


def _of_results(kind: str) -> set[str]:
    """Name what is there from the start, also where the pack is off."""
    return {metric.name for metric in PACKS["result"] if metric.type == kind}


def rule_summaries(status: ServiceStatus) -> list[RuleSummary]:
    """Describe all rules."""
    problems, review = status.review.explained(), status.review
    return [rule_summary(rule, problems.get(rule.name), review.past_firings(rule)) for rule in status.alerts.rules]


class _Named:
    """The metrics of a window, by their own names and by those that they were collected under."""

    def __init__(self, window: Window, called: Mapping[str, ResolvedName]) -> None:
        self._window = window
        self._called = called
        self._kinds = window.metrics()

    def _of_kind(self, kind: str, *, own: bool = True) -> Iterator[tuple[str, ResolvedName]]:
        """Yield the names of all metrics of a kind: their own first, unless these are left out, and then the others."""
        if own:
            yield from ((name, ResolvedName(name)) for name, one in sorted(self._kinds.items()) if one == kind)
        yield from ((name, meaning) for name, meaning in self._called.items() if self._kinds.get(meaning.metric) == kind)

    def counters(self) -> Iterator[tuple[str, float]]:
        for name, meaning in self._of_kind("counter"):
            risen = self._window.counter(meaning.metric, meaning.labels).values()
            yield name, sum(one.increase for one in risen) * meaning.scale

    def gauges(self) -> Iterator[tuple[str, float]]:
        for name, meaning in self._of_kind("gauge"):
            found = self._window.gauge(meaning.metric, meaning.labels).values()
            yield name, sum(gauge_figure(meaning.metric, one) for one in found) * meaning.scale
        for (operation,), one in self._window.gauge("operation_memory_delta_bytes", by=("operation",)).items():
            yield f"{operation}.memory_usage_mb", one.total / MEBIBYTE

    def histograms(self) -> Iterator[tuple[str, HistogramSummary]]:
        """Yield what was collected by its names there, and all else in milliseconds and mebibytes."""
        called = [*self._of_kind("histogram", own=False)]
        own = {name for name, kind in self._kinds.items() if kind == "histogram"} | _of_results("histogram")
        shown = {"operation_memory_change_bytes", *(meaning.metric for _, meaning in called if not meaning.labels)}
        for name in sorted(own - shown):
            yield _in_shown_unit(name, self._window.histogram(name).get(()))
        for name, meaning in called:
            yield name, _figures(self._window.histogram(meaning.metric, meaning.labels).get(()), meaning.scale)
        for metric, (ending, scale) in _OF_OPERATIONS.items():
            for (operation,), observed in self._window.histogram(metric, by=("operation",)).items():
                yield f"{operation}{ending}", _figures(observed, scale)


def _in_shown_unit(name: str, observed: HistogramStats | None) -> tuple[str, HistogramSummary]:
    for unit, (ending, scale) in _SHOWN_UNITS.items():
        if name.endswith(unit):
            return name.removesuffix(unit) + ending, _figures(observed, scale)
    return name, _figures(observed, 1.0)


def _figures(observed: HistogramStats | None, scale: float) -> HistogramSummary:
    def figure(name: str) -> float:
        return ((observed.figure(name) if observed is not None else None) or 0.0) * scale

    return {
        "count": 0.0 if observed is None else observed.count,
        "sum": figure("sum"),
        "min": figure("min"),
        "max": figure("max"),
        "mean": figure("mean"),
        "p50": figure("p50"),
        "p95": figure("p95"),
        "p99": figure("p99"),
    }


def _operation(figures: OperationFigures) -> OperationSummary:
    return {
        "success": figures.success,
        "failure": figures.failure,
        "failure_rate": figures.failure_rate,
        "mean": (figures.mean or 0.0) * 1000,
        "p95": (figures.p95 or 0.0) * 1000,
        "max": (figures.max or 0.0) * 1000,
        "count": figures.count,
    }
