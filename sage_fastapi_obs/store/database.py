"""The connection of a process to the store's file: opens it anew when it must, and sets it aside when it is damaged."""

import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from sage_fastapi_obs.processes import hold_at_fork
from sage_fastapi_obs.store import schema
from sage_fastapi_obs.store.connection import FileErrors, connect, is_busy, is_damage, reading
from sage_fastapi_obs.store.store_files import StoreFiles

PAGE_BYTES = 8192
JOURNAL_BYTES = 2 * 1024 * 1024
"""What is left of the limit for the journal: a transaction changes far fewer pages of those that exist."""
ASIDE_SHARE = 0.25
"""A damaged file is kept if it takes no more of the limit than this; the rest is for the new one."""
_SETTINGS = (
    f"page_size = {PAGE_BYTES}",
    "auto_vacuum = INCREMENTAL",
    # Not WAL: a reader that stays open makes it grow without end.
    "journal_mode = TRUNCATE",
    # What the system was given survives a killed process; after a power failure a damaged file is set aside.
    "synchronous = OFF",
    # Some systems overwrite by default what is deleted, and all that would go through the journal.
    "secure_delete = OFF",
    "cache_size = -2048",
    "temp_store = MEMORY",
    "trusted_schema = OFF",
)
_of_parents: list[sqlite3.Connection] = []
"""Connections from before a fork: they are kept, since letting go of them would close them."""


class Database:
    """A file, or memory before `use`. One thread of a process uses it at a time."""

    def __init__(self, max_bytes: int, damaged: Callable[[str], None]) -> None:
        """`damaged` is told why a file was set aside."""
        self.max_pages = 0
        self.files: StoreFiles | None = None
        self._max_bytes = max_bytes
        self._damaged = damaged
        self._connection: sqlite3.Connection | None = None
        self._closing: weakref.finalize[..., Database] | None = None
        self.restart()

    def use(self, path: Path, max_bytes: int) -> None:
        """Store in a file from now on."""
        self.files = StoreFiles(path)
        self._max_bytes = max_bytes

    def restart(self) -> None:
        """Begin anew, also in a forked child, where the parent's connection must not even be closed."""
        if self._connection is not None:
            _of_parents.append(self._connection)
        if self._closing is not None:
            self._closing.detach()
        self._connection = self._closing = None
        self._inode = 0
        self.lock = threading.RLock()
        hold_at_fork(self.lock)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write, or nothing of it. Raises `sqlite3.Error` and `OSError`; a damaged file has been set aside by then."""
        with self.lock, self._file_lock():
            try:
                connection = self._current()
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                self._give_up(error)
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Read, through a connection for this question alone where there is a file; None: nothing is stored yet.

        Raises `sqlite3.Error`; a damaged file has been set aside by then.
        """
        with self.lock:
            inode = self.files.inode() if self.files else 0
            try:
                with reading(self.files.path) if self.files else nullcontext(self._current()) as connection:
                    yield connection
            except FileErrors as error:
                if is_damage(error):
                    self._set_aside_if(inode, str(error))
                elif not is_busy(error):
                    self._open_anew()
                raise

    def clear(self) -> None:
        """Delete all that is stored; processes that have the file open begin a new one. Raises `OSError`, `sqlite3.Error`."""
        with self.lock, self._file_lock():
            self.close()
            if self.files is not None:
                self.files.remove()

    def close(self) -> None:
        """Let go of the connection."""
        with self.lock:
            closing, self._closing, self._connection = self._closing, None, None
            if closing is not None:
                closing()

    def cap(self, connection: sqlite3.Connection) -> None:
        """Let the file grow no further than the limit; or than it is, if it is larger."""
        connection.execute(f"PRAGMA max_page_count = {self.max_pages}").fetchall()

    def growth(self, pages: int) -> int:
        """Return by how many pages a file of so many may grow: to its limit, and leaving a journal room on the disk."""
        disk_bytes = self.files.free_bytes() if self.files else self._max_bytes
        return min(self.max_pages - pages, max(0, disk_bytes - JOURNAL_BYTES) // PAGE_BYTES)

    def _file_lock(self) -> AbstractContextManager[None]:
        return self.files.lock() if self.files is not None else nullcontext()

    def _current(self) -> sqlite3.Connection:
        """Return the connection, a new one if the file is another than the one it has open."""
        if self._connection is not None and (self.files is None or self.files.inode() == self._inode):
            return self._connection
        self.close()
        try:
            self._connection = self._open()
        except FileErrors as error:
            if not is_damage(error):
                raise
            self._set_aside(str(error))
            self._connection = self._open()
        # Who is abandoned closes it, too: Python 3.13 warns of one that is not closed. At the end of the process nobody has to.
        self._closing = weakref.finalize(self, self._connection.close)
        self._closing.atexit = False
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if self.files is not None:
            if (reason := self.files.what_is_wrong()) is not None:
                self._set_aside(reason)
            self.files.prepare()
            self._inode = self.files.inode()
        connection = connect(str(self.files.path) if self.files else ":memory:")
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        for setting in _SETTINGS:
            # To the end: a statement that somebody holds with its cursor would keep transactions from theirs.
            connection.execute(f"PRAGMA {setting}").fetchall()
        pages = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "auto_vacuum")]
        if pages != [PAGE_BYTES, 2]:
            raise schema.SchemaError("the pages are not those of this version")
        if not schema.has_tables(connection):
            schema.create(connection, schema.new_first_id())
        aside_bytes = self.files.aside_bytes() if self.files else 0
        self.max_pages = (self._max_bytes - JOURNAL_BYTES - aside_bytes) // PAGE_BYTES
        self.cap(connection)

    def _open_anew(self) -> None:
        """Open the file as one who writes does, which puts right what stands beside it."""
        self.close()
        with suppress(OSError, *FileErrors), self.transaction():
            pass

    def _give_up(self, error: BaseException) -> None:
        """Roll back; after an error of the file, open it anew the next time."""
        if self.files is not None and isinstance(error, FileErrors) and not is_busy(error):
            self.close()
            if is_damage(error):
                self._set_aside(str(error))
        elif self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()

    def _set_aside_if(self, inode: int, reason: str) -> None:
        """Set a file aside, unless another process has done that."""
        with self._file_lock():
            if self.files is not None and inode == self.files.inode():
                self._set_aside(reason)

    def _set_aside(self, reason: str) -> None:
        if self.files is not None:
            self.files.set_aside(ASIDE_SHARE * self._max_bytes)
            self._damaged(reason)


def clear(path: Path) -> None:
    """Delete all that a store's file holds, also while a service runs. Raises `OSError` and `sqlite3.Error`."""
    database = Database(0, lambda _: None)
    database.use(path, 0)
    database.clear()
