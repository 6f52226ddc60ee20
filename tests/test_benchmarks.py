"""The benchmarks run, part by part, and what the pages show is what was measured; no test asserts a time."""

import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE_SECONDS

from benchmarks import as_run, cost, report, scaling
from benchmarks.__main__ import PARTS
from benchmarks.asked import BROWSER, browser, browser_untraced
from benchmarks.chart import LEFT_OUT, chart
from benchmarks.drive import app_maker, ask, scope_of
from benchmarks.effort import SHORT
from benchmarks.sockets import Slice, read_wrk
from benchmarks.targets import RUN_TARGETS, TARGETS, Target
from benchmarks.turns import added, least, quiet
from benchmarks.variants import VARIANTS, installed

ROOT = Path(__file__).parents[1]
RESULTS = json.loads(report.RESULTS.read_text())
PRINTED = """Running 1s test @ http://127.0.0.1:36061/items/42
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.61ms    5.36ms  41.73ms   88.87%
    Req/Sec     5.08k   613.03     5.98k    80.00%
  Latency Distribution
     50%    2.10ms
     75%    4.92ms
     90%  950.00us
     99%    1.20s
  5061 requests in 1.01s, 726.34KB read
Requests/sec:   5021.84
Transfer/sec:    720.71KB
"""
seconds = st.floats(min_value=1e-6, max_value=1e-2)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run a little of everything, as `python -m benchmarks --short` does; return the results."""
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    shown = [page.read_bytes() for page in report.pages(RESULTS)]
    command = [sys.executable, "-m", "benchmarks", "--short", "--json", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=2 * PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [page.read_bytes() for page in report.pages(RESULTS)] == shown, "a short run has written into the pages"
    return json.loads(path.read_text())


def numbers(value: Any) -> list[float]:
    """Collect all numbers of some results."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def test_a_look_while_working_shows_what_was_asked_for():
    """One part, and of it one variant beside the peers that ratios are taken of."""
    command = [sys.executable, "-m", "benchmarks", "--short", "cost", "ours-100"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "| ours, all four, 100 % |" in shown.stdout


@pytest.mark.soak_only
def test_every_part_runs(measured: dict[str, Any]):
    """A short run has figures of every part, all of them finite."""
    assert list(measured) == ["made", *PARTS]
    assert all(numbers(measured[part]) or "skipped" in measured[part] for part in measured)
    assert all(math.isfinite(number) for number in numbers(measured))


@pytest.mark.soak_only
def test_every_installed_variant_is_measured(measured: dict[str, Any]):
    """No variant whose packages are there is left out; the others are skipped."""
    assert list(measured["cost"]) == [name for name, variant in VARIANTS.items() if installed(variant)]
    assert all({"added_us", "quiet_us", "bare_us", "to_bare"} <= set(one) for one in measured["cost"].values())


@pytest.mark.soak_only
def test_growth_has_every_count(measured: dict[str, Any]):
    """Routes, chunks and values are measured at each number that was asked for."""
    for kind, counts in (("routes", SHORT.routes), ("chunks", SHORT.chunks), ("values", SHORT.values)):
        for by_count in measured["scaling"][kind].values():
            assert list(by_count) == [str(count) for count in counts]
    assert set(measured["scaling"]["values"]) == {"route", "status"}


@pytest.mark.soak_only
def test_a_scrape_has_the_series_it_claims(measured: dict[str, Any]):
    """Each registry has at least as many lines as series were wanted, and not several times as many."""
    for by_series in measured["scrape"].values():
        for series, one in by_series.items():
            assert int(series) * 0.9 <= one["lines"] <= int(series) * 1.5 + 250
            assert set(one["longest_stall_ms"]) == set(report.WAYS)


@pytest.mark.soak_only
def test_sockets_are_measured_or_the_reason_is_said(measured: dict[str, Any]):
    """With `wrk` there are figures of each variant, without it a sentence."""
    sockets = measured["sockets"]
    assert "skipped" in sockets or sockets["variants"]["bare"]["of_bare_per_second"] == 1.0


@pytest.mark.parametrize("page", [report.PAGE, report.README, report.CHART], ids=lambda page: page.name)
def test_pages_show_what_was_measured(page: Path):
    """Page, README and chart are what the results make them: `python -m benchmarks report` writes them."""
    assert page.read_text() == report.pages(RESULTS)[page]


def test_what_the_readme_says_first_is_so():
    """All four cost less than a quarter of the usual stack, also stored and sent."""
    opening = " ".join(report.README.read_text().partition("```")[0].split())
    assert "a small part of the CPU of the usual four packages" in opening
    assert RESULTS["cost"]["ours-100"]["to_usual"] < 0.25
    assert RESULTS["as_run"]["cost"]["100 %, OTLP"]["to_usual"] < 0.25


def test_everything_was_measured_that_has_a_target():
    """The committed results are those of a full run."""
    assert [target.says for target in TARGETS if target.measured(RESULTS) is None] == []
    assert set(RESULTS["cost"]) == set(VARIANTS)
    run = RESULTS.get("as_run")
    assert run is None or [target.says for target in RUN_TARGETS if target.measured(run) is None] == []


@given(limit=seconds, measured=seconds, at_least=st.booleans())
def test_a_target_is_met_on_its_side_of_the_limit(limit: float, measured: float, at_least: bool):
    """A target says yes on its side, no on the other, and neither when nothing was measured."""
    target = Target("", limit, lambda results: results["figure"], at_least=at_least)
    assert target.met({"figure": measured}) is (measured == limit or (measured > limit) is at_least)
    assert target.met({}) is None


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=9), seconds)
def test_a_variant_that_adds_the_same_everywhere_adds_that(pairs: list[tuple[float, float]], more: float):
    """However the machine's speed changes between blocks, a constant difference is found."""
    shifted = [(bare, bare + more) for bare, _ in pairs]
    assert added(shifted) == pytest.approx(more, rel=1e-3, abs=1e-9)
    assert quiet(shifted) == pytest.approx(more, rel=1e-3, abs=1e-9)
    assert least(shifted) == pytest.approx(more, rel=1e-3, abs=1e-9)


def test_ratios_are_taken_within_a_round(monkeypatch: pytest.MonkeyPatch):
    """A machine that is three times slower in one round changes times, not ratios."""

    def rounds(_part: str, jobs: Any, _turns: Any) -> list[Any]:
        costs = {"ours-100": 2.0, "ours-id": 1.0, "correlation-id": 4.0, "instrumentator": 4.0, "usual-100": 20.0}
        return [{name: [(10.0 * slow, (10.0 + costs[name]) * slow)] for name in jobs} for slow in (1.0, 3.0)]

    monkeypatch.setattr(cost, "take_turns", rounds)
    figures = cost.measure(SHORT, ["ours-100", "ours-id", "correlation-id", "instrumentator", "usual-100"])
    assert {name: one["to_instrumentator"] for name, one in figures.items()} == pytest.approx(
        {"ours-100": 0.5, "ours-id": 0.25, "correlation-id": 1.0, "instrumentator": 1.0, "usual-100": 5.0}
    )
    assert figures["ours-100"]["to_usual"] == pytest.approx(0.1)
    assert figures["ours-100"]["to_bare"] == pytest.approx(0.2)
    assert figures["ours-id"]["to_peer"] == pytest.approx(0.25)
    assert "to_peer" not in figures["ours-100"]


def test_as_run_compares_with_the_metrics_only_peer_of_the_same_requests(monkeypatch: pytest.MonkeyPatch):
    """Cases are held against the peer that served the same kind of request; differences are taken within a round."""

    def rounds(_part: str, jobs: Any, _turns: Any) -> list[Any]:
        costs = {"instrumentator": 4.0, "usual stack, OTLP": 40.0, "100 %, OTLP": 5.0, "add_middleware": 1.5, "100 %": 3.0}
        minimal = {"minimal, instrumentator": 8.0, "minimal, 100 %, install, no store": 4.0}
        us = {**dict.fromkeys(jobs, 1.0), **costs, **minimal}
        return [{name: [(10.0 * slow, (10.0 + us[name]) * slow)] for name in jobs} for slow in (1e-6, 3e-6, 1e-6)]

    monkeypatch.setattr(as_run, "take_turns", rounds)
    monkeypatch.setattr(as_run, "installed", lambda _: True)
    found = as_run.measure_cost(SHORT.as_run, SHORT.cost_requests)
    assert found["cost"]["100 %, OTLP"]["to_instrumentator"] == pytest.approx(1.25)
    assert found["cost"]["100 %, OTLP"]["to_usual"] == pytest.approx(1 / 8)
    assert found["cost"]["minimal, 100 %, install, no store"]["to_instrumentator"] == pytest.approx(0.5)
    assert "to_usual" not in found["cost"]["minimal, 100 %, install, no store"]
    assert found["adds_us"]["add_middleware"] == pytest.approx(1.5)
    # In processes of their own: 3 µs with it, 1 without.
    assert found["adds_us"]["insight"] == pytest.approx(2.0)
    assert "| add_middleware, over install | ≤ 4 µs | 1.5 µs | yes |" in report.table_of_run(found)
    assert "| 100 %, OTLP | 5.0 | 5.0 | 1.25 | 0.12 |" in report.table_of_run(found)


def test_what_as_run_cannot_measure_is_left_out(monkeypatch: pytest.MonkeyPatch):
    """Without the peers, the cases of ours are measured, and have no ratios."""
    monkeypatch.setattr(as_run, "take_turns", lambda _part, jobs, _turns: [{name: [(1e-6, 2e-6)] for name in jobs}])
    monkeypatch.setattr(as_run, "installed", lambda variant: variant.label.startswith("ours"))
    found = as_run.measure_cost(SHORT.as_run, SHORT.cost_requests)
    assert all(set(one) == {"added_us", "quiet_us", "bare_us"} for one in found["cost"].values())
    assert set(found["adds_us"]) == set(as_run.DIFFERENCES)


def test_a_request_as_people_send_it_is_like_no_other():
    """It has the headers of a browser and ids of its own; only behind a gateway that traces a sampled trace, too."""
    requests = [browser("/items/42") for _ in range(100)]
    ids = [dict(request.headers)[b"x-request-id"] for request in requests]
    parents = [dict(request.headers)[b"traceparent"] for request in requests]
    assert len(BROWSER) == 12
    assert len(set(ids)) == len(set(parents)) == 100
    assert all(parent.endswith(b"-01") for parent in parents)
    assert b"traceparent" not in dict(browser_untraced("/items/42").headers)
    assert scope_of(requests[0])["query_string"]


@pytest.mark.parametrize(("routes", "after"), [(31, 0), (31, 15), (31, 30), (1, 0)])
async def test_the_route_asked_for_stands_where_it_is_said(routes: int, after: int):
    """It has so many routes behind it, and is found."""
    app = app_maker(routes, after=after)()
    paths = [path for route in app.routes if (path := getattr(route, "path", "")).startswith(("/items", "/other"))]
    assert paths.index("/items/{item}") == routes - 1 - after
    assert len(paths) == routes
    assert (await ask(app, "/items/42")).status == 200


def test_a_chunk_is_what_ours_adds_above_the_wrapper(monkeypatch: pytest.MonkeyPatch):
    """What a request costs once is no part of what a chunk costs, and neither is passing it through."""

    def rounds(_part: str, jobs: Any, _turns: Any) -> list[Any]:
        def us(name: str) -> float:
            variant, count = name.split()
            return 70 + 0.25 * int(count) if variant == "ours-100" else 0.1 * int(count)

        return [{name: [(0.0, us(name) / 1e6)] for name in jobs}]

    monkeypatch.setattr(scaling, "take_turns", rounds)
    assert scaling.measure(SHORT)["per_chunk_us"] == pytest.approx(0.15)


def test_what_wrk_prints_is_read():
    """Rates and times are read in their units."""
    assert astuple(read_wrk(PRINTED)) == pytest.approx(astuple(Slice(per_second=5021.84, p50=0.0021, p99=1.2, longest=0.04173)))


@pytest.mark.parametrize("fault", ["  Non-2xx or 3xx responses: 12", "  Socket errors: connect 0, read 3, write 0, timeout 0"])
def test_wrong_answers_are_no_measurement(fault: str):
    """A server that fails fast is not a fast server."""
    with pytest.raises(RuntimeError, match=fault.strip()[:7]):
        read_wrk(PRINTED + fault)


def test_the_chart_has_a_bar_for_each_variant_shortest_first():
    """Bars are as long as what they stand for, in order, and named; ours stand out."""
    drawn = ET.fromstring(chart(RESULTS["cost"]))
    svg = "{http://www.w3.org/2000/svg}"
    bars = [(bar.get("class"), float(bar.get("width", "0"))) for bar in drawn.iter(f"{svg}rect")]
    shown = sorted((one["added_us"], name) for name, one in RESULTS["cost"].items() if name not in LEFT_OUT)
    assert [kind for kind, _ in bars] == ["ours" if name.startswith("ours") else "peer" for _, name in shown]
    assert [width for _, width in bars] == pytest.approx([us / shown[-1][0] * bars[-1][1] for us, _ in shown], abs=0.1)
    texts = [text.text or "" for text in drawn.iter(f"{svg}text")]
    assert [text for text in texts if text in {variant.label for variant in VARIANTS.values()}] == [
        VARIANTS[name].label for _, name in shown
    ]
    assert "prefers-color-scheme: dark" in chart(RESULTS["cost"])
