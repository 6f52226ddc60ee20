"""How one service is doing: its windows, alerts and service levels, kept up to date by one thread."""

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sage_fastapi_obs.alerting import alert_states
from sage_fastapi_obs.alerting.alerts import Alert, Alerts
from sage_fastapi_obs.alerting.default_rules import default_rules, pack_rules
from sage_fastapi_obs.alerting.judge import Judge, NoJudge, SingleJudge
from sage_fastapi_obs.alerting.notification_queue import NotificationQueue
from sage_fastapi_obs.alerting.notify import Log, Notifiers
from sage_fastapi_obs.alerting.rule_review import RuleReview
from sage_fastapi_obs.alerting.rules import rule_from_settings
from sage_fastapi_obs.alerting.sla import ServiceLevels
from sage_fastapi_obs.alerting.window import Window
from sage_fastapi_obs.alerting.window_history import WindowHistory
from sage_fastapi_obs.alerting.windows import Windows
from sage_fastapi_obs.catalog import ALERT_METRICS
from sage_fastapi_obs.health.readiness import Health
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.registry_reader import Reading
from sage_fastapi_obs.processes import at_fork, hold_at_fork
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.store.connection import FileErrors
from sage_fastapi_obs.store.history import History
from sage_fastapi_obs.threads import NoThreadError, start_thread

T = TypeVar("T")
_CLOSE_SECONDS = 5.0
_UNSEEN = (
    "this process was forked, and the one that it comes from does not see what it records: no rules are judged here; "
    "call start_monitoring() in it"
)


class ServiceStatus:
    """Windows, alerts, service levels and notifiers of one service.

    While started, a thread samples the registry and evaluates the rules every `monitoring.interval_seconds`; `evaluate()` does
    so at once.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Iterable[Reading]],
        health: Health,
        internal_errors: InternalErrors,
        log: Log,
        *,
        from_zero: bool = False,
        history: History | None = None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`read`: reads the registry. `log`: writes a log line. `clock`: monotonic seconds. `wall_clock`: Unix time.

        `from_zero`: nobody had used the registry before. `history`: where windows and alerts are stored; None for nowhere.
        """
        self.interval_seconds = interval = settings.monitoring.interval_seconds
        self.health = health
        self._internal_errors = internal_errors
        self._log = log
        self.clock = clock
        self.wall_clock = wall_clock
        self.windows = Windows(read, interval_seconds=interval, from_zero=from_zero, clock=clock, wall_clock=wall_clock)
        self._history = None if history is None else self._windows_in(history)
        self.notifications = NotificationQueue(internal_errors)
        self.alerts = Alerts(self.windows, self.notifications, internal_errors, log, wall_clock=wall_clock)
        self.review = RuleReview(self.alerts, self.windows, internal_errors, log)
        self.metrics = AlertMetrics(self.alerts, self.notifications, self.review)
        """Its own metrics, for a registry."""
        self.sla = ServiceLevels(settings.sla, self.windows.view)
        self.notifiers = Notifiers(settings.notify, settings.service.name, log)
        self._judges_packs = settings.alerts.defaults and settings.metrics.enabled
        if settings.alerts.defaults:
            self.add_default_alerts()
        self.add_pack_alerts(settings.metrics.packs)
        for rule in settings.alerts.rules:
            self.alerts.add(rule_from_settings(rule, self.notifiers.by_name()))
        self.show_active: Callable[[str, bool], None] = lambda _name, _active: None
        """Called after each evaluation, for each rule: its name, and whether it fires."""
        self._judge: Judge = NoJudge() if settings.is_inspected else SingleJudge()
        self._has_led = False
        self._followed: bytes | None = None
        self.alerts.told = self._write_states
        self.notifications.may_call = lambda: self._judge.is_leader
        self._sampling, self._publishing = threading.RLock(), threading.RLock()
        # Metrics have locks of their own, which sampling takes: a child that is forked meanwhile could never read them.
        hold_at_fork(self._sampling, rank=2)
        hold_at_fork(self._publishing)
        at_fork(in_child=self._in_child)
        self._is_child = False
        """Whether this process was forked from the one with the thread, and has not said so."""
        self._sampled_at: float | None = None
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._waits_for_thread = False

    @property
    def is_active(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def add_default_alerts(self) -> None:
        """Add the rules that come with the package, but not in place of others of their names."""
        names = {rule.name for rule in self.alerts.rules}
        added = [rule for rule in default_rules(self.notifiers, self.sla) if rule.name not in names]
        self.review.defaults |= {rule.name: rule for rule in added}
        for rule in added:
            self.alerts.add(rule)

    def add_pack_alerts(self, packs: Iterable[str]) -> None:
        """Add the rules of packs that have been switched on, unless the default rules are off; a rule of the name stays."""
        known = {rule.name for rule in self.alerts.rules}
        for rule in pack_rules(packs, self.notifiers) if self._judges_packs else ():
            if rule.name not in known:
                self.alerts.add(rule)

    def begin_anew(self) -> None:
        """Go on from no process before, and leave nothing to one after: a script or job is no service that starts again."""
        self._history = None

    def join(self, judge: Judge) -> None:
        """Judge rules as one of several workers of the service, whose numbers are all in what is read; before the start."""
        self._judge, self._has_led = judge, False
        # Those of the others are no increase.
        self.windows.from_zero = self.windows.from_zero and judge.is_leader and judge.published() is None

    def leave(self) -> None:
        """Judge rules alone again; after the close."""
        self._judge, self._has_led = SingleJudge(), False

    def hurry(self) -> None:
        """Let the thread evaluate now: this process has begun to lead."""
        self._wake.set()

    def evaluate(self) -> list[Alert]:
        """Sample the registry, evaluate all rules, and return the alerts that have changed state.

        Where another worker judges, return none, and show what that one has found.
        """
        with self._sampling:
            self._sample()
            changed = self._evaluate_rules() if self._leads() else []
            self.follow()
            self.notifications.retry_threads()
            firing = {alert.rule.name for alert in self.alerts.alerts("firing")}
            for rule in self.alerts.rules:
                self.show_active(rule.name, rule.name in firing)
            self._store()
            return changed

    def evaluate_safely(self) -> None:
        """Do the same; count what fails."""
        try:
            self.evaluate()
        except Exception as error:
            self._internal_errors.count("ServiceStatus", error)

    def review_safely(self) -> None:
        """Log what there is to say of rules that are new; count what fails."""
        try:
            self.review.log_news()
        except Exception as error:
            self._internal_errors.count("RuleReview", error)

    def refresh(self, most_seconds: float = 0.0) -> None:
        """Sample the registry, unless that was done in the last seconds; rules are not evaluated."""
        with self._sampling:
            if not self._was_sampled_within(most_seconds):
                self._sample()
        self.follow()

    def view(self, seconds: float) -> Window:
        """Return the last seconds before the last sample."""
        return self.windows.view(seconds)

    def start(self) -> None:
        """Start the thread, which evaluates at once and then at each interval.

        Raises `NoThreadError` where none can be started. Call it again later; until then each call evaluates when it is time.
        """
        if self.is_active:
            return
        self._is_child = False
        if not self._waits_for_thread:
            self.notifications.reopen()
            self.notifications.loop = _running_loop()
        stopping, wake = self._stopping, self._wake = threading.Event(), threading.Event()
        # A weak reference: the thread ends when nobody else refers to this object.
        status = weakref.ref(self, lambda _: _stop(stopping, wake))
        try:
            self._thread = start_thread(
                "sage-obs-status", partial(_evaluate_regularly, status, stopping, wake, self.interval_seconds)
            )
        except NoThreadError:
            self._waits_for_thread = True
            if not self._was_sampled_within(self.interval_seconds):
                self.evaluate_safely()
            raise
        self._waits_for_thread = False

    def note_use(self) -> None:
        """Learn from code that records something: its event loop, for callbacks; in a child, say that nobody sees it."""
        notifications = self.notifications
        if notifications.loop is None or notifications.loop.is_closed():
            notifications.loop = _running_loop()
        if self._is_child:
            self._is_child = False
            self._log("warn", _UNSEEN, {})

    def close(self) -> None:
        """Stop the thread, evaluate all rules a last time, and wait a moment for notifications; blocks."""
        thread, was_active = self._thread, self.is_active
        self._stop_thread()
        if thread is not None:
            thread.join(_CLOSE_SECONDS)
        if was_active:
            self._evaluate_at_the_end()
        self.notifications.close(_CLOSE_SECONDS)
        if was_active:
            self._store(is_last=True)
        self._close_history()

    def abandon(self) -> None:
        """Stop without waiting for anything."""
        self._stop_thread()
        self.notifications.close(0.0)
        self._close_history()

    def _leads(self) -> bool:
        """Tell whether rules are judged here; if so for the first time, go on where the worker before has ended."""
        had_led, self._has_led = self._has_led, self._judge.is_leader
        if self._has_led and not had_led and (found := self._judge.published()) is not None:
            self._go_on(found, leads=True)
        return self._has_led

    def _evaluate_rules(self) -> list[Alert]:
        changed = self.alerts.evaluate()
        if not (self._write_states() if self.alerts.has_news else self._publish(self._states())):
            # Another judges by now, and does not know of this: it finds the same.
            self._has_led = False
            return []
        self.alerts.notify()
        return changed

    def _states(self) -> bytes:
        return self.alerts.written(self.clock())

    def _write_states(self) -> bool:
        """Write down what is found and told, for others and for the next start; tell whether this process still judges."""
        with self._publishing:
            states = self._states()
            if self._history is not None:
                self._safely(partial(self._history.write_states, states))
            return self._publish(states)

    def _publish(self, states: bytes) -> bool:
        try:
            with self._publishing:
                return self._judge.publish(states)
        except Exception as error:
            # Better told twice than not at all.
            self._internal_errors.count("ServiceStatus", error)
            return self._judge.is_leader

    def _store(self, *, is_last: bool = False) -> None:
        if self._history is not None and self._judge.is_leader:
            with self._publishing:
                self._safely(partial(self._history.write, self._states(), is_last=is_last))

    def _restore(self) -> None:
        """Go on with the windows and alerts of the process before."""
        if self._history is None:
            return
        restore = partial(self._history.restore, self._judge.run, leads=self._judge.is_leader)
        if (found := self._safely(restore)) is not None and self._judge.published() is None:
            self._go_on(found[1], found[0], leads=True)

    def _windows_in(self, history: History) -> WindowHistory:
        damaged = partial(self._internal_errors.count, "WindowHistory")
        return WindowHistory(history, self.windows, damaged=damaged, clock=self.clock, wall_clock=self.wall_clock)

    def _close_history(self) -> None:
        if self._history is not None:
            self._safely(self._history.close)

    def _safely(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except (OSError, *FileErrors) as error:
            self._internal_errors.count("WindowHistory", error)
            return None

    def follow(self) -> None:
        """Show what another worker has found, if that is new; not while metrics are collected, whose locks sampling needs."""
        if not self._judge.is_leader and (found := self._judge.published()) is not self._followed and found is not None:
            self._followed = found
            self._go_on(found, leads=False)

    def _go_on(self, found: bytes, later: float | None = None, *, leads: bool) -> None:
        """Take over states, which go by a time that is so much later here; by default that is found by the clock."""
        try:
            written = alert_states.read(found)
            later = self.windows.watched_at(written.at) - written.watched if later is None else later
            self.alerts.go_on(written, later, leads=leads)
        except ValueError as error:
            self._internal_errors.count("ServiceStatus", error)

    def _evaluate_at_the_end(self) -> None:
        self.notifications.closing.set()
        if self.notifications.loop is _running_loop():
            # This call blocks it.
            self.notifications.loop = None
        self.evaluate_safely()

    def _in_child(self) -> None:
        self._is_child = self._thread is not None
        if self._is_child:
            # Rules, windows and alerts of the service are its parent's.
            self._judge, self._followed, self._history = SingleJudge(), None, None
        self.notifications.restart()

    def _stop_thread(self) -> None:
        self._thread, self._waits_for_thread, self._is_child = None, False, False
        _stop(self._stopping, self._wake)

    def _was_sampled_within(self, seconds: float) -> bool:
        return self._sampled_at is not None and 0 <= self.clock() - self._sampled_at < seconds

    def _sample(self) -> None:
        self._restore()
        self._sampled_at = self.clock()
        self.windows.sample()


def _stop(stopping: threading.Event, wake: threading.Event) -> None:
    stopping.set()
    wake.set()


def _evaluate_regularly(
    find: "weakref.ref[ServiceStatus]", stopping: threading.Event, wake: threading.Event, interval_seconds: float
) -> None:
    while not stopping.is_set() and (status := find()) is not None:
        wake.clear()
        status.evaluate_safely()
        status.review_safely()
        del status
        wake.wait(interval_seconds)


class AlertMetrics(Collector):
    """Collects how many alerts fire, and the outcomes of notifications."""

    def __init__(self, alerts: Alerts, notifications: NotificationQueue, review: RuleReview) -> None:
        self._alerts = alerts
        self._notifications = notifications
        self._review = review

    def collect(self) -> Iterable[Metric]:
        """Return the metrics with their values of now."""
        firing, outcomes, without_data = ALERT_METRICS
        severities = Counter[str](alert.rule.severity for alert in self._alerts.alerts("firing"))
        gauge = GaugeMetricFamily(firing.name, firing.help, labels=[*firing.labels])
        for severity in firing.labels["severity"]:
            gauge.add_metric([severity], severities[severity])
        counter = CounterMetricFamily(outcomes.name, outcomes.help, labels=[*outcomes.labels])
        for outcome, count in self._notifications.counts.copy().items():
            counter.add_metric([outcome], count)
        return (gauge, counter, GaugeMetricFamily(without_data.name, without_data.help, len(self._review.problems())))

    describe = collect
    """Called at registration, for the names."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
