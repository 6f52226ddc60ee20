"""Room for what comes: which requests are deleted when the file is full, or when they are old."""

import sqlite3

from sage_fastapi_obs.store.batch import Chunk, count_bytes
from sage_fastapi_obs.store.database import PAGE_BYTES, Database

IMPORTANT_SHARE = 0.7
"""Share of the bytes that failed, slow and asked for requests have to themselves."""
_CHUNKS_AT_ONCE = 16
"""Chunks that one transaction deletes, so that the journal stays small and others wait shortly."""
_PAGES_AT_ONCE = 64
_SPARE_PAGES = 64
"""Kept free besides what is needed: rows fill pages only in part."""


class NoRoomError(sqlite3.OperationalError):
    """The limit leaves no room, although nothing is stored that could be deleted."""


def has_room(database: Database, connection: sqlite3.Connection, size_bytes: int) -> bool:
    """Tell whether so many bytes fit into the limit."""
    pages, free = _pages(connection)
    wanted = 2 * size_bytes // PAGE_BYTES + _SPARE_PAGES
    return pages <= database.max_pages and database.max_pages - pages + free >= wanted


def make_room(database: Database, connection: sqlite3.Connection) -> int:
    """Delete some of the oldest requests that are fine, or important ones if those have more than their share.

    Returns how many requests that were. A file that is larger than the limit, as after that was lowered, first gives back
    what is free in it. Raises `NoRoomError`.
    """
    pages, free = _pages(connection)
    if pages > database.max_pages and free:
        connection.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
        database.cap(connection)
        return 0
    ((important_bytes, fine_bytes),) = connection.execute("SELECT important_bytes, fine_bytes FROM state")
    first = important_bytes > IMPORTANT_SHARE * (important_bytes + fine_bytes)
    for important in (first, not first):
        if deleted := _delete(connection, "important = ? ORDER BY id", important):
            return deleted
    raise NoRoomError("the limit leaves no room")


def delete_expired(connection: sqlite3.Connection, before_ns: int) -> int:
    """Delete some of the requests stored before a time; return how many."""
    return _delete(connection, "at_ns < ?", before_ns)


def _delete(connection: sqlite3.Connection, condition: str, value: int) -> int:
    found = connection.execute(
        f"SELECT id, important, first_id, last_id, size_bytes FROM chunks WHERE {condition} LIMIT {_CHUNKS_AT_ONCE}",  # noqa: S608 - ours
        (value,),
    ).fetchall()
    deleted = 0
    for id_, _, first_id, last_id, _ in found:
        rows = connection.execute("DELETE FROM requests WHERE id BETWEEN ? AND ? AND chunk = ?", (first_id, last_id, id_))
        connection.execute("DELETE FROM chunks WHERE id = ?", (id_,))
        deleted += rows.rowcount
    count_bytes(connection, (Chunk(bool(important), b"", size_bytes) for _, important, _, _, size_bytes in found), -1)
    return deleted


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return how many pages the file has, and how many of them are free."""
    pages, free = connection.execute("SELECT * FROM pragma_page_count, pragma_freelist_count").fetchone()
    return pages, free
