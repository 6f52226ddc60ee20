"""A file that one process writes in mapped memory and others read; what was written stays when the process is killed.

Space is allocated before it is used: a write to a map for which a file system has no room left kills the process. Numbers are
written through views of eight bytes, which no reader sees half of.
"""

import mmap
import os
from pathlib import Path

from sage_fastapi_obs.workers.file_lock import open_file

PAGE_BYTES = 65_536


class MappedFile:
    """The map of a file, and its views by bytes, by whole numbers and by floating-point numbers."""

    def __init__(self, path: Path, *, writable: bool, size: int = 0) -> None:
        """Open a file. `writable`: create it if it is not there, private, and allocate `size` bytes; raises `OSError`."""
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self.path = path
        self._writable = writable
        self.descriptor = open_file(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if writable and os.fstat(self.descriptor).st_size < size:
                _allocate(self.descriptor, size)
            self._map()
        except BaseException:
            os.close(self.descriptor)
            raise

    def _map(self) -> None:
        self.size = os.fstat(self.descriptor).st_size
        access = mmap.ACCESS_WRITE if self._writable else mmap.ACCESS_READ
        if not self.size:
            raise OSError(f"{self.path} is empty")
        self.bytes = memoryview(mmap.mmap(self.descriptor, self.size, access=access))
        whole = self.bytes[: self.size // 8 * 8]
        self.numbers, self.floats = whole.cast("Q"), whole.cast("d")

    def grow(self, size: int) -> None:
        """Allocate more, and map it; views that were taken before stay as they are. Raises `OSError`."""
        if size > self.size:
            _allocate(self.descriptor, size)
            self._map()

    def remap(self) -> None:
        """Map what the writer has allocated since."""
        if os.fstat(self.descriptor).st_size != self.size:
            self._map()

    def close(self) -> None:
        """Close the file, and with it the locks on it; the map goes when nobody has a view of it any more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _allocate(descriptor: int, size: int) -> None:
    """Make a file longer, with space for all of it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    # macOS has no such call; what was written has its space.
    start = os.fstat(descriptor).st_size
    while start < size:
        start += os.pwrite(descriptor, bytes(min(PAGE_BYTES, size - start)), start)
