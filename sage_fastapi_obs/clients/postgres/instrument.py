"""Queries to PostgreSQL, by whichever client."""

from importlib import import_module
from typing import TypeVar, cast

from sage_fastapi_obs.clients.patching import Instrumented

__all__ = ["instrument_postgres"]

Client = TypeVar("Client")
_LIBRARIES = {"asyncpg": "asyncpg", "psycopg": "psycopg", "psycopg_pool": "psycopg", "sqlalchemy": "sqlalchemy"}
"""By the first part of the name of a class's module, where it is watched."""


def instrument_postgres(client: Client) -> Instrumented[Client]:
    """Watch a connection or a pool of asyncpg or psycopg 3, or an engine of SQLAlchemy, sync or async.

    Each query is a span and counts in `pg_queries_total` and `pg_query_duration_seconds`; its text is told without literals,
    its arguments not at all. An engine for another database counts in `dependency_calls_total`. Cursors of asyncpg are not
    watched.
    """
    modules = [kind.__module__.partition(".")[0] for kind in type(client).__mro__]
    library = next((_LIBRARIES[module] for module in modules if module in _LIBRARIES), None)
    if library is None:
        known = "a connection or pool of asyncpg or psycopg, or an engine of SQLAlchemy"
        extras = "pip install 'sage_fastapi_obs[postgres,sqlalchemy]'"
        raise TypeError(f"instrument_postgres takes {known} ({extras}), not {client!r:.80}")
    # Imported only now: each is an extra, and whoever has such a client has the library.
    watch = import_module(f"sage_fastapi_obs.clients.{library}").watch
    return cast("Instrumented[Client]", watch(client))
