"""What the RFS functions keep for the process: an `Observability` of their own, and rules for those that start later."""

from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

from sage_fastapi_obs.active import ActiveObservability, active_observability, on_start
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.settings import Settings


class _ProcessState:
    def __init__(self) -> None:
        self.own: Observability | None = None
        """Started here because there was no other."""
        self.waiting: dict[str, Callable[[ActiveObservability], None]] = {}
        """What is done with each that starts, by a name."""
        self.rules: WeakKeyDictionary[ActiveObservability, set[str]] = WeakKeyDictionary()
        """Names of the rules that were added here."""


_state = _ProcessState()


def start(interval_seconds: float) -> None:
    """Judge rules from now on; without an `Observability`, start one from the environment."""
    observability = active_observability()
    if observability is None:
        _state.own = Observability(Settings.from_env(monitoring={"interval_seconds": interval_seconds}))
        on_start(_on_start)
        _state.own.start()
    elif observability.settings.metrics.enabled:
        observability.status.start()


def stop() -> None:
    """Judge no more rules, and close what was started here. Waits for notifications that are on their way."""
    observability, own = active_observability(), _state.own
    if observability is not None and observability is not own:
        observability.status.close()
    if own is not None:
        _state.own = None
        own.status.close()
        # Without a loop: if the caller has one, this call blocks it.
        own.abandon()


def on_each_start(name: str, do: Callable[[ActiveObservability], None]) -> None:
    """Call a function with the active `Observability`; if there is none, with each one that starts later."""
    observability = active_observability()
    if observability is not None:
        do(observability)
        return
    _state.waiting[name] = do
    on_start(_on_start)


def add_rule(rule: AlertRule) -> AlertRule:
    """Add a rule to the active `Observability`, or to each that starts from now on."""
    on_each_start(rule.name, partial(_add, rule))
    return rule


def remove_rule(name: str) -> bool:
    """Remove a rule; return whether there was one."""
    was_waiting = _state.waiting.pop(name, None) is not None
    observability = active_observability()
    return (observability is not None and _remove(observability, name)) or was_waiting


def reset() -> None:
    """Stop what was started here, and remove the rules that were added."""
    if _state.own is not None:
        stop()
    for observability, names in _state.rules.items():
        for name in names:
            _remove(observability, name)
    _state.rules.clear()
    _state.waiting.clear()


def _add(rule: AlertRule, observability: ActiveObservability) -> None:
    _state.rules.setdefault(observability, set()).add(rule.name)
    observability.status.alerts.add(rule)


def _remove(observability: ActiveObservability, name: str) -> bool:
    removed: bool = observability.status.alerts.remove(name)
    if removed:
        observability.status.show_active(name, False)
    return removed


def _on_start(observability: ActiveObservability) -> None:
    own = _state.own
    for do in [*_state.waiting.values()]:
        do(observability)
    if own is not None and own is not observability:
        # That of an application replaces ours.
        _state.own = None
        for rule in own.status.alerts.rules:
            if rule.name in _state.rules.get(own, ()):
                _add(rule, observability)
        own.abandon()
