"""`sage-obs show`: kept requests for people, from a store, from the pages of a service, and from a file of anybody's."""

import re
from pathlib import Path

import pytest
from kept_requests import Stored, line, request, span

from sage_fastapi_obs.cli import main

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
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
    failed = request(
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
    orders = [request(number, route="/orders", path="/orders", duration_us=number * 1_000) for number in range(1, 21)]
    return Stored(tmp_path / "stores", [failed, *orders])


def show(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run the command; return what it shows, or says is wrong."""
    assert main(["show", *arguments]) == code
    out, err = capsys.readouterr()
    assert bool(err) == bool(code)
    return err if code else out


@pytest.mark.usefixtures("wide")
def test_the_story_of_an_id(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """What it was, its spans as a tree with bars, its lines without the ids that they share."""
    rows = show(capsys, "broken", f"--store={stored.path}").splitlines()
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
def test_lists(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """Failed ones, newest first; slow ones, slowest first; routes with figures, those that fail first."""
    errors = show(capsys, "errors", f"--store={stored.path}").splitlines()
    assert errors[0].split() == ["time", "key", "ms", "status", "kept", "request"]
    assert len(errors) == 2
    assert errors[1].startswith("2026-11-30 00:20:00.000  ")
    assert errors[1].endswith("84.0     500  failed  GET /items/0 LookupError (/items/{item_id})")
    key = errors[1].split()[2]
    assert "LookupError: no" in show(capsys, key, f"--store={stored.path}")
    slow = show(capsys, "slow", f"--store={stored.path}", "--limit=3").splitlines()
    assert [row.split()[3] for row in slow[1:4]] == ["84.0", "20.0", "19.0"]
    routes = show(capsys, "routes", f"--store={stored.path}").splitlines()
    assert [row.split() for row in routes] == [
        ["kept", "failed", "p50", "ms", "p95", "ms", "max", "ms", "route"],
        ["1", "1", "84.0", "84.0", "84.0", "GET", "/items/{item_id}"],
        ["20", "0", "10.0", "19.0", "20.0", "GET", "/orders"],
    ]
