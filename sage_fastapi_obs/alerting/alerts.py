"""Alerts: evaluates rules over windows, follows each alert from pending to resolved, and notifies callbacks."""

import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from sage_fastapi_obs.alerting.alert_states import AlertState, RuleState, State, WrittenAlerts, watches, write
from sage_fastapi_obs.alerting.expressions import Values, View
from sage_fastapi_obs.alerting.label_matchers import Where
from sage_fastapi_obs.alerting.notification_queue import NotificationQueue
from sage_fastapi_obs.alerting.notify import Log
from sage_fastapi_obs.alerting.rules import AlertRule, Callback
from sage_fastapi_obs.alerting.window import Group
from sage_fastapi_obs.alerting.window_store import Tick
from sage_fastapi_obs.alerting.windows import Windows
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.privacy.printable import printable
from sage_fastapi_obs.settings import Severity

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


class PastJudgement(NamedTuple):
    """What a rule would have found at a sample."""

    tick: Tick
    values: Values
    changes: Mapping[Group, State | None]
    """The states of alerts that would have changed; None: not pending any more."""


def timestamp(at: float) -> str:
    """Write Unix time in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class _Notification:
    """That an alert has begun to fire, or is over: to be told."""

    state: RuleState
    group: Group
    alert: AlertState
    news: State
    at: float
    """Unix time."""

    def read(self) -> Alert:
        """Return the alert as it is told."""
        return replace(_alert(self.state.rule, self.group, self.alert), state=self.news)

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """Who is told."""
        rule = self.state.rule
        return rule.callbacks if self.news == "firing" else rule.resolved_callbacks


class _Countdown:
    """Calls a function when it has been called so many times itself."""

    def __init__(self, number: int, call: Callable[[], None]) -> None:
        self._left = number
        self._call = call
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._call()


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
        self._states: dict[str, RuleState] = {}
        self._others: dict[str, tuple[str, RuleState]] = {}
        """States of rules that are not here, with what each watches: of the leader's, or of the process before."""
        self._leader: WrittenAlerts | None = None
        """What the worker that judges has written last; None if it is this one."""
        self._due: list[_Notification] = []
        self.told: Callable[[], object] = lambda: None
        """Called when all callbacks of a notification have returned."""

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
            state = self._states[rule.name] = RuleState(rule, added=self._wall_clock())
            if before is not None and _watches_the_same(before.rule, rule):
                state.alerts, state.notified_at = before.alerts, before.notified_at
            elif before is None:
                self._claim(state)
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
                    for alert in state.alerts.values():
                        # Its notifications are in the queue of this process, and are handed over with that.
                        alert.untold = ()

    def take(self) -> "tuple[float, dict[str, RuleState]]":
        """Return the states of all rules by name, with the time that their times go by; forget the rules."""
        with self._lock:
            self.notify()
            states, self._states = self._states, {}
        return self._windows.watched_seconds, states

    def written(self, at: float) -> bytes:
        """Write all states down for others; `at`: monotonic seconds."""
        with self._lock:
            return write(self._states.values(), at, self._wall_clock(), self._windows.watched_seconds)

    def go_on(self, written: WrittenAlerts, later: float, *, leads: bool) -> None:
        """Go on with the states that another worker, or the process before, has written down.

        `later`: seconds by which the time that states go by is later here. `leads`: they are judged here from now on, and what
        may not have been told is told.
        """
        with self._lock:
            self._leader, self._due = None if leads else written, []
            self._others = {rule.name: (rule.watches, rule.state(later)) for rule in written.rules}
            for state in self._states.values():
                if not self._claim(state) and not leads:
                    state.alerts, state.notified_at = {}, {}

    def _claim(self, state: RuleState) -> bool:
        """Let a rule go on with the state that was written down for it; tell whether there was one."""
        watched, before = self._others.get(state.rule.name, ("", state))
        if watched != watches(state.rule):
            return False
        del self._others[state.rule.name]
        state.go_on_from(before, 0.0)
        state.is_known = True
        if self._leader is None:
            for group, alert in state.alerts.items():
                alert.take_over()
                news, alert.untold = alert.untold, ()
                for one in news:
                    self._note(_Notification(state, group, alert, one, self._wall_clock()))
        return True

    def is_known(self, name: str) -> bool:
        """Tell whether a rule was judged before, by another worker or by the process before."""
        state = self._states.get(name)
        return state is not None and state.is_known

    def not_judged(self) -> list[str]:
        """Return the names of rules that the worker that judges does not have."""
        leader = self._leader
        if leader is None:
            return []
        names, latest = {rule.name for rule in leader.rules}, leader.wall - _GRACE_INTERVALS * self._windows.interval_seconds
        return [name for name, state in [*self._states.items()] if name not in names and state.added < latest]

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
        return self._windows.has_series(metric, where)

    def replay(self, rule: AlertRule) -> Iterator[PastJudgement]:
        """Judge a rule by what the windows hold, the oldest sample first; older samples are further apart."""
        alerts = dict[Group, AlertState]()
        for tick, view in self._windows.past():
            if not all(view(seconds).covered_seconds for seconds in rule.expression.windows()):
                continue
            values, changes = rule.expression.values(view), dict[Group, State | None]()
            for group in {**values, **alerts}:
                alert = alerts.setdefault(group, AlertState())
                if alert.advance(rule, values.get(group), tick.watched, tick.wall):
                    changes[group] = alert.state
            yield PastJudgement(tick, values, changes)

    def evaluate(self) -> list[Alert]:
        """Evaluate all rules over the windows as of the last tick; return the alerts that have changed state.

        A rule that raises is counted, and keeps its state. Nobody is notified before `notify`.
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
        elsewhere = [] if self._leader is None else [state for _, state in [*self._others.values()]]
        # Copied rather than locked: a probe must not wait for an evaluation.
        found = [
            _alert(one.rule, group, alert)
            for one in [*self._states.values(), *elsewhere]
            for group, alert in [*one.alerts.items()]
            if alert.state in wanted
        ]
        return sorted(found, key=lambda alert: (_SEVERITIES.index(alert.rule.severity), alert.since))

    def _evaluate(self, state: "RuleState", view: View) -> Iterator[Alert]:
        rule = state.rule
        if not all(view(seconds).covered_seconds for seconds in rule.expression.windows()):
            # The process has just begun, or was suspended: there is no window yet.
            return
        values = rule.expression.values(view)
        now, wall = self._windows.watched_seconds, self._wall_clock()
        for group in {**values, **state.alerts}:
            alert = state.alerts.get(group) or AlertState()
            if alert.advance(rule, values.get(group), now, wall):
                state.alerts[group] = alert
                if alert.state is not None:
                    yield _alert(rule, group, alert)
            self._note_if_due(state, group, alert, now, wall)
        state.forget(now)

    def _note_if_due(self, state: RuleState, group: Group, alert: AlertState, now: float, wall: float) -> None:
        if alert.state == "firing" and not alert.notified_by:
            if now - state.notified_at.get(group, -math.inf) >= state.rule.cooldown_seconds:
                alert.notified_by = os.getpid()
                state.notified_at[group] = now
                self._note(_Notification(state, group, alert, "firing", wall))
            elif not alert.suppressed:
                alert.suppressed = True
                self._notifications.count("suppressed")
        elif alert.state == "resolved" and alert.notified_by:
            was_here, alert.notified_by = alert.notified_by == os.getpid(), 0
            if was_here:
                self._note(_Notification(state, group, alert, "resolved", wall))

    @property
    def has_news(self) -> bool:
        """Whether `notify` has something to tell."""
        return bool(self._due)

    def _note(self, notification: _Notification) -> None:
        if notification.callbacks:
            notification.alert.untold += (notification.news,)
        self._due.append(notification)

    def notify(self) -> None:
        """Log what the evaluation has found, and queue the notifications of it."""
        with self._lock:
            due, self._due = self._due, []
        for notification in due:
            self._notify(notification)

    def _notify(self, notification: _Notification) -> None:
        alert = notification.read()
        notice, rule = alert.notice(notification.at), alert.rule
        level = _LEVELS[rule.severity] if alert.state == "firing" else "info"
        fields = {"alert": rule.name, "value": alert.value, "threshold": rule.threshold, "labels": dict(alert.labels)}
        self._log(level, f"alert {rule.name} is {alert.state}", fields)
        done = _Countdown(len(notification.callbacks), partial(self._note_told, notification))
        for callback in notification.callbacks:
            self._notifications.put(callback, notice, done)

    def _note_told(self, notification: _Notification) -> None:
        with self._lock:
            alert = notification.alert
            alert.untold = tuple(news for news in alert.untold if news != notification.news)
        self.told()


_LEVELS = {"critical": "error", "warning": "warn", "info": "info"}
_GRACE_INTERVALS = 2
"""So many intervals the worker that judges may take to add a rule that another has already."""
_SEVERITIES: Sequence[Severity] = ("critical", "warning", "info")


def _alert(rule: AlertRule, group: Group, state: AlertState) -> Alert:
    grouped = zip(rule.expression.by, map(printable, group), strict=True)
    labels = {**rule.labels, "severity": rule.severity, **dict(grouped)}
    return Alert(rule, labels, state.state or "resolved", state.value, state.since)


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
