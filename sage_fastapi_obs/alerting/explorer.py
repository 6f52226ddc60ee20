"""Every metric there is, as data: what it is, its series now, and its figures over time. No metric is named here."""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import Metric as Family
from pydantic import BaseModel

from sage_fastapi_obs.alerting.past_lines import MOST_LINES, Moment, PastLines, finite, labels_of, past_lines
from sage_fastapi_obs.alerting.window import Group
from sage_fastapi_obs.alerting.window_stats import CounterStats, GaugeStats, WindowStats
from sage_fastapi_obs.alerting.windows import Windows
from sage_fastapi_obs.catalog import CATALOG
from sage_fastapi_obs.metrics.registry_reader import KINDS, Kind, name_of

MOST_SERIES = 100
"""Series of a metric that are shown."""
_INTERVALS = 4
"""A figure is one of so many samples at least: as Prometheus' users compute rates."""
_STATISTICS: dict[Kind, tuple[str, ...]] = {
    "counter": CounterStats.statistics[::-1],
    "gauge": GaugeStats.statistics,
    "histogram": ("p95", "p50", "p99", "mean", "max", "rate"),
}
"""What can be drawn of a metric; the first by default."""
_UNITS = ("seconds", "bytes", "ratio")
_UNWATCHED = "its samples are made for scrapes only: see /metrics"
_ALL_OFF = "no metrics are recorded: metrics.enabled is false"
_OFF = "its pack {pack!r} is off: add it to metrics.packs"


class MetricEntry(BaseModel):
    """A metric."""

    name: str
    """As in samples: counters with `_total`, histograms without a suffix."""
    type: str
    unit: str
    help: str
    labels: list[str]
    series: int
    """How many there are now; 0: nothing has happened yet."""
    problem: str | None
    """Why it can have no series."""


class MetricList(BaseModel):
    """All metrics by their names: those that exist, and those of packs that are off."""

    metrics: list[MetricEntry]


class SeriesNow(BaseModel):
    """One series, with the numbers that a scrape shows."""

    labels: dict[str, str]
    value: float | None
    """Of a histogram, the number of observations."""
    sum: float | None
    """Of a histogram's observations."""


class MetricDetail(MetricEntry):
    """A metric with its series and its figures."""

    statistic: str
    """What its figures are: `rate` per second, a quantile, …"""
    statistics: list[str]
    """All that can be asked for."""
    by: list[str]
    """Labels that its lines are told apart by."""
    now: list[SeriesNow]
    """Those with the highest values."""
    now_left_out: int
    """How many more there are."""
    past: PastLines


class MetricExplorer:
    """Reads the windows, metric by metric."""

    def __init__(self, windows: Windows, families: Callable[[], Iterable[Family]], *, measured: bool) -> None:
        """`families`: lists the metrics of all workers, without samples. `measured`: whether any metrics are recorded."""
        self._windows = windows
        self._families = families
        self._off = _OFF if measured else _ALL_OFF

    def metrics(self) -> MetricList:
        """List all metrics."""
        found = {entry.name: entry for entry in (*self._switched_off(), *map(self._entry, self._families()))}
        return MetricList(metrics=[found[name] for name in sorted(found)])

    def metric(self, name: str, seconds: float, by: Sequence[str], statistic: str | None) -> MetricDetail | None:
        """Describe one metric over the last seconds; None where there is none of this name.

        Raises `ValueError` for a label or a statistic that it has not.
        """
        entry = next((one for one in self.metrics().metrics if one.name == name), None)
        if entry is None:
            return None
        statistics = _STATISTICS[KINDS[entry.type]] if entry.type in KINDS else ()
        chosen = statistic or _default(name, statistics)
        _check(by, entry.labels, "label")
        _check([statistic] if statistic else [], statistics, "statistic")
        series = self._windows.living(name)
        largest = heapq.nlargest(MOST_SERIES, (_now(entry.labels, *child) for child in series), key=_weight)
        return MetricDetail(
            **dict(entry),
            statistic=chosen,
            statistics=[*statistics],
            by=[*by],
            now=largest,
            now_left_out=len(series) - len(largest),
            past=self._past(name, seconds, by, chosen),
        )

    def _past(self, name: str, seconds: float, by: Sequence[str], statistic: str) -> PastLines:
        whole = _figures(self._windows.view(seconds).stats(name, None, by), statistic)
        shown = heapq.nlargest(MOST_LINES, whole, key=lambda group: whole[group])
        found = past_lines(self._moments(name, seconds, by, shown, statistic), by, lambda group, _: whole[group])
        found.left_out = len(whole) - len(shown)
        return found

    def _moments(self, name: str, seconds: float, by: Sequence[str], only: list[Group], statistic: str) -> Iterator[Moment]:
        shortest = _INTERVALS * self._windows.interval_seconds
        ticks = self._windows.ticks
        begin, before = (ticks[-1].at - seconds if ticks else 0.0), math.inf
        for tick, view in self._windows.past():
            if tick.at >= begin:
                # Of a time in which the process was suspended, nothing is known.
                window = view(max(shortest, min(tick.at - before, seconds)))
                yield tick.wall, {} if tick.after_pause else _figures(window.stats(name, None, by, only), statistic)
            before = tick.at

    def _entry(self, family: Family) -> MetricEntry:
        name, known = name_of(family), CATALOG.get(name_of(family))
        living = self._windows.count_living(name)
        declared = () if known is None else known.labels
        return MetricEntry(
            name=name,
            type=family.type,
            unit=family.unit or _unit(name),
            help=family.documentation,
            labels=[*(self._windows.labels(name) or declared)],
            series=living,
            problem=None if living or family.type in KINDS else _UNWATCHED,
        )

    def _switched_off(self) -> Iterator[MetricEntry]:
        for metric in CATALOG:
            problem = self._off.format(pack=metric.pack) if metric.pack else None
            yield MetricEntry(
                name=metric.name,
                type=metric.type,
                unit=metric.unit or _unit(metric.name),
                help=metric.shown_help,
                labels=[*metric.labels],
                series=0,
                problem=problem,
            )


def _default(name: str, statistics: Sequence[str]) -> str:
    """Choose what is drawn by default: of gauges the sum, unless they are shares or states."""
    adds_up = "total" in statistics and not name.endswith(("_ratio", "_rate", "_status"))
    return "total" if adds_up else next(iter(statistics), "")


def _check(wanted: Sequence[str], known: Sequence[str], what: str) -> None:
    for one in wanted:
        if one not in known:
            raise ValueError(f"{one[:40]!r} is no {what} of this metric; there are: {', '.join(known) or 'none'}")


def _unit(name: str) -> str:
    return next((unit for unit in _UNITS if name.removesuffix("_total").endswith(f"_{unit}")), "")


def _figures(stats: dict[Group, WindowStats], statistic: str) -> dict[Group, float]:
    values = {group: one.statistic(statistic) for group, one in stats.items()}
    return {group: value for group, value in values.items() if value is not None and not math.isnan(value)}


def _now(labels: Sequence[str], values: tuple[str, ...], numbers: Sequence[float]) -> SeriesNow:
    total, *counts = numbers
    value, sum_ = (sum(counts), total) if counts else (total, None)
    return SeriesNow(labels=labels_of(labels, values), value=finite(value), sum=finite(sum_))


def _weight(series: SeriesNow) -> float:
    return -math.inf if series.value is None else series.value
