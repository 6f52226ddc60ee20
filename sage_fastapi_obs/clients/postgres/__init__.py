"""`instrument_postgres`: queries to PostgreSQL, by whichever client."""

from typing import TypeVar

from sage_fastapi_obs.clients.patching import Instrumented, instrument_by_library

__all__ = ["instrument_postgres"]

Client = TypeVar("Client")
_MODULES = {
    "asyncpg": "postgres.asyncpg",
    "psycopg": "postgres.psycopg",
    "psycopg_pool": "postgres.psycopg",
    "sqlalchemy": "sqlalchemy",
}
_TAKES = (
    "a connection or pool of asyncpg or psycopg, or an engine of SQLAlchemy "
    "(pip install 'sage_fastapi_obs[postgres,sqlalchemy]')"
)


def instrument_postgres(client: Client) -> Instrumented[Client]:
    """Watch a connection or a pool of asyncpg or psycopg 3, or an engine of SQLAlchemy, sync or async.

    Each query is a span and counts in `pg_queries_total` and `pg_query_duration_seconds`; its text is recorded without literals
    and arguments. An engine for another database counts in `dependency_calls_total`. Cursors of asyncpg are not
    watched.
    """
    return instrument_by_library(client, _MODULES, "instrument_postgres", _TAKES)
