"""How the cost of a request grows: with routes, with memory that the app reads, with chunks of the body, with label values."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.effort import Effort
from benchmarks.turns import Job, Round, added, take_turns
from benchmarks.variants import VARIANTS, installed

__all__ = ["measure"]

STREAMED = ("pass-through", "ours-100")
CLOSELY = ("ours-100", "structlog")
CHUNKS_IN_A_BLOCK = 20_000
FIRST_STATUS = 200


def measure(effort: Effort) -> dict[str, Any]:
    """Measure what a request gains, in microseconds, for each number of routes, KiB walked, chunks and values."""
    compared = [name for name in effort.compared if installed(VARIANTS[name])]
    kinds = {
        "routes": {
            f"{name} {count}": Job(name, routes=count, requests=_enough(name, count, effort))
            for name in compared
            for count in effort.routes
        },
        "cold": {
            f"{name} {size}": Job(name, routes=1, paths=(f"/walk/{size}",), requests=effort.scaling_requests)
            for name in compared
            if name in CLOSELY
            for size in effort.walked_kibibytes
        },
        "chunks": {f"{name} {count}": _streaming(name, count, effort) for name in STREAMED for count in effort.chunks},
        "values": {
            f"{label} {count}": Job("ours-100", 200, _distinct(label, count), effort.scaling_requests)
            for label in ("route", "status")
            for count in effort.values
        },
    }
    found = {kind: _grouped(take_turns(f"growing {kind}", jobs, effort.scaling)) for kind, jobs in kinds.items()}
    return {**found, "per_chunk_us": _per_chunk(found["chunks"])}


def _enough(name: str, routes: int, effort: Effort) -> int:
    """Choose fewer requests where each takes milliseconds, and the differences are as large."""
    return effort.scaling_requests if name in CLOSELY or routes <= 30 else max(32, effort.scaling_requests // 4)


def _streaming(name: str, count: int, effort: Effort) -> Job:
    requests = max(2, min(effort.scaling_requests, CHUNKS_IN_A_BLOCK // count))
    return Job(name, paths=(f"/chunks/{count}",), requests=requests)


def _distinct(label: str, count: int) -> tuple[str, ...]:
    if label == "route":
        return tuple(f"/other{number}/200" for number in range(min(count, 199))) + (("/items/42",) if count > 199 else ())
    # Success and redirection: those of errors are logged at another level.
    return tuple(f"/status/{FIRST_STATUS + number}" for number in range(count))


def _grouped(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Reduce rounds to microseconds: by what was measured, then by how many."""
    grouped: dict[str, dict[str, float]] = {}
    for key in rounds[0]:
        name, count = key.split()
        grouped.setdefault(name, {})[count] = statistics.median(added(one[key]) for one in rounds) * 1e6
    return grouped


def _per_chunk(chunks: Mapping[str, Mapping[str, float]]) -> float:
    """Microseconds that ours adds to a chunk above a wrapper that only passes it through."""

    def slope(by_count: Mapping[str, float]) -> float:
        few, many = min(by_count, key=int), max(by_count, key=int)
        return (by_count[many] - by_count[few]) / (int(many) - int(few))

    return slope(chunks["ours-100"]) - slope(chunks["pass-through"])
