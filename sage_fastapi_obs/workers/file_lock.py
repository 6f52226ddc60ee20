"""Locks on open files: they end with the process that has them, however it ends."""

import os

try:
    import fcntl
except ImportError:
    # Windows, where each worker answers for itself.
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
OPEN_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
"""Of a file that is there to be locked: made if it is not there, and not followed if it is a link."""


def lock(descriptor: int) -> bool:
    """Lock a file without waiting; False where another process has it. Raises `OSError` where it cannot be locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Give the lock back."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
