"""Queries through connections and pools of psycopg 3: every one goes through a cursor, of a class that the connection names."""

import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial, wraps
from typing import Any
from weakref import WeakSet

import psycopg

from sage_fastapi_obs.clients.client_call import OTEL_SCOPE_PREFIX, Call
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, instrument_once
from sage_fastapi_obs.clients.sql_calls import SqlCalls, given_query, server, size, target

__all__ = ["watch"]

PSYCOPG = target("psycopg")
_FACTORIES = ("cursor_factory", "server_cursor_factory")


def watch(client: Any) -> Instrumented[Any]:
    """Watch a connection or a pool."""
    if isinstance(client, psycopg.Connection | psycopg.AsyncConnection):
        return instrument_once(client, _watch_connection)
    if callable(getattr(client, "getconn", None)):
        return instrument_once(client, _watch_pool)
    raise TypeError(f"instrument_postgres takes a connection of psycopg or a pool of psycopg_pool, not {client!r:.80}")


def _watch_connection(instrumented: Instrumented[Any]) -> None:
    connection = instrumented.client
    info = connection.info
    queries = SqlCalls(PSYCOPG, server(info.host, info.port, info.dbname))
    for factory in _FACTORIES:
        instrumented.replace(factory, partial(_watched_cursor, instrumented, queries))


def _watched_cursor(instrumented: Instrumented[Any], queries: SqlCalls, base: type) -> type:
    theirs = base.__module__.startswith(OTEL_SCOPE_PREFIX)

    def describe(cursor: Any, args: tuple[Any, ...], kwargs: dict[str, Any], has_sets: bool = False) -> Call:
        query = _text_of(given_query(args, kwargs), cursor)
        return queries.query(query, many=size(args[1:]) if has_sets else None, theirs=theirs)

    def watched(name: str) -> Any:
        original = getattr(base, name)
        has_sets = name == "executemany"
        if inspect.iscoroutinefunction(original):

            @wraps(original)
            async def method_async(cursor: Any, *args: Any, **kwargs: Any) -> Any:
                with instrumented.call(describe, cursor, args, kwargs, has_sets):
                    return await original(cursor, *args, **kwargs)

            return method_async

        @wraps(original)
        def method(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            with instrumented.call(describe, cursor, args, kwargs, has_sets):
                return original(cursor, *args, **kwargs)

        return method

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
    # Pools replace their connections as long as they live: what is gone needs no way back.
    watched: WeakSet[Instrumented[Any]] = WeakSet()

    def watch(connection: Any) -> None:
        watched.add(instrument_once(connection, _watch_connection))

    def give_back() -> None:
        for one in watched:
            one.undo()

    instrumented.on_undo(give_back)

    def put(original: Any) -> Any:
        async def getconn_async(*args: Any, **kwargs: Any) -> Any:
            connection = await original(*args, **kwargs)
            count_errors_of(partial(watch, connection))
            return connection

        def getconn(*args: Any, **kwargs: Any) -> Any:
            connection = original(*args, **kwargs)
            count_errors_of(partial(watch, connection))
            return connection

        return getconn_async if inspect.iscoroutinefunction(original) else getconn

    instrumented.replace("getconn", put)
