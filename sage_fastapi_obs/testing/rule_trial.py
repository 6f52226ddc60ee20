"""Which alert rules would fire if what a test does went on: judged over all that was counted since the observation began."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sage_fastapi_obs.alerting.default_rules import EXPORTED_NAMES
from sage_fastapi_obs.alerting.rules import AlertRule
from sage_fastapi_obs.alerting.windows import Windows
from sage_fastapi_obs.export.all_rules import alerts
from sage_fastapi_obs.metrics.registry_reader import from_samples

_STEP_SECONDS = 15.0


class RuleTrial:
    """The rules of one `Observability`, over windows that hold this test alone, by a clock of their own."""

    def __init__(self, observability: Any) -> None:
        self.observability = observability
        self._seconds = 0.0
        # Not as the service itself reads them: that tells each change once, and to one reader.
        read = partial(from_samples, observability.registry)
        self._windows = Windows(read, interval_seconds=_STEP_SECONDS, clock=self._now, wall_clock=self._now)
        self._windows.sample()

    def _now(self) -> float:
        return self._seconds

    @property
    def rules(self) -> list[tuple[str, AlertRule]]:
        """All rules with their names: those that are judged in process, and those that are exported for Prometheus."""
        judged = self.observability.status.alerts.rules
        found = [(name, rule) for rule in judged for name in {rule.name, EXPORTED_NAMES.get(rule.name, rule.name)}]
        names = {name for name, _ in found}
        exported = ((one.name, one.rule) for one in alerts([self.observability.settings]))
        return [*found, *((name, rule) for name, rule in exported if rule is not None and name not in names)]

    def values(self) -> Iterator[tuple[str, bool, Any]]:
        """Yield the name of each rule, whether it would fire once it has held for long enough, and its values by group."""
        # Always the same moment, so that who asks again gets the same answer.
        self._seconds = _STEP_SECONDS
        self._windows.sample()
        for name, rule in self.rules:
            values = rule.expression.values(self._windows.view)
            yield name, any(rule.holds(one, firing=False) for one in values.values()), values
