"""Lines that are written many at a time: none is lost, torn, doubled, or late."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.logs.outputs.batching import LONG_BYTES, MOST_LINES, BatchingOutput, _groups
from sage_fastapi_obs.logs.outputs.file import File
from sage_fastapi_obs.logs.outputs.stream import Stream
from sage_fastapi_obs.settings import LoggingSettings

NEVER = 3600.0
"""A moment that does not pass during a test."""


def notice(lost: int) -> bytes:
    return b'{"lost":%d}\n' % lost


class Gathered:
    """A file that lines are gathered for, and what has failed."""

    def __init__(self, path: Path, seconds: float = NEVER, **settings: int) -> None:
        self.path = path
        self.failed: list[Exception] = []
        self.losses = Losses()
        self.gather = BatchingOutput(
            File(LoggingSettings(output=str(path), **settings), self.losses, notice, time.time_ns, self.failed.append),
            seconds,
            self.failed.append,
        )
        self.gather.open()

    def write(self, *numbers: int, size: int = 10) -> None:
        for number in numbers:
            self.gather.write({}, b'{"number":%d,"padding":"%s"}\n' % (number, b"x" * size))

    @property
    def written(self) -> list[int]:
        """The numbers of all lines, in all files, that can be read."""
        rotated = sorted(path for path in self.path.parent.glob("lines.*") if path.suffix != ".lock")
        return [json.loads(row)["number"] for path in [*rotated, self.path] for row in path.read_text().splitlines()]


def test_lines_are_written_after_a_moment(tmp_path):
    """Nobody asks, and they are there; again and again."""
    gathered = Gathered(tmp_path / "lines", seconds=0.01)
    for count in (2, 4, 6):
        gathered.write(count - 2, count - 1)
        assert until(lambda count=count: len(gathered.written) == count)
    gathered.gather.close(1)
    assert gathered.written == [0, 1, 2, 3, 4, 5]


def test_nothing_is_written_before_the_moment(tmp_path):
    """What has gathered waits, and a flush writes it once."""
    gathered = Gathered(tmp_path / "lines")
    gathered.write(1, 2, 3)
    assert gathered.written == []
    gathered.gather.flush()
    gathered.gather.flush()
    assert gathered.written == [1, 2, 3]
    gathered.gather.close(1)


def test_a_close_writes_the_rest(tmp_path):
    """At the end nothing is left, and the thread ends."""
    gathered = Gathered(tmp_path / "lines", seconds=0.01)
    gathered.write(*range(10))
    thread = gathered.gather.thread
    gathered.gather.close(1)
    assert gathered.written == [*range(10)]
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_a_second_life_is_like_the_first(tmp_path):
    """What comes after the end is nobody's, and keeps no line of the next life waiting."""
    gathered = Gathered(tmp_path / "lines", seconds=0.01)
    gathered.write(1)
    gathered.gather.close(1)
    gathered.write(2)
    gathered.gather.open()
    gathered.write(3)
    assert until(lambda: gathered.written == [1, 3])
    gathered.gather.close(1)
    assert gathered.written == [1, 3]


def test_a_thread_that_comes_late_writes_nothing_into_the_next_life(tmp_path):
    """It looks at the lines between the opening of the file and the first line."""
    gathered = Gathered(tmp_path / "lines")
    gathered.write(1)
    gathered.gather.close(1)
    gathered.write(2)
    gathered.gather.output.open()
    gathered.gather.flush()
    gathered.gather.open()
    gathered.write(3)
    gathered.gather.close(1)
    assert gathered.written == [1, 3]


def test_many_lines_and_long_ones_do_not_wait(tmp_path):
    """What gathers is bounded, in lines and in bytes."""
    gathered = Gathered(tmp_path / "lines")
    gathered.write(*range(MOST_LINES - 1))
    assert gathered.written == []
    gathered.write(MOST_LINES - 1)
    assert gathered.written == [*range(MOST_LINES)]
    gathered.write(-1, size=LONG_BYTES)
    assert gathered.written[-1] == -1
    gathered.gather.close(1)


def test_threads_lose_nothing(tmp_path):
    """Four threads write while a fifth flushes: every line once, each thread's in its order."""
    gathered = Gathered(tmp_path / "lines", seconds=0.001)

    def write(thread: int) -> None:
        for number in range(2_000):
            gathered.write(thread * 10_000 + number)

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        gathered.gather.flush()
    for thread in threads:
        thread.join()
    gathered.gather.close(5)
    for thread in range(4):
        own = [number for number in gathered.written if number // 10_000 == thread]
        assert own == [thread * 10_000 + number for number in range(2_000)]
    assert len(gathered.written) == 8_000


def test_losses_are_counted_by_the_line():
    """A full disk loses a whole group at once, and each of its lines is counted."""
    losses, failed = Losses(), []
    gather = BatchingOutput(Stream("/dev/full", losses, notice, failed.append), NEVER, failed.append)
    gather.open()
    for _ in range(7):
        gather.write({}, b"x" * 1_000 + b"\n")
    gather.flush()
    assert losses.counts["file", "failed"] == 7
    assert [type(error) for error in failed][:1] == [OSError]
    gather.close(0.1)


def test_a_rotating_file_is_not_made_too_large_by_a_group(tmp_path):
    """What is written together stays within the size at which a file ends."""
    gathered = Gathered(tmp_path / "lines", rotate_bytes=4096, keep_files=1000)
    gathered.write(*range(400), size=50)
    gathered.gather.close(1)
    assert gathered.written == [*range(400)]
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert len(files) > 5
    assert all(path.stat().st_size <= 4096 for path in files)


@given(st.lists(st.binary(min_size=1, max_size=40)), st.integers(1, 100))
def test_groups_are_the_lines_in_order(lines: list[bytes], most: int):
    """None is missing, and a group is within its size unless it is one line."""
    groups = [*_groups(lines, most)]
    assert [line for group in groups for line in group] == lines
    assert all(len(group) == 1 or sum(map(len, group)) <= most for group in groups)
    assert all(groups)


async def test_lines_of_failures_go_at_once(tmp_path):
    """An error's line, and all before it, are there when the call returns: it may be the last thing this process does."""
    path = tmp_path / "lines.jsonl"
    obs = Observability(Settings(logging={"output": str(path), "gather_seconds": 1.0}))
    async with obs:
        obs.logs.emit(0, "info", "before", "x", {})
        assert path.read_text() == ""
        obs.logs.emit(0, "error", "failed", "x", {})
        assert [json.loads(row)["message"] for row in path.read_text().splitlines()][-2:] == ["before", "failed"]


FORKED = """
import os, sys
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(logging={"gather_seconds": 1.0}))
obs.start()
obs.logs.emit(0, "info", "parent", "x", {})
pid = os.fork()
if not pid:
    obs.logs.emit(0, "info", "child", "x", {})
    obs.logs.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_writes_only_its_own():
    """What the parent has gathered is the parent's to write."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    messages = [json.loads(row)["message"] for row in done.stdout.splitlines()]
    assert sorted(messages) == ["child", "observability started", "parent"]
