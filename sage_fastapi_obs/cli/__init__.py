"""`sage-obs`: what is done from a terminal, one module per command."""

import argparse
import os
import sys
from collections.abc import Sequence

from sage_fastapi_obs.cli import export, logs

__all__ = ["main"]

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(prog="sage-obs", description="Tools for services with sage_fastapi_obs.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    logs.add_to(commands)
    export.add_to(commands)
    given = parser.parse_args(arguments)
    try:
        code: int = given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return code
