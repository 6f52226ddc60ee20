"""Rolling windows over the registry's own instruments: what summary, alerts, health, targets and page are computed from.

Each tick keeps the totals of all series; a window is the difference between two ticks. Windows go by a monotonic clock, so that
setting the system clock changes nothing; Unix time is only shown. What was counted just before the process was suspended is not
part of a short window after it.
"""

import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter

from sage_fastapi_obs.alerting.label_matchers import Where, matcher
from sage_fastapi_obs.alerting.window import LONGEST_SECONDS, Rows, Window
from sage_fastapi_obs.alerting.window_store import MetricHistory, Tick, compress, decompress, merge_tick, thin
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.metrics.registry_reader import Child, Kind, Reading

MOST_SERIES = 50_000
"""Label sets that are watched; more are counted as left out."""
_PAUSE_INTERVALS = 4
"""A tick that comes so many intervals after the last one shows that the process was suspended."""
MOST_SELECTIONS = 256
MOST_NUMBERS = 2_000_000
"""Numbers that are looked at to say what a rule would have done in the past."""


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
        self._is_baseline = False
        """Whether what the next sample finds was counted before, and is no increase."""
        self._lock = threading.RLock()
        self._selections: dict[tuple[object, ...], tuple[MetricHistory, int, Rows]] = {}
        self.series = 0
        """Label sets that are watched."""
        self.left_out = 0
        """New label sets that the last tick found no room for."""

    @property
    def ticks(self) -> Sequence[Tick]:
        """The ticks that are kept, the oldest first."""
        return self._ticks

    @property
    def histories(self) -> dict[str, MetricHistory]:
        """All metrics with their series, by name."""
        return self._histories

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
        # Copied rather than locked: who asks may have locks that sampling needs.
        ticks = self._ticks[:]
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
            is_baseline, self._is_baseline = self._is_baseline, False
            for reading in self._read():
                self._record(reading, tick, is_baseline=is_baseline)
                missing.discard(reading.name)
            for name in missing:
                self._record(self._histories[name].nothing(), tick)
            tick.totals = {name: history.compressed for name, history in self._histories.items()}
            if len(self._ticks) > 1 and tick.at - self._ticks[-2].at < self.interval_seconds / 2:
                merge_tick(self._ticks.pop(), tick)
            self._ticks = thin([*self._ticks, tick], LONGEST_SECONDS)

    def go_on_from(self, histories: dict[str, MetricHistory], ticks: Sequence[Tick], *, same_counters: bool) -> None:
        """Put the samples of others, at least one, in the place of those so far.

        `same_counters`: they were taken of the counters that are read here, by another worker, perhaps after the last own
        sample, which is forgotten: lower numbers look like a reset. Else they are of a process that has ended, and what is
        counted here is added.
        """
        with self._lock:
            own, own_ticks = self._histories, self._ticks
            self._histories, self._ticks, self._selections = histories, [*ticks], {}
            self.series = sum(len(history.rows) for history in histories.values())
            if not same_counters:
                for history in histories.values():
                    history.count_anew()
                self._is_baseline = not own_ticks and not self.from_zero
                self._mark_gap(own_ticks)
                for history in own.values():
                    self._record(history.reading(), self._ticks[-1], is_baseline=True)

    def _mark_gap(self, own_ticks: Sequence[Tick]) -> None:
        """Let nothing have happened between the last tick and the time from which on this process has watched."""
        now, last = self._clock(), self._ticks[-1]
        began = own_ticks[-1].at if own_ticks else now - self.interval_seconds * (not self._is_baseline)
        if began > last.at:
            totals = {name: blob for name, blob in last.totals.items() if self._histories[name].kind != "gauge"}
            wall = self._wall_clock() - (now - began)
            self._ticks.append(Tick(began, wall, last.watched, after_pause=True, totals=totals))

    def view(self, seconds: float) -> Window:
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

    def steps(self, seconds: float, most: int) -> list[Window]:
        """Cut the last seconds into windows that follow each other, the oldest first; each is from one sample to another.

        `most`: so many at most. While their samples are kept, the next call returns the same ones again, and new ones.
        """
        with self._lock:
            ticks = self._ticks[:]
        begin = ticks[-1].at - seconds if ticks else 0.0
        ends = [*{tick.at * most // seconds: index for index, tick in enumerate(ticks) if tick.at >= begin}.values()]
        return [self._past_view(ticks[: end + 1], ticks[end].at - ticks[start].at) for start, end in pairwise(ends)]

    def _past_view(self, ticks: Sequence[Tick], seconds: float) -> Window:
        return Window(self, seconds, ticks, _PastTotals(ticks[-1].totals), {})

    def metrics(self) -> dict[str, Kind]:
        """Return the names of all metrics seen, with their kinds."""
        return {name: history.kind for name, history in self._histories.copy().items()}

    def labels(self, name: str) -> tuple[str, ...]:
        """Return the names of a metric's labels; none for a metric that has not been seen."""
        history = self._histories.get(name)
        return () if history is None else history.labels

    def count_living(self, name: str) -> int:
        """Count the series of a metric that exist."""
        history = self._histories.get(name)
        return 0 if history is None else history.count_living()

    def living(self, name: str) -> list[Child]:
        """Return the series of a metric that exist, with the numbers that the registry had at the last sample."""
        with self._lock:
            history = self._histories.get(name)
            return [] if history is None else history.living()

    def has_series(self, name: str, where: Where) -> bool:
        """Tell whether a metric has series that match; without a lock, as who asks may have some that sampling needs."""
        history = self._histories.get(name)
        return history is not None and bool(_select(history.labels, history.rows.copy(), where, ()))

    def select(self, name: str, where: Where, by: Sequence[str]) -> tuple[MetricHistory, Rows] | None:
        """Find the matching series of a metric, grouped; remembered until there are new series."""
        with self._lock:
            history = self._histories.get(name)
            if history is None:
                return None
            key = (name, tuple(sorted(where.items())), tuple(by))
            selected_of, series, rows = self._selections.get(key, (None, 0, {}))
            if selected_of is not history or series != len(history.rows):
                rows = _select(history.labels, history.rows, where, by)
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

    def _record(self, reading: Reading, tick: Tick, *, is_baseline: bool = False) -> None:
        history = self._histories.get(reading.name)
        if history is None or not history.fits(reading):
            self.series -= len(history.rows) if history else 0
            history = self._histories[reading.name] = MetricHistory(reading)
            for earlier in self._ticks:
                had = earlier.totals.pop(reading.name, None), earlier.extremes.pop(reading.name, None)
                earlier.is_stored = earlier.is_stored and had == (None, None)
        before = len(history.rows)
        last_pair = self._ticks[-2:][0].at if self._ticks else tick.at
        self.left_out += history.record(reading, MOST_SERIES - self.series, last_pair, is_baseline=is_baseline)
        self.series += len(history.rows) - before
        if extremes := history.extremes(reading):
            tick.extremes[reading.name] = compress(extremes)


def _select(names: Sequence[str], series: Mapping[tuple[str, ...], int], where: Where, by: Sequence[str]) -> Rows:
    columns = {label: column for column, label in enumerate(names)}
    matchers = [(columns.get(label), matcher(wanted)) for label, wanted in where.items()]
    grouping = [columns.get(label) for label in by]
    rows: Rows = {}
    for labels, row in series.items():
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
