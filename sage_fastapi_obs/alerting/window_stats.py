"""What a metric did over a window: increases, rates, means and quantiles, as Prometheus computes them.

The estimate of a quantile, such as p95, is `histogram_quantile` here, and nowhere else.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)")


def histogram_quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Estimate a quantile as Prometheus' function of this name does.

    `q`: 0 to 1. `bounds`: finite upper bounds, ascending. `counts`: observations of each bucket alone, one more than bounds.
    Linear within a bucket; above the last bound it is that bound. None without observations, and without bounds.
    """
    cumulative = [*accumulate(counts)]
    if not bounds or not cumulative[-1] > 0:
        return None
    rank = q * cumulative[-1]
    bucket = next(bucket for bucket, count in enumerate(cumulative) if count >= rank or bucket == len(bounds))
    if bucket == len(bounds):
        return bounds[-1]
    if bucket == 0 and bounds[0] <= 0:
        return bounds[0]
    lower, below = (bounds[bucket - 1], cumulative[bucket - 1]) if bucket else (0.0, 0.0)
    inside = cumulative[bucket] - below
    return lower + (bounds[bucket] - lower) * ((rank - below) / inside) if inside else None


def quantile_of(statistic: str) -> float | None:
    """Return the quantile that a statistic names, `p95` or `p99.9`; None if it names none."""
    found = _PERCENTILE.fullmatch(statistic)
    return None if found is None else round(float(found[1]) / 100, 6)


@dataclass(frozen=True, slots=True)
class WindowStats:
    """Statistics of a metric over a window."""

    statistics: ClassVar[tuple[str, ...]]
    default_statistic: ClassVar[str]

    seconds: float
    """Length of the window that was asked for."""

    def statistic(self, name: str | None) -> float | None:
        """Return a statistic by its name, the default one without a name; None if there is none of this name."""
        name = name or self.default_statistic
        return getattr(self, name) if name in self.statistics else None


@dataclass(frozen=True, slots=True)
class CounterStats(WindowStats):
    """A counter over a window."""

    statistics = ("increase", "rate")
    default_statistic = "increase"

    increase: float
    """How much it has risen; after a reset it counts from 0."""

    @property
    def rate(self) -> float:
        """Increase per second of the whole window, as Prometheus' `rate` has it."""
        return self.increase / self.seconds


@dataclass(frozen=True, slots=True)
class HistogramStats(WindowStats):
    """A histogram over a window; quantiles such as `p95` are statistics, too.

    Without observations all are None, but for `count`, `rate` and `sum`.
    """

    statistics = ("count", "rate", "sum", "mean", "min", "max")
    default_statistic = "p95"

    bounds: tuple[float, ...]
    """Finite upper bounds of the buckets; none for a summary."""
    sum: float
    counts: tuple[float, ...]
    """Observations of each bucket alone, one more than bounds."""
    lowest: float | None = None
    """The true minimum and maximum, where the instrument knows them."""
    highest: float | None = None

    @property
    def count(self) -> float:
        """Observations."""
        return sum(self.counts)

    @property
    def rate(self) -> float:
        """Observations per second of the whole window."""
        return self.count / self.seconds

    @property
    def mean(self) -> float | None:
        """Mean of the observations."""
        count = self.count
        return self.sum / count if count else None

    @property
    def min(self) -> float | None:
        """The lowest observation; where that is not known, the bound below it."""
        if self.lowest is not None or not self.count:
            return self.lowest
        bucket = self._buckets_in_use()[0]
        return self.bounds[bucket - 1] if bucket else None

    @property
    def max(self) -> float | None:
        """The highest observation; where that is not known, the bound above it, or the last one."""
        if self.highest is not None or not self.count or not self.bounds:
            return self.highest
        return self.bounds[min(self._buckets_in_use()[-1], len(self.bounds) - 1)]

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile, `q` from 0 to 1."""
        return histogram_quantile(q, self.bounds, self.counts)

    def statistic(self, name: str | None) -> float | None:
        """Return a statistic or quantile by its name, p95 without a name; None if there is none of this name."""
        q = quantile_of(name or self.default_statistic)
        return WindowStats.statistic(self, name) if q is None else self.quantile(q)

    def figure(self, name: str) -> float | None:
        """Return a statistic to be shown: a quantile uses the true extremes, which the estimate of a rule does not know."""
        q = quantile_of(name)
        if q is None or self.lowest is None or self.highest is None:
            return self.statistic(name)
        # Above the last bound is not nothing, but what lies between it and the highest.
        beyond = (self.highest,) if self.bounds and self.highest > self.bounds[-1] else ()
        value = histogram_quantile(q, (*self.bounds, *beyond), (*self.counts, *(0.0 for _ in beyond)))
        return None if value is None else min(max(value, self.lowest), self.highest)

    def _buckets_in_use(self) -> list[int]:
        return [bucket for bucket, count in enumerate(self.counts) if count]


@dataclass(frozen=True, slots=True)
class GaugeStats(WindowStats):
    """A gauge over a window, sampled at its ticks. Of several series, each statistic but `total` is the highest."""

    statistics = ("last", "total", "lowest", "average", "highest")
    default_statistic = "last"

    last: float
    """The newest value; not a number where all series have gone."""
    total: float
    """Sum of the newest values of all series."""
    lowest: float
    average: float
    highest: float
    series: int = 1
    """How many series have a value."""

    def statistic(self, name: str | None) -> float | None:
        """Return a statistic by its name; None if there is none of this name, and for the newest of series that have gone."""
        value = WindowStats.statistic(self, name)
        return None if value is None or math.isnan(value) else value
