"""The embedded store of a process: takes kept requests, writes them in a thread, and answers with all of them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from opentelemetry.instrumentation.utils import suppress_instrumentation

from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.settings import StoreSettings
from sage_fastapi_obs.store import schema
from sage_fastapi_obs.store.batch import BATCH_REQUESTS
from sage_fastapi_obs.store.batch_writer import BatchWriter, Log, Record
from sage_fastapi_obs.store.connection import connect
from sage_fastapi_obs.store.database import Database
from sage_fastapi_obs.store.history import History
from sage_fastapi_obs.store.insertion import insert
from sage_fastapi_obs.store.location import StoreKey, UnusableFolderError, find_file
from sage_fastapi_obs.store.reader import Connections, StoreReader
from sage_fastapi_obs.store.records import StoredRequest, Supplement
from sage_fastapi_obs.store.resolutions import Resolutions
from sage_fastapi_obs.store.store_losses import StoreLosses
from sage_fastapi_obs.threads import Threads

QUEUE_REQUESTS = 5_000
FLUSH_SECONDS = 0.2
"""How long a request waits in memory for others to be written with."""
IDLE_SECONDS = 30.0
"""After which the thread ends; the next request starts another. Services that nobody closes leave no threads behind."""
QUESTION_SECONDS = 5.0
"""How long a question waits at most until what was kept has been written, or tried to: some milliseconds, if nothing hangs."""
MEMORY_BYTES = 16 * 1024 * 1024
"""Limit of a store that no file can be written for."""
_CLOSE_SECONDS = 1.0
"""Longest wait for the last requests to be written to the disk of this machine."""
_SECONDS_PER_DAY = 86_400.0


class Store:
    """Keeps requests in a file that all workers of a service on this machine share."""

    def __init__(
        self,
        settings: StoreSettings,
        key: StoreKey,
        encode: Callable[[Any], Record],
        *,
        log: Log,
        failed: Callable[[Exception], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Touch nothing yet; `start` does.

        `encode` turns what `keep` took into a record, in the thread that writes. `log` is told what people have to know, with
        fields. `failed` is called with internal errors. `clock` returns Unix time in nanoseconds.
        """
        self.losses = StoreLosses()
        self.reader = StoreReader(self._connections, lambda: self.losses.count("damaged"))
        self._settings = settings
        self._key = key
        self._encode = encode
        self._log = log
        self._failed = failed
        self.clock = clock
        self._database = Database(min(settings.max_bytes, MEMORY_BYTES), self._note_set_aside)
        self.history = History(self._database, self.losses, settings.max_bytes)
        """Keeps windows and alerts."""
        self.resolutions = Resolutions(self._database, clock)
        """Keeps which issues are resolved."""
        self._threads = Threads("sage-obs-store", failed)
        self._room = 0
        self._restart()
        at_fork(in_child=self._restart)

    def start(self) -> None:
        """Take requests from now on; the thread comes with the first, in the process that serves it."""
        if self._room:
            return
        try:
            self._database.use(find_file(self._settings, self._key), self._settings.max_bytes)
        except UnusableFolderError as error:
            self._log("kept requests are stored in memory only, and end with the process", {"reason": str(error)})
        self._room = QUEUE_REQUESTS

    def keep(self, source: Any) -> None:
        """Take a request or a supplement, as `encode` reads it; never waits, never raises."""
        if len(self._queue) >= self._room:
            self._refuse()
            return
        self._queue.append(source)
        if self._thread is None:
            self._start_thread()
        elif len(self._queue) == 1:
            self._wake.set()

    def flush(self, seconds: float) -> bool:
        """Write all that was kept, and wait for that no longer than some seconds; tell whether it is written."""
        if self._is_idle:
            return True
        if self._thread is None:
            self._work()
        elif self._thread is not threading.current_thread():
            done = threading.Event()
            self._waiting.append(done)
            self._hurry.set()
            self._wake.set()
            done.wait(max(0.0, seconds))
        return self._is_idle

    def close(self, deadline: float | None = None) -> None:
        """Write what waits, until a time of `time.monotonic` or for a second; take nothing more, and lose what is left."""
        if deadline is None:
            deadline = time.monotonic() + _CLOSE_SECONDS
        self._room = 0
        self._stopping.set()
        self._hurry.set()
        self._wake.set()
        thread = self._thread
        if thread is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
        elif not self._is_idle:
            self._run()
        lost = len(self._queue) + len(self._taken)
        self._queue.clear()
        self.losses.count("shutdown", lost)
        self._writer.lose("shutdown")
        if thread is None or not thread.is_alive():
            self._database.close()
            self._restart()

    def clear(self) -> None:
        """Delete all that is stored, by whatever process."""
        self.flush(QUESTION_SECONDS)
        self._database.clear()

    @property
    def _is_idle(self) -> bool:
        return not (self._queue or self._taken or self._writer.pending)

    def _restart(self) -> None:
        """Begin anew, at the start and in a forked child: connection, thread and what waits are the parent's."""
        self._database.restart()
        self._queue: deque[Any] = deque()
        self._taken: list[Any] = []
        self._waiting: deque[threading.Event] = deque()
        self._wake, self._hurry, self._stopping = threading.Event(), threading.Event(), threading.Event()
        """There is something to write; somebody waits for it; it is the last."""
        self._starting, self._working = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._writer = BatchWriter(
            self._database, self.losses, self._log, self.clock, self._settings.max_age_days * _SECONDS_PER_DAY
        )

    def _refuse(self) -> None:
        if self._room:
            self.losses.count("queue_full")

    def _start_thread(self) -> None:
        # Another thread that keeps something at this moment starts it.
        if self._starting.acquire(blocking=False):
            try:
                self._thread = self._thread or self._threads.start(self._run)
            finally:
                self._starting.release()

    def _run(self) -> None:
        wake, hurry, stopping = self._wake, self._hurry, self._stopping
        with suppress_instrumentation():
            while not stopping.is_set():
                if self._is_idle and not wake.wait(IDLE_SECONDS) and self._leave():
                    return
                wake.clear()
                hurry.wait(FLUSH_SECONDS)
                hurry.clear()
                self._work()
            self._work(is_last=True)
            self._database.close()

    def _leave(self) -> bool:
        """End the thread, unless there is something to do just now; tell whether it ends."""
        with self._starting, self._working:
            self._thread = None
            if self._queue or self._waiting or self._stopping.is_set():
                self._thread = threading.current_thread()
                return False
            self._database.close()
        if self._queue:
            # It came too late to find this thread, and too early to start another.
            self._start_thread()
        return True

    def _work(self, *, is_last: bool = False) -> None:
        """Write all that waits; an internal error costs what was taken, and nothing after it."""
        with self._working:
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                while self._queue:
                    self._take()
                self._writer.write(is_last=is_last)
            except Exception as error:
                self._failed(error)
                self.losses.count("not_encoded", len(self._taken))
            self._taken = []
            for done in waiting:
                done.set()

    def _take(self) -> None:
        """Encode some requests, and then let others have the interpreter."""
        self._taken = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_REQUESTS))]
        self._writer.add([record for source in self._taken if (record := self._record(source)) is not None])
        self._taken = []
        time.sleep(0)

    def _record(self, source: Any) -> Record | None:
        try:
            return _checked(self._encode(source))
        except Exception as error:
            self.losses.count("not_encoded")
            self._failed(error)
            return None

    @contextmanager
    def _connections(self) -> Iterator[Connections]:
        """Open what is to be read: the file, and before it what cannot be written to it now."""
        self.flush(QUESTION_SECONDS)
        with self._database.lock, self._database.reading() as stored, closing(connect(":memory:")) as unwritten:
            pending = list(self._writer.pending)
            if pending:
                schema.create(unwritten, schema.UNWRITTEN_ID)
                insert(unwritten, pending, 0)
            yield ([unwritten] if pending else []) + ([] if stored is None else [stored])

    def _note_set_aside(self, reason: str) -> None:
        self.losses.count("damaged")
        self._log("the store was damaged; a new one is begun", {"reason": reason})


def _checked(record: Record) -> Record:
    if isinstance(record, (StoredRequest, Supplement)) and isinstance(record.details, bytes):
        return record
    raise TypeError(f"{type(record).__name__} cannot be stored")
