"""Causes planted in a real service, among many innocent requests: who is named for what, on each kind of event loop."""

import os
from pathlib import Path

import pytest
from planted.judge import Judge, Verdict, run
from servers import Postgres, running

KIND = "kinds of blocks named: "
KINDS = {"sleep", "loop", "query", "multiply", "match", "parse", "sort"}


def judged(loop: str, folder: Path, rounds: int, innocents: int, **environment: str) -> Verdict:
    """Run the service with its traffic in processes of their own, and judge its lines."""
    run(loop, folder, rounds=rounds, innocents=innocents, **environment)
    return Judge(folder).judge()


def kinds_found(verdict: Verdict) -> set[str]:
    """See what holds on any machine, however busy: who did not block is not blamed. Return which sorts of blocks were named."""
    blamed = [fault for fault in verdict.faults if fault.startswith("innocents not blamed")]
    assert not blamed
    assert verdict.right["lines"] == verdict.judged["lines"]
    return {what.removeprefix(KIND) for what in verdict.right if what.startswith(KIND) and verdict.right[what]}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_blocks_are_named_and_innocents_are_not(loop: str, tmp_path: Path) -> None:
    """Each way to block the loop is named with its line, in each place, and none of the many others is called a blocker."""
    found: set[str] = set()
    # A block may end unseen where the machine is so busy that its thread had no processor.
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        found |= kinds_found(judged(loop, folder, rounds=0, innocents=100))
        if found >= KINDS:
            break
    assert found >= KINDS


@pytest.mark.stack
@pytest.mark.soak_only
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_thousand_requests(loop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole matrix of planted causes and first causes named is printed; the same holds."""
    with running(Postgres()) as server:
        verdict = judged(loop, tmp_path, rounds=4, innocents=600, PLANTED_DSN=server.dsn)
    with capsys.disabled():
        print(f"\n{loop}, load {os.getloadavg()[0]:.1f}\n{verdict}")  # noqa: T201 - what it is for
    (tmp_path / "faults.txt").write_text("\n".join(verdict.faults))
    assert kinds_found(verdict) >= KINDS
