"""Queries through every client of PostgreSQL, against a real one."""

import asyncio
import gc
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import asyncpg
import psycopg
import psycopg_pool
import pytest
import redis
import sqlalchemy
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.trace import SpanKind, StatusCode
from psycopg import sql
from servers import Postgres, running
from sqlalchemy.ext.asyncio import create_async_engine
from support import PATIENCE_SECONDS, Watched, eventually

from sage_fastapi_obs.clients import sql_calls
from sage_fastapi_obs.clients.postgres import instrument_postgres
from sage_fastapi_obs.clients.postgres.psycopg import _text_of
from sage_fastapi_obs.clients.redis import instrument_redis

Run = Callable[[str], Awaitable[Any]]


async def _done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def asyncpg_connection(dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection, lambda query: connection.fetch(query)
    finally:
        with suppress(Exception):
            await connection.close(timeout=1)


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        yield pool, lambda query: pool.fetch(query)


@asynccontextmanager
async def psycopg_connection(dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection, lambda query: _done(connection.execute(query))


@asynccontextmanager
async def psycopg_async_connection(dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection, lambda query: connection.execute(query)


@asynccontextmanager
async def psycopg_async_pool(dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    options = {"kwargs": {"autocommit": True}, "min_size": 1, "open": False, "timeout": PATIENCE_SECONDS, "check": _check_async}
    async with psycopg_pool.AsyncConnectionPool(dsn, **options) as pool:

        async def run(query: str) -> None:
            async with pool.connection() as connection:
                await connection.execute(query)

        yield pool, run


async def _check_async(connection: Any) -> None:
    await psycopg_pool.AsyncConnectionPool.check_connection(connection)


@asynccontextmanager
async def psycopg_sync_pool(dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    options = {"kwargs": {"autocommit": True}, "min_size": 1, "open": True, "timeout": PATIENCE_SECONDS}
    with psycopg_pool.ConnectionPool(dsn, check=psycopg_pool.ConnectionPool.check_connection, **options) as pool:

        def run(query: str) -> None:
            with pool.connection() as connection:
                connection.execute(query)

        yield pool, lambda query: asyncio.to_thread(run, query)


@asynccontextmanager
async def sqlalchemy_engine(dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    engine = sqlalchemy.create_engine(dsn.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")

    def run(query: str) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(query)

    await asyncio.to_thread(run, "select 0")
    yield engine, lambda query: asyncio.to_thread(run, query)
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_engine(dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    engine = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:"), isolation_level="AUTOCOMMIT")

    async def run(query: str) -> None:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(query)

    await run("select 0")
    yield engine, run
    await engine.dispose()


CLIENTS = [
    *(asyncpg_connection, asyncpg_pool, psycopg_connection, psycopg_async_connection, psycopg_async_pool, psycopg_sync_pool),
    *(sqlalchemy_engine, sqlalchemy_async_engine),
]
POOLS = [client for client in CLIENTS if "connection" not in client.__name__]
every_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)


def counted(watched: Watched) -> dict[str, float]:
    """Read what was counted, as `select success`."""
    series = watched.series("pg_queries_total")
    return {" ".join(value for _, value in key): count for key, count in series.items() if count}


@every_client
async def test_a_query_is_a_span_and_counts(client: Any, watched: Watched, postgres_at: Postgres):
    """The same call has the same span and numbers through every client, and no value is told."""
    async with client(postgres_at.dsn) as (instrumentable, run):
        instrument_postgres(instrumentable)
        await run("select relname from pg_class where relname = 'geheim' and relpages > 12345")
    (span,) = watched.spans
    assert (span.name, span.kind, span.status.status_code) == ("select pg_class", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes) == {
        "db.system.name": "postgresql",
        "db.namespace": "postgres",
        "db.query.text": "select relname from pg_class where relname = ? and relpages > ?",
        "db.query.summary": "select pg_class",
        "server.address": "127.0.0.1",
        "server.port": postgres_at.port,
    }
    assert counted(watched) == {"select success": 1}
    took = (span.end_time - span.start_time) / 1e9
    assert watched.value("pg_query_duration_seconds_sum", operation="select") == pytest.approx(took)


@every_client
async def test_a_refused_query_is_named_by_its_sqlstate(client: Any, watched: Watched, postgres_at: Postgres):
    """The server's code is status code and error type; its message, which quotes values, is not told."""
    async with client(postgres_at.dsn) as (instrumentable, run):
        instrument_postgres(instrumentable)
        with pytest.raises(Exception, match="geheim"):
            await run("select 'geheim'::int")
    (span,) = watched.spans
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes["error.type"], span.attributes["db.response.status_code"]) == ("22P02", "22P02")
    assert "geheim" not in span.to_json()
    assert counted(watched) == {"select failure": 1}


@every_client
async def test_twice_counts_once_and_the_way_back_is_whole(client: Any, watched: Watched, postgres_at: Postgres):
    """Watched twice, a client tells once; undone, it tells nothing, and can be watched again."""
    async with client(postgres_at.dsn) as (instrumentable, run):
        kind = type(instrumentable)
        first, second = instrument_postgres(instrumentable), instrument_postgres(instrumentable)
        assert first.client is instrumentable
        await run("select 1")
        assert len(watched.spans) == 1
        second.undo()
        first.undo()
        assert type(instrumentable) is kind
        await run("select 2")
        assert len(watched.spans) == 1
        instrument_postgres(instrumentable)
        await run("select 3")
    assert len(watched.spans) == 2
    assert counted(watched) == {"select success": 2}


async def sleeping(server: Postgres) -> None:
    """Wait until a query sleeps in the server."""
    query = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'"

    def is_sleeping() -> int:
        with psycopg.connect(server.dsn) as connection:
            return connection.execute(query).fetchone()[0]

    await eventually(is_sleeping)


async def succeeds(query: Any) -> bool:
    try:
        await query
    except Exception:
        return False
    return True


@pytest.mark.parametrize("client", POOLS, ids=lambda client: client.__name__)
async def test_a_killed_server_is_a_failure_and_a_started_one_none(client: Any, watched: Watched):
    """Under traffic: the query that runs fails by name, and after a new start the same pool's queries are told again."""
    with running(Postgres()) as server:
        async with client(server.dsn) as (instrumentable, run):
            instrument_postgres(instrumentable)
            await asyncio.gather(*(run("select 1") for _ in range(5)))
            hanging = asyncio.create_task(run("select pg_sleep(60)"))
            await sleeping(server)
            server.kill()
            with pytest.raises(Exception):  # noqa: B017 - each library has its own
                await asyncio.wait_for(hanging, PATIENCE_SECONDS)
            failed = [span for span in watched.spans if span.status.status_code is StatusCode.ERROR]
            assert [span.attributes["db.query.text"] for span in failed] == ["select pg_sleep(?)"]
            assert failed[0].attributes["error.type"].startswith(("asyncpg.", "psycopg.", "sqlalchemy.", "57P0", "0800"))
            server.start()
            await eventually(lambda: succeeds(run("select 2")))
            watched.exporter.clear()
            await run("update pg_class set relname = 'x' where false")
            (span,) = [span for span in watched.spans if span.name.startswith("update")]
            assert span.status.status_code is StatusCode.UNSET
    assert counted(watched)["update success"] == 1
    assert counted(watched)["select failure"] >= 1


@pytest.mark.parametrize(
    "client", [asyncpg_connection, asyncpg_pool, psycopg_async_connection, sqlalchemy_async_engine], ids=lambda c: c.__name__
)
async def test_a_cancelled_query_is_neither(client: Any, watched: Watched, postgres_at: Postgres):
    """A caller that gives up is no failure of the database, is told, and leaves no span current."""
    async with client(postgres_at.dsn) as (instrumentable, run):
        instrument_postgres(instrumentable)
        running_query = asyncio.ensure_future(run("select pg_sleep(60)"))
        await sleeping(postgres_at)
        running_query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running_query
        (span,) = watched.spans
        assert span.status.status_code is StatusCode.UNSET
        assert counted(watched) == {}
        await run("select 1")
    assert watched.spans[1].parent is None


def connections() -> set[int]:
    """Find all connections that something refers to."""
    gc.collect()
    # By its type: what looks like something else may fail to say what.
    return {id(one) for one in gc.get_objects() if issubclass(type(one), asyncpg.Connection | psycopg.AsyncConnection)}


@pytest.mark.parametrize("client", [asyncpg_pool, psycopg_async_pool], ids=lambda client: client.__name__)
async def test_a_pool_forgets_the_connections_it_has_closed(client: Any, watched: Watched, postgres_at: Postgres, caplog: Any):
    """However many connections a pool goes through, what is kept of them does not grow."""
    # Log records that the test keeps have connections in them.
    caplog.set_level(logging.ERROR, "psycopg.pool")
    before = connections()
    async with client(postgres_at.dsn) as (pool, run):
        instrumented = instrument_postgres(pool)
        at_first = len(instrumented._undo)
        for _ in range(5):
            with suppress(Exception):
                await run("select pg_terminate_backend(pg_backend_pid())")
        await run("select 1")
        assert len(instrumented._undo) == at_first
        assert len(connections() - before) <= 3
    assert watched.spans[-1].name == "select"


def test_a_client_that_cannot_be_watched_is_left_as_it_was():
    """Where watching fails half-way, the error is raised, and nothing stays behind."""

    class Broken(redis.Redis):
        @property
        def pipeline(self) -> Any:
            return print

    broken = Broken()
    before = dict(vars(broken))
    with pytest.raises(AttributeError):
        instrument_redis(broken)
    assert vars(broken) == before


async def test_asyncpg_in_all_its_ways(watched: Watched, postgres_at: Postgres):
    """Prepared statements, sets of arguments, copies and transactions are told; what a pool does by itself is not."""
    async with asyncpg.create_pool(postgres_at.dsn, min_size=1, max_size=3) as pool:
        instrument_postgres(pool)
        async with pool.acquire() as one, pool.acquire() as another:
            await one.execute("create temp table t (a int)")
            await one.executemany("insert into t values ($1)", [(1,), (2,)])
            await one.executemany(command="insert into t values ($1)", args=[])
            prepared = await one.prepare("select a from t where a = $1")
            assert [await prepared.fetchval(1), len(await prepared.fetch(2)), await prepared.fetchrow(3)] == [1, 1, None]
            await prepared.executemany([(1,), (2,)])
            assert type(await one.prepare(query="select 2")) is type(prepared)
            await one.copy_records_to_table("t", records=[(3,)])
            assert await one.fetchval("select count(*) from t") == 3
            async with another.transaction():
                await another.fetchrow("select 1")
    assert [span.name for span in watched.spans] == [
        *("create temp t", "BATCH insert t", "insert t", "select t", "select t", "select t", "BATCH select t", 'COPY "t"'),
        *("select t", "BEGIN", "select", "COMMIT"),
    ]
    assert watched.spans[1].attributes["db.operation.batch.size"] == 2


async def test_an_older_asyncpg_is_watched_without_what_it_lacks(
    watched: Watched, postgres_at: Postgres, monkeypatch: pytest.MonkeyPatch
):
    """Before asyncpg 0.30 neither connections nor prepared statements have `fetchmany`."""
    for kind in (asyncpg.Connection, asyncpg.prepared_stmt.PreparedStatement):
        monkeypatch.delattr(kind, "fetchmany", raising=False)
    async with asyncpg_connection(postgres_at.dsn) as (connection, _):
        instrument_postgres(connection)
        await (await connection.prepare("select 1")).fetch()
        assert not hasattr(connection, "fetchmany")
    assert watched.value("pg_queries_total", operation="select", status="success") == 1


async def test_psycopg_in_all_its_ways(watched: Watched, postgres_at: Postgres):
    """Compositions, bytes, sets of arguments, copies and named cursors are told, without the values composed."""
    with psycopg.connect(postgres_at.dsn) as connection:
        instrument_postgres(connection)
        connection.execute(b"create temp table t (a int, b text)")
        connection.cursor().executemany("insert into t values (%s, %s)", [(1, "geheim"), (2, "y")])
        composed = sql.SQL("select {} from t where b = {}").format(sql.Identifier("a"), sql.Literal("geheim"))
        assert connection.execute(composed).fetchall() == [(1,)]
        with connection.cursor() as cursor, cursor.copy(statement="copy t to stdout") as copying:
            assert len(list(copying)) == 2
        with connection.cursor("named") as cursor:
            cursor.execute("select a from t order by a")
            assert cursor.fetchone() == (1,)
        with pytest.raises(psycopg.errors.UndefinedTable), connection.cursor() as cursor, cursor.copy("copy nope to stdout"):
            pass
    async with await psycopg.AsyncConnection.connect(postgres_at.dsn) as connection:
        instrument_postgres(connection)
        async with connection.cursor() as cursor, cursor.copy("copy (select 'geheim') to stdout") as copying:
            assert [bytes(row) async for row in copying] == [b"geheim\n"]
    assert [span.name for span in watched.spans] == [
        *("create temp t", "BATCH insert t", "select t", "copy t", "select t", "copy nope", "copy select"),
    ]
    assert [span.attributes.get("error.type") for span in watched.spans] == [*[None] * 5, "42P01", None]
    assert "geheim" not in "".join(span.to_json() for span in watched.spans)


def test_a_template_is_read_without_its_values():
    """Of a template string the parts around its values are told."""
    assert _text_of(SimpleNamespace(strings=("select ", " from t")), None) == "select ? from t"


async def test_an_engine_of_another_database_counts_elsewhere(watched: Watched):
    """SQLite is not PostgreSQL: its system is told, and its calls count as those of any dependency."""
    engine = sqlalchemy.create_engine("sqlite://")
    instrument_postgres(engine)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("select :a"), {"a": "geheim"})
        connection.exec_driver_sql("create table t (a)")
        connection.execute(sqlalchemy.text("insert into t values (:a)"), [{"a": 1}, {"a": 2}])
    engine.dispose()
    assert [span.attributes["db.system.name"] for span in watched.spans] == ["sqlite"] * 3
    assert watched.spans[2].attributes["db.operation.batch.size"] == 2
    assert watched.value("dependency_calls_total", system="sqlite", operation="insert", status="success") == 1
    assert counted(watched) == {}


THEIRS = {
    "asyncpg": (AsyncPGInstrumentor, asyncpg_connection),
    "psycopg": (PsycopgInstrumentor, psycopg_connection),
    "sqlalchemy": (SQLAlchemyInstrumentor, sqlalchemy_engine),
}


@asynccontextmanager
async def theirs(name: str, watched: Watched, dsn: str) -> AsyncIterator[tuple[Any, Run]]:
    """Open a client that OpenTelemetry instruments."""
    instrumentor, client = THEIRS[name]
    if name == "sqlalchemy":
        async with client(dsn) as (engine, run):
            # It does not know the newest SQLAlchemy yet, and works with it.
            instrumentor().instrument(engine=engine, tracer_provider=watched.provider, skip_dep_check=True)
            yield engine, run
            instrumentor().uninstrument()
        return
    instrumentor().instrument(tracer_provider=watched.provider)
    try:
        async with client(dsn) as opened:
            yield opened
    finally:
        instrumentor().uninstrument()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", THEIRS)
async def test_beside_opentelemetrys_instrumentation_a_query_has_one_span(name: str, watched: Watched, postgres_at: Postgres):
    """There is one span, theirs, and one count, ours."""
    async with theirs(name, watched, postgres_at.dsn) as (instrumentable, run):
        watched.exporter.clear()
        instrument_postgres(instrumentable)
        await run("select 1")
    scopes = {span.instrumentation_scope.name for span in watched.spans if "select" in span.name.lower()}
    assert scopes == {f"opentelemetry.instrumentation.{name}"}
    assert counted(watched) == {"select success": 1}


DIFFERENCES = {
    # Theirs tells the text with its literals, by the name of before the conventions became stable, and the user.
    *("db.statement", "db.user", "db.query.text", "db.system", "db.name", "net.peer.name", "net.peer.port", "net.transport"),
    # The conventions of today have the driver's name nowhere, and the operation in the summary.
    *("db.operation", "db.operation.name", "network.peer.address", "network.peer.port", "network.transport"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.usefixtures("stable_conventions")
async def test_the_same_query_has_the_same_attributes_as_opentelemetrys(name: str, watched: Watched, postgres_at: Postgres):
    """Differential: what both tell is alike, and what only theirs does is listed here."""
    query = "SELECT relname FROM pg_class WHERE relname = 'x'"
    async with THEIRS[name][1](postgres_at.dsn) as (instrumentable, run):
        instrument_postgres(instrumentable)
        await run(query)
    (our,) = watched.spans
    watched.exporter.clear()
    async with theirs(name, watched, postgres_at.dsn) as (_, run):
        watched.exporter.clear()
        await run(query)
    their = next(span for span in watched.spans if "SELECT" in span.name)
    assert their.kind is our.kind
    shared = {key: value for key, value in their.attributes.items() if key not in DIFFERENCES}
    assert {key: our.attributes.get(key) for key in shared} == shared


@pytest.mark.parametrize("wrong", [None, "postgresql://localhost", object()])
def test_what_is_no_client_is_refused(wrong: Any):
    """The error says what is taken, and what to install."""
    with pytest.raises(TypeError, match=r"instrument_postgres takes a connection or pool.*\[postgres,sqlalchemy\]"):
        instrument_postgres(wrong)


def test_other_objects_of_the_libraries_are_refused():
    """What a library has besides clients is named in the error."""
    for wrong in (asyncpg.Range(1), psycopg.sql.SQL("select 1"), sqlalchemy.text("select 1")):
        with pytest.raises(TypeError, match="instrument_postgres takes"):
            instrument_postgres(wrong)


async def test_our_failures_stay_ours(watch: Any, postgres_at: Postgres, monkeypatch: pytest.MonkeyPatch):
    """Whatever of ours fails, queries go through and the failure is counted."""
    watched = watch()
    monkeypatch.setattr(sql_calls, "statement", lambda *_, **__: 1 / 0)
    async with watched.obs, AsyncExitStack() as stack:
        for client in CLIENTS:
            instrumentable, run = await stack.enter_async_context(client(postgres_at.dsn))
            instrument_postgres(instrumentable)
            await run("select 1")
    assert watched.spans == []
    assert watched.obs.internal_errors.counts["clients"] >= len(CLIENTS)
