"""Figures over time, to be drawn: one line for each group of series, a value for each sample that the windows keep."""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel

from sage_fastapi_obs.alerting.window import Group
from sage_fastapi_obs.privacy.printable import printable

MOST_LINES = 10
Moment: TypeAlias = tuple[float, Mapping[Group, float]]
"""Unix time, and the values of the groups that have one."""


class PastLine(BaseModel):
    """One line."""

    labels: dict[str, str]
    values: list[float | None]
    """For each time; null where there is none."""


class PastLines(BaseModel):
    """All lines over one time."""

    time: list[float]
    """Unix time, ascending; further apart the older it is."""
    lines: list[PastLine]
    left_out: int
    """Groups that there is no room for."""


def past_lines(moments: Iterable[Moment], by: Sequence[str], weight: Callable[[Group, float], Any]) -> PastLines:
    """Make lines of the groups that weigh most: `weight` ranks a group with its last value. `by`: the labels of a group."""
    found = [*moments]
    last = {group: value for _, values in found for group, value in values.items()}
    groups = heapq.nlargest(MOST_LINES, last, key=lambda group: weight(group, last[group]))
    lines = [
        PastLine(labels=labels_of(by, group), values=[finite(values.get(group)) for _, values in found]) for group in groups
    ]
    return PastLines(time=[at for at, _ in found], lines=lines, left_out=len(last) - len(lines))


def labels_of(by: Sequence[str], group: Sequence[str]) -> dict[str, str]:
    """Name the values of labels, as far as they can be shown."""
    return dict(zip(by, map(printable, group), strict=True))


def finite(value: float | None) -> float | None:
    """Return a number that can be shown; None for any other."""
    return value if value is not None and math.isfinite(value) else None
