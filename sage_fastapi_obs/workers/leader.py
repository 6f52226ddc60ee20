"""Who of a group judges the alert rules: one worker has the lock on the file `leader`, and publishes what it finds.

    leader           id of the process, number of its slot, count of its heartbeats
    alerts-N.json    what it has published; N is the inode of the file `leader`

When the leader dies, its lock is free. When it hangs, another worker puts a new file in the place of `leader`. The one that
hung sees that when it goes on: the path is not the file that it has locked. What it still writes has the old file's number.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from sage_fastapi_obs.processes import at_fork, hold_at_fork
from sage_fastapi_obs.workers.file_lock import OPEN_FLAGS, lock, open_file

PATIENCE_SECONDS = 5.0
"""A leader without a heartbeat for so long hangs."""
_MOST_BYTES = 256


class _Sight(NamedTuple):
    """What the file of the leader said, and since when it has said so."""

    inode: int
    text: bytes
    since: float
    seen: float


_NOTHING = _Sight(0, b"", 0.0, 0.0)


class Leadership:
    """One worker's share in it. `try_to_lead` is called each second, and at once when a worker has ended."""

    def __init__(
        self,
        folder: Path,
        slot: int,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder`: that of the group. `slot`: number of this worker's. `clock`: monotonic seconds."""
        self.run = folder.name
        """Names the counters of the group."""
        self._folder = folder
        self._path = folder / "leader"
        self._slot = slot
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._descriptor = self._inode = -1
        self._beats = 0
        self._sight = _NOTHING
        self._read: tuple[tuple[int, ...], bytes | None] = ((), None)
        self._lock = threading.RLock()
        hold_at_fork(self._lock)
        at_fork(in_child=self.close)

    @property
    def is_leader(self) -> bool:
        """Whether this worker leads now; one that another has replaced learns it here."""
        with self._lock:
            if self._descriptor >= 0 and self._inode_now() != self._inode:
                self._let_go()
            return self._descriptor >= 0

    @property
    def leading_slot(self) -> int | None:
        """The number of the slot of the worker that leads, or has led last; None while nobody has."""
        words = self._text().split()
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else None

    def try_to_lead(self) -> bool:
        """Lead if nobody does, or if the leader hangs; tell whether this worker leads. Raises `OSError` without a folder."""
        with self._lock:
            if not self.is_leader:
                self._lead(self._free_file() or self._file_in_place_of_one_that_hangs())
            if self._descriptor >= 0:
                self._beat()
            return self._descriptor >= 0

    def publish(self, found: bytes) -> bool:
        """Write what the other workers are to show; tell whether this one still led afterwards. Raises `OSError`."""
        if not self.is_leader:
            return False
        new = self._folder / f"alerts-{self._inode}.new"
        new.write_bytes(found)
        new.replace(self._published_path(self._inode))
        return self.is_leader

    def published(self) -> bytes | None:
        """Return what the leader, or the one before it, has published last: the same object until there is something new."""
        try:
            path = self._published_path(self._inode_now())
            found = path.stat()
            key = found.st_ino, found.st_mtime_ns, found.st_size
            if key != self._read[0]:
                self._read = key, path.read_bytes()
        except OSError:
            # The leader has just changed, or has published nothing yet.
            pass
        return self._read[1]

    def close(self) -> None:
        """Lead no more; also in a forked child, whose parent keeps the lock."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _inode_now(self) -> int:
        try:
            return self._path.lstat().st_ino
        except FileNotFoundError:
            return 0

    def _published_path(self, inode: int) -> Path:
        return self._folder / f"alerts-{inode}.json"

    def _free_file(self) -> int | None:
        """Return a descriptor of the file with its lock; None where another has it."""
        descriptor = open_file(self._path)
        if lock(descriptor) and os.fstat(descriptor).st_ino == self._inode_now():
            return descriptor
        os.close(descriptor)
        return None

    def _file_in_place_of_one_that_hangs(self) -> int | None:
        """Replace the file whose leader has no heartbeat any more; None while it has, and while another does the same."""
        if not self._hangs():
            return None
        seen = self._sight
        with self._folder_lock() as is_locked:
            if not is_locked or (self._inode_now(), self._text()) != (seen.inode, seen.text):
                return None
            return self._replace(seen.inode)

    def _replace(self, old: int) -> int:
        new = self._folder / "leader.new"
        new.unlink(missing_ok=True)
        descriptor = open_file(new, OPEN_FLAGS | os.O_EXCL)
        lock(descriptor)
        with suppress(FileNotFoundError):
            self._published_path(old).replace(self._published_path(os.fstat(descriptor).st_ino))
        new.replace(self._path)
        return descriptor

    def _hangs(self) -> bool:
        now, inode, text = self._clock(), self._inode_now(), self._text()
        before = self._sight
        # One that was suspended itself has not seen how the leader did meanwhile.
        is_same = (before.inode, before.text) == (inode, text) and now - before.seen < self._patience_seconds / 2
        self._sight = _Sight(inode, text, before.since if is_same else now, now)
        return now - self._sight.since >= self._patience_seconds

    @contextmanager
    def _folder_lock(self) -> Iterator[bool]:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield lock(descriptor)
        finally:
            os.close(descriptor)

    def _lead(self, descriptor: int | None) -> None:
        if descriptor is None:
            return
        self._descriptor, self._inode = descriptor, os.fstat(descriptor).st_ino
        for left in self._folder.glob("alerts-*"):
            if left != self._published_path(self._inode):
                left.unlink(missing_ok=True)

    def _beat(self) -> None:
        self._beats += 1
        text = f"{os.getpid()} {self._slot} {self._beats}\n".encode()
        os.pwrite(self._descriptor, text.ljust(_MOST_BYTES), 0)

    def _text(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return file.read(_MOST_BYTES)
        except FileNotFoundError:
            return b""
