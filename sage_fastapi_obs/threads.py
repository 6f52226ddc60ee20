"""Threads of ours, and what is done where there is none: in a container at its limit, or in an interpreter that ends."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

__all__ = ["RETRY_SECONDS", "NoThreadError", "Threads", "in_thread", "start_thread"]

T = TypeVar("T")
RETRY_SECONDS = 1.0
"""How long nobody asks again after a thread could not be started: asking costs more than writing a line."""


class NoThreadError(RuntimeError):
    """The system, or an interpreter that is about to end, starts no more threads."""


def start_thread(name: str, run: Callable[[], object]) -> threading.Thread:
    """Start a daemon thread; raises `NoThreadError`."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThreadError(str(error)) from error
    return thread


class Threads:
    """Starts the thread of some work that can be done without one, and asks again later where it gets none."""

    def __init__(self, name: str, refused: Callable[[Exception], None]) -> None:
        """`refused`: is told why there is no thread, except by an interpreter that ends, which is no trouble."""
        self._name = name
        self._refused = refused
        self._ask_at = 0.0

    def start(self, run: Callable[[], object]) -> threading.Thread | None:
        """Start a daemon thread; None where there is none to be had now."""
        now = time.monotonic()
        if now < self._ask_at:
            return None
        try:
            return start_thread(self._name, run)
        except NoThreadError as error:
            self._ask_at = now + RETRY_SECONDS
            if "shutdown" not in str(error):
                self._refused(error)
        return None


async def in_thread(work: Callable[[], T], limiter: CapacityLimiter | None = None) -> T:
    """Work off the event loop; on it, where no thread can be started."""
    has_begun = False

    def begun() -> T:
        nonlocal has_begun
        has_begun = True
        return work()

    try:
        return await to_thread.run_sync(begun, limiter=limiter)
    except RuntimeError:
        if has_begun:
            raise
    return work()
