"""Rolling windows over the registry's own instruments: what summary, alerts, health, targets and page are computed from.

Each tick keeps the totals of all series; a window is the difference between two ticks. Windows go by a monotonic clock, so that
setting the system clock changes nothing; Unix time is only shown. What was counted just before the process was suspended is not
part of a short window after it.
"""

import math
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from statistics import fmean
from typing import NamedTuple, TypeAlias, TypeVar

from sage_fastapi_obs.alerting.label_matchers import Where, matcher
from sage_fastapi_obs.alerting.window_stats import CounterStats, GaugeStats, HistogramStats, WindowStats
from sage_fastapi_obs.alerting.window_store import MetricHistory, Tick, compress, decompress, merge_tick, thin
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.metrics.registry_reader import Kind, Reading

LONGEST_SECONDS = 7 * 86_400.0
"""The longest window."""
MOST_SERIES = 50_000
"""Label sets that are watched; more are counted as left out."""
_PAUSE_INTERVALS = 4
"""A tick that comes so many intervals after the last one shows that the process was suspended."""
MOST_SELECTIONS = 256
MOST_NUMBERS = 2_000_000
"""Numbers that are looked at to say what a rule would have done in the past."""

Group: TypeAlias = tuple[str, ...]
"""Values of the labels that series are grouped by, in their order."""
_Rows: TypeAlias = dict[Group, list[int]]
"""By group, the rows of its series in a `MetricHistory`."""
S = TypeVar("S", CounterStats, HistogramStats, GaugeStats)


class Windows:
    """Samples the registry, keeps up to seven days of it, and answers for any window within."""

    def __init__(
        self,
        read: Callable[[], Iterable[Reading]],
        *,
        interval_seconds: float = 15.0,
        from_zero: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`read`: reads the registry. `clock`: monotonic seconds. `wall_clock`: Unix time.

        `from_zero`: nothing had been counted before, so that the first sample is an increase; else it is the baseline.
        """
        self._read = read
        self.interval_seconds = interval_seconds
        self.from_zero = from_zero
        self._clock = clock
        self._wall_clock = wall_clock
        self._histories: dict[str, MetricHistory] = {}
        self._ticks: list[Tick] = []
        self._lock = threading.RLock()
        self._selections: dict[tuple[object, ...], tuple[MetricHistory, int, _Rows]] = {}
        self.series = 0
        """Label sets that are watched."""
        self.left_out = 0
        """New label sets that the last tick found no room for."""

    @property
    def ticks(self) -> Sequence[Tick]:
        """The ticks that are kept, the oldest first."""
        return self._ticks

    @property
    def selections(self) -> int:
        """How many selections of series are remembered."""
        return len(self._selections)

    @property
    def watched_seconds(self) -> float:
        """Time between the first and the last tick, without suspensions; the clock of alert rules."""
        return self._ticks[-1].watched if self._ticks else 0.0

    def watched_at(self, at: float) -> float:
        """Return what `watched_seconds` was, or is going to be, at a time of the clock."""
        with self._lock:
            ticks = self._ticks
            following = bisect_right(ticks, at, key=attrgetter("at"))
            if not ticks or not following:
                return ticks[0].watched + at - ticks[0].at if ticks else 0.0
            found = ticks[following - 1].watched + at - ticks[following - 1].at
            return found if following == len(ticks) else min(found, ticks[following].watched)

    def sample(self) -> None:
        """Read the registry now.

        A tick that follows another by less than half an interval replaces it, so that sampling often costs no memory.
        """
        with self._lock:
            tick = self._next_tick()
            self.left_out = 0
            missing = {*self._histories}
            for reading in self._read():
                self._record(reading, tick)
                missing.discard(reading.name)
            for name in missing:
                self._record(self._histories[name].nothing(), tick)
            tick.totals = {name: history.compressed for name, history in self._histories.items()}
            if len(self._ticks) > 1 and tick.at - self._ticks[-2].at < self.interval_seconds / 2:
                merge_tick(self._ticks.pop(), tick)
            self._ticks = thin([*self._ticks, tick], LONGEST_SECONDS)

    def view(self, seconds: float) -> "Window":
        """Return the last seconds before the last tick; it does not change when time goes on."""
        if not 0 < seconds <= LONGEST_SECONDS:
            raise SettingsError(f"a window is longer than 0 and at most {LONGEST_SECONDS:.0f} seconds, not {seconds:g}")
        with self._lock:
            now = {name: history.now for name, history in self._histories.items()}
            gone = {name: history.gone for name, history in self._histories.items() if history.gone}
            return Window(self, seconds, self._ticks[:], now, gone)

    def past(self) -> "Iterator[tuple[Tick, Callable[[float], Window]]]":
        """Yield the samples that are kept, the oldest first, each with the windows up to it; fewer if there are many series."""
        with self._lock:
            ticks, most = self._ticks[:], max(2, MOST_NUMBERS // max(1, self.series))
        for index in range(max(1, len(ticks) - most), len(ticks)):
            yield ticks[index], partial(self._past_view, ticks[: index + 1])

    def _past_view(self, ticks: Sequence[Tick], seconds: float) -> "Window":
        return Window(self, seconds, ticks, _PastTotals(ticks[-1].totals), {})

    def metrics(self) -> dict[str, Kind]:
        """Return the names of all metrics seen, with their kinds."""
        return {name: history.kind for name, history in self._histories.copy().items()}

    def select(self, name: str, where: Where, by: Sequence[str]) -> tuple[MetricHistory, _Rows] | None:
        """Find the matching series of a metric, grouped; remembered until there are new series."""
        with self._lock:
            history = self._histories.get(name)
            if history is None:
                return None
            key = (name, tuple(sorted(where.items())), tuple(by))
            selected_of, series, rows = self._selections.get(key, (None, 0, {}))
            if selected_of is not history or series != len(history.rows):
                rows = _select(history, where, by)
                self._selections[key] = (history, len(history.rows), rows)
                if len(self._selections) > MOST_SELECTIONS:
                    del self._selections[next(iter(self._selections))]
            return history, rows

    def _next_tick(self) -> Tick:
        at, wall = self._clock(), self._wall_clock()
        if not self._ticks and not self.from_zero:
            return Tick(at, wall, 0.0)
        if not self._ticks:
            self._ticks = [Tick(at - self.interval_seconds, wall - self.interval_seconds, 0.0)]
        last = self._ticks[-1]
        elapsed = max(0.0, at - last.at)
        paused = elapsed > _PAUSE_INTERVALS * self.interval_seconds
        watched = last.watched + (self.interval_seconds if paused else elapsed)
        return Tick(last.at + elapsed, wall, watched, paused)

    def _record(self, reading: Reading, tick: Tick) -> None:
        history = self._histories.get(reading.name)
        if history is None or not history.fits(reading):
            self.series -= len(history.rows) if history else 0
            history = self._histories[reading.name] = MetricHistory(reading)
            for earlier in self._ticks:
                earlier.totals.pop(reading.name, None)
        before = len(history.rows)
        last_pair = self._ticks[-2:][0].at if self._ticks else tick.at
        self.left_out += history.record(reading, MOST_SERIES - self.series, last_pair)
        self.series += len(history.rows) - before
        if extremes := history.extremes(reading):
            tick.extremes[reading.name] = compress(extremes)


def _select(history: MetricHistory, where: Where, by: Sequence[str]) -> _Rows:
    columns = {label: column for column, label in enumerate(history.labels)}
    matchers = [(columns.get(label), matcher(wanted)) for label, wanted in where.items()]
    grouping = [columns.get(label) for label in by]
    rows: _Rows = {}
    for labels, row in history.rows.items():
        if all(matches("" if column is None else labels[column]) for column, matches in matchers):
            rows.setdefault(tuple("" if column is None else labels[column] for column in grouping), []).append(row)
    return rows


class _PastTotals(Mapping[str, "array[float]"]):
    """The totals of a sample, decompressed when they are asked for."""

    def __init__(self, compressed: Mapping[str, bytes]) -> None:
        self._compressed = compressed

    def __getitem__(self, name: str) -> "array[float]":
        return decompress(self._compressed[name])

    def __contains__(self, name: object) -> bool:
        return name in self._compressed

    def __iter__(self) -> Iterator[str]:
        return iter(self._compressed)

    def __len__(self) -> int:
        return len(self._compressed)


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
        windows: Windows,
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

    def _increases(self, history: MetricHistory, groups: _Rows, begin: _WindowStart) -> dict[Group, list[float]]:
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

    def _living(self, history: MetricHistory, groups: _Rows) -> _Rows:
        """Leave out the series that had gone before the window began, and groups that have no others."""
        gone = self._gone.get(history.name)
        if gone is None:
            return groups
        begin = self._ticks[-1].at - self.seconds
        living = {group: [row for row in rows if gone.get(row, begin) >= begin] for group, rows in groups.items()}
        return {group: rows for group, rows in living.items() if rows}

    def _extremes(self, history: MetricHistory, groups: _Rows) -> dict[Group, tuple[float | None, float | None]]:
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

    def _gauges(self, history: MetricHistory, groups: _Rows) -> dict[Group, WindowStats]:
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
