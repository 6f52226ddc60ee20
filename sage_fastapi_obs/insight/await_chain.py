"""Where a task waits: the line of the application, read from another thread."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from types import CoroutineType, FrameType
from typing import Any, NamedTuple

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.thread_waits import thread_wait_codes

_MOST_STEPS = 300
_CLIENTS = str(Path(__file__).parents[1] / "clients") + "/"
_WATCH = str(Path(__file__).parents[1] / "request") + "/"
_THREAD_CALLS = frozenset({"run_sync_in_worker_thread", "to_thread"})
_CHILD_CALLS = {"call_next": "/middleware/base.py", "__aexit__": "/taskgroups.py", "wait": "/asyncio/tasks.py"}
"""Functions that wait for other tasks, with the end of their files."""
_ROUTERS = ("/starlette/routing.py", "/fastapi/routing.py")
_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")
_WRAPPERS = frozenset({"FutureIter", "async_generator_asend", "async_generator_athrow", "coroutine_wrapper", "anext_awaitable"})


class WaitPlace(NamedTuple):
    """What a task waits for."""

    place: str | None
    """The innermost line of the application; None where there is none."""
    is_watched: bool
    """Whether it waits for a call that is watched by itself."""
    is_in_thread: bool
    """Whether it waits for what a thread does, or for a thread."""
    has_children: bool
    """Whether it waits for other tasks."""
    is_for_client: bool
    """Whether it waits for the client to send or to receive."""
    is_for_thread: bool
    """Whether it waits for a thread of the pool, as all are taken."""

    @property
    def is_innermost(self) -> bool:
        """Whether it says what a request waits for, where it has several tasks."""
        return not self.has_children and (self.place is not None or self.is_in_thread)


def wait_place(task: "asyncio.Task[Any]", code: ApplicationCode) -> WaitPlace:
    """Follow a task that is not running to what it waits for."""
    place: str | None = None
    is_watched = is_in_thread = has_children = is_for_client = is_queued = is_for_thread = False
    for frame in frames_of(task):
        found = frame.f_code
        file, name = found.co_filename, found.co_name
        if code.place(found, 0) is not None:
            # Only now: to find the number of the line costs more than all else.
            place, is_for_client = code.place(found, frame.f_lineno), False
        elif name in _THREAD_CALLS:
            is_in_thread = True
        elif file.startswith(_CLIENTS):
            is_watched = True
        elif name in ("receive", "send") and file.startswith(_WATCH):
            is_for_client = True
        elif name == "call_next" or file.endswith(_ROUTERS):
            # What stands above is a middleware of the application, that only waits for what is below.
            place = None
        # Who gets a thread at once is in the limiter, too, and waits for nothing there.
        is_for_thread = is_for_thread or (is_queued and name == "wait")
        is_queued = is_queued or (is_in_thread and found in thread_wait_codes()[:1])
        has_children = has_children or file.endswith(_CHILD_CALLS.get(name, "\n"))
    return WaitPlace(place, is_watched, is_in_thread, has_children, is_for_client, is_for_thread)


def frames_of(task: "asyncio.Task[Any]") -> Iterator[FrameType]:
    """Yield the frames of a task that is not running, through all coroutines and generators; the outermost first."""
    awaited: Any = task.get_coro()
    for _ in range(_MOST_STEPS):
        if awaited is None:
            return
        if type(awaited) is CoroutineType:
            # Nearly all are: this is all that a look costs.
            frame, following = awaited.cr_frame, awaited.cr_await
        else:
            frame, following = _first(awaited, _FRAMES), None
        if frame is not None:
            yield frame
        awaited = _next(awaited) if following is None else following


def _next(awaited: Any) -> Any:
    found = _first(awaited, _AWAITED)
    if found is not None:
        return found
    if isinstance(awaited, asyncio.Task):
        return awaited.get_coro()
    if type(awaited).__name__ in _WRAPPERS:
        # They hide what they stand for.
        return next((one for one in gc.get_referents(awaited) if _can_be_followed(one)), None)
    return next((child for child in getattr(awaited, "_children", ()) if not child.done()), None)


def _can_be_followed(one: Any) -> bool:
    return isinstance(one, asyncio.Future) or any(hasattr(one, name) for name in _AWAITED)


def _first(one: Any, names: tuple[str, ...]) -> Any:
    return next((found for name in names if (found := getattr(one, name, None)) is not None), None)
