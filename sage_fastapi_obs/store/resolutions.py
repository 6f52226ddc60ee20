"""Which issues somebody has resolved, and when."""

import sqlite3
from collections.abc import Callable

from sage_fastapi_obs.store.connection import FileErrors
from sage_fastapi_obs.store.database import Database
from sage_fastapi_obs.store.reader import UnreadableStoreError

MOST_RESOLVED = 1_000
"""Issues that are remembered as resolved, those that were resolved last."""
_LIMIT = "DELETE FROM resolved WHERE issue NOT IN (SELECT issue FROM resolved ORDER BY at_ns DESC LIMIT ?)"


class Resolutions:
    """Reads and writes them; each question and each change raises `UnreadableStoreError` where the file cannot be used."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        """`clock` returns Unix time in nanoseconds."""
        self._database = database
        self._clock = clock

    def all(self) -> dict[str, int]:
        """Return when each issue was resolved: Unix time in nanoseconds."""
        try:
            with self._database.lock, self._database.reading() as connection:
                return {} if connection is None else _read(connection)
        except (OSError, *FileErrors) as error:
            raise UnreadableStoreError(str(error)) from error

    def resolve(self, issue: str) -> None:
        """Remember that an issue is resolved now."""
        self._change("INSERT OR REPLACE INTO resolved VALUES (?, ?)", (issue, self._clock()))

    def reopen(self, issue: str) -> None:
        """Forget that it was."""
        self._change("DELETE FROM resolved WHERE issue = ?", (issue,))

    def _change(self, statement: str, values: tuple[str | int, ...]) -> None:
        try:
            with self._database.transaction() as connection:
                connection.execute(statement, values)
                connection.execute(_LIMIT, (MOST_RESOLVED,))
        except (OSError, *FileErrors) as error:
            raise UnreadableStoreError(str(error)) from error


def _read(connection: sqlite3.Connection) -> dict[str, int]:
    found = connection.execute("SELECT issue, at_ns FROM resolved LIMIT ?", (MOST_RESOLVED,))
    return {issue: at_ns for issue, at_ns in found if isinstance(issue, str) and isinstance(at_ns, int)}
