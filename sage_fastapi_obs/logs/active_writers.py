"""Who writes the lines of this process: several observabilities may be started, each for the requests of its own app."""

from collections.abc import Mapping
from typing import Any, Protocol

from sage_fastapi_obs.active import active_observability, request_observability
from sage_fastapi_obs.logs.level_changes import Levels


class Writer(Protocol):
    """What writes the lines of one observability."""

    observer: object
    lowest: int
    """Severity below which no line is of interest."""
    levels: Levels
    takeover: bool
    """Whether what else writes to the same place is silenced."""

    def accept(
        self, at: float, severity: int, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Write one line, or hold it, or let it go; never raises."""

    def leads_to(self, target: object) -> bool:
        """Tell whether a stream, or the file of a path, leads to the same place as these lines."""


WRITERS: list[Writer] = []
"""All who are attached, the first first."""


def attached() -> Writer | None:
    """Return who writes the lines of this moment: the observability of the request, or the first; None without any."""
    observability = request_observability()
    if observability is not None:
        for logs in WRITERS:
            if logs.observer is observability:
                return logs
    return next(iter(WRITERS), None)


def is_written(by: tuple[Writer, ...], logger: str | None, severity: int) -> bool:
    """Tell whether a line of this moment is written by one of some writers."""
    logs = attached()
    return logs in by and logs is not None and severity >= logs.levels.severity_of(logger)


def count_header(header: str) -> None:
    """Count a header of a caller's that was not used."""
    observability = active_observability()
    if observability is not None:
        observability.dropped_headers.count(header)
