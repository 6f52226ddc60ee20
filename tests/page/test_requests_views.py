"""Requests, a request and issues in a real browser, beside a service in which much goes wrong."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from browsed import OF_A_FAKE
from kept_requests import filled, kept, line, span
from playwright.sync_api import expect
from servers import free_port, stop
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs.causes import ALL_CAUSES
from sage_fastapi_obs.retention_reasons import REASONS

TOKEN = "a-token-of-sixteen-or-more"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
CANARIES = {
    "header": "canary-header-7c1f",
    "cookie": "canary-cookie-7c1f",
    "query": "canary-query-7c1f",
    "body": "canary-body-7c1f",
    "invalid": "canary-invalid-7c1f",
}
HOSTILE = "<img src=x onerror=alert('path')>"
NOTE = "</script><script>alert('header')</script>"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
APP = Path(__file__).with_name("troubled_app.py")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run the service, and return where its page is; what it keeps is in a folder, which is its working directory, too."""
    port = free_port()
    given = {
        "SAGE_OBS_STORE__PATH": str(folder),
        "SAGE_OBS_SERVICE__NAME": "shop",
        "SAGE_OBS_MONITORING__TOKEN": TOKEN,
        "SAGE_OBS_MONITORING__LINKS": "Jaeger=https://jaeger.test/trace/{trace_id}",
        "SAGE_OBS_EXPORT__RUNBOOKS_URL": "https://docs.test/runbooks",
        "XDG_STATE_HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, str(APP), str(port)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env={**os.environ, **given}) as process:
        try:
            until(lambda: ask(f"http://127.0.0.1:{port}/fine").status_code == 200)
            yield f"http://127.0.0.1:{port}/monitoring/"
        finally:
            stop(process)


def ask(url: str, method: str = "GET", **options: Any) -> httpx.Response:
    """Ask the service."""
    return httpx.request(method, url, trust_env=False, timeout=PATIENCE_SECONDS, **options)


def cause_trouble(page: str) -> None:
    """Have everything go wrong once, and one failure 23 times."""
    root = page.removesuffix("monitoring/")
    with ThreadPoolExecutor() as both:
        [*both.map(ask, (f"{root}waits", f"{root}blocks"))]
    ask(f"{root}repeats")
    for _ in range(23):
        ask(f"{root}fails/{quote(HOSTILE)}", headers={"X-Note": NOTE, "X-Request-ID": "<b>id</b>"})
    secrets = {"Authorization": f"Bearer {CANARIES['header']}", "Cookie": f"session={CANARIES['cookie']}"}
    ask(f"{root}fails/secret?token={CANARIES['query']}", headers=secrets)
    ask(f"{root}orders", "POST", headers=secrets, json={"number": 5, "password": CANARIES["body"]})
    ask(f"{root}orders", "POST", headers=secrets, json={"number": CANARIES["invalid"]})


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the service, with its trouble behind it."""
    with served(tmp_path_factory.mktemp("trouble")) as page:
        cause_trouble(page)
        yield page


def key_of(page: str, **conditions: str) -> str:
    """Find the newest request that meets some conditions."""
    return ask(f"{page}requests", params=conditions).json()["requests"][0]["key"]


def row(browsed: Any, route: str) -> Any:
    """Find the newest row of a route in the list."""
    link = browsed.page.locator("a", has_text=f" {route}")
    return browsed.page.locator("tbody tr", has=link).first


def test_the_reason_takes_no_click(browse: Any, trouble: str) -> None:
    """The list says who blocked the loop and where, whom that delayed, which line repeats a query, and what was raised."""
    listed = browse(trouble).open("#/requests")
    expect(row(listed, "/blocks").locator(".why")).to_have_text(
        re.compile(r"blocked the event loop .* at .*troubled_app\.py:\d+")
    )
    expect(row(listed, "/waits").locator(".why")).to_have_text(re.compile(r"delayed up to .* by GET /blocks"))
    expect(row(listed, "/repeats").locator(".why")).to_have_text(
        re.compile(r"the same query 37 times at .*troubled_app\.py:\d+")
    )
    expect(row(listed, "/fails").locator(".why")).to_have_text(re.compile(r"raised LookupError at .*troubled_app\.py:\d+"))
    expect(row(listed, "/orders").locator(".why")).to_have_text("refused: body.number: int_parsing")


def test_the_exception_takes_one_click(browse: Any, trouble: str) -> None:
    """Its text, the frame of the application first, the frames of libraries folded."""
    browsed = browse(trouble).open("#/requests")
    row(browsed, "/fails").get_by_role("link").click()
    page = browsed.page
    expect(page.locator("pre.application").first).to_contain_text("raise LookupError(")
    expect(page.get_by_text(re.compile(r"^\d+ frames of libraries$"))).to_be_visible()
    expect(page.get_by_text("starlette/routing.py").first).not_to_be_visible()
    page.get_by_text(re.compile(r"^\d+ frames of libraries$")).click()
    expect(page.get_by_text("starlette/routing.py").first).to_be_visible()


def test_other_systems_and_the_docs_are_linked(browse: Any, trouble: str) -> None:
    """From a request to its trace elsewhere, from a cause to what it means."""
    browsed = browse(trouble).open("#/requests")
    row(browsed, "/repeats").get_by_role("link").click()
    trace = browsed.page.get_by_role("link", name="Jaeger")
    expect(trace).to_have_attribute("href", re.compile("^https://jaeger.test/trace/[0-9a-f]{32}$"))
    expect(browsed.page.get_by_role("link", name="docs/why.md#repeated-query")).to_have_attribute(
        "href", "https://docs.test/why.md#repeated-query"
    )


def test_a_repeated_query_is_one_row(browse: Any, trouble: str) -> None:
    """With how often it was sent, and the line that sends it."""
    browsed = browse(trouble).open("#/requests")
    row(browsed, "/repeats").get_by_role("link").click()
    expect(browsed.page.locator(".waterfall .times")).to_have_text(" × 37")
    expect(browsed.page.locator(".cause").first).to_have_text(re.compile(r"37 times at .*troubled_app\.py:\d+"))
    expect(browsed.page.locator(".causes .tag").first).to_have_text("observed")


def test_who_was_delayed_is_linked_both_ways(browse: Any, trouble: str) -> None:
    """From the request that blocked the loop to the one that waited, and back; both beside the block on one clock."""
    browsed = browse(trouble).open(f"#/requests/{key_of(trouble, route='/blocks')}")
    overlap = browsed.page.get_by_role("list", name="What ran while the event loop was blocked")
    expect(overlap).to_contain_text("delayed by this request")
    overlap.get_by_role("link", name="GET /waits").click()
    expect(browsed.page.locator("h1")).to_have_text("GET /waits")
    browsed.page.get_by_role("link", name="the request that blocked it").click()
    expect(browsed.page.locator("h1")).to_have_text("GET /blocks")


def test_filters_stand_in_the_address(browse: Any, trouble: str) -> None:
    """What is chosen is asked for, the address can be shared, and an unknown condition is said."""
    page = browse(trouble).open("#/requests").page
    page.get_by_label("Cause").select_option("blocked_loop")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.evaluate("location.hash") == "#/requests?cause=blocked_loop"
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.get_by_label("Cause").input_value() == "blocked_loop"
    page.get_by_label("Cause").select_option("garbage_collection")
    expect(page.get_by_text("No kept request meets all of these conditions.")).to_be_visible()
    page.get_by_label("Cause").select_option("")
    page.get_by_label("Text").fill("about to fail")
    page.get_by_label("Text").press("Enter")
    expect(page.locator("tbody tr")).to_have_count(24)


def test_new_requests_come_by_themselves(browse: Any, trouble: str) -> None:
    """Not while the page is paused; not under the eyes of who reads further down; and what is pinned stays."""
    browsed = browse(trouble, viewport={"width": 1280, "height": 500}).open("#/requests")
    page, root = browsed.page, trouble.removesuffix("monitoring/")
    pin = row(browsed, "/blocks").get_by_role("button", name="Keep in view")
    pin.click()
    expect(page.locator("tbody tr").first).to_contain_text("/blocks")
    page.evaluate("scrollTo(0, 0)")
    ask(f"{root}refuses/1")
    expect(page.locator("tbody tr", has_text="/refuses/1")).to_be_visible()
    expect(page.locator("tbody tr").first).to_contain_text("/blocks")
    page.evaluate("scrollTo(0, 400)")
    ask(f"{root}refuses/2")
    page.get_by_role("button", name="1 new request").click()
    expect(page.locator("tbody tr", has_text="/refuses/2")).to_be_visible()
    page.locator(".badge").click()
    with page.expect_request(re.compile("requests\\?.*after=")):
        page.locator(".badge").click()
    page.get_by_label("Outcome").select_option("false")
    expect(page.locator("tbody tr").first).to_contain_text("/blocks")
    page.locator("tbody tr").first.get_by_role("button").click()
    expect(page.get_by_role("button", name="Keep in view", pressed=True)).to_have_count(0)


def test_what_others_wrote_is_text(browse: Any, trouble: str) -> None:
    """Paths, ids, headers in lines, exception texts and SQL are shown as they are written; nothing of them runs."""
    browsed = browse(trouble)
    browsed.page.on("dialog", lambda dialog: browsed.problems.append(dialog.message))
    for address, texts in {
        "#/requests": [HOSTILE],
        f"#/requests/{key_of(trouble, failed='true', text='onerror')}": [HOSTILE, NOTE],
        f"#/requests/{key_of(trouble, route='/repeats')}": ["<img src=x onerror=alert('sql')>"],
        "#/issues": ["LookupError"],
    }.items():
        browsed.open(address)
        browsed.page.locator("tbody tr").first.wait_for()
        browsed.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        for text in texts:
            expect(browsed.page.get_by_text(text).first).to_be_visible()
        assert browsed.page.locator("main img, main script").count() == 0


def test_secrets_are_nowhere(browse: Any, trouble: str) -> None:
    """Of headers, cookies, queries and bodies, valid or not: in no view, no command, and no file of a case."""
    found = ask(f"{trouble}requests", params={"limit": 500}).json()["requests"]
    suspects = [one["key"] for one in found if one["route"] == "/orders" or one["path"] == "/fails/secret"]
    assert len(suspects) == 3
    browsed = browse(trouble)
    texts = [json.dumps(found)]
    for address in ("#/requests", "#/issues", *(f"#/requests/{key}" for key in suspects)):
        browsed.open(address)
        browsed.page.locator("tbody tr").first.wait_for()
        browsed.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        texts.append(browsed.page.content())
        if "key-" in address:
            with browsed.page.expect_download() as saved:
                browsed.page.get_by_role("button", name="Export this case").click()
            texts.append(saved.value.path().read_text())
    assert [name for name, canary in CANARIES.items() if any(canary in text for text in texts)] == []


def test_a_case_goes_out_and_comes_in(browse: Any, trouble: str, tmp_path: Path) -> None:
    """The file of the page is one for `sage-obs show`, and that of `sage-obs case` one for the page, packed or not."""
    key = key_of(trouble, route="/repeats")
    browsed = browse(trouble).open(f"#/requests/{key}")
    with browsed.page.expect_download() as saved:
        browsed.page.get_by_role("button", name="Export this case").click()
    saved.value.save_as(tmp_path / "page.json")
    root = trouble.removesuffix("monitoring/")
    sage_obs(tmp_path, "case", key, "--url", root, "--out", "command.json.gz")
    assert "the same query 37 times" in sage_obs(tmp_path, "show", "page.json")
    for name in ("page.json", "command.json.gz"):
        browsed.open("#/requests").page.locator("input[type=file]").set_input_files(tmp_path / name)
        expect(browsed.page.locator("h1", has_text="GET /repeats")).to_be_visible()
        expect(browsed.page.locator(".waterfall .times")).to_have_text(" × 37")


def sage_obs(folder: Path, *arguments: str) -> str:
    """Run a command, and return what it prints."""
    command = [sys.executable, "-m", "sage_fastapi_obs", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=os.environ).stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "this is no case"),
        (b"{}", "this is no case"),
        (b'{"format": "sage-obs-case/1", "stories": 5}', "this is no case"),
        (b"\x1f\x8bgarbage", "this is no case"),
        (gzip.compress(b" " * (17 * 1024 * 1024)), "the file is larger than 16 MiB"),
        (b" " * (17 * 1024 * 1024), "the file is larger than 16 MiB"),
    ],
    ids=["nothing", "another object", "other types", "damaged", "packed too large", "too large"],
)
def test_a_file_that_is_no_case(browse: Any, trouble: str, tmp_path: Path, content: bytes, said: str) -> None:
    """Is refused, with the reason, also where a small file would become large."""
    (tmp_path / "case.json").write_bytes(content)
    page = browse(trouble).open("#/requests").page
    page.locator("input[type=file]").set_input_files(tmp_path / "case.json")
    expect(page.get_by_text(said)).to_be_visible()


def test_a_hostile_case_is_text(browse: Any, trouble: str, tmp_path: Path) -> None:
    """Whatever somebody has written into a file: it is shown as text, of bounded length; what has another shape is said."""
    evil = f"<img src=x onerror=alert(1)>{'x' * 2_000}"
    request = dict.fromkeys(("method", "route", "path", "kept", "timestamp", "request_id", "key"), evil)
    why = [{"cause": evil, "text": evil, "remedy": f"`{evil}", "docs": evil, "by": [evil, "\ud800"], "evidence": evil}]
    error = {"type": evil, "message": evil, "place": evil, "stack": [{"kind": "library", "text": evil, "frames": 1}] * 500}
    spans = [{"name": evil, "kind": evil, "offset_ms": -1e300, "duration_ms": 1e300, "attributes": {evil: evil}, "status": "x"}]
    lines = [{"timestamp": evil, "level": evil, "message": evil, "error": {"stack_trace": evil}, evil: evil}] * 500
    story = {
        "request": {**request, "status": 500, "duration_ms": 1, "failed": True},
        "why": why,
        "timings_ms": {evil: 1},
        "spans": spans,
        "error": error,
        "overlap": [],
        "lines": lines,
        "dropped_spans": 0,
        "dropped_lines": 0,
    }
    browsed = browse(trouble)
    browsed.page.on("dialog", lambda dialog: browsed.problems.append(dialog.message))
    case = {"format": "sage-obs-case/1", "id": evil, "stories": [story]}
    for content, shown in ((case, "A case from a file"), ({**case, "stories": [{"request": 5}]}, "cannot be read")):
        (tmp_path / "case.json").write_text(json.dumps(content))
        browsed.open("#/requests").page.locator("input[type=file]").set_input_files(tmp_path / "case.json")
        expect(browsed.page.get_by_text(shown).first).to_be_visible()
        assert browsed.page.locator("main img, main script").count() == 0
        assert browsed.page.locator("tbody tr").count() <= 200


def test_a_command_asks_the_same_again(browse: Any, trouble: str) -> None:
    """It is safe in a shell, and leads to the path, whatever is in it; without headers, query and body."""
    browsed = browse(trouble).open(f"#/requests/{key_of(trouble, failed='true', text='onerror')}")
    browsed.page.get_by_text("As a curl command").click()
    command = browsed.page.locator("code", has_text="curl --request").inner_text()
    shown = subprocess.run(
        ["/bin/sh", "-c", command.replace("curl", "printf '%s\\n'", 1)], capture_output=True, text=True, check=True
    )
    root = trouble.removesuffix("/monitoring/")
    assert shown.stdout.splitlines() == ["--request", "GET", f"{root}/fails/%3Cimg%20src=x%20onerror=alert(%27path%27)%3E"]


def test_lines_are_filtered_by_level(browse: Any, trouble: str) -> None:
    """Those below the chosen level go."""
    page = browse(trouble).open(f"#/requests/{key_of(trouble, failed='true')}").page
    rows = page.locator(".log tbody tr")
    expect(rows).to_have_count(2)
    page.get_by_label("Level").select_option("error")
    expect(rows).to_have_count(1)
    page.get_by_label("Level").select_option("critical")
    expect(page.get_by_text("No line of this level or above.")).to_be_visible()


def test_identical_failures_are_one_issue(browse: Any, trouble: str) -> None:
    """With how often it came; it leads to a request and to all of its route, and without the token nothing is resolved."""
    browsed = browse(trouble).open("#/issues")
    page = browsed.page
    issue = page.locator("tbody tr")
    expect(issue).to_have_count(1)
    expect(issue.locator("td").nth(2)).to_have_text("24")
    expect(issue.locator(".why")).to_have_text(re.compile(r"raised LookupError at .*troubled_app\.py:\d+"))
    found = ask(f"{trouble}issues").json()["issues"][0]
    assert ask(f"{trouble}issues/{found['id']}", "PUT", headers=HEADERS, json={"resolved": True}).status_code == 200
    page.reload()
    expect(issue.locator(".tag")).to_have_text("✓ resolved")
    issue.get_by_role("link", name="LookupError").click()
    expect(page.locator("h1")).to_have_text(re.compile("^GET /fails/"))
    ask(f"{trouble}issues/{found['id']}", "PUT", headers=HEADERS, json={"resolved": False})


VIEWS = ("requests", "requests?failed=true", "issues", "/blocks", "/repeats", "/fails/{what}")


def address_of(page: str, view: str) -> str:
    """Return the address of a view; of a route, that of its newest request."""
    return f"#/requests/{key_of(page, route=view)}" if view.startswith("/") else f"#/{view}"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("options", [{"color_scheme": "light"}, PHONE], ids=["wide", "phone"])
def test_nothing_stands_in_the_way_of_people(browse: Any, trouble: str, view: str, options: dict[str, Any]) -> None:
    """Axe finds nothing serious or critical, and a phone shows all without scrolling sideways."""
    browsed = browse(trouble, **options).open(address_of(trouble, view))
    browsed.page.locator("tbody tr").first.wait_for()
    assert browsed.axe() == []
    browsed.page.emulate_media(color_scheme="dark")
    assert browsed.axe() == []
    assert browsed.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    "answer", [{"status": 500}, {"body": "<html>"}, {"json": {}}, {"json": {"requests": 5, "issues": {}}}, None], ids=str
)
def test_what_cannot_be_read_is_said(browse: Any, trouble: str, answer: Any) -> None:
    """Each view says the reason, and shows no figure and no row."""
    browsed = browse(trouble)
    browsed.expected = OF_A_FAKE
    browsed.intercept(["requests", "issues"], answer)
    for address in ("#/requests", "#/issues", "#/requests/key-1"):
        browsed.open(address) if "key" not in address else browsed.page.goto(f"{browsed.url}{address}")
        expect(browsed.page.locator("main .problem").first).to_contain_text("cannot be read")
        assert browsed.page.locator("tbody tr").count() == 0
        for word in ("NaN", "undefined", "No request is kept", "No kept request has failed"):
            assert word not in browsed.text()


def test_words_are_those_of_the_service(browse: Any, trouble: str) -> None:
    """The page has a word for each cause and each reason to keep a request, and for no other."""
    page = browse(trouble).open("#/requests").page
    known = page.evaluate("async () => { const { texts } = await import('./static/texts.js'); return texts.requests; }")
    assert set(known["causes"]) == set(ALL_CAUSES)
    assert set(known["reasons"]) == set(REASONS)


def test_a_fresh_service_says_what_to_do(browse: Any, tmp_path: Path) -> None:
    """Before anything was kept, and before anything has failed."""
    with served(tmp_path) as page:
        fresh = browse(page)
        fresh.intercept(["requests"], {"json": {"requests": [], "next": None, "is_complete": True, "latest": "0"}})
        fresh.open("#/requests")
        expect(fresh.page.get_by_text("Send the service a request")).to_be_visible()
        fresh.open("#/issues")
        expect(fresh.page.get_by_text("Failures appear here by themselves")).to_be_visible()
        fresh.page.close()


MANY = 10_000
CLICK = """([click, wanted]) => new Promise((done) => {
  const start = performance.now();
  const look = () => document.querySelector(wanted) ? done(performance.now() - start) : requestAnimationFrame(look);
  document.querySelector(click).click();
  look();
})"""
"""Clicks, and returns after how many milliseconds something else is there."""
LONG_TASKS = """globalThis.long = [];
const watch = (list) => list.getEntries().forEach((each) => long.push(each.duration));
new PerformanceObserver(watch).observe({ type: "longtask", buffered: true });"""


def test_with_many_kept_requests(browse: Any, tmp_path: Path, record_testsuite_property: Any) -> None:
    """The document has 200 rows at most, however one gets on; how quick the first clicks are is reported."""
    spans = [span("root", None, 0, 12, kind="SERVER"), *(span("query", "root", n, 1, kind="CLIENT") for n in range(8))]
    records = (
        kept(n, span_id="root", spans=spans, lines=[line("a line")], failed=n % 3 == 0, error_type="E" if n % 3 == 0 else None)
        for n in range(MANY)
    )
    with filled(tmp_path) as store:
        for number, record in enumerate(records):
            store.keep(record)
            if number % 1_000 == 0:
                assert store.flush(PATIENCE_SECONDS)
        assert store.flush(PATIENCE_SECONDS)
    with served(tmp_path) as address:
        browsed = browse(address)
        page = browsed.page
        page.add_init_script(LONG_TASKS)
        browsed.open("#/requests")
        expect(page.locator("tbody tr")).to_have_count(50)
        times = {"open a request": page.evaluate(CLICK, ["tbody tr a", ".waterfall li"])}
        page.go_back()
        expect(page.locator("tbody tr")).to_have_count(50)
        for number in (100, 150, 200):
            page.get_by_role("button", name="Older requests").click()
            expect(page.locator("tbody tr")).to_have_count(number)
        expect(page.get_by_role("button", name="Older requests")).not_to_be_visible()
        times["issues"] = page.evaluate(CLICK, ["nav a[data-view=issues]", ".issues tbody tr"])
        record_testsuite_property("longest_task_ms", max(page.evaluate("long"), default=0))
        record_testsuite_property("click_ms", times)
        page.close()
