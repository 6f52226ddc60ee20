"""Queries through engines of SQLAlchemy, by its events."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import QueuePool

from sage_fastapi_obs.clients.client_call import CALLS, OTEL_SCOPE_PREFIX
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, instrument_once, wrapped, wrong_client
from sage_fastapi_obs.clients.pools import PoolSizes, WatchedPool, pool_name
from sage_fastapi_obs.clients.sql_calls import POSTGRES_PORT, QUERIES, SqlCalls, server, size, sql_system

_SYSTEMS = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
_KNOWN_SYSTEMS = frozenset({"postgresql", "mysql", "mariadb", "sqlite", "cockroachdb"})


def watch(client: Any) -> Instrumented[Any]:
    """Watch an engine, sync or async."""
    engine = getattr(client, "sync_engine", client)
    if not isinstance(engine, Engine):
        raise wrong_client("instrument_postgres", "an engine of SQLAlchemy", client)
    inner = instrument_once(engine, _watch_engine)
    if engine is client:
        return inner
    instrumented = Instrumented(client)
    instrumented.on_undo(inner.undo)
    return instrumented


def _watch_engine(instrumented: Instrumented[Any]) -> None:
    engine = instrumented.client
    dialect = engine.dialect.name
    system = dialect if dialect in _KNOWN_SYSTEMS else _SYSTEMS.get(dialect, "other_sql")
    measures = QUERIES if system == "postgresql" else CALLS
    attributes = server(engine.url.host, engine.url.port, engine.url.database, system)
    queries = SqlCalls(sql_system("sqlalchemy", measures), attributes)

    def before(_: Any, __: Any, text: str, parameters: Any, context: Any, executemany: bool) -> None:
        otel_traced = any(_module(listener).startswith(OTEL_SCOPE_PREFIX) for listener in engine.dispatch.before_cursor_execute)
        call = queries.query(text, many=size((parameters,)) if executemany else None, otel_traced=otel_traced)
        call.begin()
        context.sage_fastapi_obs_call = call

    def after(_: Any, __: Any, ___: str, ____: Any, context: Any, _____: bool) -> None:
        _end(context, None)

    def failed(failure: Any) -> None:
        _end(failure.execution_context, failure.original_exception)

    def guarded(listener: Callable[..., None]) -> Callable[..., None]:
        @wraps(listener)
        def heard(*args: Any) -> None:
            count_errors_of(partial(listener, *args))

        return heard

    pools = _Pools(engine, attributes)
    instrumented.on_undo(pools.close)
    listeners: dict[str, Callable[..., None]] = {
        "before_cursor_execute": before,
        "after_cursor_execute": after,
        "handle_error": failed,
        "checkin": pools.given_back,
        "detach": pools.given_back,
        "engine_disposed": pools.replaced,
    }
    for moment, listener in listeners.items():
        heard = guarded(listener)
        event.listen(engine, moment, heard)
        instrumented.on_undo(partial(event.remove, engine, moment, heard))


class _Pools:
    """The pool of an engine, which makes another one when it is disposed of.

    There is an event when a connection has been found, but none when one is asked for.
    """

    def __init__(self, engine: Engine, attributes: dict[str, Any]) -> None:
        self._name = pool_name(attributes, POSTGRES_PORT)
        self._instrumented: Instrumented[Any] | None = None
        self.replaced(engine)

    def replaced(self, engine: Engine) -> None:
        """Watch the pool that the engine has now, in the place of the one before."""
        self.close()
        pool = engine.pool
        self._watched = watched = WatchedPool(lambda: self._name, lambda: _sizes(pool, watched), partial(_ceiling, pool))
        self._instrumented = instrument_once(pool, self._watch)

    def close(self) -> None:
        """Watch no longer."""
        if self._instrumented is not None:
            self._instrumented.undo()

    def given_back(self, _: Any, record: Any) -> None:
        """Note that a connection has come back, or has left the pool for good."""
        self._watched.give_back(id(record.record_info))

    def _watch(self, instrumented: Instrumented[Any]) -> None:
        watched = self._watched
        instrumented.on_undo(watched.close)
        instrumented.replace("connect", lambda original: wrapped(original, watched.taking, watched.taken(_key)))


def _key(connection: Any) -> int:
    """Tell connections of a pool apart by what stays the same from one use to the next."""
    return id(connection.record_info)


def _sizes(pool: Any, watched: WatchedPool) -> PoolSizes:
    if isinstance(pool, QueuePool):
        return PoolSizes(max(0, pool.checkedout()), pool.checkedin(), _ceiling(pool))
    return PoolSizes(len(watched.loans), 0, None)


def _ceiling(pool: Any) -> int | None:
    # No public name has it. -1 is no limit.
    overflow = getattr(pool, "_max_overflow", -1)
    return None if overflow < 0 else pool.size() + overflow


def _module(listener: Any) -> str:
    return str(getattr(listener, "__module__", ""))


def _end(context: Any, error: BaseException | None) -> None:
    call = getattr(context, "sage_fastapi_obs_call", None)
    if call is not None:
        context.sage_fastapi_obs_call = None
        call.finish(error)
