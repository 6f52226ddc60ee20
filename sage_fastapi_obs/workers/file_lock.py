"""Files that stay open, and locks on them, which end with the process that has them, however it ends."""

import os
from pathlib import Path

try:
    import fcntl
except ImportError:
    # Windows, where each worker answers for itself.
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
OPEN_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
"""Of a file that is there to be locked: made if it is not there, and not followed if it is a link."""


_FIRST = 3
"""The first number above those of the standard streams."""


def open_file(path: Path, flags: int = OPEN_FLAGS) -> int:
    """Open a private file under a number that no standard stream has. Raises `OSError`.

    Where a program was started with a closed stream, the next file gets its number: all that is printed would go into it.
    """
    return above_standard_streams(os.open(path, flags, 0o600))


def above_standard_streams(descriptor: int) -> int:
    """Return a descriptor of the same file with another number, if it has that of a standard stream."""
    if descriptor >= _FIRST or fcntl is None:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock a file without waiting; False where another process has it. Raises `OSError` where it cannot be locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Tell whether a process has locked a file; False where there is none."""
    try:
        descriptor = open_file(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not lock(descriptor)
    finally:
        os.close(descriptor)


def unlock(descriptor: int) -> None:
    """Give the lock back."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
