"""A scrape under load: it is written in a thread, waited for without one, and never more than is asked for."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import anyio.to_thread
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Sample
from starlette.requests import Request
from support import PATIENCE_SECONDS, client, drive, eventually, http_scope

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.endpoints.metrics_page import MOST_FORMATS, MOST_WAITING, MetricsPage
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.exposition.incremental import VersionedFamily

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
GZIP = [(b"accept-encoding", b"gzip")]


class Blocking:
    """A collector that waits until it is let go."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.calls = 0

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        self.calls += 1
        self.entered.set()
        self.release.wait(PATIENCE_SECONDS)
        yield GaugeMetricFamily("blocking", "blocking", value=1)


def large(children: int = 5_000) -> CollectorRegistry:
    """Make a registry whose page takes several pieces."""
    registry = CollectorRegistry()
    counter = Counter("c", "c", ["number"], registry=registry)
    for number in range(children):
        counter.labels(number).inc(number)
    return registry


def serving(scrape: MetricsPage) -> Any:
    """Make an ASGI app of a scrape alone."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (await scrape.response(Request(scope)))(scope, receive, send)

    return app


@pytest.mark.parametrize("headers", [[], GZIP])
async def test_a_large_page_is_sent_in_pieces(headers: list[tuple[bytes, bytes]]) -> None:
    """Its length is known before, no piece is large, and together they are the page."""
    registry = large()
    driven = await drive(serving(MetricsPage(registry, InternalErrors())), http_scope("/metrics", headers=headers))
    bodies = [message["body"] for message in driven.sent[1:]]
    page = b"".join(bodies)
    assert driven.headers[b"content-length"] == str(len(page)).encode()
    assert [message.get("more_body", False) for message in driven.sent[1:]] == [True] * (len(bodies) - 1) + [False]
    assert len(bodies) >= 3
    assert max(map(len, bodies)) < 70_000
    text = gzip.decompress(page) if headers else page
    assert text.count(b"\nc_total{") == 5_000


async def test_others_come_in_between_the_pieces() -> None:
    """Even a server that can write at once leaves room for other requests."""
    turns, seen = 0, []

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def send(message: dict[str, Any]) -> None:
        seen.append(turns)

    task = asyncio.create_task(other())
    scope = http_scope("/metrics")
    response = await MetricsPage(large(), InternalErrors()).response(Request(scope))
    await response(scope, None, send)
    task.cancel()
    assert len(seen) >= 4
    assert all(before < after for before, after in pairwise(seen[1:]))


async def test_a_page_tells_what_was_counted_before_it_was_asked_for(watch: Any) -> None:
    """A page that was begun before the question is not an answer to it, even if it is finished after."""
    watched = watch()
    counter = Counter("early", "early", registry=watched.obs.registry)
    blocking = Blocking()
    watched.obs.registry.register(blocking)
    app = FastAPI()
    watched.obs.install(app)
    async with client(app) as asking:
        first = asyncio.create_task(asking.get("/metrics"))
        await asyncio.to_thread(blocking.entered.wait, PATIENCE_SECONDS)
        counter.inc()
        others = [asyncio.create_task(asking.get("/metrics")) for _ in range(5)]
        await eventually(lambda: watched.obs.metrics_page.waiting == 5)
        blocking.release.set()
        answers = await asyncio.gather(first, *others)
    assert "early_total 0.0" in answers[0].text
    assert all("early_total 1.0" in answer.text for answer in answers[1:])
    assert blocking.calls == 2


async def test_those_who_wait_hold_no_thread_and_are_not_too_many(watch: Any) -> None:
    """While a collector blocks, the loop and the application's threads are free, and at some point scrapes are turned away."""
    watched = watch(store={"enabled": False}, insight={"enabled": False})
    blocking = Blocking()
    watched.obs.registry.register(blocking)
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/sync")
    def sync() -> str:
        return "sync"

    before = threading.active_count()
    async with client(app) as asking:
        first = asyncio.create_task(asking.get("/metrics"))
        await asyncio.to_thread(blocking.entered.wait, PATIENCE_SECONDS)
        waiting = [asyncio.create_task(asking.get("/metrics")) for _ in range(MOST_WAITING)]
        await eventually(lambda: watched.obs.metrics_page.waiting == MOST_WAITING)
        refused = await asking.get("/metrics")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "15")
        assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        assert (await asking.get("/sync")).json() == "sync"
        assert threading.active_count() - before < 6
        blocking.release.set()
        answers = await asyncio.gather(first, *waiting)
        assert {answer.status_code for answer in answers} == {200}
        assert (await asking.get("/metrics")).status_code == 200


async def test_two_loops_share_one_page() -> None:
    """The app's loop and that of the metrics port never write at the same time."""
    registry = CollectorRegistry()
    blocking = Blocking()
    registry.register(blocking)
    scrape = MetricsPage(registry, InternalErrors())
    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, drive(serving(scrape), http_scope("/metrics"))))
    await asyncio.to_thread(blocking.entered.wait, PATIENCE_SECONDS)
    here = asyncio.create_task(drive(serving(scrape), http_scope("/metrics")))
    await asyncio.sleep(0.05)
    assert blocking.calls == 1
    blocking.release.set()
    assert b"blocking 1.0" in (await here).sent[1]["body"]
    assert b"blocking 1.0" in (await elsewhere).sent[1]["body"]
    assert blocking.calls == 2


@pytest.mark.parametrize("names", [1, 500, 5_000])
async def test_the_number_of_names_is_bounded(names: int) -> None:
    """Some hundred names are found; a query of any length is not even read."""
    query = "&".join(f"name[]=n{number}" for number in range(names)) + "&name[]=c_total"
    driven = await drive(serving(MetricsPage(large(3), InternalErrors())), http_scope("/metrics", query_string=query.encode()))
    assert driven.sent[0]["status"] == (414 if names == 5_000 else 200)
    assert (driven.sent[1]["body"].count(b"\nc_total{") == 3) == (names != 5_000)


@pytest.mark.parametrize("version", ["x", "1.x", "1.0.0.0", "", "99999999999"])
async def test_any_accept_is_answered(version: str, watch: Any) -> None:
    """A version that is no number gets the text that everybody understands."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)
    async with client(app) as asking:
        answer = await asking.get("/metrics", headers={"accept": f"application/openmetrics-text; version={version}"})
    assert answer.status_code == 200
    assert "# TYPE python_info gauge" in answer.text
    assert answer.text.endswith("# EOF\n") == answer.headers["content-type"].startswith("application/openmetrics-text")


class Counting:
    """A versioned collector that never changes, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def _samples(self) -> list[Sample]:
        self.asked += 1
        return [Sample("counting", {}, 1.0)]

    def collect(self) -> Iterator[Metric]:
        family = Metric("counting", "counting", "gauge")
        family.samples = self._samples()
        yield family

    def versioned(self) -> Iterator[VersionedFamily]:
        yield Metric("counting", "counting", "gauge"), [((), 1, self._samples)]


async def test_few_formats_are_remembered() -> None:
    """The formats asked for last are kept, however many there are, and nothing for names."""
    registry, counting = CollectorRegistry(auto_describe=True), Counting()
    registry.register(counting)
    scrape = MetricsPage(registry, InternalErrors())
    asked = []
    for number in range(4):
        for accept, query in (("", ""), (f"application/openmetrics-text; version=1.0.{number}", ""), ("", "name[]=counting")):
            before = counting.asked
            scope = http_scope("/metrics", headers=[(b"accept", accept.encode())], query_string=query.encode())
            page = (await drive(serving(scrape), scope)).sent[1]["body"]
            assert b"counting 1.0" in page
            assert (b"observability_scrape_size_bytes" in page) == (not query)
            asked.append(counting.asked - before)
            assert len(scrape._expositions) <= MOST_FORMATS
    assert asked == [1, 1, 1] + [0, 1, 1] * 3
    assert len(scrape._last) == 1


async def test_the_numbers_of_requests_are_written_as_the_library_would(watch: Any) -> None:
    """After every request, what is kept of our own families and what is new make the page that the library's encoder makes."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)
    names = {family.name for family in watched.obs.registry.collect() if family.name.startswith(("http_", "request_"))}
    encode, _ = choose_encoder(OPENMETRICS)
    async with client(app) as asking:
        for path in ("/a", "/openapi.json", "/a", "/docs"):
            await asking.get(path)
            page = (await asking.get("/metrics", headers={"accept": OPENMETRICS})).text
            theirs = encode(watched.obs.registry).decode()
            ours, library = ([one for one in text.split("# HELP ")[1:] if one.split()[0] in names] for text in (page, theirs))
            assert ours == library
            assert len(ours) == len(names)
            assert "trace_id" in page


class BrokenError(Exception):
    pass


class Broken:
    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        raise BrokenError("broken on purpose")


async def test_a_collector_that_raises_is_counted_on_the_page(watch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The page is whole but for that collector, and the next one tells of it."""
    watched = watch()
    watched.obs.registry.register(Broken())
    app = FastAPI()
    watched.obs.install(app)
    async with client(app) as asking:
        pages = [(await asking.get("/metrics", headers={"accept": OPENMETRICS})).text for _ in range(2)]
    assert all("python_info" in page and "http_requests_in_flight" in page and page.endswith("# EOF\n") for page in pages)
    assert 'observability_internal_errors_total{component="Broken"} 1.0' in pages[1]
    assert "Broken failed (BrokenError: broken on purpose)" in capsys.readouterr().err


async def test_the_page_tells_of_the_last_one(watch: Any) -> None:
    """Duration and size are on the page after; the size is that of the text, compressed or not."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)
    async with client(app) as asking:
        for encoding in ("identity", "gzip"):
            answer = await asking.get("/metrics", headers={"accept-encoding": encoding})
            assert watched.value("observability_scrape_size_bytes") == len(answer.content)
            assert 0 < watched.value("observability_scrape_duration_seconds") < 10


def test_without_metrics_none_are_registered() -> None:
    """Switched off, the registry that was given stays empty."""
    registry = CollectorRegistry()
    Observability(Settings(metrics={"enabled": False}, logging={"enabled": False}), registry=registry)
    assert list(registry.collect()) == []
