"""Room for what comes: which requests are deleted when the file is full, or when they are old."""

import sqlite3

from sage_fastapi_obs.store.batch import Chunk, count_bytes
from sage_fastapi_obs.store.database import PAGE_BYTES, Database
from sage_fastapi_obs.store.schema import SchemaError, integers

IMPORTANT_SHARE = 0.7
"""Share of the bytes that failed, slow and asked for requests have to themselves."""
_CHUNKS_AT_ONCE = 16
"""Chunks that one transaction deletes, so that the journal stays small and others wait shortly."""
_PAGES_AT_ONCE = 32
_MOST = 1 << 60
_SPARE_PAGES = 32
"""Kept free besides what is needed: rows fill pages only in part."""


class NoRoomError(sqlite3.OperationalError):
    """The limit leaves no room, although nothing is stored that could be deleted."""


def has_room(database: Database, connection: sqlite3.Connection, size_bytes: int) -> bool:
    """Tell whether so many bytes fit into the limit, and onto the disk."""
    pages, free = _pages(connection)
    growth = database.growth(pages)
    return growth >= 0 and growth + free >= size_bytes * 5 // 4 // PAGE_BYTES + _SPARE_PAGES


def make_room(database: Database, connection: sqlite3.Connection, size_bytes: int) -> int:
    """Delete some of the oldest requests that are fine, or important ones if those have more than their share.

    Deletes no more than it takes for so many bytes.

    Returns how many requests that were. A file that is larger than the limit, as after that was lowered, first gives back
    what is free in it. Raises `NoRoomError`.
    """
    pages, free = _pages(connection)
    if pages > database.max_pages and free:
        connection.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
        database.cap(connection)
        if _pages(connection)[0] == pages:
            raise SchemaError("free pages are missing")
        return 0
    shares = connection.execute("SELECT important_bytes, fine_bytes FROM state").fetchone()
    important_bytes, fine_bytes = integers(shares, 2)
    first = important_bytes > IMPORTANT_SHARE * (important_bytes + fine_bytes)
    for important in (first, not first):
        if (deleted := _delete(connection, "important = ? ORDER BY id", important, size_bytes)) is not None:
            return deleted
    raise NoRoomError("the limit leaves no room")


def delete_expired(connection: sqlite3.Connection, before_ns: int) -> int | None:
    """Delete some of the requests stored before a time; return how many, or None if there are none."""
    return _delete(connection, "at_ns < ?", before_ns, _MOST)


def _delete(connection: sqlite3.Connection, condition: str, value: int, enough_bytes: int) -> int | None:
    """Delete some chunks with their requests; return how many requests, or None if no chunk fulfils the condition."""
    columns = "id, important, first_id, last_id, size_bytes"
    query = f"SELECT {columns} FROM chunks WHERE {condition} LIMIT {_CHUNKS_AT_ONCE}"  # noqa: S608 - nothing but ours
    deleted: list[Chunk] = []
    requests = 0
    for row in connection.execute(query, (value,)).fetchall():
        id_, important, first_id, last_id, size_bytes = integers(row, 5)
        rows = connection.execute("DELETE FROM requests WHERE id BETWEEN ? AND ? AND chunk = ?", (first_id, last_id, id_))
        connection.execute("DELETE FROM chunks WHERE id = ?", (id_,))
        requests += rows.rowcount
        deleted.append(Chunk(bool(important), b"", size_bytes))
        if sum(chunk.size_bytes for chunk in deleted) >= enough_bytes:
            break
    count_bytes(connection, deleted, -1)
    return requests if deleted else None


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return how many pages the file has, and how many of them are free."""
    pages, free = connection.execute("SELECT * FROM pragma_page_count, pragma_freelist_count").fetchone()
    return pages, free
