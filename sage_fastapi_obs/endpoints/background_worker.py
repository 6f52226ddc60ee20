"""Work in a thread, one piece at a time, beside an event loop that goes on: neither keeps the interpreter from the other."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, create_task_group, sleep
from anyio.lowlevel import RunVar

from sage_fastapi_obs.threads import in_thread

__all__ = ["GilPacer", "OneAtATime"]

T = TypeVar("T")
WORK_SECONDS = 0.001
REST_SECONDS = 0.0001
LEND_EVERY_SECONDS = 0.001
LEND_SECONDS = 0.002
"""How long the event loop stands still, at most, for a portion of work."""
MOST_BETWEEN_SECONDS = 0.064


class GilPacer:
    """Shares the interpreter between work in a thread and the event loop.

    The work rests after each millisecond: a thread that does not lets the loop in only every five. And the loop lets the work
    in, by standing still for one portion: a busy loop gives the interpreter up so often, and so briefly, that on a machine
    with several cores a thread which waits for it hardly ever gets it.
    """

    def __init__(self) -> None:
        self._until = time.perf_counter() + WORK_SECONDS
        self._rests = threading.Event()
        self._is_over = False

    def __call__(self) -> None:
        """Rest, if it is time to."""
        if time.perf_counter() >= self._until:
            self.rest(partial(time.sleep, REST_SECONDS))

    def rest(self, meanwhile: Callable[[], T]) -> T:
        """Do what needs no interpreter."""
        self._rests.set()
        result = meanwhile()
        self._until = time.perf_counter() + WORK_SECONDS
        return result

    def end(self) -> None:
        """Say that there is no more work."""
        self._is_over = True
        self._rests.set()

    async def lend(self) -> None:
        """Let the work in now and then, until it is over or this is cancelled."""
        wait = LEND_EVERY_SECONDS
        while True:
            await sleep(wait)
            self._rests.clear()
            if self._is_over:
                return
            # Work that waits for something else has no use for it.
            wait = LEND_EVERY_SECONDS if self._rests.wait(LEND_SECONDS) else min(2 * wait, MOST_BETWEEN_SECONDS)


class OneAtATime:
    """Lets one piece of work of each event loop into a thread; those who wait for their turn hold none of the application's."""

    def __init__(self) -> None:
        self._limiters: RunVar[CapacityLimiter] = RunVar(f"sage_fastapi_obs.turns.{id(self)}")

    @property
    def waiting(self) -> int:
        """How many of this loop wait for their turn."""
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
            # Work in a thread is waited for in any case; it needs its share until then.
            group.cancel_scope.shield = True
            group.start_soon(pace.lend)
            try:
                return await in_thread(paced, CapacityLimiter(1))
            except Exception as error:
                # Raised in here, it would come out within a group.
                raised = error
            finally:
                group.cancel_scope.cancel()
        raise raised

    def _limiter(self) -> CapacityLimiter:
        try:
            return self._limiters.get()
        except LookupError:
            limiter = CapacityLimiter(1)
            self._limiters.set(limiter)
            return limiter
