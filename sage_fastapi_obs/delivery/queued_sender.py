"""Lines and spans to a server: kept in a bounded queue, sent in batches by one thread, tried again, and counted when lost."""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from opentelemetry.instrumentation.utils import suppress_instrumentation

from sage_fastapi_obs.delivery.answers import Refused, TooLarge, Unavailable
from sage_fastapi_obs.delivery.losses import Cause, Losses
from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.threads import Threads

QUEUE_LINES = 20_000
QUEUE_BYTES = 16 * 1024 * 1024
BATCH_LINES = 500
_BATCH_BYTES = 1024 * 1024
BATCH_SECONDS = 1.0
"""How long a line waits for others to be sent with."""
_FLUSH_SECONDS = 0.01
"""How often a flush looks whether all is sent."""
FIRST_RETRY_SECONDS = 0.25
LAST_RETRY_SECONDS = 30.0
_NOTICE_SECONDS = 60.0


class _SendingFlag(threading.local):
    is_sending = False


_this_thread = _SendingFlag()


def is_sending() -> bool:
    """Tell whether this thread sends lines: what it logs, through the HTTP client, is about that."""
    return _this_thread.is_sending


class Entry(NamedTuple):
    """A line as JSON, or a span, with a number that no other of its sender has."""

    number: int
    content: Any
    size_bytes: int = 0
    """0 for what is not encoded yet."""


class Limits(NamedTuple):
    """How many wait, how many go at a time, and how long one waits for others to go with."""

    queue: int
    batch: int
    seconds: float


class Destination(Protocol):
    """Where a sender's batches go."""

    name: str
    remarks: tuple[str, ...]
    """Warnings about its configuration, logged at the start."""

    def prepare(self) -> None:
        """Collect, at the start, what an interpreter that is about to end cannot collect any more."""

    def open(self) -> None:
        """Prepare in the process that sends."""

    def deliver(self, batch: Sequence[Entry], seconds: float) -> tuple[Sequence[Entry], int]:
        """Send a batch; return those to try again, and how many were refused. Raises `Unavailable`, `Refused`, `TooLarge`.

        `seconds`: how long that may take, where it is less than usual.
        """

    def close(self) -> None:
        """Let go of connections."""


class Sender:
    """Sends what it is given in the background."""

    what = "log lines"
    """What is sent, in words."""
    thread_name = "sage-obs-log"
    causes: tuple[Cause, ...] = ("full", "refused", "shutdown")
    """Why one may be lost."""

    def __init__(
        self,
        destination: Destination,
        losses: Losses,
        log: Callable[[str, Mapping[str, Any]], None],
        failed: Callable[[Exception], None],
        limits: Limits | None = None,
    ) -> None:
        """`log` writes a line that is not sent itself. `failed` is called when no thread can be started."""
        self.name = destination.name
        self.remarks = destination.remarks
        self._destination = destination
        self._limits = limits or Limits(QUEUE_LINES, BATCH_LINES, BATCH_SECONDS)
        self._losses = losses
        self._log = log
        losses.watch(self.name, self.causes)
        self._is_open = False
        self._thread: threading.Thread | None = None
        self._sending: Sequence[Entry] = ()
        self._number = 0
        """How many were queued."""
        self._due = 0
        """Up to which of them all go now, be it in a batch that is not full."""
        self._threads = Threads(f"{self.thread_name}-{self.name}", failed)
        self.restart()
        at_fork(in_child=self.restart)

    def open(self) -> None:
        """Take lines from now on; the thread comes with the first, in the process that writes it."""
        self._destination.prepare()
        self.restart()
        self._is_open = True

    def put(self, content: object, size_bytes: int = 0) -> None:
        """Queue one, or count it as lost when the queue is full."""
        if not self._is_open:
            return
        with self._lock:
            waiting = len(self._returned) + len(self._queue)
            if waiting >= self._limits.queue or self.queued_bytes + size_bytes > QUEUE_BYTES:
                self._losses.count(self.name, "full")
                return
            self._number += 1
            self._queue.append(content)
            self._sizes.append(size_bytes)
            self.queued_bytes += size_bytes
            if self._thread is None:
                # Without one, what is queued waits: for a thread, or for the close.
                self._thread = self._threads.start(self._run)
            if waiting + 1 >= self._limits.batch or self.queued_bytes >= _BATCH_BYTES:
                self._wake.set()

    def hurry(self) -> None:
        """Send now what is queued, also where the server was away and another try was to come later; does not wait."""
        self._due = self._number
        self._hurry.set()
        self._wake.set()

    def wait(self, deadline: float) -> bool:
        """Wait for what was queued at the last `hurry`, until a time of `time.monotonic`; tell whether all of it is sent."""
        while (is_left := self._is_left()) and self._thread is not None and time.monotonic() < deadline:
            time.sleep(_FLUSH_SECONDS)
        return not is_left

    def flush(self, seconds: float) -> bool:
        """Send all that is queued, and wait for that no longer than some seconds; tell whether it was done."""
        self.hurry()
        return self.wait(time.monotonic() + seconds)

    def stop(self, deadline: float) -> None:
        """Send what is queued until a time of `time.monotonic`, or the one of an earlier stop; does not wait."""
        if not self._stopping.is_set():
            self._deadline = deadline
        self._stopping.set()
        self.hurry()

    def close(self) -> None:
        """Wait for the last lines until the time that `stop` was given; what is left then is lost."""
        thread = self._thread
        if thread is not None:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        with self._lock:
            # What was queued since the thread has ended is sent here.
            if is_alone := self._first() is not None and (thread is None or not thread.is_alive()):
                self._thread = threading.current_thread()
        if is_alone:
            self._run()
        with self._lock:
            # From here on the thread, should it come back from a server that hangs, counts nothing.
            self._thread = None
            self._is_open = False
            self._losses.count(self.name, "shutdown", len(self._returned) + len(self._queue) + len(self._sending))
            self._empty()

    def reopen(self) -> None:
        """Go on after a close."""
        with self._lock:
            self._renew_signals()
            self._is_open = True

    def restart(self) -> None:
        """Begin anew, at the start and in a forked child: the thread is the parent's, and so is what waits."""
        self._lock = threading.RLock()
        self._renew_signals()
        self._empty()
        self._is_connected = False
        self._number = self._due = 0
        self._deadline = 0.0
        self._thread = None
        self._trouble: str | None = None
        self._logged_lost = self._losses.lost_by(self.name)
        self._refused_logged_at = -_NOTICE_SECONDS

    def _empty(self) -> None:
        # No object for each of them waits besides: Python's collector would look at it again and again.
        self._queue: deque[Any] = deque()
        self._sizes: deque[int] = deque()
        self._returned: deque[Entry] = deque()
        """Those that go before all in the queue, as they were taken from it before."""
        self.queued_bytes = 0
        self._sending = ()

    def _renew_signals(self) -> None:
        self._wake, self._stopping, self._hurry = threading.Event(), threading.Event(), threading.Event()

    def _run(self) -> None:
        wake, stopping = self._wake, self._stopping
        _this_thread.is_sending = True
        try:
            with suppress_instrumentation():
                while not stopping.is_set():
                    if not wake.wait(self._limits.seconds):
                        self._due = self._number
                    wake.clear()
                    if not stopping.is_set():
                        self._send_due()
                self._send_due()
        finally:
            self._disconnect()

    def _send_due(self) -> None:
        """Send full batches, and what has waited for long enough: what comes meanwhile waits for others to go with."""
        self._hurry.clear()
        while self._seconds_left() > 0 and self._take():
            failures = 0
            while self._sending:
                after_seconds = self._try()
                failures += 1
                if self._sending and not self._pause(failures, after_seconds):
                    return

    def _take(self) -> bool:
        """Take the next batch out of the queue, which is then smaller by it only when it has been dealt with."""
        with self._lock:
            if self._thread is not threading.current_thread() or not self._is_due():
                return False
            batch: list[Entry] = []
            size = 0
            while self._first() is not None and len(batch) < self._limits.batch and size < _BATCH_BYTES:
                batch.append(self._pop())
                size += batch[-1].size_bytes
            self._sending = batch
            return bool(batch)

    def _first(self) -> int | None:
        """Return the number of the first one that waits."""
        if self._returned:
            return self._returned[0].number
        return self._number - len(self._queue) + 1 if self._queue else None

    def _pop(self) -> Entry:
        if self._returned:
            return self._returned.popleft()
        return Entry(self._number - len(self._queue) + 1, self._queue.popleft(), self._sizes.popleft())

    def _is_due(self) -> bool:
        first = self._first()
        if first is None:
            return False
        is_full = len(self._returned) + len(self._queue) >= self._limits.batch or self.queued_bytes >= _BATCH_BYTES
        return is_full or first <= self._due or self._stopping.is_set()

    def _is_left(self) -> bool:
        """Tell whether something is to be sent that was queued before the last hurry."""
        with self._lock:
            first = self._sending[0].number if self._sending else self._first()
            return first is not None and first <= self._due

    def _try(self) -> float:
        """Send the batch once, and keep what is to be tried again; return the seconds that the server asks to wait."""
        batch = self._sending
        try:
            self._connect()
            again, refused = self._destination.deliver(batch, self._seconds_left())
        except Unavailable as unavailable:
            self._log_trouble(str(unavailable))
            return unavailable.after_seconds
        except Refused as refusal:
            again, refused = (), len(batch)
            self._log_refused(str(refusal))
        except TooLarge:
            again, refused = self._deliver_halves(batch)
        except Exception as fault:
            # An internal error loses this batch, and no other.
            again, refused = (), len(batch)
            self._log_refused(type(fault).__name__)
        self._finish_batch(again, refused)
        if not again:
            self._log_recovered()
        return 0.0

    def _connect(self) -> None:
        if self._is_connected:
            return
        try:
            self._destination.open()
        except Exception as fault:
            raise Unavailable(type(fault).__name__) from fault
        self._is_connected = True

    def _disconnect(self) -> None:
        try:
            # What the client logs here is about sending, too.
            self._destination.close()
        finally:
            _this_thread.is_sending = self._is_connected = False

    def _seconds_left(self) -> float:
        """Return the time limit of a request: none before `stop`, then the time until its deadline."""
        return self._deadline - time.monotonic() if self._stopping.is_set() else math.inf

    def _deliver_halves(self, batch: Sequence[Entry]) -> tuple[Sequence[Entry], int]:
        """Put the second half back, so that the first goes alone; a single line that is too large is refused."""
        if len(batch) == 1:
            self._log_refused("too large")
            return (), 1
        middle = len(batch) // 2
        with self._lock:
            self._returned.extendleft(reversed(batch[middle:]))
            self._sending = batch[:middle]
        return self._sending, 0

    def _finish_batch(self, again: Sequence[Entry], refused: int) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return
            self.queued_bytes -= _size(self._sending) - _size(again)
            self._sending = again
            if refused:
                self._losses.count(self.name, "refused", refused)

    def _pause(self, failures: int, after_seconds: float) -> bool:
        """Wait before the next try, longer each time; tell whether there is to be one."""
        seconds = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
        seconds = max(seconds, min(after_seconds, LAST_RETRY_SECONDS))
        if not self._stopping.is_set():
            self._hurry.wait(seconds)
            self._hurry.clear()
        if not self._stopping.is_set():
            return True
        left = self._seconds_left()
        if left > 0:
            time.sleep(min(FIRST_RETRY_SECONDS, left))
        return left > 0 and self._thread is threading.current_thread()

    def _log_trouble(self, reason: str) -> None:
        if self._trouble is None:
            self._log(f"{self.what} do not reach {self.name}", {"output": self.name, "reason": reason})
        self._trouble = reason

    def _log_recovered(self) -> None:
        if self._trouble is not None:
            lost = self._losses.lost_by(self.name) - self._logged_lost
            self._log(f"{self.what} reach {self.name} again", {"output": self.name, "lost": lost})
            self._logged_lost += lost
        self._trouble = None

    def _log_refused(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._refused_logged_at >= _NOTICE_SECONDS:
            self._refused_logged_at = now
            self._log(f"{self.what} are refused by {self.name}", {"output": self.name, "reason": reason})


def _size(batch: Sequence[Entry]) -> int:
    return sum(entry.size_bytes for entry in batch)
