"""Past samples of the registry: totals that never fall, compressed, and further apart the older they are."""

import math
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import add, lt, sub

from sage_fastapi_obs.metrics.registry_reader import Child, Kind, Reading

_FINENESS = 16
"""Ticks are at most this part of their age apart: those of an hour ago less than four minutes."""
_NO_LOWEST, _NO_HIGHEST = math.inf, -math.inf


def compress(numbers: "array[float]") -> bytes:
    """Compress numbers at the fastest level, as most of them are alike."""
    return zlib.compress(numbers.tobytes(), 1)


def decompress(blob: bytes | None) -> "array[float]":
    """Undo `compress`; None gives no numbers."""
    numbers = array("d")
    if blob is not None:
        numbers.frombytes(zlib.decompress(blob))
    return numbers


@dataclass(slots=True)
class Tick:
    """One sample of the registry."""

    at: float
    """Monotonic seconds."""
    wall: float
    """Unix time, to be shown."""
    watched: float
    """Seconds watched so far, without suspensions."""
    after_pause: bool = False
    """Whether the process was suspended just before."""
    totals: dict[str, bytes] = field(default_factory=dict)
    """By metric, compressed."""
    extremes: dict[str, bytes] = field(default_factory=dict)
    """By metric, lowest and highest of each series since the tick before, compressed."""
    row: int = 0
    """Where it is stored; 0 for nowhere."""
    is_stored: bool = False
    """Whether it is stored as it is."""


class MetricHistory:
    """All series of one metric: its totals now, in the order in which the series appeared."""

    def __init__(self, reading: Reading) -> None:
        self.name = reading.name
        self.kind: Kind = reading.kind
        self.labels = reading.labels
        self.bounds = reading.bounds
        self.width = len(reading.bounds) + 2 if reading.kind == "histogram" else 1
        self.rows: dict[tuple[str, ...], int] = {}
        """The row of each series; rows are never given to another."""
        self.now = array("d")
        """Row by row; replaced when it changes, so that readers are not disturbed."""
        self.compressed = compress(self.now)
        self.gone: dict[int, float] = {}
        """Series of a counter or histogram that exist no more, by row: windows that begin after so many seconds lack them."""
        self._reset_bases: dict[int, list[float]] = {}
        """By row, what is added to a series that was reset."""
        self.resets = 0
        """How often that has changed."""
        self._is_complete = True
        """Whether the last reading had all series: else nobody says which of them a process before has left."""

    def fits(self, reading: Reading) -> bool:
        """Tell whether a reading is of the same metric, and not of another by the same name."""
        return (self.kind, self.labels, self.bounds) == (reading.kind, reading.labels, reading.bounds)

    def go_on_from(self, series: Sequence[tuple[str, ...]], now: "array[float]", bases: "array[float]") -> None:
        """Begin with the series and totals of a process before, and what it had added to those that were reset."""
        self.rows = {labels: row for row, labels in enumerate(series)}
        missing = array("d", [0.0]) * (len(series) * self.width - len(now))
        self.now = now + missing
        self.compressed = compress(self.now)
        self._reset_bases = {
            row: [*bases[row * self.width : (row + 1) * self.width]] for row in range(len(bases) // self.width)
        }

    def bases(self) -> "array[float]":
        """Return what is added to the series, row by row; nothing if none was reset."""
        if not self._reset_bases:
            return array("d")
        zeros = [0.0] * self.width
        return array("d", (base for row in range(len(self.rows)) for base in self._reset_bases.get(row, zeros)))

    def count_anew(self) -> None:
        """Take all series as reset: the process that counted them has ended."""
        if self.kind != "gauge":
            self._reset_bases = {row: [*self.now[row * self.width : (row + 1) * self.width]] for row in self.rows.values()}
            self.resets += 1

    def count_living(self) -> int:
        """Count the series that still exist and have a value."""
        if self.kind == "gauge":
            return len(self.now) - sum(map(math.isnan, self.now))
        return len(self.rows) - len(self.gone) if self._is_complete else len(self.living())

    def living(self) -> list[Child]:
        """Return what was read last of the series that still exist and have a value."""
        read = ((labels, self._counted(row)) for labels, row in self.rows.copy().items() if row not in self.gone)
        # A gauge may be 0; where series are not complete, none is counted at 0.
        exists = len if self._is_complete or self.kind == "gauge" else any
        return [(labels, numbers) for labels, numbers in read if exists(numbers) and not math.isnan(numbers[0])]

    def reading(self) -> Reading:
        """Return what was read last."""
        children = [(labels, self._counted(row)) for labels, row in self.rows.items()]
        return Reading(self.name, self.kind, self.labels, self.bounds, children)

    def _counted(self, row: int) -> "array[float]":
        totals = self.now[row * self.width : (row + 1) * self.width]
        base = self._reset_bases.get(row)
        return totals if base is None else array("d", map(sub, totals, base))

    def record(self, reading: Reading, most_new: int, last_pair: float = -math.inf, *, is_baseline: bool = False) -> int:
        """Record a reading, with room for `most_new` new series; return how many were left out.

        `last_pair`: time of the last tick but one. Like Prometheus, a window has a rise only between two samples.
        `is_baseline`: what is read was counted before, and is no rise.
        """
        # A gauge that has gone has no value; a counter that has gone keeps its total.
        numbers = array("d", [math.nan]) * len(self.now) if self.kind == "gauge" else self.now[:]
        most, left_out, self._is_complete = len(self.rows) + most_new, 0, reading.is_complete
        seen = set()
        for labels, values in reading.children:
            row = self.rows.get(labels)
            if row is None:
                if len(self.rows) >= most:
                    left_out += 1
                    continue
                row = self.rows[labels] = len(self.rows)
                numbers.extend([0.0] * self.width)
            seen.add(row)
            start = row * self.width
            if is_baseline and self.kind != "gauge":
                self._reset_bases[row] = [*map(sub, numbers[start : start + self.width], values)]
                self.resets += 1
            numbers[start : start + self.width] = self._totals(row, numbers[start : start + self.width], values)
        is_missing = reading.is_complete and len(seen) < len(self.rows)
        missing = set(self.rows.values()) - seen if is_missing else ()
        self.gone = {row: self.gone.get(row, last_pair) for row in missing}
        if memoryview(numbers).cast("B") != memoryview(self.now).cast("B"):
            self.now = numbers
            self.compressed = compress(numbers)
        return left_out

    def nothing(self) -> Reading:
        """Return what is read of a metric that is not there any more."""
        return Reading(self.name, self.kind, self.labels, self.bounds, (), is_complete=True)

    def _totals(self, row: int, before: "array[float]", values: Sequence[float]) -> "array[float]":
        if self.kind == "gauge":
            return array("d", values)
        base = self._reset_bases.get(row) if self._reset_bases else None
        after = array("d", values if base is None else map(add, values, base))
        # A histogram's sum may fall, when what it observes is negative; its counts may not.
        first = 1 if self.kind == "histogram" else 0
        if any(map(lt, after[first:], before[first:])):
            self._reset_bases[row] = [*before]
            self.resets += 1
            after = array("d", map(add, values, before))
        return after

    def extremes(self, reading: Reading) -> "array[float]":
        """Return the extremes of a reading row by row."""
        found = array("d", [_NO_LOWEST, _NO_HIGHEST]) * len(self.rows)
        for labels, lowest, highest in reading.extremes:
            if (row := self.rows.get(labels)) is not None:
                found[2 * row], found[2 * row + 1] = lowest, highest
        return found if reading.extremes else found[:0]


def merge_tick(earlier: Tick, later: Tick) -> None:
    """Merge a dropped tick into the next: totals are cumulative, but minimum and maximum have to be carried over."""
    for name, blob in earlier.extremes.items():
        first, second = decompress(blob), decompress(later.extremes.get(name))
        second.extend([_NO_LOWEST, _NO_HIGHEST] * ((len(first) - len(second)) // 2))
        for row in range(0, len(first), 2):
            second[row] = min(second[row], first[row])
            second[row + 1] = max(second[row + 1], first[row + 1])
        later.extremes[name] = compress(second)
    later.after_pause = later.after_pause or earlier.after_pause
    later.is_stored = False


def thin(ticks: Sequence[Tick], longest_seconds: float) -> list[Tick]:
    """Return the ticks to keep: those within the longest window and one before, fewer the older they are."""
    now = ticks[-1].at
    outgrown = sum(tick.at <= now - longest_seconds for tick in ticks) - 1
    first, *rest = ticks[max(0, outgrown) :]
    kept = [first]
    for tick, following in pairwise(rest):
        if following.at - kept[-1].at <= (now - following.at) / _FINENESS:
            merge_tick(tick, following)
        else:
            kept.append(tick)
    return [*kept, *rest[-1:]]
