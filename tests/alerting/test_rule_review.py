"""Rules that can never fire, and how often a new rule would have fired."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter
from support import PATIENCE_SECONDS
from worlds import World

from sage_fastapi_obs import SettingsError
from sage_fastapi_obs.alerting import windows
from sage_fastapi_obs.alerting.expressions import BurnRate, Expression, Ratio, Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule

MORE = AlertCondition.GREATER_THAN


def rule(expression: Expression, name: str = "rule", **options: Any) -> AlertRule:
    """Build a rule."""
    return AlertRule(**{"name": name, "expression": expression, "condition": MORE, "threshold": 0.5, **options})


def quiet() -> World:
    """Build a world without the package's own rules, that has been looked at once."""
    world = World(alerts={"defaults": False})
    world.load.set(0)
    world.status.evaluate()
    return world


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        (Stat("load_rati"), "there is no metric load_rati; the nearest name is load_ratio"),
        (Stat("qqqqqqqqqq"), "there is no metric qqqqqqqqqq"),
        (Stat("load_rati", where={"cpu": "1"}), 'there is no metric load_rati{cpu="1"}; the nearest name is load_ratio'),
        (Ratio((Stat("load_ratio"),), (Stat("load_rati"),)), "there is no metric load_rati"),
        (
            BurnRate(Ratio((Stat("load_rati"),), (Stat("load_ratio"),)), 0.9),
            "there is no metric load_rati; the nearest name is load_ratio",
        ),
        (Stat("load_ratio"), None),
        (Stat("load_ratio", where={"cpu": "none"}), None),
        (Stat("circuit_breaker_status"), None),
    ],
)
def test_a_rule_that_can_never_fire_is_said(expression, problem):
    """By its name with the reason, by a number on the page of metrics, and in a line where there is a similar name."""
    world = quiet()
    world.status.alerts.add(rule(expression))
    assert world.status.review.explained() == ({} if problem is None else {"rule": problem})
    assert [family.samples[0].value for family in world.status.metrics.collect() if "without" in family.name] == [
        problem is not None
    ]
    for _ in range(2):
        world.status.review.log_news()
    said = [message for _, message, _ in world.said if "cannot fire" in message]
    assert said == ([f"alert rule rule cannot fire: {problem}"] if problem and "nearest" in problem else [])


def test_a_rule_whose_metric_comes_later_is_fine_then():
    """A counter may be made with the first event."""
    world = quiet()
    world.status.alerts.add(rule(Stat("late_total")))
    assert world.status.review.problems()
    Counter("late_total", "l", registry=world.registry)
    world.status.evaluate()
    assert world.status.review.problems() == {}


@pytest.mark.parametrize(
    ("metric", "statistic", "hint"),
    [
        ("load_ratio", "p95", "load_ratio is a gauge, which has no p95: use last, total, lowest, average, highest"),
        ("load_ratio", "increase", "is a gauge, which has no increase"),
        ("result_failure_total", "mean", "is a counter, which has no mean: use increase, rate"),
        ("result_duration_seconds", "last", "is a histogram, which has no last"),
    ],
)
def test_a_statistic_that_its_metric_has_not_is_refused(metric, statistic, hint):
    """Where the rule is added, as far as the metric is known."""
    with pytest.raises(SettingsError, match=hint):
        quiet().status.alerts.add(rule(Stat(metric, statistic)))
    before = World(alerts={"defaults": False})
    before.status.alerts.add(rule(Stat("load_ratio", "p95")))
    before.load.set(1)
    assert before.status.review.problems() == {}
    before.status.evaluate()
    assert before.status.review.problems()["rule"].startswith("load_ratio is a gauge")


def test_rules_of_the_package_wait_for_their_metrics():
    """They are there in every service, whatever it records; rules of its own of the same name are not excused."""
    world = World(alerts={"defaults": True}, metrics={"packs": ()})
    world.status.evaluate()
    assert world.status.review.problems() == {}
    world.status.alerts.add(rule(Stat("nothing_total"), "HighErrorRate"))
    assert [*world.status.review.problems()] == ["HighErrorRate"]


@given(loads=st.lists(st.sampled_from([0.1, 0.9]), max_size=40), for_seconds=st.sampled_from([0, 20, 40]))
def test_a_new_rule_says_how_often_it_would_have_fired(loads, for_seconds):
    """As often as one that was there from the start did fire; said once, and kept."""
    world, told = quiet(), []
    options = {"for_seconds": for_seconds, "cooldown_seconds": 0}
    world.status.alerts.add(rule(Stat("load_ratio"), "old", callbacks=(told.append,), **options))
    for load in loads:
        world.tick()
        world.load.set(load)
        world.status.evaluate()
    assert world.status.notifications.wait(PATIENCE_SECONDS)
    fired = len(told)
    new = world.status.alerts.add(rule(Stat("load_ratio"), "new", **options))
    world.status.review.log_news()
    assert world.status.review.past_firings(new) == fired
    world.load.set(0.9)
    world.tick()
    world.status.evaluate()
    world.status.review.log_news()
    assert world.status.review.past_firings(new) == fired
    said = [message for _, message, fields in world.said if "would have fired" in message and fields["alert"] == "new"]
    often = {0: [], 1: ["once"]}.get(fired, [f"{fired} times"])
    assert [message.split("have fired ")[1].split(" in the")[0] for message in said] == (often if len(loads) > 1 else [])


def test_the_past_is_looked_at_in_bounded_time(monkeypatch):
    """With many series, only the newest samples."""
    world = quiet()
    for load in (0.9, 0.1) * 10:
        world.tick()
        world.load.set(load)
        world.status.evaluate()
    monkeypatch.setattr(windows, "MOST_NUMBERS", 6 * world.status.windows.series)
    assert len([*world.status.windows.past()]) == 6
    assert world.status.review.past_firings(rule(Stat("load_ratio"))) == 3
