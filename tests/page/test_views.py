"""The page in a real browser, beside the example under traffic."""

import re

import httpx
import pytest
from playwright.sync_api import expect

VIEWS = ("overview", "routes", "routes/GET%20%2Fapi%2Fitems")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def test_the_overview_shows_figures_charts_and_reasons(browse, example):
    """All figures have a value or no data yet, charts have lines, and reasons stand there without a click."""
    overview = browse(example).open()
    expect(overview.page.locator(".chart .line").first).to_be_visible()
    expect(overview.page.locator(".reasons .why").first).not_to_be_empty()
    states = overview.figures()
    assert len(states) == 15
    assert {"Requests", "p99", "Health", "Alerts firing", "Memory"} <= {
        name for name, state in states.items() if state == "value"
    }
    assert set(states.values()) <= {"value", "none"}
    assert "NaN" not in overview.text()
    assert "undefined" not in overview.text()


def test_the_overview_moves(browse, example):
    """Newer figures replace older ones by themselves, and a pause holds them."""
    page = browse(example).open().page
    badge = page.locator(".badge")
    expect(badge).to_have_text("live")
    chart = page.locator(".chart").first
    before = chart.get_attribute("aria-valuetext")
    page.wait_for_function("before => document.querySelector('.chart').getAttribute('aria-valuetext') !== before", arg=before)
    badge.click()
    expect(badge).to_have_text("paused")
    badge.click()
    expect(badge).to_have_text("live")


def test_the_span_of_time_is_asked_for_and_kept(browse, example):
    """Another span asks for other data, and is still chosen after a reload."""
    page = browse(example).open().page
    with page.expect_request(re.compile(r"live\?seconds=3600")):
        page.get_by_label("Time span").select_option("3600")
    page.reload()
    assert page.get_by_label("Time span").input_value() == "3600"


def test_charts_are_read_and_zoomed_by_keyboard(browse, example):
    """Arrow keys read values, Shift and Enter zoom in for all charts, Escape shows all again."""
    page = browse(example).open().page
    chart = page.get_by_role("slider", name=re.compile("^Latency"))
    page.wait_for_function("() => Number(document.querySelector('.chart').getAttribute('aria-valuemax')) > 5")
    page.locator(".badge").click()
    chart.focus()
    page.keyboard.press("End")
    newest = chart.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    assert re.match(r"\d\d:\d\d:\d\d: p50 ", chart.get_attribute("aria-valuetext") or "")
    assert chart.get_attribute("aria-valuetext") != newest
    whole = int(chart.get_attribute("aria-valuemax") or 0)
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    expect(chart).to_have_attribute("aria-valuemax", "2")
    expect(page.get_by_role("slider").first).to_have_attribute("aria-valuemax", "2")
    page.keyboard.press("Escape")
    expect(chart).to_have_attribute("aria-valuemax", str(whole))


def test_charts_are_zoomed_by_dragging(browse, example):
    """Dragging over a chart shows that part of time in all of them, and a button shows all again."""
    page = browse(example).open().page
    page.wait_for_function("() => Number(document.querySelector('.chart').getAttribute('aria-valuemax')) > 5")
    page.locator(".badge").click()
    chart = page.get_by_role("slider").first
    whole = int(chart.get_attribute("aria-valuemax") or 0)
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Show all").first.wait_for()
    assert int(chart.get_attribute("aria-valuemax") or 0) < whole
    page.get_by_role("button", name="Show all").first.click()
    expect(chart).to_have_attribute("aria-valuemax", str(whole))


def test_routes_are_sorted_by_each_column(browse, example):
    """A header sorts by its column, one way and the other, and says so; a route is one click away."""
    page = browse(example).open("#/routes").page
    page.locator("tbody tr").nth(3).wait_for()
    page.locator(".badge").click()
    header = page.get_by_role("button", name="Requests", exact=True)
    header.click()
    expect(page.locator("th[aria-sort]")).to_have_text(re.compile("Requests"))
    counts = [int(re.sub(r"\D", "", text)) for text in page.locator("tbody tr td:last-child").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    header.click()
    expect(page.locator("th[aria-sort=ascending]")).to_be_visible()
    counts = [int(re.sub(r"\D", "", text)) for text in page.locator("tbody tr td:last-child").all_inner_texts()]
    assert counts == sorted(counts)
    page.locator("tbody a").first.click()
    expect(page.locator("h1")).to_have_text(re.compile(r"^[A-Z]+ "))


def test_a_route_is_shown_in_detail(browse, example):
    """Latency, heatmap, statuses, causes, what was not valid, and the usual request beside the slowest."""
    listed = httpx.get(f"{example}requests?kept=slow&limit=50", trust_env=False).json()["requests"]
    request = next(one for one in listed if one["route"])
    view = browse(example).open(f"#/routes/{request['method']}%20{request['route'].replace('/', '%2F')}")
    for name in ("Latency", "Requests by duration", "Statuses", "Why it was slow", "What was not valid (422)"):
        expect(view.page.get_by_text(name, exact=True).first).to_be_visible()
    expect(view.page.locator(".heatmap .cell").first).to_be_attached()
    expect(view.page.locator(".card", has_text="Slowest").locator(".big")).to_contain_text(re.compile(r"\d m?s"))


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_stands_in_the_way_of_people(browse, example, view):
    """Axe finds nothing serious or critical, in light and dark."""
    page = browse(example, color_scheme="light").open(f"#/{view}")
    page.page.wait_for_load_state("load")
    expect(page.page.locator("main .figure, main tbody tr").first).to_be_visible()
    assert page.axe() == []
    page.page.emulate_media(color_scheme="dark")
    assert page.axe() == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_shows_all_without_scrolling_sideways(browse, example, view):
    """At 390 pixels the page is as wide as the screen, and axe has nothing to say."""
    page = browse(example, **PHONE).open(f"#/{view}")
    expect(page.page.locator("main .figure, main tbody tr").first).to_be_visible()
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.axe() == []


def test_the_page_is_used_by_keyboard(browse, example):
    """The first key leads over the navigation into the content, the next ones to the views; what has the focus is seen."""
    page = browse(example).open().page
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.get_by_role("link", name="Routes", exact=True).focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("nav [aria-current=page]")).to_have_text("Routes")
    expect(page.locator("h1")).to_have_text("Routes")
    assert page.title().startswith("Routes · ")


def test_colours_are_a_choice_that_stays(browse, example):
    """Dark stays dark after a reload, whatever the system says."""
    page = browse(example, color_scheme="light").open().page
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_label("Colours").select_option("dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    page.locator("main h1").wait_for()
    assert page.evaluate(ground) == dark


def test_what_is_told_by_colour_is_told_otherwise_too(browse, example):
    """Series differ in dashes, and a figure that is not well has a sign that is read out."""
    page = browse(example).open().page
    page.locator(".chart .line.s2").first.wait_for()
    assert (
        len(
            {
                page.locator(f".key .s{number}").first.evaluate("each => getComputedStyle(each).strokeDasharray")
                for number in range(3)
            }
        )
        == 3
    )
    for figure in page.locator(".figure.bad, .figure.warning").all():
        assert figure.get_by_role("img").get_attribute("aria-label") in {"bad", "warning"}


def test_what_the_first_view_costs(browse, example, record_testsuite_property):
    """The page and its first data are under 150 kB compressed, and the first paint is reported."""
    browsed = browse(example)
    session = browsed.page.context.new_cdp_session(browsed.page)
    session.send("Network.enable")
    finished: list[float] = []
    session.on("Network.loadingFinished", lambda event: finished.append(event["encodedDataLength"]))
    browsed.open()
    expect(browsed.page.locator(".reasons, .figure").first).to_be_visible()
    painted = browsed.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null")
    record_testsuite_property("first_paint_ms", painted)
    record_testsuite_property("transferred_bytes", sum(finished))
    assert 0 < sum(finished) < 150_000
