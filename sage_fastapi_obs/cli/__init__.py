"""`sage-obs`: what is done from a terminal, one module per command."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sage_fastapi_obs.cli import case, contract, doctor, export, logs, mcp_command, show, stacks_command, store_command
from sage_fastapi_obs.cli.app_process import end_with_threads

__all__ = ["console", "main"]

COMMANDS = {
    "show": show,
    "case": case,
    "logs": logs,
    "mcp": mcp_command,
    "stacks": stacks_command,
    "store": store_command,
    "export": export,
    "doctor": doctor,
    "contract": contract,
}
"""Each module says what its command is for (`HELP`), what it takes (`add_arguments`) and does it (`run`)."""
FAILED = 1
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(prog="sage-obs", description="Tools for services with sage_fastapi_obs.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run, fail=command.error, prog=command.prog)
    given = parser.parse_args(arguments)
    try:
        code: int = given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough.
        code = 0
    except OSError as error:
        print(f"sage-obs: {error}", file=sys.stderr)
        code = FAILED
    except KeyboardInterrupt:
        code = INTERRUPTED
    return code


def console(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and end this process, whatever an app that it has loaded leaves running."""
    _open_what_is_closed()
    code = main(arguments)
    _drop_what_cannot_be_written()
    end_with_threads(code)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Discard what is written to an output that whoever started us has closed; no file of ours may get its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process


def _drop_what_cannot_be_written() -> None:
    """Keep Python from complaining of it once more when it flushes at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
