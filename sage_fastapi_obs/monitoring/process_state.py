"""What the RFS functions keep for the process: an `Observability` of their own, and rules for those that start later."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary

from sage_fastapi_obs.active import ActiveObservability, active_observability, count_internal_error, on_start
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.processes import AtEnd
from sage_fastapi_obs.settings import Settings

Addition: TypeAlias = Callable[[ActiveObservability], None]
"""Adds one or several rules."""


class _ProcessState:
    def __init__(self) -> None:
        self.own: Observability | None = None
        """Started here because there was no other."""
        self.waiting: dict[str, Addition] = {}
        """What is added to each that starts, by a name."""
        self.rules: WeakKeyDictionary[ActiveObservability, dict[str, Addition]] = WeakKeyDictionary()
        """The rules that were added here, by their names, and how they were."""
        self.at_end = AtEnd(_stop_own, _stop_own)


def start(interval_seconds: float) -> None:
    """Judge rules from now on; without an `Observability`, start one from the environment."""
    observability = active_observability()
    if observability is None:
        _state.own = Observability(Settings.from_env(monitoring={"interval_seconds": interval_seconds}))
        _state.own.status.begin_anew()
        on_start(_on_start)
        _state.own.start()
        # After its log output has, so that the rules are judged before that closes.
        _state.at_end.watch()
    elif observability.settings.metrics.enabled:
        observability.status.start()
        observability.status.note_use()


def stop() -> None:
    """Judge no more rules, and close what was started here. Waits for notifications that are on their way."""
    observability, own = active_observability(), _state.own
    if observability is not None and observability is not own:
        observability.status.close()
    if own is not None:
        _forget_own()
        own.status.close()
        # Without a loop: if the caller has one, this call blocks it.
        own.abandon()


def add_rule(rule: AlertRule) -> AlertRule:
    """Add a rule to the active `Observability`; if there is none, to each one that starts later."""
    _add_now_or_later(rule.name, partial(_add, rule))
    return rule


def add_default_rules() -> None:
    """Add the rules that come with the package in the same way."""
    _add_now_or_later("the default alerts", _add_defaults)


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


def _add_now_or_later(name: str, add: Addition) -> None:
    observability = active_observability()
    if observability is not None:
        add(observability)
        return
    _state.waiting[name] = add
    on_start(_on_start)


def _add(rule: AlertRule, observability: ActiveObservability) -> None:
    _state.rules.setdefault(observability, {})[rule.name] = partial(_add, rule)
    observability.status.alerts.add(rule)
    observability.status.note_use()


def _add_defaults(observability: ActiveObservability) -> None:
    before = _rule_names(observability)
    observability.status.add_default_alerts()
    added = _rule_names(observability) - before
    _state.rules.setdefault(observability, {}).update(dict.fromkeys(added, _add_defaults))


def _rule_names(observability: ActiveObservability) -> set[str]:
    return {rule.name for rule in observability.status.alerts.rules}


def _remove(observability: ActiveObservability, name: str) -> bool:
    removed: bool = observability.status.alerts.remove(name)
    if removed:
        observability.status.show_active(name, False)
    return removed


def _on_start(observability: ActiveObservability) -> None:
    own = _state.own
    _add_all(_state.waiting.values(), observability)
    if own is not None and own is not observability:
        # That of an application replaces ours.
        _forget_own()
        left = _rule_names(own)
        _add_all(dict.fromkeys(add for name, add in _state.rules.get(own, {}).items() if name in left), observability)
        try:
            _hand_over(own, observability)
        finally:
            own.abandon()


def _add_all(additions: Iterable[Addition], observability: ActiveObservability) -> None:
    for add in [*additions]:
        try:
            add(observability)
        except SettingsError as error:
            # Its metric is of another kind here than was known before.
            count_internal_error("create_alert_rule", error, observability)


def _hand_over(own: Observability, observability: ActiveObservability) -> None:
    # Sampled before, so that what was counted until now is a rise.
    observability.status.refresh()
    observability.instruments.add_from(own.instruments, leaving=("monitoring_alert_active",))
    observability.collected.add_from(own.collected)
    observability.status.alerts.add_from(own.status.alerts)
    observability.status.notifications.add_from(own.status.notifications)


def _forget_own() -> None:
    _state.own = None
    _state.at_end.leave()


def _stop_own() -> None:
    # A child that was forked has it too, and judges nothing unless it was told to.
    if _state.own is not None and _state.own.status.is_active:
        stop()


_state = _ProcessState()
