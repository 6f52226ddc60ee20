"""Windows and rules under the names and in the units of the RFS interface: milliseconds, mebibytes, percent, dotted names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.alerting.expressions import Expression, Stat, Values, View
from sage_fastapi_obs.alerting.summary import summary_of
from sage_fastapi_obs.alerting.window_stats import HistogramStats
from sage_fastapi_obs.alerting.windows import Window
from sage_fastapi_obs.catalog import CATALOG, PACKS
from sage_fastapi_obs.legacy.metric_names import MEBIBYTE, ResolvedName, resolve_name

_SHOWN_UNITS = {"_seconds": ("_ms", 1000.0), "_bytes": ("_mb", 1 / MEBIBYTE)}
_RESULTS = PACKS["result"]
_EMPTY_COUNTERS = {metric.name: 0.0 for metric in _RESULTS if metric.type == "counter"}
_EMPTY_HISTOGRAMS = {metric.name for metric in _RESULTS if metric.type == "histogram"}
_ADDED_UP = ("count", "rate", "sum", "total")
_FIGURES = ("sum", "min", "max", "mean", "p50", "p95", "p99")


@dataclass(frozen=True, slots=True)
class _First:
    """The figure of a metric, or of the other if that does not exist: RFS names of counters have no `_total`."""

    figure: Stat
    other: Stat

    @property
    def metric(self) -> str:
        """Return what it is called."""
        return self.figure.metric

    @property
    def by(self) -> tuple[str, ...]:
        """Return no labels."""
        return ()

    def windows(self) -> tuple[float, ...]:
        """Return the length of the window."""
        return self.figure.windows()

    def values(self, view: View, /) -> Values:
        """Compute the figure that there is."""
        return self.figure.values(view) or self.other.values(view)

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write it in PromQL."""
        return (f"({self.figure.promql(also_by)[0]} or {self.other.promql(also_by)[0]})",)


def rfs_expression(metric_name: str, statistic: str | None, window_seconds: float) -> Expression:
    """Return the figure of a metric by any of its names, in the unit of that name."""
    active = active_observability()
    meaning = resolve_name(metric_name) if active is None else active.collected.meaning(metric_name)

    def figure(metric: str) -> Stat:
        is_number = statistic == "count" or (statistic == "rate" and not metric.endswith("_total"))
        by = _told_apart(metric, statistic, meaning)
        return Stat(metric, statistic, window_seconds, meaning.labels, by, scale=1.0 if is_number else meaning.scale)

    named = figure(meaning.metric)
    is_known = meaning.metric.endswith("_total") or CATALOG.get(meaning.metric) is not None
    return named if is_known else _First(named, figure(f"{meaning.metric}_total"))


def _told_apart(metric: str, statistic: str | None, meaning: ResolvedName) -> tuple[str, ...]:
    """Choose labels to judge one by one: many fast operations must not hide a slow one, nor an open breaker another."""
    known = CATALOG.get(metric)
    if known is None or known.type == "counter" or statistic in _ADDED_UP:
        return ()
    return tuple(label for label in ("operation", "name") if label in known.labels and label not in meaning.labels)


def rfs_summary(window: Window, names: Mapping[str, ResolvedName]) -> dict[str, Any]:
    """Summarise a window; `names`: what metrics were called when they were collected."""
    summary = summary_of(window)
    older = {name: resolve_name(name) for name, (_, alias) in CATALOG.by_alias.items() if alias.group == "result"}
    called = {**older, **names}
    kinds = window.metrics()

    def are(kind: str) -> Iterable[tuple[str, ResolvedName]]:
        return ((name, meaning) for name, meaning in called.items() if kinds.get(meaning.metric) == kind)

    def risen(meaning: ResolvedName) -> float:
        return sum(one.increase for one in window.counter(meaning.metric, meaning.labels).values()) * meaning.scale

    def last(meaning: ResolvedName) -> float:
        return sum(one.total for one in window.gauge(meaning.metric, meaning.labels).values()) * meaning.scale

    memory = window.gauge("operation_memory_delta_bytes", by=("operation",))
    return {
        "time_range_minutes": summary.time_range_minutes,
        "timestamp": summary.timestamp,
        "counters": {**_EMPTY_COUNTERS, **summary.counters, **{name: risen(meaning) for name, meaning in are("counter")}},
        "gauges": {
            **summary.gauges,
            **{name: last(meaning) for name, meaning in are("gauge")},
            **{f"{operation}.memory_usage_mb": one.total / MEBIBYTE for (operation,), one in memory.items()},
        },
        "histograms": _histograms(window),
        "operations": {
            operation: {
                "success": one.success,
                "failure": one.failure,
                "failure_rate": one.failure_rate,
                "mean": (one.mean or 0.0) * 1000,
                "p95": (one.p95 or 0.0) * 1000,
                "max": (one.max or 0.0) * 1000,
                "count": one.count,
            }
            for operation, one in summary.operations.items()
        },
    }


def _histograms(window: Window) -> dict[str, dict[str, float]]:
    names = {name for name, kind in window.metrics().items() if kind == "histogram"} | _EMPTY_HISTOGRAMS
    shown: dict[str, dict[str, float]] = {}
    for name in sorted(names):
        called, scale = _called(name)
        shown[called] = _figures(window.histogram(name).get(()), scale)
    for (operation,), observed in window.histogram("operation_duration_seconds", by=("operation",)).items():
        shown[f"{operation}.duration_ms"] = _figures(observed, 1000.0)
    return shown


def _called(name: str) -> tuple[str, float]:
    """Return the name of a histogram in its other unit, and what its figures are multiplied by."""
    for unit, (ending, scale) in _SHOWN_UNITS.items():
        if name.endswith(unit):
            return name.removesuffix(unit) + ending, scale
    return name, 1.0


def _figures(observed: HistogramStats | None, scale: float) -> dict[str, float]:
    """List the figures in another unit; what was not observed is 0."""
    count = 0.0 if observed is None else observed.count
    return {"count": count, **{name: _figure(observed, name) * scale for name in _FIGURES}}


def _figure(observed: HistogramStats | None, name: str) -> float:
    return (observed.figure(name) if observed is not None else None) or 0.0
