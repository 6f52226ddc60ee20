"""Blocks of numbers one after the other in a mapped file: each says once what its numbers are, and is written again and again.

A block is seen whole or not at all, also when its writer is killed in the middle: it has two copies of its numbers, and a count
of writes that says which one is valid. A reader that meets a write reads again.

    length, count of writes, width, bytes of the description | description | first copy | second copy
"""

from array import array
from collections.abc import Iterator, Sequence
from operator import itemgetter
from threading import RLock

from sage_fastapi_obs.workers.mapped_file import PAGE_BYTES, MappedFile

_HEAD = 4
"""Numbers of eight bytes before the description."""
_MOST_READS = 1_000


class Block:
    """One block; `numbers` and `floats` are views of the whole file."""

    __slots__ = ("_file", "_first", "_head", "description", "width")

    def __init__(self, file: MappedFile, head: int, description: bytes, width: int) -> None:
        """`head`: place of its head, in units of eight bytes."""
        self._file, self._head = file, head
        self.description = description
        """What the numbers are."""
        self.width = width
        """How many they are."""
        self._first = head + _HEAD + (len(description) + 7) // 8

    @property
    def place(self) -> int:
        """Where it begins in the file, in units of eight bytes."""
        return self._head

    @property
    def version(self) -> int:
        """How often it was written; 0: it has no numbers yet."""
        return self._file.numbers[self._head + 1]

    def write(self, values: "array[float]") -> None:
        """Replace all numbers; by one writer at a time."""
        version = self.version
        start = self._first + (version + 1) % 2 * self.width
        self._file.floats[start : start + self.width] = memoryview(values)
        # Not before the numbers: up to here, the other copy is valid.
        self._file.numbers[self._head + 1] = version + 1

    def read(self) -> "array[float]":
        """Return all numbers as they were at one moment; zeros before the first write."""
        for _ in range(_MOST_READS):
            version = self.version
            start = self._first + version % 2 * self.width
            values = array("d", self._file.floats[start : start + self.width])
            if self.version == version:
                return values
        raise OSError(f"{self._file.path} changes too fast")


class Blocks:
    """All blocks of a file, from some place on to its end."""

    def __init__(self, file: MappedFile, start: int, end: int) -> None:
        """`start`: in bytes, where the first block is. `end`: place in `file.numbers` of the end of the last one, in bytes."""
        self._file, self._start, self._next, self._end = file, start, start, end
        self._appending = RLock()
        self._is_appending = False
        self._versions: list[int] = []
        """Where the counts of writes are of the blocks that have been yielded."""

    def again(self) -> "Blocks":
        """Return the same blocks, to be read from the first one on."""
        return Blocks(self._file, self._start, self._end)

    def versions(self) -> Sequence[int]:
        """Return the versions of all blocks that `new` has yielded, in their order: much faster than to ask each."""
        if len(self._versions) < 2:
            return [self._file.numbers[place] for place in self._versions]
        found: tuple[int, ...] = itemgetter(*self._versions)(self._file.numbers)
        return found

    def at(self, place: int) -> Block:
        """Return the block that begins at a place, in units of eight bytes; raises `OSError` where there can be none."""
        start, end = place * 8, self._file.numbers[self._end]
        if end > self._file.size:
            self._file.remap()
        if not self._start <= start < end <= self._file.size:
            raise OSError(f"{self._file.path} has no block there")
        return self._block(start, end)

    def _block(self, start: int, end: int) -> Block:
        head = start // 8
        words, _, width, length = self._file.numbers[head : head + _HEAD]
        if words != _HEAD + (length + 7) // 8 + 2 * width or start + words * 8 > end:
            raise OSError(f"{self._file.path} is damaged")
        text = start + _HEAD * 8
        return Block(self._file, head, bytes(self._file.bytes[text : text + length]), width)

    def append(self, description: bytes, values: Sequence[float]) -> Block:
        """Add a block with its first numbers.

        Raises `OSError` where there is no room for it, and `BlockingIOError` where this very thread is adding one: the garbage
        collector ends requests at any moment.
        """
        with self._appending:
            if self._is_appending:
                raise BlockingIOError("a block is being added")
            self._is_appending = True
            try:
                return self._append(description, values)
            finally:
                self._is_appending = False

    def _append(self, description: bytes, values: Sequence[float]) -> Block:
        start = self._file.numbers[self._end] or self._next
        words = _HEAD + (len(description) + 7) // 8 + 2 * len(values)
        end = start + words * 8
        if end > self._file.size:
            self._file.grow((max(end, self._file.size * 5 // 4) + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES)
        head = start // 8
        numbers = self._file.numbers
        numbers[head], numbers[head + 1], numbers[head + 2], numbers[head + 3] = words, 0, len(values), len(description)
        self._file.bytes[start + _HEAD * 8 : start + _HEAD * 8 + len(description)] = description
        block = Block(self._file, head, description, len(values))
        block.write(array("d", values))
        # Others look no further than this.
        numbers[self._end] = end
        return block

    def new(self) -> Iterator[Block]:
        """Yield the blocks that whoever writes the file has added since the last call; raises `OSError` for rubbish."""
        end = self._file.numbers[self._end]
        if end > self._file.size:
            self._file.remap()
        if end > self._file.size or end % 8:
            raise OSError(f"{self._file.path} is damaged")
        while self._next < end:
            block = self._block(self._next, end)
            self._versions.append(block.place + 1)
            yield block
            self._next += self._file.numbers[block.place] * 8
