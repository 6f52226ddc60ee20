"""What the page shows when its data do not come, are not what they should be, or were written by somebody hostile."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsed import OF_A_FAKE, REFUSED
from playwright.sync_api import expect
from servers import Server, running

ROOT = Path(__file__).parents[2]
DETAILS = ("routes/GET%20%2Fapi%2Fitems", "requests/some-id", "alerts/HighErrorRate", "metrics/http_requests_total")
"""Views of one thing, which the navigation does not list."""
HEALTHY = re.compile(r"\bhealthy\b|\bNaN\b|undefined|\[object|Infinity|\b0 ?%|\b100 ?%|✓", re.IGNORECASE)
"""Words and figures that say that all is well, and those of programs that forgot to look."""
ANSWERS: dict[str, dict[str, Any] | None] = {
    "500": {"status": 500, "body": "Internal Server Error"},
    "401": {"status": 401, "json": {"detail": "a bearer token is needed"}},
    "503 with a reason": {"status": 503, "json": {"detail": "the store cannot be read: it is damaged"}},
    "garbage": {"status": 200, "body": "<html>not JSON</html>"},
    "a number": {"status": 200, "body": "17"},
    "null": {"status": 200, "body": "null"},
    "an empty object": {"status": 200, "json": {}},
    "a list": {"status": 200, "json": []},
    "another document": {
        "status": 200,
        "json": {"figures": {"error_share": "none", "p99_ms": {"value": "NaN"}}, "series": 3, "health": {}},
    },
    "an empty body": {"status": 200, "body": ""},
    "nothing": None,
}
HOSTILE = "</script><img src=x onerror=document.title='owned'>{{7*7}}\u202e\"'`"


@pytest.mark.parametrize("answer", ANSWERS)
def test_without_data_nothing_looks_healthy(browse, example, answer):
    """Whatever comes in place of all data, no view has a figure with a value or a word that all is well, and each says why."""
    browsed = browse(example)
    browsed.expected = OF_A_FAKE
    browsed.intercept_data(ANSWERS[answer])
    browsed.page.goto(example)
    names = browsed.page.eval_on_selector_all("nav a", "links => links.map(link => link.dataset.view)")
    assert len(names) >= 12
    for view in (*names, *DETAILS):
        browsed.page.goto(f"{example}#/{view}")
        shown = browsed.page.locator(f"main .view.{view.split('/')[0]}")
        expect(shown.locator(".problem, .unavailable").first).to_be_visible()
        assert (view, set(browsed.figures().values()) - {"unavailable"}) == (view, set())
        assert (view, HEALTHY.findall(shown.inner_text())) == (view, [])
        assert (view, shown.locator(".chart .line").count()) == (view, 0)
    assert browsed.page.locator(".badge").get_attribute("data-state") != "live"
    assert (browsed.page.get_by_role("dialog").count() == 1) is (answer == "401")


@pytest.mark.parametrize("missing", ["figures", "health", "alerts", "budgets", "workers", "series"])
def test_what_one_document_lacks_is_said_where_it_is_missing(browse, example, missing):
    """A document without one of its parts shows the others, and of that one that it cannot be read."""
    overview = httpx.get(f"{example}overview?seconds=300", trust_env=False).json()
    browsed = browse(example)
    del overview[missing]
    browsed.intercept(
        ["live"], {"status": 200, "content_type": "text/event-stream", "body": f"data: {json.dumps(overview)}\n\n"}
    )
    browsed.intercept(["overview"], {"status": 200, "json": overview})
    browsed.open()
    expect(browsed.page.locator("main .problem, main .figure").first).to_be_visible()
    states = browsed.figures()
    labels = {"health": "Health", "alerts": "Alerts firing", "budgets": "Error budget left", "workers": "Workers"}
    if missing in labels:
        assert states[labels[missing]] == "unavailable"
        assert states["Requests"] == "value"
    assert "NaN" not in browsed.text()


def test_hostile_content_is_text(browse, example):
    """Script in names, paths, reasons and labels stands there as it was written, and does nothing."""
    overview = httpx.get(f"{example}overview?seconds=300", trust_env=False).json()
    overview |= {"service": HOSTILE, "environment": HOSTILE, "version": HOSTILE}
    overview["alerts"] = [{"name": HOSTILE}]
    overview["figures"]["p99_ms"] = {"value": None, "reason": HOSTILE}
    listed = httpx.get(f"{example}requests?kept=slow&limit=5", trust_env=False).json()
    texts = dict.fromkeys(("key", "method", "route", "path", "why", "request_id", "timestamp"), HOSTILE)
    listed["requests"] = [{**request, **texts, "status": 500} for request in listed["requests"]]
    routes = httpx.get(f"{example}routes", trust_env=False).json()
    routes["routes"] = [{**route, "method": HOSTILE, "route": HOSTILE} for route in routes["routes"]]
    browsed = browse(example)
    event = f"data: {json.dumps(overview)}\n\n"
    browsed.intercept(["live"], {"status": 200, "content_type": "text/event-stream", "body": event})
    browsed.intercept(["overview"], {"status": 200, "json": overview})
    browsed.intercept(["requests"], {"status": 200, "json": listed})
    browsed.intercept(["routes"], {"status": 200, "json": routes})
    browsed.open()
    expect(browsed.page.locator(".reasons .why").first).to_have_text(HOSTILE)
    expect(browsed.page.locator(".service")).to_contain_text(HOSTILE)
    browsed.page.evaluate("location.hash = '#/routes'")
    expect(browsed.page.locator("tbody a").first).to_contain_text(HOSTILE)
    browsed.page.locator("tbody a").first.click()
    expect(browsed.page.locator("h1")).to_have_text(f"{HOSTILE} {HOSTILE}")
    assert browsed.page.locator("img[src=x]").count() == 0
    assert not browsed.page.title().startswith("owned")


def _service(folder, **env: str) -> Server:
    """Build a server of the example that nobody has asked anything."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "example_app.app:create_app", "--log-level", "critical", "--port"]
    environment = {
        **os.environ,
        # It would go on with what other tests of this process have stored.
        "XDG_STATE_HOME": str(folder),
        "SAGE_OBS_LOGGING__OUTPUT": str(folder / "lines"),
        "SAGE_OBS_MONITORING__INTERVAL_SECONDS": "1",
        **env,
    }
    return Server(lambda server: [*command, str(server.port)], cwd=ROOT, env=environment)


def test_a_fresh_service_says_what_to_do_next(browse, tmp_path):
    """Nobody asked anything yet: the page says so, and moves by itself once somebody does."""
    with running(_service(tmp_path)) as service:
        base = f"http://127.0.0.1:{service.port}"
        page = browse(f"{base}/monitoring/").open().page
        expect(page.locator(".empty-title")).to_have_text("Nothing was asked of this service yet")
        expect(page.locator(".empty li")).to_have_count(2)
        assert "NaN" not in page.locator("main").inner_text()
        for _ in range(20):
            httpx.get(f"{base}/api/items", trust_env=False)
        expect(page.locator(".empty-title")).to_have_count(0)
        expect(page.locator(".chart").first).to_be_visible()
        page.close()


def test_the_page_survives_a_restart(browse, tmp_path):
    """While the service is gone the badge says when it was last heard; once it is back the page goes on by itself."""
    with running(_service(tmp_path)) as service:
        browsed = browse(f"http://127.0.0.1:{service.port}/monitoring/").open()
        browsed.expected = OF_A_FAKE
        badge = browsed.page.locator(".badge")
        expect(badge).to_have_text("live")
        service.kill()
        expect(badge).to_have_text(re.compile(r"last heard \d+ s ago"))
        service.start()
        expect(badge).to_have_text("live")
        browsed.page.close()


def test_a_slow_connection_shows_the_frame_first(browse, example):
    """At 400 kbit/s with half a second of delay the page comes, says that it loads, and goes live."""
    browsed = browse(example)
    session = browsed.page.context.new_cdp_session(browsed.page)
    session.send("Network.enable")
    slow = {"offline": False, "latency": 500, "downloadThroughput": 50_000, "uploadThroughput": 50_000}
    session.send("Network.emulateNetworkConditions", slow)
    browsed.open()
    expect(browsed.page.locator("nav a").first).to_be_visible()
    expect(browsed.page.locator(".badge")).to_have_text("live")


def test_a_token_is_asked_for_and_not_kept_where_scripts_read_it(browse, tmp_path):
    """Without the token there is a question for it and no figure; with it the page goes on, and no script can read it."""
    token = "a-token-of-sixteen-or-more"
    settings = {"SAGE_OBS_MONITORING__ACCESS": "token", "SAGE_OBS_MONITORING__TOKEN": token}
    with running(_service(tmp_path, **settings)) as service:
        browsed = browse(f"http://127.0.0.1:{service.port}/monitoring/")
        browsed.expected = REFUSED
        dialog = browsed.open().page.get_by_role("dialog")
        dialog.get_by_label("Token").fill("another")
        dialog.get_by_role("button").click()
        expect(dialog.get_by_role("alert")).to_contain_text("not the token")
        assert browsed.figures() == {}
        assert browsed.axe() == []
        dialog.get_by_label("Token").fill(token)
        dialog.get_by_role("button").click()
        expect(browsed.page.locator(".badge")).to_have_text("live")
        expect(browsed.page.get_by_role("dialog")).to_have_count(0)
        kept = "JSON.stringify([document.cookie, localStorage, sessionStorage, location.href])"
        assert token not in browsed.page.evaluate(kept)
        browsed.page.close()
