"""What alert rules watch: statistics, ratios and burn rates, computed over windows and written in PromQL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from sage_fastapi_obs.alerting.label_matchers import Where, matcher, operator_of
from sage_fastapi_obs.alerting.window import LONGEST_SECONDS, Group, Window
from sage_fastapi_obs.alerting.window_stats import CounterStats, GaugeStats, HistogramStats, WindowStats, quantile_of
from sage_fastapi_obs.catalog import CATALOG
from sage_fastapi_obs.errors import SettingsError

View: TypeAlias = Callable[[float], Window]
"""Returns the window of so many seconds."""
Values: TypeAlias = dict[Group, tuple[float, ...]]
"""By group, the values that all have to meet a rule's condition; the first is the one of the alert."""
KindOf: TypeAlias = Callable[[str, Where], str | None]
"""Returns the kind of a metric with matching labels; None where there is none, and an empty text where that is not known."""
_PROMQL = {
    "increase": "sum{by} ({increase})",
    "rate": "sum{by} (rate({name}{suffix}{chosen}{over}))",
    "count": "sum{by} ({increase_count})",
    "sum": "sum{by} ({increase_sum})",
    "mean": "sum{by} ({rate_sum}) / sum{by} ({rate_count})",
    "last": "max{by} ({name}{chosen})",
    "total": "sum{by} ({name}{chosen})",
    "lowest": "max{by} (min_over_time({name}{chosen}{over}))",
    "average": "max{by} (avg_over_time({name}{chosen}{over}))",
    "highest": "max{by} (max_over_time({name}{chosen}{over}))",
}
_STATS: dict[str, type[WindowStats]] = {"counter": CounterStats, "histogram": HistogramStats, "gauge": GaugeStats}


class Expression(Protocol):
    """What a rule watches."""

    @property
    def metric(self) -> str:
        """The metric that it is about."""
        ...

    @property
    def by(self) -> tuple[str, ...]:
        """Labels that it groups by."""
        ...

    def windows(self) -> tuple[float, ...]:
        """Return the lengths of the windows that it needs, in seconds."""
        ...

    def values(self, view: View, /) -> Values:
        """Compute its values; groups without one are left out."""
        ...

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write its values in PromQL; `also_by` names labels of the scrape to group by as well."""
        ...


@dataclass(frozen=True, slots=True)
class Stat:
    """One statistic of one metric over a window."""

    metric: str
    """Counters with `_total`, histograms without a suffix."""
    statistic: str | None = None
    """Counter: `increase`, `rate`. Histogram: `count`, `rate`, `sum`, `mean`, or a quantile such as `p95`. Gauge: `last` (the
    highest of several series), `total`, `lowest`, `average`, `highest`. None: `increase`, `p95` or `last`."""
    window_seconds: float = 300.0
    where: Where = field(default_factory=dict)
    """Matchers of labels, such as `{"status": "=~5.."}`."""
    by: tuple[str, ...] = ()
    """Labels to group by."""
    absent: float | None = None
    """The value where there is none; not with `by`."""
    scale: float = 1.0
    """Multiplies the value: 1000 shows seconds as milliseconds."""

    def __post_init__(self) -> None:
        if self.statistic is not None and self.statistic not in _PROMQL and quantile_of(self.statistic) is None:
            raise SettingsError(f"{self.statistic!r} is no statistic: use {', '.join(_PROMQL)} or a quantile such as p95")
        if not 0 < self.window_seconds <= LONGEST_SECONDS:
            raise SettingsError(f"window_seconds is above 0 and at most {LONGEST_SECONDS:.0f}, not {self.window_seconds:g}")
        if self.absent is not None and self.by:
            raise SettingsError("absent says what one figure is when there is none, so it does not go with by")
        for wanted in self.where.values():
            matcher(wanted)

    def windows(self) -> tuple[float, ...]:
        """Return the length of its window."""
        return (self.window_seconds,)

    def by_group(self, view: View) -> dict[Group, float]:
        """Compute its value in each group."""
        stats = view(self.window_seconds).stats(self.metric, self.where, self.by)
        values = ((group, one.statistic(self.statistic)) for group, one in stats.items())
        scaled = {group: value * self.scale for group, value in values if value is not None}
        return {(): self.absent} if not scaled and self.absent is not None else scaled

    def values(self, view: View) -> Values:
        """Compute its value in each group."""
        return {group: (value,) for group, value in self.by_group(view).items()}

    def problem(self, kind_of: KindOf) -> str | None:
        """Say that there is no such metric, or that its kind has no such statistic."""
        kind = kind_of(self.metric, self.where)
        if kind is None:
            return f"there is no metric {self.metric}{selector(self.where)}"
        stats, statistic = _STATS.get(kind), self.statistic
        if stats is None or statistic is None or statistic in stats.statistics:
            return None
        if kind == "histogram" and quantile_of(statistic) is not None:
            return None
        return f"{self.metric} is a {kind}, which has no {statistic}: use {', '.join(stats.statistics)}"

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write it in PromQL."""
        return self._finished(self._promql((*also_by, *self.by), self._rise))

    def promql_from_zero(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write it in PromQL so that it has what new series counted before their first scrape, too; a `rate` has not."""
        return self._finished(self._promql((*also_by, *self.by), self._rise_from_zero))

    def _finished(self, written: str) -> tuple[str, ...]:
        if self.scale != 1.0:
            written = f"{number(self.scale)} * ({written})"
        return (f"({written} or vector({number(self.absent)}))" if self.absent is not None else written,)

    def _promql(self, by: Sequence[str], rise: Callable[[str, str], str]) -> str:
        statistic = self.effective_statistic()
        over, chosen = f"[{duration(self.window_seconds)}]", selector(self.where)
        if (q := quantile_of(statistic)) is not None:
            return f"histogram_quantile({number(q)}, sum by ({', '.join((*by, 'le'))}) ({rise('rate', '_bucket')}))"
        suffix = "" if self.metric.endswith("_total") else "_count"
        grouped = f" by ({', '.join(by)})" if by else ""
        rises = {function + part: rise(function, part) for function in ("increase", "rate") for part in ("", "_count", "_sum")}
        return _PROMQL[statistic].format(name=self.metric, chosen=chosen, over=over, by=grouped, suffix=suffix, **rises)

    def _rise(self, function: str, part: str) -> str:
        return f"{function}({self.metric}{part}{selector(self.where)}[{duration(self.window_seconds)}])"

    def _rise_from_zero(self, _function: str, part: str) -> str:
        """Write what each series has risen by.

        A series that was not there when the window began, and has not been reset, has risen by all that it counts. That is so
        only if its target was asked then, or began later: else Prometheus has just found a service that has run for long.
        """
        series, window = f"{self.metric}{part}{selector(self.where)}", duration(self.window_seconds)
        older = f"{series} offset {window} or resets({series}[{window}]) > 0"
        began = f"process_start_time_seconds > time() - {number(self.window_seconds)}"
        unknown = f"up unless up offset {window} == 1 unless on (job, instance) {began}"
        return f"{series} unless ({older}) unless on (job, instance) ({unknown}) or {self._rise('increase', part)}"

    @property
    def may_begin_above_0(self) -> bool:
        """Whether it has series that begin with an event, and not at the start of the process."""
        metric = CATALOG.get(self.metric)
        return metric is None or not metric.starts_at_zero

    def effective_statistic(self) -> str:
        """Return its statistic, or the default one of its metric; raises `SettingsError` where that is not known."""
        if self.statistic is not None:
            return self.statistic
        metric = CATALOG.get(self.metric)
        kind = "counter" if self.metric.endswith("_total") else metric.type if metric else None
        if kind is None:
            raise SettingsError(f"{self.metric} is no metric of the catalog: say which statistic of it is meant")
        return _STATS[kind].default_statistic


@dataclass(frozen=True, slots=True)
class Ratio:
    """A sum of statistics divided by another; no value while the latter is 0."""

    part: tuple[Stat, ...]
    whole: tuple[Stat, ...]

    @property
    def metric(self) -> str:
        """The metric of the first part."""
        return self.part[0].metric

    @property
    def by(self) -> tuple[str, ...]:
        """The labels of the first part; all statistics group by the same."""
        return self.part[0].by

    def __post_init__(self) -> None:
        if not self.part or not self.whole:
            raise SettingsError("a ratio needs figures above and below the line")
        if len({stat.by for stat in (*self.part, *self.whole)}) > 1:
            raise SettingsError("all statistics of a ratio must be grouped by the same labels")

    def windows(self) -> tuple[float, ...]:
        """Return the lengths of all windows."""
        return tuple({stat.window_seconds for stat in (*self.part, *self.whole)})

    def with_window(self, seconds: float) -> "Ratio":
        """Return the same over another window."""
        part, whole = (tuple(replace(stat, window_seconds=seconds) for stat in stats) for stats in (self.part, self.whole))
        return Ratio(part, whole)

    def values(self, view: View) -> Values:
        """Divide, group by group; a group that is missing in one of the statistics is left out, as in PromQL."""
        part, whole = _sums(self.part, view), _sums(self.whole, view)
        return {group: (part[group] / total,) for group, total in whole.items() if group in part and total}

    def problem(self, kind_of: KindOf) -> str | None:
        """Say what is wrong with the first statistic that can have no value."""
        return next(filter(None, (stat.problem(kind_of) for stat in (*self.part, *self.whole))), None)

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write it in PromQL."""
        return (f"{_promql_sum(self.part, also_by)} / {_promql_sum(self.whole, also_by)}",)


@dataclass(frozen=True, slots=True)
class BurnRate:
    """How many times faster than allowed an error budget is used up, over a long and a short window at once.

    The long window shows that it matters, the short one that it still goes on. A rate of 1 uses up the budget exactly by the
    end of the objective's period.
    """

    errors: Ratio
    """Share of failures; the windows of its statistics do not matter."""
    objective: float
    """Share that has to succeed, such as 0.999."""
    long_seconds: float = 3600.0
    short_seconds: float = 300.0

    def __post_init__(self) -> None:
        if not 0 < self.objective < 1:
            raise SettingsError(f"an objective is a share between 0 and 1, such as 0.999, not {self.objective:g}")
        if self.short_seconds >= self.long_seconds:
            raise SettingsError("the short window of a burn rate is shorter than the long one")

    @property
    def metric(self) -> str:
        """The metric of the errors."""
        return self.errors.metric

    @property
    def by(self) -> tuple[str, ...]:
        """The labels of the errors."""
        return self.errors.by

    def windows(self) -> tuple[float, ...]:
        """Return the lengths of both windows."""
        return (self.long_seconds, self.short_seconds)

    def values(self, view: View) -> Values:
        """Compute the rates over the long and the short window."""
        long, short = (self.errors.with_window(seconds).values(view) for seconds in self.windows())
        budget = 1 - self.objective
        return {group: (long[group][0] / budget, short[group][0] / budget) for group in long if group in short}

    def problem(self, kind_of: KindOf) -> str | None:
        """Say what is wrong with the share of failures."""
        return self.errors.problem(kind_of)

    def promql(self, also_by: Sequence[str] = ()) -> tuple[str, ...]:
        """Write both in PromQL."""
        budget = number(round(1 - self.objective, 12))
        return tuple(f"({self.errors.with_window(seconds).promql(also_by)[0]}) / {budget}" for seconds in self.windows())


def kind_in_catalog(metric: str, _where: Where) -> str:
    """Return the kind of a metric that comes with the package; of others it is not known."""
    found = CATALOG.get(metric)
    return "" if found is None else found.type


def duration(seconds: float) -> str:
    """Write seconds as Prometheus does: `5m`, `90s`, `1h`, `7d`."""
    if seconds != int(seconds):
        return f"{round(seconds * 1000)}ms"
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{int(seconds) // length}{unit}"
    return f"{int(seconds)}s"


def selector(where: Where) -> str:
    """Write matchers as a selector of PromQL."""
    pairs = ((label, *operator_of(wanted)) for label, wanted in where.items())
    chosen = ", ".join(f'{label}{operator}"{escaped(text)}"' for label, operator, text in pairs)
    return f"{{{chosen}}}" if chosen else ""


def number(value: float) -> str:
    """Write a number in the shortest way that reads back the same."""
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def escaped(text: str) -> str:
    """Escape a text for PromQL's quotation marks."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _sums(stats: Sequence[Stat], view: View) -> dict[Group, float]:
    first, *others = (stat.by_group(view) for stat in stats)
    groups = [group for group in first if all(group in other for other in others)]
    return {group: first[group] + sum(other[group] for other in others) for group in groups}


def _promql_sum(stats: Sequence[Stat], also_by: Sequence[str]) -> str:
    written = " + ".join(stat.promql(also_by)[0] for stat in stats)
    return f"({written})" if len(stats) > 1 or stats[0].statistic == "mean" else written
