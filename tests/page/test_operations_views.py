"""Alerts, SLA, health, metrics, workers, stacks, settings and loggers in a real browser; names of the service are hostile."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsed import OF_A_FAKE, REFUSED, Browsed
from playwright.sync_api import expect
from servers import free_port
from support import until

TOKEN = "canary-token-of-sixteen-or-more"
HOSTILE = "<img src=x onerror=document.title=1>"
VIEWS = ("alerts", "levels", "health", "metrics", "workers", "stacks", "settings", "loggers")
DOCUMENTS = ("rules", "sla", "health", "explorer", "workers", "stacks", "settings", "loggers")
DETAILS = ("alerts/AlwaysHigh", "metrics/http_requests_total?by=route")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

SERVICE = """
import asyncio, sys, uvicorn
from fastapi import FastAPI
from prometheus_client import Gauge
from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule

port, folder, token, hostile, kind = sys.argv[1:]
app = FastAPI()
full = kind == "full"
obs = Observability(Settings(
    service={"name": "shop"}, store={"path": folder}, logging={"output": f"{folder}/lines.jsonl"},
    monitoring={"interval_seconds": 1, "token": token}, alerts={"defaults": full}, metrics={"port": 1234} if full else {},
    notify={"webhook_url": f"https://user:{token}@host.example/{token}"},
))
obs.install(app)

if full:
    level = Gauge("level_ratio", f"Level of {hostile}.", ["zone"], registry=obs.registry)
    def rule(name, threshold, **more):
        return AlertRule(name=name, expression=Stat("level_ratio", "last", 60, by=("zone",)), threshold=threshold,
                         condition=AlertCondition.GREATER_THAN, annotations={"summary": f"summary {hostile}"}, **more)
    for each in (rule("AlwaysHigh", 0.5), rule("SoonHigh", 0.5, for_seconds=3600), rule("NearlyHigh", 0.95)):
        obs.status.alerts.add(each)
    obs.status.alerts.add(rule(hostile, 2.0))
    above = AlertCondition.GREATER_THAN
    obs.status.alerts.add(AlertRule(name="Silent", expression=Stat("nothing_total"), threshold=1, condition=above))
    level.labels("a").set(0.9)
    level.labels(hostile).set(0.8)
    obs.health.add("stock", lambda: True)
    obs.health.add(f"printer {hostile}", lambda: False, critical=False)

@app.get("/items/{item}")
async def item(item: str):
    return item

@app.get("/wait/{item}")
async def wait(item: str):
    await asyncio.sleep(3600)

@app.get("/level/{value}")
async def set_level(value: float):
    level.labels("a").set(value)

uvicorn.run(app, port=int(port), log_level="critical")
"""


def serve(folder: Path, kind: str) -> Iterator[str]:
    """Run the service; yields where its page is."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-c", SERVICE, str(port), str(folder), TOKEN, HOSTILE, kind]
    with subprocess.Popen(command) as process:
        try:
            page = f"http://127.0.0.1:{port}/monitoring/"
            until(lambda: process.poll() is not None or httpx.get(f"{page}health/live").status_code == 200, "service")
            yield page
        finally:
            process.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a service with alerts, checks, and requests that were made."""
    for page in serve(tmp_path_factory.mktemp("full"), "full"):
        root = page.removesuffix("monitoring/")
        for number in range(5):
            httpx.get(f"{root}items/{number}")
        until(lambda page=page: httpx.get(f"{page}rules/AlwaysHigh").json()["past"]["lines"], "line")
        yield page


@pytest.fixture
def service(running: str) -> str:
    """Return the page of a service that was asked just now: charts are of the last minutes, and other tests take long."""
    httpx.get(f"{running.removesuffix('monitoring/')}items/0")
    return running


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a service of which nobody has asked anything, without rules and checks."""
    yield from serve(tmp_path_factory.mktemp("fresh"), "fresh")


def ready(view: Browsed) -> Browsed:
    """Wait until a view has its first answer."""
    expect(view.page.locator("main").get_by_text("Loading …")).to_have_count(0)
    return view


@pytest.mark.parametrize("view", VIEWS + DETAILS)
def test_nothing_stands_in_the_way_of_people(browse: Any, service: str, view: str) -> None:
    """Axe finds nothing serious or critical in either colours, and no text is one that only a program writes."""
    page = ready(browse(service, color_scheme="light").open(f"#/{view}"))
    assert page.axe() == []
    page.page.emulate_media(color_scheme="dark")
    assert page.axe() == []
    for wrong in ("NaN", "undefined", "[object", "Infinity"):
        assert wrong not in page.text()


@pytest.mark.parametrize("view", VIEWS + DETAILS)
def test_a_phone_shows_all_without_scrolling_sideways(browse: Any, service: str, view: str) -> None:
    """At 390 pixels the page is as wide as the screen, and axe has nothing to say."""
    page = ready(browse(service, **PHONE).open(f"#/{view}"))
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.axe() == []


def test_what_fires_is_first_and_then_what_is_nearest(browse: Any, service: str) -> None:
    """Firing, pending with the time that is left, then quiet rules by how near they are; one that cannot fire says why."""
    page = ready(browse(service).open("#/alerts")).page
    rows = page.locator("tbody tr")
    names = [row.locator("a").inner_text() for row in rows.all()]
    assert names[:3] == ["AlwaysHigh", "SoonHigh", "NearlyHigh"]
    expect(rows.nth(0).locator(".tag")).to_have_text(re.compile("firing"))
    expect(rows.nth(1)).to_contain_text(re.compile(r"fires in [1-9][0-9]? min if it goes on"))
    expect(rows.nth(2)).to_contain_text("94.7 %")
    expect(rows.filter(has_text="Silent")).to_contain_text("there is no metric nothing_total")


def test_a_rule_is_shown_with_its_line_and_what_it_would_have_done(browse: Any, service: str) -> None:
    """The figure over time with the threshold, the alerts by label, when it would have fired, and its PromQL."""
    page = ready(browse(service).open("#/alerts")).page
    page.get_by_role("link", name="AlwaysHigh").click()
    expect(page.locator(".chart .limit")).to_be_attached()
    expect(page.locator(".chart .line").first).to_be_attached()
    expect(page.get_by_text("would have fired 2 times")).to_be_visible()
    expect(page.locator("pre")).to_have_text("max by (zone) (level_ratio) > 0.5")
    expect(page.get_by_text("docs/runbooks/AlwaysHigh.md")).to_be_visible()
    expect(page.locator(".figure").first).to_contain_text("firing")


def test_alerts_move_and_stay_sorted(browse: Any, service: str) -> None:
    """A value that changes is there without a reload; a chosen order and the focus stay."""
    page = ready(browse(service).open("#/alerts")).page
    page.get_by_role("button", name="Rule").click()
    expect(page.locator("th[aria-sort]")).to_have_text(re.compile("Rule"))
    row = page.locator("tbody tr", has=page.get_by_role("link", name="NearlyHigh"))
    link = row.get_by_role("link")
    link.focus()
    root = service.removesuffix("monitoring/")
    try:
        httpx.get(f"{root}level/0.85")
        expect(row).to_contain_text("0.85")
        expect(page.locator("th[aria-sort]")).to_have_text(re.compile("Rule"))
        expect(link).to_be_focused()
    finally:
        httpx.get(f"{root}level/0.9")


def test_levels_compare_promises_with_what_was_measured(browse: Any, service: str) -> None:
    """Each window has its budget with how much of it was watched; without traffic there is no verdict."""
    page = ready(browse(service).open("#/levels"))
    row = page.page.locator("tbody tr", has_text="Availability")
    expect(row).to_contain_text("100 %")
    expect(row.locator(".tag.good")).to_have_text(re.compile("kept"))
    assert page.figures() == {"5 min": "value", "1 h": "value", "1 day": "value", "7 days": "value"}
    expect(page.page.locator(".figure").last).to_contain_text("watched for")
    page.page.get_by_label("Of").select_option("result")
    expect(page.page.locator(".figure", has_text="no data yet")).to_have_count(4)
    expect(page.page.locator("main .tag.good, main .figure.good")).to_have_count(0)


def test_checks_are_shown_with_what_fails(browse: Any, service: str) -> None:
    """The check that fails is first, and the state says so."""
    page = ready(browse(service).open("#/health")).page
    expect(page.locator("tbody tr").first).to_contain_text("fails")
    expect(page.locator("tbody tr").first).to_contain_text("degraded while it fails")
    expect(page.locator(".figure").first).to_contain_text("degraded")


def test_metrics_are_found_and_drawn_by_any_label(browse: Any, service: str) -> None:
    """A search finds by name and help; a label and a statistic are chosen, and stand in the address."""
    page = ready(browse(service).open("#/metrics")).page
    search = page.get_by_role("searchbox")
    search.fill("requests answered")
    expect(page.locator("tbody tr")).to_have_count(1)
    search.fill("no such thing")
    expect(page.get_by_text("No metric matches")).to_be_visible()
    search.fill("textbooks_created")
    page.get_by_label("also those without data").check()
    expect(page.locator("tbody tr").first).to_contain_text("its pack 'textbook' is off")
    search.fill("http_requests_total")
    page.get_by_role("link", name="http_requests_total").click()
    expect(page.locator("tbody tr", has_text="/items/{item}")).to_contain_text(re.compile("[1-9]"))
    page.get_by_label("By").select_option("route")
    page.wait_for_url(re.compile("by=route"))
    expect(page.locator(".legend")).to_contain_text("route=/items/{item}")
    page.get_by_label("As").select_option("increase")
    page.wait_for_url(re.compile("by=route&statistic=increase"))
    expect(page.get_by_label("As")).to_have_value("increase")
    scraped = httpx.get(f"{service}explorer/http_requests_total").json()["now"]
    assert sum(one["value"] for one in scraped) >= 5


def test_a_name_that_does_not_exist_is_said(browse: Any, service: str) -> None:
    """In the words of the service, without a figure."""
    for address in ("#/metrics/nothing_at_all", "#/alerts/Nobody"):
        page = browse(service)
        page.expected = REFUSED
        ready(page.open(address))
        expect(page.page.locator(".problem")).to_contain_text("there is none of this name")
        assert page.figures() == {}


def test_stacks_show_where_a_request_waits(browse: Any, service: str) -> None:
    """A request that hangs has its route and line; the page's own requests are hidden and counted; an open stack stays."""
    page = ready(browse(service).open("#/stacks")).page
    root = service.removesuffix("monitoring/")
    hanging = subprocess.Popen([sys.executable, "-c", f"import urllib.request as r; r.urlopen('{root}wait/b')"])
    try:
        row = page.locator("tbody tr", has_text="/wait/{item}")
        expect(row).to_be_visible()
        expect(row).to_contain_text("waits")
        expect(page.get_by_text("of this page itself")).to_be_visible()
        row.get_by_text("Stack", exact=True).click()
        expect(row.locator("pre")).to_contain_text("wait")
        page.get_by_text(re.compile("^Threads")).click()
        expect(page.locator(".threads summary").first).to_be_visible()
    finally:
        hanging.kill()
        hanging.wait()


def test_settings_are_found_and_say_where_they_come_from(browse: Any, service: str) -> None:
    """Only what was set, until one searches or asks for all; a secret is hidden, and the canary is nowhere."""
    page = ready(browse(service).open("#/settings"))
    token = page.page.locator("tbody tr", has=page.page.locator("code", has_text=re.compile("^token$")))
    expect(token).to_contain_text("hidden")
    expect(token).to_contain_text("code")
    expect(page.page.get_by_text("metrics.port is set and not used")).to_be_visible()
    assert TOKEN not in page.page.content()
    page.page.get_by_role("searchbox").fill("sample_rate")
    expect(page.page.locator("tbody tr", has_text="Share of new traces")).to_contain_text("default")
    page.page.get_by_role("searchbox").fill("")
    page.page.get_by_label("also those with their default").check()
    expect(page.page.locator("tbody tr", has_text="duration_buckets")).to_contain_text("not set")
    assert TOKEN not in page.page.content()


def test_a_level_is_changed_with_the_token_only(browse: Any, service: str) -> None:
    """Without it the login opens and nothing changes; with it the change is shown, and given back."""
    page = browse(service)
    page.expected = REFUSED
    ready(page.open("#/loggers"))
    page.page.get_by_role("textbox", name="Logger").fill("shop.orders")
    page.page.get_by_role("button", name="Change").click()
    dialog = page.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert httpx.get(f"{service}loggers").json()["loggers"] == []
    dialog.get_by_label("Token").fill(TOKEN)
    dialog.get_by_role("button", name="Log in").click()
    expect(dialog).to_have_count(0)
    page.page.get_by_role("textbox", name="Logger").fill("shop.orders")
    page.page.get_by_role("button", name="Change").click()
    row = page.page.locator("tbody tr", has_text="Give back")
    expect(row).to_contain_text("shop.orders")
    expect(row).to_contain_text("debug")
    row.get_by_role("button", name="Give back").click()
    expect(page.page.get_by_text("Every logger has the configured level")).to_be_visible()
    assert httpx.get(f"{service}loggers").json()["loggers"] == []


def test_workers_tell_what_each_does_and_how_one_died(browse: Any, service: str) -> None:
    """Of several, told by an answer in between: one that hangs, one that is dead, and why the last one died."""
    alive = {
        "heartbeat_age_seconds": 0.1,
        "loop_age_seconds": 0.1,
        "memory_bytes": 98_000_000,
        "in_flight": 2,
        "requests": 1234,
    }
    workers = [
        {"worker": 1, "process_id": 11, "state": "running", "leader": True, "age_seconds": 7200.0, "last_death": None, **alive},
        {
            **alive,
            "worker": 2,
            "process_id": 12,
            "state": "hanging",
            "leader": False,
            "age_seconds": 60.0,
            "loop_age_seconds": 33.0,
            "last_death": {"timestamp": "2026-11-30T12:00:00.000Z", "reason": "oom"},
        },
    ]
    view = browse(service)
    view.intercept(["workers"], {"json": {"workers": workers}})
    page = ready(view.open("#/workers")).page
    first, second = page.locator("tbody tr").all()
    for text in ("judges rules", "running", "11", "2 h", "1\u2009234", "98 MB", "none"):
        expect(first).to_contain_text(text)
    for text in ("hangs", "33 s ago", "out of memory"):
        expect(second).to_contain_text(text)


ANSWERS = {
    "500": {"status": 500, "body": "it broke"},
    "refused": {"status": 403, "json": {"detail": "not for you"}},
    "garbage": {"status": 200, "body": "<html>not what you think</html>"},
    "another shape": {"status": 200, "json": {"status": "healthy", "ok": True}},
    "a number": {"status": 200, "json": 7},
    "nothing": None,
}


KINDS = tuple(ANSWERS)
"""All of them for one view; for each of the others two, so that each kind meets several views."""
BAD_ANSWERS = [("health", kind) for kind in KINDS] + [
    (view, KINDS[(at + step) % len(KINDS)]) for at, view in enumerate(VIEWS) for step in (0, 3) if view != "health"
]


@pytest.mark.parametrize(("view", "kind"), BAD_ANSWERS)
def test_an_answer_that_cannot_be_read_shows_nothing_healthy(browse: Any, service: str, view: str, kind: str) -> None:
    """Whatever comes instead of the data: the reason stands there, and no figure, no row and no good word."""
    page = browse(service)
    page.expected = OF_A_FAKE
    page.intercept(DOCUMENTS, ANSWERS[kind])
    page.open(f"#/{view}")
    expect(page.page.locator("main .problem").first).to_contain_text("cannot be read")
    assert set(page.figures().values()) <= {"unavailable"}
    expect(page.page.locator("main .good, main tbody tr")).to_have_count(0)


def test_a_view_that_was_well_says_when_it_cannot_be_read_any_more(browse: Any, service: str) -> None:
    """What was shown before goes away with the answer, and comes back with it."""
    view = browse(service)
    view.expected = OF_A_FAKE
    page = ready(view.open("#/health")).page
    expect(page.locator("tbody tr")).to_have_count(2)
    view.intercept(["health"], {"status": 503, "json": {"detail": "too many are waiting"}})
    expect(page.locator("main .problem")).to_contain_text("too many are waiting")
    expect(page.locator("main .good, main tbody tr")).to_have_count(0)
    page.unroute_all()
    expect(page.locator("tbody tr")).to_have_count(2)


def test_hostile_names_are_text(browse: Any, service: str) -> None:
    """A label, a help text, the name of a rule and of a check that are HTML are shown as they are written."""
    for address in ("metrics", "metrics/level_ratio?by=zone", "alerts", "alerts/AlwaysHigh", "health"):
        page = ready(browse(service).open(f"#/{address}"))
        expect(page.page.locator("main")).to_contain_text(HOSTILE)
        assert page.page.locator("main img").count() == 0
        assert page.page.title() != "1"
    page = ready(browse(service).open("#/alerts")).page
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.locator("h1")).to_have_text(HOSTILE)
    expect(page.locator("pre")).to_have_text("max by (zone) (level_ratio) > 2")


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("alerts", "Set alerts.defaults to true"),
        ("levels", "no data yet"),
        ("health", "obs.health.add"),
        ("stacks", "No request is in flight"),
        ("workers", "The service has one worker"),
        ("loggers", "Every logger has the configured level"),
        ("metrics/http_requests_total", "It appears as soon as something is recorded"),
    ],
)
def test_a_fresh_service_says_what_to_do(browse: Any, fresh: str, view: str, said: str) -> None:
    """Where there is nothing, it says what makes something appear; there is no verdict."""
    page = ready(browse(fresh).open(f"#/{view}"))
    expect(page.page.locator("main")).to_contain_text(said)
    if view == "levels":
        expect(page.page.locator("main .tag, main .figure.good")).to_have_count(0)


def test_numbers_are_those_of_a_scrape(browse: Any, service: str) -> None:
    """The series of a metric on the page are those that Prometheus gets."""
    page = ready(browse(service).open("#/metrics/level_ratio")).page
    expect(page.locator("tbody tr")).to_have_count(2)
    shown = {
        row.locator("td").first.inner_text(): row.locator("td").last.inner_text() for row in page.locator("tbody tr").all()
    }
    text = httpx.get(f"{service.removesuffix('monitoring/')}metrics").text
    scraped = {json.loads(f'"{zone}"'): float(value) for zone, value in re.findall(r'level_ratio\{zone="(.*)"\} (\S+)', text)}
    assert shown == {zone: f"{value * 100:g} %" for zone, value in scraped.items()}
