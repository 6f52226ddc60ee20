"""The thread that looks, and its life with the application."""

import asyncio
import gc
import threading
import time
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge
from support import PATIENCE_SECONDS, client, until
from worlds import World

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Stat


def threads() -> set[threading.Thread]:
    """Return the threads that look; those of earlier tests may end at any time."""
    return {thread for thread in threading.enumerate() if thread.name == "sage-obs-status"}


async def test_it_looks_while_the_application_runs():
    """A rule is judged by itself, its async callback runs on the application's loop, and nothing is left afterwards."""
    obs = Observability(Settings(logging={"enabled": False}, monitoring={"interval_seconds": 1}))
    gauge, told, before = Gauge("load_ratio", "l", registry=obs.registry), [], threads()
    done = asyncio.Event()

    async def tell(alert: dict[str, Any]) -> None:
        told.append((alert["state"], asyncio.get_running_loop()))
        done.set()

    obs.status.alerts.add(
        AlertRule(
            name="load", expression=Stat("load_ratio"), condition=AlertCondition.GREATER_THAN, threshold=1, callbacks=(tell,)
        )
    )
    gauge.set(5)
    assert not obs.status.is_active
    async with obs:
        assert obs.status.is_active
        obs.status.start()
        assert len(threads() - before) == 1
        await asyncio.wait_for(done.wait(), PATIENCE_SECONDS)
    assert told == [("firing", asyncio.get_running_loop())]
    assert not obs.status.is_active
    assert threads() <= before


async def test_it_starts_again_after_a_close():
    """As often as the application does, also without a loop."""
    obs = Observability(Settings(logging={"enabled": False}))
    for _ in range(2):
        async with obs:
            assert obs.status.is_active
        assert not obs.status.is_active
    await anyio.to_thread.run_sync(obs.status.start)
    assert obs.status.is_active
    obs.status.close()
    obs.status.close()


async def test_without_metrics_nothing_looks():
    """Where there are no metrics there is nothing to look at, and that is no fault."""
    app = FastAPI()
    obs = Observability(Settings(logging={"enabled": False}, metrics={"enabled": False}, monitoring={"access": "open"}))
    obs.install(app)
    async with obs, client(app) as asking:
        assert not obs.status.is_active
        assert (await asking.get("/monitoring/health")).json()["status"] == "healthy"
        assert (await asking.get("/monitoring/summary")).json()["http"]["count"] == 0


async def test_a_thread_that_has_died_is_shown():
    """Nobody judges the rules: the service is degraded."""
    app = FastAPI()
    obs = Observability(Settings(logging={"enabled": False}, monitoring={"access": "open"}))
    obs.install(app)
    async with obs, client(app) as asking:
        assert (await asking.get("/monitoring/health")).json()["status"] == "healthy"
        obs.status.close()
        assert (await asking.get("/monitoring/health")).json()["status"] == "degraded"


def test_looking_that_fails_is_counted_and_tried_again():
    """A clock, say, that fails for a while."""
    fails = [True]

    def clock() -> float:
        if fails[0]:
            raise OSError("no clock")
        return time.monotonic()

    obs = Observability(Settings(logging={"enabled": False}, monitoring={"interval_seconds": 1}), status_clock=clock)
    obs.start()
    until(lambda: obs.faults.counts.get("ServiceStatus"), "fault")
    fails[0] = False
    until(lambda: obs.status.windows.series, "look")
    asyncio.run(obs.close())


async def test_a_lifespan_that_is_abandoned_leaves_no_thread():
    """Cancelled without a shutdown, all threads go."""
    app = FastAPI()
    obs = Observability(Settings(logging={"enabled": False}, monitoring={"interval_seconds": 1}))
    obs.install(app)
    before = threads()

    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"} if not received.is_set() and not received.set() else await never()

    async def send(_: dict[str, Any]) -> None:
        started.set()

    received, started = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(app({"type": "lifespan", "state": {}}, receive, send))
    await asyncio.wait_for(started.wait(), PATIENCE_SECONDS)
    assert len(threads() - before) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await anyio.to_thread.run_sync(until, lambda: threads() <= before, "end of the thread")


def test_a_service_that_nobody_has_any_more_is_not_looked_at():
    """An application that is thrown away without being closed takes its thread with it."""
    before = threads()
    obs = Observability(Settings(logging={"enabled": False}))
    obs.status.start()
    assert len(threads() - before) == 1
    del obs
    until(lambda: gc.collect() >= 0 and threads() <= before, "end of the thread")


def test_the_registry_of_somebody_else_begins_at_the_first_look():
    """What was counted before is not news."""
    registry = CollectorRegistry()
    obs = Observability(Settings(logging={"enabled": False}), registry=registry)
    obs.status.refresh()
    assert obs.status.view(60).covered_seconds == 0


def test_refreshing_is_looking_at_most_once_in_a_while():
    """Within the time that is given, the last look will do."""
    world = World()
    world.status.refresh()
    world.request(times=3)
    world.tick(0.5)
    world.status.refresh(most_seconds=1.0)
    assert world.status.view(60).counter("http_requests_total") == {}
    world.tick(0.6)
    world.status.refresh(most_seconds=1.0)
    assert world.status.view(60).counter("http_requests_total")[()].increase == 3


@pytest.mark.parametrize("days", [8])
def test_notes_older_than_the_longest_window_go(days: int):
    """One before it is kept, to begin it from."""
    world = World()
    for _ in range(days * 24):
        world.tick(3600)
        world.request()
        world.status.evaluate()
    ticks = world.status.windows.ticks
    assert ticks[0].at <= world.now - 7 * 86_400 < ticks[1].at
