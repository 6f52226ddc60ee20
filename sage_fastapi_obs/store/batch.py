"""Requests that are written together: made of what the request path leaves, in the thread that writes."""

import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sage_fastapi_obs.retention_reasons import PROBLEMS
from sage_fastapi_obs.store import schema
from sage_fastapi_obs.store.records import LateFailure, StoredRequest, Supplement

BATCH_REQUESTS = 50
"""Most requests of a batch: to open one decompresses all, and to encode them holds the interpreter."""
BATCH_BYTES = 512 * 1024
"""A batch takes no more requests when their details are larger than this."""
MOST_DETAILS_BYTES = 512 * 1024
ROW_BYTES = 300
"""What a request takes besides its details, roughly."""
_LEVEL = 1
_MOST_LATE = 100_000
"""So many rows back a request is looked for that has failed since it was stored."""
_AT_ONCE = schema.MOST_TIMES
_INTEGERS = 2**63


class Chunk(NamedTuple):
    """Details of some requests, compressed."""

    important: bool
    content: bytes
    size_bytes: int
    """Counted against the share of its kind, with the rows of its requests."""


class Batch(NamedTuple):
    """What one transaction inserts."""

    chunks: list[Chunk]
    rows: list[list[Any]]
    """As in the table, without the id; in place of the chunk's id whether it is important."""
    size_bytes: int
    failures: list[LateFailure]
    """Requests that are in earlier batches, or in this one."""


def is_important(record: StoredRequest | Supplement) -> bool:
    """Tell whether a request is one of those that have room of their own."""
    return isinstance(record, StoredRequest) and (record.failed or record.kept in PROBLEMS)


def make_batch(records: Sequence[StoredRequest | Supplement]) -> Batch:
    """Compress details, and lay out the rows."""
    details: dict[bool, list[bytes]] = {True: [], False: []}
    filled = {True: 0, False: 0}
    rows = []
    for record in records:
        important = is_important(record)
        size = len(record.details)
        rows.append([important, filled[important], size, *_columns(record)])
        details[important].append(record.details)
        filled[important] += size
    chunks = [_chunk(important, parts) for important, parts in details.items() if parts]
    failures = [record.failure for record in records if isinstance(record, Supplement) and record.failure is not None]
    return Batch(chunks, rows, sum(chunk.size_bytes for chunk in chunks), failures)


def _columns(record: StoredRequest | Supplement) -> Iterable[Any]:
    if isinstance(record, StoredRequest):
        return record[:-1]
    at_ns, request_id, correlation_id, trace_id, *_ = record
    return (at_ns, 0, "", "", None, "", 0, False, "", request_id, correlation_id, trace_id, "", None, None, None)


def _chunk(important: bool, details: list[bytes]) -> Chunk:
    content = zlib.compress(b"".join(details), _LEVEL)
    return Chunk(important, content, len(content) + ROW_BYTES * len(details))


def insert(connection: sqlite3.Connection, batches: Sequence[Batch], at_ns: int) -> None:
    """Insert batches, with few statements: after each, a busy event loop may not give the interpreter back for a while."""
    (first_id,) = schema.integers(connection.execute("SELECT next_id FROM state").fetchone(), 1)
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
    connection.execute("UPDATE state SET next_id = ?", (first_id,))
    mark_failed(connection, [failure for batch in batches for failure in batch.failures], first_id - _MOST_LATE)
    count_bytes(connection, [chunk for batch in batches for chunk in batch.chunks], 1)


def mark_failed(connection: sqlite3.Connection, failures: Sequence[LateFailure], first_id: int) -> None:
    """Say of requests from an id on that they have failed; those that had failed before stay as they are."""
    for begin in range(0, len(failures), _AT_ONCE):
        some = failures[begin : begin + _AT_ONCE]
        # What was stored before the oldest of them had begun is none of them.
        since = connection.execute(schema.FIRST_SINCE, (min(failure.started_ns for failure in some),)).fetchone()
        _mark_some(connection, some, first_id if since is None else max(first_id, *schema.integers(since, 1)))


def _mark_some(connection: sqlite3.Connection, failures: Sequence[LateFailure], first_id: int) -> None:
    of = {(failure.started_ns, failure.request_id): failure for failure in failures}
    times = [failure.started_ns for failure in failures]
    times += times[:1] * (_AT_ONCE - len(times))
    for id_, *request in connection.execute(schema.SELECT_FINE, (first_id, *times)).fetchall():
        if (failure := of.get(tuple(request))) is not None:
            connection.execute(schema.MARK_FAILED, (failure.error_type, failure.why, failure.why, id_))


def count_bytes(connection: sqlite3.Connection, chunks: Iterable[Chunk], sign: int) -> None:
    """Add the bytes of chunks to those of important requests and of the others, or take them off."""
    sums = {True: 0, False: 0}
    for chunk in chunks:
        sums[chunk.important] += sign * chunk.size_bytes
    connection.execute(
        "UPDATE state SET important_bytes = important_bytes + ?, fine_bytes = fine_bytes + ?", (sums[True], sums[False])
    )


def cleaned(batch: Batch) -> Batch:
    """Replace what SQLite cannot hold: surrogates, numbers of more than 64 bits, values of other types."""
    failures = [LateFailure(*map(storable, failure)) for failure in batch.failures]
    return batch._replace(rows=[[storable(value) for value in row] for row in batch.rows], failures=failures)


def storable(value: Any) -> Any:
    """Return a value that SQLite can hold, as near as may be."""
    if isinstance(value, int):
        return max(-_INTEGERS, min(value, _INTEGERS - 1))
    return value if value is None or isinstance(value, float) else str(value).encode(errors="replace").decode()
