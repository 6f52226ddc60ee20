"""Lines to a file that several processes may share, that is rotated here, and that others may move or delete."""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.logs.line_format import Line
from sage_fastapi_obs.logs.outputs.stream import Stream, own_descriptor
from sage_fastapi_obs.settings import LoggingSettings

try:
    import fcntl
except ImportError:
    # Windows, where a file that is open cannot be renamed either.
    fcntl = None  # type: ignore[assignment]

LOOK_SECONDS = 1.0
"""How long it may take to notice that the file was moved, deleted, or rotated by another process."""
_SETTLED_SECONDS = 10.0
"""A file that was written to within this time is not deleted: a process that has not looked yet may still write there."""
_UNLIMITED = 2**63
_MOST_AT_ONCE_BYTES = 256 * 1024
"""Of lines that are written together."""


class File(Stream):
    """A regular file, appended to by whole lines in one write, which the system never mixes with another's.

    Rotation needs no lock per line, which the libraries for it take: a stopped process that holds such a lock stops all
    others. Here a writer only looks now and then whether the path is still its file, and until then writes on into the
    one that was renamed, where no line is lost.
    """

    def __init__(
        self,
        settings: LoggingSettings,
        losses: Losses,
        gap_line: Callable[[int], bytes],
        wall_clock: Callable[[], int],
        failed: Callable[[Exception], None],
    ) -> None:
        if fcntl is None and (settings.rotate_bytes or settings.rotate_hours):
            raise SettingsError("logging.rotate_bytes and rotate_hours: this system cannot rename a file that is written to")
        super().__init__(settings.output, losses, gap_line, failed)
        self._path = Path(settings.output)
        self._rotate_bytes = settings.rotate_bytes
        self._rotate_seconds = None if settings.rotate_hours is None else settings.rotate_hours * 3600
        self._keep_files = settings.keep_files
        self._wall_clock = wall_clock
        # Together they may not be what makes the file too large.
        self.at_once_bytes = _MOST_AT_ONCE_BYTES if settings.rotate_bytes is None else settings.rotate_bytes // 16
        self._rotated_name = re.compile(re.escape(self._path.name) + r"\.\d{8}T\d{6}\.\d{6}")
        self.look_at = 0.0
        self._left = 0
        """Bytes until the next look."""
        self._period_ends = float("inf")
        """Unix time at which this file is full, however small."""

    def open(self) -> None:
        """Open or create the file; raise `SettingsError` where that cannot be done."""
        try:
            super().open()
        except OSError as error:
            raise SettingsError(f"logging.output: {self._path}: {_advice(error, self._path)}") from error
        with self.lock:
            self._begin_period()

    def write(self, line: Line, encoded: bytes, lines: int = 1) -> None:
        """Write one or more lines; look after the file first when it is time to."""
        # Threads may miss each other's bytes here, which only puts a look off.
        self._left -= len(encoded)
        if self._left < 0 or time.monotonic() >= self.look_at:
            try:
                with self.lock:
                    self._look(len(encoded))
            finally:
                # A file that cannot be rotated is written to all the same; the failure is reported.
                super().write(line, encoded, lines)
        else:
            super().write(line, encoded, lines)

    def _look(self, coming: int) -> None:
        """Follow the path to a new file, or rotate this one before some bytes are added."""
        self.look_at = time.monotonic() + LOOK_SECONDS
        self._left = _UNLIMITED if self._rotate_bytes is None else self._rotate_bytes // 64
        if self._begun or self._descriptor is None:
            # What is left of a line belongs behind its beginning.
            return
        if not self._is_current():
            self._switch()
        elif self._is_due(coming):
            self._rotate()
        if self._rotate_bytes is not None:
            # Others write here too: a share of what is left, so that the looks come closer as the end does.
            self._left = max(self._left, (self._rotate_bytes - os.fstat(self._descriptor).st_size) // 4) - coming

    def _is_current(self) -> bool:
        assert self._descriptor is not None
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def _is_due(self, coming: int) -> bool:
        assert self._descriptor is not None
        size = os.fstat(self._descriptor).st_size
        if self._wall_clock() / 1e9 >= self._period_ends:
            if size:
                return True
            self._begin_period()
        return self._rotate_bytes is not None and size > 0 and size + coming > self._rotate_bytes

    def _rotate(self) -> None:
        """Give the file a name of its own, unless another process is doing so, and start the next one."""
        with _lock(self._path.with_name(f"{self._path.name}.lock")) as is_locked:
            if not is_locked:
                return
            # Another process may have been faster.
            if self._is_current():
                self._path.rename(self._free_name())
                self._delete_oldest()
        self._switch()

    def _switch(self) -> None:
        """Write to the file that is at the path now."""
        old = self._descriptor
        assert old is not None
        try:
            self._use(own_descriptor(str(self._path)), is_ours=True)
        except OSError:
            if not os.fstat(old).st_nlink:
                self._put = _deleted
            raise
        os.close(old)
        self._begin_period()

    def _begin_period(self) -> None:
        """Find when this file has to end: with the period in which it was last written to, or with this one."""
        if self._rotate_seconds is None or self._descriptor is None:
            return
        found = os.fstat(self._descriptor)
        began = found.st_mtime if found.st_size else self._wall_clock() / 1e9
        self._period_ends = (began // self._rotate_seconds + 1) * self._rotate_seconds

    def _free_name(self) -> Path:
        """Name a rotated file by the time at which it ended, in UTC."""
        ended_us = self._wall_clock() // 1_000
        while True:
            ended = datetime.fromtimestamp(ended_us // 1_000_000, UTC).strftime("%Y%m%dT%H%M%S")
            name = self._path.with_name(f"{self._path.name}.{ended}.{ended_us % 1_000_000:06d}")
            if not name.exists():
                return name
            ended_us += 1

    def _delete_oldest(self) -> None:
        rotated = sorted(path for path in self._path.parent.iterdir() if self._rotated_name.fullmatch(path.name))
        for path in rotated[: -self._keep_files]:
            if time.time() - path.stat().st_mtime > _SETTLED_SECONDS:
                path.unlink(missing_ok=True)


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Lock a path against other processes; yield False where one has locked it. Does not wait: that process may be stopped."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _advice(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"there is no folder {path.parent}: create it, or name a file elsewhere"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "this process may not write there: change the permissions, or name a file elsewhere"
        case errno.EISDIR:
            return "this is a folder: name a file in it"
    return f"cannot be opened: {error.strerror}"


def _deleted(_: bytes) -> int:
    raise OSError(errno.ENOENT, "the log file was deleted, and cannot be created anew")
