"""Waits for connections of real pools: who held one, and the metrics of the pools."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import httpx
import psycopg_pool
import pytest
import redis
import redis.asyncio
import sqlalchemy
from fastapi import FastAPI
from servers import Postgres, Server
from sqlalchemy.ext.asyncio import create_async_engine
from support import PATIENCE_SECONDS, Watched, client, eventually

from sage_fastapi_obs.clients.postgres import instrument_postgres
from sage_fastapi_obs.clients.redis import instrument_redis

Hold = Callable[[], AbstractAsyncContextManager[Any]]
NAMES = ("db_client_connection_count", "db_client_connection_max", "db_client_connection_pending_requests")


@asynccontextmanager
async def asyncpg_pool(postgres: Postgres, _: Server) -> AsyncIterator[tuple[Any, Hold]]:
    async with asyncpg.create_pool(postgres.dsn, min_size=1, max_size=1) as pool:
        yield pool, pool.acquire


@asynccontextmanager
async def psycopg_async_pool(postgres: Postgres, _: Server) -> AsyncIterator[tuple[Any, Hold]]:
    options = {"min_size": 1, "max_size": 1, "open": False, "timeout": PATIENCE_SECONDS}
    async with psycopg_pool.AsyncConnectionPool(postgres.dsn, **options) as pool:
        await pool.wait(PATIENCE_SECONDS)
        yield pool, pool.connection


@asynccontextmanager
async def psycopg_sync_pool(postgres: Postgres, _: Server) -> AsyncIterator[tuple[Any, Hold]]:
    options = {"min_size": 1, "max_size": 1, "open": True, "timeout": PATIENCE_SECONDS}
    with psycopg_pool.ConnectionPool(postgres.dsn, **options) as pool:
        await asyncio.to_thread(pool.wait, PATIENCE_SECONDS)
        yield pool, lambda: in_thread(pool.getconn, pool.putconn)


@asynccontextmanager
async def sqlalchemy_engine(postgres: Postgres, _: Server) -> AsyncIterator[tuple[Any, Hold]]:
    dsn = postgres.dsn.replace("postgresql:", "postgresql+psycopg:")
    engine = sqlalchemy.create_engine(dsn, pool_size=1, max_overflow=0, pool_timeout=PATIENCE_SECONDS)
    yield engine, lambda: in_thread(engine.connect, lambda connection: connection.close())
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_engine(postgres: Postgres, _: Server) -> AsyncIterator[tuple[Any, Hold]]:
    dsn = postgres.dsn.replace("postgresql:", "postgresql+asyncpg:")
    engine = create_async_engine(dsn, pool_size=1, max_overflow=0, pool_timeout=PATIENCE_SECONDS)
    yield engine, engine.connect
    await engine.dispose()


@asynccontextmanager
async def redis_async(_: Postgres, server: Server) -> AsyncIterator[tuple[Any, Hold]]:
    pool = redis.asyncio.BlockingConnectionPool(host="localhost", port=server.port, max_connections=1, timeout=PATIENCE_SECONDS)
    async with redis.asyncio.Redis(connection_pool=pool) as cache:
        yield cache, lambda: of_redis(pool)
    await pool.aclose()


@asynccontextmanager
async def redis_sync(_: Postgres, server: Server) -> AsyncIterator[tuple[Any, Hold]]:
    pool = redis.BlockingConnectionPool(host="localhost", port=server.port, max_connections=1, timeout=PATIENCE_SECONDS)
    with redis.Redis(connection_pool=pool) as cache:
        yield cache, lambda: in_thread(pool.get_connection, pool.release)
    pool.disconnect()


@asynccontextmanager
async def of_redis(pool: Any) -> AsyncIterator[Any]:
    connection = await pool.get_connection()
    yield connection
    await pool.release(connection)


@asynccontextmanager
async def in_thread(take: Callable[[], Any], give_back: Callable[[Any], Any]) -> AsyncIterator[Any]:
    connection = await asyncio.to_thread(take)
    yield connection
    await asyncio.to_thread(give_back, connection)


POOLS = [
    *(asyncpg_pool, psycopg_async_pool, psycopg_sync_pool, sqlalchemy_engine, sqlalchemy_async_engine),
    *(redis_async, redis_sync),
]
every_pool = pytest.mark.parametrize("open_pool", POOLS, ids=lambda one: one.__name__)


class Service:
    """An app with a request that holds a connection, one that needs one, and one that needs two."""

    def __init__(self, watched: Watched, hold: Hold) -> None:
        self.watched = watched
        self.app = FastAPI()
        self.release = asyncio.Event()
        self.held = asyncio.Event()

        @self.app.get("/report/{number}")
        async def report(number: str) -> None:
            async with hold():
                self.held.set()
                await self.release.wait()

        @self.app.get("/quick")
        async def quick() -> None:
            async with hold():
                pass

        @self.app.get("/nested")
        async def nested() -> None:
            async with hold():
                self.held.set()
                waiting = asyncio.create_task(self._once(hold))
                await self.release.wait()
            await waiting

        watched.obs.install(self.app)

    async def _once(self, hold: Hold) -> None:
        async with hold():
            pass

    def pending(self) -> bool:
        """Tell whether somebody waits, by the metric."""
        return sum(self.watched.series("db_client_connection_pending_requests").values()) >= 1

    def line(self, route: str) -> dict[str, Any]:
        """Find the access line of a route."""
        (found,) = [line for line in self.watched.access if line["route"] == route]
        return found

    async def release_after(self, seconds: float) -> None:
        """Release once somebody has waited for so long."""
        await eventually(self.pending)
        await asyncio.sleep(seconds)
        self.release.set()


@every_pool
async def test_who_holds_the_connection_is_named(open_pool: Any, watched: Watched, postgres_at: Postgres, redis_at: Server):
    """A request that waits names the route that holds the connection, whose path and key are not told; that one waits not."""
    async with open_pool(postgres_at, redis_at) as (instrumentable, hold), serving(watched, hold) as (service, http):
        instrument(instrumentable)
        await http.get("/quick")
        holding = asyncio.create_task(http.get("/report/geheim"))
        await service.held.wait()
        waiting = asyncio.create_task(http.get("/quick"))
        await service.release_after(0.1)
        await asyncio.gather(holding, waiting)
        _, line = [line for line in watched.access if line["route"] == "/quick"]
        text, _, holder = line["why"][0].partition(" for ")
        assert (line["cause"], holder) == ("connection_wait", "a connection held by GET /report/{number}")
        assert text.startswith("waited ")
        assert line["timings"]["connection_wait"] >= 90
        assert "why" not in service.line("/report/{number}")


@every_pool
async def test_a_request_may_wait_for_itself(open_pool: Any, watched: Watched, postgres_at: Postgres, redis_at: Server):
    """One that holds all connections and asks for another says so."""
    async with open_pool(postgres_at, redis_at) as (instrumentable, hold), serving(watched, hold) as (service, http):
        instrument(instrumentable)
        waiting = asyncio.create_task(http.get("/nested"))
        await service.held.wait()
        await service.release_after(0.1)
        await waiting
        assert any("for a connection held by itself" in text for text in service.line("/nested")["why"])


@every_pool
async def test_a_holder_that_is_no_request(open_pool: Any, watched: Watched, postgres_at: Postgres, redis_at: Server):
    """Where something else holds the connection, nobody is named."""
    async with open_pool(postgres_at, redis_at) as (instrumentable, hold), serving(watched, hold) as (service, http):
        instrument(instrumentable)
        async with hold():
            waiting = asyncio.create_task(http.get("/quick"))
            await service.release_after(0.1)
        await waiting
        assert service.line("/quick")["why"][0].endswith(" for a connection held by other code")


@every_pool
async def test_the_metrics_of_a_pool(open_pool: Any, watched: Watched, postgres_at: Postgres, redis_at: Server):
    """In use, idle, ceiling and waiting are those of the pool; times are counted; undone, it is as it was."""
    async with open_pool(postgres_at, redis_at) as (instrumentable, hold):
        pool = getattr(instrumentable, "connection_pool", instrumentable)
        before = state_of(pool)
        instrumented = instrument(instrumentable)
        async with hold():
            (key,) = watched.series("db_client_connection_max")
            name = dict(key)["pool"]
            assert sizes(watched, name) == {"used": 1, "idle": 0, "max": 1, "pending": 0}
        assert sizes(watched, name) == {"used": 0, "idle": 1, "max": 1, "pending": 0}
        assert watched.value("db_client_connection_wait_time_seconds_count", pool=name) == 1
        assert watched.value("db_client_connection_use_time_seconds_count", pool=name) == 1
        assert name in {f"127.0.0.1:{postgres_at.port}/postgres", f"localhost:{redis_at.port}/0", getattr(pool, "name", "")}
        instrumented.undo()
        assert state_of(pool) == before
        async with hold():
            assert sizes(watched, name)["used"] == 0
        assert watched.value("db_client_connection_wait_time_seconds_count", pool=name) == 1


def state_of(client: Any) -> object:
    """Tell the type of a pool, and which attributes of its own it has, as a method that was put there."""
    pool = getattr(getattr(client, "sync_engine", client), "pool", client)
    return type(pool), {*getattr(pool, "__dict__", {})}


def sizes(watched: Watched, name: str) -> dict[str, Any]:
    return {
        "used": watched.value("db_client_connection_count", pool=name, state="used"),
        "idle": watched.value("db_client_connection_count", pool=name, state="idle"),
        "max": watched.value("db_client_connection_max", pool=name),
        "pending": watched.value("db_client_connection_pending_requests", pool=name),
    }


def instrument(instrumentable: Any) -> Any:
    is_redis = hasattr(instrumentable, "connection_pool")
    return instrument_redis(instrumentable) if is_redis else instrument_postgres(instrumentable)


@asynccontextmanager
async def serving(watched: Watched, hold: Hold) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    service = Service(watched, hold)
    async with client(service.app, timeout=PATIENCE_SECONDS) as http:
        yield service, http
