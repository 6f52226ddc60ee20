"""Logs uncaught exceptions: in threads, in tasks, in finalizers, and the one that ends the process."""

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial
from typing import Any

from sage_fastapi_obs.privacy.json_values import unprintable

LogLine = Callable[[str, str, str, Mapping[str, Any], BaseException | None], None]
"""Writes a line of a level, message, logger, fields and exception; never raises."""


class Hooks:
    """The interpreter's hooks, ours before those that were there: they still see everything."""

    def __init__(self, log: LogLine) -> None:
        self._hooks = [
            _Hook(threading, "excepthook", partial(_in_thread, log)),
            _Hook(sys, "unraisablehook", partial(_in_finalizer, log)),
            _Hook(sys, "excepthook", partial(_at_the_end, log)),
        ]

    def give_back(self) -> None:
        """Remove ours, or make it do nothing if another hook was put before it."""
        for hook in self._hooks:
            hook.give_back()


class _Hook:
    """One hook, found as an attribute of a module."""

    def __init__(self, owner: Any, name: str, report: Callable[..., None]) -> None:
        self._owner, self._name, self._report = owner, name, report
        self._is_ours = True
        self._before: Callable[..., Any] = getattr(owner, name)
        # Kept, because a bound method is a new one at each look.
        self._called = self._call
        setattr(owner, name, self._called)

    def give_back(self) -> None:
        self._is_ours = False
        if getattr(self._owner, self._name) is self._called:
            setattr(self._owner, self._name, self._before)

    def _call(self, *given: Any) -> None:
        if self._is_ours:
            self._report(*given)
        self._before(*given)


def _in_thread(log: LogLine, unhandled: threading.ExceptHookArgs) -> None:
    if unhandled.exc_type is not SystemExit:
        thread = None if unhandled.thread is None else unhandled.thread.name
        log("error", "uncaught exception in a thread", "threading", {"thread": thread}, unhandled.exc_value)


def _in_finalizer(log: LogLine, unhandled: Any) -> None:
    # A text, because who keeps the object brings it back to life.
    fields = {"object": _repr(unhandled.object), "reason": unhandled.err_msg}
    log("error", "uncaught exception in a finalizer", "sys", fields, unhandled.exc_value)


def _at_the_end(log: LogLine, kind: type[BaseException], error: BaseException, _: object) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        log("critical", "uncaught exception ends the process", "sys", {}, error)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as fault:
        return unprintable(fault)


class LoopHandler:
    """The exception handler of the running event loop: asyncio's own, or the application's, but in the right context.

    Asyncio logs what a task raised and nobody awaited when the task is collected, in whatever context that happens. Seen in
    the context of the task, the line has the ids of the request that started it.
    """

    def __init__(self) -> None:
        """Take the running loop's; raises `RuntimeError` where none is running."""
        self._loop = asyncio.get_running_loop()
        self._before = self._loop.get_exception_handler()
        self._called = self._call
        self._loop.set_exception_handler(self._called)

    def give_back(self) -> None:
        """Restore the previous hook, unless another one has replaced ours."""
        if self._loop.get_exception_handler() is self._called:
            self._loop.set_exception_handler(self._before)

    def _call(self, loop: asyncio.AbstractEventLoop, unhandled: dict[str, Any]) -> None:
        context = _context_of(unhandled.get("task") or unhandled.get("future") or unhandled.get("handle"))
        hand_on = partial(self._before, loop) if self._before is not None else loop.default_exception_handler
        # A copy, because the context itself may be in use. No context is better than that of other code that happens to run.
        (Context() if context is None else context.copy()).run(hand_on, unhandled)


def _context_of(runs: object) -> Context | None:
    """Find the context that a task or handle runs in; Python 3.11 has no other way than to ask what it refers to."""
    return next((found for found in gc.get_referents(runs) if isinstance(found, Context)), None)
