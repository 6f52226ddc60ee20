"""Files that are damaged, or no store at all: what is kept after them is stored, and what happened is counted and said."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from stored import MIB, Said, bytes_on_disk, failure, file_of, incompressible, opened, request, supplement
from support import times

from sage_fastapi_obs.store import database
from sage_fastapi_obs.store.reader import StoreReader, UnreadableStoreError
from sage_fastapi_obs.store.records import RequestQuery

PAGE = database.PAGE_BYTES
DETAILS = [orjson.dumps(incompressible(12_000, number)) for number in range(350)]
"""Enough to fill the file, so that all that is in it is deleted at last."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of some 100 pages, with every kind of page in it."""
    folder = tmp_path_factory.mktemp("sound")
    with opened(folder) as store:
        for number in range(400):
            make = failure if number % 7 == 0 else request
            store.keep(make(details=incompressible(400 + number % 900, number)))
        store.keep(supplement(correlation_id="c"))
        assert store.flush(60)
    return file_of(folder)


Damage = Callable[[Path, random.Random], None]


def cut(share: float) -> Damage:
    return lambda path, _: os.truncate(path, int(path.stat().st_size * share))


def cut_to(size_bytes: int) -> Damage:
    return lambda path, _: os.truncate(path, size_bytes)


def flip(first: float, last: float, number: int) -> Damage:
    """Flip bytes between two places: fractions of the file, or bytes where they are larger than 1."""

    def damage(path: Path, rnd: random.Random) -> None:
        content = bytearray(path.read_bytes())
        low, high = (int(place if place > 1 else place * len(content)) for place in (first, last))
        for _ in range(number):
            content[rnd.randrange(low, high)] ^= rnd.randrange(1, 256)
        path.write_bytes(content)

    return damage


def pages_of(what: Callable[[bytes], bytes], number: int, *, but_first: bool = False) -> Damage:
    """Change whole pages."""

    def damage(path: Path, rnd: random.Random) -> None:
        content = bytearray(path.read_bytes())
        for _ in range(number):
            start = rnd.randrange(int(but_first), len(content) // PAGE) * PAGE
            content[start : start + PAGE] = what(bytes(content[start : start + PAGE]))
        path.write_bytes(content)

    return damage


def put(content: bytes) -> Damage:
    return lambda path, _: path.write_bytes(content) and None


def sql(*statements: str) -> Damage:
    """Change the database with SQL."""

    def damage(path: Path, _: random.Random) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement).fetchall()

    return damage


def shell(change: Callable[[Path], object]) -> Damage:
    return lambda path, _: change(path) and None


def folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("x")


def link_in_place(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_text("of somebody")
    path.unlink()
    path.symlink_to(elsewhere)


def journal(content: bytes) -> Damage:
    return lambda path, _: path.with_name(f"{path.name}-journal").write_bytes(content) and None


def journal_link(path: Path) -> None:
    beside = path.with_name(f"{path.name}-journal")
    beside.unlink(missing_ok=True)
    (path.parent.parent / "elsewhere").write_text("of somebody")
    beside.symlink_to(path.parent.parent / "elsewhere")


def swap(path: Path, rnd: random.Random) -> None:
    content = bytearray(path.read_bytes())
    one, two = (rnd.randrange(1, len(content) // PAGE) * PAGE for _ in range(2))
    content[one : one + PAGE], content[two : two + PAGE] = content[two : two + PAGE], content[one : one + PAGE]
    path.write_bytes(content)


DAMAGES: dict[str, Damage] = {
    "empty": cut_to(0),
    "one byte": cut_to(1),
    "half a header": cut_to(50),
    "a header": cut_to(100),
    "half a page": cut_to(PAGE // 2),
    "one page": cut_to(PAGE),
    "two pages": cut_to(2 * PAGE),
    "a page and a half": cut_to(PAGE * 3 // 2),
    **{f"cut at {share}": cut(share) for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)},
    **{f"{number} flips in the header": flip(0.0, 100.0, number) for number in (1, 2, 3, 5, 20)},
    **{f"{number} flips in the first page": flip(100.0, PAGE, number) for number in (1, 5, 50, 500)},
    **{f"{number} flips in the roots": flip(PAGE, 8 * PAGE, number) for number in (1, 5, 50, 500)},
    **{f"{number} flips anywhere": flip(0.0, 1.0, number) for number in (1, 10, 100, 1000, 10_000)},
    **{f"{number} flips at the end": flip(0.9, 1.0, number) for number in (1, 100, 1000)},
    **{f"{number} pages of zeros": pages_of(lambda page: bytes(len(page)), number) for number in (1, 5, 50)},
    **{f"{number} later pages of zeros": pages_of(lambda page: bytes(len(page)), number, but_first=True) for number in (1, 20)},
    **{f"{number} pages reversed": pages_of(lambda page: page[::-1], number, but_first=True) for number in (1, 5, 50)},
    **{f"{number} pages of noise": pages_of(lambda _: random.Random(1).randbytes(PAGE), number) for number in (1, 5, 50)},
    "two pages swapped": swap,
    "all zeros": put(bytes(40 * PAGE)),
    "text": put(b"this is no database\n" * 1000),
    "gzip": put(b"\x1f\x8b" + bytes(5000)),
    "a header and nothing": put(b"SQLite format 3\0"),
    "noise": put(random.Random(2).randbytes(50_000)),
    "too much at the end": shell(lambda path: path.write_bytes(path.read_bytes() + b"x" * 10_001)),
    "another schema": sql("DROP TABLE requests", "CREATE TABLE requests (id INTEGER, who TEXT)"),
    "a table more": sql("CREATE TABLE users (name TEXT)"),
    "a trigger": sql("CREATE TRIGGER t AFTER INSERT ON requests BEGIN DELETE FROM requests; END"),
    "a table with a name of bytes": sql(
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET name = CAST(x'91ff' AS TEXT), sql = 'CREATE nothing' WHERE rowid = 2",
    ),
    "no table": sql("DROP TABLE chunks"),
    "no state": sql("DELETE FROM state"),
    "state of nothing": sql("UPDATE state SET next_id = NULL, important_bytes = NULL, fine_bytes = NULL"),
    "state of text": sql("UPDATE state SET next_id = 'x'"),
    "numbers that were used": sql("UPDATE state SET next_id = (SELECT MIN(id) FROM requests)"),
    "numbers without end": sql("UPDATE state SET next_id = 9223372036854775807"),
    "chunks without content": sql("UPDATE chunks SET content = NULL"),
    "chunks of other content": sql("UPDATE chunks SET content = x'00'"),
    "chunks that are gone": sql("DELETE FROM chunks"),
    "requests of nothing": sql("UPDATE requests SET path = NULL, started_ns = 'x'"),
    "requests elsewhere": sql("UPDATE requests SET first_byte = -5, bytes = 1 << 60"),
    "a write-ahead log": sql("PRAGMA journal_mode = WAL", "UPDATE state SET next_id = next_id + 1"),
    "pages of another size": sql("PRAGMA journal_mode = DELETE", "PRAGMA page_size = 4096", "VACUUM"),
    "no automatic vacuum": sql("PRAGMA auto_vacuum = NONE", "VACUUM"),
    "a folder": shell(folder_in_place),
    "a link": shell(link_in_place),
    "a link to nothing": shell(lambda path: (path.unlink(), path.symlink_to(path.parent / "nothing"))),
    "a second name": shell(lambda path: os.link(path, path.with_name("other"))),
    "nobody may read": shell(lambda path: path.chmod(0)),
    "everybody may write": shell(lambda path: path.chmod(0o666)),
    "a pipe": shell(lambda path: (path.unlink(), os.mkfifo(path))),
    "gone": shell(Path.unlink),
    "a journal of noise": journal(random.Random(3).randbytes(20_000)),
    "a journal of zeros": journal(bytes(20_000)),
    "a journal that looks right": journal(bytes.fromhex("d9d505f920a163d7") + b"\xff" * 4 + random.Random(4).randbytes(20_000)),
    "a journal that is a folder": shell(lambda path: _in_place_of_journal(path, Path.mkdir)),
    "a journal that is a link": shell(journal_link),
}
if os.geteuid() == 0:
    DAMAGES["of another user"] = shell(lambda path: os.chown(path, 12345, 12345))


def _in_place_of_journal(path: Path, make: Callable[[Path], object]) -> None:
    beside = path.with_name(f"{path.name}-journal")
    beside.unlink(missing_ok=True)
    make(beside)


def test_there_are_enough_kinds() -> None:
    """At least sixty kinds of damage are tried."""
    assert len(DAMAGES) >= 60


@pytest.mark.parametrize("is_open", [False, True], ids=["found at the start", "found late"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_survived(tmp_path: Path, sound: Path, kind: str, is_open: bool) -> None:
    """Whatever became of the file, before the start or under a store that has it open: what comes next is stored and found."""
    for seed in range(times(1, 20)):
        damaged_and_used(tmp_path / str(seed), sound, DAMAGES[kind], seed, is_open=is_open)


def damaged_and_used(folder: Path, sound: Path, damage: Damage, seed: int, *, is_open: bool) -> None:
    rnd = random.Random(f"{seed} {is_open}")
    log = Said()
    path = file_of(folder)
    shutil.copy(sound, path)
    path.chmod(0o600)
    if not is_open:
        damage(path, rnd)
    with opened(folder, max_bytes=4 * MIB, log=log) as store:
        if is_open:
            store.keep(request(path="/before"))
            assert store.flush(60)
            damage(path, rnd)
        for each in store.reader.list(RequestQuery(limit=1000)).requests:
            assert isinstance(each.request.path, str)
            assert isinstance(each.request.started_ns, int)
        for number, details in enumerate(DETAILS):
            store.keep(request(path=f"/after/{number}", request_id=f"r{number}", details=details))
            if number % 70 == 0:
                store.reader.list(RequestQuery(text="nowhere"))
                store.reader.find("c")
                assert store.flush(300)
        store.keep(failure(request_id="last", details={"lines": [{"message": "why"}]}))
        assert [story.lines for story in store.reader.find("last")] == [[{"message": "why"}]]
        listed = store.reader.list(RequestQuery(limit=50)).requests
        assert [each.request.path for each in listed[1:]] == [f"/after/{number}" for number in range(349, 300, -1)]
        assert store.reader.find("r320")[0].lines
        said = [message for message, _ in log]
        set_aside = said.count("the store was damaged; a new one is begun")
        assert set(said) <= {"the store was damaged; a new one is begun"}
        assert set_aside <= store.losses.counts["damaged"]
        assert {name for name, number in store.losses.counts.items() if number} <= {"damaged", "evicted"}
    assert bytes_on_disk(folder) <= 4 * MIB
    if (path.parent.parent / "elsewhere").exists():
        assert (path.parent.parent / "elsewhere").read_text() == "of somebody"


def test_damage_is_counted_and_said_and_the_file_set_aside(tmp_path: Path, sound: Path) -> None:
    """The damaged file is kept beside the new one, once; a second one takes its place."""
    path = file_of(tmp_path)
    for kind in (b"first" * 500, b"second" * 500):
        log = Said()
        path.write_bytes(kind)
        with opened(tmp_path, log=log) as store:
            store.keep(request())
            assert store.flush(60)
            assert [message for message, _ in log] == ["the store was damaged; a new one is begun"]
            assert log[0][1]["reason"] == "file is not a database"
            assert store.losses.counts["damaged"] == 1
        assert path.with_name(f"{path.name}.damaged").read_bytes() == kind


def test_a_damaged_file_counts_against_the_limit(tmp_path: Path) -> None:
    """One that is large is deleted, so that there is room for the new one; a small one is kept, within the limit."""
    path = file_of(tmp_path)
    aside = path.with_name(f"{path.name}.damaged")
    for size_bytes in (7 * MIB, int(3.9 * MIB)):
        path.write_bytes(b"x" * size_bytes)
        with opened(tmp_path, max_bytes=16 * MIB) as store:
            for number in range(600):
                store.keep(request(details=incompressible(40_000, number)))
                if number % 20 == 0:
                    assert store.flush(60)
        assert aside.exists() == (size_bytes < 4 * MIB)
        assert 8 * MIB < bytes_on_disk(tmp_path) <= 16 * MIB


def test_two_processes_set_one_file_aside(tmp_path: Path) -> None:
    """When several stores find the same damage, one sets the file aside, and all go on in the same new one."""
    with opened(tmp_path) as one, opened(tmp_path) as two, opened(tmp_path) as three:
        stores = (one, two, three)
        for store in stores:
            store.keep(request(path="/before"))
            assert store.flush(60)
        path = file_of(tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[:PAGE] + bytes(len(content) - PAGE))
        for number, store in enumerate(stores):
            store.keep(request(path=f"/{number}"))
            assert store.flush(60)
        for store in stores:
            assert [each.request.path for each in store.reader.list(RequestQuery()).requests] == ["/2", "/1", "/0"]
        assert sum(store.losses.counts["damaged"] for store in stores) == 1


def test_a_command_says_that_a_file_is_damaged(tmp_path: Path) -> None:
    """A reader of the file alone changes nothing, and says what is wrong."""
    path = file_of(tmp_path)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(UnreadableStoreError, match="not a database"):
        StoreReader.of_file(path).list(RequestQuery())
    assert path.read_bytes() == b"no database" * 1000


def test_no_numbers_are_used_twice(tmp_path: Path) -> None:
    """After a file was set aside, or cleared, a key of before leads to nothing, never to another request."""
    with opened(tmp_path) as store:
        store.keep(request())
        (old,) = [each.key for each in store.reader.list(RequestQuery()).requests]
        database.clear(file_of(tmp_path))
        store.keep(request())
        (new,) = [each.key for each in store.reader.list(RequestQuery()).requests]
        assert old != new
        assert store.reader.find(old) == []
