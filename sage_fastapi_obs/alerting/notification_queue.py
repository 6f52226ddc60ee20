"""Calls the callbacks of alerts: each callback has its own queue and thread, so that none delays another."""

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from concurrent.futures import CancelledError, wait
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, TypeAlias

from sage_fastapi_obs.alerting.rules import Callback
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.threads import NoThreadError, Threads, start_thread

Outcome: TypeAlias = Literal["sent", "failed", "timeout", "dropped", "suppressed"]
_ATTEMPTS = 3
_TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 1.0
MOST_WAITING = 32
"""Most notifications that wait for one callback; with more, the oldest is dropped."""
_LOOP_CHECK_SECONDS = 0.5
"""How often a waiting call checks that the event loop is still open."""
MOST_STUCK = 2
"""With so many calls of a callback that never returned, it is not called any more."""

current_notice: ContextVar[Mapping[str, Any] | None] = ContextVar("current_notice", default=None)
"""In a callback, the alert that it was called with; also in what it awaits."""


class QueuedNotice(NamedTuple):
    """A notification that waits, and what is called when its callback has returned, or is not called any more."""

    notice: dict[str, Any]
    done: Callable[[], None]


class LoopEndedError(RuntimeError):
    """The event loop in which a callback ran ended before it did."""


class NotificationQueue:
    """Calls callbacks in the background, and counts what became of each notification.

    The calls of one callback come one after another, and each has a time limit. A call that raises is repeated, up to three
    attempts in all; one that hangs is left behind. An async callback runs on the application's event loop, where there is one.
    """

    def __init__(self, internal_errors: InternalErrors) -> None:
        self._internal_errors = internal_errors
        self.timeout_seconds = _TIMEOUT_SECONDS
        self.retry_seconds = RETRY_SECONDS
        """Wait before the second attempt; before the third it is twice that."""
        self.counts: dict[Outcome, int] = dict.fromkeys(("sent", "failed", "timeout", "dropped", "suppressed"), 0)
        """Notifications by outcome; `suppressed` are those that a cool-down held back."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where async callbacks run; without it each runs in a new loop."""
        self.may_call: Callable[[], bool] = lambda: True
        """Whether this process is still the one that calls them; where it is not, another does."""
        self.restart()

    def restart(self) -> None:
        """Forget the queues of a parent process, whose threads are not in this one."""
        self.reopen()
        self._lock = threading.Lock()
        self._queues: dict[Hashable, _CallbackQueue] = {}

    def reopen(self) -> None:
        """Go on after a close; what waits stays."""
        self.closing = threading.Event()

    def put(self, callback: Callback, notice: dict[str, Any], done: Callable[[], None] = lambda: None) -> None:
        """Queue a notification; returns at once. `done` is not called for one that the end of the process drops."""
        with self._lock:
            key = _key(callback)
            queue = self._queues.get(key)
            if queue is None:
                self._queues = {known: one for known, one in self._queues.items() if one.is_busy}
                queue = self._queues[key] = _CallbackQueue(self, callback)
        queue.put(QueuedNotice(notice, done))

    def add_from(self, other: "NotificationQueue") -> None:
        """Take over what waits in another queue."""
        for callback, waiting in other.take():
            self.put(callback, *waiting)

    def take(self) -> list[tuple[Callback, QueuedNotice]]:
        """Return what waits, and forget it."""
        return [(queue.callback, waiting) for queue in [*self._queues.values()] for waiting in queue.take()]

    def retry_threads(self) -> None:
        """Start the threads that could not be started before."""
        for queue in [*self._queues.values()]:
            queue.start_thread()

    def count(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Count what became of a notification, and the error behind it."""
        with self._lock:
            self.counts[outcome] += 1
        if error is not None:
            self.count_error(error)

    def count_error(self, error: BaseException) -> None:
        """Count an internal error."""
        self._internal_errors.count("AlertCallback", error)

    def wait(self, seconds: float) -> bool:
        """Wait until no notification is left; tell whether that was so in time."""
        deadline = time.monotonic() + seconds
        finished = [queue.wait(deadline - time.monotonic()) for queue in [*self._queues.values()]]
        return all(finished)

    def close(self, seconds: float) -> None:
        """Wait for the current attempts, and drop what is left then."""
        self.closing.set()
        if seconds:
            for queue in [*self._queues.values()]:
                queue.run_without_thread()
        self.wait(seconds)
        for queue in [*self._queues.values()]:
            queue.drop()


class _CallbackQueue:
    """The notifications of one callback, in order."""

    def __init__(self, owner: NotificationQueue, callback: Callback) -> None:
        self._owner = owner
        self.callback = callback
        self._lock = threading.Condition()
        self._queue: deque[QueuedNotice] = deque()
        self._thread: threading.Thread | None = None
        self._threads = Threads("sage-obs-alert", owner.count_error)
        self._stuck: list[threading.Thread] = []

    @property
    def is_busy(self) -> bool:
        """Whether notifications wait, or a call has not returned."""
        return bool(self._queue) or self._thread is not None or any(thread.is_alive() for thread in self._stuck)

    def put(self, waiting: QueuedNotice) -> None:
        with self._lock:
            outgrown = self._queue.popleft() if len(self._queue) >= MOST_WAITING else None
            self._queue.append(waiting)
            self.start_thread()
        if outgrown is not None:
            self._owner.count("dropped")
            outgrown.done()

    def start_thread(self) -> None:
        with self._lock:
            if self._queue and self._thread is None:
                self._thread = self._threads.start(self._run)

    def wait(self, seconds: float) -> bool:
        with self._lock:
            return self._lock.wait_for(lambda: self._thread is None, max(0.0, seconds))

    def run_without_thread(self) -> None:
        """Call the callback here, where no thread was to be had: a process that ends starts none."""
        with self._lock:
            waits = self._thread is None and bool(self._queue)
        if waits:
            self._run()

    def drop(self) -> None:
        for _ in self.take():
            self._owner.count("dropped")

    def take(self) -> list[QueuedNotice]:
        """Return the notifications that wait, and forget them."""
        with self._lock:
            waiting = [*self._queue]
            self._queue.clear()
            return waiting

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            if self._owner.may_call():
                self._deliver(waiting.notice)
                waiting.done()

    def _next(self) -> QueuedNotice | None:
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            self._thread = None
            self._lock.notify_all()
            return None

    def _deliver(self, notice: dict[str, Any]) -> None:
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if len(self._stuck) >= MOST_STUCK:
            self._owner.count("dropped")
            return
        call = self._call(notice)
        for attempt in range(1, _ATTEMPTS):
            if call.outcome != "failed" or not self._may_repeat(call, attempt):
                break
            call = self._call(notice)
        if call.outcome == "timeout":
            self._stuck.append(call.thread)
        self._owner.count(call.outcome, call.error)

    def _call(self, notice: dict[str, Any]) -> "_CallbackCall":
        return _CallbackCall(self.callback, dict(notice), self._owner)

    def _may_repeat(self, call: "_CallbackCall", attempt: int) -> bool:
        """Wait before the next attempt, but not after the end of its loop: then the process may be about to end."""
        return isinstance(call.error, LoopEndedError) or not self._owner.closing.wait(self._owner.retry_seconds * attempt)


class _CallbackCall:
    """Calls a callback in a thread of its own, and waits for it up to the time limit."""

    def __init__(self, callback: Callback, notice: dict[str, Any], owner: NotificationQueue) -> None:
        self.error: BaseException | None = None
        self.is_over = False
        self._callback = callback
        self._notice = notice
        self._owner = owner
        self._cancel: Callable[[], object] = bool
        try:
            self.thread = start_thread("sage-obs-alert-call", self._run)
        except NoThreadError:
            # Called here: only the notifications of this callback have to wait.
            self.thread = threading.current_thread()
            self._run()
            self.is_over = True
            return
        self.thread.join(owner.timeout_seconds)
        if self.thread.is_alive():
            self._cancel()
            self.error = TimeoutError(f"a callback did not return within {owner.timeout_seconds:g} s")
        else:
            self.is_over = True

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        if not self.is_over:
            return "timeout"
        return "sent" if self.error is None else "failed"

    def _run(self) -> None:
        entered = current_notice.set(self._notice.copy())
        try:
            returned = self._callback(self._notice)
            if inspect.isawaitable(returned):
                self._wait_for(returned)
        except BaseException as error:
            # Also SystemExit and the like, which must not end anything from this thread.
            self.error = self.error or error
        finally:
            current_notice.reset(entered)

    def _wait_for(self, returned: Awaitable[object]) -> None:
        # A coroutine is not wrapped into another: it would never begin if that one were cancelled first.
        loop, coroutine = self._owner.loop, returned if inspect.iscoroutine(returned) else _awaited(returned)
        if loop is None or not loop.is_running():
            with asyncio.Runner(loop_factory=_LastLoop if self._owner.closing.is_set() else None) as runner:
                runner.run(coroutine)
            return
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        self._cancel = future.cancel
        while not wait([future], _LOOP_CHECK_SECONDS).done:
            if loop.is_closed():
                # The coroutine came when the loop was about to end, and will never run there.
                coroutine.close()
                _give_up(coroutine, loop)
                self._leave(loop)
        try:
            future.result()
        except CancelledError:
            # A loop cancels what is left when it ends.
            self._leave(loop)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._owner.loop is loop:
            self._owner.loop = None
        raise LoopEndedError("the event loop has ended")


def _give_up(coroutine: Awaitable[object], loop: asyncio.AbstractEventLoop) -> None:
    """Keep a task that its loop took as it closed from being reported as lost: its coroutine is called again elsewhere."""
    for task in asyncio.all_tasks(loop):
        if task.get_coro() is coroutine:
            # There is no public way; asyncio does the same for tasks that it gives up itself.
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001


async def _awaited(returned: Awaitable[object]) -> None:
    await returned


class _LastLoop(asyncio.SelectorEventLoop):
    """Calls functions for other threads in its own: an interpreter that ends starts no threads, not even to resolve a name."""

    def run_in_executor(self, _: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Call a function at once."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


def _key(callback: Callback) -> Hashable:
    """Identify a callback: two references to a method are two objects, but equal."""
    try:
        hash(callback)
    except Exception:
        # A class may look hashable, and have an attribute that is not.
        return id(callback)
    return callback
