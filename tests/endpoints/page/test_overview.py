"""The document of the first view: its figures are those of the metrics, and none is made up."""

import json
import math
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.page.figures import MOST_STEPS
from sage_fastapi_obs.endpoints.page.overview import Overview, OverviewResponse
from sage_fastapi_obs.endpoints.status_pages import StatusPages

NAMES = {
    *("requests_per_second", "errors_per_second", "error_share", "p50_ms", "p95_ms", "p99_ms", "in_flight", "loop_lag_ms"),
    *("cpu_share", "memory_bytes", "threads_busy", "threads_limit", "pool_use"),
}


class Shop:
    """An app whose metrics are read by a clock of its own."""

    def __init__(self, **sections: Any) -> None:
        self.now = 1000.0
        monitoring = {"access": "open", "interval_seconds": 60}
        sections = {"monitoring": monitoring, "logging": {"enabled": False}, "store": {"enabled": False}, **sections}
        self.obs = Observability(Settings(**sections), status_clock=lambda: self.now, wall_clock=lambda: int(self.now * 1e9))
        self.app = FastAPI()
        self.obs.install(self.app)

        @self.app.get("/orders")
        async def orders(fail: bool = False) -> str:
            if fail:
                raise HTTPException(503)
            return "ok"

    def client(self) -> httpx.AsyncClient:
        """Open a client."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost")

    async def overview(self, client: httpx.AsyncClient, seconds: int = 300) -> dict[str, Any]:
        """Ask for the document when it is made anew."""
        self.now += 60
        answer = await client.get(f"/monitoring/overview?seconds={seconds}")
        assert answer.status_code == 200
        OverviewResponse.model_validate_json(answer.content)
        return answer.json()


def numbers(document: Any) -> list[float]:
    """Collect every number that is somewhere in a document."""
    if isinstance(document, dict):
        return [one for value in document.values() for one in numbers(value)]
    if isinstance(document, list):
        return [one for value in document for one in numbers(value)]
    return [document] if isinstance(document, float) else []


async def test_the_figures_are_those_of_the_summary_and_of_the_metrics():
    """Rate, errors and percentiles equal those of `/monitoring/summary` once the whole window was watched."""
    shop = Shop()
    async with shop.client() as client:
        await shop.overview(client)
        for minute in range(5):
            for number in range(10):
                await client.get("/orders", params={"fail": number < minute})
            document = await shop.overview(client)
        summary = (await client.get("/monitoring/summary?minutes=5")).json()["http"]
    figures = {name: figure["value"] for name, figure in document["figures"].items()}
    assert {*figures} == NAMES
    assert document["covered_seconds"] == 300
    assert figures["requests_per_second"] == pytest.approx(summary["rate"], rel=1e-3) == pytest.approx(50 / 300, rel=1e-3)
    assert figures["errors_per_second"] == pytest.approx(summary["failed"] / 300, rel=1e-3)
    assert figures["error_share"] == pytest.approx(summary["error_ratio"], rel=1e-3) == 0.2
    for quantile in ("p50", "p95", "p99"):
        assert figures[f"{quantile}_ms"] == pytest.approx(summary["duration"][quantile] * 1000, rel=1e-3)


async def test_the_series_show_each_minute():
    """Each step has what happened from one reading to the next, and they add up to the figure over all."""
    shop = Shop()
    async with shop.client() as client:
        await shop.overview(client)
        for count in (6, 0, 12):
            for _ in range(count):
                await client.get("/orders")
            document = await shop.overview(client)
    series = document["series"]
    assert {*series} == {"time", *NAMES}
    assert {len(values) for values in series.values()} == {len(series["time"])}
    assert series["time"][-3:] == [shop.now - 120, shop.now - 60, shop.now]
    assert series["requests_per_second"][-3:] == [0.1, 0, 0.2]
    assert series["error_share"][-3:] == [0, None, 0]
    assert series["p50_ms"][-2] is None


async def test_a_long_window_has_few_steps():
    """However many readings there are, the document stays small."""
    shop = Shop()
    async with shop.client() as client:
        for _ in range(200):
            await client.get("/orders")
            document = await shop.overview(client, 7200)
    assert 30 < len(document["series"]["time"]) <= MOST_STEPS
    assert sum(document["series"]["requests_per_second"]) > 0


async def test_what_was_not_measured_is_not_there():
    """Before any request there are no percentiles, no share of errors, and no verdict on the budget."""
    shop = Shop()
    async with shop.client() as client:
        document = await shop.overview(client)
        document = await shop.overview(client)
    none = {"value": None, "reason": None}
    assert [document["figures"][name] for name in ("p50_ms", "p95_ms", "p99_ms", "error_share")] == [none] * 4
    assert document["figures"]["requests_per_second"] == {"value": 0, "reason": None}
    assert document["budgets"] == [
        {"source": "http", "error_budget_left": None, "burn_rate": None, "compliant": None, "violations": []}
    ]
    assert all(math.isfinite(number) for number in numbers(document))


@pytest.mark.parametrize(
    ("metrics", "reason", "named"),
    [
        ({"enabled": False}, "metrics are switched off: metrics.enabled", NAMES),
        ({"packs": ["runtime"]}, "not measured: metrics.packs lacks http", {"p95_ms", "in_flight", "error_share"}),
        ({"packs": ["http"]}, "not measured: metrics.packs lacks runtime", {"memory_bytes", "cpu_share", "loop_lag_ms"}),
    ],
)
async def test_what_is_switched_off_says_so(metrics: dict[str, Any], reason: str, named: set[str]):
    """A figure that cannot be read has the setting that would let it be."""
    shop = Shop(metrics=metrics)
    async with shop.client() as client:
        await client.get("/orders")
        document = await shop.overview(client)
        document = await shop.overview(client)
    for name in named:
        assert document["figures"][name] == {"value": None, "reason": reason}


async def test_metrics_that_cannot_be_read_are_no_zeros(monkeypatch):
    """Where reading fails, each figure says so, and what else there is stays."""
    shop = Shop()

    def fail():
        raise OSError("/proc is gone")

    async with shop.client() as client:
        await shop.overview(client)
        monkeypatch.setattr(shop.obs.status.windows, "_read", fail)
        document = await shop.overview(client)
    assert {*map(str, document["figures"].values())} == {str({"value": None, "reason": "the metrics cannot be read: OSError"})}
    assert document["health"]["status"]
    assert document["budgets"] == []
    assert shop.obs.internal_errors.counts["Overview"] == 1


async def test_all_who_look_share_one_document(monkeypatch):
    """Within a second, twenty questions have one answer, and the metrics are read once."""
    shop, reads = Shop(), []
    read = shop.obs.status.windows._read

    def noted():
        reads.append(shop.now)
        return read()

    monkeypatch.setattr(shop.obs.status.windows, "_read", noted)
    async with shop.client() as client:
        await shop.overview(client)
        answers = {(await client.get("/monitoring/overview")).content for _ in range(20)}
        assert len(answers) == len(reads) == 1
        await shop.overview(client)
    assert len(reads) == 2


async def test_making_documents_takes_a_fiftieth_of_a_core_at_most():
    """Whoever looks at whichever windows: after a costly document nobody has another one made for fifty times as long."""
    shop, cpu = Shop(), iter(number / 10 for number in range(1000))
    settings, status, workers = shop.obs.settings, shop.obs.status, shop.obs.workers
    health = StatusPages(Access(settings.monitoring), status, workers, shop.obs.health.report, judged=True)
    overview = Overview(settings, status, workers, health, cpu_clock=lambda: next(cpu))

    async def times() -> list[float]:
        return [json.loads(await overview.body(seconds))["time"] for seconds in (300, 900)]

    first = shop.now
    assert await times() == [first, first]
    # Each has cost 0.1 seconds.
    shop.now += 4.9
    assert await times() == [first, first]
    shop.now += 0.1
    assert await times() == [shop.now, first]
    shop.now += 4.9
    assert await times() == [first + 5, first]
    shop.now += 0.1
    assert first + 10 in await times()
    for _ in range(4):
        shop.now += 4.9
        assert min(await times()) > shop.now - 15
