"""The files of a store in its private folder: the database, its journal, a lock, and one damaged database."""

import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage_fastapi_obs.store.connection import BUSY_SECONDS, LockedError

try:
    import fcntl
except ImportError:
    # Windows, where the store is in memory.
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
_POLL_SECONDS = 0.002


class StoreFiles:
    """Looks at files by their names only: to close a file that SQLite has open, too, would take its locks away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aside = path.with_name(f"{path.name}.damaged")
        """A damaged database that was set aside."""
        self._journal = path.with_name(f"{path.name}-journal")
        self._lock = path.with_name(f"{path.name}.lock")

    def inode(self) -> int:
        """Return the number of the file that the path is now; 0: there is none."""
        try:
            return os.lstat(self.path).st_ino
        except OSError:
            return 0

    def take_lock_away(self, purpose: str) -> None:
        """Let the next one have a lock that another holds, which does not learn of that."""
        self._purposed(purpose).unlink(missing_ok=True)

    def _purposed(self, purpose: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{purpose}")

    def try_lock(self, purpose: str) -> int | None:
        """Return a descriptor that holds a lock for a purpose, as long as it is open; None where another has it."""
        path = self._purposed(purpose)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from putting another file in the place; SQLite's own locks go with the file. Raises `LockedError`."""
        # Opened each time, since a lock that stays open is shared with forked children.
        descriptor = self._open_lock()
        try:
            _acquire(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            # Somebody has tidied up.
            self.path.parent.mkdir(mode=0o700)
            return self._open_lock()

    def what_is_wrong(self) -> str | None:
        """Say why the path cannot be used as it is; None: it can, or is free."""
        return _what_is_wrong(self.path)

    def prepare(self) -> None:
        """Make sure that there is a file, which nobody else can read."""
        if self.inode() == 0 or _what_is_wrong(self._journal) is not None:
            # A journal without its file would be played back into the new one.
            _remove(self._journal)
        if self.inode() == 0:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        elif self.path.stat().st_mode & 0o777 != 0o600:
            self.path.chmod(0o600)

    def set_aside(self, most_bytes: float) -> None:
        """Rename what is at the path, in place of what was set aside before; delete a file that is too large."""
        _remove(self._journal)
        _remove(self.aside)
        if _size(self.path) > most_bytes:
            _remove(self.path)
        elif self.inode():
            self.path.replace(self.aside)

    def aside_bytes(self) -> int:
        """Return the size of what was set aside."""
        return _size(self.aside)

    def free_bytes(self) -> int:
        """Return how many bytes are free on the disk."""
        found = os.statvfs(self.path.parent)
        return found.f_bavail * found.f_frsize

    def remove(self) -> None:
        """Delete all that was stored."""
        for path in (self.path, self._journal, self.aside):
            _remove(path)


def _acquire(descriptor: int) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LockedError("another process holds the lock") from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _what_is_wrong(path: Path) -> str | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        return "it is not a file, or has other names"
    return None if found.st_uid == os.geteuid() else "it belongs to another user"


def _size(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
