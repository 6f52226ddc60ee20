"""Every metric and every rule over HTTP, without any being named: the same numbers as a scrape, and the same judgements."""

import math
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge, Histogram, Info, Summary
from test_status_pages import Shop

from sage_fastapi_obs.alerting.alerts import timestamp
from sage_fastapi_obs.alerting.default_rules import EXPORTED_NAMES
from sage_fastapi_obs.alerting.explorer import MOST_SERIES
from sage_fastapi_obs.alerting.expressions import BurnRate, Ratio, Stat
from sage_fastapi_obs.alerting.past_lines import MOST_LINES
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.catalog import CATALOG, PACKS
from sage_fastapi_obs.operations.own_metrics import declare_counter

INTERVAL = 15
RUNBOOKS = Path(__file__).parents[2] / "docs/runbooks"


def step(shop: Shop, seconds: float = INTERVAL) -> None:
    """Let the next sample be taken."""
    shop.now += seconds
    shop.obs.status.evaluate()


def drawn(line: dict[str, Any]) -> list[float | None]:
    """Return the values of a line without those that follow an equal one: a sample may have been taken twice."""
    return [value for value, _ in groupby(line["values"])]


async def metric(shop: Shop, path: str) -> dict[str, Any]:
    """Ask for a metric without time going by."""
    async with shop.client() as client:
        answer = await client.get(f"/monitoring/explorer/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_all_metrics_have_the_numbers_of_a_scrape() -> None:
    """Each family of the registry is listed with its help and labels, and each of its series has the value that is scraped."""
    shop = Shop()
    registry = shop.obs.registry
    Counter("orders_total", "Orders.", ["kind"], registry=registry).labels("tea").inc(3)
    Histogram("wait_seconds", "Waits.", ["kind"], registry=registry, buckets=(1, 2)).labels("tea").observe(1.5)
    Summary("parcel_bytes", "Parcels.", registry=registry).observe(700)
    Gauge("users", "Users.", registry=registry).set(7)
    Info("build", "The build.", registry=registry).info({"commit": "abc"})
    await shop.visit("/items/1", 3)
    await shop.visit("/boom")
    shop.obs.status.evaluate()
    listed = {one["name"]: one for one in (await shop.get("/monitoring/explorer"))["metrics"]}
    # What the pages themselves change is scraped last.
    moving = ("process_", "python_", "observability_scrape", "observability_rules")
    shop.obs.status.refresh()
    for family in [*registry.collect()]:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert (listed[name]["help"], listed[name]["type"]) == (family.documentation, family.type)
        if name.startswith(moving) or family.type == "info":
            continue
        suffix = "_count" if family.type in ("histogram", "summary") else ""
        scraped = {frozenset(sample.labels.items()): sample.value for sample in family.samples if sample.name == name + suffix}
        found = await metric(shop, name)
        assert {frozenset(one["labels"].items()): one["value"] for one in found["now"]} == scraped, name
        assert len(found["now"]) == found["series"]
    assert (await metric(shop, "parcel_bytes"))["now"][0]["sum"] == 700
    assert (listed["orders_total"]["labels"], listed["wait_seconds"]["unit"]) == (["kind"], "seconds")
    assert "scrapes only" in listed["build"]["problem"]


async def test_a_metric_of_a_pack_that_is_off_says_what_to_switch_on() -> None:
    """The whole catalog is there; of what is on, there is no problem."""
    shop = Shop()
    listed = {one["name"]: one for one in (await shop.get("/monitoring/explorer"))["metrics"]}
    assert {one.name for one in CATALOG} <= listed.keys()
    off = next(one for one in PACKS["textbook"] if one.name not in {two.name for two in PACKS["result"]})
    assert "textbook" in listed[off.name]["problem"]
    assert listed["http_requests_total"]["problem"] is None
    assert listed["http_requests_total"]["labels"] == ["method", "route", "status"]


async def test_without_metrics_each_says_that_they_are_off() -> None:
    """And not that a pack is."""
    shop = Shop(metrics={"enabled": False})
    found = await metric(shop, "http_requests_total")
    assert (found["series"], found["problem"]) == (0, "no metrics are recorded: metrics.enabled is false")


async def test_a_metric_that_the_application_declares_is_there_at_once() -> None:
    """Nobody has named it here, and it has its help, its labels and its line."""
    shop = Shop()
    sold = declare_counter("cups_sold_total", "Cups that were sold.", {"kind": ()})
    async with shop.obs:
        for _ in range(6):
            for _ in range(3):
                sold.inc(kind="green")
            sold.inc(kind="black")
            step(shop)
        found = await metric(shop, "cups_sold_total?by=kind&seconds=60")
    assert (found["help"], found["type"], found["statistic"]) == ("Cups that were sold.", "counter", "rate")
    assert {one["labels"]["kind"]: one["value"] for one in found["now"]} == {"green": 18, "black": 6}
    green, black = found["past"]["lines"]
    assert (green["labels"], black["labels"]) == ({"kind": "green"}, {"kind": "black"})
    assert green["values"][-1] == pytest.approx(3 / INTERVAL)
    assert black["values"][-1] == pytest.approx(1 / INTERVAL)
    assert len(found["past"]["time"]) == len(green["values"]) == 5


async def test_lines_over_time() -> None:
    """A gauge as it was at each sample, a quantile of what was observed then, and nothing of a time of suspension."""
    shop = Shop()
    load = Gauge("load", "l", ["zone"], registry=shop.obs.registry)
    wait = Histogram("wait_seconds", "w", registry=shop.obs.registry, buckets=(1, 2, 4))
    for number in range(5):
        load.labels("a").set(number)
        load.labels("b").set(10)
        wait.observe(1.5)
        step(shop)
    found = await metric(shop, "load?by=zone")
    assert [(line["labels"]["zone"], drawn(line)) for line in found["past"]["lines"]] == [("b", [10]), ("a", [0, 1, 2, 3, 4])]
    summed = await metric(shop, "load")
    assert (summed["statistic"], drawn(summed["past"]["lines"][0])) == ("total", [10, 11, 12, 13, 14])
    quantile = await metric(shop, "wait_seconds?statistic=p50")
    assert quantile["past"]["lines"][0]["values"][-1] == pytest.approx(1.5)
    step(shop, 3600)
    step(shop)
    after = await metric(shop, "load?seconds=7200")
    assert drawn(after["past"]["lines"][0])[-3:] == [14, None, 14]


async def test_what_there_is_no_room_for_is_counted() -> None:
    """Of thousands of series those with the highest values are shown, and the answer stays small."""
    shop = Shop()
    sold = Counter("sold_total", "s", ["kind"], registry=shop.obs.registry)
    for _ in range(2):
        for number in range(3000):
            sold.labels(str(number)).inc(number)
        step(shop)
    found = await metric(shop, "sold_total?by=kind")
    assert (len(found["now"]), found["now_left_out"], found["series"]) == (MOST_SERIES, 3000 - MOST_SERIES, 3000)
    assert found["now"][0] == {"labels": {"kind": "2999"}, "value": 5998, "sum": None}
    assert [line["labels"]["kind"] for line in found["past"]["lines"]] == [str(2999 - place) for place in range(MOST_LINES)]
    assert found["past"]["left_out"] == 3000 - MOST_LINES


async def test_series_that_exist_no_more_are_not_shown() -> None:
    """As on the page of metrics, and unlike in windows, which still know them."""
    shop = Shop()
    load = Gauge("load", "l", ["zone"], registry=shop.obs.registry)
    sold = Counter("sold_total", "s", ["zone"], registry=shop.obs.registry)
    for one in (load, sold):
        for zone in "ab":
            one.labels(zone).inc()
    step(shop)
    for one in (load, sold):
        one.remove("a")
    step(shop)
    for name in ("load", "sold_total"):
        assert [one["labels"] for one in (await metric(shop, name))["now"]] == [{"zone": "b"}]


async def test_series_of_the_process_before_are_not_shown(tmp_path: Path) -> None:
    """Windows go on after a restart; what is shown as it is now is what this process counts, as on the page of metrics."""
    for number, path in enumerate(("/boom", "/items/1")):
        shop = Shop(store={"path": str(tmp_path)})
        shop.now += 100 * number
        assert shop.obs.store is not None
        shop.obs.store.history.process = f"process {number}"
        async with shop.obs:
            await shop.visit(path, 3)
            step(shop)
            found = await metric(shop, "http_requests_total?by=route")
    assert [(one["labels"]["route"], one["value"]) for one in found["now"]] == [("/items/{item_id}", 3)]
    assert found["series"] == 1
    assert "/boom" in {line["labels"]["route"] for line in found["past"]["lines"]}


async def test_values_that_are_no_numbers_and_labels_that_are_no_names() -> None:
    """Infinity is no figure, and what cannot be printed is not."""
    shop = Shop()
    load = Gauge("load", "l", ["zone"], registry=shop.obs.registry)
    load.labels("<img src=x onerror=alert(1)>\x00\n" + "x" * 500).set(math.inf)
    step(shop)
    step(shop)
    found = await metric(shop, "load?by=zone")
    (one,) = found["now"]
    assert one["value"] is None
    assert one["labels"]["zone"].startswith("<img src=x onerror=alert(1)>")
    assert one["labels"]["zone"].isprintable()
    assert len(one["labels"]["zone"]) == 128
    assert set(found["past"]["lines"][0]["values"]) == {None}


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("explorer/nothing_of_the_kind", 404, "none of this name"),
        ("rules/nothing/of the kind", 404, "none of this name"),
        ("explorer/http_requests_total?by=nope", 422, "there are: method, route, status"),
        ("explorer/http_requests_total?statistic=p95", 422, "there are: rate, increase"),
        ("explorer/http_requests_total?seconds=inf", 422, "seconds"),
        ("rules/HighErrorRate?seconds=1", 422, "seconds"),
    ],
)
async def test_what_there_is_not_is_said(path: str, status: int, said: str) -> None:
    """With what there is instead."""
    shop = Shop()
    step(shop)
    async with shop.client() as client:
        answer = await client.get(f"/monitoring/{path}")
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text


def overload(condition: AlertCondition = AlertCondition.GREATER_THAN, **more: Any) -> AlertRule:
    """Make a rule about a gauge with a label."""
    watched = {"expression": Stat("load_ratio", "last", 60, by=("zone",)), **more}
    return AlertRule(name="over/load", condition=condition, threshold=0.5, **watched)


async def rule(shop: Shop, name: str) -> dict[str, Any]:
    """Ask for a rule without time going by."""
    async with shop.client() as client:
        answer = await client.get(f"/monitoring/rules/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json()


@settings(max_examples=25, deadline=None)
@given(
    levels=st.lists(st.tuples(*[st.sampled_from((0.0, 0.4, 0.6))] * 2), min_size=3, max_size=14),
    for_seconds=st.sampled_from((0.0, 30.0)),
    keep=st.sampled_from((0.0, 30.0)),
)
async def test_what_a_rule_would_have_done_is_what_it_did(levels: Any, for_seconds: float, keep: float) -> None:
    """A rule that is judged at each sample, and replayed afterwards over the same samples, fires at the same times."""
    shop = Shop(alerts={"defaults": False})
    load = Gauge("load_ratio", "l", ["zone"], registry=shop.obs.registry)
    shop.obs.status.alerts.add(overload(for_seconds=for_seconds, keep_firing_seconds=keep))
    seen: list[list[Any]] = []
    step(shop)
    for both in levels:
        for zone, level in zip("ab", both, strict=True):
            load.labels(zone).set(level)
        shop.now += INTERVAL
        for alert in shop.obs.status.evaluate():
            at = shop.obs.status.windows.ticks[-1].wall
            if alert.state == "firing":
                seen.append([alert.labels["zone"], at, None])
            elif alert.state == "resolved":
                next(one for one in reversed(seen) if one[0] == alert.labels["zone"])[2] = at
    found = await rule(shop, "over/load")
    shown = [[one["labels"]["zone"], one["began"], one["ended"]] for one in found["firings"]]
    assert sorted(shown, key=str) == sorted(seen, key=str)
    for line in found["past"]["lines"]:
        column = "ab".index(line["labels"]["zone"])
        assert drawn(line) == [level for level, _ in groupby([None, *(both[column] for both in levels)])]
    state = next((one["state"] for one in found["alerts"] if one["state"] == "firing"), None)
    assert (found["state"] == "firing") == (state == "firing")


async def test_the_list_shows_how_near_each_rule_is() -> None:
    """The value of the group that is nearest to the threshold, the state, and what is needed to write the rule elsewhere."""
    shop = Shop(alerts={"defaults": False}, export={"runbooks_url": "https://git.example/runbooks/"})
    load = Gauge("load_ratio", "l", ["zone"], registry=shop.obs.registry)
    shop.obs.status.alerts.add(overload(for_seconds=60, annotations={"summary": "{{ $labels.zone }} is busy"}))
    low = overload(AlertCondition.LESS_THAN)
    shop.obs.status.alerts.add(AlertRule(name="idle", condition=low.condition, threshold=0.1, expression=low.expression))
    for zone, level in (("a", 0.3), ("b", 0.7), ("c", 0.2)):
        load.labels(zone).set(level)
    step(shop)
    step(shop)
    busy, idle = (await shop.get("/monitoring/rules"))["rules"]
    assert (busy["name"], busy["state"], busy["value"], busy["condition"], busy["threshold"]) == (
        *("over/load", "pending", 0.7),
        *(">", 0.5),
    )
    assert busy["expression"] == "max by (zone) (load_ratio) > 0.5"
    assert (busy["summary"], busy["for_seconds"]) == ("{{ $labels.zone }} is busy", 60)
    assert busy["runbook"] == "https://git.example/runbooks/over/load.md"
    assert (idle["state"], idle["value"], idle["since"], idle["problem"]) == ("inactive", 0.2, None, None)
    (alert,) = (await rule(shop, "over/load"))["alerts"]
    assert (alert["labels"]["zone"], busy["since"]) == ("b", alert["since"])


async def test_the_figure_of_a_burn_rate_is_the_one_that_holds_it_back() -> None:
    """Both windows have to be above the threshold: the lower one is compared."""
    shop = Shop(alerts={"defaults": False})
    errors = Ratio((Stat("failed_total", "rate"),), (Stat("asked_total", "rate"),))
    failed, asked = (Counter(name, "c", registry=shop.obs.registry) for name in ("failed_total", "asked_total"))
    burn = BurnRate(errors, 0.9, 120, 30)
    shop.obs.status.alerts.add(AlertRule(name="burn", expression=burn, condition=AlertCondition.GREATER_THAN, threshold=2.0))
    for number in range(10):
        asked.inc(10)
        failed.inc(10 if number < 6 else 0)
        step(shop)
    (found,) = (await shop.get("/monitoring/rules"))["rules"]
    assert (found["value"], found["state"]) == (0.0, "resolved")


async def test_before_the_first_window_there_is_no_figure() -> None:
    """No value, no line, no verdict; and a metric that does not exist is said."""
    shop = Shop(alerts={"defaults": False})
    shop.obs.status.alerts.add(overload())
    found = await rule(shop, "over/load")
    assert (found["value"], found["state"], found["past"]["lines"], found["firings"]) == (None, "inactive", [], [])
    step(shop)
    step(shop)
    assert "there is no metric load_ratio" in (await rule(shop, "over/load"))["problem"]


class Broken:
    """An expression of an application that raises."""

    metric = "load_ratio"
    by = ()

    def windows(self) -> tuple[float, ...]:
        return (60.0,)

    def values(self, _view: Any) -> Any:
        raise ZeroDivisionError

    def promql(self, _also_by: Any = ()) -> Any:
        raise LookupError


async def test_a_rule_that_raises_says_so_and_hides_no_other() -> None:
    """Its page and the list say what it raises; the page of alerts and the dashboard go on answering."""
    shop = Shop(alerts={"defaults": False})
    Gauge("load_ratio", "l", ["zone"], registry=shop.obs.registry).labels("a").set(0.9)
    shop.obs.status.alerts.add(overload(expression=Broken()))
    shop.obs.status.alerts.add(
        AlertRule(name="fine", expression=overload().expression, condition=AlertCondition.GREATER_THAN, threshold=0.5)
    )
    step(shop)
    step(shop)
    broken, fine = (await shop.get("/monitoring/rules"))["rules"]
    assert (broken["problem"], broken["value"], broken["expression"]) == ("its expression raises ZeroDivisionError", None, None)
    assert (fine["value"], fine["state"]) == (0.9, "firing")
    assert (await rule(shop, "over/load"))["problem"] == "its expression raises ZeroDivisionError"
    assert len((await shop.get("/monitoring/alerts"))["alert_rules"]) == 2
    assert len((await shop.get("/monitoring/dashboard"))["alert_rules"]) == 2


async def test_each_rule_of_the_package_has_the_runbook_that_it_names() -> None:
    """Also those that are exported under another name."""
    shop = Shop(metrics={"packs": ("http", "result", "sage")})
    rules = (await shop.get("/monitoring/rules"))["rules"]
    assert {one["name"] for one in rules} >= EXPORTED_NAMES.keys()
    for one in rules:
        assert (RUNBOOKS / one["runbook"].removeprefix("docs/runbooks/")).is_file(), one["name"]


async def test_times_of_alerts_are_those_of_the_windows() -> None:
    """`since` is the wall time of the sample at which the state began."""
    shop = Shop(alerts={"defaults": False})
    Gauge("load_ratio", "l", ["zone"], registry=shop.obs.registry).labels("a").set(0.9)
    shop.obs.status.alerts.add(overload())
    step(shop)
    step(shop)
    found = await rule(shop, "over/load")
    assert found["since"][:16] in {
        timestamp(found["firings"][0]["began"])[:16],
        timestamp(found["firings"][0]["began"] + 1)[:16],
    }
