"""Lines that never arrived, counted by output and cause."""

from collections.abc import Iterable, Iterator
from typing import Literal

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from sage_fastapi_obs.signals.catalog import LOG_METRICS

__all__ = ["Cause", "Losses"]

Cause = Literal["full", "failed", "refused", "shutdown"]


class Losses(Collector):
    """How many lines each output has lost; shows itself in a registry, and works without one."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, Cause], int] = {}

    def watch(self, output: str, causes: Iterable[Cause]) -> None:
        """Show an output at 0, so that its first loss is a rise."""
        for cause in causes:
            self.counts.setdefault((output, cause), 0)

    def count(self, output: str, cause: Cause, lines: int = 1) -> None:
        """Count lines of an output, which holds its own lock meanwhile."""
        self.counts[output, cause] = self.counts.get((output, cause), 0) + lines

    def of(self, output: str) -> int:
        """Return what an output has lost so far, for whatever cause."""
        return sum(count for (name, _), count in self.counts.copy().items() if name == output)

    def collect(self) -> Iterable[Metric]:
        """Show all counts."""
        family = self._family()
        for labels, count in sorted(self.counts.copy().items()):
            family.add_metric(labels, count)
        yield family

    def describe(self) -> Iterator[Metric]:
        """Name the metric."""
        yield self._family()

    def _family(self) -> CounterMetricFamily:
        metric = LOG_METRICS[0]
        return CounterMetricFamily(metric.name, metric.help, labels=list(metric.labels))
