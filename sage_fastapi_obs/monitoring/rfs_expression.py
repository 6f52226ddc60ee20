"""What alert rules watch, by any name of a metric and in the unit of that name."""

from collections.abc import Sequence
from dataclasses import dataclass

from sage_fastapi_obs.active import active_observability
from sage_fastapi_obs.alerting.expressions import Expression, KindOf, Stat, Values, View
from sage_fastapi_obs.catalog import CATALOG
from sage_fastapi_obs.legacy.metric_names import ResolvedName, resolve_name

_ADDED_UP = ("count", "rate", "sum", "total")


@dataclass(frozen=True, slots=True)
class _First:
    """The figure of a metric, or of the other if that does not exist: RFS names of counters have no `_total`."""

    figure: Stat
    other: Stat

    @property
    def metric(self) -> str:
        """Return what it is called."""
        return self.figure.metric

    @property
    def by(self) -> tuple[str, ...]:
        """Return no labels."""
        return ()

    def windows(self) -> tuple[float, ...]:
        """Return the length of the window."""
        return self.figure.windows()

    def values(self, view: View, /) -> Values:
        """Compute the figure that there is."""
        return self.figure.values(view) or self.other.values(view)

    def problem(self, kind_of: KindOf, /) -> str | None:
        """Say what is wrong with the figure if there is no other either."""
        other = self.other.problem(kind_of)
        return None if other is None else self.figure.problem(kind_of)

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write it in PromQL."""
        return (f"({self.figure.promql(also_by)[0]} or {self.other.promql(also_by)[0]})",)


def rfs_expression(metric_name: str, statistic: str | None, window_seconds: float) -> Expression:
    """Return the figure of a metric by any of its names, in the unit of that name."""
    active = active_observability()
    meaning = resolve_name(metric_name) if active is None else active.collected.meaning(metric_name)

    def figure(metric: str) -> Stat:
        is_number = statistic == "count" or (statistic == "rate" and not metric.endswith("_total"))
        by = _told_apart(metric, statistic, meaning)
        return Stat(metric, statistic, window_seconds, meaning.labels, by, scale=1.0 if is_number else meaning.scale)

    named = figure(meaning.metric)
    is_known = meaning.metric.endswith("_total") or CATALOG.get(meaning.metric) is not None
    return named if is_known else _First(named, figure(f"{meaning.metric}_total"))


def _told_apart(metric: str, statistic: str | None, meaning: ResolvedName) -> tuple[str, ...]:
    """Choose labels to judge one by one: many fast operations must not hide a slow one, nor an open breaker another."""
    known = CATALOG.get(metric)
    if known is None or known.type == "counter" or statistic in _ADDED_UP:
        return ()
    return tuple(label for label in ("operation", "name") if label in known.labels and label not in meaning.labels)
