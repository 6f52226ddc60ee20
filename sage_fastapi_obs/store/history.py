"""What is stored of windows and alerts, so that they go on when their process has ended. One process writes it at a time."""

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from uuid import uuid4

from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.store.database import Database
from sage_fastapi_obs.store.eviction import has_room, make_room
from sage_fastapi_obs.store.store_losses import StoreLosses

_THIS_PROCESS = uuid4().hex
_SHARE = 1 / 8
"""Of the store's limit; then the oldest ticks go."""
_MOST_STEPS = 100
_PURPOSE = "history"
"""Transactions that make room before it is tried again later."""


class SeriesRow(NamedTuple):
    """The series of one metric, in the order in which ticks have them."""

    metric: str
    content: bytes
    bases: bytes


class TickRow(NamedTuple):
    """A tick; the order of their ids is the order in which they were taken."""

    id: int
    at_ns: int
    """Unix time."""
    watched: float
    after_pause: int
    content: bytes


class HistoryRows(NamedTuple):
    """All that is stored."""

    run: str
    """Whose counters they are of: a number read in another run is another counter."""
    process: str
    """Which process has written it."""
    watched: float
    states: bytes
    """Of alerts."""
    series: list[SeriesRow]
    ticks: list[TickRow]


def content_bytes(series: Iterable[SeriesRow], ticks: Iterable[TickRow]) -> int:
    """Return how many bytes some rows take."""
    return sum(len(row.content) + len(row.bases) for row in series) + sum(len(row.content) for row in ticks)


class History:
    """Reads and writes it; `database` is used by one thread at a time."""

    def __init__(self, database: Database, losses: StoreLosses, max_bytes: int) -> None:
        self._database = database
        self._losses = losses
        self._most_bytes = _SHARE * max_bytes
        self.process = _THIS_PROCESS
        """Names this process among those that have written the file."""
        self._lock: Callable[[], object] | None = None
        """Closes the file with the lock."""
        self._sizes: dict[int, int] = {}
        at_fork(in_child=self.release)

    def acquire(self, run: str) -> bool:
        """Tell whether this process, which leads a run, may write: no other does, and there is a file.

        One that has led the same run before is stopped, or about to let go: `write` refuses what it still writes. Raises
        `sqlite3.Error` and `OSError`.
        """
        files = self._database.files
        if self._lock is None and files is not None:
            descriptor = files.try_lock(_PURPOSE)
            if descriptor is None and self._is_written_by(run):
                files.take_lock_away(_PURPOSE)
                descriptor = files.try_lock(_PURPOSE)
            self._lock = None if descriptor is None else weakref.finalize(self, os.close, descriptor)
        return self._lock is not None

    def _is_written_by(self, run: str) -> bool:
        with self._database.reading() as connection:
            return connection is not None and connection.execute("SELECT run FROM judge").fetchone() == (run,)

    def release(self) -> None:
        """Let another process write."""
        close, self._lock = self._lock, None
        if close is not None:
            close()

    def read(self, run: str | None) -> HistoryRows | None:
        """Return what is stored, by a run or by any; None for nothing. Raises `sqlite3.Error` and `OSError`."""
        if self._database.files is None:
            return None
        with self._database.reading() as connection:
            if connection is not None:
                # All of one moment: the ticks that another process adds meanwhile may have series that these have not.
                connection.execute("BEGIN")
            judge = None if connection is None else connection.execute("SELECT * FROM judge").fetchone()
            if connection is None or judge is None or not all(map(isinstance, judge, (str, str, float, bytes))):
                return None
            if run not in (None, judge[0]):
                return None
            series = [SeriesRow(*row) for row in connection.execute("SELECT * FROM series")]
            ticks = [TickRow(*row) for row in connection.execute("SELECT * FROM ticks ORDER BY id")]
        return HistoryRows(judge[0], judge[1], judge[2], judge[3], series, ticks)

    def begin(self, run: str, before: HistoryRows | None) -> None:
        """Write from now on, behind what was there before, or in its place. Raises `sqlite3.Error` and `OSError`."""
        with self._database.transaction() as connection:
            for table in ("judge",) if before is not None else ("judge", "series", "ticks"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - ours
            watched, states = (0.0, b"") if before is None else (before.watched, before.states)
            connection.execute("INSERT INTO judge VALUES (?, ?, ?, ?)", (run, self.process, watched, states))
        self._sizes = {} if before is None else {row.id: len(row.content) for row in before.ticks}

    def write_states(self, watched: float, states: bytes) -> bool:
        """Write the states of alerts alone; the return value and errors are those of `write`."""
        return self.write(watched, states, (), (), ())

    def write(
        self, watched: float, states: bytes, series: Iterable[SeriesRow], ticks: Sequence[TickRow], kept: Iterable[int] | None
    ) -> bool:
        """Replace rows, and delete the ticks that are not among those `kept`; tell whether the file is still ours.

        An empty `kept` deletes none. Raises `sqlite3.Error` and `OSError`.
        """
        series = [*series]
        size_bytes = len(states) + content_bytes(series, ticks)
        for _ in range(_MOST_STEPS):
            deleted = 0
            with self._database.lock, self._database.transaction() as connection:
                if fits := has_room(self._database, connection, size_bytes):
                    changed = connection.execute(
                        "UPDATE judge SET watched = ?, states = ? WHERE process = ?", (watched, states, self.process)
                    )
                    if not changed.rowcount:
                        return False
                    sizes = self._after(ticks, kept)
                    gone = [(id_,) for id_ in self._sizes if id_ not in sizes]
                    connection.executemany("DELETE FROM series WHERE metric = ?", [(row.metric,) for row in series])
                    connection.executemany("INSERT INTO series VALUES (?, ?, ?)", series)
                    connection.executemany("INSERT OR REPLACE INTO ticks VALUES (?, ?, ?, ?, ?)", ticks)
                    connection.executemany("DELETE FROM ticks WHERE id = ?", gone)
                else:
                    deleted = make_room(self._database, connection, size_bytes)
            if fits:
                self._sizes = sizes
                return True
            self._losses.count("evicted", deleted)
        return True

    def _after(self, ticks: Sequence[TickRow], kept: Iterable[int] | None) -> dict[int, int]:
        """Return the sizes of the ticks that are stored afterwards."""
        wanted = {*kept} if kept else {*self._sizes}
        sizes = {id_: size for id_, size in self._sizes.items() if id_ in wanted}
        sizes |= {row.id: len(row.content) for row in ticks}
        too_much = sum(sizes.values()) - self._most_bytes
        for id_ in sorted(sizes):
            if too_much <= 0:
                break
            too_much -= sizes.pop(id_)
        return sizes
