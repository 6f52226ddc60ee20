"""Resident memory after a million requests, beside that after a tenth of them."""

import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.drive import app_maker, receive, scope, send
from benchmarks.effort import Effort
from benchmarks.place import Place
from benchmarks.variants import VARIANTS
from benchmarks.workers import Worker, answer, say

__all__ = ["measure"]

STATUS = Path("/proc/self/status")
UNKNOWN_EVERY = 10
"""Each so many-th request is for a path that no route has."""


def measure(effort: Effort) -> dict[str, Any]:
    """Measure megabytes of all four signals at 100 %; or say why not."""
    if not STATUS.exists():
        return {"skipped": f"{STATUS} is not there"}
    started = time.monotonic()
    with Worker("memory", "ours-100") as worker:
        worker.read()
        before = worker.ask(effort.requests_before)
        say(f"  memory: {before:.1f} MB after {effort.requests_before} requests")
        after = worker.ask(effort.requests_after - effort.requests_before)
    say(f"  memory: {after:.1f} MB after {effort.requests_after} requests, took {time.monotonic() - started:.0f} s")
    return {
        "requests_before": effort.requests_before,
        "requests_after": effort.requests_after,
        "before_mb": before,
        "after_mb": after,
        "growth": after / before,
    }


def _resident_mb() -> float:
    gc.collect()
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def _prepare(variant: str) -> Callable[[int], Awaitable[float]]:
    watched = VARIANTS[variant].build(app_maker(31), Place(Path(os.devnull)))
    numbers = count()

    async def reply(requests: int) -> float:
        for _ in range(requests):
            number = next(numbers)
            path = f"/items/{number}" if number % UNKNOWN_EVERY else f"/nowhere/{number}"
            await watched.app(scope(path), receive, send)
        watched.flush()
        return _resident_mb()

    return reply


def main() -> None:
    """Be the process whose memory is watched."""
    answer(lambda: _prepare(sys.argv[1]))


if __name__ == "__main__":
    main()
