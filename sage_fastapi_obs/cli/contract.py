"""`sage-obs contract`: what an app promises to those who read its telemetry, and which of them a change breaks."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from sage_fastapi_obs.cli.app_process import add_app_arguments, app_command, limited
from sage_fastapi_obs.errors import ObservabilityError

if TYPE_CHECKING:
    from sage_fastapi_obs.contract.telemetry_contract import Contract

HELP = (
    "Write down what an app's telemetry offers (`write`), or say what has changed, and which dashboards and alerts that breaks."
)
FILE = Path("telemetry-contract.json")
CHANGED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("what", choices=_ACTIONS, help="what to do")
    add_app_arguments(parser)
    parser.add_argument("--file", type=Path, default=FILE, help=f"the contract; by default {FILE}")
    parser.add_argument(
        "--used-by",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="dashboards, rules and runbooks of yours: a file, or a folder with all below; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="say it for programs")


@app_command
def run(given: argparse.Namespace) -> int:
    """Do it; return the exit code: 0 where all is as promised, 1 where it is not, 2 where that cannot be said."""
    return _ACTIONS[given.what](given)


def _write(given: argparse.Namespace) -> int:
    from sage_fastapi_obs.contract.telemetry_contract import written  # noqa: PLC0415 - only for this command

    given.file.write_text(written(_contract(given)), encoding="utf-8")
    print(given.file)
    return 0


def _check(given: argparse.Namespace) -> int:
    from sage_fastapi_obs.contract.telemetry_contract import read_contract  # noqa: PLC0415

    old, new = read_contract(given.file), _contract(given)
    from sage_fastapi_obs.contract.comparison import compare  # noqa: PLC0415
    from sage_fastapi_obs.contract.comparison_text import comparison_json, comparison_text  # noqa: PLC0415
    from sage_fastapi_obs.contract.use_files import uses_in  # noqa: PLC0415

    found = uses_in(given.used_by)
    comparison = compare(old, new, found.uses)
    print(
        json.dumps(comparison_json(comparison, found.unread), indent=2, ensure_ascii=False)
        if given.json
        else comparison_text(comparison, found.unread)
    )
    return 0 if comparison.is_compatible else CHANGED


def _contract(given: argparse.Namespace) -> "Contract":
    from sage_fastapi_obs.inspection.app_loop import run_in_loop  # noqa: PLC0415
    from sage_fastapi_obs.inspection.inspected_app import inspected_app  # noqa: PLC0415

    try:
        from sage_fastapi_obs.contract.app_contract import contract_of  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise ObservabilityError("contracts need a parser of PromQL: pip install 'sage_fastapi_obs[contract]'") from missing

    async def read() -> "Contract":
        async with inspected.running(with_lifespan=True) if given.lifespan else nullcontext():
            return await contract_of(inspected)

    # What the app prints is no part of the answer.
    with (
        limited(),
        redirect_stdout(sys.stderr),
        inspected_app(given.app, factory=given.factory, app_dir=given.app_dir) as inspected,
    ):
        return run_in_loop(read())


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {"write": _write, "check": _check}
