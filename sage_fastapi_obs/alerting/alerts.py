"""Alerts: each rule's states over time, and a word to its callbacks when one begins or ends."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from sage_fastapi_obs.alerting.expressions import View
from sage_fastapi_obs.alerting.notification_queue import NotificationQueue
from sage_fastapi_obs.alerting.notify import Say
from sage_fastapi_obs.alerting.rules import AlertRule, Callback, Severity
from sage_fastapi_obs.alerting.windows import Group, Window, Windows
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.privacy.printable import printable

__all__ = ["Alert", "Alerts", "State"]

State: TypeAlias = Literal["pending", "firing", "resolved"]
"""An alert that is none of these is inactive, and not kept."""
RESOLVED_SECONDS = 900.0
"""How long an alert that is over is still shown."""
_FILLED = re.compile(r"\{\{\s*\$(value|labels\.(\w+))\s*(?:\|\s*(humanizePercentage|humanizeDuration|humanize)\s*)?\}\}")


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule's alert for one group of series."""

    rule: AlertRule
    labels: Mapping[str, str]
    """The rule's, its severity, and those that its series are told apart by."""
    state: State
    value: float | None
    """The last value that there was."""
    since: float
    """Unix time at which it came into its state."""

    def notice(self, at: float) -> dict[str, Any]:
        """Write what callbacks are told."""
        rule = self.rule
        filled = {name: _fill(text, self.labels, self.value) for name, text in rule.annotations.items()}
        return {
            "name": rule.name,
            "metric_name": rule.shown_metric,
            "condition": rule.condition.name,
            "threshold": rule.threshold,
            "current_value": self.value,
            "timestamp": timestamp(at),
            "severity": rule.severity,
            "state": self.state,
            "since": timestamp(self.since),
            "labels": dict(self.labels),
            "annotations": filled,
        }


def timestamp(at: float) -> str:
    """Write Unix time in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Alerts:
    """All rules, and what has become of them."""

    def __init__(
        self,
        windows: Windows,
        dispatch: NotificationQueue,
        faults: InternalErrors,
        say: Say,
        *,
        wall_clock: Callable[[], float],
    ) -> None:
        """`dispatch`: hands notifications to callbacks. `say`: writes a log line. `wall_clock`: Unix time, to be shown."""
        self._windows = windows
        self._faults = faults
        self._dispatch = dispatch
        self._say = say
        self._wall_clock = wall_clock
        self._lock = threading.RLock()
        self._watched: dict[str, _Watched] = {}

    @property
    def rules(self) -> list[AlertRule]:
        """All rules, in the order in which they were added."""
        return [watched.rule for watched in [*self._watched.values()]]

    def add(self, rule: AlertRule) -> AlertRule:
        """Add a rule, in place of another by its name if there is one; the same alert goes on if only its texts differ."""
        with self._lock:
            before = self._watched.get(rule.name)
            self._watched[rule.name] = after = _Watched(rule)
            if before is not None and _is_alike(before.rule, rule):
                after.courses = before.courses
                after.told_at = before.told_at
        return rule

    def remove(self, name: str) -> bool:
        """Forget a rule and its alerts; tell whether there was one."""
        with self._lock:
            return self._watched.pop(name, None) is not None

    def evaluate(self) -> list[Alert]:
        """Judge all rules over the windows as of the last tick; return the alerts that have changed state.

        A rule that raises is counted, and keeps its state.
        """
        changed: list[Alert] = []
        views: dict[float, Window] = {}

        def view(seconds: float) -> Window:
            if seconds not in views:
                views[seconds] = self._windows.view(seconds)
            return views[seconds]

        with self._lock:
            for watched in self._watched.values():
                try:
                    changed += self._judged(watched, view)
                except Exception as error:
                    self._faults.count("AlertRule", error)
        return changed

    def alerts(self, *states: State) -> list[Alert]:
        """Return the alerts in some states, by default those that are pending or firing, most severe first."""
        wanted = states or ("pending", "firing")
        # Copied rather than locked: a probe must not wait for the rules to be judged.
        found = [
            course.alert(watched.rule, group)
            for watched in [*self._watched.values()]
            for group, course in [*watched.courses.items()]
            if course.state in wanted
        ]
        return sorted(found, key=lambda alert: (_SEVERITIES.index(alert.rule.severity), alert.since))

    def _judged(self, watched: "_Watched", view: View) -> Iterator[Alert]:
        rule = watched.rule
        if not all(view(seconds).covered_seconds for seconds in rule.expression.windows()):
            # A process that has just begun, or was suspended, has nothing to say yet.
            return
        values = rule.expression.values(view)
        now, wall = self._windows.watched_seconds, self._wall_clock()
        for group in {**values, **watched.courses}:
            course = watched.courses.get(group) or _Course()
            if course.goes_on(rule, values.get(group), now, wall):
                watched.courses[group] = course
                if course.state is not None:
                    yield course.alert(rule, group)
            self._tell(watched, group, course, now, wall)
        watched.forget(now)

    def _tell(self, watched: "_Watched", group: Group, course: "_Course", now: float, wall: float) -> None:
        rule = watched.rule
        if course.state == "firing" and not course.told:
            if now - watched.told_at.get(group, -rule.cooldown_seconds) < rule.cooldown_seconds:
                if not course.suppressed:
                    self._dispatch.count("suppressed")
                course.suppressed = True
                return
            course.told = True
            watched.told_at[group] = now
            self._notify(rule.callbacks, course.alert(rule, group), wall)
        elif course.state == "resolved" and course.told:
            course.told = False
            self._notify(rule.resolved_callbacks, course.alert(rule, group), wall)

    def _notify(self, callbacks: Iterable[Callback], alert: Alert, wall: float) -> None:
        notice = alert.notice(wall)
        level = _LEVELS[alert.rule.severity] if alert.state == "firing" else "info"
        told = {"alert": alert.rule.name, "value": alert.value, "threshold": alert.rule.threshold, "labels": dict(alert.labels)}
        self._say(level, f"alert {alert.rule.name} is {alert.state}", told)
        for callback in callbacks:
            self._dispatch(callback, notice)


_LEVELS = {"critical": "error", "warning": "warn", "info": "info"}
_SEVERITIES: Sequence[Severity] = ("critical", "warning", "info")


@dataclass(slots=True)
class _Watched:
    """A rule, and the courses that its alerts have taken."""

    rule: AlertRule
    courses: dict[Group, "_Course"] = field(default_factory=dict)
    told_at: dict[Group, float] = field(default_factory=dict)
    """When somebody was last told of a group."""

    def forget(self, now: float) -> None:
        """Let go of what is over."""
        self.courses = {group: course for group, course in self.courses.items() if course.is_shown(now)}
        cooling = self.rule.cooldown_seconds
        self.told_at = {group: at for group, at in self.told_at.items() if group in self.courses or now - at < cooling}


@dataclass(slots=True)
class _Course:
    """What has become of one alert."""

    state: State | None = None
    entered: float = 0.0
    """When it came into its state, in watched time."""
    since: float = 0.0
    """The same in Unix time."""
    ended: float | None = None
    """Since when its condition does not hold any more."""
    value: float | None = None
    told: bool = False
    """Whether somebody was told that it fires."""
    suppressed: bool = False

    def goes_on(self, rule: AlertRule, values: Sequence[float] | None, now: float, wall: float) -> bool:
        """Take the next step; tell whether its state has changed."""
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

    def is_shown(self, now: float) -> bool:
        """Tell whether there is anything to show."""
        return self.state in ("pending", "firing") or (self.state == "resolved" and now - self.entered < RESOLVED_SECONDS)

    def alert(self, rule: AlertRule, group: Group) -> Alert:
        """Show it as it is now."""
        told = zip(rule.expression.by, map(printable, group), strict=True)
        labels = {**rule.labels, "severity": rule.severity, **dict(told)}
        return Alert(rule, labels, self.state or "resolved", self.value, self.since)


def _is_alike(one: AlertRule, other: AlertRule) -> bool:
    return (one.expression, one.condition, one.threshold) == (other.expression, other.condition, other.threshold)


def _fill(text: str, labels: Mapping[str, str], value: float | None) -> str:
    """Fill a text in, as Prometheus does with the templates that are in use here."""

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

    return _FILLED.sub(filled, text)
