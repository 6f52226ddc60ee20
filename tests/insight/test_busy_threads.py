"""Requests that could go on, but for other threads that keep the interpreter busy."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from support import Watched, drive, http_scope, until

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.insight.busy_threads import BusyThreads
from sage_fastapi_obs.insight.loop_thread import ClockReading, LoopThread
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.explanation import Explanation, Finding

MS = 1_000_000


class InFlight:
    """A request of the test; stands for a watch."""

    def __init__(self) -> None:
        self.exchange = Exchange({"type": "http"}, 0, 0)
        self.exchange.duration_us = 1_000_000


@contextmanager
def no_task() -> Iterator[None]:
    """Let the loop seem to run none, as it does for another thread while it waits."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asyncio.tasks._leave_task(loop, task)
    yield
    asyncio.tasks._enter_task(loop, task)


class Ticks:
    """The observer, with clocks that the test sets."""

    def __init__(self) -> None:
        self.in_flight: set[Any] = set()
        self.tasks: list[asyncio.Task[Any]] = []
        self.troubled = TroubledTime()
        self.observer = BusyThreads(WatchThread(self.in_flight, InternalErrors()), self.troubled)
        self._loop_thread = LoopThread(asyncio.get_running_loop())
        self._loop_thread.now = ClockReading(0, 0, 0, 0, 0)

    def begin(self, work: Any) -> Exchange:
        """Begin a request that does some work in a task."""
        one = InFlight()
        self.in_flight.add(one)
        token = current_exchange.set(one.exchange)
        self.tasks.append(asyncio.create_task(work))
        current_exchange.reset(token)
        return one.exchange

    def tick(self, *, loop_ms: int, others_ms: int, loop_waited_ms: int = 0, is_in_step: bool = False) -> None:
        """Tick after 50 ms in which the threads have computed so long. `is_in_step`: whether the loop runs a task."""
        before = self._loop_thread.now
        assert before is not None
        now = ClockReading(
            *(before.at + 50 * MS, before.loop_cpu + loop_ms * MS, before.process_cpu + (loop_ms + others_ms) * MS),
            *(before.loop_waited + loop_waited_ms * MS, 0),
        )
        self._loop_thread.before, self._loop_thread.now = before, now
        with nullcontext() if is_in_step else no_task():
            self.observer._tick(self._loop_thread)

    def told(self, exchange: Exchange, *findings: Finding) -> list[tuple[str, int]]:
        """Return what is said of a request, with milliseconds."""
        explanation = Explanation(findings=[*findings])
        self.observer.explain(exchange, explanation)
        return [(finding.cause, finding.lost_us // 1_000) for finding in explanation.findings]


@pytest.fixture
async def ticks() -> Any:
    """Make an observer, and end the tasks afterwards."""
    found = Ticks()
    yield found
    for task in found.tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def steps() -> None:
    """Only wait for the next turn."""
    for _ in range(1_000_000):
        await asyncio.sleep(0)


async def test_who_has_its_turn_to_wait_for_is_starved(ticks: Ticks) -> None:
    """While others compute, a request that could go on loses the time in which the loop did not; one that waits does not."""
    ready, waiting = ticks.begin(steps()), ticks.begin(asyncio.sleep(100))
    await asyncio.sleep(0)
    for _ in range(2):
        ticks.tick(loop_ms=5, others_ms=45)
        # On a loaded machine they have less.
        ticks.tick(loop_ms=5, others_ms=20)
    assert ticks.told(ready) == [("busy_threads", 180)]
    assert ticks.told(waiting) == []
    assert ticks.observer.concerns(ready)
    assert not ticks.observer.concerns(waiting)
    assert ticks.troubled.until_ns == 200 * MS


async def test_who_is_ready_while_the_loop_itself_computes_is_not_starved(ticks: Ticks) -> None:
    """Threads that compute beside a busy loop, as libraries without the interpreter do, are not to blame."""
    ready = ticks.begin(steps())
    await asyncio.sleep(0)
    for _ in range(10):
        ticks.tick(loop_ms=45, others_ms=45)
        ticks.tick(loop_ms=5, others_ms=5)
        # Other processes have the processors.
        ticks.tick(loop_ms=5, loop_waited_ms=40, others_ms=45)
        # A call that waits, in a step.
        ticks.tick(loop_ms=0, others_ms=45, is_in_step=True)
    assert ticks.told(ready) == []


async def test_a_task_of_a_request_counts_for_it(ticks: Ticks) -> None:
    """A request whose own task waits for a child of it is starved where the child is."""

    async def parent() -> None:
        await asyncio.create_task(steps())

    exchange = ticks.begin(parent())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ticks.tick(loop_ms=0, others_ms=50)
    ticks.tick(loop_ms=0, others_ms=50)
    assert ticks.told(exchange) == [("busy_threads", 100)]


async def test_it_is_told_once(ticks: Ticks) -> None:
    """Of long stops and many short ones, what explains more is told, and no more than the duration."""
    ready = ticks.begin(steps())
    await asyncio.sleep(0)
    for _ in range(3):
        ticks.tick(loop_ms=0, others_ms=50)
    long, short = Finding("busy_threads", "long stops", 400_000), Finding("busy_threads", "long stops", 60_000)
    assert ticks.told(ready, long) == [("busy_threads", 400)]
    assert ticks.told(ready, short) == [("busy_threads", 150)]
    ready.duration_us = 120_000
    assert ticks.told(ready) == [("busy_threads", 120)]


async def test_nothing_is_kept_of_requests_that_have_ended(ticks: Ticks) -> None:
    """What a request lost goes with it, also when no thread computes any more."""
    ticks.begin(steps())
    await asyncio.sleep(0)
    ticks.tick(loop_ms=0, others_ms=50)
    assert ticks.observer._lost_ns
    ticks.in_flight.clear()
    ticks.tick(loop_ms=0, others_ms=0)
    assert not ticks.observer._lost_ns


@contextmanager
def threads_that_compute() -> Iterator[None]:
    """Keep the interpreter busy, as threads in Python do: it goes from one to the next every 5 ms."""
    is_over = threading.Event()

    def burn() -> None:
        count = 0
        while not is_over.is_set():
            count += 1

    threads = [threading.Thread(target=burn) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    is_over.set()
    for thread in threads:
        thread.join()


def test_a_request_of_many_steps_names_the_threads(tmp_path: Path) -> None:
    """A request whose every step waits for threads says so, and not that it waited at the line where it lets others run."""
    watched = Watched(tmp_path, tracing={"slow_seconds": 0.2})

    async def app(scope, receive, send) -> None:
        ends = time.perf_counter() + 0.6
        for _ in range(1_000_000):
            await asyncio.sleep(0)
            if time.perf_counter() >= ends:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def serve() -> list[dict[str, Any]]:
        async with watched.obs:
            with threads_that_compute():
                await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope())
        return watched.access

    def is_told() -> bool:
        line = asyncio.run(serve())[-1]
        return line.get("cause") == "busy_threads" and not any(why.startswith("waited") for why in line["why"])

    # A loaded machine may give them too little time to be to blame.
    until(is_told, "cause")
