"""Alerts: their states, whom they tell and how often, and callbacks that misbehave."""

import asyncio
import functools
import gc
import threading
import time
import weakref
from typing import Any

import pytest
from pydantic import TypeAdapter
from support import PATIENCE_SECONDS, TOO_LARGE, eventually, no_threads, until
from worlds import World

from sage_fastapi_obs import Settings, SettingsError
from sage_fastapi_obs.alerting.alerts import AlertSummary
from sage_fastapi_obs.alerting.expressions import BurnRate, Ratio, Stat
from sage_fastapi_obs.alerting.notification_queue import MOST_STUCK, MOST_WAITING
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule

MORE = AlertCondition.GREATER_THAN
LOAD = Stat("load_ratio", "last")


def rule(**options: Any) -> AlertRule:
    """Build a rule on the load."""
    return AlertRule(**{"name": "load", "expression": LOAD, "condition": MORE, "threshold": 0.8, **options})


def quiet(**options: Any) -> World:
    """Build a world without the package's own rules, that has been looked at once."""
    world = World(alerts={"defaults": False}, **options)
    world.load.set(0)
    world.status.evaluate()
    return world


def play(world: World, loads: list[float]) -> list[str]:
    """Let loads follow one another; return the state of the alert after each."""
    states = []
    for load in loads:
        world.tick()
        world.load.set(load)
        world.status.evaluate()
        # An alert stays until its callbacks have returned, however late the clock of this world is by then.
        assert world.status.notifications.wait(PATIENCE_SECONDS)
        found = world.status.alerts.alerts("pending", "firing", "resolved")
        states.append(found[0].state if found else "inactive")
    return states


def test_states_and_edges():
    """Pending for as long as `for` says, firing, resolved, and forgotten; one word at the beginning and one at the end."""
    world, told = quiet(), []
    world.status.alerts.add(rule(for_seconds=30, callbacks=(told.append,), resolved_callbacks=(told.append,)))
    states = play(world, [0.9, 0.9, 0.9, 0.9, 0.1, 0.1])
    assert states == ["pending", "pending", "firing", "firing", "resolved", "resolved"]
    assert play(world, [0.1] * 60)[-1] == "inactive"
    assert [(one["state"], one["current_value"]) for one in told] == [("firing", 0.9), ("resolved", 0.1)]
    assert world.status.notifications.counts == {"sent": 2, "failed": 0, "timeout": 0, "dropped": 0, "suppressed": 0}
    assert [line[:2] for line in world.said] == [("warn", "alert load is firing"), ("info", "alert load is resolved")]


def test_what_callbacks_are_told():
    """A dictionary with all there is to know, its texts filled in; each callback has its own."""
    world, told = quiet(), []
    world.breaker.labels("users").set(1)
    expression = Stat("circuit_breaker_status", "last", by=("name",), scale=100.0)
    texts = {"summary": "{{ $labels.name }} is at {{ $value }}, {{$value|humanizePercentage}}", "odd": "{{ $nothing }}"}
    texts["long"] = "{{ $value | humanizeDuration }}{{ $labels.unknown }}"

    def spoil(notice: dict[str, Any]) -> None:
        told.append(dict(notice))
        notice.clear()

    world.status.alerts.add(
        rule(
            expression=expression,
            condition=AlertCondition.EQUAL,
            threshold=100,
            severity="critical",
            labels={"team": "core"},
            annotations=texts,
            callbacks=(spoil, told.append),
            metric_name="breaker_percent",
        )
    )
    play(world, [0.0])
    assert (
        told[0]
        == told[1]
        == {
            "name": "load",
            "metric_name": "breaker_percent",
            "condition": "EQUAL",
            "threshold": 100,
            "current_value": 100.0,
            "timestamp": "2026-01-01T00:00:15.000Z",
            "severity": "critical",
            "state": "firing",
            "since": "2026-01-01T00:00:15.000Z",
            "labels": {"team": "core", "severity": "critical", "name": "users"},
            "annotations": {"summary": "users is at 100, 1e+04%", "odd": "{{ $nothing }}", "long": "100s"},
        }
    )


def test_a_break_begins_the_wait_anew():
    """`for` means without a break."""
    world = quiet()
    world.status.alerts.add(rule(for_seconds=30))
    assert play(world, [0.9, 0.9, 0.1, 0.9, 0.9, 0.9]) == ["pending", "pending", "inactive", "pending", "pending", "firing"]


def test_a_value_that_wavers_is_one_alert():
    """Between the two thresholds an alert goes on, and none begins."""
    world, told = quiet(), []
    world.status.alerts.add(rule(resolve_threshold=0.5, callbacks=(told.append,)))
    assert play(world, [0.6, 0.9, 0.6, 0.9, 0.6, 0.4, 0.6]) == ["inactive"] + ["firing"] * 4 + ["resolved"] * 2
    assert len(told) == 1


def test_an_alert_goes_on_for_a_while():
    """`keep_firing_seconds` after the condition has ended, and from anew when it comes back."""
    world = quiet()
    world.status.alerts.add(rule(keep_firing_seconds=30))
    assert play(world, [0.9, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1]) == ["firing"] * 6 + ["resolved"]


def test_flapping_tells_once_per_cooldown():
    """States follow every edge; people are told of one beginning and its end per cool-down."""
    world, told = quiet(), []
    world.status.alerts.add(rule(cooldown_seconds=300, callbacks=(told.append,), resolved_callbacks=(told.append,)))
    states = play(world, [0.9, 0.1] * 20)
    assert states == ["firing", "resolved"] * 20
    assert [one["state"] for one in told] == ["firing", "resolved"] * 2
    assert world.status.notifications.counts["suppressed"] == 18
    assert play(world, [0.9] * 30) == ["firing"] * 30
    assert [one["state"] for one in told] == ["firing", "resolved"] * 2 + ["firing"]


def test_a_cooldown_outlives_the_alert():
    """Also when the alert has been forgotten meanwhile."""
    world, told = quiet(), []
    world.status.alerts.add(rule(cooldown_seconds=3600, callbacks=(told.append,)))
    assert play(world, [0.9] + [0.1] * 100)[-1] == "inactive"
    play(world, [0.9])
    assert len(told) == 1


def test_each_group_has_an_alert_of_its_own():
    """Told apart by labels, one may fire and another not."""
    world = quiet()
    world.status.alerts.add(rule(expression=Stat("circuit_breaker_status", "last", by=("name",))))
    for name, value in (("a", 1), ("b", 0), ("c", 1), ("\ud800" + "d" * 200, 1)):
        world.breaker.labels(name).set(value)
    play(world, [0])
    firing = world.status.alerts.alerts("firing")
    # What the client library takes is not always what can be shown, or sent to anybody.
    assert sorted(alert.labels["name"] for alert in firing) == ["a", "c", "�" + "d" * 126 + "…"]
    assert TypeAdapter(list[AlertSummary]).validate_python([alert.summary() for alert in firing], strict=True)
    world.breaker.remove("a")
    world.breaker.remove("\ud800" + "d" * 200)
    play(world, [0])
    assert [alert.labels["name"] for alert in world.status.alerts.alerts("firing")] == ["c"]


def test_the_most_severe_comes_first():
    """In the order in which people should look."""
    world = quiet()
    for severity in ("info", "critical", "warning"):
        world.status.alerts.add(rule(name=severity, severity=severity))
    play(world, [0.9])
    assert [alert.rule.name for alert in world.status.alerts.alerts()] == ["critical", "warning", "info"]


def test_a_rule_of_the_same_name_replaces_another():
    """The alert goes on when only its texts have changed; a changed condition begins anew."""
    world, told = quiet(), []
    add = world.status.alerts.add
    for threshold, states in ((0.8, ["firing"]), (0.8, ["firing"]), (0.95, ["inactive"])):
        add(rule(threshold=threshold, annotations={"summary": str(len(told))}, callbacks=(told.append,)))
        assert play(world, [0.9]) == states
    assert [one.threshold for one in world.status.alerts.rules] == [0.95]
    assert len(told) == 1
    assert world.status.alerts.remove("load")
    assert not world.status.alerts.remove("load")
    assert play(world, [0.99]) == ["inactive"]


def test_a_rule_that_fails_keeps_its_state_and_harms_no_other():
    """It is counted, and the others are judged."""

    class Failing(Exception):
        """On purpose."""

    class Expression:
        metric, by, broken = "load_ratio", (), False

        def windows(self):
            return (60.0,)

        def values(self, view):
            if self.broken:
                raise Failing
            return LOAD.values(view)

    world, expression = quiet(), Expression()
    world.status.alerts.add(rule(name="a", expression=expression))
    world.status.alerts.add(rule(name="b"))
    play(world, [0.9])
    expression.broken = True
    play(world, [0.1])
    assert [alert.rule.name for alert in world.status.alerts.alerts("firing")] == ["a"]
    assert world.internal_errors.counts == {"AlertRule": 1}


def test_a_suspended_process_judges_nothing_until_there_is_something_new():
    """A rule for silence does not fire since nobody was listening, and `for` does not count the pause."""
    world = quiet()
    silence = Stat("http_requests_total", "rate", 60)
    world.status.alerts.add(rule(expression=silence, condition=AlertCondition.LESS_THAN, threshold=0.01, for_seconds=60))
    for _ in range(20):
        world.tick()
        world.request(times=5)
        assert world.status.evaluate() == []
    world.tick(3600)
    assert world.status.evaluate() == []
    for _ in range(8):
        world.tick()
        world.request(times=5)
        assert world.status.evaluate() == []
    assert world.status.alerts.alerts() == []


def test_a_pause_does_not_end_or_repeat_an_alert():
    """What fired before the pause fires after it until the numbers say otherwise, and nobody is told twice."""
    world, told = quiet(), []
    world.status.alerts.add(rule(expression=Stat("result_failure_total"), threshold=5, callbacks=(told.append,)))
    world.result(ok=False, times=9)
    assert play(world, [0]) == ["firing"]
    world.tick(7200)
    assert play(world, [0])[-1] == "firing"
    assert play(world, [0, 0])[-1] == "resolved"
    assert len(told) == 1


@pytest.mark.parametrize(
    ("condition", "held"),
    [("GREATER_THAN", 4), ("GREATER_OR_EQUAL", 3), ("LESS_THAN", 2), ("LESS_OR_EQUAL", 3), ("EQUAL", 3), ("NOT_EQUAL", 2)],
)
def test_conditions(condition: str, held: float):
    """Each compares as its name says; what is no number meets none."""
    compare = AlertCondition[condition].holds
    assert compare(held, 3)
    assert [compare(value, 3) for value in (2, 3, 4)].count(True) == {"EQUAL": 1}.get(
        condition, 2 if "EQUAL" in condition else 1
    )
    assert not compare(float("nan"), 3)


def notifying(world: World, *callbacks: Any, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Let all callbacks know of an alert, each by a rule of its own."""
    world.status.notifications.timeout_seconds = timeout_seconds
    world.status.notifications.retry_seconds = 0.001
    for number, callback in enumerate(callbacks):
        world.status.alerts.add(rule(name=str(number), callbacks=(callback,), cooldown_seconds=0))


def test_a_callback_that_raises_is_called_again():
    """Three times in all; what ends a process ends nothing here, and others are told."""
    world, told = quiet(), []
    tries: dict[str, int] = {"heals": 0, "fails": 0, "exits": 0}

    def heals(_: dict[str, Any]) -> None:
        tries["heals"] += 1
        if tries["heals"] < 3:
            raise ConnectionError("not yet")

    def fails(_: dict[str, Any]) -> None:
        tries["fails"] += 1
        raise ValueError("never")

    def exits(_: dict[str, Any]) -> None:
        tries["exits"] += 1
        raise SystemExit(1)

    notifying(world, heals, fails, exits, told.append)
    assert play(world, [0.9]) == ["firing"]
    assert tries == {"heals": 3, "fails": 3, "exits": 3}
    assert len(told) == 1
    assert world.status.notifications.counts == {"sent": 2, "failed": 2, "timeout": 0, "dropped": 0, "suppressed": 0}
    assert world.internal_errors.counts == {"AlertCallback": 2}


def test_a_callback_waits_for_no_other():
    """Others are notified while one has not returned."""
    world, told, release = quiet(), [], threading.Event()
    notifying(world, lambda _: release.wait(PATIENCE_SECONDS), told.append)
    world.load.set(0.9)
    world.tick()
    world.status.evaluate()
    assert until(lambda: world.status.notifications.counts["sent"] == 1)
    assert len(told) == 1
    release.set()
    assert world.status.notifications.wait(PATIENCE_SECONDS)
    assert world.status.notifications.counts["sent"] == 2


def test_a_callback_that_hangs_is_left_behind():
    """It is counted, a bounded number of threads hangs with it, and neither the rules nor other callbacks wait for those."""
    world, told, release = quiet(), [], threading.Event()
    notifying(world, lambda _: release.wait(PATIENCE_SECONDS), timeout_seconds=0.05)
    assert play(world, [0.9, 0.1] * 4) == ["firing", "resolved"] * 4
    # Of the others, none is to meet the limit.
    world.status.notifications.timeout_seconds = PATIENCE_SECONDS
    world.status.alerts.add(rule(name="other", callbacks=(told.append,), cooldown_seconds=0))
    assert play(world, [0.9, 0.1] * 2) == ["firing", "resolved"] * 2
    assert len(told) == 2
    counts = world.status.notifications.counts
    assert (counts["sent"], counts["timeout"], counts["dropped"]) == (2, MOST_STUCK, 4)
    hanging = [thread for thread in threading.enumerate() if thread.name == "sage-obs-alert-call"]
    assert len(hanging) == MOST_STUCK
    release.set()
    for thread in hanging:
        thread.join(PATIENCE_SECONDS)
    play(world, [0.9])
    assert counts["sent"] == 4


def test_a_notification_waits_for_a_thread(monkeypatch: pytest.MonkeyPatch):
    """Each evaluation asks for one; a call that gets none of its own is made in the one that its callback has."""
    monkeypatch.setattr("sage_fastapi_obs.threads.RETRY_SECONDS", 0.0)
    world, told, both_wait = quiet(), [], threading.Event()

    def tells(notice: dict[str, Any]) -> None:
        assert both_wait.wait(PATIENCE_SECONDS)
        told.append((notice["state"], threading.current_thread().name))
        threading.stack_size(TOO_LARGE)

    world.status.alerts.add(rule(callbacks=(tells,), resolved_callbacks=(tells,)))
    with no_threads():
        world.tick()
        world.load.set(0.9)
        world.status.evaluate()
    assert world.status.notifications.counts["sent"] == 0
    try:
        world.tick()
        world.load.set(0.1)
        world.status.evaluate()
        both_wait.set()
        assert world.status.notifications.wait(PATIENCE_SECONDS)
    finally:
        threading.stack_size(0)
    assert told == [("firing", "sage-obs-alert-call"), ("resolved", "sage-obs-alert")]
    assert world.status.notifications.counts["sent"] == 2


def test_a_slow_callback_gets_its_notifications_in_order_and_the_oldest_go():
    """Its queue is bounded; evaluation never waits for it."""
    world, told, release = quiet(), [], threading.Event()
    entered = threading.Event()

    def slow(notice: dict[str, Any]) -> None:
        entered.set()
        release.wait(PATIENCE_SECONDS)
        told.append(notice["current_value"])

    notifying(world, slow)
    for number in range(MOST_WAITING + 10):
        for load in (0.9 + number, 0.1):
            world.tick()
            world.load.set(load)
            world.status.evaluate()
        assert entered.wait(PATIENCE_SECONDS)
    release.set()
    assert world.status.notifications.wait(PATIENCE_SECONDS)
    assert told[0] == 0.9
    assert told[1:] == sorted(told[1:])
    assert len(told) == 1 + MOST_WAITING
    assert world.status.notifications.counts["dropped"] == 9


async def test_async_callbacks_run_on_the_loop_of_the_application():
    """So that they may use what lives there; one that hangs is cancelled, and the loop goes on."""
    world, told = quiet(), []
    world.status.notifications.loop = asyncio.get_running_loop()

    async def tells(notice: dict[str, Any]) -> None:
        told.append((asyncio.get_running_loop(), notice["state"]))

    async def hangs(_: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    for callback, timeout_seconds in ((tells, PATIENCE_SECONDS), (functools.partial(hangs), 0.05)):
        world.status.alerts.remove("0")
        notifying(world, callback, timeout_seconds=timeout_seconds)
        world.tick()
        world.load.set(0.9)
        world.status.evaluate()
        assert await asyncio.to_thread(world.status.notifications.wait, PATIENCE_SECONDS)
    assert told == [(asyncio.get_running_loop(), "firing")]
    assert world.status.notifications.counts["timeout"] == 1
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})


def test_async_callbacks_get_a_loop_where_there_is_none():
    """In a script, each runs in a loop of its own."""
    world, told = quiet(), []

    async def tells(notice: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        told.append(notice["state"])

    notifying(world, tells)
    play(world, [0.9])
    assert told == ["firing"]


@pytest.mark.parametrize(
    ("steps", "cancels"),
    [(0, True), (1, True), (1, False)],
    ids=["not yet taken", "taken and not yet begun", "taken after the rest was cancelled"],
)
def test_a_notification_that_meets_the_end_of_the_loop_is_told_all_the_same(caplog: Any, steps: int, cancels: bool):
    """Handed over as the loop ends, it never begins there: it gets a loop of its own, nothing hangs and nothing is left."""
    world, told = quiet(), []
    handed_over = threading.Event()

    async def tells(notice: dict[str, Any]) -> None:
        told.append(notice["state"])

    async def stops() -> None:
        handed_over.wait(PATIENCE_SECONDS)
        for _ in range(steps):
            await asyncio.sleep(0)
        asyncio.get_running_loop().stop()

    class Ending(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
            handle = super().call_soon_threadsafe(*args, **kwargs)
            handed_over.set()
            return handle

    def run() -> None:
        loop.create_task(stops())
        loop.run_forever()
        # As asyncio.run does: what has been taken by then is cancelled.
        left = asyncio.all_tasks(loop) if cancels else set()
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()

    loop = Ending()
    ending = threading.Thread(target=run)
    ending.start()
    assert until(loop.is_running)
    world.status.notifications.loop = loop
    notifying(world, tells)
    world.tick()
    world.load.set(0.9)
    world.status.evaluate()
    assert world.status.notifications.wait(PATIENCE_SECONDS)
    ending.join()
    assert told == ["firing"]
    assert world.status.notifications.counts["sent"] == 1
    gc.collect()
    assert caplog.messages == []


def test_a_callback_that_the_end_of_its_loop_cancels_is_called_again():
    """A script ends with its loop; the alert is told in another."""
    world, heard, begun = quiet(), [], threading.Event()

    async def callback(_: dict[str, Any]) -> None:
        heard.append(asyncio.get_running_loop())
        begun.set()
        if len(heard) == 1:
            await asyncio.Event().wait()

    async def main() -> None:
        world.status.notifications.loop = asyncio.get_running_loop()
        world.status.alerts.add(rule(callbacks=(callback,)))
        world.tick()
        world.load.set(0.9)
        world.status.evaluate()
        await asyncio.to_thread(begun.wait)

    asyncio.run(main())
    assert world.status.notifications.wait(PATIENCE_SECONDS)
    assert len({*map(id, heard)}) == len(heard) == 2
    assert world.status.notifications.counts["sent"] == 1
    assert world.internal_errors.counts == {}


def test_closing_waits_a_moment_and_drops_the_rest():
    """What is on its way may finish, nothing is tried again, and what waits is counted."""
    world, release = quiet(), threading.Event()
    notifying(world, lambda _: release.wait(PATIENCE_SECONDS))
    for load in (0.9, 0.1, 0.9):
        world.tick()
        world.load.set(load)
        world.status.evaluate()
    begun = time.monotonic()
    world.status.notifications.close(0.1)
    assert time.monotonic() - begun < PATIENCE_SECONDS / 2
    assert world.status.notifications.counts["dropped"] == 1
    release.set()
    assert world.status.notifications.wait(PATIENCE_SECONDS)


def test_callbacks_that_come_and_go_leave_nothing_behind():
    """A rule that is set up anew with a new function each time keeps no old one."""
    world, alive = quiet(), weakref.WeakSet[Any]()

    def callback() -> Any:
        function = lambda _: None  # noqa: E731
        alive.add(function)
        return function

    for number in range(20):
        world.status.alerts.add(rule(name=str(number), callbacks=(callback(),), cooldown_seconds=0))
        play(world, [0.9, 0.1])
    assert len(alive) == 20
    world.status.alerts.add(rule(name="last", threshold=5, callbacks=(callback(),)))
    for number in range(20):
        world.status.alerts.remove(str(number))
    play(world, [9.0])
    gc.collect()
    assert len(alive) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rule(name=""), "needs a name"),
        (lambda: rule(for_seconds=-1), "not below 0"),
        (lambda: rule(threshold=float("nan")), "is a number"),
        (lambda: Stat("x", "median"), "'median' is no statistic"),
        (lambda: Stat("x", window_seconds=0), "window_seconds"),
        (lambda: Stat("x", window_seconds=1e9), "window_seconds"),
        (lambda: Stat("x", by=("a",), absent=0.0), "does not go with by"),
        (lambda: Stat("x", where={"a": "=~["}), "no regular expression"),
        (lambda: Ratio((), (Stat("x"),)), "above and below"),
        (lambda: Ratio((Stat("x", by=("a",)),), (Stat("x"),)), "same labels"),
        (lambda: BurnRate(Ratio((Stat("x"),), (Stat("x"),)), 99.9), "between 0 and 1"),
        (lambda: BurnRate(Ratio((Stat("x"),), (Stat("x"),)), 0.9, 60, 60), "shorter than the long"),
        (lambda: Stat("some_gauge").promql(), "say which statistic"),
    ],
)
def test_rules_that_make_no_sense_are_refused(build: Any, message: str):
    """While building, with what to change."""
    with pytest.raises(SettingsError, match=message):
        build()


def test_rules_from_the_settings():
    """Figures, ratios and burn rates are declared as data; unknown notifiers are refused."""
    rules = [
        {
            "name": "slow",
            "metric": "http_request_duration_seconds",
            "statistic": "p95",
            "where": {"route": "/"},
            "threshold": 1,
            "for_seconds": 300,
        },
        {
            "name": "failing",
            "metric": "http_requests_total",
            "where": {"status": "=~5.."},
            "divided_by": [{"metric": "http_requests_total"}],
            "threshold": 0.05,
            "for_seconds": 60,
            "notify": ["slack", "email"],
        },
        {
            "name": "burning",
            "metric": "http_requests_total",
            "where": {"status": "=~5.."},
            "divided_by": [{"metric": "http_requests_total"}],
            "objective": 0.999,
            "window_seconds": 3600,
            "threshold": 14.4,
            "severity": "critical",
        },
    ]
    world = quiet_with(rules)
    expressions = [rule.promql() for rule in world.status.alerts.rules]
    share = 'sum (increase(http_requests_total{{status=~"5.."}}[{0}])) / sum (increase(http_requests_total[{0}]))'
    assert expressions == [
        'histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket{route="/"}[5m]))) > 1',
        share.format("5m") + " > 0.05",
        f"(({share.format('1h')}) / 0.001 > 14.4) and (({share.format('5m')}) / 0.001 > 14.4)",
    ]
    assert [len(rule.callbacks) for rule in world.status.alerts.rules] == [0, 2, 0]
    with pytest.raises(SettingsError, match="'pager' is no notifier: use slack, email, pagerduty, webhook"):
        quiet_with([{**rules[0], "notify": ["pager"]}])


def test_rules_and_recipients_from_the_environment():
    """A list of rules is JSON there; recipients are separated by commas; what is misspelt in a rule is named."""
    rule = '{"name": "busy", "metric": "jobs_total", "threshold": 5, "by": ["kind"]}'
    env = {
        "SAGE_OBS_ALERTS__RULES": f"[{rule}]",
        "SAGE_OBS_NOTIFY__SMTP_HOST": "mail",
        "SAGE_OBS_NOTIFY__EMAIL_FROM": "a@b.test",
        "SAGE_OBS_NOTIFY__EMAIL_TO": "c@b.test, d@b.test",
    }
    settings = Settings.from_env(env)
    assert (settings.alerts.rules[0].name, settings.alerts.rules[0].by) == ("busy", ("kind",))
    assert settings.notify.email_to == ("c@b.test", "d@b.test")
    for wrong, message in (
        ({"treshold": 1}, r"alerts\.rules\.0\.treshold is no setting: did you mean threshold\?"),
        (
            {"divided_by": [{"metric": "x", "were": {}}]},
            r"alerts\.rules\.0\.divided_by\.0\.were is no setting: did you mean where\?",
        ),
        ({"objective": 0.9}, r"alerts\.rules\.0: an objective needs divided_by"),
        ({"condition": "=>"}, r"alerts\.rules\.0\.condition: Input should be"),
    ):
        with pytest.raises(SettingsError, match=message):
            Settings(alerts={"rules": [{"name": "x", "metric": "y", "threshold": 1, **wrong}]})


def quiet_with(rules: list[dict[str, Any]]) -> World:
    """Build a world with rules from the settings."""
    return World(alerts={"defaults": False, "rules": rules})


def test_rules_are_written_for_prometheus():
    """With the labels of the scrape, escapes, durations as people write them, and what keeps an alert going."""
    written = rule(
        expression=Stat("jobs_total", "rate", 90, {"kind": 'a"b\\c', "x": "!=y"}, ("kind",)),
        resolve_threshold=0.5,
        for_seconds=3600,
        keep_firing_seconds=0.5,
        labels={"team": "core"},
        annotations={"summary": "s"},
    ).prometheus(also_by=["service"])
    figure = 'sum by (service, kind) (rate(jobs_total{kind="a\\"b\\\\c", x!="y"}[90s]))'
    firing = 'ALERTS{alertname="load", alertstate="firing"}'
    assert written == {
        "alert": "load",
        "expr": f"({figure} > 0.8) or (({figure} > 0.5) and on (service, kind) {firing})",
        "for": "1h",
        "keep_firing_for": "500ms",
        "labels": {"severity": "warning", "team": "core"},
        "annotations": {"summary": "s"},
    }
