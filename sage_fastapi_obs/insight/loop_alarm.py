"""Lets the thread of an event loop look at itself where the watch thread cannot: in calls that hold the interpreter.

A timer sends the watch thread a signal, so that no call of the application is interrupted. The interpreter calls the signal's
handler between two instructions of the main thread, as soon as another thread wants to run: just after the call that held it,
or in it where it asks for signals. That needs Linux, and a loop in the main thread.
"""

import atexit
import signal
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import CodeType, FrameType
from typing import Any

_CLOCK_MONOTONIC, _SIGEV_THREAD_ID = 1, 4
_SPARE_BYTES = 64
"""Of the system's structure, beyond what is used here."""
_FIRST_NS, _NEXT_NS = 80_000_000, 25_000_000
"""After the last tick of the watch thread; and from then on, until it ticks again."""

_alarms: "weakref.WeakSet[LoopAlarm]" = weakref.WeakSet()
"""All of this process: a look costs little, and nothing while the loop turns."""
_looking: list[FrameType] = []
"""What is looked at now."""


class LoopAlarm:
    """Calls `look` in the main thread, with its frame, unless it is put off in time."""

    def __init__(self, look: Callable[[FrameType], None]) -> None:
        """Set the signal's handler, in the main thread. Raises `OSError` or `ValueError` where that cannot be done."""
        self.look = look
        self._timer = _Timer(_install())
        _alarms.add(self)
        weakref.finalize(self, self._timer.close).atexit = False

    def aim(self, thread: int) -> None:
        """Send the signal to a thread, by its native id: to the one that puts this off. Raises `OSError`."""
        self._timer.create(thread)

    def put_off(self) -> None:
        """Begin to wait anew."""
        self._timer.set(_FIRST_NS, _NEXT_NS)

    def rest(self) -> None:
        """Wait for nothing."""
        self._timer.set(0, 0)

    def forget(self) -> None:
        """Leave the timer to the parent, in a process that has been forked."""
        self._timer.id = None
        _alarms.discard(self)

    def close(self) -> None:
        """Give the timer back, and the signal where nobody needs it; after the end of the thread that it was sent to."""
        self._timer.close()
        _alarms.discard(self)
        if not _alarms and threading.current_thread() is threading.main_thread() and signal.getsignal(_number()) is _ring:
            # The first call lets the handler have what has come so far.
            for handler in (_ring, signal.SIG_DFL):
                signal.signal(_number(), handler)


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
    # The next time may be over before this function has begun, or while it looks.
    if frame is None or frame.f_code is _ring.__code__ or _looking:
        return
    _looking.append(frame)
    try:
        for each in [*_alarms]:
            each.look(frame)
    finally:
        _looking.clear()


def _number() -> int:
    """Return a signal that nobody uses: not the last one, which is what people try first."""
    return int(signal.SIGRTMAX) - 3


def _install() -> int:
    """Set the handler, unless the application has one of its own. Raises `OSError`, `ValueError` in other threads."""
    number = _number()
    if signal.getsignal(number) not in (signal.SIG_DFL, _ring):
        raise OSError
    signal.signal(number, _ring)
    _end_at_exit()
    return number


@cache
def _end_at_exit() -> None:
    atexit.register(_end)


def _end() -> None:
    """Ring no more: the interpreter ends. A signal that is on its way is ignored."""
    for each in [*_alarms]:
        each.rest()
        each.forget()
    if signal.getsignal(_number()) is _ring:
        with suppress(ValueError):
            signal.signal(_number(), signal.SIG_IGN)


class _Timer:
    """A timer of the system that sends a thread a signal."""

    def __init__(self, number: int) -> None:
        import ctypes  # noqa: PLC0415 - where insight is off, nobody needs it

        self.id: Any = None
        """As the system has it; None before it is created, and once it is given back."""
        self._ctypes = ctypes
        # Its calls do not give the interpreter up.
        self._library = ctypes.PyDLL(None)
        self._settime = self._library.timer_settime
        self._event, self._times = _structures(ctypes, number)
        self._reference = ctypes.byref(self._times)
        self._lock = threading.Lock()

    def create(self, thread: int) -> None:
        """Create it anew, for a thread. Raises `OSError`."""
        self.close()
        self._event.thread = thread
        found = self._ctypes.c_void_p()
        if self._library.timer_create(_CLOCK_MONOTONIC, self._ctypes.byref(self._event), self._ctypes.byref(found)):
            raise OSError
        self.id = found

    def set(self, first_ns: int, next_ns: int) -> None:
        """Send the signal after some time, and then again and again; 0: never."""
        with self._lock:
            self._times.first_ns, self._times.next_ns = first_ns, next_ns
            if self.id is not None:
                self._settime(self.id, 0, self._reference, None)

    def close(self) -> None:
        """Delete it."""
        with self._lock:
            timer, self.id = self.id, None
            if timer is not None:
                self._library.timer_delete(timer)


def _structures(ctypes: Any, number: int) -> tuple[Any, Any]:
    """Return a `sigevent` that sends a thread a signal, and an `itimerspec`."""

    class SignalEvent(ctypes.Structure):  # type: ignore[misc, name-defined, unused-ignore]
        _fields_ = (
            ("value", ctypes.c_void_p),
            ("signal", ctypes.c_int),
            ("notify", ctypes.c_int),
            ("thread", ctypes.c_int),
            ("spare", ctypes.c_byte * _SPARE_BYTES),
        )

    class TimerTimes(ctypes.Structure):  # type: ignore[misc, name-defined, unused-ignore]
        _fields_ = tuple((name, ctypes.c_long) for name in ("next_s", "next_ns", "first_s", "first_ns"))

    return SignalEvent(None, number, _SIGEV_THREAD_ID), TimerTimes()
