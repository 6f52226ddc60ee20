"""Queries through engines of SQLAlchemy, by its events."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from sqlalchemy import Engine, event

from sage_fastapi_obs.clients.client_call import CALLS, OTEL_SCOPE_PREFIX
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, instrument_once, wrong_client
from sage_fastapi_obs.clients.sql_calls import QUERIES, SqlCalls, server, size, sql_system

__all__ = ["watch"]

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
    queries = SqlCalls(
        sql_system("sqlalchemy", measures), server(engine.url.host, engine.url.port, engine.url.database, system)
    )

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

    for moment, listener in (("before_cursor_execute", before), ("after_cursor_execute", after), ("handle_error", failed)):
        heard = guarded(listener)
        event.listen(engine, moment, heard)
        instrumented.on_undo(partial(event.remove, engine, moment, heard))


def _module(listener: Any) -> str:
    return str(getattr(listener, "__module__", ""))


def _end(context: Any, error: BaseException | None) -> None:
    call = getattr(context, "sage_fastapi_obs_call", None)
    if call is not None:
        context.sage_fastapi_obs_call = None
        call.finish(error)
