"""Rows of the store's tables, read with the care that a damaged file needs."""

import sqlite3
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson

from sage_fastapi_obs.store.batch import BATCH_BYTES, MOST_DETAILS_BYTES, storable
from sage_fastapi_obs.store.records import RequestQuery, StoredRequest
from sage_fastapi_obs.store.schema import COLUMNS, MOST_RESOLVED, UNWRITTEN_ID

_MOST_BYTES = BATCH_BYTES + MOST_DETAILS_BYTES
_TEXT_OR_NONE = (str, type(None))
_TYPES: tuple[Any, ...] = (
    *(int, int, str, str, _TEXT_OR_NONE, str, int, int, str, str, str, str, str),
    *(_TEXT_OR_NONE, _TEXT_OR_NONE, _TEXT_OR_NONE),
)
OF_ID = "(request_id = ? OR correlation_id = ? OR trace_id = ?)"
Condition = tuple[str, tuple[Any, ...]]


class StoredRow(NamedTuple):
    """A request or a supplement, and where its details are."""

    id: int
    chunk: int
    first_byte: int
    size_bytes: int
    request: StoredRequest
    """Without details; of a supplement, whose `kind` is empty, only time and ids."""


def rows(connection: sqlite3.Connection, conditions: list[Condition], limit: int) -> Iterator[StoredRow]:
    """Yield the rows that fulfil all conditions, newest first; skips what cannot be a request."""
    where = " AND ".join(sql for sql, _ in conditions)
    values = [storable(value) for _, several in conditions for value in several]
    found = connection.execute(f"SELECT {COLUMNS} FROM requests WHERE {where} ORDER BY id DESC LIMIT ?", (*values, limit))  # noqa: S608 - ours
    for id_, chunk, first_byte, size_bytes, *values in found:
        if all(isinstance(value, kind) for value, kind in zip(values, _TYPES, strict=True)):
            request = StoredRequest._make((*values, b""))
            yield StoredRow(id_, chunk, first_byte, size_bytes, request._replace(failed=bool(request.failed)))


def conditions_of(query: RequestQuery) -> list[Condition]:
    """Translate a query, but for its text."""
    low, high = query.status_bounds
    asked: list[tuple[object, str, tuple[Any, ...]]] = [
        (query.before, "id < ?", (query.before and int(query.before, 16),)),
        # Those that wait to be written will have another id.
        (query.after, f"id > ? AND id < {UNWRITTEN_ID}", (query.after and int(query.after, 16),)),
        (query.status, "status BETWEEN ? AND ?", (low, high)),
        (query.failed, "failed = ?", (query.failed,)),
        (query.kept, "kept = ?", (query.kept,)),
        (query.cause, "cause = ?", (query.cause,)),
        (query.slower_than_seconds, "duration_us > ?", ((query.slower_than_seconds or 0) * 1e6,)),
        (query.route, "route = ?", (query.route,)),
        (query.id, OF_ID, (query.id,) * 3),
    ]
    return [("kind <> ''", ()), *((sql, values) for value, sql, values in asked if value is not None)]


def last_id(connection: sqlite3.Connection) -> int:
    """Return the id of the row that was written last; 0 where there is none, or where it waits to be written to the file."""
    (found,) = connection.execute("SELECT max(id) FROM requests").fetchone()
    return found if isinstance(found, int) and found < UNWRITTEN_ID else 0


def resolved_issues(connection: sqlite3.Connection) -> dict[str, int]:
    """Return when issues were resolved: Unix time in nanoseconds, by their ids."""
    found = connection.execute("SELECT issue, at_ns FROM resolved LIMIT ?", (MOST_RESOLVED,))
    return {issue: at_ns for issue, at_ns in found if isinstance(issue, str) and isinstance(at_ns, int)}


class ChunkReader:
    """Reads the details of rows; neighbours are in one chunk, which is decompressed once."""

    def __init__(self, connection: sqlite3.Connection, damaged: Callable[[], None]) -> None:
        """`damaged` is called for details that cannot be read."""
        self._connection = connection
        self._damaged = damaged
        self._last: dict[int, bytes] = {}

    def read(self, row: StoredRow) -> dict[str, Any]:
        """Return the details of a row; empty if they are damaged."""
        try:
            details = orjson.loads(self.text(row))
        except ValueError:
            self._damaged()
            return {}
        return details if isinstance(details, dict) else {}

    def text(self, row: StoredRow) -> bytes:
        """Return the details of a row as they are stored; empty if they are damaged."""
        if row.chunk not in self._last:
            if len(self._last) > 1:
                # Important requests and others alternate between two chunks.
                del self._last[next(iter(self._last))]
            self._last[row.chunk] = self._decompress(row.chunk)
        return self._last[row.chunk][row.first_byte : row.first_byte + row.size_bytes]

    def _decompress(self, chunk: int) -> bytes:
        found = self._connection.execute("SELECT content FROM chunks WHERE id = ?", (chunk,)).fetchone()
        if found is None:
            # Evicted since the row was read.
            return b"{}"
        try:
            return zlib.decompressobj().decompress(found[0], _MOST_BYTES)
        except (zlib.error, TypeError):
            return b""
