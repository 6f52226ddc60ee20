"""The same traffic, judged in process and by a real Prometheus: the same numbers, and the same alerts at the same ticks."""

import json
import math
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import need, stop
from support import until
from worlds import INTERVAL, STORIES, Story, World

from sage_fastapi_obs.alerting.alerts import Alert
from sage_fastapi_obs.alerting.expressions import BurnRate, Expression, Ratio, Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule

pytestmark = pytest.mark.stack

DAY = 86_400
REQUESTS, DURATION, FAILED = "http_requests_total", "http_request_duration_seconds", {"status": "=~5.."}
SHARE = Ratio((Stat(REQUESTS, where=FAILED),), (Stat(REQUESTS),))
MORE, LESS = AlertCondition.GREATER_THAN, AlertCondition.LESS_THAN
RULES = [
    AlertRule(name="no_traffic", expression=Stat(REQUESTS, "rate", 120), condition=LESS, threshold=0.01, for_seconds=60),
    AlertRule(name="fast_burn", expression=BurnRate(SHARE, 0.99, 900, 60), condition=MORE, threshold=8, severity="critical"),
    AlertRule(name="slow_mean", expression=Stat(DURATION, "mean", 120), condition=MORE, threshold=1.0, for_seconds=45),
    AlertRule(
        name="wavering",
        expression=SHARE.with_window(60),
        condition=MORE,
        threshold=0.08,
        resolve_threshold=0.03,
        keep_firing_seconds=60,
    ),
    AlertRule(name="by_route", expression=Stat(REQUESTS, "rate", 60, FAILED, ("route",)), condition=MORE, threshold=0.3),
    AlertRule(
        name="by_operation", expression=Stat("result_duration_seconds", "p95", by=("operation",)), condition=MORE, threshold=2
    ),
    AlertRule(
        name="idle_job",
        expression=Stat("result_success_total", "increase", 120, {"operation": "job"}, ("operation",)),
        condition=LESS,
        threshold=1,
    ),
    AlertRule(
        name="overload",
        expression=Stat("load_ratio", "average", 70),
        condition=MORE,
        threshold=0.9,
        resolve_threshold=0.8,
        for_seconds=30,
    ),
    AlertRule(
        name="nobody_pays",
        expression=Stat("result_success_total", "increase", 300, absent=0.0),
        condition=AlertCondition.EQUAL,
        threshold=0,
        for_seconds=120,
    ),
]
FIGURES: dict[str, Expression] = {
    **{f"rate {seconds}": Stat(REQUESTS, "rate", seconds) for seconds in (60, 120, 300)},
    **{f"error ratio {seconds}": SHARE.with_window(seconds) for seconds in (60, 120, 300)},
    **{f"mean {seconds}": Stat(DURATION, "mean", seconds) for seconds in (60, 120, 300)},
    **{f"p95 {seconds}": Stat(DURATION, "p95", seconds) for seconds in (60, 120, 300)},
    "p50 by route": Stat(DURATION, "p50", 60, by=("route",)),
    "p99 of results": Stat("result_duration_seconds", "p99", 300, by=("operation",)),
    "failures": Stat("result_failure_total", "increase", 300),
    "count": Stat("result_duration_seconds", "count", 120),
    "sum": Stat("result_duration_seconds", "sum", 120),
    "rate of a histogram": Stat("result_duration_seconds", "rate", 120),
    "other statuses": Stat(REQUESTS, "increase", 60, {"status": "!~5..", "route": "!=/other"}, ("status",)),
    "last": Stat("load_ratio", "last"),
    "total": Stat("circuit_breaker_status", "total"),
    "lowest": Stat("load_ratio", "lowest", 70),
    "highest": Stat("load_ratio", "highest", 70),
    "milliseconds": Stat("result_duration_seconds", "p95", 300, scale=1000.0),
}


@dataclass
class Told:
    """What a story came to in process, and what a scrape saw of it."""

    begin: int
    rules: list[AlertRule]
    firing: list[set[tuple[str, tuple[tuple[str, str], ...]]]] = field(default_factory=list)
    figures: list[dict[str, dict[tuple[str, ...], float]]] = field(default_factory=list)
    scraped: dict[tuple[str, tuple[tuple[str, str], ...]], list[float | None]] = field(default_factory=dict)


def series_name(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    """Write a series as Prometheus does."""
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels) + "}"


def identity(alert: Alert) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Name an alert as Prometheus does."""
    return alert.rule.name, tuple(sorted({**alert.labels, "alertname": alert.rule.name}.items()))


def with_rules(world: World) -> World:
    """Add the rules to a world."""
    for rule in RULES:
        world.status.alerts.add(rule)
    return world


def tell(story: Story, begin: int) -> Told:
    """Let a story happen."""
    world = with_rules(World(begin=story.begin))
    told = Told(begin, world.status.alerts.rules)
    for tick in range(story.ticks):
        if tick == story.restart:
            world = with_rules(world.successor())
        if tick:
            world.tick()
            story.act(world, tick)
        world.status.evaluate()
        told.firing.append({identity(alert) for alert in world.status.alerts.alerts("firing")})
        told.figures.append(
            {
                name: {group: one[0] for group, one in figure.values(world.status.view).items()}
                for name, figure in FIGURES.items()
            }
        )
        for sample in world.samples():
            values = told.scraped.setdefault((sample.name, tuple(sorted(sample.labels.items()))), [])
            values += [None] * (tick - len(values)) + [sample.value]
    assert world.internal_errors.counts == {}
    return told


@pytest.fixture(scope="module")
def told() -> dict[str, Told]:
    """Let all stories happen, each on a day of its own."""
    return {story.name: tell(story, 1_767_225_600 + day * DAY) for day, story in enumerate(STORIES)}


@pytest.fixture(scope="module")
def prometheus(told: dict[str, Told], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Prometheus over what a scrape saw of all stories; yield its address."""
    folder = tmp_path_factory.mktemp("agreement")
    with (folder / "samples.om").open("w") as file:
        for one in told.values():
            for (name, labels), values in one.scraped.items():
                shown = series_name(name, labels)
                for tick, value in enumerate(values):
                    if value is not None:
                        file.write(f"{shown} {value!r} {one.begin + tick * INTERVAL}\n")
        file.write("# EOF\n")
    subprocess.run(
        [need("promtool"), "tsdb", "create-blocks-from", "openmetrics", folder / "samples.om", folder / "tsdb"],
        check=True,
        capture_output=True,
    )
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 15s}\n")
    flags = ["--web.listen-address=127.0.0.1:0", f"--storage.tsdb.path={folder / 'tsdb'}", "--storage.tsdb.retention.time=100y"]
    log = folder / "prometheus.log"
    with log.open("w") as output:
        command = [need("prometheus"), f"--config.file={folder / 'prometheus.yml'}", *flags]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        address = until(lambda: re.search(r"Listening on.*address=(127\.0\.0\.1:\d+)", log.read_text()), "Prometheus")[1]
        until(lambda: httpx.get(f"http://{address}/-/ready").is_success, "storage")
        yield f"http://{address}"
    finally:
        stop(process)


def ranged(prometheus: str, expression: str, told: Told) -> list[dict[tuple[tuple[str, str], ...], float]]:
    """Ask Prometheus for the values of an expression at every tick."""
    end = told.begin + (len(told.firing) - 1) * INTERVAL
    query = {"query": expression, "start": told.begin, "end": end, "step": INTERVAL}
    answer = httpx.post(f"{prometheus}/api/v1/query_range", data=query)
    assert answer.is_success, answer.text
    found: list[dict[tuple[tuple[str, str], ...], float]] = [{} for _ in told.firing]
    for series in answer.json()["data"]["result"]:
        labels = tuple(sorted(series["metric"].items()))
        for at, value in series["values"]:
            if not math.isnan(float(value)):
                found[(round(at) - told.begin) // INTERVAL][labels] = float(value)
    return found


@pytest.mark.parametrize(
    "story", [story for story in STORIES if not story.cut and story.restart is None], ids=lambda story: story.name
)
def test_figures_are_those_of_prometheus(story: Story, told: dict[str, Told], prometheus: str):
    """At every tick, each figure is what Prometheus computes from the scrapes, for each group, or neither has one."""
    for name, figure in FIGURES.items():
        theirs = ranged(prometheus, promql(figure), told[story.name])
        for tick, (ours, expected) in enumerate(zip(told[story.name].figures, theirs, strict=True)):
            shown = {tuple(sorted(zip(figure.by, group, strict=True))): value for group, value in ours[name].items()}
            # In a window that begins before its first scrape, Prometheus guesses what was before it.
            young = tick * INTERVAL < max(figure.windows())
            if story.late and (young or is_blind(promql(figure))):
                # What a series has counted before its first scrape is in ours, and in no rate and share of Prometheus.
                common = shown.keys() & expected.keys()
                assert tick < 2 or figure.by or all(shown[one] >= 0.8 * expected[one] for one in common), (name, tick)
                continue
            assert shown.keys() == expected.keys(), (name, tick)
            assert young or shown == pytest.approx(expected, rel=1e-6, abs=1e-9), (name, tick)


def promql(figure: Expression) -> str:
    """Write a figure as rules do that fire at once."""
    return (figure.promql_from_zero() if isinstance(figure, Stat) else figure.promql())[0]


def is_blind(written: str) -> bool:
    """Tell whether Prometheus computes it without what a series had when it was first scraped."""
    return "[" in written and "unless" not in written


def written(values: list[float | None]) -> Iterator[str]:
    """Write the values of a series; where it ends, a scrape marks it as stale."""
    for before, value in zip([None, *values], values, strict=False):
        yield repr(value) if value is not None else "_" if before is None else "stale"


def rule_test(told: Told, story: Story) -> dict[str, Any]:
    """Write what is expected of Prometheus' own evaluation of the rules."""
    series = [
        {
            "series": series_name(name, labels),
            "values": " ".join(written([*values, *[None] * (len(told.firing) - len(values))])),
        }
        for (name, labels), values in told.scraped.items()
    ]
    expected = [
        {
            "eval_time": f"{tick * INTERVAL}s",
            "alertname": rule.name,
            "exp_alerts": [
                {"exp_labels": {key: value for key, value in labels if key != "alertname"}}
                for name, labels in sorted(told.firing[tick])
                if name == rule.name
            ],
        }
        for rule in told.rules
        for tick in settled(told, rule, resolution(rule, story))
        if not is_forgotten(rule, story, tick)
    ]
    return {"interval": f"{INTERVAL}s", "input_series": series, "alert_rule_test": expected}


def is_forgotten(rule: AlertRule, story: Story, tick: int) -> bool:
    """Tell whether a rule looks back to a process that has ended: only Prometheus knows what that counted."""
    needed = max(rule.expression.windows()) + rule.for_seconds + rule.keep_firing_seconds
    return story.restart is not None and 0 <= (tick - story.restart) * INTERVAL <= needed + INTERVAL


def settled(told: Told, rule: AlertRule, slack: int) -> list[int]:
    """Choose the ticks around which nothing changes for a rule."""
    firing = [{alert for alert in one if alert[0] == rule.name} for one in told.firing]
    every = range(len(firing))
    return [
        tick for tick in every if all(firing[tick] == firing[near] for near in every[max(0, tick - slack) : tick + slack + 1])
    ]


def resolution(rule: AlertRule, story: Story) -> int:
    """Return by how many ticks a rule may fire earlier or later than Prometheus' own."""
    # Prometheus takes what is absent for 0 before its first two scrapes.
    first = 1 if getattr(rule.expression, "absent", None) is not None else 0
    longest = max(rule.expression.windows())
    # Notes that are old enough lie apart by a sixteenth of their age.
    shift = 4 if story.late and is_blind(rule.promql()) else 2 if story.cut else 0
    return max(shift, first, math.ceil(longest / 16 / INTERVAL) if longest > 16 * 2 * INTERVAL else 0)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_rules_fire_when_those_of_prometheus_do(story: Story, told: dict[str, Told], tmp_path: Path):
    """Each rule, written for Prometheus and judged by it, fires at the same ticks.

    Series that end, rates of new ones, and windows that reach back to where notes lie further apart, may shift it by a few.
    """
    one = told[story.name]
    rules = [{key: value for key, value in rule.prometheus().items() if key != "annotations"} for rule in one.rules]
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "all", "interval": "15s", "rules": rules}]}))
    test = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [rule_test(one, story)]}
    (tmp_path / "test.yml").write_text(json.dumps(test))
    done = subprocess.run(
        [need("promtool"), "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[:3000] + done.stderr[:3000]


def test_every_rule_fires_in_some_story_and_is_silent_in_another(told: dict[str, Told]):
    """The stories tell something about each rule."""
    fired = {name: {alert for firing in one.firing for alert, _ in firing} for name, one in told.items()}
    rules = {rule.name for one in told.values() for rule in one.rules}
    assert set.union(*fired.values()) == rules
    assert set.intersection(*fired.values()) == set()
    for story in STORIES:
        assert set(story.firing) == fired[story.name], story.name
