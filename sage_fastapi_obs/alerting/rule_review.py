"""What there is to know of alert rules before they fire: that one never can, and how often a new one would have."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from sage_fastapi_obs.alerting.alerts import Alerts
from sage_fastapi_obs.alerting.notify import Log
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.alerting.windows import Windows
from sage_fastapi_obs.catalog import CATALOG
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.legacy.metric_names import ResolvedName


class RuleReview:
    """Compares rules with the metrics that there are, and with what the windows still hold."""

    def __init__(self, alerts: Alerts, windows: Windows, internal_errors: InternalErrors, log: Log) -> None:
        """`log`: writes a log line."""
        self._alerts = alerts
        self._windows = windows
        self._internal_errors = internal_errors
        self._log = log
        self.defaults: dict[str, AlertRule] = {}
        """Rules of the package by their names: they wait for their metrics to be in use."""
        self.collected_names: Callable[[], Mapping[str, ResolvedName]] = dict
        """Returns the names that the application collects metrics by, and what they stand for."""
        self._known: dict[str, tuple[AlertRule, int]] = {}
        self._said: set[str] = set()
        """Rules of which a line says that they are not judged."""

    def problems(self) -> dict[str, str]:
        """Say by the names of rules why they can never fire with the metrics that there are."""
        others = {rule.name for rule in self._alerts.rules if self.defaults.get(rule.name) is not rule}
        found = {name: text for name, text in self._alerts.problems().items() if name in others}
        return found | dict.fromkeys(self._alerts.not_judged(), _NOT_JUDGED)

    def explained(self) -> dict[str, str]:
        """Say the same with the names of metrics that are most like those that do not exist."""
        labels = {rule.name: rule.metric_label for rule in self._alerts.rules}
        return {name: text + self._suggestion(labels[name]) for name, text in self.problems().items() if name in labels}

    def past_firings(self, rule: AlertRule) -> int:
        """Return how often a rule would have fired in what the windows held when this was first asked."""
        known, firings = self._known.get(rule.name, (None, 0))
        if known is not rule:
            firings = self._firings(rule)
            self._known[rule.name] = (rule, firings)
        return firings

    def _firings(self, rule: AlertRule) -> int:
        try:
            return sum(state == "firing" for past in self._alerts.replay(rule) for state in past.changes.values())
        except Exception as error:
            # The expression may be the application's own.
            self._internal_errors.count("AlertRule", error)
            return 0

    def log_news(self) -> None:
        """Log of each new rule why it cannot fire, where there is a similar name, and how often it would have fired."""
        rules = self._alerts.rules
        new = [rule for rule in rules if self._known.get(rule.name, (None,))[0] is not rule]
        problems = self.explained() if new else {}
        for name in set(self._alerts.not_judged()) - self._said:
            self._said.add(name)
            self._log("warn", f"alert rule {name} is not judged: {_NOT_JUDGED}", {"alert": name})
        for rule in new:
            firings, problem = self.past_firings(rule), problems.get(rule.name, "")
            if _SIMILAR in problem:
                self._log("warn", f"alert rule {rule.name} cannot fire: {problem}", {"alert": rule.name})
            if firings and len(self._windows.ticks) > _FIRST_TICKS and not self._alerts.is_known(rule.name):
                often = "once" if firings == 1 else f"{firings} times"
                said = f"alert rule {rule.name} would have fired {often} in the samples that are kept"
                self._log("info", said, {"alert": rule.name, "past_firings": firings})
        self._known = {rule.name: self._known[rule.name] for rule in rules if rule.name in self._known}

    def _suggestion(self, name: str) -> str:
        durations = self._windows.view(3600).histogram("operation_duration_seconds", by=("operation",))
        dotted = [f"{operation}{ending}" for (operation,) in durations for ending in (".duration_ms", ".memory_usage_mb")]
        known = {*self._windows.metrics(), *self.collected_names(), *CATALOG.by_alias, *dotted}
        found = get_close_matches(name, known, n=1) if name not in known else []
        return f"{_SIMILAR}{found[0]}" if found else ""


_NOT_JUDGED = "the worker that judges the rules does not have it; add it in every worker, while the application starts"
_FIRST_TICKS = 2
"""Samples that a process has at once: they are no past."""
_SIMILAR = "; the nearest name is "
