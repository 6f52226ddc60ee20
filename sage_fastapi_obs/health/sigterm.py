"""The beginning of a shutdown: the signals that stop a service are noticed on their way to whoever handles them."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, MethodType
from typing import Any, TypeAlias

__all__ = ["StopSignals"]

Handler: TypeAlias = Callable[[int, FrameType | None], Any]


class StopSignals:
    """Calls a function when SIGTERM or SIGINT arrives, before the handler that was there.

    Where nobody handles SIGTERM, nothing is done: it ends the process, as it would without us, and SIGINT is the business of
    the event loop.
    """

    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice
        self._handlers: dict[int, tuple[Handler, Handler]] = {}
        """By signal: the handler that was there, and ours before it."""

    def watch(self) -> None:
        """Step in front of the handlers; only the main thread may do so, and elsewhere nothing is done."""
        if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGTERM)):
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            theirs = signal.getsignal(number)
            if callable(theirs) and theirs is not signal.default_int_handler and not self._is_watched(number):
                self._handlers[number] = theirs, _before(theirs, self._notice)
                signal.signal(number, self._handlers[number][1])

    def leave(self) -> None:
        """Step aside again, where nobody has stepped in front of us meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, (theirs, _) in self._handlers.items():
            if self._is_watched(number):
                signal.signal(number, theirs)

    def _is_watched(self, number: int) -> bool:
        return number in self._handlers and signal.getsignal(number) == self._handlers[number][1]


def _before(theirs: Handler, notice: Callable[[], None]) -> Handler:
    """Make a handler that calls another one after `notice`, and belongs to the same object.

    Libraries find the server through its handler, to see when it stops: they have to find it through ours.
    """

    def notice_first(number: int, frame: FrameType | None) -> None:
        notice()
        theirs(number, frame)

    owner = getattr(theirs, "__self__", None)
    return notice_first if owner is None else MethodType(lambda _, *arguments: notice_first(*arguments), owner)
