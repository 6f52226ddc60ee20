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


def blamed(verdict: Verdict) -> list[str]:
    """List the requests that are said to have blocked the loop, and have not."""
    return [fault for fault in verdict.faults if fault.startswith("innocents not blamed")]


def kinds_found(verdict: Verdict) -> set[str]:
    """See that a line is never wrong. Return which sorts of blocks were named."""
    assert verdict.right["lines"] == verdict.judged["lines"]
    return {what.removeprefix(KIND) for what in verdict.right if what.startswith(KIND) and verdict.right[what]}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_blocks_are_named_and_innocents_are_not(loop: str, tmp_path: Path) -> None:
    """Each way to block the loop is named with its line, in each place, and none of the many others is called a blocker."""
    found: set[str] = set()
    wrong: list[list[str]] = []
    # More than once only where the machine is so busy that a block ends unseen, as its thread has no processor; or that a
    # request seems to run, as it waits for the interpreter of a thread that has none.
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        verdict = judged(loop, folder, rounds=0, innocents=100)
        found |= kinds_found(verdict)
        wrong.append(blamed(verdict))
        if found >= KINDS and not all(wrong):
            break
    assert found >= KINDS
    assert not all(wrong), wrong


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
    assert not blamed(verdict)
    assert kinds_found(verdict) >= KINDS
