"""Lines that never arrived, counted by output and cause."""

from collections.abc import Iterable
from typing import Literal

from sage_fastapi_obs.catalog import LOG_METRICS, CountCollector

Cause = Literal["held", "full", "failed", "refused", "shutdown"]


class Losses(CountCollector):
    """How many lines each output has lost; shows itself in a registry, and works without one."""

    component = "Losses"

    metric = LOG_METRICS[0]

    def __init__(self) -> None:
        self.counts: dict[tuple[str, Cause], int] = {}

    def watch(self, output: str, causes: Iterable[Cause]) -> None:
        """Create the counters of an output at 0, so that `rate()` sees the first loss."""
        for cause in causes:
            self.counts.setdefault((output, cause), 0)

    def count(self, output: str, cause: Cause, lines: int = 1) -> None:
        """Count lines of an output, which holds its own lock meanwhile."""
        self.counts[output, cause] = self.counts.get((output, cause), 0) + lines

    def lost_by(self, output: str) -> int:
        """Return what an output has lost so far, for whatever cause."""
        return sum(count for (name, _), count in self.counts.copy().items() if name == output)

    def counted(self) -> list[tuple[tuple[str, ...], int]]:
        """Return all counts."""
        return sorted(self.counts.copy().items())
