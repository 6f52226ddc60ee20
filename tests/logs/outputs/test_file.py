"""Lines to a file: shared by processes, rotated, moved and deleted, and never lost or torn on the way."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.logs.outputs import file as module
from sage_fastapi_obs.logs.outputs.file import File
from sage_fastapi_obs.settings import LoggingSettings

LAID: dict[str, Any] = {"level": "info"}
HOUR_NS = 3600 * 1_000_000_000
MIDNIGHT_NS = 1_760_000_000 // 86400 * 86400 * 1_000_000_000


def notice(lost: int) -> bytes:
    return b'{"lost":%d}\n' % lost


class Written:
    """A file output, and what can be read back of all its files."""

    def __init__(self, folder: Path, *, now_ns: int = MIDNIGHT_NS, **settings: Any) -> None:
        self.path = folder / "lines.jsonl"
        self.now_ns = now_ns
        self.losses = Losses()
        self.settings = LoggingSettings(output=str(self.path), **settings)
        self.file = self.started()

    def started(self) -> File:
        file = File(self.settings, self.losses, notice, lambda: self.now_ns, print)
        file.open()
        return file

    def write(self, text: str, size: int = 0) -> None:
        self.file.write(LAID, b'{"text":"%s","x":"%s"}\n' % (text.encode(), b"x" * size))

    @property
    def rotated(self) -> list[Path]:
        return sorted(path for path in self.path.parent.glob("lines.jsonl.*") if path.suffix not in (".lock", ".keep"))

    def texts(self, path: Path | None = None) -> list[str]:
        return [json.loads(row)["text"] for row in (path or self.path).read_text().splitlines()]

    def all_texts(self) -> list[str]:
        return [text for path in (*self.rotated, self.path) for text in self.texts(path)]


WRITER = """
import sys, time
from sage_fastapi_obs.settings import LoggingSettings
from sage_fastapi_obs.logs.outputs.file import File
from sage_fastapi_obs.delivery.losses import Losses

path, name, lines, hours = sys.argv[1:]
settings = LoggingSettings(output=path, rotate_bytes=20000, keep_files=1)
losses = Losses()
file = File(settings, losses, lambda lost: b"", time.time_ns, print)
file.open()
sys.stdin.readline()
for number in range(int(lines)):
    file.write({}, b'{"writer":"%s","number":%d,"x":"%s"}\\n' % (name.encode(), number, b"x" * (number % 700)))
file.close(1)
assert losses.of("file") == 0
"""
LINES = 4000


def test_four_processes_that_rotate_one_file_lose_and_tear_no_line(tmp_path: Path) -> None:
    """Each line of each is there once, whole and in order, in files that are hardly longer than they may be."""
    path = tmp_path / "lines.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name, str(LINES), "1"], stdin=subprocess.PIPE) for name in "abcd"]
    time.sleep(0.5)
    for writer in writers:
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    assert [writer.wait(PATIENCE_SECONDS) for writer in writers] == [0] * 4
    files = [found for found in tmp_path.iterdir() if not found.name.endswith(".lock")]
    rows = [json.loads(row) for found in files for row in found.read_bytes().splitlines()]
    assert Counter((row["writer"], row["number"]) for row in rows) == Counter(
        (name, number) for name in "abcd" for number in range(LINES)
    )
    sizes = [found.stat().st_size for found in files]
    assert len(files) > sum(sizes) / 20000 / 4
    assert all(found.read_bytes().endswith(b"\n") for found in files)


def test_one_process_never_exceeds_the_size(tmp_path: Path) -> None:
    """Files are rotated before they would be too long, and hold all lines in order; a longer line has one of its own."""
    written = Written(tmp_path, rotate_bytes=5000, keep_files=1000)
    for number in range(400):
        written.write(str(number), number % 300)
    written.write("long", 9000)
    written.write("last")
    assert written.all_texts() == [*map(str, range(400)), "long", "last"]
    sizes = [path.stat().st_size for path in written.rotated]
    assert sorted(sizes)[-2] <= 5000 < sizes[-1]
    assert sum(size > 4000 for size in sizes) > len(sizes) - 4


def test_the_oldest_files_are_deleted(tmp_path: Path) -> None:
    """So many are kept as the settings say, but for those that another process may be writing to still."""
    written = Written(tmp_path, rotate_bytes=4096, keep_files=2)
    other = tmp_path / "lines.jsonl.2025.keep"
    other.write_text("")
    for number in range(6):
        written.now_ns += HOUR_NS
        written.write(str(number), 4000)
    assert len(written.rotated) == 5
    for path in written.rotated[:3]:
        os.utime(path, (time.time() - 60, time.time() - 60))
    written.write("6", 4000)
    assert [written.texts(path) for path in written.rotated] == [["3"], ["4"], ["5"]]
    assert other.exists()


def test_files_end_with_their_period(tmp_path: Path) -> None:
    """With twelve hours, at noon and at midnight in UTC; an empty file goes on."""
    written = Written(tmp_path, rotate_hours=12, now_ns=MIDNIGHT_NS + HOUR_NS)
    written.file.look_at = 0
    written.now_ns += 12 * HOUR_NS
    written.write("afternoon")
    os.utime(written.path, ns=(written.now_ns, written.now_ns))
    for hours, text in ((10, "evening"), (1, "midnight"), (1, "night")):
        written.file.look_at = 0
        written.now_ns += hours * HOUR_NS
        written.write(text)
    assert [written.texts(path) for path in (*written.rotated, written.path)] == [
        ["afternoon", "evening"],
        ["midnight", "night"],
    ]
    assert written.rotated[0].name == "lines.jsonl.20251010T000000.000000"


def test_a_file_of_an_earlier_period_ends_at_the_start(tmp_path: Path) -> None:
    """A service that was down at midnight begins a new file, and one that was not goes on with its own."""
    written = Written(tmp_path, rotate_hours=24)
    written.write("yesterday")
    written.file.close(1)
    os.utime(written.path, ns=(MIDNIGHT_NS, MIDNIGHT_NS))
    for hours, text in ((23, "today"), (25, "tomorrow")):
        written.now_ns = MIDNIGHT_NS + hours * HOUR_NS
        written.file = written.started()
        written.write(text)
        written.file.close(1)
        os.utime(written.path, ns=(written.now_ns, written.now_ns))
    assert [written.texts(path) for path in (*written.rotated, written.path)] == [["yesterday", "today"], ["tomorrow"]]


def test_two_rotations_at_one_moment_have_two_names(tmp_path: Path) -> None:
    """No rotated file takes the place of another."""
    written = Written(tmp_path, rotate_bytes=4096)
    for number in range(4):
        written.write(str(number), 4000)
    assert written.all_texts() == ["0", "1", "2", "3"]


def test_a_file_that_was_moved_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As logrotate does it: lines go to a new file soon, and until then to the moved one."""
    written = Written(tmp_path)
    written.write("before")
    moved = written.path.rename(tmp_path / "moved")
    written.write("meanwhile")
    written.file.look_at = 0
    written.write("after")
    assert (written.texts(moved), written.texts()) == (["before", "meanwhile"], ["after"])


def test_moves_are_noticed_within_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything being due, the path is looked at again and again."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    written = Written(tmp_path)
    written.write("before")
    written.path.unlink()

    def came() -> bool:
        written.write("after")
        return written.path.exists()

    assert until(came)


def test_a_copied_and_truncated_file_goes_on(tmp_path: Path) -> None:
    """The other way of logrotate: lines go to the new end of the file, without a hole."""
    written = Written(tmp_path, rotate_bytes=8000)
    for _ in range(3):
        written.write("before", 2000)
    os.truncate(written.path, 0)
    written.write("after")
    assert written.texts() == ["after"]


def test_a_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    """While there is nowhere to write, lines are counted as lost; afterwards a word of it comes first."""
    folder = tmp_path / "logs"
    folder.mkdir()
    written = Written(folder)
    written.write("before")
    written.path.unlink()
    folder.rmdir()
    for _ in range(3):
        written.file.look_at = 0
        with pytest.raises(FileNotFoundError):
            written.write("lost")
    with pytest.raises(FileNotFoundError):
        written.write("lost")
    folder.mkdir()
    written.file.look_at = 0
    written.write("after")
    assert [json.loads(row) for row in written.path.read_text().splitlines()] == [{"lost": 4}, {"text": "after", "x": ""}]
    assert written.losses.counts["file", "failed"] == 4


def test_a_file_that_cannot_be_rotated_is_written_to(tmp_path: Path) -> None:
    """The failure is raised to where failures are counted, and the line is there."""
    written = Written(tmp_path, rotate_bytes=4096)
    written.write("before", 4000)
    Path(f"{written.path}.lock").mkdir()
    with pytest.raises(IsADirectoryError):
        written.write("after", 4000)
    assert written.texts() == ["before", "after"]
    assert written.losses.of("file") == 0


def test_nobody_waits_for_another_process_that_rotates(tmp_path: Path) -> None:
    """One that was stopped in the middle of it keeps nobody from writing."""
    written = Written(tmp_path, rotate_bytes=4096)
    with Path(f"{written.path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for number in range(3):
            written.write(str(number), 4000)
    assert written.texts() == ["0", "1", "2"]
    written.file.look_at = 0
    written.write("3")
    assert written.texts() == ["3"]


def test_a_file_that_another_process_has_rotated_is_not_rotated_again(tmp_path: Path) -> None:
    """Who comes late finds another file at the path, and goes on with that."""
    written = Written(tmp_path, rotate_bytes=4096)
    late = written.started()
    late.write(LAID, b'{"text":"early"}\n')
    written.write("0", 4000)
    written.write("1", 100)
    late.write(LAID, b'{"text":"late"}\n')
    late.look_at = 0
    late.write(LAID, b'{"text":"later","x":"%s"}\n' % (b"x" * 100))
    assert len(written.rotated) == 1
    assert written.texts() == ["1", "later"]
    assert written.texts(written.rotated[0]) == ["early", "0", "late"]


def test_who_comes_to_the_lock_late_rotates_nothing(tmp_path: Path) -> None:
    """Between the look that finds a file full and the lock, another process may have rotated it."""
    written = Written(tmp_path, rotate_bytes=4096)
    late = written.started()
    written.write("0", 4000)
    written.write("1", 100)
    late._rotate()
    assert len(written.rotated) == 1
    late.write(LAID, b'{"text":"late"}\n')
    assert written.texts() == ["1", "late"]


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("missing/lines", "there is no folder"),
        ("file/lines", "there is no folder"),
        ("", "this is a folder: name a file in it"),
    ],
)
def test_a_path_that_cannot_be_opened_says_what_to_change(output: str, advice: str, tmp_path: Path) -> None:
    """Names the setting, the path and the way out."""
    (tmp_path / "file").write_text("")
    settings = LoggingSettings(output=str(tmp_path / output))
    with pytest.raises(SettingsError, match=rf"logging\.output: {tmp_path}.*{advice}"):
        File(settings, Losses(), notice, time.time_ns, print).open()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may become somebody else")
def test_a_folder_without_permission_says_so(tmp_path: Path) -> None:
    """As does one that is full of links in a circle, in the system's words."""
    file = File(LoggingSettings(output=str(tmp_path / "lines")), Losses(), notice, time.time_ns, print)
    os.seteuid(65534)
    try:
        with pytest.raises(SettingsError, match="may not write there: change the permissions"):
            file.open()
    finally:
        os.seteuid(0)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SettingsError, match="cannot be opened: Too many levels"):
        File(LoggingSettings(output=str(tmp_path / "loop")), Losses(), notice, time.time_ns, print).open()
