"""Queries and other calls as causes: those of real clients, in real requests."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psycopg
import pytest
import redis.asyncio
import sqlalchemy
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import JSONResponse
from servers import Postgres, Server
from sqlalchemy.ext.asyncio import create_async_engine
from support import Watched, client

from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.postgres import instrument_postgres
from sage_fastapi_obs.clients.redis import instrument_redis
from sage_fastapi_obs.clients.track import track_dependency
from sage_fastapi_obs.request.exchange import current_exchange

THIS = "tests/clients/test_slow_calls.py"
SLEEP = "select pg_sleep(0.006), 'geheim' as secret"
Query = Callable[[], Awaitable[Any]]


async def answered(watched: Watched, work: Callable[[], Any]) -> dict[str, Any]:
    """Do some work in a request, and return its access line."""
    app = FastAPI()
    app.get("/work")(work)
    watched.obs.install(app)
    # What the tests before have left takes long to be looked through, and would be told as a cause.
    gc.disable()
    try:
        async with client(app) as http:
            assert (await http.get("/work?key=geheim")).status_code == 200
    finally:
        gc.enable()
    (line,) = watched.access
    assert "geheim" not in str([line.get("why"), line.get("timings")])
    return line


def line_of(function: Callable[..., Any], text: str) -> str:
    """Find the line of a function that has some text."""
    code = function.__code__
    numbered = [*enumerate(Path(code.co_filename).read_text().splitlines(), 1)][code.co_firstlineno - 1 :]
    return f"{THIS}:{next(number for number, line in numbered if text in line)}"


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[Query]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        instrument_postgres(pool)
        yield lambda: pool.fetch(SLEEP)


@asynccontextmanager
async def psycopg_connection(dsn: str) -> AsyncIterator[Query]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        instrument_postgres(connection)
        yield lambda: connection.execute(SLEEP)


@asynccontextmanager
async def sqlalchemy_async(dsn: str) -> AsyncIterator[Query]:
    engine = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:"))
    instrument_postgres(engine)
    async with engine.connect() as connection:
        yield lambda: connection.execute(sqlalchemy.text(SLEEP))
    await engine.dispose()


CLIENTS = [asyncpg_pool, psycopg_connection, sqlalchemy_async]


@pytest.mark.parametrize("open_client", CLIENTS, ids=lambda one: one.__name__)
async def test_a_repeated_query_is_told_with_its_line(open_client: Any, watched: Watched, postgres_at: Postgres):
    """A query of one shape that is sent 37 times is the cause, with the line that sends it, through layers of libraries."""
    async with open_client(postgres_at.dsn) as query:

        async def load() -> None:
            for _ in range(37):
                await query()  # here

        line = await answered(watched, load)
    text, _, shape = next(text for text in line["why"] if "query" in text).partition(" ms: ")
    assert text.startswith(f"the same query 37 times at {line_of(load, '# here')}, ")
    assert shape == "select"
    assert line["timings"]["database"] >= 200


async def test_a_sync_endpoint_and_its_literals(watched: Watched):
    """Queries with other literals are the same query, in a thread too, and no literal is told."""
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.StaticPool, connect_args={"check_same_thread": False})
    instrument_postgres(engine)
    sqlalchemy.event.listen(engine, "connect", lambda raw, _: raw.create_function("wait", 1, lambda _: time.sleep(0.006)))

    def load() -> None:
        with engine.connect() as connection:
            for number in range(12):
                connection.exec_driver_sql(f"select wait('geheim'), {number}")  # here

    line = await answered(watched, load)
    assert any(text.startswith(f"the same query 12 times at {line_of(load, '# here')}, ") for text in line["why"])
    engine.dispose()


async def test_queries_at_the_same_time_cost_what_they_took_together(watched: Watched, postgres_at: Postgres):
    """Twelve queries in `gather` are told with the time that passed, not with its sum."""
    async with asyncpg.create_pool(postgres_at.dsn, min_size=12, max_size=12) as pool:
        instrument_postgres(pool)

        async def load() -> None:
            await asyncio.gather(*(pool.fetch("select pg_sleep(0.2)") for _ in range(12)))

        line = await answered(watched, load)
    assert any(text.startswith("the same query 12 times") for text in line["why"])
    assert 200 <= line["timings"]["database"] <= line["duration_ms"]


async def test_a_slow_query_beside_repeated_ones(watched: Watched, postgres_at: Postgres):
    """What repeated queries took is not told again as time of the database; the longer one comes first."""
    async with asyncpg.create_pool(postgres_at.dsn, min_size=1, max_size=1) as pool:
        instrument_postgres(pool)

        async def load() -> None:
            for _ in range(12):
                await pool.fetch("select pg_sleep(0.01)")
            await pool.fetch("select pg_sleep(0.5) from pg_class limit 1")

        line = await answered(watched, load)
    slow, repeated = line["why"]
    assert slow.startswith("the database took ")
    assert slow.endswith(": select pg_class")
    assert repeated.startswith("the same query 12 times")
    assert line["timings"]["database"] >= 610
    assert 500 <= float(slow.split()[3]) < line["timings"]["database"] - 100


async def test_other_calls_are_told_by_their_names(watch: Any, redis_at: Server):
    """A command, a service by its host, and whatever is tracked by hand: with their time, their number and no key."""
    watched = watch(tracing={"slow_seconds": 0.5})

    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.1)
        return httpx.Response(200)

    async with (
        watched.obs,
        redis.asyncio.Redis(port=redis_at.port) as cache,
        httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http,
    ):
        instrument_redis(cache)
        instrument_httpx(http)

        async def load() -> None:
            await cache.blpop(["geheim"], timeout=0.6)
            for _ in range(3):
                await http.get("https://api.example.com/geheim")
            with track_dependency("ledger", "book"):
                await asyncio.sleep(0.15)

        line = await answered(watched, load)
    first, second, third = (text.partition(" took ") for text in line["why"])
    assert (first[0], second[0], third[0]) == ("redis BLPOP", "api.example.com", "ledger book")
    assert second[2].endswith(" ms in 3 calls")
    assert line["cause"] == "call"
    assert line["timings"]["calls"] >= 1_000


@pytest.mark.parametrize("insight", [True, False])
async def test_nothing_is_noted_without_insight(watch: Any, postgres_at: Postgres, insight: bool):
    """Where causes are switched off, a request takes no notes of its queries."""
    watched = watch(insight={"enabled": insight})
    noted = []
    async with watched.obs, asyncpg.create_pool(postgres_at.dsn, min_size=1, max_size=1) as pool:
        instrument_postgres(pool)

        async def load() -> None:
            for _ in range(20):
                await pool.fetch("select 1")
            exchange = current_exchange.get()
            assert exchange is not None
            noted.append(exchange.facts)

        line = await answered(watched, load)
    assert (noted[0] is not None) == insight
    assert insight or "why" not in line


async def test_work_after_the_answer_is_not_counted(watched: Watched, postgres_at: Postgres):
    """Queries of background tasks cost the client nothing, also where the answer was a 500."""
    async with asyncpg.create_pool(postgres_at.dsn, min_size=1, max_size=1) as pool:
        instrument_postgres(pool)

        async def later() -> None:
            for _ in range(12):
                await pool.fetch(SLEEP)

        async def load(tasks: BackgroundTasks) -> JSONResponse:
            tasks.add_task(later)
            await asyncio.sleep(0.1)
            return JSONResponse({}, 500, background=tasks)

        app = FastAPI()
        app.get("/work")(load)
        watched.obs.install(app)
        async with client(app) as http:
            await http.get("/work")
    (line,) = watched.access
    assert "database" not in (line.get("timings") or {})
    assert "query" not in str(line.get("why"))
