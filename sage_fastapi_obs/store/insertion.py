"""What is written to the tables: batches, and of requests in earlier ones that they have failed since."""

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from sage_fastapi_obs.store import schema
from sage_fastapi_obs.store.batch import Batch, count_bytes, is_important, make_chunk
from sage_fastapi_obs.store.records import LateFailure
from sage_fastapi_obs.store.stored_rows import ChunkReader, StoredRow, rows

_MOST_LATE = 100_000
"""So many rows back a request is looked for that has failed since it was stored."""
_AT_ONCE = 100
_OF_TIMES = f"started_ns IN ({','.join('?' * _AT_ONCE)})"
_FIRST_SINCE = "SELECT first_id FROM chunks WHERE at_ns >= ? ORDER BY at_ns LIMIT 1"
_MARK = (
    "UPDATE requests SET failed = 1, error_type = ?, cause = CASE WHEN ? IS NULL THEN cause ELSE 'exception' END,"
    " why = coalesce(?, why) WHERE id = ?"
)
_MOVE = "UPDATE requests SET chunk = ?, first_byte = ?, bytes = ? WHERE id = ?"


def insert(connection: sqlite3.Connection, batches: Sequence[Batch], at_ns: int) -> None:
    """Insert batches, with few statements: after each, a busy event loop may not give the interpreter back for a while."""
    first_id = _next_id(connection)
    for batch in batches:
        last_id = first_id + len(batch.rows) - 1
        # Chunks of one batch have the number of its first request, doubled; no number comes again.
        chunks = [
            (2 * first_id + important, important, at_ns, first_id, last_id, size_bytes, content)
            for important, content, size_bytes in batch.chunks
        ]
        connection.execute(schema.insert_chunks(len(chunks)), [value for chunk in chunks for value in chunk])
        values: list[Any] = []
        for number, (important, *columns) in enumerate(batch.rows, first_id):
            values += (number, 2 * first_id + important, *columns)
        connection.execute(schema.insert_requests(len(batch.rows)), values)
        first_id = last_id + 1
    _set_next_id(connection, first_id)
    count_bytes(connection, [chunk for batch in batches for chunk in batch.chunks], 1)
    mark_failed(connection, [failure for batch in batches for failure in batch.failures], at_ns)


def mark_failed(connection: sqlite3.Connection, failures: Sequence[LateFailure], at_ns: int) -> None:
    """Say of stored requests that they have failed; those that had failed before stay as they are."""
    for begin in range(0, len(failures), _AT_ONCE):
        of = {(failure.started_ns, failure.request_id): failure for failure in failures[begin : begin + _AT_ONCE]}
        found = [row for row in _fine(connection, [started_ns for started_ns, _ in of]) if _key(row) in of]
        for row in found:
            failure = of[_key(row)]
            connection.execute(_MARK, (failure.error_type, failure.why, failure.why, row.id))
        _make_important(connection, [row for row in found if not is_important(row.request)], at_ns)


def _key(row: StoredRow) -> tuple[int, str]:
    return row.request.started_ns, row.request.request_id


def _fine(connection: sqlite3.Connection, times: list[int]) -> Iterator[StoredRow]:
    """Yield requests that have not failed and began at such times, of which there are `_AT_ONCE` at most."""
    since = connection.execute(_FIRST_SINCE, (min(times),)).fetchone()
    # What was stored before the oldest of them had begun is none of them.
    first_id = max(_next_id(connection) - _MOST_LATE, 0 if since is None else schema.integers(since, 1)[0])
    all_times = (*times, *[times[0]] * (_AT_ONCE - len(times)))
    yield from rows(connection, [("id >= ? AND failed = 0 AND kind <> ''", (first_id,)), (_OF_TIMES, all_times)], -1)


def _make_important(connection: sqlite3.Connection, found: Sequence[StoredRow], at_ns: int) -> None:
    """Write the details of some rows once more, among those of important ones: fine ones are deleted sooner."""
    reader = ChunkReader(connection, lambda: None)
    for _, neighbours in groupby(found, lambda row: row.chunk):
        details = {row.id: text for row in neighbours if (text := reader.text(row))}
        if details:
            _move(connection, details, at_ns)


def _move(connection: sqlite3.Connection, details: dict[int, bytes], at_ns: int) -> None:
    """Put the details of rows, by their ids, into a chunk of their own."""
    number = _next_id(connection)
    _set_next_id(connection, number + 1)
    chunk = make_chunk(True, list(details.values()))
    id_ = 2 * number + chunk.important
    values = (id_, chunk.important, at_ns, min(details), max(details), chunk.size_bytes, chunk.content)
    connection.execute(schema.insert_chunks(1), values)
    first_byte = 0
    for row_id, text in details.items():
        connection.execute(_MOVE, (id_, first_byte, len(text), row_id))
        first_byte += len(text)
    count_bytes(connection, [chunk], 1)


def _next_id(connection: sqlite3.Connection) -> int:
    return schema.integers(connection.execute("SELECT next_id FROM state").fetchone(), 1)[0]


def _set_next_id(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("UPDATE state SET next_id = ?", (number,))
