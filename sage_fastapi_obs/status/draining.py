"""The beginning of a shutdown: SIGTERM is noticed on its way to whoever handles it."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Sigterm"]


class Sigterm:
    """Calls a function when SIGTERM arrives, before the handler that was there.

    Where there is none, nothing is done: the signal ends the process, as it would without us.
    """

    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice
        self._before: Callable[[int, FrameType | None], Any] | None = None

    def watch(self) -> None:
        """Step in front of the handler; only the main thread may do so, and elsewhere nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler) and self._before is None:
            self._before = handler
            signal.signal(signal.SIGTERM, self._handle)

    def leave(self) -> None:
        """Step aside again, if nobody has stepped in front of us meanwhile."""
        is_ours = signal.getsignal(signal.SIGTERM) == self._handle
        if is_ours and self._before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._notice()
        if self._before is not None:
            self._before(number, frame)
