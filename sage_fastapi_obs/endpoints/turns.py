"""Work in a thread, one piece at a time: those who wait for their turn hold none of the application's threads."""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

__all__ = ["Turns"]

T = TypeVar("T")


class Turns:
    """Lets one piece of work of each event loop into a thread."""

    def __init__(self) -> None:
        self._limiters: RunVar[CapacityLimiter] = RunVar(f"sage_fastapi_obs.turns.{id(self)}")

    @property
    def waiting(self) -> int:
        """How many of this loop wait for their turn."""
        return self._limiter().statistics().tasks_waiting

    async def run(self, work: Callable[[], T]) -> T:
        """Wait for a turn, and return what the work returns."""
        return await to_thread.run_sync(work, limiter=self._limiter())

    def _limiter(self) -> CapacityLimiter:
        try:
            return self._limiters.get()
        except LookupError:
            limiter = CapacityLimiter(1)
            self._limiters.set(limiter)
            return limiter
