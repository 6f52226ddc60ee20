"""The service's log, read back: what a log store does on a larger scale."""

import json
import os
from pathlib import Path
from typing import Any

from sage_fastapi_obs.signals.lines import console_format

__all__ = ["matching", "pretty", "recent", "start_over"]

Line = dict[str, Any]

LOOKED_AT_BYTES = 512 * 1024
MOST_BYTES = 100 * 1024 * 1024
_for_people = console_format(colours=False)


def recent(path: Path) -> list[Line]:
    """Read the last lines that are whole."""
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - LOOKED_AT_BYTES))
        rows = log.read().split(b"\n")
    # The first may begin in the middle, and what follows the last line end is still being written.
    whole = rows[1 if size > LOOKED_AT_BYTES else 0 : -1]
    return [json.loads(row) for row in whole]


def matching(lines: list[Line], field: str, value: str | None) -> list[Line]:
    """Find the lines with one id; without an id there are none."""
    return [line for line in lines if value is not None and line.get(field) == value]


def pretty(line: Line) -> list[str]:
    """Show a line to people; of an exception its name and text, the stack is in the file."""
    if error := line.get("error"):
        line = {**line, "error": {**error, "stack_trace": f"{error['type']}: {error['message']}"}}
    return _for_people(line).decode().splitlines()


def start_over(path: Path) -> None:
    """Empty a log that has become large, so that a demo left running does not fill the disk."""
    if path.stat().st_size > MOST_BYTES:
        os.truncate(path, 0)
