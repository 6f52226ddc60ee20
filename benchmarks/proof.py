"""Proof that a variant does what it is measured for: one that does nothing would be the cheapest."""

import asyncio

import httpx

from benchmarks.drive import ask
from benchmarks.place import Place, Watched, discarded

__all__ = ["signals_given"]


async def signals_given(watched: Watched, place: Place) -> set[str]:
    """Find the signals that a watched app has given; asked after it has served requests."""
    watched.flush()
    answer, metrics = await ask(watched.app, "/items/42"), await ask(watched.app, "/metrics")
    given = {
        "id": b"x-request-id" in answer.headers,
        "line": place.lines.stat().st_size > 0 if place.lines.exists() else False,
        "span": discarded[0] > 0,
        "metrics": b"requests_total{" in metrics.body,
        "collected": await asyncio.to_thread(_collected, place.otlp_endpoint) > 0,
    }
    return {signal for signal, is_given in given.items() if is_given}


def _collected(endpoint: str | None) -> int:
    return 0 if endpoint is None else int(httpx.get(endpoint).text)
