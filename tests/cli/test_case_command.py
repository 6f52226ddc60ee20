"""`sage-obs case`: a file with all about an id, written for others, and read whoever wrote it."""

import gzip
import json
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kept_requests import filled, kept, line, path_of, put, span

from sage_fastapi_obs.cli import main
from sage_fastapi_obs.cli.request_sources import MOST_BYTES
from sage_fastapi_obs.store.store import Store

CASE = {"format": "sage-obs-case/1", "id": "x", "stories": []}


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Store]:
    spans = [span("root", kind="SERVER"), span("inner", "root", 1)]
    with filled(tmp_path / "stores", kept(0, spans=spans, lines=[line("hello")])) as store:
        yield store


@pytest.fixture
def path(stored: Store, tmp_path: Path) -> Path:
    return path_of(tmp_path / "stores")


@pytest.mark.parametrize("name", ["case.json", "case.json.gz"])
def test_a_case_is_shown_as_the_store_shows_it(name: str, path: Path, tmp_path: Path, capsys: Any) -> None:
    """On another machine, too; the file is for the eyes of who wrote it."""
    assert main(["show", "request-0", f"--store={path}"]) == 0
    shown = capsys.readouterr().out
    file = tmp_path / name
    assert main(["case", "request-0", "--out", str(file), f"--store={path}"]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    assert main(["show", str(file)]) == 0
    assert capsys.readouterr().out == shown
    assert "hello" in shown


def test_what_show_prints_as_json_is_a_case(path: Path, tmp_path: Path, capsys: Any) -> None:
    """Written to a file, it can be shown."""
    assert main(["show", "request-0", "--json", f"--store={path}"]) == 0
    (tmp_path / "case.json").write_text(capsys.readouterr().out)
    assert main(["show", str(tmp_path / "case.json")]) == 0
    assert "GET /items/0" in capsys.readouterr().out


def test_a_case_that_is_too_large_leaves_older_requests_out(
    stored: Store, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """And says so, so that it can be read again; one request alone that is too large is refused."""
    monkeypatch.setattr("sage_fastapi_obs.cli.case.MOST_BYTES", 100_000)
    put(stored, *(kept(number, request_id="same", details=b'{"spans":[%b{}]}' % (b"{}," * 100)) for number in range(6)))
    file = tmp_path / "case.json"
    assert main(["case", "same", "--out", str(file), f"--store={path}"]) == 0
    assert file.stat().st_size <= 100_000
    stories = json.loads(file.read_bytes())["stories"]
    assert [story["request"]["path"] for story in stories] == [f"/items/{5 - number}" for number in range(len(stories))]
    assert 0 < len(stories) < 6
    capsys.readouterr()
    assert main(["show", str(file)]) == 0
    assert "(older requests are left out, as the case would be too large)" in capsys.readouterr().out
    put(stored, kept(9, details=b'{"spans":[%b{}]}' % (b"{}," * 1_000)))
    assert main(["case", "request-9", "--out", str(file), f"--store={path}"]) == 1
    assert "the case is larger than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody", "--out=x.json"], "no request with this id is in the store"),
        (["request-0", "--out=/nowhere/x.json"], "No such file or directory"),
        (["request-0", "--out=."], "Is a directory"),
    ],
)
def test_what_cannot_be_written_is_said(
    arguments: list[str], said: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In one line; no file is left."""
    monkeypatch.chdir(tmp_path)
    assert main(["case", *arguments, f"--store={path}"]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not what it should be: Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"5", "should be an object"),
        (b"{}", "stories: Field required"),
        (json.dumps({**CASE, "format": "sage-obs-case/2"}).encode(), "format: Input should be 'sage-obs-case/1'"),
        (json.dumps({**CASE, "stories": [{}] * 21}).encode(), "stories"),
        (json.dumps({**CASE, "stories": [{}]}).encode(), "stories.0.request: Field required"),
        (json.dumps({**CASE, "lines": [[]]}).encode(), "lines.0: Input should be an object"),
        (b"[" * 1_000_000, "Invalid JSON: recursion limit exceeded"),
        (b'{"a":' * 1_000_000, "Invalid JSON: recursion limit exceeded"),
        (json.dumps({**CASE, "id": "\udcff"}).encode(), "Invalid JSON"),
        (b" " * (MOST_BYTES + 1), "case.json is larger than 16 MiB"),
        (packed(b" " * 1_000_000) * 500, "larger than 16 MiB"),
        (packed(json.dumps(CASE).encode())[:-9], "cannot read"),
        (packed(b"{}") + b"rest", "cannot read"),
        (b"\x1f\x8b" + b"\xff" * 100, "cannot read"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:12],
)
def test_a_hostile_file_is_refused(content: bytes, said: str, tmp_path: Path, capsys: Any) -> None:
    """With a word on what is wrong, and without much memory, also where little unpacks to much."""
    file = tmp_path / "case.json"
    file.write_bytes(content)
    tracemalloc.start()
    try:
        assert main(["show", str(file)]) == 1
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    out, err = capsys.readouterr()
    assert (said in err, out, "Traceback" in err) == (True, "", False)
    assert most < 4 * MOST_BYTES


@pytest.mark.parametrize("timings", [{"calls": "x"}, {"calls": [1]}, {"calls": None}])
def test_timings_that_are_no_numbers_are_refused(timings: dict[str, Any], path: Path, tmp_path: Path, capsys: Any) -> None:
    """What is shown as a number has to be one."""
    file = tmp_path / "case.json"
    assert main(["case", "request-0", "--out", str(file), f"--store={path}"]) == 0
    case = json.loads(file.read_text())
    case["stories"][0]["timings_ms"] = timings
    file.write_text(json.dumps(case))
    assert main(["show", str(file)]) == 1
    assert "stories.0.timings_ms.calls: Input should be a valid number" in capsys.readouterr().err


def test_the_deepest_story_can_be_read_again(stored: Store, path: Path, tmp_path: Path, capsys: Any) -> None:
    """Spans on the last level with values that are as deep as they can be."""
    deep = json.loads("[" * 500 + "]" * 500)
    spans = [span(f"s{number}", f"s{number - 1}", number, attributes={"deep": deep}) for number in range(60)]
    put(stored, kept(9, span_id="s0", spans=spans, lines=[line("m", data=deep)]))
    file = tmp_path / "case.json"
    assert main(["case", "request-9", "--out", str(file), f"--store={path}"]) == 0
    assert main(["show", str(file)]) == 0
    assert "(too deep)" in capsys.readouterr().out


def test_spans_nested_too_deep_are_refused(tmp_path: Path, capsys: Any) -> None:
    """No case of ours nests so deep."""
    node: dict[str, Any] = {"children": []}
    for _ in range(300):
        node = {"children": [node]}
    (tmp_path / "case.json").write_text(json.dumps({**CASE, "stories": [{"spans": [node]}]}))
    assert main(["show", str(tmp_path / "case.json")]) == 1
    assert "Invalid JSON: recursion limit exceeded" in capsys.readouterr().err
