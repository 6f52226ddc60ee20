"""The thread that an event loop runs in, and who had the processor: it, other threads, or other processes."""

import asyncio
import os
import threading
import time
from functools import cache
from typing import Any, NamedTuple

_LONGEST = 128


class ClockReading(NamedTuple):
    """Clocks at one moment, in nanoseconds; the difference of two readings tells who had the processor."""

    at: int
    loop_cpu: int
    """CPU time of the loop's thread."""
    process_cpu: int
    """Of all threads."""
    loop_waited: int
    """How long the loop's thread could run, and had no processor. 0 where the system does not say it."""
    own_waited: int | None
    """The same of the watch thread; None where the system does not say it."""


class LoopThread:
    """The thread of an event loop; to be made in it.

    The clocks are read without giving the interpreter up: the loop would run on before what it does is noted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ident = threading.get_ident()
        self._waited = ProcessorWait()
        self._own_waited: ProcessorWait | None = None
        # Not on macOS.
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        self._clock: int | None = None if clock_of is None else clock_of(self.ident)

    def read(self) -> ClockReading:
        """Read all clocks, in the watch thread."""
        if self._own_waited is None:
            self._own_waited = ProcessorWait()
        return ClockReading(
            *(time.perf_counter_ns(), self._cpu(), time.process_time_ns()),
            *(self._waited.read() or 0, self._own_waited.read()),
        )

    @property
    def loop_waited(self) -> int:
        """How long the loop's thread could run, and had no processor, in nanoseconds."""
        return self._waited.read() or 0

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

    def read(self) -> int | None:
        """Return nanoseconds; None where the system does not say it."""
        try:
            size = 0 if self._file is None else self._read(self._file, self._buffer, _LONGEST, 0)
            return int(self._buffer.raw[:size].split()[1]) if size > 0 else None
        except (AttributeError, ValueError, IndexError):
            return None


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
