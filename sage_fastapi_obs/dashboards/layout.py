"""What a dashboard is, as data: rows of panels, in the order in which a person asks."""

from dataclasses import dataclass, field, replace
from typing import Literal

FINE, WARN, BAD = "green", "orange", "red"
Kind = Literal["timeseries", "stat", "states", "table", "logs", "traces"]
Store = Literal["prometheus", "loki", "jaeger"]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of a store, and what its series are called."""

    text: str
    legend: str = ""
    store: Store = "prometheus"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The value from which on a colour is used; the first of several has none."""

    color: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture."""

    title: str
    queries: tuple[Query, ...]
    description: str = ""
    """What it means, and what to make of it."""
    kind: Kind = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    warn: float | None = None
    """From which value on it is orange."""
    bad: float | None = None
    """From which value on it is red."""
    thresholds: tuple[Threshold, ...] = ()
    """Colours where more is not worse, or there are others."""
    mappings: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Words and colours in place of values."""
    stacked: bool = False
    max: float | None = None
    """The end of its scale."""
    time_from: str = ""
    """Since when it shows what happened, such as `now/d`, midnight; by default as the dashboard does."""

    @property
    def colors(self) -> tuple[Threshold, ...]:
        """Its thresholds, from the lowest; none where its values are neither good nor bad."""
        above = [Threshold(color, value) for color, value in ((WARN, self.warn), (BAD, self.bad)) if value is not None]
        return self.thresholds or ((Threshold(FINE), *above) if above else ())

    def about(self, description: str) -> "Panel":
        """Return this panel with a description."""
        return replace(self, description=description)

    def sized(self, width: int, height: int) -> "Panel":
        """Return this panel in another size."""
        return replace(self, width=width, height=height)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question; a collapsed row asks nothing until it is opened."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values that a label has in some series."""

    label: str
    series: str
    regex: str = ""
    all_value: str = ".*"
    """What 'All' stands for; an empty label is among it."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard."""

    name: str
    """File and fixed uid."""
    title: str
    about: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...]
    tags: tuple[str, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)


def numbers(*pairs: tuple[str, str]) -> tuple[Query, ...]:
    """Ask Prometheus for some expressions, each with its legend."""
    return tuple(Query(expression, legend) for expression, legend in pairs)


def logs(expression: str) -> tuple[Query, ...]:
    """Ask Loki for lines."""
    return (Query(expression, store="loki"),)
