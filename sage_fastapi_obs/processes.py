"""Forks, and the ways in which a process ends."""

import atexit
import os
import weakref
from collections.abc import Callable
from functools import cache
from multiprocessing import util
from typing import Any

_MOST_HOLD_SECONDS = 1.0
_LAST = -100
"""Priority among the finalizers of multiprocessing: after the others, which may still write lines."""


def at_fork(*, in_child: Callable[[], None], before: Callable[[], None] | None = None) -> None:
    """Call methods in a process that forks and in its children, for as long as their object lives."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_weak(in_child))
        if before is not None:
            os.register_at_fork(before=_weak(before))


def hold_at_fork(lock: Any, *, rank: int = 0) -> None:
    """Let a process fork only while no other thread has a lock, for as long as it lives; a reentrant one.

    A child has only the thread that forks: what another thread had locked would stay locked for ever. After a second the fork
    goes ahead all the same: the other thread may wait for the one that forks. `rank`: of a lock that is held while others are
    taken, higher than theirs. Locks are taken from the highest rank down, and within one rank the newest first.
    """
    if not hasattr(os, "register_at_fork"):
        return
    _hook()
    _locks[weakref.ref(lock, _forget)] = rank


@cache
def _hook() -> None:
    """Once: it is there for good."""
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)


_locks: dict[Any, int] = {}
"""Ranks, by references to locks."""
_held: list[Any] = []


def _forget(reference: Any) -> None:
    _locks.pop(reference, None)


def _acquire() -> None:
    by_age = [*reversed(_locks.copy().items())]
    for reference, _ in sorted(by_age, key=lambda one: -one[1]):
        if (living := reference()) is not None and living.acquire(timeout=_MOST_HOLD_SECONDS):
            _held.append(living)


def _release() -> None:
    while _held:
        _held.pop().release()


def _weak(method: Callable[[], None]) -> Callable[[], None]:
    found = weakref.WeakMethod(method)

    def call() -> None:
        if (living := found()) is not None:
            living()

    return call


class AtEnd:
    """Closes something when a process ends normally and has not closed it.

    The interpreter calls `close` after all threads but daemons. A child of multiprocessing, also of a `ProcessPoolExecutor`,
    ends with `os._exit` instead: there `drain` is called, when its function has returned.
    """

    def __init__(self, close: Callable[[], None], drain: Callable[[], None]) -> None:
        self._close = close
        self._drain = drain
        self._finalizer: util.Finalize | None = None
        util.register_after_fork(self, AtEnd._in_child)

    def watch(self) -> None:
        """Start watching for the end of the process."""
        atexit.register(self._close)
        self._watch_child()

    def leave(self) -> None:
        """Stop watching."""
        atexit.unregister(self._close)
        finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer.cancel()

    def _watch_child(self) -> None:
        self._finalizer = util.Finalize(None, self._drain, exitpriority=_LAST)

    def _in_child(self) -> None:
        # What was registered before a fork is forgotten by then.
        if self._finalizer is not None:
            self._watch_child()
