"""Starts our threads, and copes when the system starts none: in a container at its limit, or while the interpreter ends."""

import threading
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")
_SLICE_SECONDS = 0.001
_REST_SECONDS = 0.0001
RETRY_SECONDS = 1.0
"""Time between two tries to start a thread: each costs more than writing a line."""


class NoThreadError(RuntimeError):
    """The system, or an interpreter that is about to end, starts no more threads."""


def start_thread(name: str, run: Callable[[], object]) -> threading.Thread:
    """Start a daemon thread; raises `NoThreadError`."""
    # Python may be told to let threads inherit the context: this one is none of the request that happens to start it.
    thread = threading.Thread(target=partial(Context().run, run), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThreadError(str(error)) from error
    return thread


class Threads:
    """Starts the thread for work that can also be done without one, and tries again later if it gets none."""

    def __init__(self, name: str, refused: Callable[[Exception], None]) -> None:
        """`refused`: is called with the error when there is no thread, unless the interpreter is ending."""
        self._name = name
        self._refused = refused
        self._ask_at = 0.0

    def start(self, run: Callable[[], object]) -> threading.Thread | None:
        """Start a daemon thread; None if there is none now."""
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


class Slices:
    """Lets work in a thread give the interpreter up after each millisecond: the event loop would wait for up to five."""

    def __init__(self, lock: Any = None) -> None:
        """Begin the first one. `lock`: one that the work holds, and gives up with the interpreter."""
        self._lock = lock
        self._until = time.perf_counter() + _SLICE_SECONDS

    def rest_if_due(self) -> None:
        """Rest, if a slice is over."""
        if time.perf_counter() < self._until:
            return
        if self._lock is not None:
            self._lock.release()
        time.sleep(_REST_SECONDS)
        if self._lock is not None:
            self._lock.acquire()
        self._until = time.perf_counter() + _SLICE_SECONDS


async def in_thread(work: Callable[[], T], limiter: CapacityLimiter | None = None) -> T:
    """Do some work in a thread; on the event loop if no thread can be started."""
    has_started = False

    def run() -> T:
        nonlocal has_started
        has_started = True
        return work()

    try:
        return await to_thread.run_sync(run, limiter=limiter)
    except RuntimeError:
        if has_started:
            raise
    return work()
