"""Queries through connections and pools of asyncpg.

They take no other methods, but another class that has them. What asyncpg offers instead, query loggers, hears neither of
prepared statements nor of queries whose connection was lost.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from weakref import WeakSet

import asyncpg

from sage_fastapi_obs.clients.client_call import Call, is_instrumented_by_otel
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, wrapped, wrong_client
from sage_fastapi_obs.clients.pools import PoolSizes, WatchedPool, pool_name
from sage_fastapi_obs.clients.sql_calls import POSTGRES_PORT, SqlCalls, query_argument, server, size, sql_system

_ASYNCPG = sql_system("asyncpg")
_WITH_SETS = frozenset({"executemany", "fetchmany"})
_OF_CONNECTION = ("execute", "fetch", "fetchrow", "fetchval", "copy_from_query", *_WITH_SETS)
_OF_STATEMENT = ("fetch", "fetchrow", "fetchval", *_WITH_SETS)
_COPIES = {"copy_from_table": "COPY {} TO", "copy_to_table": "COPY {} FROM", "copy_records_to_table": "COPY {} FROM"}


def watch(client: Any) -> Instrumented[Any]:
    """Watch a pool or a connection."""
    watching = _Asyncpg(Instrumented(client))
    if isinstance(client, asyncpg.Pool):
        watching.watch_pool(client)
    elif isinstance(client, asyncpg.Connection):
        watching.watch(client)
    else:
        raise wrong_client("instrument_postgres", "a pool or a connection of asyncpg", client)
    return watching.instrumented


class _Watched:
    """Marks the classes that are put in the place of others."""

    __slots__ = ()


class _Asyncpg:
    """Gives connections of asyncpg another class, and their own one back."""

    def __init__(self, instrumented: Instrumented[Any]) -> None:
        self.instrumented = instrumented
        self._classes: dict[tuple[Any, ...], type] = {}
        self._connections: WeakSet[Any] = WeakSet()
        instrumented.on_undo(self._give_all_back)

    def _give_all_back(self) -> None:
        for connection in self._connections:
            _give_back(connection)

    def watch_pool(self, pool: Any) -> None:
        """Watch the connections of a pool, those it will open included."""
        if isinstance(pool, _Watched):
            return

        async def _get_new_connection(pool: Any) -> Any:
            connection = await base._get_new_connection(pool)  # noqa: SLF001 - the one place where connections come from
            count_errors_of(partial(self.watch, connection))
            return connection

        base = type(pool)
        pool.__class__ = _subclass(base, {"_get_new_connection": _get_new_connection, **self._loans(base, pool)})
        self.instrumented.on_undo(partial(_give_back, pool))
        for holder in pool._holders:  # noqa: SLF001 - the connections that are open already
            if holder._con is not None:  # noqa: SLF001
                self.watch(holder._con)  # noqa: SLF001

    def _loans(self, base: type, pool: Any) -> dict[str, Any]:
        """Return the methods that give connections and take them back."""

        def giving_back(_: Any, connection: Any, **__: Any) -> Any:
            return watched_pool.giving_back(_holder(connection))

        watched_pool = WatchedPool(partial(_name_of, pool), partial(_sizes, pool), pool.get_max_size)
        self.instrumented.on_undo(watched_pool.close)
        acquire, release = getattr(base, "_acquire"), getattr(base, "release")  # noqa: B009
        return {
            "_acquire": wrapped(acquire, watched_pool.taking, watched_pool.taken(_holder)),
            "release": wrapped(release, giving_back),
        }

    def watch(self, connection: Any) -> None:
        """Watch a connection."""
        if isinstance(connection, _Watched):
            return
        attributes = _server_of(connection)
        key = type(connection), *attributes.values()
        if key not in self._classes:
            self._classes[key] = self._watched_class(type(connection), SqlCalls(_ASYNCPG, attributes))
        connection.__class__ = self._classes[key]
        self._connections.add(connection)

    def _watched_class(self, base: type, queries: SqlCalls) -> type:
        otel_traced = is_instrumented_by_otel(getattr(base, "execute", None))
        methods = {
            name: self._with_query(original, queries, otel_traced, name in _WITH_SETS)
            for name, original in _methods(base, _OF_CONNECTION)
        }
        methods |= {name: self._with_table(getattr(base, name), queries, text, otel_traced) for name, text in _COPIES.items()}
        return _subclass(base, {**methods, "prepare": self._prepare(getattr(base, "prepare"), queries)})  # noqa: B009

    def _with_query(self, original: Any, queries: SqlCalls, otel_traced: bool, has_sets: bool) -> Any:
        def describe(connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
            query = query_argument(args, kwargs)
            if query is getattr(connection, "_reset_query", None):
                # What a pool does when it takes a connection back is not the application's.
                return None
            return queries.query(query, many=size(args[1:]) if has_sets else None, otel_traced=otel_traced)

        return wrapped(original, lambda connection, *args, **kwargs: self.instrumented.call(describe, connection, args, kwargs))

    def _with_table(self, original: Any, queries: SqlCalls, text: str, otel_traced: bool) -> Any:
        def describe(table_name: str) -> Call:
            return queries.query(text.format(f'"{table_name}"'), otel_traced=otel_traced)

        return wrapped(original, lambda _, table_name, **__: self.instrumented.call(describe, table_name))

    def _prepare(self, original: Any, queries: SqlCalls) -> Any:
        # One class for all statements of a connection: a class for each would cost more than the rest.
        classes: dict[type, type] = {}

        def watch(_: None, prepared: Any) -> None:
            base = type(prepared)
            if base not in classes:
                classes[base] = self._watched_statement(base, queries)
            prepared.__class__ = classes[base]

        return wrapped(original, with_result=watch)

    def _watched_statement(self, base: type, queries: SqlCalls) -> type:
        def describe(prepared: Any, args: tuple[Any, ...], has_sets: bool) -> Call:
            # Not by its method, which raises once the connection is released.
            query = prepared._query  # noqa: SLF001
            return queries.query(query, many=size(args) if has_sets else None)

        def watched(name: str, original: Any) -> Any:
            has_sets = name in _WITH_SETS
            return wrapped(original, lambda prepared, *args, **_: self.instrumented.call(describe, prepared, args, has_sets))

        return _subclass(base, {name: watched(name, original) for name, original in _methods(base, _OF_STATEMENT)})


def _holder(connection: Any) -> int:
    """Tell connections of a pool apart: a proxy is made anew each time."""
    return id(getattr(connection, "_holder", None))


def _name_of(pool: Any) -> str:
    connections = (holder._con for holder in pool._holders)  # noqa: SLF001 - the only place that knows the server
    return pool_name(_server_of(next(one for one in connections if one is not None)), POSTGRES_PORT)


def _sizes(pool: Any) -> PoolSizes:
    idle = pool.get_idle_size()
    return PoolSizes(pool.get_size() - idle, idle, pool.get_max_size())


def _server_of(connection: Any) -> dict[str, Any]:
    address, database = getattr(connection, "_addr", None), getattr(getattr(connection, "_params", None), "database", None)
    host, port = address if isinstance(address, tuple) else (address, None)
    return server(host, port, database)


def _methods(base: type, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield those that there are: `fetchmany` is new in asyncpg 0.30."""
    return ((name, getattr(base, name)) for name in names if hasattr(base, name))


def _subclass(base: type, methods: dict[str, Any]) -> type:
    return type(base)(base.__name__, (_Watched, base), {"__slots__": (), "__module__": base.__module__, **methods})


def _give_back(watched: Any) -> None:
    if isinstance(watched, _Watched):
        watched.__class__ = type(watched).__mro__[2]
