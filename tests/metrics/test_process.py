"""What the process uses, and how late its event loop is."""

import asyncio
import gc
import threading
import time
import tracemalloc
from typing import Any

import anyio.to_thread
import pytest
import trio
from support import client, drive, eventually, http_scope, samples

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.catalog import PACKS
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics import process
from sage_fastapi_obs.metrics.process import Runtime

OURS = {metric.name for metric in process.RUNTIME_METRICS}


def read(watching: Runtime) -> dict[str, float]:
    """Collect all samples without labels, by name."""
    return {sample.name: sample.value for family in watching.collect() for sample in family.samples if not sample.labels}


def test_families_are_those_of_the_catalog():
    """Names, types and help are the catalog's, in its order, also before there is anything to tell."""
    families = [*Runtime(InternalErrors()).collect()]
    assert [family.name for family in families] == [metric.name for metric in process.RUNTIME_METRICS]
    assert [family.name for family in Runtime(InternalErrors()).describe()] == [family.name for family in families]
    assert {metric.name for metric in PACKS["runtime"]} >= OURS


def test_outside_of_a_loop_there_is_none_to_tell_of():
    """Without an event loop the process is told of, and neither loop nor pool."""
    watching = Runtime(InternalErrors())
    watching.start()
    told = read(watching)
    watching.stop()
    assert told["python_threads"] == threading.active_count()
    assert told["process_anonymous_memory_bytes"] > 1_000_000
    assert "python_asyncio_tasks" not in told
    assert "python_threadpool_threads_max" not in told


async def test_a_stalled_loop_is_seen_as_lag(monkeypatch: pytest.MonkeyPatch):
    """A timer that comes late is counted with the time it was late."""
    monkeypatch.setattr(process, "TICK_SECONDS", 0.01)
    watching = Runtime(InternalErrors())
    watching.start()
    await asyncio.sleep(0.03)
    before = read(watching)
    assert before["python_event_loop_lag_seconds_count"] >= 1
    time.sleep(0.2)  # noqa: ASYNC251 - that is what stalls it
    await asyncio.sleep(0.02)
    after = read(watching)
    tick = watching._tick
    watching.stop()
    assert tick.cancelled()
    assert after["python_event_loop_lag_seconds_sum"] - before["python_event_loop_lag_seconds_sum"] > 0.15
    await asyncio.sleep(0.03)
    assert read(watching)["python_event_loop_lag_seconds_count"] == after["python_event_loop_lag_seconds_count"]


async def test_tasks_are_counted_from_any_thread():
    """The tasks of the loop are counted, also from the thread that a scrape runs in."""
    watching = Runtime(InternalErrors())
    watching.start()
    alone = read(watching)["python_asyncio_tasks"]
    sleeping = [asyncio.create_task(asyncio.sleep(60)) for _ in range(25)]
    assert (await asyncio.to_thread(read, watching))["python_asyncio_tasks"] == alone + 25
    for task in sleeping:
        task.cancel()
    watching.stop()
    assert "python_asyncio_tasks" not in read(watching)


async def test_work_that_waits_for_a_thread_is_seen():
    """Busy threads, their limit, and what waits for one are those of the pool that synchronous routes run in."""
    watching = Runtime(InternalErrors())
    watching.start()
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 2
    released = threading.Event()
    work = [asyncio.create_task(anyio.to_thread.run_sync(released.wait)) for _ in range(5)]
    await eventually(lambda: limiter.statistics().tasks_waiting == 3)
    told = read(watching)
    released.set()
    await asyncio.gather(*work)
    assert (told["python_threadpool_threads_busy"], told["python_threadpool_threads_max"]) == (2, 2)
    assert told["python_threadpool_tasks_waiting"] == 3
    assert read(watching)["python_threadpool_tasks_waiting"] == 0
    watching.stop()


def test_pauses_of_the_collector_are_measured_by_generation():
    """A collection is counted in its generation while it is watched, with the time between its start and its end."""
    ticks = iter(range(0, 10**12, 2_000_000))
    watching = Runtime(InternalErrors(), clock=lambda: next(ticks))
    gc.disable()
    try:
        watching.start()
        gc.collect(2)
        watching.stop()
        gc.collect(2)
    finally:
        gc.enable()
    told = {
        (sample.name, sample.labels.get("generation")): sample.value
        for family in watching.collect()
        for sample in family.samples
        if "gc_pause" in sample.name and "le" not in sample.labels
    }
    assert told["python_gc_pause_seconds_count", "2"] == 1
    assert told["python_gc_pause_seconds_sum", "2"] == pytest.approx(0.002)
    assert told["python_gc_pause_seconds_count", "1"] == 0
    assert watching._collected not in gc.callbacks


def test_the_share_of_the_cpu_is_that_of_the_cores(monkeypatch: pytest.MonkeyPatch):
    """One core of four for a second is a quarter; asked again too soon, the answer is the one before."""
    now = {"cpu": 0.0, "at": 0.0}
    monkeypatch.setattr(process.time, "process_time", lambda: now["cpu"])
    monkeypatch.setattr(process.time, "monotonic", lambda: now["at"])
    monkeypatch.setattr(process, "_cores", lambda: 4.0)
    share = process._CpuShare()
    now.update(cpu=1.0, at=1.0)
    assert share() == 0.25
    now.update(cpu=1.5, at=1.5)
    assert share() == 0.25
    now.update(cpu=1.5, at=3.0)
    assert share() == pytest.approx(0.5 / 2 / 4)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8.0), ("50000 100000", 0.5), ("900000 100000", 8.0), (None, 8.0)])
def test_a_container_has_the_cores_of_its_quota(quota: str | None, cores: float, tmp_path: Any, monkeypatch: Any):
    """A quota below the machine's cores counts; none, or no such file, leaves the cores."""
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    monkeypatch.setattr(process, "_QUOTA", file)
    monkeypatch.setattr(process.os, "sched_getaffinity", lambda _: set(range(8)))
    assert process._cores() == cores


def test_traced_memory_is_told_only_while_it_is_traced():
    """Without tracemalloc there is no such series."""
    watching = Runtime(InternalErrors())
    assert "python_traced_memory_bytes" not in read(watching)
    tracemalloc.start()
    kept = bytearray(5_000_000)
    told = read(watching)["python_traced_memory_bytes"]
    tracemalloc.stop()
    assert 5_000_000 < told < 50_000_000
    del kept


def test_a_system_that_cannot_tell_leaves_the_rest(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    """Without /proc the memory is missing; whatever fails is counted, and all other families are there."""
    faults = InternalErrors()
    watching = Runtime(faults)
    monkeypatch.setattr(process, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(process.threading, "active_count", lambda: 1 / 0)
    told = read(watching)
    assert "process_anonymous_memory_bytes" not in told
    assert "python_threads" not in told
    assert "process_cpu_usage_ratio" in told
    assert faults.counts == {"Runtime": 1}


async def test_it_runs_with_the_app(watch: Any):
    """Started and stopped with the lifespan, it is on the page of metrics, and leaves nothing behind."""
    watched = watch(insight={"enabled": False})
    app = ObservabilityMiddleware(_empty, observability=watched.obs)
    callbacks = len(gc.callbacks)
    incoming, started = [{"type": "lifespan.startup"}], asyncio.Event()
    release = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await release.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "lifespan.startup.complete":
            started.set()

    life = asyncio.create_task(app({"type": "lifespan", "state": {}}, receive, send))
    await started.wait()
    assert len(gc.callbacks) == callbacks + 1
    assert watched.value("python_asyncio_tasks") >= 2
    assert watched.value("python_threadpool_threads_max") == 40
    release.set()
    await life
    assert len(gc.callbacks) == callbacks
    assert watched.value("python_asyncio_tasks") is None
    assert watched.obs.instruments.runtime._tick is None


async def _empty(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_trio_is_not_disturbed(watch: Any):
    """Under trio requests are served, the pool of threads is told of, and there is no asyncio loop."""
    watched = watch()
    app = ObservabilityMiddleware(_empty, observability=watched.obs)

    async def serve() -> dict[Any, float]:
        driven = await drive(app, http_scope("/"))
        assert driven.error is None
        told = {name: samples(watched.obs.registry, name) for name in OURS}
        await watched.obs.close()
        return told

    told = trio.run(serve)
    assert told["python_threadpool_threads_max"]
    assert not told["python_asyncio_tasks"]
    assert watched.obs.internal_errors.counts == {}


async def test_without_the_pack_nothing_is_watched(watch: Any):
    """Where the pack is off there is no timer, no callback and no family."""
    watched = watch(metrics={"packs": ["http"]}, insight={"enabled": False})
    callbacks = len(gc.callbacks)
    async with watched.obs, client(ObservabilityMiddleware(_empty, observability=watched.obs)) as http:
        await http.get("/")
        assert len(gc.callbacks) == callbacks
        assert not samples(watched.obs.registry, "python_threads")
