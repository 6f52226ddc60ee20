"""Connections to SQLite, and what their errors mean."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sage_fastapi_obs.store import schema

BUSY_SECONDS = 0.25
"""How long one waits for another who reads or writes."""
FileErrors = (sqlite3.Error, UnicodeDecodeError)
"""What using a file raises. The second comes of a message of SQLite that quotes a damaged schema."""
_DAMAGED = frozenset(
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        # Tables are missing, or have other columns.
        sqlite3.SQLITE_ERROR,
        # The number of a request, or a value's type, is not what it can be.
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
    )
)
_BUSY = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))
_UNFINISHED = frozenset((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN))


class LockedError(sqlite3.OperationalError):
    """Another process holds the lock for longer than a transaction takes."""


def is_damage(error: Exception) -> bool:
    """Tell whether an error says that the file is not, or not any more, a store."""
    return isinstance(error, (schema.SchemaError, UnicodeDecodeError)) or _code(error) in _DAMAGED


def is_busy(error: Exception) -> bool:
    """Tell whether an error says that others use the file."""
    return isinstance(error, LockedError) or _code(error) in _BUSY


def is_full(error: Exception) -> bool:
    """Tell whether an error says that there is no room, on the disk or within the limit."""
    return _code(error) == sqlite3.SQLITE_FULL


def connect(address: str, *, is_uri: bool = False) -> sqlite3.Connection:
    """Open a database; `sqlite3.connect` may be another's that traces, the class is not."""
    connection = sqlite3.Connection(address, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=is_uri)
    # What was flipped in a text is no reason to lose the others.
    connection.text_factory = lambda text: text.decode(errors="replace")
    return connection


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open a store's file to read it; None: nothing is stored yet. Raises `sqlite3.Error`."""
    journal = path.with_name(f"{path.name}-journal")
    if not all(map(_can_be_opened, (path, journal))):
        raise schema.SchemaError("it is not a file")
    if not path.exists():
        yield None
        return
    address = f"file:{quote(str(path))}"
    with closing(connect(f"{address}?mode=ro", is_uri=True)) as connection:
        try:
            has_tables = schema.has_tables(connection)
        except sqlite3.OperationalError as error:
            if _code(error) not in _UNFINISHED:
                raise
            # A process was killed while it wrote, and none has written since: only who may write can undo that.
            with closing(connect(f"{address}?mode=rw", is_uri=True)) as writer:
                has_tables = schema.has_tables(writer)
        yield connection if has_tables else None


def _code(error: Exception) -> int | None:
    # Errors of the module itself, such as for a value that it cannot bind, have no code.
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _can_be_opened(path: Path) -> bool:
    """Tell whether there is a file, or nothing: to open a pipe would wait for ever for somebody who writes into it."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True
