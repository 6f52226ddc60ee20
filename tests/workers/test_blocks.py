"""Blocks of numbers in mapped memory: whole for every reader at every moment, also after a kill."""

import os
import random
import signal
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE_SECONDS, times, until

from sage_fastapi_obs.workers.blocks import Blocks
from sage_fastapi_obs.workers.mapped_file import MappedFile

START, END = 4_096, 7
WRITER = """
import sys
from array import array
from pathlib import Path
from sage_fastapi_obs.workers.blocks import Blocks
from sage_fastapi_obs.workers.mapped_file import MappedFile
file = MappedFile(Path(sys.argv[1]), writable=True, size=65_536)
blocks = Blocks(file, 4_096, 7)
written = [blocks.append(b'block', [0.0] * 64) for _ in range(3)]
for number in range(1_000_000_000):
    for block in written:
        block.write(array('d', [number]) * 64)
    if number % 50 == 0:
        blocks.append(b'more', [float(number)] * 64)
"""


def blocks_of(path: Path, *, writable: bool = True) -> Blocks:
    """Open the blocks of a file."""
    return Blocks(MappedFile(path, writable=writable, size=65_536), START, END)


@given(
    writes=st.lists(
        st.tuples(st.binary(max_size=40), st.lists(st.floats(allow_nan=False), max_size=30), st.integers(0, 3)), max_size=30
    )
)
def test_a_reader_has_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[bytes, list[float], int]]
) -> None:
    """Blocks of any description and width are found in their order, with their last numbers, also as the file grows."""
    path = tmp_path_factory.mktemp("blocks") / "file"
    own, other = blocks_of(path), blocks_of(path, writable=False)
    found, expected = [], []
    for description, values, more in writes:
        block = own.append(description, values)
        for number in range(more):
            values = [value + number for value in values]
            block.write(array("d", values))
        expected.append((description, values, 1 + more))
        found += other.new()
    assert [(block.description, block.read().tolist(), block.version) for block in found] == expected
    assert [*other.new()] == []


def test_a_block_grows_the_file_with_space_for_it(tmp_path: Path) -> None:
    """A write to a map that the file system has no room for would kill: all space is allocated before."""
    own = blocks_of(tmp_path / "file")
    for _ in range(300):
        own.append(b"x" * 100, [1.0] * 50)
    found = (tmp_path / "file").stat()
    assert found.st_blocks * 512 >= found.st_size > 300 * 800


def test_no_reader_sees_half_a_write_also_after_a_kill(tmp_path: Path) -> None:
    """While a process writes the same number sixty-four times, and when it was killed, all sixty-four are one number."""
    for _ in range(times(5, 100)):
        path = tmp_path / str(random.random())
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) as writer:
            until(lambda path=path: path.exists() and path.stat().st_size, "file")
            reader = blocks_of(path, writable=False)
            found = until(lambda reader=reader: [*reader.new()], "block")
            for _ in range(2_000):
                assert all(len(set(block.read())) == 1 for block in found)
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait(PATIENCE_SECONDS)
        found += reader.new()
        assert all(len(set(block.read())) == 1 for block in found)
        # Whoever goes on, does so where the dead one has stopped.
        heir = blocks_of(path)
        assert len([*heir.new()]) == len(found)
        heir.append(b"heir", [7.0])
        assert [block.description for block in reader.new()] == [b"heir"]


@pytest.mark.parametrize("word", [0, 2, 3])
def test_a_damaged_file_is_refused(tmp_path: Path, word: int) -> None:
    """Lengths that do not fit are an error, and no endless walk."""
    own = blocks_of(tmp_path / "file")
    own.append(b"one", [1.0])
    own.append(b"two", [2.0])
    file = MappedFile(tmp_path / "file", writable=True)
    file.numbers[START // 8 + word] = 1 << 40
    with pytest.raises(OSError, match="damaged"):
        [*blocks_of(tmp_path / "file", writable=False).new()]
