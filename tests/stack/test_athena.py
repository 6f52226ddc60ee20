"""Queries of Athena, run by DuckDB over lines that a service wrote."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import athena
import httpx
import pytest
from lake import QUERIES, put, select
from running import ROOT, serving
from support import until
from test_scripts import run

pytestmark = pytest.mark.stack
Found = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Have lines of customer-id in the lake, those of now and the same ones of two hours and two days ago."""
    folder = tmp_path_factory.mktemp("lake")
    path = folder / "lines.jsonl"
    settings = {
        "SAGE_OBS_FILE": str(ROOT / "deploy/services/customer-id.yaml"),
        "SAGE_OBS_MONITORING__ACCESS": "local",
        "SAGE_OBS_TRACING__EXPORTER": "none",
    }
    with serving("example_app.app:create_app", folder, SAGE_OBS_LOGGING__OUTPUT=str(path), **settings) as port:
        url = f"http://127.0.0.1:{port}"
        for headers in ({"X-Correlation-ID": f"guest-{number}"} for number in range(3)):
            httpx.post(f"{url}/identify", json={"location": "Hall"}, headers=headers)
            httpx.get(f"{url}/boom", headers=headers)
        until(lambda: path.read_text().count('"status":500') >= 3, "lines")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for ago in (timedelta(), timedelta(hours=2), timedelta(days=2)):
        put(folder, [{**line, "timestamp": moved(line["timestamp"], ago)} for line in lines])
    (folder / "bin").mkdir()
    program = folder / "bin/aws"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {athena.__file__} "$@"\n')
    program.chmod(0o755)
    return folder, lines


def moved(timestamp: str, ago: timedelta) -> str:
    """Write a time as lines have it, some time earlier."""
    return (datetime.fromisoformat(timestamp) - ago).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def ask(lake: Path, *arguments: str) -> Any:
    """Search with the script."""
    return run("log-query.sh", "--in", "athena", *arguments, LAKE=str(lake), PATH=f"{lake / 'bin'}:/usr/bin:/bin")


def test_a_search_finds_the_lines_of_its_time(lake: Found):
    """Rows are printed when the query has ended: those of the time that was asked for, the newest first, with their ids."""
    folder, lines = lake
    done = ask(folder, "--service", "customer-id", "--level", "error", "--since", "30m")
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(row) for row in done.stdout.splitlines()]
    failed = [line for line in lines if line["level"] == "error"]
    assert len(failed) >= 3
    names = ("timestamp", "level", "message", "correlation_id")
    assert found == sorted(
        ({name: line[name] for name in names} for line in failed), key=lambda one: one["timestamp"], reverse=True
    )
    most = len(failed) * 2 + 1
    older = ask(folder, "--level", "error", "--since", "3d", "--most", str(most)).stdout.splitlines()
    assert [json.loads(row)["timestamp"][:10] == failed[0]["timestamp"][:10] for row in older][-1:] == [False]
    assert len(older) == most


def test_a_search_finds_the_lines_of_an_id(lake: Found):
    """Whichever of its ids is given; an id that nobody has had finds nothing, and that is no failure."""
    folder, lines = lake
    story = [line for line in lines if line.get("correlation_id") == "guest-1"]
    assert len(story) >= 3
    for name in ("correlation_id", "trace_id"):
        sought = [line for line in story if line[name] == story[0][name]]
        found = [json.loads(row) for row in ask(folder, "--id", story[0][name]).stdout.splitlines()]
        assert sorted(line["message"] for line in found) == sorted(line["message"] for line in sought)
    nothing = ask(folder, "--id", "nobody")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "")


def test_a_query_that_fails_says_why(lake: Found, tmp_path: Path):
    """Athena's reason is on stderr, and the exit code is not 0."""
    folder, _ = lake
    (tmp_path / "bin").symlink_to(folder / "bin")
    done = ask(tmp_path, "--id", "x")
    assert done.returncode == 1
    assert done.stderr.startswith("Athena did not run query q-1: no files found")


@pytest.mark.parametrize("name", ["errors", "slow_endpoints"])
def test_a_query_of_the_repository_runs(name: str, lake: Found):
    """With the columns of the table, whose types hold what lines have."""
    folder, lines = lake
    columns, rows = select(folder, (QUERIES / f"{name}.sql").read_text())
    if name == "errors":
        assert columns == ["timestamp", "level", "message"]
        assert len(rows) == 3 * sum(line["level"] == "error" for line in lines)
    else:
        assert "p95_ms" in columns


def test_the_table_has_what_lines_have(lake: Found):
    """Numbers, objects and errors are read as what they are."""
    folder, _ = lake
    now = datetime.now(UTC).strftime("%Y/%m/%d")
    sql = "SELECT element_at(data, 'location'), status, error.type FROM tastesync_logs.customer_id WHERE day <= '{}' AND {}"
    _, rows = select(folder, sql.format(now, "data IS NOT NULL AND message = 'Customer identified'"))
    assert {row[0] for row in rows} == {"Hall"}
    _, rows = select(folder, sql.format(now, "status = 500"))
    assert {row[1:] for row in rows} == {(500, "ValueError")}
    assert len(rows) == 9
