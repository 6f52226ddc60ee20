"""Tells of requests that waited for the garbage collector."""

from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.metrics.collector_pauses import CollectorPauses
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Explanation, Finding, readable_time


class GarbageCollection(CauseObserver):
    """A pause counts for each request that it overlaps, whoever made the garbage."""

    def __init__(self, pauses: CollectorPauses) -> None:
        self._pauses = pauses

    def start(self) -> None:
        """Start measuring."""
        self._pauses.start()

    def stop(self) -> None:
        """Stop."""
        self._pauses.stop()

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether there was a long pause since the request began."""
        return exchange.started_ns < self._pauses.last_long_ns

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Tell how much of the request such pauses were."""
        end_ns = exchange.started_ns + exchange.duration_us * 1_000
        lost_us = self._pauses.between(exchange.started_ns, end_ns) // 1_000
        if lost_us >= LEAST_LOST_US:
            text = f"the garbage collector took {readable_time(lost_us)}"
            explanation.findings.append(Finding("garbage_collection", text, lost_us))
