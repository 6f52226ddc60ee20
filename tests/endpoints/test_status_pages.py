"""How the service is doing, over HTTP: the pages tell what the windows tell, and refuse what makes no sense."""

import asyncio
import json
import math
import threading
import time
from itertools import cycle, product
from string import ascii_letters
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from prometheus_client import Counter, Gauge
from schemathesis.checks import not_a_server_error
from starlette.applications import Starlette
from support import PATIENCE_SECONDS, drive, eventually, http_scope, times

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.endpoints.json_page import MOST_CACHED, MOST_WAITING, ProblemResponse, ResponseCache

PATHS = [
    "/monitoring/overview",
    "/monitoring/health",
    "/monitoring/health/live",
    "/monitoring/health/ready",
    "/monitoring/health/startup",
    "/monitoring/summary",
    "/monitoring/metrics",
    "/monitoring/dashboard",
    "/monitoring/alerts",
    "/monitoring/sla",
    "/monitoring/operations/slow",
    "/monitoring/stacks",
    "/monitoring/workers",
    "/monitoring/settings",
    "/monitoring/explorer",
    "/monitoring/routes",
    "/monitoring/rules",
    "/monitoring/openapi.json",
]
BY_NAME = {
    *("/monitoring/requests", "/monitoring/requests/{id}", "/monitoring/traces/{trace_id}"),
    *("/monitoring/explorer/{name}", "/monitoring/rules/{name}", "/monitoring/route", "/monitoring/issues"),
}
"""In the same document; they answer 404 without a store, and for what does not exist, or have to be told which one is meant."""
OPEN = {"/monitoring/health/live", "/monitoring/health/ready", "/monitoring/health/startup"}


class Shop:
    """An app that is watched, under a clock that is moved by hand."""

    def __init__(self, app: Any = None, **sections: Any) -> None:
        self.now = 1000.0
        sections = {"logging": {"enabled": False}, "monitoring": {"access": "open", "interval_seconds": 15}, **sections}
        self.obs = Observability(Settings(**sections), status_clock=lambda: self.now)
        self.app = FastAPI() if app is None else app
        self.obs.install(self.app)
        if isinstance(self.app, FastAPI):
            self.app.get("/items/{item_id}")(self.item)
            self.app.get("/boom")(self.boom)

    async def item(self, item_id: int) -> int:
        return item_id

    async def boom(self) -> None:
        raise RuntimeError

    def client(self) -> httpx.AsyncClient:
        """Open a client."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://testserver")

    async def get(self, path: str) -> Any:
        """Ask for a page a while after the last one."""
        self.now += 20
        async with self.client() as client:
            answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def visit(self, path: str, times: int = 1) -> None:
        """Ask for something."""
        async with self.client() as client:
            for _ in range(times):
                await client.get(path)


async def test_summary():
    """Requests by route with rate, errors and durations; counters, gauges, histograms and operations by name."""
    shop = Shop()
    registry = shop.obs.registry
    Counter("orders_total", "o", ["kind"], registry=registry).labels("tea").inc(3)
    Gauge("users", "u", registry=registry).set(7)
    Gauge("endless", "e", registry=registry).set(math.inf)
    for name, value in (("result_success_total", 8), ("result_failure_total", 2)):
        shop.obs.instruments.get(name).with_values("pay", "").inc(value)
    for _ in range(4):
        shop.obs.instruments.get("result_duration_seconds").with_values("pay", "success").observe(8)
    shop.obs.instruments.get("operation_duration_seconds").with_values("pack").observe(0.1)
    for number in range(3):
        await shop.visit(f"/items/{number}")
    await shop.visit("/boom")
    found = await shop.get("/monitoring/summary?minutes=60")
    assert (found["time_range_minutes"], found["counters"]["orders_total"], found["gauges"]["users"]) == (60, 3, 7)
    assert found["gauges"]["endless"] is None
    assert (found["http"]["count"], found["http"]["failed"], found["http"]["error_ratio"]) == (4, 1, 0.25)
    assert found["http"]["rate"] == pytest.approx(4 / 3600)
    assert 0 < found["http"]["duration"]["min"] <= found["http"]["duration"]["mean"] <= found["http"]["duration"]["max"]
    assert [(one["method"], one["route"], one["count"]) for one in found["routes"]] == [
        ("GET", "/items/{item_id}", 3),
        ("GET", "/boom", 1),
    ]
    assert found["routes_total"] == 2
    assert found["routes"][1]["error_ratio"] == 1
    assert found["operations"]["pay"] == {
        "success": 8,
        "failure": 2,
        "failure_rate": 0.2,
        "mean": 8,
        "p95": 8,
        "max": 8,
        "count": 4,
    }
    assert found["operations"]["pack"]["failure_rate"] == 0
    assert found["histograms"]["http_request_duration_seconds"]["count"] == 4
    in_hours = await shop.get("/monitoring/metrics?hours=1")
    assert in_hours["operations"]["pay"]["max"] == 1000 * found["operations"]["pay"]["max"]
    slow_found = (await shop.get("/monitoring/operations/slow?threshold_ms=5000"))["operations"]
    assert [(one["operation"], one["p95"], one["max"]) for one in slow_found] == [("pay", 8_000, 8_000)]
    assert (await shop.get("/monitoring/operations/slow?threshold_ms=10000"))["operations"] == []


async def test_a_summary_tells_what_happened_within_its_window():
    """What is older is left out."""
    shop = Shop()
    await shop.visit("/items/1", 5)
    await shop.get("/monitoring/summary")
    shop.obs.status.evaluate()
    for _ in range(8):
        shop.now += 15
        shop.obs.status.evaluate()
    await shop.visit("/items/1", 2)
    assert (await shop.get("/monitoring/summary?minutes=1"))["http"]["count"] == 2
    assert (await shop.get("/monitoring/summary?minutes=60"))["http"]["count"] == 7
    assert (await shop.get("/monitoring/metrics"))["histograms"]["http_request_duration_ms"]["count"] == 7


async def test_alerts_health_and_dashboard():
    """A firing alert is on every page, and makes the service degraded until it is over."""
    shop = Shop(alerts={"defaults": False})
    load = Gauge("load_ratio", "l", registry=shop.obs.registry)

    def page_somebody(_: dict[str, Any]) -> None:
        pass

    rule = AlertRule(
        name="overload",
        expression=Stat("load_ratio", "last", 120),
        condition=AlertCondition.GREATER_THAN,
        threshold=0.8,
        severity="critical",
        callbacks=(page_somebody, page_somebody.__call__),
    )
    shop.obs.status.alerts.add(rule)
    await shop.visit("/items/1")
    seen = []
    for value in (0.1, 0.9, 0.1):
        load.set(value)
        shop.now += 15
        shop.obs.status.evaluate()
        health = await shop.get("/monitoring/health")
        alerts = await shop.get("/monitoring/alerts")
        dashboard = await shop.get("/monitoring/dashboard")
        assert dashboard["active_alerts"] == alerts["active_alerts"]
        async with shop.client() as client:
            strict = (await client.get("/monitoring/health?strict=true")).status_code
        firing = shop.obs.registry.get_sample_value("observability_alerts_firing", {"severity": "critical"})
        shown = [one["name"] for one in alerts["active_alerts"]], [one["name"] for one in alerts["resolved_alerts"]]
        seen.append((health["status"], health["active_alerts"], strict, firing, *shown))
    assert seen == [
        ("healthy", 0, 200, 0, [], []),
        ("degraded", 1, 503, 1, ["overload"], []),
        ("healthy", 0, 200, 0, [], ["overload"]),
    ]
    (resolved,) = alerts["resolved_alerts"]
    assert {key: resolved[key] for key in ("condition", "threshold", "current_value", "severity", "state", "labels")} == {
        "condition": "GREATER_THAN",
        "threshold": 0.8,
        "current_value": 0.1,
        "severity": "critical",
        "state": "resolved",
        "labels": {"severity": "critical"},
    }
    (shown_rule,) = dashboard["alert_rules"]
    assert shown_rule == {
        "name": "overload",
        "metric_name": "load_ratio",
        "condition": "GREATER_THAN",
        "threshold": 0.8,
        "statistic": "last",
        "window_minutes": 2,
        "for_seconds": 0,
        "severity": "critical",
        "callback": ["page_somebody", "__call__"],
        "problem": None,
        "past_firings": 0,
    }
    assert alerts["alert_rules"] == [shown_rule]
    assert dashboard["system_status"]["monitoring_active"]
    assert dashboard["system_status"]["total_metrics"] > 20
    await shop.obs.close()
    assert (await shop.get("/monitoring/health/live")) == {"status": "alive"}


async def test_service_levels():
    """Targets, what was measured, what is violated, and what is left of the budget."""
    shop = Shop(sla={"availability": 90.0, "error_rate": 20.0, "response_time_p95_ms": None, "response_time_mean_ms": 500.0})
    assert (await shop.get("/monitoring/sla"))["sla_compliant"]
    await shop.visit("/items/1", 19)
    await shop.visit("/boom", 1)
    found = await shop.get("/monitoring/sla?minutes=60")
    assert (found["sla_compliant"], found["violations"], found["error_budget_left"], found["burn_rate"]) == (True, [], 50, 0.5)
    assert 0 < found["covered_seconds"] < 3600
    await shop.visit("/boom", 5)
    found = await shop.get("/monitoring/sla?minutes=60")
    assert found["violations"] == ["availability is 76 %, below 90 %", "error_rate is 24 %, above 20 %"]
    assert (found["sla_compliant"], found["burn_rate"], found["error_budget_left"]) == (False, 2.4, -140)
    assert found["targets"] == {
        "availability": 90,
        "error_rate": 20,
        "response_time_mean_ms": 500,
        "max_response_ms": 1000,
        "rto_minutes": 5,
    }
    assert found["actual"]["max_response_ms"] > found["actual"]["response_time_mean_ms"] > 0
    assert (await shop.get("/monitoring/sla?source=result"))["actual"]["availability"] is None


async def test_startup_and_draining():
    """Started once it has been ready, for good; not ready, but alive, once the shutdown has begun."""
    shop = Shop()
    up = {"database": False}
    shop.obs.health.add("database", lambda: up["database"], cache_seconds=0)

    async def statuses() -> list[int]:
        async with shop.client() as client:
            return [(await client.get(f"/monitoring/health/{probe}")).status_code for probe in ("startup", "ready", "live")]

    assert await statuses() == [503, 503, 200]
    up["database"] = True
    assert await statuses() == [200, 200, 200]
    up["database"] = False
    assert await statuses() == [200, 503, 200]
    up["database"] = True
    shop.obs.health.draining = True
    assert await statuses() == [200, 503, 200]


@pytest.mark.parametrize(("path", "access"), [*zip(PATHS, cycle(["local", "token", "port"]), strict=False)])
async def test_only_probes_are_open(path: str, access: str):
    """Everything else needs what the settings say, and probes tell no details."""
    shop = Shop(monitoring={"access": access}, metrics={"port": 0})
    driven = await drive(shop.app, http_scope(path, client=("10.0.0.7", 1)))
    assert (driven.sent[0]["status"] == 200) == (path in OPEN)
    await shop.obs.close()


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("alerts?" + "&".join(map(str, range(65))), "there are more than 64 parameters"),
        ("alerts?" + "&" * 64, "there are more than 64 parameters"),
        ("summary?minutes=0", "minutes: Input should be greater than or equal to 1"),
        ("summary?minutes=10081", "minutes: Input should be less than or equal to 10080"),
        ("summary?minutes=x", "minutes: Input should be a valid integer, unable to parse string as an integer"),
        ("metrics?hours=169", "hours: Input should be less than or equal to 168"),
        ("metrics?hour=1", "'hour' is no parameter; there are: hours"),
        ("metrics?hours=1&hours=2", "'hours' is given more than once"),
        ("sla?source=x", "source: Input should be 'http' or 'result'"),
        ("operations/slow?threshold_ms=nan", "threshold_ms: Input should be a finite number"),
        ("health?strict=maybe", "strict: Input should be a valid boolean, unable to interpret input"),
        ("alerts?x=1", "'x' is no parameter; there are: none"),
    ],
)
async def test_parameters_that_make_no_sense(query: str, detail: str):
    """Refused with what is wrong."""
    async with Shop().client() as client:
        answer = await client.get(f"/monitoring/{query}")
    assert (answer.status_code, answer.json()) == (422, {"detail": detail})


@pytest.mark.parametrize("path", [path for path in PATHS if not path.endswith(".json")])
async def test_a_query_of_any_length_costs_nothing(path: str):
    """Who may see a page is asked first, then how long the query is; parameters are read once, and few of them."""
    shop = Shop(monitoring={"access": "token", "token": "a-token-of-sixteen-or-more"})
    headers = [(b"authorization", b"Bearer a-token-of-sixteen-or-more")]
    names = list(map("".join, product(ascii_letters, repeat=3)))

    async def asked(query: str, headers: Any = ()) -> tuple[int, str]:
        driven = await drive(shop.app, http_scope(path, query_string=query.encode(), headers=headers))
        return driven.sent[0]["status"], driven.sent[1]["body"].decode()

    begun = time.process_time()
    for query in ("&".join(names[:30_000]), "&".join(names[:4_000]), "&" * 16_000, "a=1&" * 4_000, "x=" + "9" * 16_000):
        status, detail = await asked(query)
        assert status == (401 if path not in OPEN else 414 if len(query) > 16_384 else 422), detail
        assert not path.endswith("summary") or "minutes" not in detail
        assert (await asked(query, headers))[0] == (414 if len(query) > 16_384 else 422)
    assert time.process_time() - begun < 2
    assert path in OPEN or await asked("minutes=x&hours=x&strict=x") == await asked("")


async def test_pages_are_not_kept_and_not_guessed_at():
    """No cache holds them, no browser takes them for something else, and nothing but reading is allowed."""
    headers = ("no-store", "nosniff")
    async with Shop().client() as client, Shop(monitoring={"access": "token"}).client() as nobody:
        for path in PATHS:
            for answer in (await client.get(path), await nobody.get(path)):
                assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == headers
            assert [(await client.request(method, path)).status_code for method in ("POST", "PUT", "DELETE")] == [405] * 3


async def test_pages_are_no_traffic_and_show_no_secret():
    """Looking at how the service is doing changes nothing about it, and settings are nobody's business."""
    secret = "s3cret-of-sixteen-or-more"
    shop = Shop(monitoring={"access": "token", "token": secret}, notify={"slack_webhook_url": f"https://hooks.test/{secret}"})
    async with shop.client() as client:
        headers = {"authorization": f"Bearer {secret}"}
        answers = [await client.get(path, headers=headers) for path in PATHS]
        assert [answer.status_code for answer in answers] == [200] * len(PATHS)
        assert not any(secret in answer.text for answer in answers)
    shop.now += 60
    shop.obs.status.evaluate()
    assert shop.obs.status.sla.traffic(60).total == 0


async def test_a_starlette_app_has_them_too():
    """They are plain routes, and in nobody's OpenAPI but their own."""
    shop = Shop(Starlette())
    async with shop.client() as client:
        assert [(await client.get(path)).status_code for path in PATHS] == [200] * len(PATHS)
    fast = Shop()
    async with fast.client() as client:
        assert (await client.get("/openapi.json")).json()["paths"].keys() == {"/items/{item_id}", "/boom"}


async def test_responses_are_shared_made_off_the_loop_and_kept_for_a_second():
    """A hundred tabs cost as much as one; responses are kept up to a limit, and at some point people are turned away."""
    now, made, release = [0.0], [], threading.Event()
    cache = ResponseCache(clock=lambda: now[0])

    def make() -> ProblemResponse:
        made.append(threading.get_ident())
        release.wait(PATIENCE_SECONDS)
        return ProblemResponse(detail=str(len(made)))

    waiting = [asyncio.create_task(cache.response("key", make)) for _ in range(50)]
    await eventually(lambda: cache.waiting == 49)
    release.set()
    answers = await asyncio.gather(*waiting)
    assert {answer.body for answer in answers} == {b'{"detail":"1"}'}
    assert threading.get_ident() not in made
    now[0] += 1.1
    assert (await cache.response("key", make)).body == b'{"detail":"2"}'
    for number in range(MOST_CACHED):
        await cache.response(number, make)
    for key, count in (("key", 3 + MOST_CACHED), (MOST_CACHED - 1, 2 + MOST_CACHED)):
        assert (await cache.response(key, make)).body == b'{"detail":"%d"}' % count
    release.clear()
    now[0] += 10
    waiting = [asyncio.create_task(cache.response("key", make)) for _ in range(MOST_WAITING + 1)]
    await eventually(lambda: cache.waiting == MOST_WAITING)
    refused = await cache.response("key", make)
    release.set()
    await asyncio.gather(*waiting)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


@pytest.mark.soak
def test_the_openapi_is_what_the_pages_do():
    """Whatever a client makes of the document, no page fails, and each answers as it says."""
    shop = Shop()
    asyncio.run(shop.visit("/items/1", 3))
    asyncio.run(shop.visit("/boom"))
    operations = [one.ok() for one in schemathesis.openapi.from_asgi(PATHS[-1], shop.app).get_all_operations()]
    for operation in operations:
        # Where there are no parameters, none can be wrong.
        for mode in [*schemathesis.GenerationMode] if [*operation.query] else [schemathesis.GenerationMode.POSITIVE]:

            @settings(max_examples=times(15), deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                # 503 is an answer, too: that of a service which is not well.
                assert case.call_and_validate(excluded_checks=[not_a_server_error]).status_code != 500

            ask()
    assert {operation.path for operation in operations} == set(PATHS[:-1]) | BY_NAME


async def test_the_document_has_no_loose_ends():
    """Every reference leads somewhere, and every page is described."""
    document = await Shop().get("/monitoring/openapi.json")
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= document["components"]["schemas"].keys()
    assert document["paths"].keys() == BY_NAME | set(PATHS) - {"/monitoring/openapi.json"}
