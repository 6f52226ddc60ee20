"""`sage-obs store`: where the store of a service is, and its removal."""

import argparse
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from sage_fastapi_obs.cli.request_sources import SourceError, add_store_arguments, store_file
from sage_fastapi_obs.store.database import clear

HELP = "Say where the store of a service is (`path`), or delete all that it has kept (`clear`), also while the service runs."
FAILED = 1
_NAME = re.compile(r".*-[0-9a-f]{16}\.v\d+\.sqlite3")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("what", choices=_ACTIONS, help="what to do")
    add_store_arguments(parser)


def run(given: argparse.Namespace) -> int:
    """Do it, and say what was done; return the exit code."""
    try:
        _ACTIONS[given.what](store_file(given))
    except (SourceError, sqlite3.Error, OSError) as error:
        print(f"sage-obs store: {error}", file=sys.stderr)
        return FAILED
    return 0


def _clear(path: Path) -> None:
    if not _NAME.fullmatch(path.name):
        # A mistyped path must not cost somebody another database.
        raise SourceError(f"{path} is not named as a store, so it is not deleted")
    size_bytes = path.stat().st_size
    clear(path)
    print(f"deleted {path}, {size_bytes:,} bytes")


_ACTIONS: dict[str, Callable[[Path], None]] = {"path": print, "clear": _clear}
