"""Waits for connections of real pools: who held one, and the metrics of the pools."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.postgres import instrument_postgres
from sage_fastapi_obs.clients.redis import instrument_redis
from sage_fastapi_obs.insight.pool_use import Asking, Loan

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
    # Not in a thread: all of them may wait for this connection.
    give_back(connection)


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
        await service.release_after(0.5)
        await asyncio.gather(holding, waiting)
        _, line = [line for line in watched.access if line["route"] == "/quick"]
        assert holders(line) == ["a connection held by GET /report/{number}"]
        assert line["timings"]["connection_wait"] >= 490
        assert holders(service.line("/report/{number}")) == []


@every_pool
async def test_a_request_may_wait_for_itself(open_pool: Any, watched: Watched, postgres_at: Postgres, redis_at: Server):
    """One that holds all connections and asks for another says so."""
    async with open_pool(postgres_at, redis_at) as (instrumentable, hold), serving(watched, hold) as (service, http):
        instrument(instrumentable)
        waiting = asyncio.create_task(http.get("/nested"))
        await service.held.wait()
        await service.release_after(0.5)
        await waiting
        assert any("for a connection held by itself" in text for text in service.line("/nested")["why"])


@every_pool
async def test_a_holder_that_is_no_request(open_pool: Any, watched: Watched, postgres_at: Postgres, redis_at: Server):
    """Where something else holds the connection, nobody is named."""
    async with open_pool(postgres_at, redis_at) as (instrumentable, hold), serving(watched, hold) as (service, http):
        instrument(instrumentable)
        for _ in range(3):
            # More than once only where the machine was so busy that something else took most of its time.
            async with hold():
                waiting = asyncio.create_task(http.get("/quick"))
                await service.release_after(0.5)
            await waiting
            *_, line = [line for line in watched.access if line["route"] == "/quick"]
            if holders(line):
                break
        assert holders(line) == ["a connection held by other code"], line


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


def holders(line: dict[str, Any]) -> list[str]:
    """Find what a request has waited for among its causes: on a busy machine there may be others."""
    waits = [text.removeprefix("waited ").partition(" for ") for text in line.get("why", ()) if text.startswith("waited ")]
    return [what for _, _, what in waits if "connection" in what]


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


@pytest.mark.parametrize("open_pool", [sqlalchemy_engine, sqlalchemy_async_engine], ids=lambda one: one.__name__)
async def test_an_engine_that_is_disposed_of(open_pool: Any, watched: Watched, postgres_at: Postgres, redis_at: Server):
    """The pool that takes the place of another is watched; connections that leave or break are not held any more."""
    async with open_pool(postgres_at, redis_at) as (engine, hold):
        instrumented = instrument(engine)
        async with hold():
            pass
        if open_pool is sqlalchemy_engine:
            engine.dispose()
        else:
            await engine.dispose()
        name = f"127.0.0.1:{postgres_at.port}/postgres"
        async with hold() as connection:
            assert sizes(watched, name)["used"] == 1
            if open_pool is sqlalchemy_engine:
                connection.invalidate()
            else:
                await connection.invalidate()
        assert sizes(watched, name)["used"] == 0
        assert watched.value("db_client_connection_wait_time_seconds_count", pool=name) == 2
        instrumented.undo()
        assert "connect" not in vars(getattr(engine, "sync_engine", engine).pool)
        pool_events = getattr(engine, "sync_engine", engine).pool.dispatch
        assert not [*pool_events.checkin, *pool_events.detach]


async def test_a_detached_connection_is_not_held(watched: Watched, postgres_at: Postgres):
    """What the application takes out of the pool for good makes room for another."""
    engine = sqlalchemy.create_engine(postgres_at.dsn.replace("postgresql:", "postgresql+psycopg:"))
    instrument_postgres(engine)
    connection = engine.connect()
    name = f"127.0.0.1:{postgres_at.port}/postgres"
    assert watched.value("db_client_connection_use_time_seconds_count", pool=name) == 0
    connection.detach()
    assert watched.value("db_client_connection_use_time_seconds_count", pool=name) == 1
    connection.close()
    engine.dispose()


async def test_a_failed_wait_is_told(watch: Any, postgres_at: Postgres):
    """A request that gives up, and fails, has waited all the same, and knows for whom."""
    watched = watch()
    async with watched.obs, asyncpg.create_pool(postgres_at.dsn, min_size=1, max_size=1) as pool:
        instrument_postgres(pool)
        async with serving(watched, lambda: pool.acquire(timeout=0.2)) as (service, http):
            holding = asyncio.create_task(http.get("/report/1"))
            await service.held.wait()
            assert (await http.get("/quick")).status_code == 500
            service.release.set()
            await holding
    assert "for a connection held by GET /report/{number}" in str(service.line("/quick")["why"])


async def test_without_insight_there_are_metrics_only(watch: Any, postgres_at: Postgres):
    """Where causes are switched off, pools are counted, and nobody is named."""
    watched = watch(insight={"enabled": False})
    async with watched.obs, asyncpg.create_pool(postgres_at.dsn, min_size=1, max_size=1) as pool:
        instrument_postgres(pool)
        async with serving(watched, pool.acquire) as (service, http):
            holding = asyncio.create_task(http.get("/report/1"))
            await service.held.wait()
            waiting = asyncio.create_task(http.get("/quick"))
            await service.release_after(0.5)
            await asyncio.gather(holding, waiting)
    assert holders(service.line("/quick")) == []
    assert watched.value("db_client_connection_wait_time_seconds_count", pool=f"127.0.0.1:{postgres_at.port}/postgres") == 2


async def test_two_apps_do_not_meet(watch: Any, watched: Watched, postgres_at: Postgres):
    """A route of another app in the process is other code."""
    other = watch()
    async with other.obs, asyncpg.create_pool(postgres_at.dsn, min_size=1, max_size=1) as pool:
        instrument_postgres(pool)
        async with serving(watched, pool.acquire) as (service, http), serving(other, pool.acquire) as (theirs, their_http):
            holding = asyncio.create_task(their_http.get("/report/1"))
            await theirs.held.wait()
            waiting = asyncio.create_task(http.get("/quick"))
            await eventually(lambda: service.pending() or theirs.pending())
            await asyncio.sleep(0.1)
            theirs.release.set()
            await asyncio.gather(holding, waiting)
    assert holders(service.line("/quick")) == ["a connection held by other code"]


async def test_nothing_of_a_request_stays_with_a_pool(watched: Watched, postgres_at: Postgres):
    """Once connections are back and nobody waits, a pool knows no request any more."""
    async with asyncpg.create_pool(postgres_at.dsn, min_size=1, max_size=2) as pool:
        instrument_postgres(pool)
        async with serving(watched, pool.acquire) as (_, http):
            await asyncio.gather(*(http.get("/quick") for _ in range(20)))
        # What another thread is just making is not to be seen before it is made.
        watched.obs.insight.stop()
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) in (Loan, Asking)]


class Slow(BaseHTTPRequestHandler):
    """Answers once it is allowed to."""

    protocol_version = "HTTP/1.1"
    may_answer = threading.Event()

    def do_GET(self) -> None:
        """Answer."""
        if self.path.startswith("/slow"):
            self.may_answer.wait(PATIENCE_SECONDS)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service_at() -> Iterator[str]:
    """Run another service."""
    Slow.may_answer.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("is_async", [True, False])
async def test_connections_of_httpx(watched: Watched, service_at: str, is_async: bool):
    """A request that waits for a connection to another service names who uses it, and the call itself was short."""
    heard: list[str] = []
    options: Any = {"limits": httpx.Limits(max_connections=1), "timeout": PATIENCE_SECONDS, "base_url": service_at}
    app = FastAPI()

    async def hear(event: str, _: Any) -> None:
        heard.append(event)

    async with httpx.AsyncClient(**options) as http, asynccontextmanager(closing)(httpx.Client(**options)) as sync_http:
        instrumented = instrument_httpx(http if is_async else sync_http)

        async def ask(path: str, **more: Any) -> None:
            await (http.get(path, **more) if is_async else asyncio.to_thread(sync_http.get, path))

        @app.get("/report/{number}")
        async def report(number: str) -> None:
            await ask(f"/slow/{number}", **({"extensions": {"trace": hear}} if is_async else {}))

        @app.get("/quick")
        async def quick() -> None:
            await ask("/quick")

        watched.obs.install(app)
        async with client(app, timeout=PATIENCE_SECONDS) as own:
            holding = asyncio.create_task(own.get("/report/geheim"))
            await eventually(lambda: calls_of(http if is_async else sync_http))
            waiting = asyncio.create_task(own.get("/quick"))
            await asyncio.sleep(0.2)
            Slow.may_answer.set()
            await asyncio.gather(holding, waiting)
            assert not calls_of(http if is_async else sync_http)
            instrumented.undo()
    (line,) = [line for line in watched.access if line["route"] == "/quick"]
    assert holders(line) == ["a connection held by GET /report/{number}"]
    assert line["timings"]["connection_wait"] >= 100
    assert bool(heard) == is_async


def calls_of(http: Any) -> int:
    """Count the requests of a client that use a connection."""
    return sum(not connection.is_idle() for connection in http._transport._pool.connections)


async def closing(http: httpx.Client) -> AsyncIterator[httpx.Client]:
    with http:
        yield http


async def test_a_transport_without_connections(watched: Watched):
    """A request that is answered in process waits for no connection, however long that takes."""

    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.1)
        return httpx.Response(200)

    app = FastAPI()
    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        instrument_httpx(http)

        @app.get("/work")
        async def work() -> None:
            await http.get("http://api.example.com")

        watched.obs.install(app)
        async with client(app) as own:
            await own.get("/work")
    assert "connection" not in str(watched.access[0])


@every_pool
async def test_watching_begins_and_ends_among_requests(
    open_pool: Any, watched: Watched, postgres_at: Postgres, redis_at: Server
):
    """A hundred overlapping requests are all answered while watching starts and stops, and in the end nothing is held."""
    async with open_pool(postgres_at, redis_at) as (instrumentable, hold), serving(watched, hold) as (_, http):
        before = state_of(getattr(instrumentable, "connection_pool", instrumentable))
        requests = [asyncio.create_task(http.get("/quick")) for _ in range(100)]
        while not all(request.done() for request in requests):
            instrumented = instrument(instrumentable)
            await asyncio.sleep(0.002)
            instrumented.undo()
            await asyncio.sleep(0.001)
        assert [request.result().status_code for request in requests] == [200] * 100
        assert state_of(getattr(instrumentable, "connection_pool", instrumentable)) == before
        assert not sum(watched.series("db_client_connection_pending_requests").values())
