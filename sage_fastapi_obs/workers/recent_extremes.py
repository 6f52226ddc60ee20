"""The lowest and the highest observation of late, which several readers can ask for, as often as they like.

They are kept for two slices of time by the wall clock, each as long as the interval of the windows. A reader merges the slices
since it last asked. So an extreme may be one interval older than what the reader wants, and is lost to a reader that has not
asked for more than an interval.
"""

import math
from collections.abc import Sequence

NONE = (0.0, math.inf, -math.inf, math.inf, -math.inf)
"""Number of the newer slice, its lowest and highest, and those of the slice before."""
WIDTH = len(NONE)


def slice_at(at: float, interval_seconds: float) -> int:
    """Return the number of the slice of a Unix time."""
    return int(at // interval_seconds)


def with_extremes(kept: Sequence[float], slice_number: int, lowest: float, highest: float) -> tuple[float, ...]:
    """Return what is kept after some observations in a slice."""
    number, *newer, lowest_before, highest_before = kept
    if number != slice_number:
        lowest_before, highest_before = newer if number == slice_number - 1 else NONE[3:]
        newer = [*NONE[1:3]]
    return slice_number, min(newer[0], lowest), max(newer[1], highest), lowest_before, highest_before


def extremes_since(kept: Sequence[float], slice_number: int) -> tuple[float, float]:
    """Return the lowest and the highest of a slice and those after it; infinite without any."""
    number, lowest, highest, lowest_before, highest_before = kept
    if number < slice_number:
        return math.inf, -math.inf
    if number == slice_number:
        return lowest, highest
    return min(lowest, lowest_before), max(highest, highest_before)
