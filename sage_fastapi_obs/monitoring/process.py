"""What was asked of the monitoring while there was no `Observability`; all that is the process's own is kept here.

Rules wait for each that starts. `start_monitoring()` makes one for a process that has none, such as a script, and it closes
when an application's starts.
"""

from collections.abc import Callable
from functools import partial
from typing import cast
from weakref import WeakKeyDictionary

from sage_fastapi_obs import active
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.settings import Settings

__all__ = ["active_or_none", "forget_rule", "keep_rule", "on_each_start", "reset", "start", "stop"]


class _Process:
    """What this process has."""

    def __init__(self) -> None:
        self.own: Observability | None = None
        """Made here, for want of another."""
        self.waiting: dict[str, Callable[[Observability], None]] = {}
        """What is to be done with each that starts, by what it is about."""
        self.given: WeakKeyDictionary[Observability, set[str]] = WeakKeyDictionary()
        """Names of the rules that were added."""


_process = _Process()


def active_or_none() -> Observability | None:
    """Return the `Observability` of the code that calls; None where there is none."""
    return cast("Observability | None", active.active_observability())


def start(interval_seconds: float) -> None:
    """Judge rules from now on; where there is no `Observability`, make and start one from the environment."""
    found = active_or_none()
    if found is None:
        found = _process.own = Observability(Settings.from_env(monitoring={"interval_seconds": interval_seconds}))
        active.on_start(_arrived)
        found.start()
    elif found.settings.metrics.enabled:
        found.status.start()


def stop() -> None:
    """Judge no more rules; close what was made here. Waits for notifications that are on their way."""
    found, own = active_or_none(), _process.own
    if found is not None and found is not own:
        found.status.close()
    if own is not None:
        _process.own = None
        own.status.close()
        # Without a loop: that of the caller, if there is one, is busy with this call.
        own.abandon()


def on_each_start(about: str, do: Callable[[Observability], None]) -> None:
    """Do something with the `Observability` of the code that calls; where there is none, with each that starts from now on."""
    found = active_or_none()
    if found is not None:
        do(found)
        return
    _process.waiting[about] = do
    active.on_start(_arrived)


def keep_rule(rule: AlertRule) -> AlertRule:
    """Add a rule to the `Observability` of the code that calls, or to each that starts from now on."""
    on_each_start(rule.name, partial(_give, rule))
    return rule


def forget_rule(name: str) -> bool:
    """Remove a rule; tell whether there was one."""
    waited = _process.waiting.pop(name, None) is not None
    found = active_or_none()
    return (found is not None and _take_back(found, name)) or waited


def reset() -> None:
    """Stop what was made here, and take back the rules that were added."""
    own = _process.own
    if own is not None:
        stop()
    for observability, names in _process.given.items():
        for name in names:
            _take_back(observability, name)
    _process.given.clear()
    _process.waiting.clear()


def _give(rule: AlertRule, observability: Observability) -> None:
    _process.given.setdefault(observability, set()).add(rule.name)
    observability.status.alerts.add(rule)


def _take_back(observability: Observability, name: str) -> bool:
    removed = observability.status.alerts.remove(name)
    if removed:
        observability.status.show_active(name, False)
    return removed


def _arrived(started: active.ActiveObservability) -> None:
    observability, own = cast("Observability", started), _process.own
    for do in [*_process.waiting.values()]:
        do(observability)
    if own is not None and own is not observability:
        _process.own = None
        for rule in own.status.alerts.rules:
            if rule.name in _process.given.get(own, ()):
                _give(rule, observability)
        own.abandon()
