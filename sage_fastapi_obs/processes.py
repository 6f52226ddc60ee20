"""Forks, and the ways in which a process ends."""

import atexit
import os
import weakref
from collections.abc import Callable
from multiprocessing import util

__all__ = ["AtEnd", "at_fork"]

LAST = -100
"""Priority among what multiprocessing does at the end of a child: after the others, who may still have something to say."""


def at_fork(*, in_child: Callable[[], None], before: Callable[[], None] | None = None) -> None:
    """Call methods in a process that forks and in its children, for as long as their object lives."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_weak(in_child))
        if before is not None:
            os.register_at_fork(before=_weak(before))


def _weak(method: Callable[[], None]) -> Callable[[], None]:
    found = weakref.WeakMethod(method)

    def call() -> None:
        if (living := found()) is not None:
            living()

    return call


class AtEnd:
    """Does something when a process ends normally without having closed what is its own.

    An interpreter calls `close` after all threads but daemons. A child of multiprocessing, one of a `ProcessPoolExecutor`
    included, is never told of that, as it leaves with `os._exit`: there it is `settle`, when its function has returned.
    """

    def __init__(self, close: Callable[[], None], settle: Callable[[], None]) -> None:
        self._close = close
        self._settle = settle
        self._finalizer: util.Finalize | None = None
        util.register_after_fork(self, AtEnd._in_child)

    def watch(self) -> None:
        """Begin."""
        atexit.register(self._close)
        self._watch_child()

    def leave(self) -> None:
        """Do nothing any more."""
        atexit.unregister(self._close)
        finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer.cancel()

    def _watch_child(self) -> None:
        self._finalizer = util.Finalize(None, self._settle, exitpriority=LAST)

    def _in_child(self) -> None:
        # What was registered before a fork is forgotten by then.
        if self._finalizer is not None:
            self._watch_child()
