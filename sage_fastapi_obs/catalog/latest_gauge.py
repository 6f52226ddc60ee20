"""A gauge of the Prometheus client that also knows when it was set."""

import time

from prometheus_client import Gauge


class LatestGauge(Gauge):
    """Of several workers, the one that was set last counts; it is set, and never raised or lowered."""

    set_at = 1.0
    """Unix time; long ago while it has not been set."""

    def set(self, value: float) -> None:
        """Set it."""
        super().set(value)
        self.set_at = time.time()
