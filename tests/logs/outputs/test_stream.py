"""Lines to a pipe, a socket, a terminal or a full disk: nobody waits, nothing is torn, and what is lost is counted exactly."""

import contextlib
import fcntl
import json
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PATIENCE_SECONDS, no_threads, times, until

from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.logs.outputs.stream import BACKLOG_BYTES, BACKLOG_LINES, Stream

LAID: dict[str, Any] = {"level": "info"}


def line(number: int, size: int = 100) -> bytes:
    """Make a line of at least some bytes."""
    return b'{"number":%d,"padding":"%s"}\n' % (number, b"x" * size)


def notice(lost: int) -> bytes:
    return b'{"lost":%d}\n' % lost


class Wire:
    """A stream whose other end is held here, and the numbers of the lines that were written to it."""

    def __init__(self, writes: int, reads: int) -> None:
        self.reads = reads
        self.file = os.fdopen(writes, "w")
        self.losses = Losses()
        self.failed: list[Exception] = []
        self.received = b""
        self.sent = 0
        self.stream = Stream("stdout", self.losses, notice, self.failed.append)
        with contextlib.redirect_stdout(self.file):
            self.stream.open()

    def write(self, size: int = 100) -> None:
        self.sent += 1
        with contextlib.suppress(OSError):
            self.stream.write(LAID, line(self.sent, size))

    def read(self, most: int) -> None:
        os.set_blocking(self.reads, False)
        with contextlib.suppress(BlockingIOError):
            while most > 0 and (read := os.read(self.reads, min(most, 65536))):
                self.received += read
                most -= len(read)

    @property
    def reported_missing(self) -> int:
        """How many lines are missing, by the gap lines that the reader has."""
        whole = self.received[: self.received.rfind(b"\n") + 1]
        return sum(json.loads(row)["lost"] for row in whole.splitlines() if row.startswith(b'{"lost"'))

    def finish(self) -> None:
        """Close the stream with a reader that reads to the end."""
        closing = threading.Thread(target=self.stream.close, args=(PATIENCE_SECONDS,))
        closing.start()
        while closing.is_alive():
            self.read(1 << 20)
            closing.join(0.0005)
        self.file.close()
        self.read(1 << 40)
        os.close(self.reads)

    def check(self) -> None:
        """Hold what came against what was sent: whole lines in order, and a true word at each gap."""
        last = 0
        rows = self.received.split(b"\n")
        assert rows.pop() == b""
        gap = 0
        for row in map(json.loads, rows):
            if "lost" in row:
                gap += row["lost"]
            else:
                assert row["number"] == last + gap + 1
                last, gap = row["number"], 0
        assert last + gap == self.sent
        assert sum("number" in json.loads(row) for row in rows) + self.losses.lost_by("stdout") == self.sent


def pipe() -> Wire:
    reads, writes = os.pipe()
    return Wire(writes, reads)


def socket_pair() -> Wire:
    reads, writes = socket.socketpair()
    return Wire(writes.detach(), reads.detach())


def terminal() -> Wire:
    reads, writes = pty.openpty()
    attributes = termios.tcgetattr(writes)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(writes, termios.TCSANOW, attributes)
    return Wire(writes, reads)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from([0, 100, 4000, 4096, 5000, 60_000, 250_000])),
        st.tuples(st.just("read"), st.sampled_from([1, 4096, 70_000, 3_000_000])),
    ),
    max_size=60,
)


@pytest.mark.parametrize("wire", [pipe, socket_pair])
@settings(max_examples=times(40), deadline=None)
@given(steps=STEPS)
def test_every_line_arrives_whole_or_is_missed_at_its_place(wire: Any, steps: list[tuple[str, int]]) -> None:
    """However reader and writer take turns, lines are whole and in order, and each gap says how many are missing."""
    wired = wire()
    for step, amount in steps:
        getattr(wired, step)(amount)
    wired.finish()
    wired.check()


@pytest.mark.parametrize("wire", [pipe, socket_pair, terminal])
def test_nobody_waits_for_a_reader_that_does_not_read(wire: Any) -> None:
    """Far more is written than fits; the writer goes on, the rest is counted, and the reader finds out what is missing."""
    wired = wire()
    for _ in range(3 * BACKLOG_BYTES // 1000):
        wired.write(1000)
    dropped = wired.losses.counts["stdout", "full"]
    assert dropped > BACKLOG_BYTES // 1000
    # Without another line being written, the reader gets a gap line; from a terminal in several words, as its driver takes more
    # from what was written whenever it comes to it, though nobody reads.
    assert until(lambda: wired.read(1 << 20) or wired.reported_missing == dropped)
    if wire is terminal:
        # Closing the last descriptor of a terminal takes away what was not read, and reads fail from then on.
        wired.stream.close(1.0)
        os.close(wired.reads)
        wired.file.close()
        wired.check()
        return
    assert wired.losses.lost_by("stdout") == dropped
    wired.finish()
    wired.check()


def test_short_lines_are_limited_by_number() -> None:
    """A backlog of very many short lines costs more memory than its bytes."""
    wired = pipe()
    for _ in range(65_536 // 20 + 2 * BACKLOG_LINES):
        wired.write(0)
    assert wired.stream.waiting_lines == BACKLOG_LINES
    assert wired.losses.lost_by("stdout") > 0
    wired.finish()
    wired.check()


def test_what_is_inherited_keeps_waiting() -> None:
    """The shared description of a pipe is not made non-blocking: other processes write there too."""
    reads, writes = os.pipe()
    wired = Wire(writes, reads)
    for _ in range(2000):
        wired.write()
    assert not fcntl.fcntl(writes, fcntl.F_GETFL) & os.O_NONBLOCK
    wired.finish()
    wired.check()


def test_a_pipe_that_somebody_made_non_blocking() -> None:
    """One that is full and cannot be waited for is treated like any other."""
    reads, writes = socket.socketpair()
    writes.setblocking(False)
    wired = Wire(writes.detach(), reads.detach())
    for _ in range(2000):
        wired.write(1000)
    wired.finish()
    wired.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may become somebody else")
def test_a_process_that_has_changed_its_user(tmp_path: Path) -> None:
    """It may not open its pipe anew, and does not wait all the same."""
    source = """
import os, sys
from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.logs.outputs.stream import Stream
os.setgroups([]), os.setgid(65534), os.setuid(65534)
losses = Losses()
stream = Stream("stdout", losses, lambda lost: b'{"lost":%d}\\n' % lost, print)
stream.open()
assert not stream._is_ours
for number in range(3000):
    stream.write({}, b'{"number":%d,"x":"%s"}\\n' % (number, b"x" * 1000))
print(losses.counts["stdout", "full"], file=sys.stderr, flush=True)
stream.close(300)
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        dropped = int(process.stderr.readline())
        rows = [json.loads(row) for row in process.stdout]
    assert process.returncode == 0
    assert dropped > 1000
    assert [row["lost"] for row in rows if "lost" in row] == [dropped]
    assert [row["number"] for row in rows if "number" in row] == list(range(3000 - dropped))


def test_several_writers_and_a_slow_reader() -> None:
    """Lines longer than a pipe takes at once, from several threads, are whole."""
    wired = pipe()
    stop = threading.Event()

    def write(number: int) -> None:
        for count in range(60):
            wired.stream.write(LAID, b'{"writer":%d,"count":%d,"x":"%s"}\n' % (number, count, b"y" * 9000))
            time.sleep(0.0005)

    def read() -> None:
        while not stop.is_set():
            wired.read(30_000)
            time.sleep(0.002)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    wired.finish()
    rows = [json.loads(row) for row in wired.received.splitlines()]
    written = [row for row in rows if "writer" in row]
    assert len(written) + wired.losses.lost_by("stdout") == 240
    for number in range(4):
        counts = [row["count"] for row in written if row["writer"] == number]
        assert counts == sorted(set(counts))


def test_a_reader_that_is_gone() -> None:
    """Every line is a failure that is counted; nothing waits, also when something did before."""
    wired = pipe()
    for _ in range(1000):
        wired.write()
    assert wired.stream.waiting_lines
    os.close(wired.reads)
    assert until(lambda: wired.stream._flusher is None)
    waited = wired.losses.counts["stdout", "failed"]
    assert waited > 0
    with pytest.raises(BrokenPipeError):
        wired.stream.write(LAID, line(1))
    assert wired.losses.counts["stdout", "failed"] == waited + 1
    wired.stream.close(5.0)
    assert wired.losses.counts["stdout", "shutdown"] == 0
    wired.file.close()


def test_without_a_thread_the_next_line_takes_the_backlog_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits, nothing is lost, and a thread is taken as soon as there is one."""
    monkeypatch.setattr("sage_fastapi_obs.threads.RETRY_SECONDS", 0.0)
    wired = pipe()
    with no_threads():
        for _ in range(1000):
            wired.write()
        assert wired.stream.waiting_lines
        wired.read(1 << 20)
        wired.write()
        waiting = wired.stream.waiting_lines
    assert waiting < 1000 - 65_536 // 130
    assert wired.failed
    wired.write()
    assert until(lambda: wired.read(1 << 20) or not wired.stream.waiting_lines)
    wired.finish()
    wired.check()
    assert wired.losses.lost_by("stdout") == 0


def test_closing_takes_no_longer_than_it_may() -> None:
    """What the reader has not taken by then is counted, and the rest is in the pipe."""
    wired = pipe()
    for _ in range(2000):
        wired.write()
    wired.stream.close(0.05)
    wired.file.close()
    wired.read(1 << 20)
    os.close(wired.reads)
    whole = wired.received.count(b"\n")
    assert 0 < whole < 2000
    assert wired.losses.counts == {("stdout", "full"): 0, ("stdout", "failed"): 0, ("stdout", "shutdown"): 2000 - whole}


def test_a_full_disk_tears_no_line(tmp_path: Path) -> None:
    """A line that fits in half is completed before anything else once there is room; those between are counted."""
    path = tmp_path / "lines"
    source = """
import os, resource, signal, sys
from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.logs.outputs.stream import Stream
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
losses = Losses()
stream = Stream("stdout", losses, lambda lost: b'{"lost":%d}\\n' % lost, print)
stream.open()
failed = 0
def write(numbers):
    global failed
    for number in numbers:
        try:
            stream.write({}, b'{"number":%d,"x":"%s"}\\n' % (number, b"x" * 300))
        except OSError:
            failed += 1
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
write(range(10))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
write(range(10, 15))
print(failed, losses.counts["stdout", "failed"], file=sys.stderr)
stream.close(1)
"""
    with path.open("w") as out:
        done = subprocess.run([sys.executable, "-c", source], stdout=out, stderr=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    numbers = [row.get("number", -1) for row in rows]
    # The fourth line began within the limit; it is no loss, though its write has failed.
    assert numbers == [0, 1, 2, 3, -1, 10, 11, 12, 13, 14]
    assert rows[4] == {"lost": 6}
    assert done.stderr.split() == ["7", "6"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


CHILD = """
import asyncio, os, sys, time
from loguru import logger
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(logging={"shutdown_seconds": 60, "gather_seconds": 0}, store={"enabled": False}))
obs.start()
"""


def test_a_program_that_just_ends_has_written_its_lines() -> None:
    """What waits for a slow reader at the interpreter's exit is written by then."""
    source = f"""{CHILD}
for number in range(900):
    logger.info("x" * 900)
assert obs.logs.output.waiting_lines
os.write(2, b"ready\\n")
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline() == b"ready\n"
        rows = [json.loads(row) for row in process.stdout]
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")
    assert len(rows) == 901


def test_a_standard_output_that_is_closed_from_the_start(tmp_path: Path) -> None:
    """Every line is counted, and none goes to whatever has got the number since."""
    source = f"""{CHILD}
obs.status.close()
with open(sys.argv[1], "w") as other:
    assert other.fileno() == 1
    logger.info("said")
    logger.info("said again")
lost = obs.registry.get_sample_value
print(lost("observability_log_lines_dropped_total", {{"output": "stdout", "cause": "failed"}}), file=sys.stderr)
assert open(sys.argv[1]).read() == ""
"""
    command = f'exec \'{sys.executable}\' -c "$1" "$2" >&-'
    run = ["sh", "-c", command, "sh", source, str(tmp_path / "other")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "3"
    assert done.stderr.count("Logs failed (OSError") == 1


def test_a_forked_child_does_not_write_its_parents_backlog() -> None:
    """What waits is the parent's to write; the child's own lines come once, and its locks are free."""
    source = f"""{CHILD}
for number in range(600):
    logger.info("parent" + "x" * 900)
assert obs.logs.output.waiting_lines
lock = obs.logs.output.lock
pid = os.fork()
if not pid:
    assert not obs.logs.output.waiting_lines
    for number in range(5):
        logger.info("child")
    os.write(2, b"ready\\n")
    asyncio.run(obs.close())
    os._exit(0)
os.waitpid(pid, 0)
"""
    command = [sys.executable, "-W", "ignore", "-c", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline() == b"ready\n"
        rows = [json.loads(row)["message"] for row in process.stdout]
    assert process.returncode == 0
    assert sum(row.startswith("parent") for row in rows) == 600
    assert rows.count("child") == 5


def test_a_fork_while_another_thread_writes(tmp_path: Path) -> None:
    """A lock that is held at the moment of a fork does not stop the child."""
    source = f"""{CHILD}
import threading
held, go = threading.Event(), threading.Event()
def hold():
    with obs.logs.output.lock:
        held.set()
        go.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if not pid:
    logger.info("child")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
go.set()
"""
    command = [sys.executable, "-W", "ignore", "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    assert '"child"' in done.stdout


def test_a_handler_of_a_signal_may_log() -> None:
    """A signal that arrives while its own thread holds the lock does not stop it."""
    wired = pipe()

    def handle(*_: object) -> None:
        wired.write()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with wired.stream.lock:
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    wired.finish()
    wired.check()
    assert wired.sent == 1


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_a_named_pipe_by_its_path(fifo: Path) -> None:
    """It is opened without waiting for a reader, and written to without waiting for one that does not read."""
    losses = Losses()
    stream = Stream(str(fifo), losses, notice, print)
    with pytest.raises(OSError, match="No such device"):
        stream.open()
    reads = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    stream.open()
    for number in range(3000):
        stream.write(LAID, line(number, 1000))
    assert losses.counts["file", "full"] > 0
    stream.close(0.05)
    os.close(reads)


def test_nothing_happens_before_the_start_and_after_the_end() -> None:
    """Such lines are nobody's: not written, not counted, no failure."""
    losses = Losses()
    stream = Stream("stdout", losses, notice, print)
    stream.write(LAID, line(1))
    stream.close(1.0)
    stream.write(LAID, line(2))
    assert losses.lost_by("stdout") == 0
