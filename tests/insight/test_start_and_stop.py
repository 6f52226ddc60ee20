"""Observers start and stop while requests are served: answers stay right, and nothing stays behind."""

import asyncio
import gc
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
import starlette.concurrency
import uvloop
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from support import Watched, client, eventually, times

from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.postgres import instrument_postgres

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
EXPECTED = {
    "/fine/{n}": 200,
    "/waiting/{n}": 200,
    "/blocking/{n}": 200,
    "/thread/{n}": 200,
    "/queries/{n}": 200,
    "/call/{n}": 200,
    "/refused/{n}": 403,
    "/failing/{n}": 500,
    "/fine/none-{n}": 422,
}


def busy_app() -> FastAPI:
    """Build an app whose requests have every cause, for short."""
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=NullPool)
    instrument_postgres(engine)
    partner = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    instrument_httpx(partner)

    async def part() -> int:
        await asyncio.sleep(0.001)
        return 1

    @app.get("/fine/{n}")
    async def fine(n: int, one: Annotated[int, Depends(part)]) -> int:
        return n * one

    @app.get("/waiting/{n}")
    async def waiting(n: int) -> int:
        await asyncio.sleep(0.12)
        return n

    @app.get("/blocking/{n}")
    async def blocking(n: int) -> int:
        time.sleep(0.02)  # noqa: ASYNC251 - on purpose
        return n

    @app.get("/thread/{n}")
    def thread(n: int) -> int:
        time.sleep(0.01)
        return n

    @app.get("/queries/{n}")
    def queries(n: int) -> int:
        with engine.connect() as connection:
            return max(connection.execute(text("select :n"), {"n": n}).scalar_one() for _ in range(12))

    @app.get("/call/{n}")
    async def call(n: int) -> int:
        await partner.get("http://partner/")
        return n

    @app.get("/refused/{n}")
    async def refused(n: int) -> int:
        raise HTTPException(403, str(n))

    @app.get("/failing/{n}")
    async def failing(n: int) -> int:
        raise LookupError(n)

    return app


def of_the_process() -> dict[str, Any]:
    """Describe what observers may change outside of their own objects."""
    tools = getattr(sys, "monitoring", None)
    return {
        "collector": [*gc.callbacks],
        "collector runs": gc.isenabled(),
        "tools": tools and [tools.get_tool(number) for number in range(6)],
        "events": tools and [tools.get_events(number) for number in range(6) if tools.get_tool(number)],
        "signals": [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)],
        "profile": (sys.getprofile(), sys.gettrace(), threading.getprofile(), threading.gettrace()),
        "threads of starlette": starlette.concurrency.run_in_threadpool,
        "sqlite": sqlite3.connect,
        "switches": sys.getswitchinterval(),
    }


async def ask_all(app: FastAPI, rounds: int) -> list[tuple[str, int, str]]:
    """Ask for everything at once; return what was wrong."""
    async with client(app, timeout=None) as http:
        paths = [(template, template.format(n=number)) for number in range(rounds) for template in EXPECTED]
        answers = await asyncio.gather(*(http.get(path) for _, path in paths))
    return [
        (path, answer.status_code, answer.text)
        for number, ((template, path), answer) in enumerate(zip(paths, answers, strict=True))
        if answer.status_code != EXPECTED[template]
        or (answer.status_code == 200 and answer.text != str(number // len(EXPECTED)))
    ]


@asynccontextmanager
async def switching(switch: Callable[[], Any]) -> AsyncIterator[list[int]]:
    """Do something again and again meanwhile, in the thread of the loop; yield how often it was done."""
    done = [0]

    async def go_on() -> None:
        while True:
            await asyncio.sleep(0.001)
            switch()
            done[0] += 1

    task = asyncio.create_task(go_on())
    try:
        yield done
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("loop", LOOPS)
def test_observers_start_and_stop_while_requests_run(loop: str, watch: Callable[..., Watched]) -> None:
    """More than 100 requests overlap while every observer starts and stops: each answer is right, and no error is ours."""
    watched = watch(tracing={"slow_seconds": 0.1})
    app = busy_app()
    watched.obs.install(app)

    async def story() -> None:
        async with watched.obs:
            observers = watched.obs.insight
            assert observers is not None

            def switch() -> None:
                observers.stop()
                observers.start()

            async with switching(switch) as done:
                for _ in range(times(2)):
                    assert await ask_all(app, 15) == []
            assert done[0]
            assert await ask_all(app, 1) == []

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(story())
    assert not watched.series("sage_obs_internal_errors_total"), watched.series("sage_obs_internal_errors_total")
    assert len(watched.access) == (times(2) * 15 + 1) * len(EXPECTED)


@pytest.mark.parametrize("loop", LOOPS)
def test_one_stops_while_another_goes_on(loop: str, watch: Callable[..., Watched]) -> None:
    """An `Observability` that is started and ended again and again takes nothing from another one that serves meanwhile."""
    stays, comes = watch(tracing={"slow_seconds": 0.1}), watch()
    app = busy_app()
    stays.obs.install(app)
    other = FastAPI()
    comes.obs.install(other)

    async def story() -> None:
        async with stays.obs:
            asked = asyncio.create_task(ask_all(app, 15))
            ended = 0
            while not asked.done() or ended < 3:
                async with comes.obs:
                    await asyncio.sleep(0.01)
                ended += 1
            assert await asked == []
            comes.obs.logs.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(story())
    assert not stays.series("sage_obs_internal_errors_total")
    assert not comes.series("sage_obs_internal_errors_total")
    slow = [line for line in stays.access if line["route"] == "/waiting/{n}"]
    assert len(slow) == 15
    assert all(line.get("why") for line in slow), slow


async def test_what_observers_change_is_given_back(watch: Callable[..., Watched]) -> None:
    """Once it has ended, tools, callbacks, signals, the collector and the threads of the process are as they were before."""
    await ask_all(busy_app(), 1)
    before, threads = of_the_process(), {*threading.enumerate()}
    for _ in range(3):
        watched = watch(tracing={"slow_seconds": 0.1})
        app = busy_app()
        watched.obs.install(app)
        async with watched.obs:
            assert await ask_all(app, 2) == []
        assert of_the_process() == before

    def left() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each not in threads and "sage" in each.name]

    await eventually(lambda: not left(), "end of threads")


async def test_nothing_of_it_runs_when_it_is_off(watch: Callable[..., Watched]) -> None:
    """With `insight.enabled` false there is no thread, no tool, no callback and no note on a request."""
    await ask_all(busy_app(), 1)
    before, threads = of_the_process(), {each.name for each in threading.enumerate()}
    watched = watch(insight={"enabled": False}, tracing={"slow_seconds": 0.1}, metrics={"enabled": False})
    app = busy_app()
    watched.obs.install(app)
    async with watched.obs:
        assert await ask_all(app, 3) == []
        during = of_the_process()
        started = {each.name for each in threading.enumerate()} - threads
    assert watched.obs.insight is None
    assert during == before
    assert not [name for name in started if "insight" in name or "watch" in name], started
    assert not [line for line in watched.access if "why" in line or "cause" in line]
