"""Writes batches to the store's file, and copes with a file that is busy, full or damaged."""

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sage_fastapi_obs.store.batch import (
    BATCH_BYTES,
    BATCH_REQUESTS,
    MOST_DETAILS_BYTES,
    Batch,
    cleaned,
    make_batch,
)
from sage_fastapi_obs.store.connection import is_busy, is_full
from sage_fastapi_obs.store.database import Database
from sage_fastapi_obs.store.eviction import delete_expired, has_room, make_room
from sage_fastapi_obs.store.insertion import insert
from sage_fastapi_obs.store.records import StoredRequest, Supplement
from sage_fastapi_obs.store.store_losses import LossCause, StoreLosses

MOST_PENDING_BYTES = 8 * 1024 * 1024
"""Of what cannot be written now; what comes then is lost."""
PAUSE_SECONDS = 5.0
"""Between two tries to write to a disk that takes nothing."""
_EXPIRY_SECONDS = 60.0
_AT_ONCE = 10
"""Batches of one transaction."""
_AT_ONCE_BYTES = 512 * 1024
_MOST_STEPS = 10_000
"""Transactions of one write; a damaged file may not keep the thread for ever."""
_TRIES = 3
"""To write anything at all; to make room takes as many as it takes."""
Record = StoredRequest | Supplement
Log = Callable[[str, Mapping[str, Any]], None]


class BatchWriter:
    """Writes in the thread that calls it; what cannot be written waits for the next time."""

    def __init__(
        self, database: Database, losses: StoreLosses, log: Log, clock: Callable[[], int], max_age_seconds: float
    ) -> None:
        """`log` is told when writing begins to fail, and when it works again. `clock` returns Unix time in nanoseconds."""
        self.pending: deque[Batch] = deque()
        self._pending_bytes = 0
        self._database = database
        self._losses = losses
        self._log = log
        self._clock = clock
        self._max_age_ns = int(max_age_seconds * 1e9)
        self._expire_at = 0.0
        self._paused_until = 0.0
        self._is_short = False
        self._trouble: LossCause | None = None

    def add(self, records: Sequence[Record]) -> None:
        """Take records to be written; counts them as lost if too many wait."""
        for part in _parts([self._limited(record) for record in records]):
            batch = make_batch(part)
            if self._pending_bytes + batch.size_bytes > MOST_PENDING_BYTES:
                self._losses.count(self._trouble or "busy", len(batch.rows))
                continue
            self.pending.append(batch)
            self._pending_bytes += batch.size_bytes

    def write(self, *, is_last: bool = False) -> None:
        """Write what waits, as far as the file takes it; `is_last` also tries a disk that took nothing lately."""
        if not is_last and time.monotonic() < self._paused_until:
            return
        failures, reason = 0, ""
        while failures < _TRIES:
            try:
                for _ in range(_MOST_STEPS):
                    if not self.pending:
                        break
                    self._write_some()
                    failures = 0
                self._expire()
            except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
                if is_busy(error):
                    self._trouble = self._trouble or "busy"
                    return
                failures, reason = failures + 1, str(error)
                self._cope(error)
            else:
                return
        self._pause(reason)

    def lose(self, cause: LossCause) -> None:
        """Drop what waits."""
        self._losses.count(cause, sum(len(batch.rows) for batch in self.pending))
        self.pending.clear()
        self._pending_bytes = 0

    def _limited(self, record: Record) -> Record:
        if len(record.details) <= MOST_DETAILS_BYTES:
            return record
        self._losses.count("too_large")
        return record._replace(details=b"{}")

    def _write_some(self) -> None:
        """Insert some batches, or delete where there is no room for them: never both, which would need a large journal."""
        with self._database.lock:
            some = list(_first(self.pending))
            size_bytes = sum(batch.size_bytes for batch in some)
            with self._database.transaction() as connection:
                if fits := not self._is_short and has_room(self._database, connection, size_bytes):
                    insert(connection, some, self._clock())
                else:
                    deleted = make_room(self._database, connection, size_bytes)
            if fits:
                self._remove(some)
        self._is_short = False
        if fits:
            self._recover()
        else:
            self._losses.count("evicted", deleted)

    def _remove(self, written: Sequence[Batch]) -> None:
        for batch in written:
            self.pending.popleft()
            self._pending_bytes -= batch.size_bytes

    def _expire(self) -> None:
        if time.monotonic() < self._expire_at:
            return
        self._expire_at = time.monotonic() + _EXPIRY_SECONDS
        deleted: int | None = 0
        while deleted is not None:
            self._losses.count("evicted", deleted)
            with self._database.transaction() as connection:
                deleted = delete_expired(connection, self._clock() - self._max_age_ns)

    def _cope(self, error: Exception) -> None:
        """Do what an error asks for before the next try, which opens the file anew."""
        if is_full(error):
            self._is_short = True
        elif isinstance(error, (UnicodeEncodeError, OverflowError, sqlite3.ProgrammingError)):
            self._clean()

    def _clean(self) -> None:
        """Make every value one that SQLite takes: in hostile paths some are not."""
        clean = [cleaned(batch) for batch in self.pending]
        if clean == list(self.pending):
            self.lose("not_encoded")
        self.pending = deque(clean[: len(self.pending)])

    def _pause(self, reason: str) -> None:
        if self._trouble != "disk_full":
            self._log("kept requests cannot be stored", {"reason": reason})
        self._trouble = "disk_full"
        self._paused_until = time.monotonic() + PAUSE_SECONDS

    def _recover(self) -> None:
        if self._trouble == "disk_full":
            self._log("kept requests are stored again", {"lost": self._losses.counts["disk_full"]})
        self._trouble = None


def _parts(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Divide records into those of one batch each."""
    part: list[Record] = []
    size_bytes = 0
    for record in records:
        part.append(record)
        size_bytes += len(record.details)
        if len(part) == BATCH_REQUESTS or size_bytes > BATCH_BYTES:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part


def _first(batches: deque[Batch]) -> Iterator[Batch]:
    """Yield the batches of one transaction."""
    size_bytes = 0
    for number in range(min(_AT_ONCE, len(batches))):
        size_bytes += batches[number].size_bytes
        if number and size_bytes > _AT_ONCE_BYTES:
            return
        yield batches[number]
