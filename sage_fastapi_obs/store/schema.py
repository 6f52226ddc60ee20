"""The tables of the store, and the statements that write them."""

import sqlite3
import time
from functools import cache

from sage_fastapi_obs.store.records import StoredRequest

# Nothing but chunks has an index: to find an id reads all requests, which is quick, and is asked for by people. What is
# looked for most stands first, where it is read soonest.
_TABLES = """
CREATE TABLE state (next_id INTEGER, important_bytes INTEGER, fine_bytes INTEGER);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY, important INTEGER, at_ns INTEGER, first_id INTEGER, last_id INTEGER,
    size_bytes INTEGER, content BLOB);
CREATE INDEX chunks_by_importance ON chunks (important, id);
CREATE INDEX chunks_by_age ON chunks (at_ns);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, request_id TEXT, correlation_id TEXT, trace_id TEXT, kind TEXT, status INTEGER,
    failed INTEGER, kept TEXT, route TEXT, duration_us INTEGER, started_ns INTEGER, method TEXT, path TEXT,
    span_id TEXT, error_type TEXT, cause TEXT, why TEXT, chunk INTEGER, first_byte INTEGER, bytes INTEGER);
CREATE TABLE resolved (issue TEXT PRIMARY KEY, at_ns INTEGER) WITHOUT ROWID;
CREATE TABLE judge (run TEXT, process TEXT, watched REAL, states BLOB);
CREATE TABLE series (metric TEXT, content BLOB, bases BLOB);
CREATE TABLE ticks (id INTEGER PRIMARY KEY, at_ns INTEGER, watched REAL, after_pause INTEGER, content BLOB)
"""
MOST_RESOLVED = 1_000
"""Issues that are remembered as resolved, those that were resolved last."""
_MOST = 1 << 60
UNWRITTEN_ID = 1 << 59
"""From here on are the ids of what waits to be written to the file."""
TABLES = tuple(statement.strip() for statement in _TABLES.split(";"))
"""`chunks`: the details of some requests, compressed together. `requests`: what is listed, and where its details are.

A supplement is a row of `requests`, too; its `kind` is empty. `resolved`: see `resolutions.py`. `judge`, `series`,
`ticks`: see `history.py`.
"""


COLUMNS = ", ".join(("id", "chunk", "first_byte", "bytes", *StoredRequest._fields[:-1]))
"""Of `requests`, in the order in which they are written and read."""


class SchemaError(sqlite3.DatabaseError):
    """A file is a database, but not of this schema."""


def create(connection: sqlite3.Connection, first_id: int) -> None:
    """Make the tables in an empty database."""
    connection.execute("BEGIN IMMEDIATE")
    for table in TABLES:
        connection.execute(table)
    connection.execute("INSERT INTO state VALUES (?, 0, 0)", (first_id,))
    connection.execute("COMMIT")


def has_tables(connection: sqlite3.Connection) -> bool:
    """Tell whether the tables exist; raises `SchemaError` if there are others."""
    found = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master ORDER BY rowid")]
    if found and tuple(found) != TABLES:
        raise SchemaError("the tables are not those of this version")
    return bool(found)


def integers(row: tuple[object, ...] | None, number: int) -> tuple[int, ...]:
    """Return the numbers of a row that was read; raises `SchemaError` if something else is there."""
    found = tuple(value for value in row or () if isinstance(value, int) and abs(value) < _MOST)
    if len(found) != number:
        raise SchemaError("numbers of the store itself are missing")
    return found


@cache
def insert_requests(number: int) -> str:
    """Return the statement that inserts so many requests."""
    return f"INSERT INTO requests ({COLUMNS}) VALUES {_marks(4 + len(StoredRequest._fields) - 1, number)}"  # noqa: S608 - ours


@cache
def insert_chunks(number: int) -> str:
    """Return the statement that inserts so many chunks."""
    return f"INSERT INTO chunks VALUES {_marks(7, number)}"  # noqa: S608 - nothing but question marks


def _marks(columns: int, rows: int) -> str:
    return ",".join([f"({','.join('?' * columns)})"] * rows)


def new_first_id() -> int:
    """Return where the numbers of a new file begin: behind all those of the file that it replaces."""
    return time.time_ns() // 1000
