"""Notices the signals that stop a service (SIGTERM, SIGINT) before the handler of the server does."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, MethodType
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], Any]


class StopSignals:
    """Calls a function when SIGTERM or SIGINT arrives, then the previous handler.

    Where nobody handles SIGTERM, nothing is done: it ends the process as without us, and SIGINT is left to the event loop.
    """

    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice
        self._handlers: dict[int, tuple[Handler, Handler]] = {}
        """By signal: the previous handler, and ours."""

    def watch(self) -> None:
        """Put our handlers before the present ones. Only the main thread may do so; in another, nothing is done."""
        if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGTERM)):
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)
            if callable(previous) and previous is not signal.default_int_handler and not self._is_watched(number):
                self._handlers[number] = previous, _notice_first(self._notice, previous)
                signal.signal(number, self._handlers[number][1])

    def leave(self) -> None:
        """Restore the previous handlers, unless ours were replaced meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, (previous, _) in self._handlers.items():
            if self._is_watched(number):
                signal.signal(number, previous)

    def _is_watched(self, number: int) -> bool:
        return number in self._handlers and signal.getsignal(number) == self._handlers[number][1]


def _notice_first(notice: Callable[[], None], previous: Handler) -> Handler:
    """Return a handler that calls `notice`, then the previous handler, and is a method of the same object as that.

    Libraries find the server through its handler, to see when it stops, and have to find it through ours.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        notice()
        previous(number, frame)

    owner = getattr(previous, "__self__", None)
    return handler if owner is None else MethodType(lambda _, *arguments: handler(*arguments), owner)
