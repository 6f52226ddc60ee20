"""Requests on their way into the store: queue, thread, forks, what cannot be encoded, and the end."""

import gc
import itertools
import multiprocessing
import os
import random
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stored import KEY, Said, bytes_on_disk, failure, file_of, incompressible, new_store, opened, request, supplement
from support import times, until

from sage_fastapi_obs.settings import StoreSettings
from sage_fastapi_obs.store import schema
from sage_fastapi_obs.store import store as store_module
from sage_fastapi_obs.store.batch import make_batch
from sage_fastapi_obs.store.database import Database
from sage_fastapi_obs.store.insertion import insert, mark_failed
from sage_fastapi_obs.store.location import StoreKey
from sage_fastapi_obs.store.reader import StoreReader
from sage_fastapi_obs.store.records import LateFailure, RequestQuery
from sage_fastapi_obs.store.store import Store
from sage_fastapi_obs.threads import NoThreadError


def paths(reader: StoreReader) -> list[str]:
    return [each.request.path for each in reader.list(RequestQuery(limit=1000)).requests]


def test_a_request_is_found_from_the_moment_it_is_kept(tmp_path: Path) -> None:
    """A question answers with what is not written yet."""
    with opened(tmp_path) as store:
        for number in range(200):
            store.keep(request(request_id=f"r{number}"))
            assert len(store.reader.find(f"r{number}")) == 1


def test_requests_are_written_without_being_asked(tmp_path: Path) -> None:
    """Soon after it was kept, a request is in the file."""
    with opened(tmp_path) as store:
        store.keep(request(path="/a"))
        reader = StoreReader.of_file(file_of(tmp_path))
        until(lambda: paths(reader) == ["/a"], "request in the file")


def test_history_is_there_after_a_restart(tmp_path: Path) -> None:
    """What one process kept, the next one of the same service and app shows; another app has a store of its own."""
    with opened(tmp_path) as store:
        store.keep(request(path="/a", details={"lines": [{"message": "before"}]}))
        store.keep(supplement(correlation_id="c", details={"lines": [{"message": "outside"}]}))
    with opened(tmp_path) as store:
        store.keep(request(path="/b"))
        assert paths(store.reader) == ["/b", "/a"]
        assert store.reader.lines("c", 9) == [{"message": "outside"}]
    with opened(tmp_path, key=StoreKey("shop", "other:app")) as store:
        assert paths(store.reader) == []


def test_the_same_store_goes_on_after_a_close(tmp_path: Path) -> None:
    """An application that starts again keeps again; in between nothing is taken, and nothing counted as lost."""
    store = new_store(tmp_path)
    store.keep(request(path="/a"))
    store.close(time.monotonic() + 300)
    store.keep(request(path="/no"))
    assert paths(store.reader) == ["/a"]
    store.start()
    store.keep(request(path="/b"))
    store.close(time.monotonic() + 300)
    assert paths(store.reader) == ["/b", "/a"]
    assert not any(store.losses.counts.values())


def test_a_full_queue_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the thread cannot keep up, the queue stays bounded, and each request without room is counted."""
    monkeypatch.setattr(store_module, "QUEUE_REQUESTS", 100)
    go_on, is_encoding = threading.Event(), threading.Event()

    def encode(record: object) -> object:
        is_encoding.set()
        go_on.wait(300)
        return record

    with opened(tmp_path, encode=encode) as store:
        store.keep(request())
        assert is_encoding.wait(300)
        for _ in range(150):
            store.keep(request())
        assert store.losses.counts["queue_full"] == 50
        go_on.set()
        assert len(paths(store.reader)) == 101


def test_what_cannot_be_encoded_costs_nothing_else(tmp_path: Path) -> None:
    """An error of `encode`, or something that is no record, is counted; the requests beside it are stored."""
    errors: list[Exception] = []

    def encode(source: object) -> object:
        return 1 / source if isinstance(source, int) else source

    with opened(tmp_path, encode=encode, failed=errors.append) as store:
        wrong = [0, 5, None, request()._replace(details="{}")]
        for number, source in enumerate(wrong):
            store.keep(request(path=f"/{number}"))
            store.keep(source)
        assert paths(store.reader) == ["/3", "/2", "/1", "/0"]
        assert store.losses.counts["not_encoded"] == len(errors) == len(wrong)


@pytest.mark.parametrize(
    "hostile",
    [
        {"path": "/\ud800\udfff"},
        {"path": "/\0x"},
        {"method": "\udcff"},
        {"duration_us": 2**80},
        {"started_ns": -(2**90)},
        {"status": None},
        {"route": 7},
        {"error_type": ["list"]},
        {"trace_id": object()},
    ],
)
def test_values_that_no_database_can_hold(tmp_path: Path, hostile: dict) -> None:
    """A value of a hostile request, or a wrong one of ours, neither stops the store nor costs the requests beside it."""
    with opened(tmp_path) as store:
        store.keep(request(path="/before"))
        store.keep(request(**hostile))
        store.keep(request(path="/after"))
        assert {"/before", "/after"} <= set(paths(store.reader))
        assert len(paths(store.reader)) == 3 or "status" in hostile
        assert not any(store.losses.counts.values())


def test_many_requests_fail_after_they_were_stored(tmp_path: Path) -> None:
    """Each of them is marked, and no other: those of the same moment have other ids, those of the same id other moments."""
    at_ns = time.time_ns()
    requests = [request(request_id=f"r{number // 2}", started_ns=at_ns + number % 500) for number in range(1_000)]
    late = [LateFailure(each.started_ns, each.request_id, "late.Error", None) for each in requests[::3]]
    random.Random(3).shuffle(late)
    with opened(tmp_path) as store:
        for each in requests:
            store.keep(each)
        store.flush(300)
        for failed in late:
            store.keep(supplement(request_id=failed.request_id)._replace(failure=failed))
        found = [each.request for each in store.reader.list(RequestQuery(limit=1_000)).requests]
    marked = {(each.started_ns, each.request_id): each.error_type for each in found if each.failed}
    assert marked == {(failed.started_ns, failed.request_id): "late.Error" for failed in late}


def test_to_mark_what_has_just_failed_reads_little() -> None:
    """Of a long history no more is read than what was stored since the oldest of those requests began."""

    def steps_after(stored: int) -> int:
        steps = itertools.count()
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            schema.create(connection, 1)
            for at_ns in (*range(stored), 10**18):
                insert(connection, [make_batch([request(started_ns=at_ns) for _ in range(50)])], at_ns)
            connection.set_progress_handler(lambda: next(steps) and None, 1)
            mark_failed(connection, [LateFailure(10**18, "no", "late.Error", None)], 10**18)
        return next(steps)

    assert steps_after(400) < 2 * steps_after(2)


def test_details_that_are_too_large_are_left_out(tmp_path: Path) -> None:
    """The request is stored without them, and counted."""
    with opened(tmp_path) as store:
        store.keep(failure(request_id="r", details=incompressible(900_000)))
        (story,) = store.reader.find("r")
        assert story.lines == []
        assert store.losses.counts["too_large"] == 1


def test_many_large_requests_at_once(tmp_path: Path) -> None:
    """Requests with the largest details are divided, so that none of them is lost in the smallest file."""
    with opened(tmp_path, max_bytes=8 * 1024 * 1024) as store:
        for number in range(20):
            store.keep(request(request_id=f"r{number}", details=incompressible(400_000, number)))
            assert store.flush(60)
        assert len(store.reader.find("r19")[0].lines) == 1
        assert store.losses.counts["evicted"] == 20 - len(paths(store.reader))
        assert bytes_on_disk(tmp_path) <= 8 * 1024 * 1024


def test_without_a_thread_the_close_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system starts no thread, what was kept waits, is found by questions, and is written at the close."""

    def refuse(*_: object) -> None:
        raise NoThreadError("can't start new thread")

    monkeypatch.setattr("sage_fastapi_obs.threads.start_thread", refuse)
    errors: list[Exception] = []
    store = new_store(tmp_path, failed=errors.append)
    store.keep(request(path="/a"))
    assert paths(store.reader) == ["/a"]
    store.keep(request(path="/b"))
    store.close(time.monotonic() + 300)
    assert paths(StoreReader.of_file(file_of(tmp_path))) == ["/b", "/a"]
    assert [type(error) for error in errors] == [NoThreadError]


def test_what_is_left_at_the_deadline_is_counted(tmp_path: Path) -> None:
    """A close does not wait longer than it may, and counts what it leaves."""
    go_on = threading.Event()

    def encode(record: object) -> object:
        go_on.wait(300)
        return record

    store = new_store(tmp_path, encode=encode)
    for _ in range(5):
        store.keep(request())
    store.close(time.monotonic())
    assert store.losses.counts["shutdown"] == 5
    go_on.set()


def test_nothing_is_touched_before_the_start(tmp_path: Path) -> None:
    """A store that is made and not started creates no file and no thread."""
    threads = set(threading.enumerate())
    store = Store(StoreSettings(path=str(tmp_path / "s")), KEY, lambda r: r, log=Said(), failed=print)
    store.keep(request())
    store.close(time.monotonic() + 1)
    assert not (tmp_path / "s").exists()
    assert set(threading.enumerate()) <= threads


def test_clear_deletes_everything_while_the_service_runs(tmp_path: Path) -> None:
    """After a clear, from this process or another, nothing of before is found, and what comes next is stored."""
    with opened(tmp_path) as store, opened(tmp_path) as other:
        store.keep(request(path="/a"))
        other.keep(request(path="/b"))
        assert len(paths(other.reader)) == 2 or other.flush(60)
        assert store.flush(60)
        store.clear()
        assert paths(other.reader) == []
        other.keep(request(path="/c"))
        assert paths(other.reader) == ["/c"]
        assert paths(store.reader) == ["/c"]
        assert b"/a" not in file_of(tmp_path).read_bytes()


def keep_in_child(store: Store, name: str) -> None:
    assert store._database._connection is None
    store.keep(request(path=name))
    store.close(time.monotonic() + 300)


def keep_and_exit(store: Store, name: str) -> None:
    """End a forked child, whatever happens in it."""
    try:
        keep_in_child(store, name)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("ways", ["multiprocessing", "os.fork"])
def test_a_forked_child_has_a_connection_of_its_own(tmp_path: Path, ways: str) -> None:
    """Parent and children go on at once: each keeps and flushes its own, and nothing is written twice or lost."""
    with opened(tmp_path) as store:
        store.keep(request(path="/parent"))
        assert store.flush(60)
        store.keep(request(path="/waiting"))
        children = []
        for number in range(3):
            if ways == "os.fork":
                if (pid := os.fork()) == 0:
                    keep_and_exit(store, f"/{number}")
                children.append(pid)
            else:
                child = multiprocessing.get_context("fork").Process(target=keep_in_child, args=(store, f"/{number}"))
                child.start()
                children.append(child)
        store.keep(request(path="/after"))
        for child in children:
            assert (os.waitpid(child, 0)[1] if isinstance(child, int) else child.join() or child.exitcode) == 0
        assert sorted(paths(store.reader)) == sorted(["/parent", "/waiting", "/after", "/0", "/1", "/2"])
        assert not any(store.losses.counts.values())


def test_forks_in_the_middle_of_writing(tmp_path: Path) -> None:
    """However a fork meets the writing thread, the child keeps its request, and the file stays sound."""
    with opened(tmp_path) as store:
        stop = threading.Event()

        def keep_on() -> None:
            while not stop.is_set():
                store.keep(request(details=incompressible(4000)))
                time.sleep(0.0002)

        thread = threading.Thread(target=keep_on)
        thread.start()
        try:
            for number in range(20):
                if (pid := os.fork()) == 0:
                    keep_and_exit(store, f"/child{number}")
                assert os.waitpid(pid, 0)[1] == 0
        finally:
            stop.set()
            thread.join()
        store.reader._clock = lambda: 0.0
        found = {each.request.path for each in store.reader.list(RequestQuery(text="/child", limit=1000)).requests}
        assert found == {f"/child{number}" for number in range(20)}
        assert store.losses.counts["damaged"] == 0


def test_an_idle_thread_ends_and_another_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However requests and questions fall into the moment in which the thread leaves, nothing is lost and nobody waits."""
    monkeypatch.setattr(store_module, "IDLE_SECONDS", 0.002)
    monkeypatch.setattr(store_module, "FLUSH_SECONDS", 0.001)
    store = Store(StoreSettings(path=str(tmp_path)), KEY, lambda record: record, log=_no_log, failed=_no_failure)
    store.start()
    kept = 0

    def keep() -> int:
        chance = random.Random()
        for _ in range(times(300)):
            store.keep(request())
            time.sleep(chance.choice([0.0, 0.001, 0.002, 0.003]))
        return times(300)

    with ThreadPoolExecutor() as pool:
        made = [pool.submit(keep) for _ in range(3)]
        while not all(one.done() for one in made):
            store.flush(5.0)
        kept = sum(one.result() for one in made)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("sage-obs-store")], "idle thread")
    found, before = 0, None
    while True:
        page = store.reader.list(RequestQuery(limit=1000, before=before))
        found += len(page.requests)
        before = page.next
        if before is None:
            break
    assert found == kept


def _no_log(message: str, fields: Any) -> None:
    raise AssertionError((message, fields))


def _no_failure(error: Exception) -> None:
    raise error


def test_whoever_holds_cursors_keeps_no_transaction_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profiler that looks at all objects holds cursors for longer than we do: no statement of theirs is left half done."""
    held: list[sqlite3.Cursor] = []

    class Connection(sqlite3.Connection):
        def execute(self, *given: Any) -> sqlite3.Cursor:
            held.append(super().execute(*given))
            return held[-1]

    monkeypatch.setattr(sqlite3, "Connection", Connection)
    with opened(tmp_path, failed=_no_failure) as store:
        store.keep(request(path="/a"))
        assert paths(store.reader) == ["/a"]
        assert store.history.acquire("run")
        store.history.begin("run", None)
        assert store.history.write_states(1.0, b"states")
    assert held
    assert not any(store.losses.counts.values())


def test_a_database_that_nobody_closed_closes_its_connection(tmp_path: Path):
    """An `Observability` that was started by a request and never closed leaves nothing open that Python 3.13 warns of."""
    database = Database(8 * 1024 * 1024, damaged=pytest.fail)
    database.use(tmp_path / "shop.sqlite3", 8 * 1024 * 1024)
    with database.transaction() as connection:
        pass
    del database
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
