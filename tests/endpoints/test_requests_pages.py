"""What was kept, over HTTP: lists, the story of a request, a trace, and lines; for whom the settings name."""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from kept_requests import BEGIN_NS, filled, kept, line, path_of, put, span
from loguru import logger
from support import client, drive, http_scope, times

from sage_fastapi_obs import Settings
from sage_fastapi_obs.causes import CAUSES
from sage_fastapi_obs.endpoints.request_links import RequestLinks
from sage_fastapi_obs.endpoints.request_stories import StoriesOfId
from sage_fastapi_obs.endpoints.router import monitoring_router
from sage_fastapi_obs.retention_reasons import REASONS
from sage_fastapi_obs.store.records import Supplement
from sage_fastapi_obs.store.store import Store

TOKEN = "a-token-of-sixteen-or-more"
PATHS = ("/monitoring/requests", "/monitoring/requests/request-1", f"/monitoring/traces/{2:032x}")


class Shop:
    """An app with the pages, and a store behind them."""

    def __init__(self, watch: Any, stored: Store | None, **monitoring: Any) -> None:
        monitoring = {"access": "open", "expose_logs": True, **monitoring}
        self.watched = watch(monitoring=monitoring, metrics={"port": 0})
        obs = self.watched.obs
        self.app = FastAPI()
        self.app.include_router(
            monitoring_router(
                *(obs.settings, obs.metrics_page, obs.status, obs.logs, stored, None, obs.workers, obs._levels),
                *(obs.numbers.families, obs.settings),
            )
        )

    async def get(self, path: str, code: int = 200, **parameters: Any) -> Any:
        """Ask for a page."""
        async with client(self.app) as http:
            answer = await http.get(f"/monitoring/{path}", params=parameters)
        assert answer.status_code == code, answer.text
        return answer.json()["detail"] if code != 200 else answer.json()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with filled(tmp_path / "stores") as store:
        yield store


BLOCKED = "blocked the event loop 540 ms at app/report.py:14"
WHY = [
    {
        "cause": "blocked_loop",
        "text": BLOCKED,
        "lost_us": 540_000,
        "evidence": "inferred",
        "blocks": [[-20_000, 540_000]],
    },
    {
        "cause": "of_tomorrow",
        "text": "something else",
        "lost_us": "no number",
        "evidence": "dreamt",
        "by": ["a", 5],
        "blocks": [[1, 2], [1], "x", [1, -2], [1, 10**30]],
    },
]


@pytest.fixture
def stored(store: Store) -> Store:
    """Store six requests, of which two failed."""
    put(
        store,
        kept(0, lines=[line("first of all")]),
        kept(1, status=500, failed=True, kept="failed", error_type="LookupError", duration_us=900_000),
        kept(2, status=404, kept="refused", route=None, path="/nowhere"),
        kept(
            *(3,),
            correlation_id="job-0",
            duration_us=2_000_000,
            kept="slow",
            cause="blocked_loop",
            why="blocked the event loop 540 ms at app/report.py:14",
            details=json.dumps({"why": WHY, "timings": {"endpoint": 1_900_000}}).encode(),
        ),
        kept(4, method="POST", route="/orders", path="/orders", lines=[line("needle in a line")]),
        kept(5, status=503, failed=True, kept="failed", error_type="503", route="/orders", path="/orders"),
    )
    return store


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, [5, 4, 3, 2, 1, 0]),
        ({"route": "/orders"}, [5, 4]),
        ({"status": "404"}, [2]),
        ({"status": "5xx"}, [5, 1]),
        ({"status": "5xx", "route": "/orders"}, [5]),
        ({"failed": "true"}, [5, 1]),
        ({"failed": "false"}, [4, 3, 2, 0]),
        ({"kept": "slow"}, [3]),
        ({"cause": "blocked_loop"}, [3]),
        ({"cause": "waiting"}, []),
        ({"text": "report.py"}, [3]),
        ({"slower_than_seconds": "0.5"}, [3, 1]),
        ({"id": "job-0"}, [3, 0]),
        ({"id": "request-4"}, [4]),
        ({"id": f"{6:032x}"}, [5]),
        ({"id": "nobody"}, []),
        ({"text": "needle"}, [4]),
        ({"text": "lookuperror"}, [1]),
        ({"limit": "2"}, [5, 4]),
    ],
    ids=str,
)
async def test_lists(parameters: dict[str, str], expected: list[int], watch: Any, stored: Store) -> None:
    """Requests that meet all conditions, newest first."""
    found = await Shop(watch, stored).get("requests", **parameters)
    assert [one["request_id"] for one in found["requests"]] == [f"request-{number}" for number in expected]
    assert found["is_complete"]


async def test_what_a_list_says_of_a_request(watch: Any, stored: Store) -> None:
    """Its figures, in milliseconds and UTC, and no line of it."""
    found = await Shop(watch, stored).get("requests", status="500")
    (one,) = found["requests"]
    assert isinstance(one.pop("key"), str)
    assert one == {
        "timestamp": "2026-11-30T00:20:01.000Z",
        "duration_ms": 900,
        "kind": "http",
        "method": "GET",
        "route": "/items/{item_id}",
        "path": "/items/1",
        "status": 500,
        "failed": True,
        "kept": "failed",
        "error_type": "LookupError",
        "cause": None,
        "why": None,
        "request_id": "request-1",
        "correlation_id": "job-1",
        "trace_id": f"{2:032x}",
        "span_id": "root",
    }


async def test_a_story_says_why(watch: Any, stored: Store) -> None:
    """Each cause has its words, its remedy and the page that explains it; those of another version are shown as they are."""
    (story,) = (await Shop(watch, stored).get("requests/request-3"))["stories"]
    assert story["request"]["why"] == story["why"][0]["text"]
    assert story["timings_ms"] == {"endpoint": 1_900}
    assert story["why"][0] == {
        "cause": "blocked_loop",
        "text": "blocked the event loop 540 ms at app/report.py:14",
        "lost_ms": 540,
        "remedy": CAUSES["blocked_loop"].remedy,
        "docs": "why.md#blocked-loop",
        "evidence": "inferred",
        "by": [],
        "blocks": [{"offset_ms": -20, "duration_ms": 540}],
    }
    assert story["why"][1] == {
        "cause": "of_tomorrow",
        "text": "something else",
        "lost_ms": 0,
        "remedy": CAUSES["unknown"].remedy,
        "docs": "why.md#unknown",
        "evidence": None,
        "by": ["a"],
        "blocks": [{"offset_ms": 0.001, "duration_ms": 0.002}],
    }


async def test_a_request_is_linked_to_other_systems(watch: Any, store: Store) -> None:
    """With its ids and times; what a client has chosen cannot leave its place in the address."""
    put(store, kept(0, correlation_id="../a b?x#y{z}", route="/items/{item}", duration_us=2_000_000))
    links = {
        "Jaeger": "https://jaeger.test/trace/{trace_id}",
        "Logs": "https://grafana.test/?id={correlation_id}&route={route}&from={from_ms}&to={to_ms}&more={{}}",
    }
    shop = Shop(watch, store, links=links)
    [story] = (await shop.get("requests/request-0"))["stories"]
    start_ms = datetime.fromisoformat(story["request"]["timestamp"]).timestamp() * 1_000
    assert story["links"] == {
        "Jaeger": f"https://jaeger.test/trace/{story['request']['trace_id']}",
        "Logs": "https://grafana.test/?id=..%2Fa%20b%3Fx%23y%7Bz%7D&route=%2Fitems%2F%7Bitem%7D"
        f"&from={start_ms - 60_000:.0f}&to={start_ms + 62_000:.0f}&more={{}}",
    }


@pytest.mark.parametrize(
    ("runbooks", "docs"), [("docs/runbooks", ""), ("https://docs.test/obs/runbooks/", "https://docs.test/obs/")]
)
async def test_a_remedy_is_linked_to_the_docs(runbooks: str, docs: str, watch: Any, stored: Store) -> None:
    """Where it is known where they are: beside the runbooks."""
    links = RequestLinks(Settings(export={"runbooks_url": runbooks}))
    found = links.add_to(StoriesOfId.found(stored.reader, "request-3", with_lines=True))
    assert [cause.docs for cause in found.stories[0].why] == [f"{docs}why.md#blocked-loop", f"{docs}why.md#unknown"]


async def test_a_list_goes_on_with_what_was_kept_since(watch: Any, stored: Store) -> None:
    """Each request once, also where none fulfils the conditions for a while; what is asked for again is empty."""
    shop, found = Shop(watch, stored), []
    page = await shop.get("requests", failed="true")
    for number in range(10, 14):
        put(stored, kept(number, failed=number % 2 == 1))
        page = await shop.get("requests", failed="true", after=page["latest"])
        found.append([one["request_id"] for one in page["requests"]])
    assert found == [[], ["request-11"], [], ["request-13"]]
    again = await shop.get("requests", after=page["latest"])
    assert (again["requests"], again["latest"]) == ([], page["latest"])


def delayed(number: int, by: str, **more: Any) -> Any:
    """Make a request that another one delayed."""
    why = [{"cause": "delayed", "text": "delayed", "lost_us": 1, "by": [by], "blocks": [[0, 500_000]]}]
    return kept(number, details=json.dumps({"pid": 7, "why": why}).encode(), **more)


async def test_a_block_shows_what_it_overlapped(watch: Any, store: Store) -> None:
    """On one clock: those that it delayed, those beside; not those of other processes, and both ways."""
    block = [{"cause": "blocked_loop", "text": "blocked", "lost_us": 1, "blocks": [[100_000, 400_000]]}]
    times = {"started_ns": BEGIN_NS, "duration_us": 600_000}
    put(
        store,
        delayed(1, "request-9", started_ns=BEGIN_NS + 200_000_000),
        kept(2, details=b'{"pid": 7}', started_ns=BEGIN_NS - 900_000_000, duration_us=1_200_000),
        kept(3, details=b'{"pid": 8}', **times),
        kept(4, details=b'{"pid": 7}', started_ns=BEGIN_NS + 500_000_000),
        kept(5, details=b'{"pid": 7}', started_ns=BEGIN_NS, duration_us=99_000),
        kept(9, details=json.dumps({"pid": 7, "why": block}).encode(), **times),
        Supplement(BEGIN_NS, "", "job-9", "", b"{}"),
    )
    shop = Shop(watch, store)
    (blocking,) = (await shop.get("requests/request-9"))["stories"]
    assert [(one["request"]["request_id"], one["relation"], one["offset_ms"]) for one in blocking["overlap"]] == [
        ("request-2", "beside", -900),
        ("request-1", "delayed", 200),
    ]
    (victim,) = (await shop.get("requests/request-1"))["stories"]
    assert {(one["request"]["request_id"], one["relation"]) for one in victim["overlap"]} >= {("request-9", "blocking")}
    assert (await shop.get("requests/request-3"))["stories"][0]["overlap"] == []


async def test_a_real_block_is_linked_both_ways(watch: Any, tmp_path: Path) -> None:
    """The request that blocked the event loop, and the one that waited meanwhile, name each other and the same time."""
    watched = watch(monitoring={"access": "open"}, insight={"enabled": True}, store={"path": str(tmp_path)})
    app = FastAPI()

    @app.get("/waits")
    async def waits() -> None:
        await asyncio.sleep(0.2)

    @app.get("/blocks")
    async def blocks() -> None:
        time.sleep(0.9)  # noqa: ASYNC251 - it blocks

    watched.obs.install(app)
    async with client(app) as http:
        watched.start()
        await asyncio.gather(http.get("/waits"), http.get("/blocks"))
        answer = (await http.get("/monitoring/requests", params={"route": "/blocks"})).json()
        (story,) = (await http.get(f"/monitoring/requests/{answer['requests'][0]['key']}")).json()["stories"]
        (other,) = story["overlap"]
        (victim,) = (await http.get(f"/monitoring/requests/{other['request']['key']}")).json()["stories"]
    await watched.obs.close()
    assert (other["request"]["route"], other["relation"], story["pid"]) == ("/waits", "delayed", os.getpid())
    (back,) = victim["overlap"]
    assert (back["request"]["key"], back["relation"]) == (story["request"]["key"], "blocking")
    (mine,), (seen,) = story["why"][0]["blocks"], victim["why"][0]["blocks"]
    assert seen["duration_ms"] == mine["duration_ms"] > 800


async def test_pages_of_a_list_have_each_request_once(watch: Any, stored: Store) -> None:
    """Also while others are stored."""
    shop, found, before = Shop(watch, stored), [], {}
    for number in range(10, 14):
        page = await shop.get("requests", limit=2, **before)
        put(stored, kept(number))
        found += [one["request_id"] for one in page["requests"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert found == [f"request-{number}" for number in (5, 4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"status": "0xx"}, "status: String should match pattern"),
        ({"status": "4x"}, "status: String should match pattern"),
        ({"failed": "maybe"}, "failed: Input should be a valid boolean"),
        ({"kept": "no"}, "kept: Input should be 'failed', 'slow'"),
        ({"slower_than_seconds": "-1"}, "slower_than_seconds: Input should be greater than or equal to 0"),
        ({"slower_than_seconds": "nan"}, "slower_than_seconds: Input should be a finite number"),
        ({"slower_than": "1"}, "'slower_than' is no parameter; there are: route, status,"),
        ({"limit": "501"}, "limit: Input should be less than or equal to 500"),
        ({"limit": "0"}, "limit: Input should be greater than or equal to 1"),
        ({"id": ""}, "id: String should have at least 1 character"),
        ({"text": "x" * 257}, "text: String should have at most 256 characters"),
        ({"before": "x" * 50}, "before: "),
        ({"before": "-1"}, "before: "),
        ({"before": "99999999999999999999999"}, "before: "),
    ],
    ids=str,
)
async def test_parameters_that_make_no_sense(parameters: dict[str, str], detail: str, watch: Any, stored: Store) -> None:
    """Refused with what is wrong."""
    assert detail in await Shop(watch, stored).get("requests", 422, **parameters)


@pytest.mark.parametrize("id_", ["request-0", "job-0", f"{1:032x}"])
async def test_an_id_leads_to_its_story(id_: str, watch: Any, store: Store) -> None:
    """By request, correlation or trace id: figures, spans as a tree, lines in order of time."""
    spans = [span("root", "caller", 0, 12.5, kind="SERVER"), span("inner", "outer", 3), span("outer", "root", 2, 9)]
    lines = [line("second", 7), line("first", 2)]
    put(store, kept(0, spans=spans, lines=lines))
    found = await Shop(watch, store).get(f"requests/{id_}")
    (story,) = found["stories"]
    assert (story["request"]["request_id"], story["dropped_spans"], story["dropped_lines"]) == ("request-0", 0, 0)
    (root,) = story["spans"]
    assert [(one["name"], one["offset_ms"]) for one in (root, root["children"][0], root["children"][0]["children"][0])] == [
        ("root", 0),
        ("outer", 2),
        ("inner", 3),
    ]
    assert [one["message"] for one in story["lines"]] == ["first", "second"]


async def test_an_id_that_repeats(watch: Any, store: Store) -> None:
    """The newest twenty are returned; a key leads to exactly one."""
    put(store, *(kept(number, request_id="same/id", path=f"/{number}") for number in range(25)))
    shop = Shop(watch, store)
    found = await shop.get("requests/same/id")
    assert [one["request"]["path"] for one in found["stories"]] == [f"/{number}" for number in range(24, 4, -1)]
    listed = await shop.get("requests", id="same/id", limit=500)
    for one in listed["requests"]:
        (story,) = (await shop.get(f"requests/{one['key']}"))["stories"]
        assert story["request"] == one


async def test_a_trace_is_one_tree(watch: Any, store: Store) -> None:
    """A request stands below the call that made it, offsets are from the start of the first; an id is not a trace's."""
    trace_id = "a" * 32
    called = [span("server", "call", 5, 3, kind="SERVER")]
    calling = [span("root", None, 0, 12, kind="SERVER"), span("call", "root", 4, 5, kind="CLIENT")]
    more = {"trace_id": trace_id, "started_ns": kept(0).started_ns}
    put(
        store,
        kept(1, spans=called, lines=[line("there", 6)], **{**more, "span_id": "server"}),
        kept(0, spans=calling, lines=[line("here", 1)], **more),
        kept(2, request_id="a" * 31, correlation_id=trace_id[:-1]),
    )
    shop = Shop(watch, store)
    found = await shop.get(f"traces/{trace_id}")
    (root,) = found["spans"]
    (call,) = root["children"]
    (server,) = call["children"]
    assert [(one["name"], one["offset_ms"]) for one in (root, call, server)] == [("root", 0), ("call", 4), ("server", 5)]
    assert [one["message"] for one in found["lines"]] == ["here", "there"]
    assert len(found["requests"]) == 2
    await shop.get(f"traces/{trace_id[:-1]}", 404)


@pytest.mark.parametrize("path", ["requests/nobody", "requests/", "requests/%00", f"requests/{'x' * 5000}", "traces/nobody"])
async def test_what_is_not_there_is_404(path: str, watch: Any, stored: Store) -> None:
    """With the reasons that there may be; without a store that is the reason."""
    assert "it was not kept" in await Shop(watch, stored).get(path, 404)
    assert await Shop(watch, None).get(path, 404) == "no requests are kept: set store.enabled"


async def test_lines_are_shown_only_where_they_are_exposed(watch: Any, stored: Store) -> None:
    """Without `monitoring.expose_logs` there are figures and spans, and a text cannot be guessed at."""
    shop = Shop(watch, stored, expose_logs=False)
    for path in ("requests/request-4", f"traces/{5:032x}"):
        found = await shop.get(path)
        assert "needle" not in json.dumps(found)
        assert found["note"] == "lines are not shown: set monitoring.expose_logs"
    assert "monitoring.expose_logs" in await shop.get("requests", 403, text="needle")
    assert "monitoring.expose_logs" in await shop.get("logs/request-4", 404)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("access", "token", "given_token", "status"),
    [("open", None, None, 200), ("local", None, None, 403), ("token", TOKEN, "x", 401), ("token", TOKEN, TOKEN, 200)],
)
async def test_who_may_read_them(
    path: str, access: str, token: Any, given_token: Any, status: int, watch: Any, stored: Store
) -> None:
    """Those who may see request data; a refusal shows nothing of it."""
    shop = Shop(watch, stored, access=access, token=token)
    headers = [] if given_token is None else [(b"authorization", f"Bearer {given_token}".encode())]
    driven = await drive(shop.app, http_scope(path, headers=headers, client=("10.0.0.7", 1)))
    assert driven.sent[0]["status"] == status
    assert (b"LookupError" in driven.sent[1]["body"]) == (status == 200)


@pytest.mark.parametrize(
    "details", [b"", b"{", b"[]", b"\xff", b'{"spans": 5, "lines": {}}', b'{"spans": [5, {}], "lines": ["x"]}']
)
async def test_odd_details_cost_nothing_else(details: bytes, watch: Any, store: Store) -> None:
    """A request whose details are not what they should be still has its figures."""
    put(store, kept(0, details=details))
    shop = Shop(watch, store)
    for path in ("requests/request-0", f"traces/{1:032x}"):
        found = await shop.get(path)
        assert found.get("stories", [found])[0]["lines"] == []


async def test_hostile_values_pass_unchanged(watch: Any, store: Store) -> None:
    """Long texts, controls and numbers of any size are what they are, in valid JSON; what is too deep is cut."""
    values = {"long": "x" * 200_000, "escape": "\x1b[2J\u202e", "big": 2**63, "small": -1e308, "none": None}
    deep = json.loads("[" * 800 + "]" * 800)
    details = {"attributes": {**values, "deep": deep}, "links": deep, "events": [{"name": "e", "attributes": {"deep": deep}}]}
    put(store, kept(0, spans=[span("root", **details)], lines=[line("m", data=values, deep=deep)], path="/\x1b[31m"))
    shop = Shop(watch, store)
    (story,) = (await shop.get("requests/request-0"))["stories"]
    attributes, data = story["spans"][0]["attributes"], story["lines"][0]["data"]
    assert str(attributes.pop("deep")).count("[") < 100
    assert (attributes, data, story["request"]["path"]) == (values, values, "/\x1b[31m")
    await shop.get(f"traces/{1:032x}")


async def test_a_damaged_file_is_no_error_of_a_page(watch: Any, stored: Store, tmp_path: Path) -> None:
    """Pages go on with the new file that the store begins."""
    path_of(tmp_path / "stores").write_bytes(b"\xff" * 100_000)
    shop = Shop(watch, stored)
    await shop.get("requests")
    put(stored, kept(9))
    (one,) = (await shop.get("requests"))["requests"]
    assert one["request_id"] == "request-9"


async def test_a_file_that_cannot_be_read_is_said(watch: Any, stored: Store, tmp_path: Path) -> None:
    """While another program has it locked, the pages answer 503, and lines in code come from the process alone."""
    shop = Shop(watch, stored)
    other = sqlite3.connect(path_of(tmp_path / "stores"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert "the store cannot be read: " in await shop.get("requests", 503)
    assert "the store cannot be read: " in await shop.get("logs/request-0", 503)
    other.close()
    assert len((await shop.get("requests"))["requests"]) == 6


async def test_lines_come_from_the_store_and_from_the_process(watch: Any, store: Store) -> None:
    """Those of all workers and those that nothing else has kept, each as often as it was logged, in order of time."""
    shop = Shop(watch, store)
    obs = shop.watched.obs
    obs.start()
    for _ in range(2):
        logger.bind(correlation_id="job").info("in both")
    logger.bind(correlation_id="job").info("here alone")
    both = [one for one in shop.watched.lines if one["message"] == "in both"]
    put(
        store,
        Supplement(
            BEGIN_NS, "", "job", "", json.dumps({"lines": [*both, line("of another worker", correlation_id="job")]}).encode()
        ),
    )
    found = await shop.get("logs/job")
    assert sorted(one["message"] for one in found) == ["here alone", "in both", "in both", "of another worker"]
    assert [one["timestamp"] for one in found] == sorted(one["timestamp"] for one in found)
    await obs.close()


async def test_lines_come_from_the_store_alone(watch: Any, store: Store) -> None:
    """Without a buffer in the process, and only with `monitoring.expose_logs`."""
    put(store, kept(0, lines=[line("second", 9, operation=5), line("first", 1)]))
    found = await Shop(watch, store, log_buffer_size=0).get("logs/request-0")
    assert [(one["message"], one["operation"]) for one in found] == [("first", None), ("second", "5")]
    await Shop(watch, store, log_buffer_size=0, expose_logs=False).get("logs/request-0", 404)


async def test_a_list_knows_all_reasons(watch: Any, stored: Store) -> None:
    """Why requests are kept is a parameter with the words that the access line has."""
    document = await Shop(watch, stored).get("openapi.json")
    (kept_for,) = [one for one in document["paths"]["/monitoring/requests"]["get"]["parameters"] if one["name"] == "kept"]
    assert set(kept_for["schema"]["anyOf"][0]["enum"]) == set(REASONS)


@pytest.mark.soak
def test_the_openapi_is_what_the_pages_do(watch: Any, stored: Store) -> None:
    """Whatever a client makes of the document, each page answers as it says, also with requests in the store."""
    shop = Shop(watch, stored)
    document = "/monitoring/openapi.json"
    operations = [one.ok() for one in schemathesis.openapi.from_asgi(document, shop.app).get_all_operations()]
    tried = [operation for operation in operations if "/requests" in operation.path or "/traces" in operation.path]
    for operation in tried:

        @settings(max_examples=times(15), deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            case.call_and_validate()

        ask()
    assert len(tried) == 3


async def test_what_is_not_recorded_is_counted(watch: Any, stored: Store) -> None:
    """Requests for our own pages are in no list; how many they were is said beside it, and in the metrics."""
    watched = watch(monitoring={"access": "open"})
    app = FastAPI()
    watched.obs.install(app)
    async with client(app) as http:
        watched.start()
        for _ in range(5):
            await http.get("/monitoring/health")
        await http.get("/metrics")
        watched.obs.status.windows.sample()
        answer = (await http.get("/monitoring/requests")).json()
    await watched.obs.close()
    assert (answer["requests"], answer["excluded"]) == ([], 6)
    assert watched.value("observability_excluded_requests_total") == 7
