"""Rolling windows over the registry's own instruments: what summary, alerts, health, targets and page are computed from.

At each tick the totals of all series are noted; a window is the difference between two notes. Time is monotonic, and wall
time is only shown: a clock that is set changes nothing. What was counted just before a pause of the process is not part of a
short window after it.
"""

import math
import re
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from statistics import fmean
from typing import NamedTuple, TypeAlias

from sage_fastapi_obs.alerting.window_stats import CounterStats, HistogramStats, Measured, Numbers
from sage_fastapi_obs.alerting.window_store import MetricHistory, Tick, compress, merge_tick, thin, unpacked
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.metrics.registry_reader import Kind, Reading

__all__ = ["LONGEST_SECONDS", "MOST_SERIES", "Group", "Where", "Window", "Windows", "matcher", "operator_of"]

LONGEST_SECONDS = 7 * 86_400.0
"""The longest window."""
MOST_SERIES = 50_000
"""Label sets that are watched; more are counted as left out."""
PAUSE_TICKS = 4
"""A tick that comes this many intervals after the one before tells of a suspended process."""
REMEMBERED_CHOICES = 256

Where: TypeAlias = Mapping[str, str]
"""What labels must be, as in PromQL: `{"route": "/items", "status": "=~5..", "method": "!=HEAD"}`. Operators are `=`, which
may be left out, `!=`, `=~` and `!~`; expressions match whole values, and a label that is missing is empty."""
Group: TypeAlias = tuple[str, ...]
"""Values of the labels that series are grouped by, in their order."""

_Rows: TypeAlias = dict[Group, list[int]]
_at = attrgetter("at")


@lru_cache(maxsize=1024)
def matcher(wanted: str) -> Callable[[str], bool]:
    """Build the test for one label of a `Where`; raises `SettingsError` for an expression that is none."""
    operator, text = operator_of(wanted)
    if operator in ("=", "!="):
        return lambda value: (value == text) == (operator == "=")
    try:
        expression = re.compile(text)
    except re.error as error:
        raise SettingsError(f"{wanted!r} is no regular expression: {error}") from None
    return lambda value: (expression.fullmatch(value) is not None) == (operator == "=~")


def operator_of(wanted: str) -> tuple[str, str]:
    """Split what a label must be into operator and text."""
    found = next((operator for operator in ("=~", "!~", "!=", "=") if wanted.startswith(operator)), "")
    return found or "=", wanted[len(found) :]


class Windows:
    """Remembers what the registry told, up to seven days back, and answers for any window within."""

    def __init__(
        self,
        read: Callable[[], Iterable[Reading]],
        *,
        interval_seconds: float = 15.0,
        from_zero: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`read`: what tells the numbers. `clock`: monotonic seconds. `wall_clock`: Unix time.

        `from_zero`: nothing had been counted before, so the first look finds what happened since; else it is the beginning.
        """
        self._read = read
        self._interval_seconds = interval_seconds
        self._from_zero = from_zero
        self._clock = clock
        self._wall_clock = wall_clock
        self._columns: dict[str, MetricHistory] = {}
        self._ticks: list[Tick] = []
        self._lock = threading.RLock()
        self._choices: dict[tuple[object, ...], tuple[MetricHistory, int, _Rows]] = {}
        self.series = 0
        """Label sets that are watched."""
        self.left_out = 0
        """New label sets that the last tick found no room for."""

    @property
    def watched_seconds(self) -> float:
        """Time between the first and the last tick, in which the process was running; what `for` of a rule is measured in."""
        return self._ticks[-1].watched if self._ticks else 0.0

    def sample(self) -> None:
        """Look at the registry now.

        A tick that follows another by less than half an interval takes its place, so that looking often costs no memory.
        """
        with self._lock:
            tick = self._next_tick()
            self.left_out = 0
            for reading in self._read():
                self._take(reading, tick)
            for name, column in self._columns.items():
                tick.totals[name] = column.packed
            self._keep(tick)

    def view(self, seconds: float) -> "Window":
        """Return the last seconds before the last tick; it does not change when time goes on."""
        if not 0 < seconds <= LONGEST_SECONDS:
            raise SettingsError(f"a window is longer than 0 and at most {LONGEST_SECONDS:.0f} seconds, not {seconds:g}")
        with self._lock:
            return Window(self, seconds, self._ticks[:], {name: column.now for name, column in self._columns.items()})

    def metrics(self) -> dict[str, Kind]:
        """Return the names of all metrics seen, with their kinds."""
        return {name: column.kind for name, column in self._columns.copy().items()}

    def _next_tick(self) -> Tick:
        at, wall = self._clock(), self._wall_clock()
        if not self._ticks and not self._from_zero:
            return Tick(at, wall, 0.0)
        if not self._ticks:
            self._ticks = [Tick(at - self._interval_seconds, wall - self._interval_seconds, 0.0)]
        last = self._ticks[-1]
        elapsed = max(0.0, at - last.at)
        paused = elapsed > PAUSE_TICKS * self._interval_seconds
        watched = last.watched + (self._interval_seconds if paused else elapsed)
        return Tick(last.at + elapsed, wall, watched, paused)

    def _take(self, reading: Reading, tick: Tick) -> None:
        column = self._columns.get(reading.name)
        if column is None or not column.fits(reading):
            self.series -= len(column.rows) if column else 0
            column = self._columns[reading.name] = MetricHistory(reading)
            for earlier in self._ticks:
                earlier.totals.pop(reading.name, None)
        known = len(column.rows)
        self.left_out += column.take(reading, MOST_SERIES - self.series)
        self.series += len(column.rows) - known
        if extremes := column.extremes(reading):
            tick.extremes[reading.name] = compress(extremes)

    def _keep(self, tick: Tick) -> None:
        ticks = self._ticks
        if len(ticks) > 1 and tick.at - ticks[-2].at < self._interval_seconds / 2:
            merge_tick(ticks.pop(), tick)
        self._ticks = thin([*ticks, tick], LONGEST_SECONDS)

    def choose(self, name: str, where: Where, by: Sequence[str]) -> tuple[MetricHistory, _Rows] | None:
        """Find the series of a metric that are meant, grouped; remembered until there are new ones."""
        with self._lock:
            column = self._columns.get(name)
            if column is None:
                return None
            key = (name, tuple(sorted(where.items())), tuple(by))
            of, known, rows = self._choices.get(key, (None, 0, {}))
            if of is not column or known != len(column.rows):
                rows = _chosen(column, where, by)
                self._choices[key] = (column, len(column.rows), rows)
                while len(self._choices) > REMEMBERED_CHOICES:
                    del self._choices[next(iter(self._choices))]
            return column, rows


def _chosen(column: MetricHistory, where: Where, by: Sequence[str]) -> _Rows:
    places = {label: place for place, label in enumerate(column.labels)}
    tests = [(places.get(label), matcher(wanted)) for label, wanted in where.items()]
    groups = [places.get(label) for label in by]
    rows: _Rows = {}
    for labels, row in column.rows.items():
        if all(test("" if place is None else labels[place]) for place, test in tests):
            rows.setdefault(tuple("" if place is None else labels[place] for place in groups), []).append(row)
    return rows


class _Edge(NamedTuple):
    """Where a window begins: between two ticks, at a share of the way from one to the other."""

    before: Tick
    after: Tick
    share: float

    @property
    def watched(self) -> float:
        return self.before.watched + (self.after.watched - self.before.watched) * self.share


class Window:
    """A stretch of time up to a tick. All figures of one window are of the same moment."""

    def __init__(self, windows: Windows, seconds: float, ticks: Sequence[Tick], now: Mapping[str, "array[float]"]) -> None:
        self._windows = windows
        self._ticks = ticks
        self._now = now
        self._edge = _edge(ticks, seconds)
        self.seconds = seconds
        """Its length, as asked for."""

    @property
    def covered_seconds(self) -> float:
        """How much of it the process has been watched for: less after a start or while suspended; 0 before the second tick."""
        return 0.0 if self._edge is None else self._ticks[-1].watched - self._edge.watched

    @property
    def ended_at(self) -> float:
        """Unix time of its end; 0 before the first tick."""
        return self._ticks[-1].wall if self._ticks else 0.0

    def metrics(self) -> dict[str, Kind]:
        """Return the names of all metrics, with their kinds."""
        return self._windows.metrics()

    def numbers(
        self, name: str, where: Where | None = None, by: Sequence[str] = (), only: Iterable[Group] | None = None
    ) -> dict[Group, Numbers]:
        """Return what the series of a metric amount to, by the values of some labels; `only`: of these groups.

        Nothing for a metric that is not known, for groups without series, and, but for gauges, before the second tick.
        """
        chosen = self._windows.choose(name, where or {}, by)
        if chosen is None or name not in self._now:
            return {}
        column, groups = chosen
        if only is not None:
            groups = {group: groups[group] for group in only if group in groups}
        if column.kind == "gauge":
            return self._gauges(column, groups)
        if self._edge is None or not self.covered_seconds:
            return {}
        risen = self._risen(column, groups, self._edge)
        if column.kind == "counter":
            return {group: CounterStats(self.seconds, values[0]) for group, values in risen.items()}
        extremes = self._extremes(column, groups)
        return {
            group: HistogramStats(self.seconds, column.bounds, values[0], tuple(values[1:]), *extremes.get(group, (None, None)))
            for group, values in risen.items()
        }

    def counted(self, name: str, where: Where | None = None, by: Sequence[str] = ()) -> dict[Group, CounterStats]:
        """Return the same for a counter; nothing if the metric is none."""
        return {group: one for group, one in self.numbers(name, where, by).items() if isinstance(one, CounterStats)}

    def observed(
        self, name: str, where: Where | None = None, by: Sequence[str] = (), only: Iterable[Group] | None = None
    ) -> dict[Group, HistogramStats]:
        """Return the same for a histogram; nothing if the metric is none."""
        return {group: one for group, one in self.numbers(name, where, by, only).items() if isinstance(one, HistogramStats)}

    def measured(self, name: str, where: Where | None = None, by: Sequence[str] = ()) -> dict[Group, Measured]:
        """Return the same for a gauge; nothing if the metric is none."""
        return {group: one for group, one in self.numbers(name, where, by).items() if isinstance(one, Measured)}

    def _risen(self, column: MetricHistory, groups: _Rows, edge: _Edge) -> dict[Group, list[float]]:
        now = self._now[column.name]
        before, after = (unpacked(tick.totals.get(column.name)) for tick in (edge.before, edge.after))
        may_fall = column.kind == "histogram"
        risen = {}
        for group, rows in groups.items():
            if (totals := _summed(now, rows, column.width)) is None:
                continue
            nothing = [0.0] * column.width
            # On the line between two ticks; series that were not there yet began at 0.
            first, second = (_summed(numbers, rows, column.width) or nothing for numbers in (before, after))
            base = [one + (other - one) * edge.share for one, other in zip(first, second, strict=True)]
            # Interpolation may be off by the last bit, which must not make a count negative.
            rises = [total - begin for total, begin in zip(totals, base, strict=True)]
            risen[group] = [rise if may_fall and not place else max(0.0, rise) for place, rise in enumerate(rises)]
        return risen

    def _extremes(self, column: MetricHistory, groups: _Rows) -> dict[Group, tuple[float | None, float | None]]:
        inside = [tick.extremes[column.name] for tick in self._inside() if column.name in tick.extremes]
        if not inside:
            return {}
        lows: list[float] = [math.inf] * len(column.rows)
        highs: list[float] = [-math.inf] * len(column.rows)
        for found in map(unpacked, inside):
            lows[: len(found) // 2] = map(min, lows, found[::2])
            highs[: len(found) // 2] = map(max, highs, found[1::2])
        return {
            group: (_finite(min(lows[row] for row in rows)), _finite(max(highs[row] for row in rows)))
            for group, rows in groups.items()
        }

    def _gauges(self, column: MetricHistory, groups: _Rows) -> dict[Group, Numbers]:
        now = self._now[column.name]
        ticks = [*(unpacked(tick.totals.get(column.name)) for tick in self._inside()[:-1]), now]
        found: dict[Group, Numbers] = {}
        for group, rows in groups.items():
            if newest := [*_known((now,), rows)]:
                every = [values for row in rows if (values := [*_known(ticks, (row,))])]
                low, mean, high = (max(map(of, every)) for of in (min, fmean, max))
                found[group] = Measured(self.seconds, max(newest), sum(newest), low, mean, high)
        return found

    def _inside(self) -> list[Tick]:
        """Return the ticks of the window; that at its very beginning belongs to the window before."""
        if self._edge is None:
            return [*self._ticks[-1:]]
        begin = self._ticks[-1].at - self.seconds
        return [tick for tick in self._ticks[1:] if tick.at > begin]


def _edge(ticks: Sequence[Tick], seconds: float) -> _Edge | None:
    if len(ticks) < 2:
        return None
    begin = ticks[-1].at - seconds
    place = bisect_right(ticks, begin, key=_at)
    if not place:
        return _Edge(ticks[0], ticks[0], 0.0)
    before, after = ticks[place - 1], ticks[place]
    # What was counted between a tick and a pause is older than the pause.
    share = 1.0 if after.after_pause else (begin - before.at) / (after.at - before.at)
    return _Edge(before, after, share)


def _summed(numbers: "array[float]", rows: Sequence[int], width: int) -> list[float] | None:
    """Add rows up, column by column; None if none of them was there."""
    there = len(numbers) // width
    inside = rows if rows[-1] < there else [row for row in rows if row < there]
    if not inside:
        return None
    if len(inside) == there:
        return [sum(numbers[place::width]) for place in range(width)]
    return [*map(sum, zip(*(numbers[row * width : (row + 1) * width] for row in inside), strict=True))]


def _known(ticks: Iterable[Sequence[float]], rows: Sequence[int]) -> Iterator[float]:
    return (numbers[row] for numbers in ticks for row in rows if row < len(numbers) and not math.isnan(numbers[row]))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
