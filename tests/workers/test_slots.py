"""Slots of workers: taken, inherited and left, by real processes that end in every way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import worker_process
from support import PATIENCE_SECONDS, times, until
from worker_process import Process

from sage_fastapi_obs.request.in_flight import MOST_RECORDS, RequestRecords, read_records
from sage_fastapi_obs.workers.death import settle
from sage_fastapi_obs.workers.death_report import DeathReport
from sage_fastapi_obs.workers.file_lock import lock
from sage_fastapi_obs.workers.group import Group
from sage_fastapi_obs.workers.mapped_file import MappedFile
from sage_fastapi_obs.workers.siblings import Parent
from sage_fastapi_obs.workers.slot import _HEARTBEAT_NS, Slot

Start = Callable[..., Process]


@pytest.fixture
def service() -> str:
    """Return the name of a service that nobody else has."""
    return f"slots-{uuid4().hex}"


@pytest.fixture
def start(service: str) -> Iterator[Start]:
    """Start workers of one service, whose parent is this process; end them."""
    begun: list[Process] = []
    folders: set[str] = set()

    def start(name: str = service, **options: Any) -> Process:
        begun.append(Process(name, **options))
        if (slot := begun[-1].do("slot")) is not None:
            folders.add(slot[1])
        return begun[-1]

    yield start
    for one in begun:
        one.process.kill()
        one.process.join()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def kill(worker: Process, number: int = signal.SIGKILL) -> None:
    """End a worker by a signal; its parent does not ask for its status yet."""
    os.kill(worker.pid, number)
    stat = Path(f"/proc/{worker.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "end of the worker")


def test_workers_of_one_parent_have_slots_of_one_group(start: Start) -> None:
    """The slots are numbered, and a worker that ends well leaves its own to the next."""
    first, second = start(), start()
    (number, folder), (other_number, other_folder) = first.do("slot"), second.do("slot")
    assert (number, other_number, folder) == (0, 1, other_folder)
    first.do("close")
    third = start()
    assert third.do("slot") == (0, folder)
    assert second.do("tick") is third.do("tick") is None
    assert [worker.do("told") for worker in (second, third)] == [[], []]


def test_two_services_of_one_parent_have_nothing_to_do_with_each_other(start: Start, service: str) -> None:
    """Each has a group; the death of a worker is told in its own."""
    first, other = start(), start(f"{service}-2")
    assert first.do("slot")[1] != other.do("slot")[1]
    first.do("begin", "lost")
    kill(first)
    other.do("tick")
    assert other.do("told") == start(f"{service}-2").do("told") == []
    assert [told[5] for told in start().do("told")] == [["lost"]]


def test_two_versions_of_one_service_do_not_read_each_other(start: Start) -> None:
    """Where the layout of the files differs, each version has a group, and tells of its own dead."""
    new, old = start(), start(version="0")
    assert new.do("slot")[1] != old.do("slot")[1]
    for worker, request_id in ((new, "of the new"), (old, "of the old")):
        worker.do("begin", request_id)
        kill(worker)
    assert [told[5] for told in start().do("told")] == [["of the new"]]
    assert [told[5] for told in start(version="0").do("told")] == [["of the old"]]


def test_a_file_of_another_layout_is_refused(start: Start) -> None:
    """A worker that finds one in its place leaves it as it is, and takes a slot elsewhere."""
    first = start()
    path = Path(first.do("slot")[1]) / "0.slot"
    first.do("close")
    content = b"SAGEOBS9" + bytes(1 << 20)
    path.write_bytes(content)
    second = start()
    assert second.do("slot")[1] != str(path.parent)
    assert second.do("told") == []
    assert path.read_bytes() == content


def test_a_living_group_of_another_version_is_not_swept(start: Start) -> None:
    """After a day without a change it is removed only when nobody has its slots locked."""
    folder = Path(start().do("slot")[1]).parent / f"workers-{uuid4().hex[:16]}.0"
    folder.mkdir(mode=0o700)
    path = folder / "0.slot"
    path.write_bytes(b"SAGEOBS9" + bytes(1_000))
    os.utime(path, (0, 0))
    with path.open("rb") as file:
        assert lock(file.fileno())
        start(uuid4().hex)
        assert path.exists()
    start(uuid4().hex)
    assert not folder.exists()


def test_a_sibling_tells_what_a_killed_worker_was_serving(start: Start) -> None:
    """Requests in flight are named, those that were done are counted, those that were finished are neither; all once."""
    first, second, third = start(), start(), start()
    for request_id in ("lost", "done", "finished"):
        first.do("begin", request_id)
    number = first.do("done", "done")
    first.do("finish", "finished")
    second.do("begin", "of another")
    kill(first)
    second.do("tick")
    assert second.do("told") == [["done", number, 5], ["died", 0, "killed", "by SIGKILL", "", ["lost"]]]
    third.do("tick")
    assert third.do("told") == []
    assert start().do("slot")[0] == 0


def test_the_next_worker_tells_where_no_sibling_has(start: Start) -> None:
    """Whoever takes the slot tells first, and numbers of requests that are done go on."""
    first = start()
    first.do("begin", "lost")
    first.do("begin", "done")
    number = first.do("done", "done")
    kill(first)
    heir = start()
    done, (*died, _, _, _, lost) = heir.do("told")
    assert (done, died, lost) == (["done", number, 5], ["died", 0], ["lost"])
    heir.do("begin", "next")
    assert heir.do("done", "next") > number


def test_a_crash_is_told_with_its_line(start: Start) -> None:
    """What the interpreter writes when it crashes names the line of the application."""
    first, second = start(), start()
    first.send("segfault")
    first.process.join(PATIENCE_SECONDS)
    second.do("tick")
    ((what, number, reason, evidence, at, lost),) = second.do("told")
    assert (what, number, reason, evidence, lost) == ("died", 0, "crash", "Fatal Python error: Segmentation fault", [])
    assert Path(at.rpartition(":")[0]).name == "worker_process.py"


def test_a_worker_that_does_not_stop_in_time_was_killed(start: Start) -> None:
    """Its status may be unknown, as its parent has asked for it; that it was stopping is written down."""
    first, second = start(), start()
    first.do("stopping")
    first.process.kill()
    first.process.join()
    second.do("tick")
    assert second.do("told") == [["died", 0, "killed", "it was about to stop, and did not end in time", "", []]]


def test_an_unknown_reason_is_said_to_be_unknown(start: Start) -> None:
    """Nothing is made up where nothing is known."""
    first, second = start(), start()
    first.process.kill()
    first.process.join()
    second.do("tick")
    assert second.do("told") == [["died", 0, "unknown", "", "", []]]


def test_the_next_start_tells_of_a_group_that_died_with_its_server(service: str, start: Start) -> None:
    """The folder of workers whose parent has gone is read once more, and removed."""
    command = [sys.executable, worker_process.__file__, service, "one", "two"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid, (_, folder) = json.loads(server.stdout.readline())
        # While its server lives, it is nobody's business.
        assert start().do("told") == []
        server.kill()
        os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        until(lambda: os.kill(pid, 0) or not Path(f"/proc/{pid}").exists(), "end of the worker")
    (told,) = start().do("told")
    assert (told[0], told[2], sorted(told[5])) == ("died", "unknown", ["one", "two"])
    assert not Path(folder).exists()
    assert start().do("told") == []


def test_a_group_that_is_just_made_may_be_removed_by_others(tmp_path: Path) -> None:
    """Whoever looks for groups that are over finds one without workers: who makes it does so again, and has a slot there."""
    ended, stop, nobody = [], threading.Event(), Parent(1 << 30, 1)

    def end_all() -> None:
        while not stop.is_set():
            for path in tmp_path.iterdir():
                Group(path).end(lambda slot: ended.append(slot))

    thread = threading.Thread(target=end_all)
    thread.start()
    try:
        for number in range(times(300)):
            group = Group(tmp_path / str(number))
            group.folder.mkdir()
            group.take_slot(nobody, 0, lambda _: None)
            assert group.has_own()
            group.own.bury(None)
            group.close()
        until(lambda: not [*tmp_path.iterdir()], "end of all")
    finally:
        stop.set()
        thread.join()
    assert ended == []


def test_a_death_that_is_noticed_late_is_as_old_as_the_heartbeat_says(tmp_path: Path) -> None:
    """How long nobody looked is not added to the age of a request; after a restart of the machine nothing is known of it."""
    slot = Slot(tmp_path / "0.slot", writable=True)
    slot.own(Parent(0, 0), 0)
    for seconds in (60.0, -1_000.0):
        before = time.monotonic()
        slot.file.numbers[_HEARTBEAT_NS] = int((before - seconds) * 1_000_000_000)
        death = settle(slot, lambda *_: None, None)
        assert max(0.0, seconds - 1.01) <= death.seconds_ago <= max(0.0, seconds - 1.0) + time.monotonic() - before
    report = DeathReport(lambda *_: None, str, SimpleNamespace(wall_clock=lambda: 100_000_000_000), None, *[lambda _: None] * 3)
    record = SimpleNamespace(started_ns=30_000_000_000)
    assert report._age_us(replace(death, seconds_ago=60.0), record) == 10_000_000
    assert report._age_us(replace(death, seconds_ago=90.0), record) == 0


def test_a_forked_child_leaves_the_slot_to_its_parent(start: Start) -> None:
    """A child that lives on holds no lock: the slot of the killed parent is free."""
    first, second = start(), start()
    first.do("begin", "lost")
    child = first.do("fork")
    try:
        kill(first)
        second.do("tick")
        assert second.do("told") == [["died", 0, "killed", "by SIGKILL", "", ["lost"]]]
        assert start().do("slot")[0] == 0
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_thousand_replacements_leave_a_constant_number_of_files(start: Start) -> None:
    """Files and bytes stay what they were, however many workers have come and gone."""
    first = start()
    folder = Path(first.do("slot")[1])
    sizes = set()
    for _ in range(5):
        replaced = start()
        kill(replaced)
        first.do("tick")
        sizes.add((len([*folder.iterdir()]), sum(path.stat().st_size for path in folder.iterdir())))
    assert len(sizes) == 1
    assert sizes.pop()[0] <= 2 * 2 + 4


def test_requests_without_room_are_counted(tmp_path: Path) -> None:
    """Beyond the capacity only their number is known, and it falls again."""
    file = MappedFile(tmp_path / "0.slot", writable=True, size=1 << 20)
    records = RequestRecords(file.numbers, file.bytes, 4_096, 8, 0)
    begun = [worker_process.exchange(str(number)) for number in range(MOST_RECORDS + 3)]
    for exchange in begun:
        records.start(exchange)
    assert [exchange.record is records.no_room for exchange in begun[-4:]] == [False, True, True, True]
    assert file.numbers[8] == 3
    assert len([*read_records(file.numbers, file.bytes, 4_096)]) == MOST_RECORDS
    records.free_all(exchange.record for exchange in begun)
    assert file.numbers[8] == 0
    assert [*read_records(file.numbers, file.bytes, 4_096)] == []


@pytest.mark.parametrize("path", ["/" + "ä" * 500, "/\udcff", "/a\0b", "", "/" + "x" * 10_000])
def test_any_path_fits_into_a_record(tmp_path: Path, path: str) -> None:
    """Long and odd paths are cut; ids and method are read back."""
    file = MappedFile(tmp_path / "0.slot", writable=True, size=1 << 20)
    records = RequestRecords(file.numbers, file.bytes, 4_096, 8, 0)
    records.start(worker_process.exchange("i" * 32, path))
    (record,) = read_records(file.numbers, file.bytes, 4_096)
    assert (record.request_id, record.trace_id, record.method) == ("i" * 32, "1" * 32, "GET")
    assert path.encode("utf-8", "replace").decode().startswith(record.path.rstrip("\ufffd"))
