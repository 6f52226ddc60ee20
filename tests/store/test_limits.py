"""The limits of the store: bytes, age, whose requests go first, and a disk that is full."""

import os
import random
import resource
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest
from stored import MIB, Said, bytes_on_disk, failure, file_of, incompressible, new_store, opened, request, supplement
from support import until

from sage_fastapi_obs.store import batch_writer, eviction
from sage_fastapi_obs.store.records import LateFailure, RequestQuery, StoredRequest, Supplement
from sage_fastapi_obs.store.store import Store

DAY_NS = 86_400 * 10**9


class Sizes:
    """Watches, in a thread, how large the files of a folder get."""

    def __init__(self, folder: Path) -> None:
        self.largest = 0
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.0005):
            self.largest = max(self.largest, bytes_on_disk(self._folder))


def fill(store: Store, size_bytes: int, make: Callable = request, seed: int = 0) -> None:
    """Keep requests until so many bytes of details have been stored."""
    rnd = random.Random(seed)
    while size_bytes > 0:
        some = rnd.choice([200, 2000, 20_000, 200_000])
        store.keep(make(path="/filling", details=incompressible(some, rnd.getrandbits(32))))
        size_bytes -= some
        if len(store._queue) > 100:
            assert store.flush(300)
    assert store.flush(300)


@pytest.mark.parametrize("max_bytes", [8 * MIB, 16 * MIB])
def test_all_files_together_stay_within_the_limit(tmp_path: Path, max_bytes: int) -> None:
    """However much is kept, and whatever its size, database and journal together are never larger than `max_bytes`."""
    with opened(tmp_path, max_bytes=max_bytes) as store, Sizes(tmp_path) as sizes:
        fill(store, 3 * max_bytes, lambda **values: (failure if random.random() < 0.5 else request)(**values))
        assert store.losses.counts["evicted"] > 0
        assert len(store.reader.list(RequestQuery(limit=1000)).requests) > 10
    assert max_bytes / 2 < sizes.largest <= max_bytes
    assert {name: n for name, n in store.losses.counts.items() if n and name != "evicted"} == {}


def test_a_reader_left_open_makes_nothing_grow(tmp_path: Path) -> None:
    """While somebody reads on and on, files stay within the limit, requests are found, and what is lost is counted."""
    with opened(tmp_path, max_bytes=8 * MIB) as store, Sizes(tmp_path) as sizes:
        fill(store, 10 * MIB)
        reader = sqlite3.connect(f"file:{file_of(tmp_path)}?mode=ro", uri=True)
        cursor = reader.execute("SELECT * FROM requests")
        cursor.fetchone()
        store.keep(failure(request_id="meanwhile", details={"lines": [{"message": "why"}]}))
        assert not store.flush(0.5)
        assert store.reader.find("meanwhile")[0].lines == [{"message": "why"}]
        (key,) = [each.key for each in store.reader.list(RequestQuery(limit=1)).requests]
        assert store.reader.find(key)[0].request.request_id == "meanwhile"
        kept = 0
        while not store.losses.counts["busy"]:
            kept += 1
            store.keep(request(path="/held", details=incompressible(400_000, kept)))
            until(lambda: not store._queue, "encoded request")
        cursor.close()
        reader.close()
        store.reader._clock = lambda: 0.0
        until(lambda: store.flush(5), "flush")
        assert len(store.reader.find("meanwhile")) == 1
        assert sizes.largest <= 8 * MIB


def test_one_failure_outlives_many_fine_requests(tmp_path: Path) -> None:
    """A failure followed by 100,000 fine requests, which fill the store several times, is still listed and opened."""
    with opened(tmp_path, max_bytes=8 * MIB) as store:
        store.keep(failure(request_id="it", details={"lines": [{"message": "why"}]}))
        store.keep(request(request_id="pinned", kept="asked"))
        store.keep(request(request_id="slow", kept="slow"))
        for late in (
            request(request_id=f"late {number}", details={"lines": [{"message": f"its line {number}"}]}) for number in range(3)
        ):
            store.keep(late)
            store.flush(300)
            store.keep(request(request_id="beside"))
            store.keep(fails_late(late))
        for number in range(100_000):
            store.keep(request(details={"lines": [{"message": f"fine {number}"}]}))
            if number % 500 == 0:
                store.flush(300)
        failed = [each.request.request_id for each in store.reader.list(RequestQuery(failed=True)).requests]
        assert failed == ["late 2", "late 1", "late 0", "it"]
        assert [story.lines for story in store.reader.find("it")] == [[{"message": "why"}]]
        for number in range(3):
            (story,) = store.reader.find(f"late {number}")
            assert [line["message"] for line in story.lines] == [f"its line {number}", "late"]
        assert not store.reader.find("beside")
        assert store.reader.find("pinned")
        assert store.reader.find("slow")
        assert store.losses.counts["evicted"] > 50_000


def fails_late(stored: StoredRequest) -> Supplement:
    """Return what comes when the work after the response of a stored request has failed."""
    why = LateFailure(stored.started_ns, stored.request_id, "late.Error", "raised late.Error at shop/late.py:1")
    lines = [{"timestamp": "2027-01-01T00:00:00Z", "message": "late"}]
    return supplement(request_id=stored.request_id, details={"lines": lines})._replace(failure=why)


def test_the_bytes_of_each_share_are_counted_exactly(tmp_path: Path) -> None:
    """Also of requests that come among the failed ones after they were stored, and when some are deleted."""
    with opened(tmp_path, max_bytes=8 * MIB) as store:
        for round_ in range(40):
            stored = [request(details=incompressible(9_000, 100 * round_ + number)) for number in range(60)]
            for each in stored:
                store.keep(each)
            store.flush(300 if round_ % 2 else 0)
            for each in stored[:: 1 + round_ % 7]:
                store.keep(fails_late(each))
        store.flush(300)
        assert store.losses.counts["evicted"]
    with closing(sqlite3.connect(file_of(tmp_path))) as connection:
        (shares,) = connection.execute("SELECT important_bytes, fine_bytes FROM state")
        of_chunks = dict(connection.execute("SELECT important, sum(size_bytes) FROM chunks GROUP BY important"))
        assert shares == (of_chunks[1], of_chunks[0])
        lost = "SELECT count(*) FROM requests WHERE chunk NOT IN (SELECT id FROM chunks)"
        assert connection.execute(lost).fetchone() == (0,)


def test_failures_do_not_take_everything(tmp_path: Path) -> None:
    """In an outage failures use their share, and the newest of them stay; fine requests keep the rest."""
    with opened(tmp_path, max_bytes=8 * MIB) as store:
        for number in range(300):
            store.keep(request(details=incompressible(8000, number)))
        fill(store, 20 * MIB, failure)
        store.keep(failure(request_id="last"))
        assert store.reader.find("last")
        fine = store.reader.list(RequestQuery(failed=False, limit=1000)).requests
        assert len(fine) == 300
        fill(store, 20 * MIB, request)
        (share,) = store.reader._ask(
            lambda connections: [row for c in connections for row in c.execute("SELECT important_bytes, fine_bytes FROM state")]
        )
        # To within what is deleted at once, which is much of so small a file.
        assert 0.5 < share[0] / sum(share) < 0.8


def test_old_requests_are_deleted(tmp_path: Path) -> None:
    """What is older than `max_age_days` goes, failures too, and is counted."""
    now = [100 * DAY_NS]
    with opened(tmp_path, max_age_days=7, clock=lambda: now[0]) as store:
        for _ in range(2000):
            store.keep(failure(path="/old"))
        assert store.flush(60)
        now[0] += 6 * DAY_NS
        store.keep(request(path="/new"))
        assert store.flush(60)
        now[0] += 2 * DAY_NS
        store._writer._expire_at = 0.0
        store.keep(request(path="/newer"))
        assert until(lambda: store.losses.counts["evicted"] == 2000, "expiry")
        assert [each.request.path for each in store.reader.list(RequestQuery()).requests] == ["/newer", "/new"]


def test_a_clock_that_goes_backwards(tmp_path: Path) -> None:
    """Requests from before and after a jump of the clock are listed in the order in which they were kept, and none is lost."""
    now = [100 * DAY_NS]
    with opened(tmp_path, max_age_days=7, clock=lambda: now[0]) as store:
        for number, jump in enumerate((0, -50, 30, -200, 3)):
            now[0] += jump * DAY_NS
            store.keep(request(path=f"/{number}", started_ns=now[0]))
            assert store.flush(60)
        assert [each.request.path for each in store.reader.list(RequestQuery()).requests] == ["/4", "/3", "/2", "/1", "/0"]
    with opened(tmp_path, max_bytes=8 * MIB, clock=lambda: now[0]) as store:
        fill(store, 12 * MIB)
        assert not store.reader.list(RequestQuery(text="/0")).requests


def test_a_lower_limit_shrinks_the_file(tmp_path: Path) -> None:
    """After a restart with a lower limit the file becomes smaller in small steps, and the failures in it stay."""
    with opened(tmp_path, max_bytes=24 * MIB) as store:
        fill(store, 24 * MIB)
        store.keep(failure(request_id="it"))
    assert bytes_on_disk(tmp_path) > 12 * MIB
    with opened(tmp_path, max_bytes=8 * MIB) as store, Sizes(tmp_path) as sizes:
        store.keep(request())
        assert store.flush(300)
        assert sizes.largest <= 24 * MIB
        assert bytes_on_disk(tmp_path) <= 8 * MIB
        assert store.reader.find("it")
        assert store.losses.counts["damaged"] == 0


def test_a_full_disk_pauses_the_store_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose files may not grow says once that requests are not stored, counts them, and stores again later."""
    monkeypatch.setattr(batch_writer, "PAUSE_SECONDS", 0.1)
    log = Said()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = new_store(tmp_path, log=log)
    try:
        store.keep(request(path="/before"))
        assert store.flush(60)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_of(tmp_path).stat().st_size, before[1]))
        number = 0
        while not store.losses.counts["disk_full"]:
            number += 1
            store.keep(request(details=incompressible(400_000, number)))
            until(lambda: not store._queue, "encoded request")
        assert [message for message, _ in log] == ["kept requests cannot be stored"]
        assert store.reader.list(RequestQuery(limit=1)).requests
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        until(lambda: store.flush(5), "flush")
        assert len(log) == 2
        assert log[1][1]["lost"] == store.losses.counts["disk_full"]
        assert store.losses.counts["damaged"] == 0
        assert any(each.request.path == "/before" for each in store.reader.list(RequestQuery(limit=1000)).requests)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
        store.close(time.monotonic() + 300)


def test_room_that_was_estimated_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite finds no room although some was expected, the store makes some, and neither pauses nor grows."""
    monkeypatch.setattr(eviction, "_SPARE_PAGES", -1_000_000)
    with opened(tmp_path, max_bytes=8 * MIB) as store:
        fill(store, 16 * MIB)
        store.keep(request(request_id="last"))
        assert store.reader.find("last")
        assert {name for name, number in store.losses.counts.items() if number} == {"evicted"}
    assert bytes_on_disk(tmp_path) <= 8 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_small_file_system_that_is_full(tmp_path: Path) -> None:
    """On a disk smaller than the limit the store uses what there is, and makes room in its own file."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with opened(tmp_path) as store:
            store.keep(failure(request_id="it"))
            fill_on(store, 12 * MIB)
            store.keep(request(request_id="last"))
            assert store.reader.find("last")
            assert store.reader.find("it")
            assert store.losses.counts["evicted"] > 0
            assert store.losses.counts["damaged"] == 0
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill_on(store: Store, size_bytes: int) -> None:
    for number in range(size_bytes // 20_000):
        store.keep(request(details=incompressible(20_000, number)))
        if number % 50 == 0:
            store.flush(5)
