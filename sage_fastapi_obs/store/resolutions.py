"""Remembers which issues somebody has resolved, and when."""

from collections.abc import Callable

from sage_fastapi_obs.store.connection import FileErrors, is_busy
from sage_fastapi_obs.store.database import Database
from sage_fastapi_obs.store.reader import UnreadableStoreError
from sage_fastapi_obs.store.schema import MOST_RESOLVED

_LIMIT = "DELETE FROM resolved WHERE issue NOT IN (SELECT issue FROM resolved ORDER BY at_ns DESC LIMIT ?)"


class Resolutions:
    """Writes them; the reader of the store reads them. Raises `UnreadableStoreError` where the file cannot be used."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        """`clock` returns Unix time in nanoseconds."""
        self._database = database
        self._clock = clock

    def resolve(self, issue: str) -> None:
        """Remember that an issue is resolved now."""
        self._change("INSERT OR REPLACE INTO resolved VALUES (?, ?)", (issue, self._clock()))

    def reopen(self, issue: str) -> None:
        """Forget that it was."""
        self._change("DELETE FROM resolved WHERE issue = ?", (issue,))

    def _change(self, statement: str, values: tuple[str | int, ...]) -> None:
        try:
            try:
                self._write(statement, values)
            except FileErrors as error:
                if is_busy(error):
                    raise
                # By now a damaged file has been set aside.
                self._write(statement, values)
        except (OSError, *FileErrors) as error:
            raise UnreadableStoreError(str(error)) from error

    def _write(self, statement: str, values: tuple[str | int, ...]) -> None:
        with self._database.transaction() as connection:
            connection.execute(statement, values)
            connection.execute(_LIMIT, (MOST_RESOLVED,))
