"""Runs long work in a thread, one piece at a time, so that the event loop and the work both get the interpreter lock (GIL)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, create_task_group, sleep
from anyio.lowlevel import RunVar

from sage_fastapi_obs.threads import in_thread

T = TypeVar("T")
_WORK_SECONDS = 0.001
REST_SECONDS = 0.0001
_LEND_EVERY_SECONDS = 0.001
_LEND_SECONDS = 0.002
"""Upper bound for the time that the event loop stops for a portion of work."""
_MOST_BETWEEN_SECONDS = 0.064


class GilPacer:
    """Shares the GIL between work in a thread and the event loop.

    The work pauses after each millisecond; without that, the loop would wait up to five. And the loop stops now and then for
    one portion of work: a busy loop releases the GIL so often and so briefly that, on several cores, a waiting thread hardly
    ever gets it.
    """

    def __init__(self) -> None:
        self._until = time.perf_counter() + _WORK_SECONDS
        self._rests = threading.Event()
        self._held: Any = None
        self.has_ended = False

    def __call__(self) -> None:
        """Pause, if it is time to."""
        if time.perf_counter() >= self._until:
            self.rest(partial(time.sleep, REST_SECONDS))

    def rest(self, meanwhile: Callable[[], T]) -> T:
        """Call something that releases the GIL."""
        self._rests.set()
        if self._held is not None:
            self._held.release()
        try:
            result = meanwhile()
        finally:
            if self._held is not None:
                self._held.acquire()
        self._until = time.perf_counter() + _WORK_SECONDS
        return result

    @contextmanager
    def holding(self, lock: Any) -> Iterator[None]:
        """Hold a lock while the work does not rest."""
        with lock:
            self._held = lock
            try:
                yield
            finally:
                self._held = None

    def end(self) -> None:
        """Tell the loop that there is no more work."""
        self.has_ended = True
        self._rests.set()

    async def let_worker_run(self) -> None:
        """Stop the loop for the work now and then, until the work has ended or this is cancelled."""
        wait = _LEND_EVERY_SECONDS
        while True:
            await sleep(wait)
            self._rests.clear()
            if self.has_ended:
                return
            # Work that waits for something else does not need the GIL.
            wait = _LEND_EVERY_SECONDS if self._rests.wait(_LEND_SECONDS) else min(2 * wait, _MOST_BETWEEN_SECONDS)


class LoopLimiter:
    """Lets some pieces of work of each event loop run at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limiters: RunVar[CapacityLimiter] = RunVar(f"sage_fastapi_obs.turns.{id(self)}")

    def __call__(self) -> CapacityLimiter:
        """Return the limiter of this event loop."""
        try:
            return self._limiters.get()
        except LookupError:
            limiter = CapacityLimiter(self._most)
            self._limiters.set(limiter)
            return limiter


_page_threads = LoopLimiter(4)


async def in_page_thread(work: Callable[[], T]) -> T:
    """Do some short work in a thread that is not of the application's pool: pages answer also where that has none left."""
    return await in_thread(work, _page_threads())


class OneAtATime:
    """Runs one piece of work of each event loop at a time, in a thread that is not of the application's pool."""

    def __init__(self) -> None:
        self._limiter = LoopLimiter(1)

    @property
    def waiting(self) -> int:
        """How many callers of this event loop wait for their turn."""
        return self._limiter().statistics().tasks_waiting

    async def run(self, work: Callable[[GilPacer], T]) -> T:
        """Wait for a turn, and return what the work returns or raise what it raises."""
        pace = GilPacer()

        def paced() -> T:
            try:
                return work(pace)
            finally:
                pace.end()

        async with self._limiter(), create_task_group() as group:
            # A thread cannot be cancelled, and needs the GIL until it ends.
            group.cancel_scope.shield = True
            group.start_soon(pace.let_worker_run)
            try:
                return await in_thread(paced, CapacityLimiter(1))
            except Exception as error:
                # Raised in here, it would become an exception group.
                raised = error
            finally:
                group.cancel_scope.cancel()
        raise raised
