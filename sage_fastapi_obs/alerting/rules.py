"""Alert rules: what to watch, when it is an alert, and whom to notify; also as an entry of a Prometheus rule file."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, TypeAlias

from sage_fastapi_obs.alerting.expressions import (
    BurnRate,
    Expression,
    KindOf,
    Ratio,
    Stat,
    duration,
    escaped,
    kind_in_catalog,
    number,
)
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.settings import AlertRuleSettings, Severity

Callback: TypeAlias = Callable[[dict[str, Any]], object]
"""Called with an alert as a dictionary; sync or async."""


class AlertCondition(Enum):
    """How a value compares to a threshold."""

    GREATER_THAN = ">"
    GREATER_OR_EQUAL = ">="
    LESS_THAN = "<"
    LESS_OR_EQUAL = "<="
    EQUAL = "=="
    NOT_EQUAL = "!="

    def holds(self, value: float, threshold: float) -> bool:
        """Compare; a value that is not a number meets no condition."""
        return not math.isnan(value) and _COMPARISONS[self.value](value, threshold)


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """What to watch, when it is an alert, and whom to notify."""

    name: str
    expression: Expression
    condition: AlertCondition
    threshold: float
    for_seconds: float = 0.0
    """How long the condition has to hold without a break."""
    keep_firing_seconds: float = 0.0
    """How long it has to have ended for the alert to be over."""
    resolve_threshold: float | None = None
    """Threshold once it fires, so that a value that wavers around `threshold` is one alert."""
    cooldown_seconds: float = 300.0
    """Shortest time between two notifications of one alert."""
    severity: Severity = "warning"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Texts, in which `{{ $value }}` and `{{ $labels.route }}` are filled in as Prometheus does."""
    callbacks: tuple[Callback, ...] = ()
    """Called when the alert begins to fire."""
    resolved_callbacks: tuple[Callback, ...] = ()
    """Called when an alert is over of which callbacks were notified."""
    metric_name: str = ""
    """Name of the metric in notifications; by default its own."""

    def __post_init__(self) -> None:
        if not self.name:
            raise SettingsError("an alert rule needs a name")
        if min(self.for_seconds, self.keep_firing_seconds, self.cooldown_seconds) < 0:
            raise SettingsError(f"rule {self.name!r}: times are not below 0")
        if math.isnan(self.threshold):
            raise SettingsError(f"rule {self.name!r}: the threshold is a number")

    def check(self, kind_of: KindOf) -> None:
        """Raise `SettingsError` if the metrics that are known tell that it can never have a value."""
        if (problem := self.problem(kind_of)) is not None:
            raise SettingsError(f"rule {self.name!r}: {problem}")

    def problem(self, kind_of: KindOf) -> str | None:
        """Say why it can never have a value; None if it can, or if its expression does not tell."""
        find: Callable[[KindOf], str | None] | None = getattr(self.expression, "problem", None)
        return None if find is None else find(kind_of)

    @property
    def metric_label(self) -> str:
        """Name of the metric in notifications."""
        return self.metric_name or self.expression.metric

    def holds(self, values: Sequence[float], *, firing: bool) -> bool:
        """Tell whether all values meet the condition."""
        threshold = self.resolve_threshold if firing and self.resolve_threshold is not None else self.threshold
        return all(self.condition.holds(value, threshold) for value in values)

    def promql(self, also_by: Sequence[str] = ()) -> str:
        """Write the condition in PromQL; `also_by` names labels of the scrape to tell alerts apart by, such as `service`."""
        begun = self._promql(self.threshold, also_by)
        if self.resolve_threshold is None:
            return begun
        on = ", ".join((*also_by, *self.expression.by))
        firing = f'ALERTS{{alertname="{escaped(self.name)}", alertstate="firing"}}'
        return f"({begun}) or (({self._promql(self.resolve_threshold, also_by)}) and on ({on}) {firing})"

    def prometheus(self, also_by: Sequence[str] = ()) -> dict[str, Any]:
        """Write the rule as an entry of a Prometheus rule file."""
        rule: dict[str, Any] = {"alert": self.name, "expr": self.promql(also_by), "for": duration(self.for_seconds)}
        if self.keep_firing_seconds:
            rule["keep_firing_for"] = duration(self.keep_firing_seconds)
        return {**rule, "labels": {"severity": self.severity, **self.labels}, "annotations": dict(self.annotations)}

    def _promql(self, threshold: float, also_by: Sequence[str]) -> str:
        compared = f"{self.condition.value} {number(threshold)}"
        comparisons = [f"{value} {compared}" for value in self._values(also_by)]
        return comparisons[0] if len(comparisons) == 1 else " and ".join(f"({one})" for one in comparisons)

    def _values(self, also_by: Sequence[str]) -> tuple[str, ...]:
        """Write the values in PromQL; with the beginnings of new series, where these alone could let the rule fire."""
        watched = self.expression
        if isinstance(watched, Stat) and self.for_seconds < watched.window_seconds and watched.may_begin_above_0:
            return watched.promql_from_zero(also_by)
        return watched.promql(also_by)


def rule_from_settings(settings: AlertRuleSettings, notifiers: Mapping[str, Callback]) -> AlertRule:
    """Build a rule of `alerts.rules`; raises `SettingsError` for a notifier that does not exist."""
    if unknown := set(settings.notify) - set(notifiers):
        raise SettingsError(f"rule {settings.name!r}: {min(unknown)!r} is no notifier: use {', '.join(notifiers)}")
    callbacks = tuple(notifiers[name] for name in settings.notify)
    same = {one.name: getattr(settings, one.name) for one in fields(AlertRule) if hasattr(settings, one.name)}
    other = {
        "expression": _expression(settings),
        "condition": AlertCondition(settings.condition),
        "callbacks": callbacks,
        "resolved_callbacks": callbacks,
    }
    rule = AlertRule(**{**same, **other})
    rule.check(kind_in_catalog)
    return rule


def _expression(settings: AlertRuleSettings) -> Expression:
    window, by = settings.window_seconds, settings.by
    stat = Stat(settings.metric, settings.statistic, window, settings.where, by, settings.absent)
    if not settings.divided_by:
        return stat
    whole = tuple(Stat(one.metric, one.statistic, window, one.where, by) for one in settings.divided_by)
    ratio = Ratio((stat,), whole)
    if settings.objective is None:
        return ratio
    return BurnRate(ratio, settings.objective, window, settings.short_window_seconds)
