"""What series amount to over a window: figures of a counter, a histogram or a gauge, as Prometheus would compute them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

__all__ = ["CounterStats", "HistogramStats", "Measured", "Numbers", "histogram_quantile", "quantile_of"]

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
    place = next(place for place, count in enumerate(cumulative) if count >= rank or place == len(bounds))
    if place == len(bounds):
        return bounds[-1]
    if place == 0 and bounds[0] <= 0:
        return bounds[0]
    lower, below = (bounds[place - 1], cumulative[place - 1]) if place else (0.0, 0.0)
    inside = cumulative[place] - below
    return lower + (bounds[place] - lower) * ((rank - below) / inside) if inside else None


def quantile_of(statistic: str) -> float | None:
    """Return the quantile that a statistic names, `p95` or `p99.9`; None if it names none."""
    found = _PERCENTILE.fullmatch(statistic)
    return None if found is None else round(float(found[1]) / 100, 6)


@dataclass(frozen=True, slots=True)
class CounterStats:
    """A counter over a window."""

    seconds: float
    """Length of the window that was asked for."""
    increase: float
    """How much it has risen; a counter that began anew counts from 0."""

    @property
    def rate(self) -> float:
        """Increase per second of the whole window, as Prometheus' `rate` has it."""
        return self.increase / self.seconds

    def statistic(self, name: str) -> float | None:
        """Return `increase` or `rate`."""
        return {"increase": self.increase, "rate": self.rate}.get(name)


@dataclass(frozen=True, slots=True)
class HistogramStats:
    """A histogram over a window. Figures of which nothing was observed are None."""

    seconds: float
    bounds: tuple[float, ...]
    """Finite upper bounds of the buckets; none for a summary."""
    sum: float
    counts: tuple[float, ...]
    """Observations of each bucket alone, one more than bounds."""
    lowest: float | None = None
    """The true extremes, where the instrument knows them."""
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
        place = next(place for place, count in enumerate(self.counts) if count)
        return self.bounds[place - 1] if place else None

    @property
    def max(self) -> float | None:
        """The highest observation; where that is not known, the bound above it, or the last one."""
        if self.highest is not None or not self.count or not self.bounds:
            return self.highest
        place = max(place for place, count in enumerate(self.counts) if count)
        return self.bounds[min(place, len(self.bounds) - 1)]

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile, `q` from 0 to 1, as Prometheus does."""
        return histogram_quantile(q, self.bounds, self.counts)

    def statistic(self, name: str) -> float | None:
        """Return `count`, `rate`, `sum`, `mean`, `min`, `max`, or a quantile such as `p95`."""
        if (q := quantile_of(name)) is not None:
            return self.quantile(q)
        figures = {"count": self.count, "rate": self.rate, "sum": self.sum}
        return figures[name] if name in figures else {"mean": self.mean, "min": self.min, "max": self.max}.get(name)


@dataclass(frozen=True, slots=True)
class Measured:
    """A gauge over a window, as it was at the ticks; of several series each figure but the total is the highest."""

    seconds: float
    last: float
    """The newest value."""
    total: float
    """Sum of the newest values of all series."""
    lowest: float
    average: float
    highest: float

    def statistic(self, name: str) -> float | None:
        """Return `last`, `total`, `lowest`, `average` or `highest`."""
        return getattr(self, name) if name in ("last", "total", "lowest", "average", "highest") else None


Numbers: TypeAlias = CounterStats | HistogramStats | Measured
