"""Waits for a connection of a pool, and who held one."""

from sage_fastapi_obs.insight.busy_time import BusyTime, together_us
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, Explanation, Finding, readable_time


class ConnectionWaits(CauseObserver):
    """Tells of waits for connections."""

    def concerns(self, exchange: Exchange) -> bool:
        """Tell whether a wait was long."""
        facts = exchange.facts
        if facts is None or facts.connection_waits is None:
            return False
        return any(busy.us >= LEAST_LOST_US for _, busy in _waits(exchange))

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Tell what was waited for, and how long."""
        waits = [(text, min(busy.us, exchange.duration_us)) for text, busy in _waits(exchange)]
        explanation.findings += [
            Finding("connection_wait", f"waited {readable_time(lost_us)} for {text}", lost_us) for text, lost_us in waits
        ]
        if waits:
            total_us = min(together_us(busy for _, busy in _waits(exchange)), exchange.duration_us)
            explanation.timings = {**(explanation.timings or {}), "connection_wait": total_us}


def _waits(exchange: Exchange) -> list[tuple[str, BusyTime]]:
    waits = None if exchange.facts is None else exchange.facts.connection_waits
    return [*waits.items()] if waits else []
