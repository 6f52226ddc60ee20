"""Reads what other threads and tasks are doing, without harm to them."""

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from types import FrameType
from typing import Any

from sage_fastapi_obs.processes import hold_at_fork

_IS_SAFE = sys.version_info >= (3, 12)
_READING = threading.RLock()
if not _IS_SAFE:
    hold_at_fork(_READING)
SHOWS_THREADS: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether the frames of a thread that runs can be read: without the global lock they change meanwhile."""


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector away while frames are read, where it must be.

    Below Python 3.12, reading a frame makes an object, that may start the collector, and finalizers let other threads run: the
    frames change while they are read. That has crashed the interpreter.
    """
    if _IS_SAFE:
        yield
        return
    # Of two threads that read, the first to end would switch it on again.
    with _READING:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()


def frame_of(thread: int) -> FrameType | None:
    """Return the innermost frame of a thread; None where it cannot be read. Keep it for no longer than needed."""
    return sys._current_frames().get(thread) if SHOWS_THREADS else None  # noqa: SLF001 - documented, for debuggers


def context_of(task: Any) -> Context | None:
    """Return the context that a task runs in; None for a task of a kind that hides it, and for anything else."""
    if sys.version_info >= (3, 12):
        return task.get_context() if hasattr(task, "get_context") else None
    return next((found for found in gc.get_referents(task) if type(found) is Context), None)


def running_task(loop: asyncio.AbstractEventLoop) -> "asyncio.Task[Any] | None":
    """Return the task that a loop of another thread is running; None while it runs none."""
    return asyncio.current_task(loop)
