"""Where requests wait that take long: how looks are spread over them, and what each stands for."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from support import Watched, client

from sage_fastapi_obs.insight import waiting
from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.loop_thread import LoopThread
from sage_fastapi_obs.insight.thread_pool import ThreadPool
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.insight.waiting import SlowWaits
from sage_fastapi_obs.insight.watch_thread import WatchThread
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import Explanation

MS = 1_000_000


class InFlight:
    """A request whose task the test has made; stands for a watch."""

    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self.exchange = Exchange({"type": "http"}, 0, 0)
        self.exchange.task = task


class Looks:
    """The observer, with a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.in_flight: set[Any] = set()
        self.walks = 0
        watch = WatchThread(self.in_flight, InternalErrors())
        self.waits = SlowWaits(watch, ApplicationCode(), ThreadPool(), TroubledTime(), lambda _: 0)
        self._loop_thread = LoopThread(asyncio.get_running_loop())
        self._now_ms = 0
        monkeypatch.setattr(waiting.time, "perf_counter_ns", lambda: self._now_ms * MS)
        walk = waiting._Look._walk

        def counted(*arguments: Any) -> Any:
            self.walks += 1
            return walk(*arguments)

        monkeypatch.setattr(waiting._Look, "_walk", counted)

    def begin(self, work: Any) -> Exchange:
        """Begin a request that does some work."""
        one = InFlight(asyncio.create_task(work))
        self.in_flight.add(one)
        return one.exchange

    def at(self, now_ms: int) -> None:
        """Let the watch thread tick."""
        self._now_ms = now_ms
        # As another thread, which sees no task run.
        task = asyncio.current_task()
        asyncio.tasks._leave_task(asyncio.get_running_loop(), task)  # type: ignore[arg-type]
        self.waits._tick(self._loop_thread)
        asyncio.tasks._enter_task(asyncio.get_running_loop(), task)  # type: ignore[arg-type]

    def told(self, exchange: Exchange, ended_ms: int) -> list[tuple[str, float]]:
        """End a request; return what is said, without the line, and the share of looks that say so."""
        exchange.duration_us = ended_ms * 1_000
        explanation = Explanation()
        self.waits.explain(exchange, explanation)
        return [(finding.text.rpartition(" at ")[0], finding.share) for finding in explanation.findings]


@pytest.fixture
async def looks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make an observer, and end its requests afterwards."""
    found = Looks(monkeypatch)
    yield found
    for one in found.in_flight:
        one.exchange.task.cancel()
        with suppress(asyncio.CancelledError):
            await one.exchange.task


async def test_a_task_that_waits_for_the_same_is_not_followed_again(looks: Looks) -> None:
    """A request that does not move costs one walk; once it has moved, another one."""
    first, second = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await first.wait()
        await second.wait()

    exchange = looks.begin(work())
    await asyncio.sleep(0)
    for now_ms in range(0, 1_000, 50):
        looks.at(now_ms)
    assert looks.walks == 1
    first.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for now_ms in range(1_000, 10_000, 50):
        looks.at(now_ms)
    assert looks.walks == 2
    [(text, share)] = looks.told(exchange, 10_000)
    assert text.startswith("waited ")
    # The looks are less and less frequent, and each stands for the time since the one before.
    assert 0.8 < share < 0.95


async def test_children_may_go_on_while_their_parent_waits(looks: Looks) -> None:
    """A request that waits for tasks of its own is followed each time."""

    async def work() -> None:
        await asyncio.gather(asyncio.sleep(100), asyncio.sleep(100))

    looks.begin(work())
    await asyncio.sleep(0)
    for now_ms in range(0, 1_000, 50):
        looks.at(now_ms)
    assert looks.walks > 5


async def test_many_requests_that_move_share_what_a_tick_may_cost(looks: Looks) -> None:
    """However many are due at once, few are followed at each tick, and each of them has its turn."""

    async def work() -> None:
        for _ in range(1_000_000):
            await asyncio.sleep(0.0001)

    exchanges = [looks.begin(work()) for _ in range(40)]
    await asyncio.sleep(0)
    for now_ms in range(0, 1_500, 50):
        before = looks.walks
        looks.at(now_ms)
        assert looks.walks - before <= waiting._MOST_WALKS
        await asyncio.sleep(0.001)
    assert looks.walks >= 100
    assert all(looks.waits._seen[exchange].ns > 0 for exchange in exchanges)


async def test_what_was_seen_before_the_answer_began_is_told_at_its_end(looks: Looks) -> None:
    """A request that streams its answer is looked at no more, and still says where it had waited."""

    async def work() -> None:
        await asyncio.sleep(100)

    exchange = looks.begin(work())
    await asyncio.sleep(0)
    for now_ms in range(0, 400, 50):
        looks.at(now_ms)
    exchange.first_byte_us = 400_000
    for now_ms in range(400, 1_000, 50):
        looks.at(now_ms)
    assert looks.told(exchange, 1_000)[0][0].startswith("waited ")
    assert looks.waits._seen[exchange].ns < 400 * MS


async def test_nothing_is_kept_of_requests_that_have_ended(looks: Looks) -> None:
    """What was seen of a request goes with it."""
    looks.begin(asyncio.sleep(100))
    looks.at(0)
    assert looks.waits._seen
    for one in looks.in_flight:
        one.exchange.task.cancel()
    looks.in_flight.clear()
    looks.at(100)
    assert not looks.waits._seen


async def test_a_thread_is_not_said_to_wait(tmp_path: Path) -> None:
    """What runs in a thread may compute: only what is known to wait is said to have waited."""
    watched, app = Watched(tmp_path, tracing={"slow_seconds": 0.1}), FastAPI()
    watched.obs.install(app)

    @app.get("/in-thread")
    def spend() -> None:
        time.sleep(0.4)

    @app.get("/waited")
    async def wait() -> None:
        await asyncio.sleep(0.4)

    async with watched.obs, client(app) as http:
        for path in ("/in-thread", "/waited"):
            await http.get(path)
    found = {line["route"]: next(why for why in line["why"] if " at tests/" in why) for line in watched.access}
    assert found["/in-thread"].startswith("spent ")
    assert found["/waited"].startswith("waited ")
