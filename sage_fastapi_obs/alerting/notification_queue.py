"""Handing notifications to callbacks: each callback has a queue and a thread of its own, and harms nobody else."""

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import wait
from typing import Any, Literal, TypeAlias

from sage_fastapi_obs.alerting.rules import Callback
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.threads import NoThreadError, Threads, start_thread

__all__ = ["NotificationQueue", "Outcome"]

Outcome: TypeAlias = Literal["sent", "failed", "timeout", "dropped", "suppressed"]
ATTEMPTS = 3
TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 1.0
MOST_WAITING = 32
"""Notifications that wait for one callback; the oldest goes when there are more."""
LOOK_SECONDS = 0.5
"""How often a call looks whether the event loop is still there."""
MOST_STUCK = 2
"""Calls of one callback that never came back, above which it is not called again."""


class NotificationQueue:
    """Calls callbacks in the background, and counts what became of each notification.

    Of one callback, calls follow one another, and each has a time limit. One that raises is called again, up to three times in
    all; one that hangs is left behind. An async callback runs on the application's event loop, where there is one.
    """

    def __init__(
        self, faults: InternalErrors, *, timeout_seconds: float = TIMEOUT_SECONDS, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        """`retry_seconds`: wait before the second attempt; before the third it is twice that."""
        self._faults = faults
        self.timeout_seconds = timeout_seconds
        self.retry_seconds = retry_seconds
        self.counts: dict[Outcome, int] = dict.fromkeys(("sent", "failed", "timeout", "dropped", "suppressed"), 0)
        """Notifications by what became of them; suppressed are those that a cool-down held back."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where async callbacks run; without one each gets a loop of its own."""
        self.restart()

    def restart(self) -> None:
        """Begin anew: threads of a parent process are not here."""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._channels: dict[Hashable, _Channel] = {}

    def __call__(self, callback: Callback, notice: dict[str, Any]) -> None:
        """Queue a notification; returns at once."""
        with self._lock:
            # Two looks at a method are two objects, and equal; what cannot be told by its value is told by what it is.
            key = callback if isinstance(callback, Hashable) else id(callback)
            channel = self._channels.get(key)
            if channel is None:
                self._channels = {known: one for known, one in self._channels.items() if one.is_busy}
                channel = self._channels[key] = _Channel(self, callback)
        channel.put(notice)

    def go_on(self) -> None:
        """Deal with what still waits for a thread."""
        for channel in [*self._channels.values()]:
            channel.go_on()

    def count(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Count what became of a notification; an error is said, too."""
        with self._lock:
            self.counts[outcome] += 1
        if error is not None:
            self._faults.count("AlertCallback", error)

    def failed(self, error: Exception) -> None:
        """Count that there is no thread."""
        self._faults.count("AlertCallback", error)

    def settle(self, seconds: float) -> bool:
        """Wait until every notification has been dealt with; tell whether that was so in time."""
        deadline = time.monotonic() + seconds
        settled = [channel.settle(deadline - time.monotonic()) for channel in [*self._channels.values()]]
        return all(settled)

    def close(self, seconds: float) -> None:
        """Wait for what is on its way, without further attempts; what is left then is dropped."""
        self.closing.set()
        self.settle(seconds)
        for channel in [*self._channels.values()]:
            channel.drop()


class _Channel:
    """The notifications of one callback, in order."""

    def __init__(self, dispatch: NotificationQueue, callback: Callback) -> None:
        self._dispatch = dispatch
        self._callback = callback
        self._lock = threading.Condition()
        self._queue: deque[dict[str, Any]] = deque()
        self._thread: threading.Thread | None = None
        self._threads = Threads("sage-obs-alert", dispatch.failed)
        self._stuck: list[threading.Thread] = []

    @property
    def is_busy(self) -> bool:
        """Whether it has something to do, or a call that never came back."""
        return bool(self._queue) or self._thread is not None or any(thread.is_alive() for thread in self._stuck)

    def put(self, notice: dict[str, Any]) -> None:
        with self._lock:
            if len(self._queue) >= MOST_WAITING:
                self._queue.popleft()
                self._dispatch.count("dropped")
            self._queue.append(notice)
            self.go_on()

    def go_on(self) -> None:
        with self._lock:
            if self._queue and self._thread is None:
                self._thread = self._threads.start(self._run)

    def settle(self, seconds: float) -> bool:
        with self._lock:
            return self._lock.wait_for(lambda: self._thread is None, max(0.0, seconds))

    def drop(self) -> None:
        with self._lock:
            for _ in self._queue:
                self._dispatch.count("dropped")
            self._queue.clear()

    def _run(self) -> None:
        while (notice := self._next()) is not None:
            self._deliver(notice)

    def _next(self) -> dict[str, Any] | None:
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            self._thread = None
            self._lock.notify_all()
            return None

    def _deliver(self, notice: dict[str, Any]) -> None:
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if len(self._stuck) >= MOST_STUCK:
            self._dispatch.count("dropped")
            return
        dispatch = self._dispatch
        call = _Call(self._callback, dict(notice), dispatch)
        for attempt in range(1, ATTEMPTS):
            if call.outcome != "failed" or dispatch.closing.wait(dispatch.retry_seconds * attempt):
                break
            call = _Call(self._callback, dict(notice), dispatch)
        if call.outcome == "timeout":
            self._stuck.append(call.thread)
        dispatch.count(call.outcome, call.error)


class _Call:
    """One call of a callback in a thread of its own, waited for as long as the time limit."""

    def __init__(self, callback: Callback, notice: dict[str, Any], dispatch: NotificationQueue) -> None:
        self.error: BaseException | None = None
        self.is_over = False
        self._callback = callback
        self._notice = notice
        self._loop = dispatch.loop
        self._cancel: Callable[[], object] = bool
        try:
            self.thread = start_thread("sage-obs-alert-call", self._run)
        except NoThreadError:
            # Only the notifications of this callback wait for it then.
            self.thread = threading.current_thread()
            self._run()
            self.is_over = True
            return
        self.thread.join(dispatch.timeout_seconds)
        if self.thread.is_alive():
            self._cancel()
            self.error = TimeoutError(f"a callback did not return within {dispatch.timeout_seconds:g} s")
        else:
            self.is_over = True

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        if not self.is_over:
            return "timeout"
        return "sent" if self.error is None else "failed"

    def _run(self) -> None:
        try:
            returned = self._callback(self._notice)
            if inspect.isawaitable(returned):
                self._wait_for(returned)
        except BaseException as error:
            # Also what would end a process: this is not the thread to do so.
            self.error = self.error or error

    def _wait_for(self, returned: Awaitable[object]) -> None:
        # A coroutine is handed over as it is: within another, it would never begin where that one is cancelled first.
        loop, finishing = self._loop, returned if inspect.iscoroutine(returned) else _finish(returned)
        if loop is None or not loop.is_running():
            asyncio.run(finishing)
            return
        future = asyncio.run_coroutine_threadsafe(finishing, loop)
        self._cancel = future.cancel
        while not wait([future], LOOK_SECONDS).done:
            if loop.is_closed():
                # Nobody will go on with what came as the loop was about to end.
                finishing.close()
                raise RuntimeError("the event loop has ended")
        future.result()


async def _finish(returned: Awaitable[object]) -> None:
    await returned
