"""What the store did not keep, counted by cause."""

import threading
from typing import Literal

from sage_fastapi_obs.catalog import STORE_METRIC, CountCollector

LossCause = Literal["queue_full", "not_encoded", "too_large", "disk_full", "busy", "shutdown", "damaged", "evicted"]


class StoreLosses(CountCollector):
    """Counts requests by what became of them; `damaged` counts files, of which nobody knows what was in them."""

    component = "StoreLosses"

    metric = STORE_METRIC

    def __init__(self) -> None:
        self.counts: dict[LossCause, int] = dict.fromkeys(self.metric.labels["cause"], 0)  # type: ignore[arg-type]
        self._lock = threading.Lock()

    def count(self, cause: LossCause, number: int = 1) -> None:
        """Add to a cause."""
        with self._lock:
            self.counts[cause] += number

    def counted(self) -> list[tuple[tuple[str], int]]:
        """Return all counts."""
        return [((cause,), count) for cause, count in self.counts.copy().items()]
