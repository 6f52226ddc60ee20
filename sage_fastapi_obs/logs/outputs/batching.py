"""Writes lines to a stream or file in batches: a write for each line would be most of its cost."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from sage_fastapi_obs.logs.line_format import Line
from sage_fastapi_obs.logs.outputs.output import DeferredLine, Output
from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.threads import Threads

MOST_LINES = 512
LONG_BYTES = 4096
"""A longer line writes its batch at once, so that batches stay small."""


class BatchingOutput(Output):
    """Writes lines in batches: after a moment, in a thread of its own, or at once on request."""

    def __init__(self, output: Output, seconds: float, failed: Callable[[Exception], None]) -> None:
        """`seconds`: the longest delay. `failed` is called when lines cannot be written, or no thread can be started."""
        self.output = output
        self._seconds = seconds
        self._failed = failed
        self.thread: threading.Thread | None = None
        self._threads = Threads("sage-obs-log-lines", failed)
        self._begin(gathers=True)
        # The parent may leave with `os._exit` too, having put itself into the background.
        at_fork(before=self.flush, in_child=self.restart)

    @property
    def is_terminal(self) -> bool:
        """Whether lines go to a terminal that may show colours."""
        return self.output.is_terminal

    def leads_to(self, target: object) -> bool:
        """Tell whether a stream, or the file of a path, leads to the same place as these lines."""
        return self.output.leads_to(target)

    def open(self) -> None:
        """Open the stream or file; lines since an earlier close are dropped."""
        self.output.open()
        self._begin(gathers=True)

    def write(self, _: Line, encoded: bytes, lines: int = 1) -> None:  # noqa: ARG002 - they come one by one
        """Take one line."""
        waiting = self._lines
        waiting.append(encoded)
        if not self._awake:
            self._wake()
        if len(waiting) >= MOST_LINES or len(encoded) > LONG_BYTES:
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
        """Write the batch."""
        with self._lock:
            if self._closing.is_set():
                # Lines written after the close are dropped, also while the file is being opened again.
                self._lines.clear()
                return
            # As many as there are now; more may be appended meanwhile.
            waiting = self._lines[:]
            del self._lines[: len(waiting)]
            lines = self._encoded(waiting)
            for group in _groups(lines, self.output.at_once_bytes):
                try:
                    self.output.write({}, b"".join(group), len(group))
                except Exception as error:
                    self._failed(error)

    def _encoded(self, waiting: Iterable["bytes | DeferredLine"]) -> Iterator[bytes]:
        for line in waiting:
            if type(line) is bytes:
                yield line
                continue
            make, source = cast("DeferredLine", line)
            try:
                yield make(source)
            except Exception as error:
                self._failed(error)

    def drain(self, seconds: float) -> None:
        """Write the rest, for no longer than some seconds, and from now on every line at once."""
        self._gathers = False
        self._awake = False
        self.flush()
        self.output.drain(seconds)

    def close(self, seconds: float) -> None:
        """Write the rest, for no longer than some seconds, and close the stream or file."""
        with self._lock:
            self.flush()
            self._closing.set()
        self._has_lines.set()
        self.output.close(seconds)

    def _wake(self) -> None:
        """Let the thread write the batch soon, or write it now."""
        if self._gathers and self._has_thread():
            self._awake = True
            self._has_lines.set()
        else:
            self.flush()

    def _has_thread(self) -> bool:
        if self.thread is None:
            with self._lock:
                self.thread = self.thread or self._threads.start(self._run)
        return self.thread is not None

    def _run(self) -> None:
        has_lines, closing = self._has_lines, self._closing
        while not closing.is_set():
            has_lines.wait()
            closing.wait(self._seconds)
            has_lines.clear()
            # Before the lines are taken: a later line wakes this thread again.
            self._awake = False
            self.flush()

    def restart(self) -> None:
        """Begin anew in a forked child, where the thread is gone and what has gathered is the parent's.

        Lines are written at once there: a child may leave with `os._exit`, which calls nothing.
        """
        self._begin(gathers=False)

    def _begin(self, *, gathers: bool) -> None:
        self._gathers = gathers
        # Reentrant: a signal handler or a finalizer may log while its own thread is writing.
        self._lock = threading.RLock()
        self._lines: list[bytes | DeferredLine] = []
        self._awake = False
        """Whether the thread has been woken for the batch."""
        self._has_lines, self._closing = threading.Event(), threading.Event()
        self.thread = None


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
