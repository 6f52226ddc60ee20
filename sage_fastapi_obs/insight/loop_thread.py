"""The thread that an event loop runs in, and who had the processor: it, other threads, or other processes."""

import asyncio
import os
import sys
import threading
import time
from functools import cache
from types import FrameType
from typing import Any, NamedTuple

from sage_fastapi_obs.insight.request_phases import code_of
from sage_fastapi_obs.insight.thread_frames import collector_off, frame_of, outward

TICK_NS = 50_000_000
"""Between two readings."""
_LONGEST = 128
_PROMPT_NS = TICK_NS + 2_000_000
"""A watch thread that reads so soon again has not waited for a processor for long."""
_LATE_NS = TICK_NS + 20_000_000
_LITTLE_NS = 5_000_000
"""A thread that has computed no longer than that has not waited for a processor for long either."""
_MOST_AGE_NS = 1_000_000_000
BUSY = 0.7
"""The share of a time that a thread has to have computed, to have kept others from it."""
_QUIET = 0.3
"""Of a time: the loop has not waited for the interpreter for long where other threads computed less."""


class ClockReading(NamedTuple):
    """Clocks at one moment, in nanoseconds; the difference of two readings tells who had the processor."""

    at: int
    loop_cpu: int
    """CPU time of the loop's thread."""
    process_cpu: int
    """Of all threads."""
    loop_waited: int
    """How long the loop's thread could run, and had no processor. 0 where the system does not say it."""
    own_waited: int
    """The same of the watch thread."""


def others_share(before: ClockReading, now: ClockReading) -> float:
    """Return for which part of a time other threads of the process have computed; more than 1 where several have at once."""
    return ((now.process_cpu - before.process_cpu) - (now.loop_cpu - before.loop_cpu)) / max(1, now.at - before.at)


class LoopThread:
    """The thread of an event loop; to be made in it.

    The clocks are read without giving the interpreter up: the loop would run on before what it does is noted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ident = threading.get_ident()
        self.depth = 0
        """How many frames there are below what the loop calls: its own, and those that run it. 0 while that is not known."""
        self.before: ClockReading | None = None
        self.now: ClockReading | None = None
        """The last two readings."""
        self._waited = ProcessorWait()
        self._own_waited: ProcessorWait | None = None
        self._waits = 0, 0
        self._waits_at = self._waits_cpu = 0
        """How long both threads have waited, and by which clocks that was found out."""
        self._select = code_of(getattr(loop, "_selector", None), "select")
        # Not on macOS.
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        self._clock: int | None = None if clock_of is None else clock_of(self.ident)

    def read(self) -> None:
        """Read all clocks, in the watch thread."""
        self.before, self.now = self.now, self.measure()

    def measure(self) -> ClockReading:
        """Read all clocks; also in the thread of the loop."""
        at, loop_cpu, process_cpu = time.perf_counter_ns(), self._cpu(), time.process_time_ns()
        self._read_waits(at, loop_cpu)
        return ClockReading(at, loop_cpu, process_cpu, *self._waits)

    def note_depth(self) -> None:
        """Note the depth; to be called by what the loop calls."""
        self.depth = len(outward(sys._getframe(2)))  # noqa: SLF001 - documented

    def called(self, innermost: FrameType | None = None) -> list[FrameType]:
        """Return the frames of what the loop has called, the innermost first; empty while it calls nothing."""
        frames = outward(frame_of(self.ident) if innermost is None else innermost)
        return frames[: max(0, len(frames) - self.depth)]

    @property
    def last_at(self) -> int:
        """When the clocks were read last."""
        return 0 if self.now is None else self.now.at

    @property
    def starved_ns(self) -> int:
        """For how long the loop has neither run nor waited for a processor since the reading before the last.

        0 where that is less than half, or no other thread has computed meanwhile: then nobody has kept it from the interpreter.
        """
        before, now = self.before, self.now
        if before is None or now is None or others_share(before, now) <= _QUIET:
            return 0
        asleep_ns = now.at - before.at - (now.loop_cpu - before.loop_cpu) - (now.loop_waited - before.loop_waited)
        return asleep_ns if 2 * asleep_ns >= now.at - before.at else 0

    def is_idle(self) -> bool:
        """Tell whether the loop waits for something to do, where that can be seen: not in one that is written in C."""
        before, now = self.before, self.now
        if self._select is None or now is None or before is None:
            return False
        if now.at - before.at > _LATE_NS or others_share(before, now) > _QUIET:
            # It may have been blocked, and answers to say that this is over; or may wait for the interpreter.
            return False
        with collector_off():
            frame = frame_of(self.ident)
            return frame is not None and frame.f_code is self._select

    def _read_waits(self, at: int, loop_cpu: int) -> None:
        """Find out how long the threads have waited for a processor, unless they cannot have done so for long since then.

        That is what a reading costs most.
        """
        is_prompt, is_recent = at - self.last_at <= _PROMPT_NS, at - self._waits_at <= _MOST_AGE_NS
        if is_prompt and is_recent and loop_cpu - self._waits_cpu <= _LITTLE_NS:
            return
        if self._own_waited is None and threading.get_ident() != self.ident:
            self._own_waited = ProcessorWait()
        self._waits = self._waited.read(), 0 if self._own_waited is None else self._own_waited.read()
        self._waits_at, self._waits_cpu = at, loop_cpu

    @property
    def loop_waited(self) -> int:
        """How long the loop's thread could run, and had no processor, in nanoseconds."""
        return self._waited.read()

    def _cpu(self) -> int:
        try:
            return 0 if self._clock is None else time.clock_gettime_ns(self._clock)
        except OSError:
            # The thread has ended.
            return 0


class ProcessorWait:
    """Tells how long the thread that made it could run, and had no processor; only on Linux."""

    def __init__(self) -> None:
        self._file: int | None = None
        try:
            self._file = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            self._buffer, self._read = _reader()
        except (OSError, ImportError, AttributeError):
            return

    def __del__(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)

    def read(self) -> int:
        """Return nanoseconds; 0 where the system does not say it."""
        try:
            size = 0 if self._file is None else self._read(self._file, self._buffer, _LONGEST, 0)
            return int(self._buffer.raw[:size].split()[1]) if size > 0 else 0
        except (AttributeError, ValueError, IndexError):
            return 0


def _reader() -> tuple[Any, Any]:
    """Return a buffer, and a function that reads a file into it without giving the interpreter up, as `os.pread` does."""
    import ctypes  # noqa: PLC0415 - where insight is off, nobody needs it

    return ctypes.create_string_buffer(_LONGEST), _pread()


@cache
def _pread() -> Any:
    import ctypes  # noqa: PLC0415

    function = ctypes.PyDLL(None).pread
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
    function.restype = ctypes.c_ssize_t
    return function
