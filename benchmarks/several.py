"""What it costs to answer for several workers, beside prometheus_client's multi-process mode: a request, a scrape, a save."""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from anyio.lowlevel import checkpoint
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import Request

from benchmarks.drive import Message, receive, scope
from benchmarks.effort import Effort
from benchmarks.scrape import CHANGED, fill, longest_stall
from benchmarks.workers import Worker, answer
from sage_fastapi_obs.endpoints.metrics_page import MetricsPage
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.http_series import BATCH
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.ids import new_request_id
from sage_fastapi_obs.request.in_flight import InFlight, RequestRecords, note_answering
from sage_fastapi_obs.workers.merged_registry import MergedRegistry
from sage_fastapi_obs.workers.saved_numbers import SavedNumbers
from sage_fastapi_obs.workers.siblings import Parent
from sage_fastapi_obs.workers.slot import Slot

__all__ = ["measure"]

WORKERS = 8
_REQUESTS, _REPEATS = 20_000, 9
_PEERS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
Reply = Callable[[Any], Awaitable[Any]]


def measure(effort: Effort) -> dict[str, float]:
    """Fill the metrics of so many processes of either kind, change some before each scrape, and compare the scrapes."""
    lines, scrapes = effort.scraped_series, effort.series[-2][1]
    with tempfile.TemporaryDirectory() as base, ExitStack() as stack:
        folders = {kind: Path(base) / kind for kind in ("ours", "peer")}
        for folder in folders.values():
            folder.mkdir()

        def start(kind: str, *role: object) -> Worker:
            os.environ.pop(_PEERS_FOLDER, None)
            if kind == "peer":
                os.environ[_PEERS_FOLDER] = str(folders[kind])
            return stack.enter_context(Worker("several", kind, folders[kind], *role))

        fillers = {kind: [start(kind, lines, number) for number in range(WORKERS)] for kind in folders}
        for one in (*fillers["ours"], *fillers["peer"]):
            one.read()
        askers = {kind: start(kind) for kind in folders}
        for one in askers.values():
            one.read()
        os.environ.pop(_PEERS_FOLDER, None)
        return _measured(fillers, askers, scrapes)


def _measured(fillers: dict[str, list[Worker]], askers: dict[str, Worker], scrapes: int) -> dict[str, float]:
    saves: list[dict[str, float]] = []
    asked: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    first = {kind: asker.ask("scrape") for kind, asker in askers.items()}
    for _ in range(scrapes):
        for kind, asker in askers.items():
            changed = [filler.ask("save") for filler in fillers[kind]]
            saves += changed if kind == "ours" else []
            asked[kind].append(asker.ask("scrape"))
    ours, peer = ([one["seconds"] for one in asked[kind]] for kind in ("ours", "peer"))
    request = {kind: fillers[kind][0].ask("request") for kind in asked}
    return {
        "workers": WORKERS,
        "lines": asked["ours"][-1]["lines"],
        "lines_of_peer": asked["peer"][-1]["lines"],
        "request_us": request["ours"] * 1e6,
        "request_of_peer_us": request["peer"] * 1e6,
        "first_ms": first["ours"]["seconds"] * 1e3,
        "first_stall_ms": first["ours"]["stall"] * 1e3,
        "ours_ms": statistics.median(ours) * 1e3,
        "peer_ms": statistics.median(peer) * 1e3,
        "ratio": statistics.median(one / other for one, other in zip(ours, peer, strict=True)),
        "stall_ms": statistics.median(one["stall"] for one in asked["ours"]) * 1e3,
        "save_ms": statistics.median(one["seconds"] for one in saves) * 1e3,
        "save_stall_ms": statistics.median(one["stall"] for one in saves) * 1e3,
    }


async def _filler(kind: str, folder: Path, lines: int, number: int) -> Reply:
    """Be one of the workers: change some series, and save them; or tell the seconds of what a request leaves for the others."""
    registry = CollectorRegistry()
    changes = fill(registry, lines)
    order, some = cycle(changes), max(1, int(len(changes) * CHANGED))
    if kind == "ours":
        slot = Slot(folder / f"{number}.slot", writable=True)
        records = slot.own(Parent(0, 0), 0)
        saved = SavedNumbers(registry, slot.blocks, InternalErrors(), interval_seconds=15.0)
        saved.save()
        save: Callable[[], None] = partial(saved.save, for_page=True)
        leave: Callable[[int], None] = partial(_leave_record, records)
    else:
        # It saves as it counts.
        save, leave = (lambda: None), partial(_count_requests, *_instruments(registry))

    async def reply(question: str) -> Any:
        if question == "request":
            return min(_seconds_of_each(leave) for _ in range(_REPEATS))
        for change in islice(order, some):
            change()
        saving = asyncio.create_task(asyncio.to_thread(_cpu_seconds, save))
        stall = await longest_stall(saving)
        return {"seconds": saving.result(), "stall": stall}

    return reply


def _leave_record(records: RequestRecords, requests: int) -> None:
    """Do what each request does for the other workers."""
    flying, exchange = InFlight(), _exchange()
    flying.records = records
    places = []
    for _ in range(requests):
        flying.request_started(exchange)
        if exchange.record is not None:
            note_answering(exchange.record, exchange.status)
        places.append(records.done(exchange, 0)[0])
        flying.request_finished(exchange)
        if len(places) == BATCH:
            records.free_all(places)
            places.clear()


def _exchange() -> Exchange:
    exchange = Exchange({"type": "http", "method": "GET", "path": "/items/42"}, 0, time.time_ns())
    exchange.request_id, exchange.trace_id, exchange.status = new_request_id(), "0af7651916cd43dd8448eb211c80319c", 200
    return exchange


def _instruments(registry: CollectorRegistry) -> tuple[Counter, Histogram]:
    """Make what counts and times requests; in its multi-process mode it writes numbers into files."""
    total = Counter("requests", "Requests.", ["method", "route", "status"], registry=registry)
    duration = Histogram("request_seconds", "Duration.", ["method", "route"], registry=registry)
    return total.labels("GET", "/items/{item}", "2xx"), duration.labels("GET", "/items/{item}")


def _count_requests(total: Counter, duration: Histogram, requests: int) -> None:
    for _ in range(requests):
        total.inc()
        duration.observe(0.02)


def _cpu_seconds(save: Callable[[], object]) -> float:
    started = time.thread_time()
    save()
    return time.thread_time() - started


def _seconds_of_each(leave: Callable[[int], None]) -> float:
    started = time.process_time()
    leave(_REQUESTS)
    return (time.process_time() - started) / _REQUESTS


async def _asker(kind: str, folder: Path) -> Reply:
    """Be the worker that is scraped."""
    # As a service does at its start.
    await checkpoint()
    page = MetricsPage(CollectorRegistry(), InternalErrors(), measured=False)
    if kind == "ours":
        page.all_workers = _merged(folder)

    async def ours() -> bytes:
        pieces: list[bytes] = []

        async def take(message: Message) -> None:
            pieces.append(message.get("body", b""))

        response = await page.response(Request(scope("/metrics")))
        await response(scope("/metrics"), receive, take)
        return b"".join(pieces)

    async def peers() -> bytes:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    async def reply(_: Any) -> dict[str, float]:
        started = time.process_time()
        scraping = asyncio.create_task((ours if kind == "ours" else peers)())
        stall, seconds = await longest_stall(scraping), time.process_time() - started
        lines = sum(not line.startswith(b"#") for line in scraping.result().splitlines())
        return {"seconds": seconds, "stall": stall, "lines": lines}

    return reply


def _merged(folder: Path) -> Callable[[Callable[[], object]], CollectorRegistry]:
    slots = [Slot(path) for path in sorted(folder.glob("*.slot"))]
    merged = MergedRegistry(lambda: slots, InternalErrors(), interval_seconds=15.0, wall_clock=time.time)
    # As a worker does before it serves.
    merged.refresh(lambda: None)

    def refreshed(pause: Callable[[], object]) -> CollectorRegistry:
        merged.refresh(pause)
        return merged.registry

    return refreshed


def main() -> None:
    """Be one of the processes."""
    kind, folder, *role = sys.argv[1:]
    if role:
        lines, number = map(int, role)
        answer(lambda: _filler(kind, Path(folder), lines, number))
    else:
        answer(lambda: _asker(kind, Path(folder)))


if __name__ == "__main__":
    main()
