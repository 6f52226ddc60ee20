"""Queries of a request: the statements of SQLAlchemy's engines, and those that spans of other clients tell of."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from sage_fastapi_obs.testing.span_capture import attribute

_NOT_SQL = frozenset({"redis", "memcached", "mongodb", "elasticsearch", "opensearch"})


@dataclass(frozen=True, slots=True)
class SqlQuery:
    """One statement that was sent to a database."""

    text: str
    """As it was sent, without its parameters; of other clients: what their span says."""


def query_of(span: ReadableSpan) -> SqlQuery | None:
    """Read a query from the span of a database's client; None for any other span."""
    system = attribute(span, "db.system.name", "db.system")
    if system is None or system in _NOT_SQL:
        return None
    text = attribute(span, "db.query.text", "db.statement", "db.query.summary", "db.operation.name")
    return SqlQuery(str(text or span.name))


class QueryCapture:
    """Captures the statements of all engines of SQLAlchemy, sync and async, from when it is imported."""

    def __init__(self, begins: Callable[[str], None], ends: Callable[[], None]) -> None:
        """`begins` is called with a statement before it is sent; `ends` afterwards."""
        self._listeners: dict[str, Callable[..., None]] = {
            "before_cursor_execute": lambda _connection, _cursor, text, *_: begins(text),
            "after_cursor_execute": lambda *_: ends(),
            "handle_error": lambda *_: ends(),
        }
        self._event: Any = None
        self._engine: Any = None

    def look(self) -> None:
        """Listen, if SQLAlchemy has been imported by now."""
        sqlalchemy = None if self._event is not None else sys.modules.get("sqlalchemy")
        # Another thread may be importing it.
        if sqlalchemy is not None and hasattr(sqlalchemy, "Engine") and hasattr(sqlalchemy, "event"):
            self._event, self._engine = sqlalchemy.event, sqlalchemy.Engine
            for moment, listener in self._listeners.items():
                self._event.listen(self._engine, moment, listener)

    def stop(self) -> None:
        """Listen no more."""
        if self._event is not None:
            for moment, listener in self._listeners.items():
                self._event.remove(self._engine, moment, listener)
            self._event = None
