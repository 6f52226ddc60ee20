"""What is recorded of a query to a database, whichever client sends it."""

from collections.abc import Mapping, Sized
from functools import lru_cache
from typing import Any

from sage_fastapi_obs.clients.client_call import OTEL_SCOPE_PREFIX, Call, ClientSystem
from sage_fastapi_obs.clients.sql_text import LONGEST_REMEMBERED, statement
from sage_fastapi_obs.insight.call_notes import Callee
from sage_fastapi_obs.operations.operation_run import RunMetrics
from sage_fastapi_obs.tracing.child_spans import CachedAttributes

POSTGRES_PORT = 5432
_MOST_KNOWN = 128
"""Queries of one client whose description is cached."""
_NAMES = ("query", "command", "statement")
QUERIES = RunMetrics(duration="pg_query_duration_seconds", total="pg_queries_total")


def sql_system(client: str, measures: RunMetrics = QUERIES) -> ClientSystem:
    """Describe a client of SQL databases; the error type of a failure is the SQLSTATE of the server's answer."""
    return ClientSystem(OTEL_SCOPE_PREFIX + client, measures, code_of=_sqlstate, code_attribute="db.response.status_code")


def _sqlstate(error: Exception) -> str | None:
    code = getattr(error, "sqlstate", None)
    return code if isinstance(code, str) else None


class SqlCalls:
    """Describes the queries of one connection, pool or engine."""

    def __init__(self, system: ClientSystem, attributes: dict[str, Any]) -> None:
        self._system = system
        self._attributes = attributes
        self._mysql = attributes.get("db.system.name") in ("mysql", "mariadb")
        self._cached = lru_cache(_MOST_KNOWN)(self._described)

    def query(self, text: str, *, many: int | None = None, otel_traced: bool = False) -> Call:
        """Describe a query; `many`: how many sets of arguments it is run with."""
        described = self._cached if len(text) <= LONGEST_REMEMBERED else self._described
        return Call(self._system, *described(text, many), otel_traced=otel_traced)

    def _described(self, text: str, many: int | None) -> tuple[str, dict[str, str], CachedAttributes, Callee]:
        parsed = statement(text, mysql=self._mysql)
        summary = f"BATCH {parsed.summary}" if many not in (None, 1) else parsed.summary
        attributes = {**self._attributes, "db.query.text": parsed.text, "db.query.summary": summary}
        if many not in (None, 1):
            attributes["db.operation.batch.size"] = many
        labels = {"operation": parsed.operation, "system": self._attributes["db.system.name"]}
        name = summary or labels["system"]
        return name, labels, CachedAttributes(attributes), Callee("database", name, parsed.text)


def server(host: Any, port: Any, database: Any, system: str = "postgresql") -> dict[str, Any]:
    """Return the attributes of the server."""
    attributes: dict[str, Any] = {"db.system.name": system}
    if host:
        attributes["server.address"] = str(host)
    if host and port and int(port) != POSTGRES_PORT:
        attributes["server.port"] = int(port)
    if database:
        attributes["db.namespace"] = str(database)
    return attributes


def query_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the query among the arguments of a method: the first one, whose name differs between methods."""
    return args[0] if args else next((kwargs[name] for name in _NAMES if name in kwargs), "")


def size(args: tuple[Any, ...]) -> int | None:
    """Return the number of sets of arguments, which come first; None if counting would use them up."""
    sets = args[0] if args else None
    return len(sets) if isinstance(sets, Sized) else None
