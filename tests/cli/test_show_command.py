"""`sage-obs show`: kept requests for people, from a store, and of hostile values nothing that a terminal would obey."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from kept_requests import BEGIN_NS, filled, kept, line, path_of, put, span
from stored import file_of, opened
from support import PATIENCE_SECONDS, times

from sage_fastapi_obs.cli import main
from sage_fastapi_obs.store.location import StoreKey
from sage_fastapi_obs.store.records import Supplement
from sage_fastapi_obs.store.store import Store

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "140")
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Store]:
    """Fill a store with a failure among fine requests."""
    spans = [
        span("root", None, 0, 84, name="GET /items/{item_id}", kind="SERVER", status="ERROR"),
        span("b", "a", 3, 25, name="SELECT items", kind="CLIENT", attributes={"db.system.name": "postgresql"}),
        span("a", "root", 2, 30, name="load item"),
        span("c", "gone", 40, 40, name="pack", status="ERROR", description="nothing there"),
    ]
    lines = [
        line("reading", 2, request_id="broken", correlation_id="job-7", shelf="A3"),
        line("request failed", 84, "error", error={"message": "no", "stack_trace": "Traceback:\n  File x\nLookupError: no"}),
    ]
    failed = kept(
        0,
        spans=spans,
        lines=lines,
        status=500,
        failed=True,
        kept="failed",
        error_type="LookupError",
        duration_us=84_000,
        request_id="broken",
    )
    orders = [kept(number, route="/orders", path="/orders", duration_us=number * 1_000) for number in range(1, 21)]
    with filled(tmp_path / "stores", failed, *orders) as store:
        yield store


@pytest.fixture
def path(stored: Store, tmp_path: Path) -> Path:
    return path_of(tmp_path / "stores")


def show(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run the command; return what it shows, or says is wrong."""
    assert main(["show", *arguments]) == code
    out, err = capsys.readouterr()
    assert bool(err) == bool(code)
    return err if code else out


@pytest.mark.usefixtures("wide")
def test_the_story_of_an_id(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it was, its spans as a tree with bars, its lines without the ids that they share."""
    rows = show(capsys, "broken", f"--store={path}").splitlines()
    assert rows[0] == "GET /items/0 LookupError (/items/{item_id}) 500 in 84.0 ms, kept: failed"
    assert rows[1].startswith("2026-11-30 00:20:00.000 request_id=broken correlation_id=job-0 trace_id=0")
    assert rows[2:8] == [
        "",
        "      0.0      84.0 ms |████████████████████████████| SERVER GET /items/{item_id} !failed",
        "      2.0      30.0 ms | ██████████                 | ├─ load item",
        "      3.0      25.0 ms | ████████                   | │  └─ CLIENT SELECT items db.system.name=postgresql",
        "     40.0      40.0 ms |             █████████████  | └─ pack !nothing there (parent missing)",
        "",
    ]
    assert rows[8:] == [
        "00:20:00.002 info     reading shelf=A3",
        "00:20:00.084 error    request failed",
        "    Traceback:",
        "      File x",
        "    LookupError: no",
    ]


@pytest.mark.usefixtures("wide")
def test_lists(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Failed ones, newest first; slow ones, slowest first; routes with figures, those that fail first."""
    errors = show(capsys, "errors", f"--store={path}").splitlines()
    assert errors[0].split() == ["time", "key", "ms", "status", "kept", "request"]
    assert len(errors) == 2
    assert errors[1].startswith("2026-11-30 00:20:00.000  ")
    assert errors[1].endswith("84.0     500  failed  GET /items/0 LookupError (/items/{item_id})")
    key = errors[1].split()[2]
    assert "LookupError: no" in show(capsys, key, f"--store={path}")
    slow = show(capsys, "slow", f"--store={path}", "--limit=3").splitlines()
    assert [row.split()[3] for row in slow[1:4]] == ["84.0", "20.0", "19.0"]
    routes = show(capsys, "routes", f"--store={path}").splitlines()
    assert [row.split() for row in routes] == [
        ["kept", "failed", "p50", "ms", "p95", "ms", "max", "ms", "route"],
        ["1", "1", "84.0", "84.0", "84.0", "GET", "/items/{item_id}"],
        ["20", "0", "10.0", "19.0", "20.0", "GET", "/orders"],
    ]


def test_failures_that_are_left_out_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where more were read than are shown: they are read 500 at a time."""
    with filled(tmp_path) as store:
        put(store, *(kept(number, failed=True, kept="failed") for number in range(900)))
    for limit, are_left_out in ((700, True), (900, False)):
        rows = show(capsys, "errors", f"--store={path_of(tmp_path)}", f"--limit={limit}").splitlines()
        assert ("(there are older requests, too)" in rows) == are_left_out
        assert len(rows) == limit + 1 + are_left_out


@pytest.mark.usefixtures("wide")
def test_why_requests_were_slow(stored: Store, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By cause, those of most requests first, with the slowest; reasons of failures are no causes of slowness."""
    waits = [kept(30 + ms, duration_us=ms * 1_000, cause="call", why=f"called for {ms} ms") for ms in (7, 9, 8)]
    put(stored, *waits, kept(50, duration_us=99_000, cause="blocked_loop"), kept(51, duration_us=100_000, cause="exception"))
    found = json.loads(show(capsys, "why", f"--store={path}", "--json", "--limit=2"))
    assert [(one["cause"], one["requests"], one["max_ms"]) for one in found["causes"]] == [
        ("call", 3, 9),
        ("blocked_loop", 1, 99),
    ]
    assert [one["duration_ms"] for one in found["slowest"]] == [100, 99]
    rows = show(capsys, "why", f"--store={path}").splitlines()
    key = found["causes"][0]["example"]
    assert [row.split(maxsplit=3) for row in rows[1:]] == [
        ["3", "9.0", key, "called for 9 ms"],
        ["1", "99.0", found["causes"][1]["example"], "blocked_loop"],
    ]
    assert "called for 9 ms" in show(capsys, key, f"--store={path}", "--json")


def test_lines_of_an_id_that_no_request_has(stored: Store, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a job are shown by its correlation id."""
    put(stored, Supplement(BEGIN_NS, "", "nightly", "", json.dumps({"lines": [line("counted", 3, "warn", rows=7)]}).encode()))
    assert show(capsys, "nightly", f"--store={path}").rstrip().endswith("warn     counted rows=7")


def test_json_is_what_the_pages_answer(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs: one object; of an id it is a case."""
    listed = json.loads(show(capsys, "slow", f"--store={path}", "--json", "--limit=2"))
    assert [one["duration_ms"] for one in listed["requests"]] == [84, 20]
    routes = json.loads(show(capsys, "routes", f"--store={path}", "--json"))
    assert routes["routes"][1] == {"route": "GET /orders", "kept": 20, "failed": 0, "p50_ms": 10, "p95_ms": 19, "max_ms": 20}
    case = json.loads(show(capsys, "broken", f"--store={path}", "--json"))
    assert case["stories"][0]["request"]["key"] == listed["requests"][0]["key"]


def test_it_finds_the_store_of_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the name of the service and its directory; where there are several, it asks which."""
    folder = tmp_path / "stores"
    monkeypatch.setenv("SAGE_OBS_STORE__PATH", str(folder))
    monkeypatch.chdir(tmp_path)
    assert "there is no store of 'shop'" in show(capsys, "slow", "--service=shop", code=1)
    with filled(folder, kept(1)):
        assert "/items/1" in show(capsys, "slow", "--service=shop")
        assert "there is no store of 'unknown_service'" in show(capsys, "slow", code=1)
        monkeypatch.setenv("SERVICE_NAME", "shop")
        assert "/items/1" in show(capsys, "slow")
        assert "there is no store of 'shop'" in show(capsys, "slow", "--app=/nowhere", code=1)
    with opened(folder, key=StoreKey("shop", str(tmp_path))) as here:
        put(here, kept(2))
        assert "/items/2" in show(capsys, "slow")
        assert "/items/1" in show(capsys, "slow", f"--app={folder}")
        monkeypatch.chdir("/")
        said = show(capsys, "slow", code=1)
        assert "several stores of 'shop'" in said
        assert said.count(".sqlite3") == 2


def test_an_id_is_looked_for_in_all_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has an id need not know whose it is, unless a service is named; no store that cannot be read is in the way."""
    folder = tmp_path / "stores"
    monkeypatch.setenv("SAGE_OBS_STORE__PATH", str(folder))
    monkeypatch.chdir(tmp_path)
    for service in ("shop", "books", "broken"):
        with opened(folder, key=StoreKey(service, "/srv")) as store:
            put(store, kept(1, request_id=f"of-{service}"))
    file_of(folder, StoreKey("broken", "/srv")).write_bytes(b"x" * 10_000)
    assert "of-shop" in show(capsys, "of-shop")
    assert "of-books" in show(capsys, "of-books")
    assert main(["case", "of-books", f"--out={tmp_path / 'case.json'}"]) == 0
    capsys.readouterr()
    assert "no request with this id" in show(capsys, "of-books", "--service=shop", code=1)
    assert "cannot read the store" in show(capsys, "of-nobody", code=1)
    with opened(folder, key=StoreKey("unknown_service", str(tmp_path))) as here:
        put(here, kept(2, request_id="of-this"))
        assert "of-this" in show(capsys, "of-this")
        assert "of-shop" in show(capsys, "of-shop")
        assert "no request with this id" in show(capsys, "of-nobody", code=1)
        assert "of-this" not in show(capsys, "slow", "--service=shop", f"--app={os.path.relpath('/srv')}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alerts"], "name the running service with --url"),
        (["traffic"], "name the running service with --url"),
        (["nobody"], "no request with this id is in the store: it was not kept"),
        (["nobody"], "or another service answered it\n"),
        (["slow", "--limit=0"], "'0' is no number of rows"),
        (["slow", "--limit=x"], "'x' is no number of rows"),
        (["slow", "--limit=99999999999999999999"], "is no number of rows"),
        (["x" * 500], "no request with this id"),
        (["\udcff"], "no request with this id"),
        (["nothing.json"], "cannot read nothing.json: "),
        (["nothing.json.gz"], "cannot read nothing.json.gz: "),
        ([], "the following arguments are required: WHAT"),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_said(arguments: list[str], said: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with an exit code."""
    try:
        code = main(["show", *arguments, f"--store={path}"])
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert (code in {1, 2}, out) == (True, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("what", ["slow", "errors", "routes", "broken"])
@pytest.mark.parametrize(
    "content", [None, b"", b"no database", b"\xff" * 100_000, b"SQLite format 3\0" + b"\0" * 9_000, "folder", "cut"]
)
def test_a_file_that_is_no_store_is_said(what: str, content: Any, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, damaged, cut short, something else: one line, never a traceback; what is empty has nothing to show."""
    other = path.with_name("other.sqlite3")
    if content == "folder":
        other.mkdir()
    elif content is not None:
        other.write_bytes(path.read_bytes()[:20_000] if content == "cut" else content)
    code = main(["show", what, f"--store={other}"])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert bool(err) == (code == 1)


def test_an_empty_store_has_empty_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the titles of the columns."""
    with filled(tmp_path / "stores", kept(0)) as store:
        path = path_of(tmp_path / "stores")
        store.clear()
        put(store, Supplement(BEGIN_NS, "", "job", "", b"{}"))
        assert show(capsys, "errors", f"--store={path}").split() == ["time", "key", "ms", "status", "kept", "request"]
        assert show(capsys, "routes", f"--store={path}").split()[:2] == ["kept", "failed"]


VALUES = strategies.recursive(
    strategies.none() | strategies.text() | strategies.integers(-(2**63), 2**63) | strategies.floats(allow_nan=False),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=5,
)
TEXT = strategies.text(max_size=60) | strategies.just("漢字 \x1b[2J\u202e\n" * 20)


def test_another_program_gets_whole_rows(stored: Store, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Rows are cut for a terminal alone: what searches them finds what stands at their end."""
    put(stored, kept(31, path="/" + "very-long/" * 30 + "end", request_id="long", kept="slow"))
    for name, is_whole in (("", True), ("60", False)):
        monkeypatch.setenv("COLUMNS", name)
        assert main(["show", "slow", "--store", str(path)]) == 0
        assert ("/end" in capsys.readouterr().out) is is_whole


@settings(max_examples=times(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=strategies.lists(TEXT, min_size=12, max_size=12),
    values=strategies.dictionaries(TEXT, VALUES, max_size=3),
    width=strategies.integers(1, 200),
)
def test_a_terminal_is_never_driven(
    texts: list[str], values: dict[str, Any], width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Whatever a case has in it, rows are as wide as the terminal, and have nothing that it would obey."""
    monkeypatch.setenv("COLUMNS", str(width))
    names = ("key", "timestamp", "kind", "method", "route", "path", "kept", "error_type", "request_id", "correlation_id")
    numbers = {"duration_ms": 1e300, "status": 10**30, "failed": True, "trace_id": texts[10], "span_id": ""}
    node = {"kind": texts[0], "span_id": "", "parent_id": None, "offset_ms": -1e300, "duration_ms": 1e308, "status": "ERROR"}
    event = {"name": texts[1], "offset_ms": 0, "attributes": values}
    root = {**node, "name": texts[2], "description": texts[3], "attributes": values, "events": [event]}
    lines = [values, line(texts[4], **{"error": {"message": texts[5], "stack_trace": texts[6]}, "x" + texts[7]: values})]
    story = {
        "request": {**dict(zip(names, texts, strict=False)), **numbers},
        "spans": [{**root, "children": [root, root]}, root],
        "lines": lines,
        "dropped_spans": 10**30,
        "dropped_lines": 1,
    }
    path = tmp_path / "case.json"
    case = {"format": "sage-obs-case/1", "id": texts[8], "stories": [story], "lines": lines, "note": texts[9]}
    path.write_text(json.dumps(case))
    code = main(["show", str(path)])
    out, err = capsys.readouterr()
    assert not CONTROL.search(out + err)
    assert code == 0
    for row in out.splitlines():
        # Signs that are drawn over the one before take no column.
        drawn = [sign for sign in row if not unicodedata.combining(sign)]
        assert sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in drawn) <= max(40, width)


@pytest.mark.parametrize(("encoding", "signs"), [("ascii", "|- `- #"), ("latin-1", "|- `- #"), ("utf-8", "├─ └─ █")])
def test_plain_signs_where_a_terminal_has_no_others(encoding: str, signs: str, stored: Store, path: Path) -> None:
    """What the encoding of the output cannot show is drawn, or written, in ASCII."""
    put(stored, kept(30, path="/漢字", request_id="wide", spans=[span("root"), span("a", "root"), span("b", "root")]))
    env = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    command = [sys.executable, "-W", "error", "-m", "sage_fastapi_obs", "show", "wide", f"--store={path}"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_SECONDS, env=env)
    shown = done.stdout.decode(encoding)
    assert all(sign in shown for sign in signs.split())
    assert ("漢字" if encoding == "utf-8" else r"\u6f22\u5b57") in shown


def test_details_that_are_damaged(stored: Store, path: Path, capsys: Any) -> None:
    """A request whose details cannot be read any more says so, and does not look like one without spans."""
    put(stored, kept(31, request_id="whole"))
    assert main(["show", "whole", f"--store={path}"]) == 0
    assert "are missing" not in capsys.readouterr().out
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE chunks SET content = x'00'")
    assert main(["show", "whole", f"--store={path}"]) == 0
    assert "(spans and lines of a request are missing" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("flags", ["", "--json"])
def test_output_that_cannot_be_written(path: Path, flags: str) -> None:
    """A full disk is told in one line, and the exit code says that something is missing."""
    command = f"{sys.executable} -W error -m sage_fastapi_obs show errors --store={path} {flags} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=PATIENCE_SECONDS, text=True)
    assert (done.returncode, done.stderr) == (1, "sage-obs: [Errno 28] No space left on device\n")
