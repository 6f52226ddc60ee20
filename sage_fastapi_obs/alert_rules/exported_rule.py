"""An alert rule as Prometheus and people need it: expression, labels, texts, links, and a test that proves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sage_fastapi_obs.alert_rules.rule_test_series import NoSeriesError, TestSeries, series_giving, values_around
from sage_fastapi_obs.alerting.expressions import Expression, Stat, duration
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.settings import Severity


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """A rule group of Prometheus, which has a file of its own."""

    name: str
    title: str
    """Its heading in documents."""
    system: str = ""
    """What its rules are about, as a label of its alerts: a pack, a service or `http`; empty for rules of the settings."""
    dashboard: str = "unified"
    """The dashboard on which the numbers are."""
    interval: str = ""
    """How often it is evaluated, such as `30s`; empty: as Prometheus does by default."""
    weight: int = 80
    """Its place among the groups: lighter ones come first."""
    file: str = ""
    """Its file; by default its name, with dashes."""

    @property
    def file_name(self) -> str:
        """The name of its file, without the ending."""
        return self.file or self.name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class RuleTest:
    """Series for unit tests of a rule: below the threshold for a while, then above, then below again; and none at all."""

    below: TestSeries
    above: TestSeries
    window_seconds: float = 0.0
    """The longest window of the rule: it sees nothing else once the series have lasted so long."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the expression puts on the alert."""
    after: TestSeries | None = None
    """What ends the alert, where `below` is not enough."""
    ending_seconds: float | None = None
    """How long the alert takes to end; None: as long as the window."""
    missing_labels: Mapping[str, str] | None = None
    """What the expression puts on the alert when all series have gone; None: then the alert is over, or does not begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRule:
    """One alert of a Prometheus rule file."""

    name: str
    group: RuleGroup
    expr: str
    for_seconds: float = 0.0
    keep_firing_seconds: float = 0.0
    severity: Severity
    metric: str = ""
    """The metric that it is about, where that is one of a pack."""
    seed: str = ""
    """Its name elsewhere, when that differs."""
    inhibits: str = ""
    """An alert that need not be sent while this one fires, as this one says the same and more."""
    summary: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    test: RuleTest | None
    """None where no series could be made up."""
    rule: AlertRule | None = None
    """The same as it could be judged in process; None where only Prometheus can."""

    def entry(self, links: Mapping[str, str]) -> dict[str, Any]:
        """Return its entry in a rule file; `links`: annotations besides its own."""
        entry: dict[str, Any] = {"alert": self.name, "expr": self.expr, "for": duration(self.for_seconds)}
        if self.keep_firing_seconds:
            entry["keep_firing_for"] = duration(self.keep_firing_seconds)
        texts = {"summary": self.summary, "description": self.description}
        return {**entry, "labels": self.all_labels, "annotations": {**texts, **links, **self.annotations}}

    @property
    def all_labels(self) -> dict[str, str]:
        """All labels that the rule itself gives."""
        system = {"system": self.group.system} if self.group.system else {}
        return {"severity": self.severity, **system, "seed_alert": self.seed or self.name, **self.labels}

    def about(self, summary: str, description: str) -> "ExportedRule":
        """Return it with texts for people."""
        return replace(self, summary=summary, description=description)

    def with_labels(self, **labels: str) -> "ExportedRule":
        """Return it with more labels; empty ones are left out."""
        return replace(self, labels={**self.labels, **{name: text for name, text in labels.items() if text}})


def threshold_alert(
    name: str,
    expression: Expression,
    threshold: float,
    *,
    group: RuleGroup,
    severity: Severity,
    minutes: float = 0,
    seed: str = "",
    inhibits: str = "",
    also_by: Sequence[str] = ("service",),
    target: Mapping[str, str] | None = None,
) -> ExportedRule:
    """Return an alert for what is above a threshold for some minutes; `target`: labels of the scrape in its test."""
    rule = AlertRule(
        name=name,
        expression=expression,
        condition=AlertCondition.GREATER_THAN,
        threshold=threshold,
        for_seconds=minutes * 60,
        severity=severity,
    )
    exported = alert_from_rule(rule, group, seed=seed, also_by=also_by, target=target)
    return replace(exported, inhibits=inhibits)


def alert_from_rule(
    rule: AlertRule,
    group: RuleGroup,
    description: str = "",
    *,
    seed: str = "",
    also_by: Sequence[str] = ("service",),
    target: Mapping[str, str] | None = None,
) -> ExportedRule:
    """Return a rule that could be judged in process as well; `target`: labels of the scrape in its test."""
    return ExportedRule(
        name=rule.name,
        group=group,
        expr=rule.promql(also_by),
        for_seconds=rule.for_seconds,
        keep_firing_seconds=rule.keep_firing_seconds,
        severity=rule.severity,
        metric=rule.expression.metric,
        seed=seed,
        summary=rule.annotations.get("summary", rule.name),
        description=description,
        # A label without a value is none to Prometheus.
        labels={name: text for name, text in rule.labels.items() if text},
        annotations={name: text for name, text in rule.annotations.items() if name not in ("summary", "description")},
        test=_test_of(rule, also_by, {"service": "example", **(target or {})}),
        rule=rule,
    )


def _test_of(rule: AlertRule, also_by: Sequence[str], labels: Mapping[str, str]) -> RuleTest | None:
    if any("{{" in text for text in rule.labels.values()):
        # Prometheus fills these in.
        return None
    expression = rule.expression
    try:
        below, above = (series_giving(expression, value, labels) for value in values_around(rule.condition, rule.threshold))
        after = None
        if rule.resolve_threshold is not None:
            after = series_giving(expression, values_around(rule.condition, rule.resolve_threshold)[0], labels).series
    except NoSeriesError:
        return None
    of_target = {name: labels[name] for name in also_by if name in labels}
    return RuleTest(
        below.series,
        above.series,
        max(expression.windows(), default=0.0),
        {**of_target, **above.labels},
        after,
        missing_labels={} if _fires_without_series(rule) else None,
    )


def _fires_without_series(rule: AlertRule) -> bool:
    absent = rule.expression.absent if isinstance(rule.expression, Stat) else None
    return absent is not None and rule.condition.holds(absent, rule.threshold)
