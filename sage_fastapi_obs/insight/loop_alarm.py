"""Lets the thread of an event loop look at itself where the watch thread cannot: in calls that hold the interpreter.

A timer of the system tells the interpreter that a signal has come; none is sent, so no call of the application is interrupted.
The interpreter calls the signal's handler between two instructions of the main thread, as soon as another thread wants to run:
just after the call that held it, or in it where it asks for signals. That needs Linux, and a loop in the main thread.
"""

import signal
import threading
import weakref
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import Any

_CLOCK_MONOTONIC, _SIGEV_THREAD = 1, 2
_SPARE_BYTES = 32
"""Of the system's structure, beyond what is used here."""
_FIRST_NS, _NEXT_NS = 80_000_000, 25_000_000
"""After the last tick of the watch thread; and from then on, until it ticks again."""

_rung: "weakref.WeakSet[LoopAlarm]" = weakref.WeakSet()
"""All of this process: a look costs little, and nothing while the loop turns."""


class LoopAlarm:
    """Calls `look` in the main thread, with its frame, unless it is put off in time."""

    def __init__(self, look: Callable[[FrameType], None]) -> None:
        """Set the signal's handler, in the main thread. Raises `OSError` or `ValueError` where that cannot be done."""
        self.look = look
        timer = _Timer(_install())
        self.put_off = partial(timer.set, _FIRST_NS, _NEXT_NS)
        """Begin to wait anew."""
        self.rest = partial(timer.set, 0, 0)
        """Wait for nothing."""
        # Also when the interpreter ends: it cannot be told anything then.
        self._end = weakref.finalize(self, timer.close)
        _rung.add(self)

    def forget(self) -> None:
        """Leave the timer to the parent, in a process that has been forked."""
        self._end.detach()
        _rung.discard(self)

    def close(self) -> None:
        """Give the timer back, and the signal where nobody needs it."""
        self._end()
        _rung.discard(self)
        if not _rung and threading.current_thread() is threading.main_thread() and signal.getsignal(_number()) is _ring:
            signal.signal(_number(), signal.SIG_DFL)


def make_alarm(look: Callable[[FrameType], None]) -> LoopAlarm | None:
    """Make an alarm for the calling thread; None where it cannot work."""
    try:
        return LoopAlarm(look)
    except (OSError, ImportError, AttributeError, ValueError):
        return None


def is_looking(code: CodeType) -> bool:
    """Tell whether code is that which an alarm calls first."""
    return code is _ring.__code__


def _ring(_: int, frame: FrameType | None) -> None:
    if frame is not None:
        for each in [*_rung]:
            each.look(frame)


def _number() -> int:
    """Return a signal that nobody uses: not the last one, which is what people try first."""
    return int(signal.SIGRTMAX) - 3


def _install() -> int:
    """Set the handler, unless the application has one of its own. Raises `OSError`, `ValueError` in other threads."""
    number = _number()
    if signal.getsignal(number) not in (signal.SIG_DFL, _ring):
        raise OSError
    signal.signal(number, _ring)
    return number


class _Timer:
    """A timer of the system that tells the interpreter of a signal."""

    def __init__(self, number: int) -> None:
        import ctypes  # noqa: PLC0415 - where insight is off, nobody needs it

        # Its calls do not give the interpreter up.
        self._library = ctypes.PyDLL(None)
        self._id: Any = ctypes.c_void_p()
        self._lock = threading.Lock()
        event, self._times = _structures(ctypes, number)
        self._reference = ctypes.byref(self._times)
        self._settime = self._library.timer_settime
        if self._library.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)):
            raise OSError

    def set(self, first_ns: int, next_ns: int) -> None:
        """Ring after some time, and then again and again; 0: never."""
        with self._lock:
            self._times.first_ns, self._times.next_ns = first_ns, next_ns
            if self._id is not None:
                self._settime(self._id, 0, self._reference, None)

    def close(self) -> None:
        """Delete it."""
        with self._lock:
            self._library.timer_delete(self._id)
            self._id = None


def _structures(ctypes: Any, number: int) -> tuple[Any, Any]:
    """Return a `sigevent` that calls a function with the signal's number, and an `itimerspec`."""

    class SignalEvent(ctypes.Structure):  # type: ignore[misc, name-defined, unused-ignore]
        _fields_ = (
            ("value", ctypes.c_void_p),
            ("signal", ctypes.c_int),
            ("notify", ctypes.c_int),
            ("function", ctypes.c_void_p),
            ("attributes", ctypes.c_void_p),
            ("spare", ctypes.c_byte * _SPARE_BYTES),
        )

    class TimerTimes(ctypes.Structure):  # type: ignore[misc, name-defined, unused-ignore]
        _fields_ = tuple((name, ctypes.c_long) for name in ("next_s", "next_ns", "first_s", "first_ns"))

    function = ctypes.cast(ctypes.pythonapi.PyErr_SetInterruptEx, ctypes.c_void_p).value
    return SignalEvent(number, 0, _SIGEV_THREAD, function, None), TimerTimes()
