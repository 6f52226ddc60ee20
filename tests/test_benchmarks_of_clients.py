"""The benchmark of watched clients runs, case by case; no test asserts a time."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from support import PATIENCE_SECONDS

from benchmarks import clients
from benchmarks.calls import CASES, WATCHES, Calls, calling
from benchmarks.place import discarding_provider

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a little of the benchmark, as `python -m benchmarks.clients --short` does."""
    command = [sys.executable, "-m", "benchmarks.clients", "--short", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


def test_every_case_is_measured_or_the_reason_is_said():
    """Each has finite figures with both samplings; what is not installed is named, unless the tests are what decides."""
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(re.findall(r"^`([\w-]+)` is left out: (.+)$", done.stdout, re.MULTILINE))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in done.stdout.splitlines() if row.startswith("| `")]
    assert [(row[0].strip("`"), row[1]) for row in rows] == [
        (name, sampled) for name in CASES if name not in told for sampled in ("yes", "no")
    ]
    assert all(math.isfinite(float(cell)) for row in rows for cell in row[2:] if cell != "–")
    if told:
        pytest.skip(str(told))


def test_what_is_not_installed_is_left_out_but_never_where_tests_decide(tmp_path: Path):
    """A client or a server that is missing is a sentence, and under CI a failure."""
    (tmp_path / "asyncpg.py").write_text("raise ModuleNotFoundError('no asyncpg here')")
    missing = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    assert "`asyncpg` is left out: " in run("asyncpg", CI="", **missing).stdout
    assert "`redis` is left out: redis-server is not installed" in run("redis", CI="", PATH=str(tmp_path)).stdout
    for name, environment in (("asyncpg", missing), ("redis", {"PATH": str(tmp_path)})):
        assert run(name, CI="true", **environment).returncode != 0


def test_unknown_names_are_refused():
    """The message has the names that there are."""
    done = run("cobol", "operation")
    assert done.returncode == 2
    assert "unknown: cobol; there are operation, " in done.stderr


async def test_calls_that_nobody_watches_are_no_measurement():
    """A twin that should give spans, and gives none, is noticed; so is a bare one that gives some."""
    provider = discarding_provider(sample_rate=1.0)
    tracer = provider.get_tracer("tests")
    silent, telling = calling(lambda: None), calling(lambda: tracer.start_span("call").end())

    async def prove(bare: Calls, *, sampled: bool, **others: Calls) -> None:
        await clients.prove({"bare": bare, **others}, provider, sampled)

    await prove(silent, ours=telling, theirs=telling, sampled=True)
    await prove(silent, ours=silent, theirs=silent, sampled=False)
    for wrong in ({"bare": telling, "ours": telling}, {"bare": silent, "ours": silent}):
        with pytest.raises(AssertionError, match="spans of"):
            await prove(**wrong, sampled=True)
    provider.shutdown()


async def test_each_twin_is_first_as_often_as_the_others():
    """What one leaves in caches hurts all alike; the blocks that warm up are not counted."""
    order: list[str] = []
    twins = {watch: calling(lambda watch=watch: order.append(watch)) for watch in WATCHES}
    blocks = await clients.take_turns(twins, TracerProvider(), clients.Effort(calls=1, rounds=6))
    assert [set(block) for block in blocks] == [set(WATCHES)] * 6
    assert sorted(order[3::3]) == sorted(WATCHES * 2)


def test_figures_are_compared_within_a_round():
    """A machine that is three times slower in one round changes times, and no ratio of what is added."""
    blocks = [{"bare": 10e-6 * slow, "ours": 14e-6 * slow, "theirs": 18e-6 * slow} for slow in (1.0, 3.0, 1.0)]
    row = clients.Figures.of(blocks).row("redis", sampled=True)
    assert row == "| `redis` | yes | 10.0 | 4.0 | 8.0 | 0.50 | 1.40 | 1.80 |"
    empty = clients.Figures(bare=1e-7, ours=2e-6, theirs=4e-6).row("operation", sampled=False)
    assert empty == "| `operation` | no | 0.1 | 2.0 | 4.0 | 0.50 | – | – |"
