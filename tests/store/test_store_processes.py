"""Several processes write to one store at once, and are killed."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from stored import bytes_on_disk, file_of, opened, request
from support import times

from sage_fastapi_obs.store.reader import StoreReader
from sage_fastapi_obs.store.records import RequestQuery

WRITER = """
import sys, time
from pathlib import Path
from stored import failure, incompressible, new_store, request

folder, name, number, max_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = new_store(folder, max_bytes=max_bytes)
for each in range(number):
    make = failure if each % 10 == 0 else request
    details = incompressible(600 + each % 3000, each)
    store.keep(make(request_id=f"{name}-{each}", correlation_id=name, details=details))
    if each % 100 == 99:
        assert store.flush(300)
        print(each + 1, flush=True)
store.close(time.monotonic() + 300)
assert not {cause: n for cause, n in store.losses.counts.items() if n and cause != "evicted"}, store.losses.counts
"""


def writer(folder: Path, name: str, number: int, max_bytes: int = 256 << 20) -> subprocess.Popen:
    """Start a process that keeps requests, and prints how many are written."""
    path = os.pathsep.join(each for each in sys.path if each)
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(number), str(max_bytes)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def all_of(reader: StoreReader, correlation_id: str) -> list[str]:
    """Return the ids of all requests under a correlation id, oldest first."""
    found: list[str] = []
    before = None
    while True:
        page = reader.list(RequestQuery(id=correlation_id, before=before, limit=1000))
        found += [each.request.request_id for each in page.requests]
        before = page.next
        if before is None:
            return found[::-1]


def check(path: Path) -> None:
    """See that the database is sound, and that chunks, requests and sums belong together."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM requests WHERE chunk NOT IN (SELECT id FROM chunks)").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM chunks WHERE id NOT IN (SELECT chunk FROM requests)").fetchone() == (0,)
        for important, name in ((1, "important_bytes"), (0, "fine_bytes")):
            ((total,),) = connection.execute(
                "SELECT coalesce(sum(size_bytes), 0) FROM chunks WHERE important = ?", (important,)
            )
            assert connection.execute(f"SELECT {name} FROM state").fetchone() == (total,)


def test_four_processes_write_at_once(tmp_path: Path) -> None:
    """Nothing is lost, each process's requests are in their order, and no process met an error."""
    number = times(1000, 20_000)
    writers = [writer(tmp_path, f"w{each}", number) for each in range(4)]
    for each in writers:
        assert each.stdout.read().split()[-1] == str(number)
        assert each.wait() == 0
        each.stdout.close()
    reader = StoreReader.of_file(file_of(tmp_path))
    for each in range(4):
        assert all_of(reader, f"w{each}") == [f"w{each}-{n}" for n in range(number)]
    check(file_of(tmp_path))


@pytest.mark.parametrize("max_bytes", [256 << 20, 4 << 20], ids=["growing", "full"])
def test_writers_that_are_killed(tmp_path: Path, max_bytes: int) -> None:
    """After each kill of one of two writers the file is readable and consistent, and has all that was said to be written."""
    rnd = random.Random(5)
    for round_ in range(times(2, 25)):
        folder = tmp_path / str(round_ // 5)
        path = file_of(folder)
        names = [f"a{round_}", f"b{round_}"]
        writers = [writer(folder, name, 100_000, max_bytes) for name in names]
        written = [0, 0]
        for _ in range(rnd.randrange(1, 4)):
            written = [int(each.stdout.readline()) for each in writers]
        for which in rnd.sample([0, 1], 2):
            # The first is killed while both write, wherever they are; and so is the second while it writes alone.
            for _ in range(rnd.randrange(20_000)):
                pass
            writers[which].send_signal(signal.SIGKILL)
            writers[which].wait()
            assert bytes_on_disk(folder) <= max_bytes
            reader = StoreReader.of_file(path)
            assert reader.list(RequestQuery()).is_complete
        for each, name, number in zip(writers, names, written, strict=True):
            each.stdout.close()
            found = all_of(reader, name)
            if max_bytes > 100 << 20:
                assert found == [f"{name}-{n}" for n in range(len(found))]
                assert len(found) >= number
        check(path)
        with opened(folder, max_bytes=max_bytes) as store:
            store.keep(request(request_id=f"after{round_}"))
            assert store.reader.find(f"after{round_}")
            assert store.losses.counts["damaged"] == 0


def test_a_writer_that_was_killed_in_a_transaction(tmp_path: Path) -> None:
    """What it had half done is undone by whoever reads first, a command too, although a reader may not write."""
    with opened(tmp_path) as store:
        for _ in range(2000):
            store.keep(request())
        assert store.flush(60)
        if (pid := os.fork()) == 0:
            with store._database.transaction() as connection:
                connection.execute("PRAGMA cache_size = 1")
                connection.execute("UPDATE requests SET path = '/half'")
                os._exit(0)
        os.waitpid(pid, 0)
    path = file_of(tmp_path)
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0
    reader = StoreReader.of_file(path)
    assert not [each for each in reader.list(RequestQuery(limit=1000)).requests if each.request.path == "/half"]
    check(path)
