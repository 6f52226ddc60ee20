"""Lines on their way to a stream or file, written many at a time: a write for each would be most of what a line costs."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, cast

from sage_fastapi_obs.logs.line_format import Line
from sage_fastapi_obs.logs.outputs.multiple import Several
from sage_fastapi_obs.logs.outputs.stream import Stream
from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.threads import Threads

__all__ = ["BatchingOutput", "DeferredLine"]

DeferredLine: TypeAlias = tuple[Callable[[Any], bytes], Any]
"""A line that is still to be made: by what, and of what."""
MOST_LINES = 512
LONG_BYTES = 4096
"""Of a line that is written at once, so that what is gathered stays small."""


class BatchingOutput:
    """Writes what has gathered after a moment, in a thread of its own, or at once when somebody asks."""

    def __init__(self, near: Stream | Several, seconds: float, failed: Callable[[Exception], None]) -> None:
        """`seconds`: the moment. `failed`: is told why lines could not be written, or not by a thread."""
        self._near = near
        self._seconds = seconds
        self._failed = failed
        self._thread: threading.Thread | None = None
        self._threads = Threads("sage-obs-log-lines", failed)
        self._begin(gathers=True)
        # The parent may leave with `os._exit` too, having put itself into the background.
        at_fork(before=self.flush, in_child=self.restart)

    @property
    def is_terminal(self) -> bool:
        """Whether a person is watching, who has not asked for no colours."""
        return self._near.is_terminal

    def leads_to(self, target: object) -> bool:
        """Tell whether what is written to a stream, or to the file of a path, ends up where these lines do."""
        return self._near.leads_to(target)

    def open(self) -> None:
        """Open the stream or file; what came after an earlier end is nobody's."""
        self._near.open()
        self._begin(gathers=True)

    def write(self, _: Line, encoded: bytes) -> None:
        """Take one line."""
        lines = self._lines
        lines.append(encoded)
        if not self._awake:
            self._wake()
        if len(lines) >= MOST_LINES or len(encoded) > LONG_BYTES:
            self.flush()

    def write_later(self, line: DeferredLine) -> None:
        """Take one line that is still to be made."""
        lines = self._lines
        lines.append(line)
        if not self._awake:
            self._wake()
        if len(lines) >= MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        with self._lock:
            if self._closing.is_set():
                # What came after the end is nobody's, also where the next life has begun to open the file.
                self._lines.clear()
                return
            # As many as there are now; more may be appended meanwhile.
            taken = self._lines[:]
            del self._lines[: len(taken)]
            lines = self._made(taken)
            for group in _groups(lines, self._near.at_once_bytes):
                try:
                    self._near.write({}, b"".join(group), len(group))
                except Exception as error:
                    self._failed(error)

    def _made(self, taken: Iterable["bytes | DeferredLine"]) -> Iterator[bytes]:
        for line in taken:
            if type(line) is bytes:
                yield line
                continue
            make, of = cast("DeferredLine", line)
            try:
                yield make(of)
            except Exception as error:
                self._failed(error)

    def settle(self, seconds: float) -> None:
        """Write the rest, for no longer than some seconds, and from now on every line at once."""
        self._gathers = False
        self._awake = False
        self.flush()
        self._near.settle(seconds)

    def close(self, seconds: float) -> None:
        """Write the rest, for no longer than some seconds, and close the stream or file."""
        with self._lock:
            self.flush()
            self._closing.set()
        self._some.set()
        self._near.close(seconds)

    def _wake(self) -> None:
        """Have what has gathered written in a moment, or write it now."""
        if self._gathers and self._has_thread():
            self._awake = True
            self._some.set()
        else:
            self.flush()

    def _has_thread(self) -> bool:
        if self._thread is None:
            with self._lock:
                self._thread = self._thread or self._threads.start(self._run)
        return self._thread is not None

    def _run(self) -> None:
        some, closing = self._some, self._closing
        while not closing.is_set():
            some.wait()
            closing.wait(self._seconds)
            some.clear()
            # Before the lines are taken: whoever comes later wakes this thread again.
            self._awake = False
            self.flush()

    def restart(self) -> None:
        """Begin anew in a forked child, where the thread is gone and what has gathered is the parent's.

        Lines are written at once there: a child may leave with `os._exit`, of which nobody is told.
        """
        self._begin(gathers=False)

    def _begin(self, *, gathers: bool) -> None:
        self._gathers = gathers
        # Reentrant: a signal handler or a finalizer may log while its own thread is writing.
        self._lock = threading.RLock()
        self._lines: list[bytes | DeferredLine] = []
        self._awake = False
        """Whether the thread knows that there is something to write."""
        self._some, self._closing = threading.Event(), threading.Event()
        self._thread = None


def _groups(lines: Iterable[bytes], most_bytes: int) -> Iterator[list[bytes]]:
    """Make groups of a bounded size; a longer line is a group by itself."""
    group: list[bytes] = []
    size = 0
    for line in lines:
        if group and size + len(line) > most_bytes:
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line)
    if group:
        yield group
