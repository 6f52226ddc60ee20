"""Writes lines to a descriptor: one write each, never waiting for the reader, with a bounded backlog while nobody reads."""

import errno
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from sage_fastapi_obs.delivery.losses import Cause, Losses
from sage_fastapi_obs.logs.line_format import Line
from sage_fastapi_obs.logs.outputs.output import AT_ONCE_BYTES, Output
from sage_fastapi_obs.processes import at_fork
from sage_fastapi_obs.threads import Threads

BACKLOG_BYTES = 1024 * 1024
BACKLOG_LINES = 8192
_PATIENCE_SECONDS = 0.5
"""Longest single wait for the reader in the background; then the thread checks whether anything still waits."""
_SLEEP_SECONDS = 0.05
"""Such a wait where the system has no `poll`."""
# Windows has none of these.
_CAN_POLL = hasattr(select, "poll")
_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
# Only Windows has this: without it a newline becomes two characters.
_BINARY = getattr(os, "O_BINARY", 0)


class _Waiting(NamedTuple):
    """What is left to write of some lines, or of a line that says how many lines are missing at its place."""

    rest: bytes
    lines: int
    missing: int | None = None


class Stream(Output):
    """Standard output or error, or a device or pipe by its path."""

    def __init__(
        self, target: str, losses: Losses, gap_line: Callable[[int], bytes], failed: Callable[[Exception], None]
    ) -> None:
        """`gap_line` makes the line that says how many lines are missing there. `failed`: called if no thread can start."""
        self._target = target
        self.name = target if target in ("stdout", "stderr") else "file"
        self._losses = losses
        self._gap_line = gap_line
        losses.watch(self.name, ("full", "failed", "shutdown"))
        # Reentrant: a signal handler or a finalizer may log while its own thread is writing.
        self.lock = threading.RLock()
        self._stream: IO[str] | None = None
        self._descriptor: int | None = None
        self._is_ours = False
        # Drops everything: lines before the start and after the end.
        self._put: Callable[[bytes], int] = len
        self._backlog: deque[_Waiting] = deque()
        self._backlog_bytes = 0
        self._begun = False
        """Whether a part of the backlog's first line is written."""
        self._missing = 0
        """Lines that were lost since the last gap line."""
        self._flusher: threading.Thread | None = None
        self._threads = Threads("sage-obs-log-backlog", failed)
        at_fork(in_child=self.restart)

    @property
    def is_terminal(self) -> bool:
        """Whether lines go to a terminal that may show colours."""
        return self._stream is not None and self._stream.isatty() and "NO_COLOR" not in os.environ

    @property
    def waiting_lines(self) -> int:
        """How many lines, or groups of lines, wait for the reader."""
        return len(self._backlog)

    def open(self) -> None:
        """Open the target as it is now: tests and servers replace the standard streams."""
        with self.lock:
            if self._target in ("stdout", "stderr"):
                self._open_standard(getattr(sys, self._target))
                return
            # Where others are opened beside it, its lines are lost, and counted.
            self._put = _closed
            self._use(own_descriptor(self._target), is_ours=True)

    def write(self, _: Line, encoded: bytes, lines: int = 1) -> None:
        """Write one or more lines, or keep them until the reader goes on; raises what the system says when they are lost."""
        with self.lock:
            if self._backlog or self._missing:
                self._write_behind(encoded, lines)
                return
            try:
                written = self._put(encoded)
            except BlockingIOError:
                written = 0
            except Exception:
                self._lose("failed", lines)
                raise
            if written != len(encoded):
                self._begun = written > 0
                self._keep(_Waiting(encoded[written:], lines))
                self._catch_up()

    def leads_to(self, target: Any) -> bool:
        """Tell whether a stream, or the file of a path, leads to the same place as these lines."""
        if target is None or self._descriptor is None:
            return target is not None and target is self._stream
        try:
            theirs = Path(target).stat() if isinstance(target, str) else os.fstat(target.fileno())
            return os.path.samestat(theirs, os.fstat(self._descriptor))
        except Exception:
            # There is no such file, or what it is only looks like a stream.
            return False

    def drain(self, seconds: float) -> None:
        """Write what waits, for no longer than some seconds."""
        deadline = time.monotonic() + seconds
        while not self._is_written() and (left := deadline - time.monotonic()) > 0:
            self._wait(min(left, _PATIENCE_SECONDS))

    def close(self, seconds: float) -> None:
        """Write waiting lines, for no longer than some seconds, and close the descriptor if this opened it."""
        self.drain(seconds)
        with self.lock:
            self._begun = False
            self._drop_backlog("shutdown")
            self._missing = 0
            self._flusher = None
            self._put = len
            descriptor, self._descriptor, self._stream = self._descriptor, None, None
            if self._is_ours and descriptor is not None:
                os.close(descriptor)

    def _open_standard(self, stream: IO[str] | None) -> None:
        self._stream = stream
        if stream is None:
            self._put = _closed
            return
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):
            self._put = partial(_put_text, stream)
            return
        try:
            os.fstat(descriptor)
        except OSError:
            # The number of a closed standard stream is soon that of something else, perhaps a client's connection.
            self._put = _closed
            return
        own = _opened_anew(descriptor)
        self._use(descriptor if own is None else own, is_ours=own is not None)

    def _use(self, descriptor: int, *, is_ours: bool) -> None:
        self._descriptor, self._is_ours = descriptor, is_ours
        self._put = partial(os.write, descriptor)
        if _CAN_POLL and not is_ours and _may_wait(descriptor):
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            self._put = partial(_put_if_ready, poll, descriptor)

    def _write_behind(self, encoded: bytes, lines: int) -> None:
        """Write a line after what waits, and after the gap line."""
        if self._backlog_bytes + len(encoded) > BACKLOG_BYTES or len(self._backlog) >= BACKLOG_LINES:
            self._lose("full", lines)
            return
        self._keep_gap_line()
        self._keep(_Waiting(encoded, lines))
        if self._flusher is None:
            self._catch_up()

    def _keep(self, waiting: _Waiting) -> None:
        self._backlog.append(waiting)
        self._backlog_bytes += len(waiting.rest)

    def _keep_gap_line(self) -> None:
        if self._missing:
            self._keep(_Waiting(self._gap_line(self._missing), 1, self._missing))
            self._missing = 0

    def _catch_up(self) -> None:
        """Write what waits now, or have it written when the reader goes on."""
        try:
            self._write_backlog()
        except Exception:
            self._drop_backlog("failed")
            raise
        if self._backlog:
            # Without a thread, the next line does this again.
            self._flusher = self._threads.start(self._flush)

    def _write_backlog(self) -> None:
        while self._backlog:
            rest, lines, missing = self._backlog[0]
            try:
                written = self._put(rest)
            except BlockingIOError:
                return
            self._backlog_bytes -= written
            self._begun = written < len(rest)
            if self._begun:
                self._backlog[0] = _Waiting(rest[written:], lines, missing)
            else:
                self._backlog.popleft()

    def _drop_backlog(self, cause: Cause) -> None:
        """Lose what waits, but for a line of which a part is written: it is completed before anything else."""
        begun = [self._backlog.popleft()] if self._begun else []
        for _, lines, missing in self._backlog:
            if missing is None:
                self._lose(cause, lines)
            else:
                self._missing += missing
        self._backlog = deque(begun)
        self._backlog_bytes = sum(len(waiting.rest) for waiting in begun)

    def _lose(self, cause: Cause, lines: int) -> None:
        self._losses.count(self.name, cause, lines)
        self._missing += lines

    def _flush(self) -> None:
        """Write the backlog as its reader takes it; the thread of this ends with the backlog."""
        while True:
            self._wait(_PATIENCE_SECONDS)
            with self.lock:
                if self._flusher is not threading.current_thread():
                    return
                if self._is_written():
                    self._flusher = None
                    return

    def _is_written(self) -> bool:
        """Write what can be written now, the gap line included, and tell whether that was all."""
        with self.lock:
            try:
                self._write_backlog()
                if not self._backlog:
                    self._keep_gap_line()
                    self._write_backlog()
            except Exception:
                # The next line meets the same failure, and reports it.
                self._drop_backlog("failed")
                return True
            return not self._backlog

    def _wait(self, seconds: float) -> None:
        descriptor = self._descriptor
        if not _CAN_POLL:
            time.sleep(min(seconds, _SLEEP_SECONDS))
        elif descriptor is not None:
            # A poll of its own: one object serves one thread at a time.
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll(seconds * 1_000)

    def restart(self) -> None:
        """Begin anew in a forked child: the lock may be held and the thread is gone, and what waits is the parent's."""
        self.lock = threading.RLock()
        self._backlog, self._backlog_bytes, self._begun, self._missing = deque(), 0, False, 0
        self._flusher = None


def own_descriptor(path: str) -> int:
    """Open a path for appending, without ever waiting for a reader."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NON_BLOCKING | _BINARY, 0o644)


def _opened_anew(descriptor: int) -> int | None:
    """Open a pipe or a terminal once more, so that only our descriptor is non-blocking.

    Set on what was inherited, O_NONBLOCK would reach every process that shares it. Sockets cannot be opened anew, and a
    pipe cannot by a process that has changed its user since.
    """
    if not _may_wait(descriptor):
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | _NON_BLOCKING)
    except OSError:
        return None


def _may_wait(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


def _put_if_ready(poll: "select.poll", descriptor: int, encoded: bytes) -> int:
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, "nobody reads")
    return os.write(descriptor, encoded[:AT_ONCE_BYTES])


def _put_text(stream: IO[str], encoded: bytes) -> int:
    stream.write(encoded.decode("utf-8", "replace"))
    return len(encoded)


def _closed(_: bytes) -> int:
    raise OSError(errno.EBADF, "it was closed before the start, or could not be opened")
