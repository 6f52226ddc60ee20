"""What people ask of an alert rule: how near it is to firing, and what it would have done in what the windows hold."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel

from sage_fastapi_obs.alerting.alert_states import State
from sage_fastapi_obs.alerting.alerts import Alert, AlertSummary, PastJudgement, timestamp
from sage_fastapi_obs.alerting.default_rules import EXPORTED_NAMES
from sage_fastapi_obs.alerting.expressions import View
from sage_fastapi_obs.alerting.past_lines import Moment, PastLines, finite, labels_of, past_lines
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.window import Group
from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.settings import Severity

MOST_FIRINGS = 50
_STATES: Sequence[State] = ("firing", "pending", "resolved")


class RuleReport(BaseModel):
    """An alert rule as it is now."""

    name: str
    severity: Severity
    summary: str
    """As it is written: with templates."""
    description: str
    runbook: str
    """Address or path of its page."""
    expression: str | None
    """Its condition in PromQL; null where it cannot be written so."""
    metric: str
    condition: str
    """`>`, `>=`, `<`, `<=`, `==` or `!=`."""
    threshold: float
    resolve_threshold: float | None
    """Threshold while it fires, if that is another."""
    window_seconds: float
    for_seconds: float
    keep_firing_seconds: float
    state: Literal["firing", "pending", "resolved", "inactive"]
    since: str | None
    """When it entered this state."""
    value: float | None
    """The figure that is compared, of the group of series that is nearest to firing; null: there is none yet."""
    problem: str | None
    """Why it has no value, or can never fire."""
    receivers: list[str]
    """Who is notified."""


class RuleList(BaseModel):
    """All rules in the order in which they were added."""

    rules: list[RuleReport]


class PastFiring(BaseModel):
    """One time that a rule would have fired; Unix time in seconds."""

    labels: dict[str, str]
    began: float
    ended: float | None
    """null: it would still fire."""


class RuleDetail(RuleReport):
    """An alert rule with its figures over time."""

    by: list[str]
    """Labels of which each combination of values is an alert of its own."""
    alerts: list[AlertSummary]
    """Those that are pending, firing or just over."""
    past: PastLines
    firings: list[PastFiring]
    """What it would have done, the newest first, as far as samples are kept: older ones are further apart."""
    firings_left_out: int


class RuleReports:
    """Describes the rules of a service."""

    def __init__(self, status: ServiceStatus, runbooks_url: str) -> None:
        """`runbooks_url`: where the pages named after alerts are."""
        self._status = status
        self._runbooks_url = runbooks_url.rstrip("/")

    def rules(self) -> RuleList:
        """Describe all rules."""
        view, problems, alerts = cache(self._status.view), self._status.review.explained(), self._alerts()
        reports = [
            RuleReport(**self._fields(rule, view, problems.get(rule.name), alerts[rule.name]))
            for rule in self._status.alerts.rules
        ]
        return RuleList(rules=reports)

    def rule(self, name: str, seconds: float) -> RuleDetail | None:
        """Describe one rule, with its figures of the last seconds; None where there is none of this name."""
        rule = next((one for one in self._status.alerts.rules if one.name == name), None)
        if rule is None:
            return None
        alerts, problem = self._alerts()[name], self._status.review.explained().get(name)
        judged, failed = self._replay(rule)
        firings = [*_firings(rule, judged)][::-1]
        return RuleDetail(
            **self._fields(rule, self._status.view, problem or failed, alerts),
            by=[*rule.expression.by],
            alerts=[alert.summary() for alert in alerts],
            past=self._past(rule, judged, seconds),
            firings=firings[:MOST_FIRINGS],
            firings_left_out=max(0, len(firings) - MOST_FIRINGS),
        )

    def _alerts(self) -> defaultdict[str, list[Alert]]:
        found = defaultdict[str, list[Alert]](list)
        for alert in self._status.alerts.alerts(*_STATES):
            found[alert.rule.name].append(alert)
        return found

    def _fields(self, rule: AlertRule, view: View, problem: str | None, alerts: Sequence[Alert]) -> dict[str, Any]:
        value, failed = _nearest(rule, view)
        state, since = min(((_STATES.index(one.state), one.since) for one in alerts), default=(None, 0.0))
        return {
            "name": rule.name,
            "severity": rule.severity,
            "summary": rule.annotations.get("summary", ""),
            "description": rule.annotations.get("description", ""),
            "runbook": self._runbook(rule),
            "expression": _promql(rule),
            "metric": rule.metric_label,
            "condition": rule.condition.value,
            "threshold": rule.threshold,
            "resolve_threshold": rule.resolve_threshold,
            "window_seconds": max(rule.expression.windows()),
            "for_seconds": rule.for_seconds,
            "keep_firing_seconds": rule.keep_firing_seconds,
            "state": "inactive" if state is None else _STATES[state],
            "since": None if state is None else timestamp(since),
            "value": value,
            "problem": problem or failed,
            "receivers": [getattr(callback, "__name__", type(callback).__name__) for callback in rule.callbacks],
        }

    def _runbook(self, rule: AlertRule) -> str:
        default = f"{self._runbooks_url}/{EXPORTED_NAMES.get(rule.name, rule.name)}.md"
        return rule.annotations.get("runbook_url", default)

    def _replay(self, rule: AlertRule) -> tuple[list[PastJudgement], str | None]:
        try:
            return [*self._status.alerts.replay(rule)], None
        except Exception as error:
            # The expression is the application's own.
            return [], _raised(error)

    def _past(self, rule: AlertRule, judged: Sequence[PastJudgement], seconds: float) -> PastLines:
        fired = {group for past in judged for group, state in past.changes.items() if state == "firing"}
        begin = judged[-1].tick.at - seconds if judged else 0.0
        moments = [_moment(rule, past) for past in judged if past.tick.at >= begin]
        return past_lines(moments, rule.expression.by, lambda group, value: (group in fired, _nearness(rule, value)))


def _moment(rule: AlertRule, past: PastJudgement) -> Moment:
    # Of a time in which the process was suspended, nothing is known.
    values = {} if past.tick.after_pause else past.values
    return past.tick.wall, {group: _least(rule, one) for group, one in values.items()}


def _nearest(rule: AlertRule, view: View) -> tuple[float | None, str | None]:
    """Return the value that is nearest to the threshold, or beyond it; or why there is none."""
    try:
        if not all(view(seconds).covered_seconds for seconds in rule.expression.windows()):
            return None, None
        values = [_least(rule, one) for one in rule.expression.values(view).values()]
    except Exception as error:
        return None, _raised(error)
    return finite(max(values, key=lambda value: _nearness(rule, value), default=None)), None


def _least(rule: AlertRule, values: Sequence[float]) -> float:
    """Return which of several values, that all have to meet the condition, is furthest from it."""
    return min(values, key=lambda value: _nearness(rule, value))


def _nearness(rule: AlertRule, value: float) -> float:
    match rule.condition.value:
        case ">" | ">=":
            return value
        case "<" | "<=":
            return -value
        case "==":
            return -abs(value - rule.threshold)
    return abs(value - rule.threshold)


def _firings(rule: AlertRule, judged: Sequence[PastJudgement]) -> Iterator[PastFiring]:
    """Yield how often, and how long, a rule would have fired, the oldest first."""
    current: dict[Group, PastFiring] = {}
    for past in judged:
        for group, state in past.changes.items():
            if state == "firing":
                current[group] = PastFiring(labels=labels_of(rule.expression.by, group), began=past.tick.wall, ended=None)
                yield current[group]
            elif state == "resolved" and group in current:
                current[group].ended = past.tick.wall


def _promql(rule: AlertRule) -> str | None:
    """Write the condition; None for an expression of the application that cannot be written in PromQL."""
    try:
        return rule.promql()
    except Exception:
        return None


def _raised(error: Exception) -> str:
    return f"its expression raises {class_name(error)}"
