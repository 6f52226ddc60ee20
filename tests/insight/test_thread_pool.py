"""Who waits for a thread, for how long, and who holds the threads."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from support import PATIENCE_SECONDS, Watched, client, eventually
from test_time_split import Stopped, exact


class Pool:
    """A service with two threads, of which some endpoints hold one until they are told to end."""

    def __init__(self, watch: Callable[..., Watched]) -> None:
        self.clock = Stopped()
        self.watched = watch(clock=self.clock, tracing={"slow_seconds": 5.0})
        self.app = FastAPI()
        self.goes_on = threading.Event()
        self.app.get("/export/{secret}")(self.hold)
        self.app.get("/other")(self.hold)
        self.app.get("/quick")(lambda: 1)
        self.watched.obs.install(self.app)

    def hold(self, secret: str = "") -> str:
        """Keep a thread."""
        self.goes_on.wait(PATIENCE_SECONDS)
        return secret

    @asynccontextmanager
    async def served(self, threads: int = 2) -> AsyncIterator[Any]:
        """Serve with few threads."""
        async with self.watched.obs, client(self.app) as visitor:
            limiter = current_default_thread_limiter()
            before, limiter.total_tokens = limiter.total_tokens, threads
            try:
                yield visitor
            finally:
                self.goes_on.set()
                limiter.total_tokens = before

    def line(self, path: str) -> dict[str, Any]:
        """Return the line of the last request of a path."""
        return next(line for line in reversed(self.watched.access) if line["path"] == path)


async def held(threads: int) -> None:
    """Wait until so many threads are held."""
    await eventually(lambda: current_default_thread_limiter().statistics().borrowed_tokens == threads)


async def waiting(tasks: int) -> None:
    """Wait until so many tasks wait for a thread."""
    await eventually(lambda: current_default_thread_limiter().statistics().tasks_waiting == tasks)


@pytest.fixture
def pool(watch: Callable[..., Watched]) -> Pool:
    """Build a service with a pool."""
    return Pool(watch)


@exact
async def test_the_wait_and_who_holds_the_threads_are_told(pool: Pool) -> None:
    """Also of a request that is not slow for its route; the holder is a route, and no value of its path is shown."""
    async with pool.served(3) as visitor:
        holders = [asyncio.ensure_future(visitor.get(path)) for path in ("/export/s3cret", "/export/s3cret", "/other")]
        await held(3)
        request = asyncio.ensure_future(visitor.get("/quick"))
        await waiting(1)
        pool.clock.take(2_100)
        pool.goes_on.set()
        await asyncio.gather(request, *holders)
    line = pool.line("/quick")
    assert line["why"] == ["waited 2.1 s for a thread, held by GET /export/{secret}"]
    assert (line["cause"], line["kept"]) == ("thread_wait", "slow")
    # The wait is no part of the endpoint's time.
    assert line["timings"] == {"dependencies": 0, "endpoint": 0, "serialization": 0, "thread_wait": 2_100}
    assert not pool.watched.obs.internal_errors.counts


@exact
async def test_a_short_wait_is_not_told(pool: Pool) -> None:
    """Below 50 ms nobody asks."""
    async with pool.served(1) as visitor:
        holder = asyncio.ensure_future(visitor.get("/other"))
        await held(1)
        request = asyncio.ensure_future(visitor.get("/quick"))
        await waiting(1)
        pool.clock.take(49)
        pool.goes_on.set()
        await asyncio.gather(request, holder)
    assert not {"why", "cause", "timings"} & set(pool.line("/quick"))


@exact
async def test_a_free_thread_is_no_wait(pool: Pool) -> None:
    """However long the work in it takes."""
    pool.app.get("/work")(lambda: pool.clock.take(6_000))
    async with pool.served() as visitor:
        await visitor.get("/work")
    assert pool.line("/work")["timings"] == {"dependencies": 0, "endpoint": 6_000, "serialization": 0}


@exact
async def test_a_wait_in_a_dependency_is_told_once(pool: Pool) -> None:
    """Solving dependencies is not to blame for a thread that others held."""

    @pool.app.get("/dependent")
    async def read(user: Annotated[Any, Depends(lambda: 1)]) -> None:
        pool.clock.take(300)

    async with pool.served(1) as visitor:
        holder = asyncio.ensure_future(visitor.get("/other"))
        await held(1)
        request = asyncio.ensure_future(visitor.get("/dependent"))
        await waiting(1)
        pool.clock.take(800)
        pool.goes_on.set()
        await asyncio.gather(request, holder)
    line = pool.line("/dependent")
    assert line["why"] == ["waited 800 ms for a thread, held by GET /other"]
    assert line["timings"] == {"dependencies": 0, "endpoint": 300, "serialization": 0, "thread_wait": 800}


@exact
async def test_a_wait_that_is_given_up_ends_there(pool: Pool) -> None:
    """An endpoint with a time limit of its own waits no longer than that; and several waits at once count once."""

    @pool.app.get("/patient")
    async def read() -> None:
        tasks = [asyncio.ensure_future(anyio.to_thread.run_sync(int)) for _ in range(3)]
        await waiting(3)
        pool.clock.take(500)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        pool.clock.take(700)

    async with pool.served(1) as visitor:
        holder = asyncio.ensure_future(visitor.get("/other"))
        await held(1)
        await visitor.get("/patient")
        pool.goes_on.set()
        await holder
    assert pool.line("/patient")["timings"] == {"dependencies": 0, "endpoint": 700, "serialization": 0, "thread_wait": 500}


@exact
async def test_a_client_that_leaves_while_waiting(pool: Pool) -> None:
    """The wait lasts until then, and the line says for whom."""
    async with pool.served(1) as visitor:
        holder = asyncio.ensure_future(visitor.get("/other"))
        await held(1)
        request = asyncio.ensure_future(visitor.get("/quick"))
        await waiting(1)
        pool.clock.take(900)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        pool.goes_on.set()
        await holder
    assert pool.line("/quick")["why"] == ["waited 900 ms for a thread, held by GET /other"]


@exact
async def test_a_limiter_of_the_application_is_no_pool_of_threads(pool: Pool) -> None:
    """Who waits for something else that is limited does not wait for a thread."""
    limiter = anyio.CapacityLimiter(1)

    @pool.app.get("/limited")
    async def read() -> None:
        async with limiter:
            pool.clock.take(6_000)

    async with pool.served() as visitor:
        await limiter.acquire_on_behalf_of(pool)
        request = asyncio.ensure_future(visitor.get("/limited"))
        await eventually(lambda: limiter.statistics().tasks_waiting)
        limiter.release_on_behalf_of(pool)
        await request
    assert "thread_wait" not in pool.line("/limited")["timings"]


@exact
async def test_work_of_no_request_is_not_named(pool: Pool) -> None:
    """Threads that the application itself holds have no route; nor has a borrower that is no task."""
    async with pool.served() as visitor:
        limiter = current_default_thread_limiter()
        limiter.acquire_on_behalf_of_nowait("no task")
        own = asyncio.ensure_future(anyio.to_thread.run_sync(pool.goes_on.wait, PATIENCE_SECONDS))
        await held(2)
        request = asyncio.ensure_future(visitor.get("/quick"))
        await waiting(1)
        pool.clock.take(600)
        pool.goes_on.set()
        await asyncio.gather(request, own)
        limiter.release_on_behalf_of("no task")
    assert pool.line("/quick")["why"] == ["waited 600 ms for a thread"]


@exact
async def test_background_work_is_named_by_its_route(pool: Pool) -> None:
    """It holds a thread after its response, as far as prefixes of routers are known."""
    router = APIRouter(prefix="/jobs")

    @router.get("/{job}")
    async def start(job: str, tasks: BackgroundTasks) -> str:
        tasks.add_task(pool.hold)
        return job

    pool.app.include_router(router, prefix="/api")
    async with pool.served(1) as visitor:
        job = asyncio.ensure_future(visitor.get("/api/jobs/s3cret"))
        await held(1)
        request = asyncio.ensure_future(visitor.get("/quick"))
        await waiting(1)
        pool.clock.take(600)
        pool.goes_on.set()
        await asyncio.gather(request, job)
    assert pool.line("/quick")["why"] == ["waited 600 ms for a thread, held by GET /api/jobs/{job}"]


def codes_of(coroutine: Any) -> list[Any]:
    """Walk what a coroutine waits for, as one does who takes samples."""
    codes = []
    while inspect.iscoroutine(coroutine):
        codes.append(coroutine.cr_code)
        coroutine = coroutine.cr_await
    return codes
