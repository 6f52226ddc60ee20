"""An alert as Prometheus and people need it: expression, labels, texts, links, and a story that proves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sage_fastapi_obs.alerting.expressions import Expression, duration
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.export.rule_test_series import NoSceneError, TestSeries, scene, values_around
from sage_fastapi_obs.settings import Severity

__all__ = ["DASHBOARDS", "ExportedRule", "RuleTest", "alert_from_rule", "threshold_alert"]

DASHBOARDS = {
    "sage": "sage-overview",
    "textbook": "textbook-system-overview",
    "customer-id": "customer-id-monitoring",
    "http": "unified",
    "result": "result-pattern",
}
"""The dashboard on which an alert's numbers are, by the system it is about."""


@dataclass(frozen=True, slots=True)
class RuleTest:
    """Numbers that a rule is held against: quiet for a while, then not, then quiet again."""

    quiet: TestSeries
    """Just below the threshold."""
    loud: TestSeries
    """Just above."""
    settled_seconds: float = 0.0
    """How long a scene takes to be all that the rule sees: its longest window."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the expression puts on the alert."""
    after: TestSeries | None = None
    """What ends the alert, where that takes more than the first scene."""
    ending_seconds: float | None = None
    """How long the alert takes to end, where that is not as long."""
    gone: TestSeries | None = None
    """What else the rule has to notice: that there is nothing any more."""
    gone_labels: Mapping[str, str] = field(default_factory=dict)
    """What the expression puts on the alert then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRule:
    """One entry of a Prometheus rule file."""

    name: str
    group: str
    """The rule group, which has a file of that name."""
    system: str
    """What it is about: sage, textbook, customer-id, http or result; empty for rules of the settings."""
    expr: str
    for_seconds: float = 0.0
    keep_firing_seconds: float = 0.0
    severity: Severity
    metric: str = ""
    """The metric that it is about, where that is one of a pack."""
    seed: str = ""
    """What it is called elsewhere, when that differs."""
    summary: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    story: RuleTest | None
    """None where no series could be made up."""

    def entry(self, links: Mapping[str, str]) -> dict[str, Any]:
        """Write it as an entry of a rule file; `links`: annotations besides its own."""
        entry: dict[str, Any] = {"alert": self.name, "expr": self.expr, "for": duration(self.for_seconds)}
        if self.keep_firing_seconds:
            entry["keep_firing_for"] = duration(self.keep_firing_seconds)
        texts = {"summary": self.summary, "description": self.description}
        return {**entry, "labels": self.shown_labels, "annotations": {**texts, **links, **self.annotations}}

    @property
    def shown_labels(self) -> dict[str, str]:
        """All labels that the rule itself gives."""
        own = {"system": self.system} if self.system else {}
        return {"severity": self.severity, **own, "seed_alert": self.seed or self.name, **self.labels}

    @property
    def dashboard(self) -> str:
        """The dashboard on which its numbers are."""
        return "textbook-business" if self.group == "business" else DASHBOARDS.get(self.system, "unified")

    def labelled(self, **labels: str) -> "ExportedRule":
        """Return it with more labels, as far as they say something."""
        return replace(self, labels={**self.labels, **{name: text for name, text in labels.items() if text}})


def threshold_alert(
    name: str,
    expression: Expression,
    threshold: float,
    *,
    group: str,
    system: str,
    severity: Severity,
    minutes: float,
    summary: str,
    description: str,
    seed: str = "",
    also_by: Sequence[str] = ("service",),
    target: Mapping[str, str] | None = None,
) -> ExportedRule:
    """Write an alert of something that is more than a threshold for some minutes."""
    rule = AlertRule(
        name=name,
        expression=expression,
        condition=AlertCondition.GREATER_THAN,
        threshold=threshold,
        for_seconds=minutes * 60,
        severity=severity,
        annotations={"summary": summary},
    )
    return alert_from_rule(rule, group, system, description, seed=seed, also_by=also_by, target=target)


def alert_from_rule(
    rule: AlertRule,
    group: str,
    system: str,
    description: str,
    *,
    seed: str = "",
    also_by: Sequence[str] = ("service",),
    target: Mapping[str, str] | None = None,
) -> ExportedRule:
    """Write a rule that could be judged in process as well; `target`: labels of the scrape, for its story."""
    labels = {"service": "example", **(target or {})}
    return ExportedRule(
        name=rule.name,
        group=group,
        system=system,
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
        story=_story(rule, also_by, labels),
    )


def _story(rule: AlertRule, also_by: Sequence[str], labels: Mapping[str, str]) -> RuleTest | None:
    expression: Expression = rule.expression
    if any("{{" in text for text in rule.labels.values()):
        # Prometheus fills these in.
        return None
    try:
        quiet, loud = (scene(expression, value, labels) for value in values_around(rule.condition, rule.threshold))
        ended = None
        if rule.resolve_threshold is not None:
            ended = scene(expression, values_around(rule.condition, rule.resolve_threshold)[0], labels).series
    except NoSceneError:
        return None
    shown = {name: labels[name] for name in also_by if name in labels}
    return RuleTest(quiet.series, loud.series, max(expression.windows(), default=0.0), {**shown, **loud.labels}, ended)
