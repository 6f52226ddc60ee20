"""Reads what other threads and tasks are doing, without harm to them."""

import asyncio
import gc
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from opcode import opmap
from types import FrameType
from typing import Any

from sage_fastapi_obs.processes import hold_at_fork
from sage_fastapi_obs.request.exchange import Exchange, current_exchange

_IS_SAFE = sys.version_info >= (3, 12)
_READING = threading.RLock()
if not _IS_SAFE:
    hold_at_fork(_READING)
_RESUME = opmap["RESUME"]
_MOST_FRAMES, _OUTERMOST = 500, 12
_POOLS = ("/anyio/_backends/_asyncio.py", "/concurrent/futures/thread.py")
"""Files whose frames in a thread know the context of the work that the thread does."""
SHOWS_THREADS: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether the frames of a thread that runs can be read: without the global lock they change meanwhile."""


class _CollectorOff:
    """Keeps the garbage collector away; a class, as each tick of the watch thread pays for it."""

    __slots__ = ("_was_enabled",)

    def __enter__(self) -> None:
        # Of two threads that read, the first to end would switch it on again.
        _READING.acquire()
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_enabled:
            gc.enable()
        _READING.release()


_NOTHING = nullcontext()


def collector_off() -> AbstractContextManager[None]:
    """Keep the garbage collector away while frames are read, where it must be.

    Below Python 3.12, reading a frame makes an object, that may start the collector, and finalizers let other threads run: the
    frames change while they are read. That has crashed the interpreter.
    """
    return _NOTHING if _IS_SAFE else _CollectorOff()


def frame_of(thread: int) -> FrameType | None:
    """Return the innermost frame of a thread; None where it cannot be read. Keep it for no longer than needed."""
    return sys._current_frames().get(thread) if SHOWS_THREADS else None  # noqa: SLF001 - documented, for debuggers


def frames_of_pools() -> dict[Exchange, FrameType]:
    """Return the innermost frame of each thread of a pool that works for a request."""
    frames = sys._current_frames().values() if SHOWS_THREADS else ()  # noqa: SLF001 - documented, for debuggers
    stacks = [outward(frame) for frame in frames]
    return {exchange: stack[0] for stack in stacks if (exchange := exchange_of_pool(stack)) is not None}


def context_of(task: Any) -> Context | None:
    """Return the context that a task runs in; None for a task of a kind that hides it, and for anything else."""
    if sys.version_info >= (3, 12):
        return task.get_context() if hasattr(task, "get_context") else None
    return next((found for found in gc.get_referents(task) if type(found) is Context), None)


def running_task(loop: asyncio.AbstractEventLoop) -> "asyncio.Task[Any] | None":
    """Return the task that a loop of another thread is running; None while it runs none."""
    return asyncio.current_task(loop)


def is_ready(task: "asyncio.Task[Any]") -> bool:
    """Tell whether a task waits for nothing but its turn, or runs."""
    waiter = getattr(task, "_fut_waiter", None)
    return waiter is None or waiter.done()


def exchange_in(context: Context | None) -> Exchange | None:
    """Return the request that code in a context runs for."""
    return None if context is None else context.get(current_exchange)


def outward(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of a thread, the innermost first."""
    stack: list[FrameType] = []
    while frame is not None and len(stack) < _MOST_FRAMES:
        stack.append(frame)
        frame = frame.f_back
    return stack


def without_new(frames: list[FrameType]) -> list[FrameType]:
    """Leave out a frame that has only just been entered; the innermost is the first."""
    first = frames[0] if frames else None
    is_new = first is not None and first.f_lasti >= 0 and first.f_code.co_code[first.f_lasti] == _RESUME
    return frames[1:] if is_new else frames


def exchange_of_pool(stack: list[FrameType]) -> Exchange | None:
    """Return the request that a thread of a pool works for."""
    for frame in reversed(stack[-_OUTERMOST:]):
        if frame.f_code.co_filename.endswith(_POOLS):
            for context in map(_context_of_work, [*frame.f_locals.values()]):
                if (exchange := exchange_in(context)) is not None:
                    return exchange
    return None


def _context_of_work(value: Any) -> Context | None:
    """Return the context that a local variable of a pool's frame is or stands for: of anyio, and of `asyncio.to_thread`."""
    work = (value, getattr(value, "fn", None), *(getattr(value, "task", None) or ()))
    owners = (getattr(getattr(one, "func", None), "__self__", one) for one in work)
    return next((owner for owner in owners if type(owner) is Context), None)
