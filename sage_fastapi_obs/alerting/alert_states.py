"""The states of alerts, step by step, and as they are written down for other workers and for the next start."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as checked

from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.alerting.window import Group
from sage_fastapi_obs.settings import Severity

State: TypeAlias = Literal["pending", "firing", "resolved"]
"""An alert in none of these states is inactive, and forgotten."""
_RESOLVED_SECONDS = 900.0
"""How long a resolved alert is still shown."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(slots=True)
class AlertState:
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
    untold: tuple[State, ...] = ()
    """States of which callbacks have been, or are about to be, notified, and have not returned yet."""

    def moved(self, later: float) -> "AlertState":
        """Return it as it is by a clock that is so much later."""
        return replace(self, entered=self.entered + later, ended=None if self.ended is None else self.ended + later)

    def take_over(self) -> None:
        """Go on with it in this process after the one that judged has ended."""
        self.notified_by = os.getpid() if self.notified_by else 0

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


@dataclass(slots=True)
class RuleState:
    """A rule and its alerts, one for each group of series."""

    rule: AlertRule
    alerts: dict[Group, AlertState] = field(default_factory=dict)
    notified_at: dict[Group, float] = field(default_factory=dict)
    """When callbacks were last notified of a group, in watched time."""
    added: float = 0.0
    """When the rule was added, as Unix time."""
    is_known: bool = False
    """Whether it was judged before, by another worker or by the process before."""

    def go_on_from(self, before: "RuleState", later: float) -> None:
        """Take over alerts that go by another clock; this one is later by so many seconds."""
        self.alerts = {group: alert.moved(later) for group, alert in before.alerts.items()}
        self.notified_at = {group: at + later for group, at in before.notified_at.items()}

    def forget(self, now: float) -> None:
        """Drop alerts that are over, and notifications that no cool-down needs any more."""
        self.alerts = {group: alert for group, alert in self.alerts.items() if alert.is_active(now) or alert.untold}
        cooldown = self.rule.cooldown_seconds
        self.notified_at = {group: at for group, at in self.notified_at.items() if group in self.alerts or now - at < cooldown}


@checked(slots=True)
class WrittenRule:
    """A rule with its alerts as they are written down; the rule only as far as pages show it."""

    name: str
    watches: str
    """What it watches: alerts of another expression are not its own."""
    severity: Severity
    metric: str
    by: tuple[str, ...]
    condition: str
    threshold: float
    labels: dict[str, str]
    alerts: list[tuple[Group, AlertState]]
    notified_at: list[tuple[Group, float]]

    def state(self, later: float) -> RuleState:
        """Return it by a clock that is so much later, with a rule for pages; raises `ValueError`."""
        rule = AlertRule(
            name=self.name,
            expression=Stat(self.metric, by=self.by),
            condition=AlertCondition(self.condition),
            threshold=self.threshold,
            severity=self.severity,
            labels=self.labels,
        )
        state = RuleState(rule)
        state.go_on_from(RuleState(rule, dict(self.alerts), dict(self.notified_at)), later)
        return state


@checked(slots=True)
class WrittenAlerts:
    """All alerts at one moment."""

    at: float
    """Monotonic seconds, which the workers of a machine have in common."""
    wall: float
    """Unix time."""
    watched: float
    """The time that states go by."""
    rules: list[WrittenRule]


_WRITTEN = TypeAdapter(WrittenAlerts)


def write(states: Iterable[RuleState], at: float, wall: float, watched: float) -> bytes:
    """Write states down; the times as in `WrittenAlerts`."""
    # The standard library writes any number and any text: also what a label has that is no Unicode.
    return json.dumps(asdict(WrittenAlerts(at, wall, watched, [*_written(states)]))).encode()


def read(written: bytes) -> WrittenAlerts:
    """Read what was written; raises `ValueError` for anything else."""
    return _WRITTEN.validate_python(json.loads(written))


def watches(rule: AlertRule) -> str:
    """Say what a rule watches, in the same words in every process."""
    return _ADDRESS.sub("", f"{rule.expression!r} {rule.condition.value} {rule.threshold!r}")


def _written(states: Iterable[RuleState]) -> Iterator[WrittenRule]:
    for one in states:
        rule = one.rule
        yield WrittenRule(
            *(rule.name, watches(rule), rule.severity, rule.metric_label, rule.expression.by),
            *(rule.condition.value, rule.threshold, {**rule.labels}),
            *([*one.alerts.items()], [*one.notified_at.items()]),
        )
