"""What the store did not keep, counted by cause."""

import threading
from typing import Literal

LossCause = Literal["queue_full", "not_encoded", "too_large", "disk_full", "busy", "shutdown", "damaged", "evicted"]


class StoreLosses:
    """Counts requests by what became of them; `damaged` counts files, of which nobody knows what was in them."""

    def __init__(self) -> None:
        self.counts: dict[LossCause, int] = {
            "queue_full": 0,
            "not_encoded": 0,
            "too_large": 0,
            "disk_full": 0,
            "busy": 0,
            "shutdown": 0,
            "damaged": 0,
            "evicted": 0,
        }
        self._lock = threading.Lock()

    def count(self, cause: LossCause, number: int = 1) -> None:
        """Add to a cause."""
        with self._lock:
            self.counts[cause] += number
