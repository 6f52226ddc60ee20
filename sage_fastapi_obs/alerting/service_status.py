"""How one service is doing: windows, alerts, service levels and checks, kept up to date by one thread."""

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from sage_fastapi_obs.alerting.alerts import Alert, Alerts
from sage_fastapi_obs.alerting.default_rules import default_rules
from sage_fastapi_obs.alerting.notification_queue import NotificationQueue
from sage_fastapi_obs.alerting.notify import Notifiers, Say
from sage_fastapi_obs.alerting.rules import declared
from sage_fastapi_obs.alerting.sla import ServiceLevels
from sage_fastapi_obs.alerting.windows import Window, Windows
from sage_fastapi_obs.catalog import ALERT_METRICS
from sage_fastapi_obs.health.health import Health
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.registry_reader import Reading
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.threads import NoThreadError, start_thread

__all__ = ["ServiceStatus", "StatusMetrics"]

CLOSE_SECONDS = 5.0


class ServiceStatus:
    """Answers how the service is doing. Everything it says is computed from the windows.

    While started, a thread looks at the registry every `monitoring.interval_seconds` and judges the rules; `evaluate()` does so
    by hand.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Iterable[Reading]],
        health: Health,
        faults: InternalErrors,
        say: Say,
        *,
        from_zero: bool = False,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`read`: tells the numbers of the registry. `clock`: monotonic seconds. `wall_clock`: Unix time.

        `say`: writes a log line. `from_zero`: nobody had used the registry before.
        """
        self.interval_seconds = settings.monitoring.interval_seconds
        self.health = health
        self._faults = faults
        self.clock = clock
        self.wall_clock = wall_clock
        interval = self.interval_seconds
        self.windows = Windows(read, interval_seconds=interval, from_zero=from_zero, clock=clock, wall_clock=wall_clock)
        self.dispatch = NotificationQueue(faults)
        self.alerts = Alerts(self.windows, self.dispatch, faults, say, wall_clock=wall_clock)
        self.metrics = StatusMetrics(self.alerts, self.dispatch)
        """What it tells about itself, for a registry."""
        self.sla = ServiceLevels(settings.sla, self.windows.view)
        self.notifiers = Notifiers(settings.notify, settings.service.name, say)
        if settings.alerts.defaults:
            self.add_default_alerts()
        for rule in settings.alerts.rules:
            self.alerts.add(declared(rule, self.notifiers.by_name()))
        self.show_active: Callable[[str, bool], None] = lambda _name, _active: None
        """Told of each rule whether it fires, whenever rules have been judged."""
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._wants_thread = False
        self._looked_at: float | None = None

    @property
    def is_active(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def add_default_alerts(self) -> None:
        """Add the rules that come with the package."""
        for rule in default_rules(self.notifiers, self.sla):
            self.alerts.add(rule)

    def evaluate(self) -> list[Alert]:
        """Look at the registry, judge all rules, and return the alerts that have changed state."""
        with self._turn:
            self._look()
            changed = self.alerts.evaluate()
            self.dispatch.go_on()
            firing = {alert.rule.name for alert in self.alerts.alerts("firing")}
            for rule in self.alerts.rules:
                self.show_active(rule.name, rule.name in firing)
            return changed

    def refresh(self, most_seconds: float = 0.0) -> None:
        """Look at the registry, unless that was done in the last seconds; rules are not judged."""
        with self._turn:
            if self._looked_at is None or not 0 <= self.clock() - self._looked_at < most_seconds:
                self._look()

    def view(self, seconds: float) -> Window:
        """Return the last seconds, as of the last look."""
        return self.windows.view(seconds)

    def start(self) -> None:
        """Look for the first time in a thread, and go on doing so.

        Raises `NoThreadError`: until it is called again and there is one, whoever calls looks.
        """
        if self.is_active:
            return
        if not self._wants_thread:
            self.dispatch.restart()
            self.dispatch.loop = _running_loop()
        stopping = self._stopping = threading.Event()
        # The thread does not keep alive what it looks after: without it, it ends.
        status = weakref.ref(self, lambda _: stopping.set())
        try:
            self._thread = start_thread("sage-obs-status", partial(_keep_looking, status, stopping, self.interval_seconds))
        except NoThreadError:
            self._wants_thread = True
            if self._looked_at is None or self.clock() - self._looked_at >= self.interval_seconds:
                self.look()
            raise
        self._wants_thread = False

    def close(self) -> None:
        """Stop looking, and wait a moment for notifications that are on their way; blocks."""
        thread, self._thread, self._wants_thread = self._thread, None, False
        if thread is not None:
            self._stopping.set()
            thread.join(CLOSE_SECONDS)
        self.dispatch.close(CLOSE_SECONDS)

    def abandon(self) -> None:
        """Stop looking without waiting for anything."""
        self._thread, self._wants_thread = None, False
        self._stopping.set()
        self.dispatch.close(0.0)

    def _look(self) -> None:
        self._looked_at = self.clock()
        self.windows.sample()

    def look(self) -> None:
        """Look and judge; what fails is counted."""
        try:
            self.evaluate()
        except Exception as error:
            self._faults.count("ServiceStatus", error)


def _keep_looking(find: "weakref.ref[ServiceStatus]", stopping: threading.Event, interval_seconds: float) -> None:
    while not stopping.is_set():
        status = find()
        if status is None:
            return
        status.look()
        del status
        stopping.wait(interval_seconds)


class StatusMetrics(Collector):
    """How many alerts fire, and what became of notifications."""

    def __init__(self, alerts: Alerts, dispatch: NotificationQueue) -> None:
        self._alerts = alerts
        self._dispatch = dispatch

    def collect(self) -> Iterable[Metric]:
        """Show all numbers."""
        firing, notifications = self.describe()
        severities = Counter(alert.rule.severity for alert in self._alerts.alerts("firing"))
        for severity in ALERT_METRICS[0].labels["severity"]:
            firing.add_sample(firing.name, {"severity": severity}, severities[severity])  # type: ignore[index]
        for outcome, count in self._dispatch.counts.copy().items():
            notifications.add_sample(f"{notifications.name}_total", {"outcome": outcome}, count)
        return (firing, notifications)

    def describe(self) -> tuple[Metric, Metric]:
        """Name the metrics."""
        firing, notifications = ALERT_METRICS
        return (
            Metric(firing.name, firing.help, firing.type),
            Metric(notifications.name.removesuffix("_total"), notifications.help, notifications.type),
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
