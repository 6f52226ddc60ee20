"""`sage-obs doctor`: what is wrong with the observability of an app, and what to change."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sage_fastapi_obs.cli.app_process import add_app_arguments, app_command, limited

if TYPE_CHECKING:
    from sage_fastapi_obs.doctor.diagnosis import Diagnosis

HELP = (
    "Look at an app, ask routes that are added to it, and say what is wrong with its observability; nothing is sent or stored."
)
FAULTY = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_app_arguments(parser)
    parser.add_argument("--call", action="store_true", help="ask the app's own GET routes without parameters, too")
    parser.add_argument("--force", action="store_true", help="also where the environment is called production")
    parser.add_argument("--ignore", action="append", default=[], metavar="CHECK", help="leave a check out; may be given again")
    parser.add_argument("--json", action="store_true", help="print all as one JSON document")


@app_command
def run(given: argparse.Namespace) -> int:
    """Say what is wrong; return the exit code."""
    # Not before: it loads what is needed to look at apps.
    from sage_fastapi_obs.doctor.diagnosis import diagnose  # noqa: PLC0415
    from sage_fastapi_obs.doctor.fault import CHECKS  # noqa: PLC0415

    if unknown := sorted({*given.ignore} - {*CHECKS}):
        given.fail(f"--ignore {', '.join(unknown)}: there are {', '.join(CHECKS)}")
    with _silent(), limited():
        diagnosis = diagnose(
            given.app,
            factory=given.factory,
            app_dir=given.app_dir,
            call=given.call,
            with_lifespan=given.lifespan,
            force=given.force,
            ignored=given.ignore,
        )
    print(json.dumps(diagnosis.as_json(), indent=2)) if given.json else _print(diagnosis)
    return 0 if diagnosis.is_healthy else FAULTY


@contextmanager
def _silent() -> Iterator[None]:
    """Let what the app writes to standard output and error go nowhere: it is asked to fail, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


def _print(diagnosis: "Diagnosis") -> None:
    for fault in diagnosis.faults:
        print(f"{'note' if fault.is_note else 'fault'}: {fault.what} [{fault.check}]\n       {fault.fix}")
    if not diagnosis.faults:
        print(f"{diagnosis.app}: nothing is wrong")
    for name, figure in diagnosis.figures.items():
        shown = ", ".join(f"{layer} {cost}" for layer, cost in figure.items()) if isinstance(figure, dict) else figure
        print(f"{name.replace('_us', ' (µs of CPU)').replace('_', ' ')}: {shown}")
