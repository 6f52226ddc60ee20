"""One window over the samples of the registry: the difference between two of them, and what it says of each metric."""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from statistics import fmean
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from sage_fastapi_obs.alerting.label_matchers import Where
from sage_fastapi_obs.alerting.window_stats import CounterStats, GaugeStats, HistogramStats, WindowStats
from sage_fastapi_obs.alerting.window_store import MetricHistory, Tick, decompress
from sage_fastapi_obs.metrics.registry_reader import Kind

LONGEST_SECONDS = 7 * 86_400.0
"""The longest window."""
Group: TypeAlias = tuple[str, ...]
"""Values of the labels that series are grouped by, in their order."""
Rows: TypeAlias = dict[Group, list[int]]
"""By group, the rows of its series in a `MetricHistory`."""
S = TypeVar("S", CounterStats, HistogramStats, GaugeStats)


class Samples(Protocol):
    """What windows are part of."""

    def metrics(self) -> dict[str, Kind]:
        """Return the names of all metrics seen, with their kinds."""
        ...

    def select(self, name: str, where: Where, by: Sequence[str]) -> tuple[MetricHistory, Rows] | None:
        """Find the matching series of a metric, grouped."""
        ...


class _WindowStart(NamedTuple):
    """Where a window begins: between two ticks, at a share of the way from one to the other."""

    before: Tick
    after: Tick
    share: float

    @property
    def watched(self) -> float:
        return self.before.watched + (self.after.watched - self.before.watched) * self.share


class Window:
    """A stretch of time up to a tick. All statistics of one window are of the same moment."""

    def __init__(
        self,
        windows: Samples,
        seconds: float,
        ticks: Sequence[Tick],
        now: Mapping[str, "array[float]"],
        gone: Mapping[str, Mapping[int, float]],
    ) -> None:
        self._windows = windows
        self._ticks = ticks
        self._now = now
        self._gone = gone
        self._begin = _window_start(ticks, seconds)
        self.seconds = seconds
        """Its length, as asked for."""

    @property
    def covered_seconds(self) -> float:
        """How much of it the process has been watched for: less after a start or while suspended; 0 before the second tick."""
        return 0.0 if self._begin is None else self._ticks[-1].watched - self._begin.watched

    @property
    def ended_at(self) -> float:
        """Unix time of its end; 0 before the first tick."""
        return self._ticks[-1].wall if self._ticks else 0.0

    def metrics(self) -> dict[str, Kind]:
        """Return the names of all metrics, with their kinds."""
        return self._windows.metrics()

    def stats(
        self, name: str, where: Where | None = None, by: Sequence[str] = (), only: Iterable[Group] | None = None
    ) -> dict[Group, WindowStats]:
        """Return the statistics of a metric, by the values of some labels; `only`: of these groups.

        Nothing for a metric that is not known, for groups without series, and, but for gauges, before the second tick.
        """
        selected = self._windows.select(name, where or {}, by)
        if selected is None or name not in self._now:
            return {}
        history, groups = selected
        if only is not None:
            groups = {group: groups[group] for group in only if group in groups}
        if history.kind == "gauge":
            return self._gauges(history, groups)
        if self._begin is None or not self.covered_seconds:
            return {}
        increases = self._increases(history, groups, self._begin)
        if history.kind == "counter":
            return {group: CounterStats(self.seconds, values[0]) for group, values in increases.items()}
        extremes = self._extremes(history, groups)
        return {
            group: HistogramStats(self.seconds, history.bounds, values[0], tuple(values[1:]), *extremes.get(group, ()))
            for group, values in increases.items()
        }

    def counter(self, name: str, where: Where | None = None, by: Sequence[str] = ()) -> dict[Group, CounterStats]:
        """Return the statistics of a counter; nothing if the metric is none."""
        return _of_kind(CounterStats, self.stats(name, where, by))

    def histogram(
        self, name: str, where: Where | None = None, by: Sequence[str] = (), only: Iterable[Group] | None = None
    ) -> dict[Group, HistogramStats]:
        """Return the statistics of a histogram; nothing if the metric is none."""
        return _of_kind(HistogramStats, self.stats(name, where, by, only))

    def gauge(self, name: str, where: Where | None = None, by: Sequence[str] = ()) -> dict[Group, GaugeStats]:
        """Return the statistics of a gauge; nothing if the metric is none, or has gone."""
        stats = _of_kind(GaugeStats, self.stats(name, where, by))
        return {group: one for group, one in stats.items() if not math.isnan(one.last)}

    def _increases(self, history: MetricHistory, groups: Rows, begin: _WindowStart) -> dict[Group, list[float]]:
        now = self._now[history.name]
        before, after = (decompress(tick.totals.get(history.name)) for tick in (begin.before, begin.after))
        # The sum of a histogram may fall.
        may_fall = history.kind == "histogram"
        increases = {}
        for group, rows in self._living(history, groups).items():
            if (totals := _sums(now, rows, history.width)) is None:
                continue
            # Interpolated between two ticks; series that did not exist yet began at 0.
            zeros = [0.0] * history.width
            first, second = (_sums(numbers, rows, history.width) or zeros for numbers in (before, after))
            base = [one + (other - one) * begin.share for one, other in zip(first, second, strict=True)]
            # Interpolation may be off by the last bit, which must not make a count negative.
            changes = [total - start for total, start in zip(totals, base, strict=True)]
            increases[group] = [
                change if may_fall and not column else max(0.0, change) for column, change in enumerate(changes)
            ]
        return increases

    def _living(self, history: MetricHistory, groups: Rows) -> Rows:
        """Leave out the series that had gone before the window began, and groups that have no others."""
        gone = self._gone.get(history.name)
        if gone is None:
            return groups
        begin = self._ticks[-1].at - self.seconds
        living = {group: [row for row in rows if gone.get(row, begin) >= begin] for group, rows in groups.items()}
        return {group: rows for group, rows in living.items() if rows}

    def _extremes(self, history: MetricHistory, groups: Rows) -> dict[Group, tuple[float | None, float | None]]:
        inside = [tick.extremes[history.name] for tick in self._ticks_within() if history.name in tick.extremes]
        if not inside:
            return {}
        lows: list[float] = [math.inf] * len(history.rows)
        highs: list[float] = [-math.inf] * len(history.rows)
        for found in map(decompress, inside):
            lows[: len(found) // 2] = map(min, lows, found[::2])
            highs[: len(found) // 2] = map(max, highs, found[1::2])
        return {
            group: (_finite(min(lows[row] for row in rows)), _finite(max(highs[row] for row in rows)))
            for group, rows in groups.items()
        }

    def _gauges(self, history: MetricHistory, groups: Rows) -> dict[Group, WindowStats]:
        now = self._now[history.name]
        ticks = [*(decompress(tick.totals.get(history.name)) for tick in self._ticks_within()[:-1]), now]
        stats: dict[Group, WindowStats] = {}
        for group, rows in groups.items():
            if series := [values for row in rows if (values := [*_values(ticks, (row,))])]:
                newest = [*_values((now,), rows)] or [math.nan]
                low, mean, high = (max(map(statistic, series)) for statistic in (min, fmean, max))
                stats[group] = GaugeStats(self.seconds, max(newest), sum(newest), low, mean, high, len(newest))
        return stats

    def _ticks_within(self) -> list[Tick]:
        """Return the ticks of the window; one at its very beginning belongs to the window before."""
        if self._begin is None:
            return [*self._ticks[-1:]]
        begin = self._ticks[-1].at - self.seconds
        return [tick for tick in self._ticks[1:] if tick.at > begin]


def _window_start(ticks: Sequence[Tick], seconds: float) -> _WindowStart | None:
    if len(ticks) < 2:
        return None
    at = ticks[-1].at - seconds
    following = bisect_right(ticks, at, key=attrgetter("at"))
    if not following:
        return _WindowStart(ticks[0], ticks[0], 0.0)
    before, after = ticks[following - 1], ticks[following]
    # What was counted between a tick and a suspension is older than the suspension.
    share = 1.0 if after.after_pause else (at - before.at) / (after.at - before.at)
    return _WindowStart(before, after, share)


def _of_kind(kind: type[S], stats: Mapping[Group, WindowStats]) -> dict[Group, S]:
    return {group: one for group, one in stats.items() if isinstance(one, kind)}


def _sums(numbers: "array[float]", rows: Sequence[int], width: int) -> list[float] | None:
    """Add rows up, column by column; None if none of them existed."""
    existing = len(numbers) // width
    inside = rows if rows[-1] < existing else [row for row in rows if row < existing]
    if not inside:
        return None
    if len(inside) == existing:
        return [sum(numbers[column::width]) for column in range(width)]
    return [*map(sum, zip(*(numbers[row * width : (row + 1) * width] for row in inside), strict=True))]


def _values(ticks: Iterable[Sequence[float]], rows: Sequence[int]) -> Iterator[float]:
    return (numbers[row] for numbers in ticks for row in rows if row < len(numbers) and not math.isnan(numbers[row]))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
