"""Queries through connections and pools of psycopg 3: every one goes through a cursor, of a class that the connection names."""

import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import psycopg

from sage_fastapi_obs.clients.client_call import OTEL_SCOPE_PREFIX, Call
from sage_fastapi_obs.clients.patching import Instrumented, instrument_once, wrapped, wrong_client
from sage_fastapi_obs.clients.pools import PoolSizes, WatchedPool
from sage_fastapi_obs.clients.sql_calls import SqlCalls, query_argument, server, size, sql_system

_PSYCOPG = sql_system("psycopg")
_FACTORIES = ("cursor_factory", "server_cursor_factory")


def watch(client: Any) -> Instrumented[Any]:
    """Watch a connection or a pool."""
    if isinstance(client, psycopg.Connection | psycopg.AsyncConnection):
        return instrument_once(client, _watch_connection)
    if callable(getattr(client, "getconn", None)):
        return instrument_once(client, _watch_pool)
    raise wrong_client("instrument_postgres", "a connection of psycopg or a pool of psycopg_pool", client)


def _watch_connection(instrumented: Instrumented[Any]) -> None:
    connection = instrumented.client
    info = connection.info
    queries = SqlCalls(_PSYCOPG, server(info.host, info.port, info.dbname))
    for factory in _FACTORIES:
        instrumented.replace(factory, partial(_watched_cursor, instrumented, queries))


def _watched_cursor(instrumented: Instrumented[Any], queries: SqlCalls, base: type) -> type:
    otel_traced = base.__module__.startswith(OTEL_SCOPE_PREFIX)

    def describe(cursor: Any, args: tuple[Any, ...], kwargs: dict[str, Any], has_sets: bool = False) -> Call:
        query = _text_of(query_argument(args, kwargs), cursor)
        return queries.query(query, many=size(args[1:]) if has_sets else None, otel_traced=otel_traced)

    def watched(name: str) -> Any:
        has_sets = name == "executemany"
        return wrapped(
            getattr(base, name),
            lambda cursor, *args, **kwargs: instrumented.call(describe, cursor, args, kwargs, has_sets),
        )

    def copied(original: Any) -> Any:
        @contextmanager
        def copy(cursor: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with instrumented.call(describe, cursor, args, kwargs), original(cursor, *args, **kwargs) as copying:
                yield copying

        @asynccontextmanager
        async def copy_async(cursor: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with instrumented.call(describe, cursor, args, kwargs):
                async with original(cursor, *args, **kwargs) as copying:
                    yield copying

        return copy_async if inspect.iscoroutinefunction(base.execute) else copy  # type: ignore[attr-defined]

    methods = {"execute": watched("execute"), "executemany": watched("executemany")}
    if hasattr(base, "copy"):
        methods["copy"] = copied(base.copy)
    return type(base.__name__, (base,), {"__module__": base.__module__, **methods})


def _text_of(query: Any, cursor: Any) -> str:
    """Read a query as psycopg takes it: text, bytes, a composition, or a template, whose values are not read."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    strings = getattr(query, "strings", None)
    return "?".join(strings) if strings is not None else str(query.as_string(cursor))


def _watch_pool(instrumented: Instrumented[Any]) -> None:
    # Weak: a pool replaces its connections, and those that are gone need no undo.
    watched: WeakSet[Instrumented[Any]] = WeakSet()

    def watch_connection(_: None, connection: Any) -> None:
        watched.add(instrument_once(connection, _watch_connection))

    def undo_all() -> None:
        for connection in watched:
            connection.undo()

    instrumented.on_undo(undo_all)
    instrumented.replace("getconn", lambda original: wrapped(original, with_result=watch_connection))
    pool = instrumented.client
    if callable(getattr(pool, "get_stats", None)):
        # The pools of psycopg_pool; others have `getconn`, too.
        WatchedPool(lambda: pool.name, partial(_sizes, pool), partial(_ceiling, pool)).watch(instrumented, "getconn", "putconn")


def _sizes(pool: Any) -> PoolSizes:
    stats = pool.get_stats()
    idle = stats.get("pool_available", 0)
    return PoolSizes(stats.get("pool_size", 0) - idle, idle, _ceiling(pool))


def _ceiling(pool: Any) -> int | None:
    # 0 for a pool without a limit.
    return pool.max_size or None
