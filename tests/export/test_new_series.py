"""The exported rules of results, judged by promtool where a series has no beginning at 0 that a scrape could see."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import need

pytestmark = pytest.mark.stack

RULES = Path(__file__).parents[2] / "prometheus" / "rules" / "result.yml"
TARGET = 'service="shop",job="shop",instance="one:8000"'
FAILURES = f'result_failure_total{{{TARGET},operation="import",component=""}}'
UP, STARTED = f"up{{{TARGET}}}", f"process_start_time_seconds{{{TARGET}}}"
LONG_AGO = "-86400x200"
MANY, VERY_MANY, SLOW = "ResultHighErrorRate", "ResultCriticalSystemFailure", "ResultSlowResponse"


def firing(tmp_path: Path, series: dict[str, str], expected: dict[str, list[str]], labels: dict[str, str]) -> str:
    """Let promtool judge the rules at some times, every 15 seconds; return what it finds wrong."""
    tests = [
        {"eval_time": at, "alertname": name, "exp_alerts": [{"exp_labels": {"service": "shop", **labels}}] * (name in names)}
        for at, names in expected.items()
        for name in (MANY, VERY_MANY, SLOW)
    ]
    (tmp_path / "rules.yml").write_text(json.dumps(without_texts()))
    given = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "15s", "input_series": given, "alert_rule_test": tests}
    (tmp_path / "test.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [test]}))
    done = subprocess.run(
        [need("promtool"), "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def without_texts() -> dict[str, Any]:
    """Read the rules, without what they say."""
    content: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for group in content["groups"]:
        group["rules"] = [{"alert": rule["alert"], "expr": rule["expr"]} for rule in group["rules"]]
    return content


STORIES: dict[str, tuple[dict[str, str], dict[str, list[str]]]] = {
    "a new operation fails 60 times before its first scrape": (
        {UP: "1x200", STARTED: LONG_AGO, FAILURES: "_x40 60x100"},
        {"9m45s": [], "10m": [MANY], "14m45s": [MANY], "15m": []},
    ),
    "the same where nothing is known of its target": (
        {FAILURES: "_x8 60x60"},
        {"1m45s": [], "2m": [MANY], "4m": [MANY], "6m45s": [MANY], "7m": []},
    ),
    "a process fails 110 times before its own first scrape": (
        {UP: "_x40 1x100", STARTED: "_x40 595x100", FAILURES: "_x40 110x100"},
        {"9m45s": [], "10m": [MANY, VERY_MANY], "14m": [MANY, VERY_MANY], "15m": []},
    ),
    "Prometheus finds a service that has run for long": (
        {UP: "_x40 1x100", STARTED: f"_x40 {LONG_AGO}", FAILURES: "_x40 5000x100"},
        {"10m": [], "12m": [], "14m45s": [], "15m": [], "20m": []},
    ),
    "Prometheus was away for half an hour": (
        {UP: "1x40 _x120 1x100", STARTED: f"-86400x40 _x120 {LONG_AGO}", FAILURES: "5000x40 _x120 5001x100"},
        {"10m": [], "40m30s": [], "42m": [], "46m": [], "50m": []},
    ),
    "a target did not answer for ten minutes": (
        {UP: "1x40 0x40 1x100", STARTED: f"-86400x40 stale _x39 {LONG_AGO}", FAILURES: "5000x40 stale _x39 5001x100"},
        {"10m": [], "20m30s": [], "22m": [], "25m": [], "30m": []},
    ),
    "a process fails, begins anew again and again, and goes on failing": (
        {UP: "1x200", STARTED: "0x200", FAILURES: "_x40 10 20 30 10 20 30 10 20 30 10 20 30 30x100"},
        {"10m": [], "12m": [MANY], "13m": [MANY, VERY_MANY], "19m": []},
    ),
    "failures that rise as they always did": (
        {UP: "1x200", STARTED: LONG_AGO, FAILURES: "1000+2x40 1080+4x100"},
        {"5m": [], "10m": [], "16m": [MANY]},
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_failures_of_a_new_series_are_counted_once(name: str, tmp_path: Path):
    """Each failure counts for five minutes, also before the first scrape, but not what came before its target was known."""
    series, expected = STORIES[name]
    assert firing(tmp_path, series, expected, {}) == ""


def test_a_slow_operation_that_runs_once_is_seen(tmp_path: Path):
    """A thousand fast runs of another do not hide it, and neither of them had been scraped before."""
    series = {UP: "1x200", STARTED: LONG_AGO}
    for operation, slow, runs in (("fast", False, 1_000), ("report", True, 3)):
        for le in ("0.01", "5.0", "10.0", "+Inf"):
            count = 0 if slow and le in ("0.01", "5.0") else runs
            labels = f'{TARGET},operation="{operation}",status="success",le="{le}"'
            series[f"result_duration_seconds_bucket{{{labels}}}"] = f"_x40 {count}x100"
    expected = {"9m45s": [], "10m": [SLOW], "14m45s": [SLOW], "15m": []}
    assert firing(tmp_path, series, expected, {"operation": "report"}) == ""
