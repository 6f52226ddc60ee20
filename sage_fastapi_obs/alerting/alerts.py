"""Alerts: evaluates rules over windows, follows each alert from pending to resolved, and notifies callbacks."""

import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from sage_fastapi_obs.alerting.expressions import View
from sage_fastapi_obs.alerting.label_matchers import Where
from sage_fastapi_obs.alerting.notification_queue import NotificationQueue
from sage_fastapi_obs.alerting.notify import Log
from sage_fastapi_obs.alerting.rules import AlertRule, Callback
from sage_fastapi_obs.alerting.windows import Group, Windows
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.settings import Severity

State: TypeAlias = Literal["pending", "firing", "resolved"]
"""An alert in none of these states is inactive, and forgotten."""
_RESOLVED_SECONDS = 900.0
"""How long a resolved alert is still shown."""
_TEMPLATE = re.compile(r"\{\{\s*\$(value|labels\.(\w+))\s*(?:\|\s*(humanizePercentage|humanizeDuration|humanize)\s*)?\}\}")


class AlertSummary(TypedDict):
    """An alert, for pages and callbacks."""

    name: str
    metric_name: str
    condition: str
    threshold: float
    current_value: float | None
    severity: Severity
    state: State
    since: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule's alert for one group of series."""

    rule: AlertRule
    labels: Mapping[str, str]
    """Those of the rule, its severity, and those that the rule groups by."""
    state: State
    value: float | None
    """The last one known."""
    since: float
    """Unix time at which it entered its state."""

    def summary(self) -> AlertSummary:
        """Describe it for pages and callbacks."""
        rule = self.rule
        return {
            "name": rule.name,
            "metric_name": rule.metric_label,
            "condition": rule.condition.name,
            "threshold": rule.threshold,
            "current_value": self.value,
            "severity": rule.severity,
            "state": self.state,
            "since": timestamp(self.since),
            "labels": dict(self.labels),
        }

    def notice(self, at: float) -> dict[str, Any]:
        """Describe it for callbacks: also `timestamp`, and the annotations with their templates filled in."""
        filled = {name: _fill(text, self.labels, self.value) for name, text in self.rule.annotations.items()}
        return {**self.summary(), "timestamp": timestamp(at), "annotations": filled}


def timestamp(at: float) -> str:
    """Write Unix time in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Alerts:
    """All rules, and the state of their alerts."""

    def __init__(
        self,
        windows: Windows,
        notifications: NotificationQueue,
        internal_errors: InternalErrors,
        log: Log,
        *,
        wall_clock: Callable[[], float],
    ) -> None:
        """`log`: writes a log line. `wall_clock`: Unix time, only to be shown."""
        self._windows = windows
        self._notifications = notifications
        self._internal_errors = internal_errors
        self._log = log
        self._wall_clock = wall_clock
        self._lock = threading.RLock()
        self._states: dict[str, _RuleState] = {}

    @property
    def rules(self) -> list[AlertRule]:
        """All rules, in the order in which they were added."""
        return [state.rule for state in [*self._states.values()]]

    def add(self, rule: AlertRule) -> AlertRule:
        """Add a rule, or replace the one of its name; its alerts go on if it watches the same.

        Raises `SettingsError` for a statistic that its metric has not.
        """
        kinds = self._windows.metrics()
        rule.check(lambda metric, _: kinds.get(metric, ""))
        with self._lock:
            before = self._states.get(rule.name)
            if before is not None and _watches_the_same(before.rule, rule):
                self._states[rule.name] = _RuleState(rule, before.alerts, before.notified_at)
            else:
                self._states[rule.name] = _RuleState(rule)
        return rule

    def add_from(self, other: "Alerts") -> None:
        """Go on with the alerts of another, of rules that both have, so that nobody is notified of them twice.

        The other judges no more: an evaluation in progress ends first, so that all its notifications are in the queue.
        """
        watched, states = other.take()
        later = self._windows.watched_seconds - watched
        with self._lock:
            for name, before in states.items():
                state = self._states.get(name)
                if state is not None and _watches_the_same(before.rule, state.rule):
                    state.go_on_from(before, later)

    def take(self) -> "tuple[float, dict[str, _RuleState]]":
        """Return the states of all rules by name, with the time that their times go by; forget the rules."""
        with self._lock:
            states, self._states = self._states, {}
        return self._windows.watched_seconds, states

    def remove(self, name: str) -> bool:
        """Remove a rule and its alerts; tell whether there was one."""
        with self._lock:
            return self._states.pop(name, None) is not None

    def problems(self) -> dict[str, str]:
        """Say by the names of rules why they can have no value: there is no such metric, or it has no such statistic."""
        kinds = self._windows.metrics()

        def problem(rule: AlertRule) -> str | None:
            # A name may stand for the series of one operation. Rules that choose labels themselves wait for these.
            return rule.problem(lambda metric, where: kinds.get(metric) if self._has(rule, metric, where) else None)

        found = {rule.name: problem(rule) for rule in self.rules} if self._windows.ticks else {}
        return {name: text for name, text in found.items() if text is not None}

    def _has(self, rule: AlertRule, metric: str, where: Where) -> bool:
        if not (rule.metric_name and "operation" in where):
            return True
        selected = self._windows.select(metric, where, ())
        return selected is not None and bool(selected[1])

    def replay(self, rule: AlertRule) -> int:
        """Return how often a rule would have fired in what the windows hold; older samples are further apart."""
        firings, alerts = 0, dict[Group, _AlertState]()
        for tick, view in self._windows.past():
            if not all(view(seconds).covered_seconds for seconds in rule.expression.windows()):
                continue
            values = rule.expression.values(view)
            for group in {**values, **alerts}:
                alert = alerts.setdefault(group, _AlertState())
                changed = alert.advance(rule, values.get(group), tick.watched, tick.wall)
                firings += changed and alert.state == "firing"
        return firings

    def evaluate(self) -> list[Alert]:
        """Evaluate all rules over the windows as of the last tick; return the alerts that have changed state.

        A rule that raises is counted, and keeps its state.
        """
        changed: list[Alert] = []
        view = cache(self._windows.view)
        with self._lock:
            for state in self._states.values():
                try:
                    changed += self._evaluate(state, view)
                except Exception as error:
                    self._internal_errors.count("AlertRule", error)
        return changed

    def alerts(self, *states: State) -> list[Alert]:
        """Return the alerts in some states, by default those that are pending or firing, most severe first."""
        wanted = states or ("pending", "firing")
        # Copied rather than locked: a probe must not wait for an evaluation.
        found = [
            alert.as_alert(one.rule, group)
            for one in [*self._states.values()]
            for group, alert in [*one.alerts.items()]
            if alert.state in wanted
        ]
        return sorted(found, key=lambda alert: (_SEVERITIES.index(alert.rule.severity), alert.since))

    def _evaluate(self, state: "_RuleState", view: View) -> Iterator[Alert]:
        rule = state.rule
        if not all(view(seconds).covered_seconds for seconds in rule.expression.windows()):
            # The process has just begun, or was suspended: there is no window yet.
            return
        values = rule.expression.values(view)
        now, wall = self._windows.watched_seconds, self._wall_clock()
        for group in {**values, **state.alerts}:
            alert = state.alerts.get(group) or _AlertState()
            if alert.advance(rule, values.get(group), now, wall):
                state.alerts[group] = alert
                if alert.state is not None:
                    yield alert.as_alert(rule, group)
            self._notify_if_due(state, group, alert, now, wall)
        state.forget(now)

    def _notify_if_due(self, state: "_RuleState", group: Group, alert: "_AlertState", now: float, wall: float) -> None:
        rule = state.rule
        if alert.state == "firing" and not alert.notified_by:
            if now - state.notified_at.get(group, -math.inf) >= rule.cooldown_seconds:
                alert.notified_by = os.getpid()
                state.notified_at[group] = now
                self._notify(rule.callbacks, alert.as_alert(rule, group), wall)
            elif not alert.suppressed:
                alert.suppressed = True
                self._notifications.count("suppressed")
        elif alert.state == "resolved" and alert.notified_by:
            was_here, alert.notified_by = alert.notified_by == os.getpid(), 0
            if was_here:
                self._notify(rule.resolved_callbacks, alert.as_alert(rule, group), wall)

    def _notify(self, callbacks: Iterable[Callback], alert: Alert, wall: float) -> None:
        notice, rule = alert.notice(wall), alert.rule
        level = _LEVELS[rule.severity] if alert.state == "firing" else "info"
        fields = {"alert": rule.name, "value": alert.value, "threshold": rule.threshold, "labels": dict(alert.labels)}
        self._log(level, f"alert {rule.name} is {alert.state}", fields)
        for callback in callbacks:
            self._notifications.put(callback, notice)


_LEVELS = {"critical": "error", "warning": "warn", "info": "info"}
_SEVERITIES: Sequence[Severity] = ("critical", "warning", "info")


@dataclass(slots=True)
class _RuleState:
    """A rule and its alerts, one for each group of series."""

    rule: AlertRule
    alerts: dict[Group, "_AlertState"] = field(default_factory=dict)
    notified_at: dict[Group, float] = field(default_factory=dict)
    """When callbacks were last notified of a group, in watched time."""

    def go_on_from(self, before: "_RuleState", later: float) -> None:
        """Take over alerts that are told by another clock; this one is later by so many seconds."""
        self.alerts = {group: alert.moved(later) for group, alert in before.alerts.items()}
        self.notified_at = {group: at + later for group, at in before.notified_at.items()}

    def forget(self, now: float) -> None:
        """Drop alerts that are over, and notifications that no cool-down needs any more."""
        self.alerts = {group: alert for group, alert in self.alerts.items() if alert.is_active(now)}
        cooldown = self.rule.cooldown_seconds
        self.notified_at = {group: at for group, at in self.notified_at.items() if group in self.alerts or now - at < cooldown}


@dataclass(slots=True)
class _AlertState:
    """The state of one alert; all times but `since` are in watched time."""

    state: State | None = None
    entered: float = 0.0
    since: float = 0.0
    """The same in Unix time."""
    ended: float | None = None
    """Since when the condition does not hold any more."""
    value: float | None = None
    notified_by: int = 0
    """Id of the process that has notified callbacks that it fires; 0 for none. A child that is forked later does not repeat it,
    and does not say that it is over: it knows only of itself."""
    suppressed: bool = False
    """Whether the cool-down has held its notification back."""

    def moved(self, later: float) -> "_AlertState":
        """Return it as it is by a clock that is so much later."""
        return replace(self, entered=self.entered + later, ended=None if self.ended is None else self.ended + later)

    def advance(self, rule: AlertRule, values: Sequence[float] | None, now: float, wall: float) -> bool:
        """Take the step to `now`; tell whether its state has changed."""
        if values is not None:
            self.value = values[0]
        holds = values is not None and rule.holds(values, firing=self.state == "firing")
        self.ended = None if holds else now if self.ended is None else self.ended
        following = self._following(rule, holds, now)
        if following == self.state:
            return False
        if following == "pending" and not rule.for_seconds:
            following = "firing"
        self.state, self.entered, self.since = following, now, wall
        self.suppressed = False
        return True

    def _following(self, rule: AlertRule, holds: bool, now: float) -> State | None:
        match self.state:
            case "pending" if not holds:
                return None
            case "pending":
                return "firing" if now - self.entered >= rule.for_seconds else "pending"
            case "firing" if self.ended is not None and now - self.ended >= rule.keep_firing_seconds:
                return "resolved"
            case "firing":
                return "firing"
        return "pending" if holds else self.state

    def is_active(self, now: float) -> bool:
        """Tell whether it is pending, firing, or has just been resolved."""
        return self.state in ("pending", "firing") or (self.state == "resolved" and now - self.entered < _RESOLVED_SECONDS)

    def as_alert(self, rule: AlertRule, group: Group) -> Alert:
        """Return it as it is now."""
        grouped = zip(rule.expression.by, map(printable, group), strict=True)
        labels = {**rule.labels, "severity": rule.severity, **dict(grouped)}
        return Alert(rule, labels, self.state or "resolved", self.value, self.since)


def _watches_the_same(one: AlertRule, other: AlertRule) -> bool:
    return (one.expression, one.condition, one.threshold) == (other.expression, other.condition, other.threshold)


def _fill(text: str, labels: Mapping[str, str], value: float | None) -> str:
    """Fill the templates of an annotation in, as Prometheus does."""

    def filled(found: re.Match[str]) -> str:
        if found[2]:
            return labels.get(found[2], "")
        if value is None:
            return "nothing"
        match found[3]:
            case "humanizePercentage":
                return f"{value * 100:.4g}%"
            case "humanizeDuration":
                return f"{value:.4g}s"
        return f"{value:.4g}"

    return _TEMPLATE.sub(filled, text)
