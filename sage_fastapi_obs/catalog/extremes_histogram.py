"""A histogram of the Prometheus client that also knows the lowest and the highest observation."""

import math
from threading import RLock
from typing import Any

from prometheus_client import Histogram

from sage_fastapi_obs.processes import hold_at_fork

_changing = RLock()
"""One for all histograms: it is held for two assignments."""
hold_at_fork(_changing)


class ExtremesHistogram(Histogram):
    """Keeps the extremes since they were last taken; buckets say only between which bounds they lie."""

    _lowest, _highest = math.inf, -math.inf
    extremes = (math.inf, -math.inf)
    """The lowest and the highest that were taken."""

    def observe(self, amount: float, exemplar: Any = None) -> None:
        """Add an observation."""
        super().observe(amount, exemplar)
        if not self._lowest <= amount <= self._highest:
            with _changing:
                self._lowest = min(self._lowest, amount)
                self._highest = max(self._highest, amount)

    def take_extremes(self) -> tuple[float, float] | None:
        """Return the lowest and the highest observation since the last call; None without any."""
        if self._lowest > self._highest:
            return None
        with _changing:
            lowest, highest = self._lowest, self._highest
            self._lowest, self._highest = math.inf, -math.inf
            self.extremes = min(lowest, self.extremes[0]), max(highest, self.extremes[1])
        return lowest, highest

    def add_extremes(self, other: "ExtremesHistogram") -> None:
        """Know the extremes of all that another has ever observed, which is used no more."""
        other.take_extremes()
        with _changing:
            self._lowest = min(self._lowest, other.extremes[0])
            self._highest = max(self._highest, other.extremes[1])
