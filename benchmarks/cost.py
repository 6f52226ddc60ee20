"""What each variant adds to one request, and the ratios between variants."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.effort import Effort
from benchmarks.turns import Job, Round, added, bare, quiet, take_turns
from benchmarks.variants import VARIANTS, installed

__all__ = ["measure"]

BASES = {"to_instrumentator": "instrumentator", "to_usual": "usual-100"}
"""Ratios, and the variants they are to."""
PEER = {"ours-id": "correlation-id", "ours-log": "structlog", "ours-metrics": "instrumentator", "ours-span": "fastapi-span"}
"""Each signal of ours, and the cheapest peer that gives it."""


def measure(effort: Effort, names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Measure variants, by default all that are installed; return the figures of each, medians over the rounds."""
    names = names or [name for name, variant in VARIANTS.items() if installed(variant)]
    rounds = take_turns("cost", {name: Job(name, requests=effort.cost_requests) for name in names}, effort.cost)
    return {name: _figures(name, rounds) for name in names}


def _figures(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    def median(of: Callable[[Round], float]) -> float:
        return statistics.median(of(one) for one in rounds)

    def to(base: str) -> float:
        return median(lambda one: added(one[name]) / added(one[base]))

    bases = {**BASES, **({"to_peer": PEER[name]} if name in PEER else {})}
    ratios = {ratio: to(base) for ratio, base in bases.items() if base in rounds[0]}
    return {
        "added_us": median(lambda one: added(one[name])) * 1e6,
        "quiet_us": median(lambda one: quiet(one[name])) * 1e6,
        "bare_us": median(lambda one: bare(one[name])) * 1e6,
        "to_bare": median(lambda one: added(one[name]) / bare(one[name])),
        **ratios,
    }
