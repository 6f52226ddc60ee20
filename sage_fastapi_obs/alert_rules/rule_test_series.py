"""Makes up series that give an expression a wanted value, for unit tests of rules, the user's own included."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from sage_fastapi_obs.alerting.expressions import BurnRate, Expression, Ratio, Stat, escaped
from sage_fastapi_obs.alerting.label_matchers import matcher, operator_of
from sage_fastapi_obs.alerting.rules import AlertCondition
from sage_fastapi_obs.alerting.window_stats import quantile_of
from sage_fastapi_obs.catalog import CATALOG, Metric
from sage_fastapi_obs.catalog.services import Services, job

__all__ = ["GeneratedSeries", "NoSeriesError", "SeriesShape", "TestSeries", "series", "series_giving", "up", "values_around"]

MARGIN = 0.02
"""Distance of a test's value from the threshold, as a share of it."""
PER_SECOND = 100.0
"""Events per second where only shares and quantiles matter."""
USUAL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_GUESSES = {"status": ("200", "500", "404", "success", "failure"), "method": ("GET", "POST"), "route": ("/items", "/orders")}
"""Values of labels where the catalog lists none."""
_WORDS = ("one", "two", "error", "")


class NoSeriesError(Exception):
    """No series could be made up that give the wanted value."""


@dataclass(frozen=True, slots=True)
class SeriesShape:
    """How a series behaves for a while: it rises steadily, stays at a level, or is missing."""

    per_second: float = 0.0
    level: float | None = None
    is_missing: bool = False


TestSeries: TypeAlias = Mapping[str, SeriesShape]
"""By series, such as `up{job="shop"}`."""


@dataclass(frozen=True, slots=True)
class GeneratedSeries:
    """Series that give an expression a value, and the labels of that value."""

    series: dict[str, SeriesShape]
    labels: dict[str, str] = field(default_factory=dict)


def values_around(condition: AlertCondition, threshold: float) -> tuple[float, float]:
    """Return a value that does not meet a condition, and one that does, both close to the threshold."""
    step = abs(threshold) * MARGIN or 1.0
    above, below = threshold + step, threshold - step
    match condition:
        case AlertCondition.GREATER_THAN:
            return (threshold if threshold == 0 else below), above
        case AlertCondition.GREATER_OR_EQUAL:
            return below, above
        case AlertCondition.LESS_THAN:
            return above, below
        case AlertCondition.LESS_OR_EQUAL:
            return above, (threshold if threshold == 0 else below)
        case AlertCondition.EQUAL:
            return threshold + 1, threshold
        case AlertCondition.NOT_EQUAL:
            return threshold, threshold + 1


def series_giving(expression: Expression, value: float, labels: Mapping[str, str]) -> GeneratedSeries:
    """Make series up, with labels of the scrape, that give an expression a value; raises `NoSeriesError` where it cannot."""
    if isinstance(expression, Stat):
        return _of_stat(expression, value, labels)
    if isinstance(expression, Ratio):
        return _of_ratio(expression, value, labels)
    if isinstance(expression, BurnRate):
        return _of_ratio(expression.errors, value * (1 - expression.objective), labels)
    raise NoSeriesError(f"{type(expression).__name__} tells nothing about its series")


def series(name: str, labels: Mapping[str, str]) -> str:
    """Write a series as Prometheus does."""
    pairs = ", ".join(f'{label}="{escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{pairs}}}"


def up(services: Services) -> str:
    """Write the selector for whether the targets of services answer."""
    jobs = "|".join(dict.fromkeys(map(job, services)))
    return f'up{{job=~"{escaped(jobs)}"}}'


def _of_stat(stat: Stat, value: float, labels: Mapping[str, str]) -> GeneratedSeries:
    chosen = _chosen(stat, labels)
    return GeneratedSeries(_shapes(stat, value / stat.scale, chosen), {label: chosen[label] for label in stat.by})


def _shapes(stat: Stat, value: float, chosen: Mapping[str, str]) -> dict[str, SeriesShape]:
    statistic = stat.effective_statistic()
    if (q := quantile_of(statistic)) is not None:
        return _histogram(stat.metric, q, value, chosen)
    name, window = stat.metric, stat.window_seconds
    counted = name if name.endswith("_total") else f"{name}_count"
    match statistic:
        case "increase" | "count" | "rate" | "sum" if value < 0:
            raise NoSeriesError(f"what {name} counts does not fall")
        case "increase" | "count":
            return {series(counted, chosen): SeriesShape(value / window)}
        case "rate":
            return {series(counted, chosen): SeriesShape(value)}
        case "sum":
            return {series(f"{name}_sum", chosen): SeriesShape(value / window)}
        case "mean":
            return {
                series(f"{name}_sum", chosen): SeriesShape(value * PER_SECOND),
                series(f"{name}_count", chosen): SeriesShape(PER_SECOND),
            }
        case _:
            return {series(name, chosen): SeriesShape(level=value)}


def _histogram(name: str, q: float, value: float, chosen: Mapping[str, str]) -> dict[str, SeriesShape]:
    """Put the right share of observations below a value for it to be the quantile."""
    metric = CATALOG.get(name)
    bounds = (metric.buckets if metric else ()) or USUAL_BUCKETS
    below = max((bound for bound in bounds if bound < value), default=0.0)
    above = min((bound for bound in bounds if bound >= value), default=None)
    if above is None or value <= 0:
        raise NoSeriesError(f"{value:g} is beyond the bounds of {name}")
    place = (value - below) / (above - below)
    # Linear within the bucket, as Prometheus has it: q = low + place * (high - low).
    low, high = ((q - place) / (1 - place), 1.0) if place < q else (0.0, q / place)
    shares = {below: low, above: high} if below else {above: high}
    written = {f"{bound:.10g}": share for bound, share in shares.items()} | {"+Inf": 1.0}
    return {series(f"{name}_bucket", {**chosen, "le": le}): SeriesShape(share * PER_SECOND) for le, share in written.items()}


def _of_ratio(ratio: Ratio, value: float, labels: Mapping[str, str]) -> GeneratedSeries:
    """Count in the part the wanted share of what is counted in the whole."""
    if value < 0:
        raise NoSeriesError("a share is not below 0")
    first = ratio.part[0]
    chosen = _chosen(first, labels)
    inside = sum(_matches(stat, first.metric, chosen) for stat in ratio.whole)
    rest = 1 - inside * value
    if rest < 0:
        raise NoSeriesError(f"a share of {value:g} is more than all")
    part = _plain(first, value, chosen)
    return GeneratedSeries({**part, **_rest(ratio, rest, chosen, labels)}, {label: chosen[label] for label in first.by})


def _rest(ratio: Ratio, amount: float, chosen: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, SeriesShape]:
    """Make a series up that is in the whole, and not in the part."""
    for stat in ratio.whole:
        for found in _choices(stat, {**labels, **{label: chosen[label] for label in stat.by}}):
            others = (*ratio.part, *(one for one in ratio.whole if one is not stat))
            if not any(_matches(one, stat.metric, found) for one in others):
                return _plain(stat, amount, found)
    raise NoSeriesError("nothing is in the whole that is not in the part")


def _plain(stat: Stat, amount: float, chosen: Mapping[str, str]) -> dict[str, SeriesShape]:
    """Count an amount, whatever is made of the counts."""
    return _shapes(replace(stat, absent=None), amount * PER_SECOND, chosen)


def _matches(stat: Stat, name: str, chosen: Mapping[str, str]) -> bool:
    return stat.metric == name and all(matcher(wanted)(chosen.get(label, "")) for label, wanted in stat.where.items())


def _chosen(stat: Stat, labels: Mapping[str, str]) -> dict[str, str]:
    for choice in _choices(stat, labels):
        return choice
    raise NoSeriesError(f"no labels of {stat.metric} could be made up")


def _choices(stat: Stat, labels: Mapping[str, str]) -> Iterable[dict[str, str]]:
    """Yield labels that a figure looks at, with several values for each that the catalog knows it by."""
    metric = CATALOG.get(stat.metric)
    wanted = dict(stat.where)
    names = [*dict.fromkeys((*wanted, *stat.by, *(metric.labels if metric else ())))]
    fixed: dict[str, str] = {}
    for name in names:
        candidates = [labels[name]] if name in labels else _candidates(metric, name, wanted.get(name, ""))
        fitting = [one for one in candidates if name not in wanted or matcher(wanted[name])(one)]
        if not fitting:
            return
        fixed[name] = fitting[0]
    yield {**labels, **fixed}
    for name in names:
        for other in () if name in labels else _candidates(metric, name, wanted.get(name, "")):
            if name not in wanted or matcher(wanted[name])(other):
                yield {**labels, **fixed, name: other}


def _candidates(metric: Metric | None, label: str, wanted: str) -> Sequence[str]:
    allowed = metric.labels.get(label, ()) if metric else ()
    operator, text = operator_of(wanted)
    usual = _GUESSES.get(label, ())
    if allowed:
        return sorted(allowed, key=lambda one: one not in usual)
    # An expression is often a list of words, or a word that happens to match itself.
    return (*((text,) if operator == "=" and text else ()), *usual, *_WORDS, *text.split("|"))
