"""Requests that are written together: made of what the request path leaves, in the thread that writes."""

import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sage_fastapi_obs.retention_reasons import PROBLEMS
from sage_fastapi_obs.store.records import LateFailure, StoredRequest, Supplement

BATCH_REQUESTS = 50
"""Most requests of a batch: to open one decompresses all, and to encode them holds the interpreter."""
BATCH_BYTES = 512 * 1024
"""A batch takes no more requests when their details are larger than this."""
MOST_DETAILS_BYTES = 512 * 1024
ROW_BYTES = 300
"""What a request takes besides its details, roughly."""
_LEVEL = 1
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
    """Tell whether a request is one of those that have room of their own, or what came after it makes it one."""
    if isinstance(record, Supplement):
        return record.failure is not None
    return record.failed or record.kept in PROBLEMS


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
    chunks = [make_chunk(important, parts) for important, parts in details.items() if parts]
    failures = [record.failure for record in records if isinstance(record, Supplement) and record.failure is not None]
    return Batch(chunks, rows, sum(chunk.size_bytes for chunk in chunks), failures)


def _columns(record: StoredRequest | Supplement) -> Iterable[Any]:
    if isinstance(record, StoredRequest):
        return record[:-1]
    at_ns, request_id, correlation_id, trace_id, *_ = record
    return (at_ns, 0, "", "", None, "", 0, False, "", request_id, correlation_id, trace_id, "", None, None, None)


def make_chunk(important: bool, details: Sequence[bytes]) -> Chunk:
    """Compress the details of some requests."""
    content = zlib.compress(b"".join(details), _LEVEL)
    return Chunk(important, content, len(content) + ROW_BYTES * len(details))


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
