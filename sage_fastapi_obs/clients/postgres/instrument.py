"""Queries to PostgreSQL, by whichever client."""

from importlib import import_module
from typing import TypeVar, cast

from sage_fastapi_obs.clients.patching import Instrumented

__all__ = ["instrument_postgres"]

Client = TypeVar("Client")
_MODULES = {
    "asyncpg": "postgres.asyncpg",
    "psycopg": "postgres.psycopg",
    "psycopg_pool": "postgres.psycopg",
    "sqlalchemy": "sqlalchemy",
}
"""The module of `clients` that watches a client, by the first part of the name of its class's module."""


def instrument_postgres(client: Client) -> Instrumented[Client]:
    """Watch a connection or a pool of asyncpg or psycopg 3, or an engine of SQLAlchemy, sync or async.

    Each query is a span and counts in `pg_queries_total` and `pg_query_duration_seconds`; its text is told without literals,
    its arguments not at all. An engine for another database counts in `dependency_calls_total`. Cursors of asyncpg are not
    watched.
    """
    modules = [kind.__module__.partition(".")[0] for kind in type(client).__mro__]
    watching = next((_MODULES[module] for module in modules if module in _MODULES), None)
    if watching is None:
        known = "a connection or pool of asyncpg or psycopg, or an engine of SQLAlchemy"
        extras = "pip install 'sage_fastapi_obs[postgres,sqlalchemy]'"
        raise TypeError(f"instrument_postgres takes {known} ({extras}), not {client!r:.80}")
    # Imported only now: each needs an extra, which is installed if there is such a client.
    watch = import_module(f"sage_fastapi_obs.clients.{watching}").watch
    return cast("Instrumented[Client]", watch(client))
