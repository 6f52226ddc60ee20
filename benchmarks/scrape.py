"""What a scrape of `/metrics` costs, and how long it holds the event loop up, beside prometheus_client's own rendering."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from benchmarks.drive import ASGIApp, Message, app_maker, receive, scope, send
from benchmarks.effort import Effort
from benchmarks.place import Place
from benchmarks.variants import observability
from benchmarks.workers import Worker, answer, say

__all__ = ["CHANGED", "LIKE_PROMETHEUS", "fill", "longest_stall", "measure"]

KINDS = ("http", "client")
"""Series of our own HTTP metrics, made by requests; and instruments that an application has put on our registry."""
CHANGED = 0.01
"""Share of the series that change between two scrapes."""
LINES_OF_A_PAIR = 18
"""Lines that a route and status give rise to, about."""
STATUSES = 25
"""Of each route."""
NAP_SECONDS = 0.0005
LIKE_PROMETHEUS = (
    (b"accept", b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"),
    (b"accept-encoding", b"gzip"),
)
Change = Callable[[], Awaitable[None]]


def measure(effort: Effort) -> dict[str, dict[str, Any]]:
    """Measure scrapes of both kinds of series, for each number of them."""
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        for series, scrapes in effort.series:
            started = time.monotonic()
            with Worker("scrape", kind, series) as worker:
                worker.read()
                found.setdefault(kind, {})[str(series)] = worker.ask(scrapes)
            say(f"  scrape: {series} series of kind {kind} took {time.monotonic() - started:.0f} s")
    return found


def fill(registry: CollectorRegistry, series: int) -> list[Callable[[], None]]:
    """Put counters and histograms on a registry, about so many lines; return what changes each of them."""
    histogram = Histogram("work_seconds", "Time of a piece of work.", ["kind", "tenant"], registry=registry)
    counter = Counter("work_items", "Pieces of work.", ["kind", "tenant"], registry=registry)
    # A histogram with prometheus_client's own bounds is 17 lines, and a counter one.
    changes: list[Callable[[], None]] = []
    for number in range(max(1, series // 34)):
        observe = histogram.labels(f"kind{number % 20}", f"tenant{number}").observe
        changes.append(lambda observe=observe: observe(0.2))  # type: ignore[misc]
        changes += [counter.labels(f"kind{extra}", f"tenant{number}").inc for extra in range(17)]
    for change in changes:
        change()
    return changes


def _changing_client(registry: CollectorRegistry, series: int) -> Change:
    changes = fill(registry, series)
    order = cycle(changes)
    some = max(1, int(len(changes) * CHANGED))

    async def change() -> None:
        for one in islice(order, some):
            one()

    return change


async def _changing_http(app: ASGIApp, paths: Sequence[str]) -> Change:
    order = cycle(paths)
    some = max(1, int(len(paths) * CHANGED))

    async def change() -> None:
        for path in islice(order, some):
            await app(scope(path), receive, send)

    for path in paths:
        await app(scope(path), receive, send)
    return change


def _paths(series: int) -> list[str]:
    """Find routes and statuses that give so many lines."""
    return [f"/other{number // STATUSES}/{200 + number % STATUSES}" for number in range(max(1, series // LINES_OF_A_PAIR))]


async def _prepare(kind: str, series: int, place: Place) -> Callable[[int], Awaitable[dict[str, Any]]]:
    paths = _paths(series)
    app = app_maker(len(paths) // STATUSES + 2)()
    obs = observability(place)
    obs.install(app)
    obs.start()
    change = await _changing_http(app, paths) if kind == "http" else _changing_client(obs.registry, series)

    async def ours() -> None:
        await _scrape(app)

    async def as_prometheus() -> None:
        await _scrape(app, *LIKE_PROMETHEUS)

    async def in_thread() -> None:
        await asyncio.to_thread(generate_latest, obs.registry)

    async def on_loop() -> None:
        generate_latest(obs.registry)

    async def nothing() -> None:
        await asyncio.sleep(0.1)

    ways = {"nothing": nothing, "ours": ours, "ours_as_prometheus": as_prometheus, "thread": in_thread, "loop": on_loop}

    async def reply(scrapes: int) -> dict[str, Any]:
        started = time.process_time()
        await ours()
        first = time.process_time() - started
        pairs = [(await _cpu(change, ours), await _cpu(change, on_loop)) for _ in range(scrapes)]
        longest = {name: await _stalls(app, change, way, scrapes) for name, way in ways.items()}
        ours_seconds, theirs_seconds = (statistics.median(times) for times in zip(*pairs, strict=True))
        return {
            "lines": sum(not line.startswith(b"#") for line in generate_latest(obs.registry).splitlines()),
            "first_ms": first * 1e3,
            "ours_ms": ours_seconds * 1e3,
            "generate_latest_ms": theirs_seconds * 1e3,
            "ratio": statistics.median(one / other for one, other in pairs),
            "longest_stall_ms": {name: statistics.median(stalls) * 1e3 for name, stalls in longest.items()},
        }

    await ours()
    return reply


async def _scrape(app: ASGIApp, *headers: tuple[bytes, bytes]) -> None:
    """Ask for the page, and let go of it: whoever joins its pieces is another process, and would hold this one up."""
    statuses = []

    async def send_away(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope("/metrics", *headers), receive, send_away)
    assert statuses == [200]


async def _cpu(change: Change, render: Callable[[], Awaitable[None]]) -> float:
    """Measure the CPU seconds of the process that a scrape takes after some series have changed."""
    await change()
    started = time.process_time()
    await render()
    return time.process_time() - started


async def _stalls(app: ASGIApp, change: Change, render: Callable[[], Awaitable[None]], scrapes: int) -> list[float]:
    """Measure, for each scrape while requests are served, by how much a short nap was longest prolonged."""
    done = False

    async def serve() -> None:
        while not done:
            await app(scope("/items/42"), receive, send)
            await asyncio.sleep(0)

    serving = asyncio.create_task(serve())
    found = []
    for _ in range(scrapes):
        await change()
        found.append(await longest_stall(asyncio.create_task(render())))  # type: ignore[arg-type]
    done = True
    await serving
    return found


async def longest_stall(scraping: asyncio.Task[Any]) -> float:
    """Wait for a task; return by how much a short nap was longest prolonged meanwhile, in seconds."""
    longest = 0.0
    while not scraping.done():
        started = time.perf_counter()
        await asyncio.sleep(NAP_SECONDS)
        longest = max(longest, time.perf_counter() - started - NAP_SECONDS)
    await scraping
    return longest


def main() -> None:
    """Be the process of one registry."""
    kind, series = sys.argv[1:]
    answer(lambda: _prepare(kind, int(series), Place(Path(os.devnull))))


if __name__ == "__main__":
    main()
